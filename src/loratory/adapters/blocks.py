"""The blocks of a UNet as sd-scripts counts them, and what the settings say of each: rank, alpha, learning rate.

SD 1.x and 2.x have 25 blocks: 0 what stands before the first layer (time embedding, conv_in), 1 to 11 the layers on the
way down, 12 the middle, 13 to 24 the layers on the way up, and with the last one conv_out. SDXL has 23: 0 the
embeddings, 1 conv_in, 2 to 9 down, 10 to 12 the middle, 13 to 21 up, 22 conv_out. A downsampler is a block of its own,
an upsampler belongs to the layer before it. Numbers and formulas are those of sd-scripts' networks.lora, which has no
networks for the embeddings, conv_in and conv_out of SD 1.x; ours stand with their neighbours.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from loratory.adapters.keys import Family
from loratory.adapters.layout import FAMILY_NAMES
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError


class Size(NamedTuple):
    """Rank and alpha of a module; alpha as files say it."""

    rank: int
    alpha: float


class BlockSizes(NamedTuple):
    """Sizes of a block's Linear and 1x1 modules, and of its larger kernels; None: those of the block are left alone."""

    linear: Size | None
    conv: Size | None


class _Blocks(NamedTuple):
    """total: how many. down, mid, up: those that down_lr_weight, mid_lr_weight and up_lr_weight speak of.

    first: the block of the first layer on the way down.
    """

    total: int
    down: range
    mid: range
    up: range
    first: int


_SD = _Blocks(25, down=range(12), mid=range(12, 13), up=range(13, 25), first=1)
_SDXL = _Blocks(23, down=range(1, 10), mid=range(10, 13), up=range(13, 22), first=2)

_LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")
_MIDDLE = re.compile(r"mid_block\.(resnets\.0|attentions\.0|resnets\.1)\.")
_MIDDLE_ORDER = ("resnets.0", "attentions.0", "resnets.1")


def _blocks(family: Family) -> _Blocks:
    return _SDXL if family == "sdxl" else _SD


def block_of(path: str, family: Family) -> int:
    """The number of the block that holds the module at `path` of a diffusers UNet. ValueError: an unknown path."""
    blocks = _blocks(family)
    if match := _LAYER.match(path):
        side, level, kind, number = match.groups()
        place = 3 * int(level) + (2 if kind.endswith("samplers") else int(number))
        return (blocks.first if side == "down" else blocks.up.start) + place
    if match := _MIDDLE.match(path):
        return blocks.mid[min(_MIDDLE_ORDER.index(match[1]), len(blocks.mid) - 1)]
    match path.partition(".")[0]:
        case "time_embedding" | "add_embedding":
            return 0
        case "conv_in":
            return blocks.first - 1
        case "conv_norm_out" | "conv_out":
            return blocks.total - 1
        case _:
            raise ValueError(f"no block of a UNet is known for the module {path}")


def has_block_sizes(network: NetworkSettings) -> bool:
    """Whether the settings give any block a rank or alpha of its own."""
    lists = (network.block_dims, network.block_alphas, network.conv_block_dims, network.conv_block_alphas)
    return any(lists)


def block_sizes(network: NetworkSettings, family: Family, *, convolutions: bool) -> list[BlockSizes]:
    """What the modules of each UNet block get, by the block's number.

    block_dims, and conv_block_dims for kernels larger than 1x1, give each block its rank; 0 leaves those modules of the
    block alone. Left out, they are network_dim and conv_dim; without conv_dim the kernels have what the other modules
    of their block have. block_alphas left out is network_alpha, conv_block_alphas left out is conv_alpha; an alpha of 0
    is the rank. convolutions: whether larger kernels are trained at all. Raises LoratoryError for a list that has not
    one value for each block, or values that are no ranks or alphas.
    """
    total = _blocks(family).total
    dims = _listed(network, "block_dims", family) or (network.network_dim,) * total
    alphas = _listed(network, "block_alphas", family) or (network.network_alpha,) * total
    conv_dims = _listed(network, "conv_block_dims", family)
    conv_alphas = _listed(network, "conv_block_alphas", family)
    has_own = network.conv_dim is not None or bool(conv_dims)
    conv_dims = conv_dims or (dims if network.conv_dim is None else (network.conv_dim,) * total)
    conv_alphas = conv_alphas or ((network.conv_alpha,) * total if has_own else alphas)
    return [
        BlockSizes(
            _size(dim, alpha, network.rs_lora),
            _size(conv_dim, conv_alpha, network.rs_lora) if convolutions else None,
        )
        for dim, alpha, conv_dim, conv_alpha in zip(dims, alphas, conv_dims, conv_alphas, strict=True)
    ]


