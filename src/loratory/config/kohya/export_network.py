"""`[network]` as the network module and the network arguments of sd-scripts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loratory.config.kohya.settings import NETWORK_ARGS, OTHER_PRESETS, SD_DEFAULTS
from loratory.config.schema import Config, NetworkSettings, changed
from loratory.config.schema.network import OF_BLOCKS, USED_BY, WITHOUT_CONVOLUTIONS

_NATIVE_TYPES = ("lora", "locon")
_LYCORIS_OPTIONS = ("use_tucker", "use_scalar", "train_norm")
_WITH_RS_LORA = frozenset({"locon", "loha", "lokr"})
# LyCORIS' LoKr scales layers whose factors are both whole by the root of the rank then, where rank and alpha should
# do nothing; a larger alpha does the same to the others alone.
_WITH_PLAIN_RS_LORA = _WITH_RS_LORA - {"lokr"}
_ALGORITHMS = {"lora": "locon", "dora": "locon"}
_PLAIN = (
    "network_dropout",
    "scale_weight_norms",
    "network_train_unet_only",
    "network_train_text_encoder_only",
    "network_weights",
)
_SPELLED_OUT = frozenset(
    {"network_type", "network_dropout", "lycoris_preset", "dora_wd", "conv_dim", "conv_alpha", "rs_lora", "block_size"}
)
_ITEMS = (
    frozenset(setting.removeprefix("network.") for setting in NETWORK_ARGS.values() if "network." in setting)
    - _SPELLED_OUT
)
_CONV_LISTS = ("conv_block_dims", "conv_block_alphas")
_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")

_MORE_LAYERS = "LyCORIS also trains conv_in, conv_out and the time embedding with preset=full."
_IA3_PRESET = (
    "ia3: LyCORIS 4.1's own preset ia3 names layers in a way that matches none; where it trains nothing, give it a "
    "preset file with .*to_k$, .*to_v$ and .*ff.net.2$."
)
_IA3_OTHER_PRESET = "ia3: LyCORIS scales every layer of a preset other than ia3, not the three kinds of it alone."
_DYLORA_STRENGTH = (
    "dylora: LyCORIS scales each block of ranks by its own size, so files of blocks larger than 1 come out that much "
    "too weak."
)


class NetworkArguments(NamedTuple):
    """A network as sd-scripts and LyCORIS name it.

    dim, alpha: None for types without. items: those of `--network_args`, as text, with what LyCORIS itself has no
    argument for.
    """

    module: str
    dim: int | None
    alpha: float | None
    items: dict[str, str]


def described_network(config: Config) -> NetworkArguments:
    """The module of a network, its sizes and arguments, as a file of it says them.

    lora and locon are sd-scripts' own networks.lora, which adapts the same layers; the other types, and what only
    LyCORIS has, are LyCORIS'.
    """
    return _described(config, _WITH_RS_LORA)


def _described(config: Config, with_rs_lora: frozenset[str]) -> NetworkArguments:
    """with_rs_lora: the algorithms that are told of rs_lora; for the others it becomes part of their alphas."""
    network = config.network
    kind = network.network_type
    is_native = _is_native(network)
    scales = network.rs_lora and (is_native or _ALGORITHMS.get(kind, kind) not in with_rs_lora)
    items: dict[str, Any] = {}
    if not is_native:
        preset = OTHER_PRESETS.get(network.lycoris_preset, network.lycoris_preset)
        preset = "ia3" if kind == "ia3" and preset == "full" else preset
        items = {"algo": _ALGORITHMS.get(kind, kind), "preset": preset}
        if network.decomposes:
            items["dora_wd"] = True
        if network.rs_lora and not scales:
            items["rs_lora"] = True
    items |= _convolutions(network, is_native=is_native, scales=scales)
    if kind == "dylora":
        items["block_size"] = network.block_size
    items |= {
        key: getattr(network, key) for key in NetworkSettings.model_fields if key in _ITEMS and changed(network, key)
    }
    lists = _block_sizes(network, scales=scales)
    items |= {key: lists[key] for key in _needed_lists(network, is_native=is_native, scales=scales) if key in lists}
    items |= {key: getattr(config.optimizer, key) for key in _LORA_PLUS if changed(config.optimizer, key)}
    return NetworkArguments(
        "networks.lora" if is_native else "lycoris.kohya",
        network.network_dim if kind in USED_BY["network_dim"] else None,
        _alpha(network.network_alpha, network.network_dim, scales) if kind in USED_BY["network_alpha"] else None,
        {key: _text(value) for key, value in items.items()},
    )


def network_arguments(config: Config, remarks: list[str]) -> dict[str, Any]:
    """The arguments of the network; what has no equivalent is added to `remarks`."""
    network = config.network
    described = _described(config, _WITH_PLAIN_RS_LORA)
    arguments: dict[str, Any] = {"network_module": described.module}
    for key in _PLAIN:
        if changed(network, key):
            value = getattr(network, key)
            arguments[key] = value if isinstance(value, bool | float | int) else str(value)
    if network.dim_from_weights:
        arguments["dim_from_weights"] = True
    for key, value in (("network_dim", described.dim), ("network_alpha", described.alpha)):
        if value is not None and value != SD_DEFAULTS[key]:
            arguments[key] = value
    if network.rs_lora and "rs_lora" not in described.items:
        remarks.append(
            f"rs_lora: written as network_alpha = {described.alpha:g}, which does the same; other alphas likewise, by "
            "the ranks they belong to."
        )
    items = described.items
    if described.module == "networks.lora":
        items |= {key: _text(value) for key, value in _completed(network, items).items()}
    else:
        remarks += _lycoris_remarks(network)
        for key in [key for key in items if key in OF_BLOCKS]:
            del items[key]
            if changed(network, key):
                remarks.append(f"{key}: LyCORIS has no such argument; it trains every block alike.")
    if items:
        arguments["network_args"] = [f"{key}={value}" for key, value in items.items()]
    return arguments


def _is_native(network: NetworkSettings) -> bool:
    has_options = any(getattr(network, key) for key in _LYCORIS_OPTIONS) or network.lycoris_preset != "full"
    return network.network_type in _NATIVE_TYPES and not network.decomposes and not has_options


def _lycoris_remarks(network: NetworkSettings) -> list[str]:
    kind = network.network_type
    remarks: list[str] = []
    if kind in ("lora", "locon", "dora") and network.lycoris_preset == "full":
        remarks.append(f"{kind}: {_MORE_LAYERS}")
    if network.rank_dropout_scale:
        remarks.append("rank_dropout_scale: LyCORIS 4.1 reads it and does not pass it on to its modules.")
    if kind == "ia3":
        remarks.append(_IA3_PRESET if network.lycoris_preset == "full" else _IA3_OTHER_PRESET)
    if kind == "dylora" and network.block_size > 1:
        remarks.append(_DYLORA_STRENGTH)
    return remarks


def _convolutions(network: NetworkSettings, *, is_native: bool, scales: bool) -> dict[str, Any]:
    """LyCORIS gives convolutions the network's own size unless it is told another or 0; networks.lora trains none
    unless it is told a rank."""
    if network.conv_dim is not None:
        return {"conv_dim": network.conv_dim, "conv_alpha": _alpha(network.conv_alpha, network.conv_dim, scales)}
    if is_native:
        alpha = _alpha(network.network_alpha, network.network_dim, scales)
        return {"conv_dim": network.network_dim, "conv_alpha": alpha} if network.network_type == "locon" else {}
    could_have = network.network_type != "ia3" and network.lycoris_preset not in WITHOUT_CONVOLUTIONS
    is_without = could_have and not network.has_convolutions and not network.network_train_text_encoder_only
    return {"conv_dim": 0} if is_without else {}


def _block_sizes(network: NetworkSettings, *, scales: bool) -> dict[str, tuple[float, ...]]:
    """Ranks and alphas of every block, with what those have that are left out; none where no list is given."""
    count = max(len(getattr(network, key)) for key in ("block_dims", "block_alphas", *_CONV_LISTS))
    if not count:
        return {}
    has_own = network.conv_dim is not None or bool(network.conv_block_dims)
    dims = network.block_dims or (network.network_dim,) * count
    alphas = network.block_alphas or (network.network_alpha,) * count
    conv_dims = network.conv_block_dims or (dims if network.conv_dim is None else (network.conv_dim,) * count)
    conv_alphas = network.conv_block_alphas or ((network.conv_alpha,) * count if has_own else alphas)
    return {
        "block_dims": dims,
        "block_alphas": _alphas(alphas, dims, scales),
        "conv_block_dims": conv_dims,
        "conv_block_alphas": _alphas(conv_alphas, conv_dims, scales),
    }


def _needed_lists(network: NetworkSettings, *, is_native: bool, scales: bool) -> set[str]:
    """The lists that are written: those that are given, the alphas that go with given ranks where rs_lora is made part
    of them, and those of convolutions that follow the other ranks of their block, which networks.lora does not know."""
    needed = {key for key in ("block_dims", "block_alphas", *_CONV_LISTS) if changed(network, key)}
    if scales:
        needed |= {key.replace("dims", "alphas") for key in needed}
    if is_native and network.has_convolutions and network.conv_dim is None:
        needed |= set(_CONV_LISTS)
    return needed


def _completed(network: NetworkSettings, items: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """The lists that networks.lora needs beside those in `items`: it reads none without block_dims, and alphas of
    convolutions together with their ranks alone."""
    lists = _block_sizes(network, scales=network.rs_lora)
    needed = ("block_dims", *_CONV_LISTS) if any(key in items for key in _CONV_LISTS) else ("block_dims",)
    return {key: lists[key] for key in needed if key in lists and key not in items}


def _alphas(alphas: Sequence[float], ranks: Sequence[float], scales: bool) -> tuple[float, ...]:
    """Alphas as they are written, by block; 0 means the rank."""
    if not scales:
        return tuple(alphas)
    return tuple(_alpha(alpha or rank, int(rank), scales) for alpha, rank in zip(alphas, ranks, strict=False))


def _alpha(alpha: float, rank: int, scales: bool) -> float:
    """Alpha as it is written; `scales`: with the square root of the rank that rs_lora means."""
    return alpha * rank**0.5 if scales else alpha


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value)
    return str(value)
