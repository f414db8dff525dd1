"""Rules about the type of the adapter: what it is good for, and the limits that are its own."""

from collections.abc import Iterator

from loratory.config.factors import factors
from loratory.config.lint.base import Component, Facts, Family, Rule, Said, family_of, trained_rates
from loratory.config.lint.optimizers import is_plain
from loratory.config.network_types import SPELLED
from loratory.config.schema import Config, changed

_FOR_STYLES = ("locon", "glora", "ia3")
_FOR_SEVERAL = frozenset({"lora", "dora", "locon", "loha", "lokr", "full"})
_WEAK_AT_DETAIL = frozenset({"loha", "lokr"})
_SMALLEST_DYLORA_DIM = 64
_IA3_RATES = (5e-3, 1e-2)
_LARGEST_OFT_RATE = 1e-4
_LARGEST_FULL_RATE = 2e-5
_LOKR_FACTORS = range(4, 17)
_BLOCK_FACTORS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
# The channels of the UNet's layers; a few layers are wider, none of them an attention.
_WIDTHS = {"sd1": (320, 640, 1280), "sd2": (320, 640, 1280), "sdxl": (640, 1280)}
# Millions of weights in the layers that full fine-tuning trains: all of them, the transformer blocks, the attentions.
_ALL_LAYERS: dict[Family, dict[Component, int]] = {
    "sd1": {"unet": 859, "te1": 85},
    "sd2": {"unet": 866, "te1": 290},
    "sdxl": {"unet": 2567, "te1": 85, "te2": 630},
}
_TRANSFORMERS: dict[Family, dict[Component, int]] = {
    "sd1": {"unet": 267, "te1": 85},
    "sd2": {"unet": 274, "te1": 290},
    "sdxl": {"unet": 2209, "te1": 85, "te2": 630},
}
_ATTENTIONS: dict[Family, dict[Component, int]] = {
    "sd1": {"unet": 94, "te1": 28},
    "sd2": {"unet": 100, "te1": 97},
    "sdxl": {"unet": 955, "te1": 28, "te2": 210},
}
_LAYERS = {
    "full": _ALL_LAYERS,
    "unet-only": _ALL_LAYERS,
    "attn-mlp": _TRANSFORMERS,
    "transformer-only": _TRANSFORMERS,
    "attn-only": _ATTENTIONS,
}


def _style_type(config: Config, facts: Facts) -> Iterator[Said]:
    if config.dataset.goal == "style" and config.network.network_type not in _FOR_STYLES:
        yield Said(
            "network.network_type",
            f'network.network_type = "{config.network.network_type}": styles are broad, and "locon", "glora" or "ia3" '
            "take to them best.",
        )


def _several_concepts(config: Config, facts: Facts) -> Iterator[Said]:
    kind = config.network.network_type
    several = facts.concepts is not None and facts.concepts > 1 and config.dataset.goal != "style"
    if several and kind not in _FOR_SEVERAL:
        yield Said(
            "network.network_type",
            f'network.network_type = "{kind}" with {facts.concepts} concepts: "locon", "loha" and "lokr" are best at '
            "keeping several apart.",
        )


def _detail(config: Config, facts: Facts) -> Iterator[Said]:
    kind, goal = config.network.network_type, config.dataset.goal
    if kind in _WEAK_AT_DETAIL and goal in ("character", "clothing") and facts.concepts == 1:
        yield Said(
            "network.network_type",
            f'network.network_type = "{kind}": {SPELLED[kind]} generalizes and is weak at fine detail. For a single '
            f'{goal} with much of it use "locon" or "lora".',
        )


def _glora_subject(config: Config, facts: Facts) -> Iterator[Said]:
    if config.network.network_type == "glora" and config.dataset.goal in ("character", "clothing"):
        yield Said(
            "network.network_type",
            f'network.network_type = "glora" generalizes, and is weak at a single subject such as the goal '
            f'"{config.dataset.goal}". Use "locon" or "lora", or set dataset.goal to what is learnt.',
        )


