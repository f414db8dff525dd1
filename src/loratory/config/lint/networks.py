"""Rules about the adapter whatever its type: ranks, alphas, dropouts, and which parts of the model get one."""

import math
from collections.abc import Iterator

from loratory.config.lint.base import (
    Facts,
    Rule,
    Said,
    family_of,
    idle,
    percent,
    trains_text_encoder,
    trains_unet,
)
from loratory.config.lint.optimizers import is_adaptive, is_plain
from loratory.config.network_types import SPELLED
from loratory.config.schema import Config

_LARGEST_DIM = {"lora": 128, "dora": 128, "locon": 64, "glora": 64, "loha": 32}
_LARGEST_STYLE_DIM = 32
# LoKr keeps a factor at full rank where the rank is large enough, and alpha then plays no part.
_SCALED_BY_ALPHA = frozenset({"lora", "locon", "dora", "loha", "dylora", "glora"})
_LARGEST_CONV_DIM = 16
_SMALLEST_SCALE = 0.1
_HALF_ALPHA = frozenset({"locon", "loha", "dylora"})
_MOST_DROPOUT = 0.3


def _dim(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    most = _LARGEST_DIM.get(network.network_type)
    if most is not None and network.network_dim > most:
        square = " (its effective rank is the square)" if network.network_type == "loha" else ""
        yield Said(
            "network.network_dim",
            f"network.network_dim = {network.network_dim} is above {most}, the most that is useful for "
            f"{SPELLED[network.network_type]}{square}: the file grows, and results can get worse. Use 32 to start "
            "with.",
        )


def _style_dim(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    is_lycoris = network.network_type in ("locon", "glora")
    if config.dataset.goal == "style" and is_lycoris and _LARGEST_STYLE_DIM < network.network_dim <= 64:
        yield Said(
            "network.network_dim",
            f"network.network_dim = {network.network_dim}: styles as {SPELLED[network.network_type]} start to give "
            f"trouble above {_LARGEST_STYLE_DIM}. Use {_LARGEST_STYLE_DIM} unless that was not enough.",
        )


def _conv_dim(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    if network.network_type not in _SCALED_BY_ALPHA or not network.has_convolutions:
        return
    if network.conv_dim is not None and network.conv_dim > _LARGEST_CONV_DIM:
        yield Said(
            "network.conv_dim",
            f"network.conv_dim = {network.conv_dim}: above {_LARGEST_CONV_DIM} convolutions gain little and can harm. "
            f"Use {_LARGEST_CONV_DIM} with conv_alpha = 1.",
        )
    elif network.conv_dim is None and not network.conv_block_dims and network.network_dim > _LARGEST_CONV_DIM:
        yield Said(
            "network.conv_dim",
            f"network.conv_dim is left out, so the convolutions get the rank of network_dim, {network.network_dim}. "
            f"Above {_LARGEST_CONV_DIM} they gain little and can harm: set conv_dim = {_LARGEST_CONV_DIM}.",
        )


def _alpha_adaptive(config: Config, facts: Facts) -> Iterator[Said]:
    network, name = config.network, config.optimizer.optimizer_type
    if not is_adaptive(name) or network.network_type not in _SCALED_BY_ALPHA:
        return
    for key in ("network_alpha", "conv_alpha"):
        value = getattr(network, key)
        if value != 1 and not (key == "conv_alpha" and network.conv_dim is None):
            yield Said(
                f"network.{key}",
                f"network.{key} = {value:g}: {name} finds the size of its steps by itself, and alpha is a second "
                "factor on top of that. The value to start from is 1.",
            )


def _alpha_high(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    rank, alpha = network.network_dim, network.network_alpha
    if is_adaptive(config.optimizer.optimizer_type) or network.network_type not in _SCALED_BY_ALPHA:
        return
    if network.rs_lora and alpha > rank:
        yield Said(
            "network.network_alpha",
            f"network.network_alpha = {alpha:g} with rs_lora scales the adapter by alpha/sqrt(rank) = "
            f"{alpha / math.sqrt(rank):.3g}: rs_lora is what alphas above the rank do by hand. Set it to {rank} or "
            "switch rs_lora off.",
        )
    elif not network.rs_lora and alpha > 1.02 * rank * math.sqrt(rank):
        yield Said(
            "network.network_alpha",
            f"network.network_alpha = {alpha:g} at rank {rank} scales the adapter by {alpha / rank:.3g}, which acts "
            f"like that much more learning rate. Use {rank}, or rank x sqrt(rank) = "
            f"{rank * math.sqrt(rank):.6g} at most.",
        )


def _alpha_half(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    rank, alpha = network.network_dim, network.network_alpha
    if network.network_type not in _HALF_ALPHA or network.rs_lora or not is_plain(config.optimizer.optimizer_type):
        return
    if rank < alpha <= 1.02 * rank * math.sqrt(rank):
        yield Said(
            "network.network_alpha",
            f"network.network_alpha = {alpha:g} is above the rank, which suits a plain LoRA. "
            f"{SPELLED[network.network_type]} does best with half of it: {rank / 2:g}.",
        )


def _alpha_low(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    if not is_plain(config.optimizer.optimizer_type) or network.network_type not in _SCALED_BY_ALPHA:
        return
    scale = network.network_alpha / (math.sqrt(network.network_dim) if network.rs_lora else network.network_dim)
    if scale < _SMALLEST_SCALE:
        yield Said(
            "network.network_alpha",
            f"network.network_alpha = {network.network_alpha:g} at rank {network.network_dim} scales the adapter by "
            f"{scale:.2g}, which acts like that much less learning rate. An alpha of 1 is for Prodigy and DAdaptation; "
            f"with {config.optimizer.optimizer_type} use {network.network_dim}, or half of it.",
        )


def _dropout(config: Config, facts: Facts) -> Iterator[Said]:
    for key in ("network_dropout", "rank_dropout", "module_dropout"):
        chance = getattr(config.network, key)
        if chance > _MOST_DROPOUT:
            yield Said(
                f"network.{key}",
                f"network.{key} = {chance:g} leaves out {percent(chance)} of the adapter at every step, which "
                "learns slowly and unevenly. 0 is usual, and 0.1 is worth a try.",
            )


def _weight_norms(config: Config, facts: Facts) -> Iterator[Said]:
    limit = config.network.scale_weight_norms
    if 0 < limit < 1:
        yield Said(
            "network.scale_weight_norms",
            f"network.scale_weight_norms = {limit:g} holds the adapter below the usual limit of 1, where it already "
            "loses detail. Use 1 for an adapter that mixes with others, and 0 for one that is used alone.",
        )


def _text_encoder_not_trained(config: Config, facts: Facts) -> Iterator[Said]:
    if trains_text_encoder(config, facts) or not trains_unet(config, facts):
        return
    network = config.network
    if network.network_train_unet_only:
        key, why = "network.network_train_unet_only", "network.network_train_unet_only is set"
    elif config.optimizer.effective_text_encoder_lr == 0:
        key = "optimizer.text_encoder_lr" if config.optimizer.text_encoder_lr is not None else "optimizer.learning_rate"
        why = f"{key} is 0"
    else:
        key, why = "network.lycoris_preset", f'network.lycoris_preset is "{network.lycoris_preset}"'
    yield Said(
        key,
        f"Only the UNet is trained, the text encoder is not: {why}. That spares the meaning of words, and new tokens "
        "are learnt more slowly.",
    )


def _one_text_encoder(config: Config, facts: Facts) -> Iterator[Said]:
    rates = config.optimizer.text_encoder_lr
    if family_of(config, facts) != "sdxl" or not isinstance(rates, tuple) or not trains_text_encoder(config, facts):
        return
    untrained = [number for number, rate in enumerate(rates, start=1) if rate == 0]
    if len(rates) == 2 and untrained:
        yield Said(
            "optimizer.text_encoder_lr",
            f"optimizer.text_encoder_lr is 0 for text encoder {untrained[0]} of SDXL: only text encoder "
            f"{3 - untrained[0]} is trained.",
        )


def _unet_not_trained(config: Config, facts: Facts) -> Iterator[Said]:
    if trains_unet(config, facts) or not trains_text_encoder(config, facts):
        return
    if config.network.network_train_text_encoder_only:
        key, why = "network.network_train_text_encoder_only", "network.network_train_text_encoder_only is set"
    else:
        key = "optimizer.unet_lr" if config.optimizer.unet_lr is not None else "optimizer.learning_rate"
        why = f"{key} is {config.optimizer.effective_unet_lr:g}"
    yield Said(
        key,
        f"Only the text encoder is trained, the UNet is not: {why}. New words can then mean only what the model can "
        "draw already.",
    )


def _idle_dims(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    keys = ("network_dim", "network_alpha", "conv_dim", "conv_alpha")
    if network.dim_from_weights:
        yield from idle(network, "network", keys, "network.dim_from_weights takes ranks and alphas from the file")
    elif network.network_type == "lokr" and network.full_matrix:
        yield from idle(network, "network", (*keys, "rs_lora"), "network.full_matrix keeps both factors whole")


NETWORK_RULES = (
    Rule("text-encoder-not-trained", "note", "only the UNet is trained", _text_encoder_not_trained),
    Rule("one-text-encoder", "note", "only one text encoder of SDXL is trained", _one_text_encoder),
    Rule("unet-not-trained", "warning", "only the text encoder is trained", _unet_not_trained),
    Rule("idle-dims", "note", "ranks and alphas that do nothing", _idle_dims),
    Rule("dim-high", "warning", "the rank is above what its network type can use", _dim),
    Rule("style-dim", "note", "a style with a rank above 32", _style_dim),
    Rule("conv-dim-high", "note", "the rank of the convolutions is above 16", _conv_dim),
    Rule("alpha-adaptive", "note", "alpha other than 1 under an optimizer that finds its rate", _alpha_adaptive),
    Rule("alpha-high", "warning", "alpha is so high that the adapter learns too fast", _alpha_high),
    Rule("alpha-half", "note", "alpha above the rank in a type that wants half of it", _alpha_half),
    Rule("alpha-low", "note", "alpha is so low that the adapter learns slowly", _alpha_low),
    Rule("dropout-high", "warning", "dropouts that leave out much of the adapter", _dropout),
    Rule("weight-norms-low", "note", "scale_weight_norms below 1", _weight_norms),
)