def _size(rank: float, alpha: float, rs_lora: bool) -> Size | None:
    return size_of(int(rank), alpha or rank, rs_lora) if rank else None


def size_of(rank: int, alpha: float, rs_lora: bool) -> Size:
    """Rank, and the alpha to write.

    rs_lora: the scale is alpha / sqrt(rank) (arXiv 2312.03732), written as alpha * sqrt(rank) over rank.
    """
    return Size(rank, alpha * rank**0.5 if rs_lora else alpha)


def _listed(network: NetworkSettings, key: str, family: Family) -> tuple[float, ...]:
    values: tuple[float, ...] = getattr(network, key)
    if not values:
        return ()
    _refuse_count(key, len(values), _blocks(family).total, "blocks", family)
    most = 4096 if key.endswith("dims") else math.inf
    wrong = next((value for value in values if not 0 <= value <= most), None)
    if wrong is not None:
        what = "a rank is 0 to 4096" if key.endswith("dims") else "an alpha is 0 or more"
        raise LoratoryError(f"network.{key}: {wrong} cannot be used; {what}.")
    return values


def _refuse_count(key: str, given: int, needed: int, what: str, family: Family) -> None:
    if given != needed:
        raise LoratoryError(
            f"network.{key} has {given} values; the UNet of {FAMILY_NAMES[family]} has {needed} {what}.",
            hint="Give one value for each.",
        )


def _sine(place: float) -> float:
    return math.sin(math.pi * place / 2)


_RISING: dict[str, Callable[[float], float]] = {
    "sine": _sine,
    "linear": lambda place: place,
    "zeros": lambda place: 0.0,
}
_FALLING: dict[str, Callable[[float], float]] = {"cosine": _sine, "reverse_linear": lambda place: place}
"""The factor of a block by its place, 0 to 1: counted from the first block of its list, or from the last."""


def block_factors(network: NetworkSettings, family: Family) -> tuple[float, ...] | None:
    """What the UNet's learning rate is multiplied with in each block; 0: the block is not trained. None: 1 in all.

    down_lr_weight and up_lr_weight name their blocks in the order of the model, or give a shape, "+" and a number to
    add to it. mid_lr_weight is the factor of the whole middle. Of the factors that are given, those not above
    block_lr_zero_threshold become 0; blocks of which nothing is said have 1, and so have the embeddings and conv_out of
    SDXL. Raises LoratoryError for lists of the wrong length, negative factors and unknown shapes.
    """
    blocks = _blocks(family)
    down = _weights(network.down_lr_weight, "down_lr_weight", len(blocks.down), family)
    up = _weights(network.up_lr_weight, "up_lr_weight", len(blocks.up), family)
    mid = (network.mid_lr_weight,) * len(blocks.mid) if network.mid_lr_weight != 1 else ()
    if not (down or mid or up):
        return None
    factors = [1.0] * blocks.total
    for numbers, given in ((blocks.down, down), (blocks.mid, mid), (blocks.up, up)):
        for number, factor in zip(numbers, given, strict=False):
            factors[number] = factor if factor > network.block_lr_zero_threshold else 0.0
    return tuple(factors)


def _weights(given: str | Sequence[float], key: str, count: int, family: Family) -> tuple[float, ...]:
    """The factors of a list of blocks; none where the setting is left out."""
    if not given:
        return ()
    if isinstance(given, str):
        return _shaped(given, key, count)
    _refuse_count(key, len(given), count, f"{key.partition('_')[0]} blocks", family)
    negative = next((factor for factor in given if factor < 0), None)
    if negative is not None:
        raise LoratoryError(f"network.{key}: {negative} cannot be used; a factor is 0 or more.")
    return tuple(given)


def _shaped(given: str, key: str, count: int) -> tuple[float, ...]:
    name, plus, text = (part.strip() for part in given.partition("+"))
    shape = _RISING.get(name) or _FALLING.get(name)
    try:
        added = float(text) if plus else 0.0
    except ValueError:
        added = math.nan
    if shape is None or not 0 <= added < math.inf:
        known = ", ".join([*_RISING, *_FALLING])
        raise LoratoryError(
            f'network.{key} = "{given}" is no shape.',
            hint=f'Use {known}, with a number to add if wanted ("cosine+0.25"); or a list of {count} numbers.',
        )
    factors = [shape(place / (count - 1)) + added for place in range(count)]
    return tuple(reversed(factors) if name in _FALLING else factors)
