"""Low-rank factors of weight changes: singular values, how many of them are kept, and the tensors that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from loratory.adapters.roles import ALPHA, LORA_DOWN, LORA_UP
from loratory.adapters.shapes import module_form
from loratory.errors import LoratoryError

# A matrix whose largest singular value is not above this holds nothing (sd-scripts' resize_lora); it keeps one rank.
_NOTHING = 1e-6
# Ranks computed beyond those asked for, and passes over the matrix: with both, the randomised factors of a spectrum
# that falls slowly are as good as the exact ones to about a thousandth of the error that the cut itself makes.
_SPARE_RANKS = 16
_PASSES = 4
# What a rule without a limit is tried with first.
_FIRST_RANKS = 128

Method = Literal["fixed", "ratio", "cumulative", "frobenius"]


@dataclass(frozen=True)
class RankRule:
    """How many singular values of a module are kept, at least one and at most `most` (None: all there are).

    fixed: `most`. ratio: those above largest / value. cumulative: the fewest whose sum is at least `value` of the sum
    of all. frobenius: the fewest whose root of squares is at least `value` of that of all. The same as sd-scripts'
    sv_ratio, sv_cumulative and sv_fro.
    """

    method: Method
    value: float = 0.0
    most: int | None = None

    def spoken(self) -> str:
        limit = f", at most {self.most}" if self.most is not None else ""
        match self.method:
            case "fixed":
                return f"rank {self.most}"
            case "ratio":
                return f"singular values above 1/{self.value:g} of the largest{limit}"
            case "cumulative":
                return f"{self.value:.1%} of the sum of the singular values{limit}"
            case "frobenius":
                return f"{self.value:.1%} of the Frobenius norm{limit}"


class Factors(NamedTuple):
    """left (out, n), values (n) falling, right (n, in): left * values @ right. squares: sum of ALL squared values.

    values may stop before the last one where they were computed up to a limit; squares counts the rest too.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    squares: float


def factors_of_product(up: Tensor, down: Tensor) -> Factors:
    """The exact singular value decomposition of up @ down, (out, r) and (r, in), without forming it. float64.

    QR of both sides leaves an r x r matrix to decompose: milliseconds, where out x in takes seconds.
    """
    left_basis, left = torch.linalg.qr(up.double())
    right_basis, right = torch.linalg.qr(down.double().t())
    inner_left, values, inner_right = torch.linalg.svd(left @ right.t(), full_matrices=False)
    return Factors(left_basis @ inner_left, values, inner_right @ right_basis.t(), float(values.square().sum()))


def factors_of_matrix(matrix: Tensor, rule: RankRule, *, exact: bool = False, seed: int = 0) -> Factors:
    """The singular value decomposition of a matrix (out, in), as far as `rule` needs it, where the matrix lies.

    Randomised subspace iteration (arXiv 0909.4061) for a number of ranks well below that of the matrix; a rule without
    a limit gets twice as many until it has found its rank. Exact where that would be no faster, for `exact`, and for
    the cumulative rule, which needs every value. The same seed gives the same factors on the same device; the global
    generators are not touched.
    """
    squares = frobenius(matrix) ** 2
    ranks = rule.most or _FIRST_RANKS
    while not exact and rule.method != "cumulative" and 2 * (ranks + _SPARE_RANKS) <= min(matrix.shape):
        factors = _randomised(matrix, ranks + _SPARE_RANKS, squares, seed)
        # The last of the values come out too small: a rule that looks at them stays well away.
        if rule.most is not None or rank_kept(factors, rule) <= ranks // 2:
            return factors
        ranks *= 2
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(left, values, right, squares)