def _dylora_dim(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    if network.network_type == "dylora" and network.network_dim < _SMALLEST_DYLORA_DIM and not network.block_dims:
        yield Said(
            "network.network_dim",
            f"network.network_dim = {network.network_dim}: DyLoRA learns every rank up to it, so that the best can be "
            "picked afterwards. It is meant to be large: about 128.",
        )


def _dylora_batch(config: Config, facts: Facts) -> Iterator[Said]:
    batch = config.training.train_batch_size
    if config.network.network_type == "dylora" and batch > 1:
        yield Said(
            "training.train_batch_size",
            f"training.train_batch_size = {batch}: each step of DyLoRA trains one of its ranks, and goes best with one "
            "picture. Use 1, and gradient_accumulation_steps for more.",
        )


def _dylora_accumulation(config: Config, facts: Facts) -> Iterator[Said]:
    if config.network.network_type == "dylora" and config.training.gradient_accumulation_steps == 1:
        yield Said(
            "training.gradient_accumulation_steps",
            "training.gradient_accumulation_steps = 1: each batch of DyLoRA trains one of its ranks, so a step sees a "
            "single rank. 4 evens that out.",
        )


def _ia3_rate(config: Config, facts: Facts) -> Iterator[Said]:
    low, high = _IA3_RATES
    for key, rate in _plain_rates(config, facts, "ia3"):
        if not low <= rate <= high:
            effect = "hardly learns" if rate < low else "overshoots"
            yield Said(
                key,
                f"{key} = {rate:g}: iA3 scales what is there instead of adding to it, and {effect} at this rate. Its "
                f"authors use {low:g} to {high:g}.",
            )


def _oft_rate(config: Config, facts: Facts) -> Iterator[Said]:
    for key, rate in _plain_rates(config, facts, "diag-oft", "boft"):
        if rate > _LARGEST_OFT_RATE:
            yield Said(
                key,
                f"{key} = {rate:g}: rotations have no alpha that damps them and turn the whole output of a layer. "
                "About 3e-5 is usual, 1e-4 is much.",
            )


def _full_rate(config: Config, facts: Facts) -> Iterator[Said]:
    for key, rate in _plain_rates(config, facts, "full"):
        if rate > _LARGEST_FULL_RATE:
            yield Said(
                key,
                f"{key} = {rate:g} is the rate of a LoRA. Full fine-tuning moves every weight by that much and forgets "
                "what the model knew: use 1e-6 to 1e-5.",
            )


def _plain_rates(config: Config, facts: Facts, *types: str) -> list[tuple[str, float]]:
    """The first rate, for optimizers that take it as it is, where the network is of one of `types`."""
    if config.network.network_type not in types or not is_plain(config.optimizer.optimizer_type):
        return []
    return trained_rates(config, facts)[:1]


def _full_size(config: Config, facts: Facts) -> Iterator[Said]:
    if config.network.network_type != "full":
        return
    family = family_of(config, facts)
    # Blocks whose factor is 0 are not trained.
    about = "at most" if any(changed(config.network, key) for key in _BLOCK_FACTORS) else "about"
    if family:
        size = f"{about} {_full_size_of(family, config, facts)}"
    else:
        least, most = (_full_size_of(each, config, facts) for each in ("sd1", "sdxl"))
        size = f"{about} {least} for Stable Diffusion 1.x to {most} for SDXL"
    yield Said(
        "network.network_type",
        f'network.network_type = "full" keeps a number for every weight of its layers: each file has {size} in 16 '
        'bits, and training needs memory to match. "lokr" with factor = 8 and full_matrix = true is its small kin.',
    )


def _full_size_of(family: Family, config: Config, facts: Facts) -> str:
    """The size of a file of full fine-tuning: two bytes for each weight of what is trained."""
    trained = facts.trained
    if trained is None:
        first, second = config.text_encoder_rates(2)
        rates: dict[Component, float] = {"unet": float(config.trains_unet), "te1": first, "te2": second}
        trained = frozenset(part for part, rate in rates.items() if rate > 0)
    layers = _LAYERS[config.network.lycoris_preset][family]
    megabytes = float(f"{2 * sum(millions for part, millions in layers.items() if part in trained):.2g}")
    return f"{megabytes / 1000:g} GB" if megabytes >= 1000 else f"{megabytes:g} MB"


def _lokr_factor(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    if network.network_type == "lokr" and network.factor != -1 and network.factor not in _LOKR_FACTORS:
        yield Said(
            "network.factor",
            f"network.factor = {network.factor} is neither of the usual two: -1 gives LoKr's smallest file, about 8 a "
            "large one that learns more.",
        )


def _lokr_whole(config: Config, facts: Facts) -> Iterator[Said]:
    network = config.network
    if network.network_type != "lokr" or network.full_matrix or network.dim_from_weights or network.block_dims:
        return
    widths = _WIDTHS[family_of(config, facts) or "sd1"]
    enough = max(-(-factors(width, network.factor)[1] // 2) for width in widths)
    if network.network_dim >= enough:
        yield Said(
            "network.network_dim",
            f"network.network_dim = {network.network_dim}: with factor = {network.factor}, LoKr keeps its second "
            f"factor whole from rank {enough} on, and rank and alpha do nothing. Use a lower rank for a smaller file, "
            "or say full_matrix = true.",
        )


TYPE_RULES = (
    Rule("style-type", "note", "a style with a type that suits other things better", _style_type),
    Rule("several-type", "note", "several concepts with a type that suits one better", _several_concepts),
    Rule("detail-type", "note", "LoHa or LoKr for a single detailed subject", _detail),
    Rule("glora-subject", "note", "GLoRA for a single subject", _glora_subject),
    Rule("dylora-dim", "note", "DyLoRA with a small rank", _dylora_dim),
    Rule("dylora-batch", "warning", "DyLoRA with a batch size above 1", _dylora_batch),
    Rule("dylora-accumulation", "note", "DyLoRA without gradient accumulation", _dylora_accumulation),
    Rule("ia3-rate", "warning", "iA3 outside the learning rates of its authors", _ia3_rate),
    Rule("oft-rate", "note", "Diag-OFT or BOFT at a rate above 1e-4", _oft_rate),
    Rule("full-rate", "warning", "full fine-tuning at the rate of a LoRA", _full_rate),
    Rule("full-size", "note", "how large the files of full fine-tuning are", _full_size),
    Rule("lokr-factor", "note", "LoKr with an unusual factor", _lokr_factor),
    Rule("lokr-whole", "note", "a rank that keeps LoKr's second factor whole", _lokr_whole),
)