def _randomised(matrix: Tensor, count: int, squares: float, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], count, generator=generator)
    basis = torch.linalg.qr(matrix @ start.to(matrix.device, matrix.dtype)).Q
    for _ in range(_PASSES):
        basis = torch.linalg.qr(matrix.t() @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, values, right = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return Factors(basis @ left, values, right, squares)


def rank_kept(factors: Factors, rule: RankRule) -> int:
    """How many singular values `rule` keeps of these; a rule that looks at them keeps 1 of a matrix of nothing."""
    values = factors.values.double()
    most = len(values) if rule.most is None else min(rule.most, len(values))
    if rule.method == "fixed":
        return most
    if float(values[0]) <= _NOTHING:
        return 1
    match rule.method:
        case "ratio":
            kept = int((values > values[0] / rule.value).sum())
        case "cumulative":
            kept = _first_that_reaches(values.cumsum(0) / values.sum(), rule.value)
        case "frobenius":
            kept = _first_that_reaches(values.square().cumsum(0) / factors.squares, rule.value**2)
    return max(1, min(kept, most))


def _first_that_reaches(shares: Tensor, share: float) -> int:
    return int(torch.searchsorted(shares, share)) + 1


@dataclass(frozen=True)
class CutModule:
    """What a cut made of one module.

    full_rank: that before it. norm: the Frobenius norm of the module's weight change. error: that of the difference
    which the cut, and the rounding to the format of the file, make to it; 0 where the module was left as it was.
    """

    key: str
    full_rank: int
    rank: int
    norm: float
    error: float

    @property
    def share(self) -> float:
        """The part of the norm that is kept, 0 to 1."""
        return max(0.0, 1 - (self.error / self.norm) ** 2) ** 0.5 if self.norm else 1.0


def relative_error(modules: Sequence[CutModule]) -> float:
    """The norm of all errors over the norm of all weight changes; 0 where there is nothing."""
    norm = sum(module.norm**2 for module in modules) ** 0.5
    return sum(module.error**2 for module in modules) ** 0.5 / norm if norm else 0.0


class Halves(NamedTuple):
    """The two halves of a LoRA module as its file has them, and the scale alpha / rank of their product."""

    up: Tensor
    down: Tensor
    scale: float


def halves(own: Mapping[str, Tensor], name: str) -> Halves:
    """lora_up, lora_down and the scale of a module, given by role; a Tucker core may stand between the halves.

    Raises LoratoryError, with the module's `name`, where one is missing, they do not fit each other, or alpha is no
    finite number.
    """
    if not {LORA_DOWN, LORA_UP} <= own.keys():
        raise LoratoryError(
            f"{name} has {', '.join(sorted(own))}, not both halves of a LoRA.",
            hint="`loratory lora verify` shows all that is wrong with a file.",
        )
    form = module_form({role: tuple(tensor.shape) for role, tensor in own.items()})
    if form is None or form.name != "lora":
        raise LoratoryError(
            f"{name}: " + ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in sorted(own.items())) + " do not "
            "fit each other.",
            hint="`loratory lora verify` shows all that is wrong with a file.",
        )
    up, down = own[LORA_UP], own[LORA_DOWN]
    scale = float(own[ALPHA]) / down.shape[0] if ALPHA in own else 1.0
    if not isfinite(scale):
        raise LoratoryError(
            f"{name} holds NaN or an infinite number as its alpha.",
            hint="`loratory lora verify` shows all that is wrong with a file.",
        )
    return Halves(up, down, scale)


class Pair(NamedTuple):
    """up (out, r) and down (r, in), float32."""

    up: Tensor
    down: Tensor


def cut(factors: Factors, rank: int) -> Pair:
    """The first `rank` values as a pair; each side takes the root of every value, which loses least in half precision.

    `rank` may be larger than the number of values; then there are fewer.
    """
    roots = factors.values[:rank].sqrt()
    up, down = factors.left[:, :rank] * roots, roots[:, None] * factors.right[:rank]
    return Pair(up.float().contiguous(), down.float().contiguous())


def clamp(pair: Pair, quantile: float) -> Pair:
    """Both sides limited to the given quantile of all their values, which tames single extreme weights.

    As sd-scripts' extraction does it, whose default quantile is 0.99; it moves the product away from the best one.
    """
    limit = float(_quantile(torch.cat([pair.up.flatten(), pair.down.flatten()]), quantile))
    return Pair(pair.up.clamp(-limit, limit), pair.down.clamp(-limit, limit))


def _quantile(values: Tensor, quantile: float) -> Tensor:
    # torch.quantile refuses more than 16 million values.
    return values.kthvalue(max(1, round(quantile * len(values)))).values


def approximate(
    key: str,
    matrix: Tensor,
    rule: RankRule,
    dtype: torch.dtype,
    *,
    exact: bool = False,
    quantile: float | None = None,
) -> tuple[Pair, CutModule]:
    """The pair, rounded to `dtype` and on the CPU, that stands for a weight change (out, in), and what that costs."""
    factors = factors_of_matrix(matrix, rule, exact=exact)
    kept = rank_kept(factors, rule)
    pair = cut(factors, kept)
    if quantile is not None:
        pair = clamp(pair, quantile)
    pair = Pair(pair.up.to(dtype), pair.down.to(dtype))
    error = frobenius(matrix - pair.up.float() @ pair.down.float())
    return Pair(pair.up.cpu(), pair.down.cpu()), CutModule(key, min(matrix.shape), kept, factors.squares**0.5, error)


def low_rank_module(pair: Pair, kernel: Sequence[int], alpha: float) -> dict[str, Tensor]:
    """A pair as the tensors of a LoRA module of a linear layer (kernel ()) or a convolution."""
    rank = pair.down.shape[0]
    return {
        LORA_UP: pair.up.reshape(-1, rank, *[1] * len(kernel)),
        LORA_DOWN: pair.down.unflatten(1, (-1, *kernel)) if kernel else pair.down,
        ALPHA: torch.tensor(alpha, dtype=torch.float32),
    }


def frobenius(values: Tensor) -> float:
    """The root of the sum of squares, added up in float64 without a copy in float64."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def product_norm(up: Tensor, down: Tensor) -> float:
    """The Frobenius norm of up @ down, (out, r) and (r, in), without forming it; in float64."""
    left = torch.linalg.qr(up.double(), mode="r").R
    right = torch.linalg.qr(down.double().t(), mode="r").R
    return float((left @ right.t()).norm())
