"""The scale of a chart's values, and the round numbers that stand beside it. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_LABELS = 5
# From one to the next, what was six multiples or more is still three: so there are three labels wherever there is room.
_ROUND = (1.0, 2.0, 2.5, 5.0)
# The ends of a scale that is kept are multiples of about a tenth of it.
_PARTS = 10
_LOG_ENDS = (1, 1.5, 2, 3, 5, 7)
_FILLED = 0.5


@dataclass(frozen=True)
class Scale:
    """From the lowest to the highest finite value; log: by magnitude, for values above 0."""

    low: float
    high: float
    log: bool = False

    @property
    def is_flat(self) -> bool:
        return self.low == self.high

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where each value lies between the two ends, which have 0 and 1. Not for a flat scale."""
        low, high = self.low, self.high
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        # Halved first: their distance can be beyond any float.
        span = high / 2 - low / 2
        if not span:  # the two smallest floats, or two whose logarithms are the same
            return (values > low).astype(np.float64)
        with np.errstate(over="ignore"):  # a value far outside, where the scale is tiny
            return (values / 2 - low / 2) / span


def steady_scale(before: Scale | None, now: Scale) -> Scale:
    """A scale with round ends that holds the values of `now`: the one before, unless they leave it or leave it empty.

    It widens as soon as a value is outside, and narrows when the values fill less than half of it.
    """
    if before is not None and before.log == now.log and before.low <= now.low and now.high <= before.high:
        ends = np.array([now.low, now.high])
        if not before.is_flat and float(np.diff(before.shares(ends))[0]) >= _FILLED:
            return before
    return rounded(now)


def rounded(scale: Scale) -> Scale:
    """The scale with its ends moved outwards to round numbers; more than half of it is the one given."""
    if scale.is_flat:
        return scale
    # A narrow one is as good as straight, and its ends can be rounder to the point.
    if scale.log and scale.high / 4 > scale.low:
        low, high = _round_below(scale.low), _round_above(scale.high)
    else:
        span = scale.high - scale.low
        if not (math.isfinite(span) and span > 0):
            return scale
        step = next((step for step, _ in _steps(span / _PARTS) if step >= span / _PARTS), 0.0)
        if not step or not math.isfinite(scale.low / step) or not math.isfinite(scale.high / step):
            return scale
        # A hair's breadth of room: what is a round number but for the last digit is one.
        low, high = math.floor(scale.low / step + 1e-9) * step, math.ceil(scale.high / step - 1e-9) * step
    if not (math.isfinite(low) and math.isfinite(high) and (low > 0 or not scale.log)):
        return scale
    return Scale(min(low, scale.low), max(high, scale.high), log=scale.log)


def _round_below(value: float) -> float:
    exponent = math.floor(math.log10(value))
    return max((end for head in _LOG_ENDS if (end := float(f"{head}e{exponent}")) <= value), default=value)


def _round_above(value: float) -> float:
    exponent = math.floor(math.log10(value))
    return min((end for head in (*_LOG_ENDS, 10) if (end := float(f"{head}e{exponent}")) >= value), default=value)


def tick_labels(scale: Scale, rows: int) -> list[str]:
    """The text beside each row, "" beside most: 3 to 5 round numbers where there is room, else what the ends are."""
    labels = [""] * rows
    if rows < 1:
        return labels
    if scale.is_flat:
        labels[rows // 2] = f"{scale.low:.4g}"
        return labels
    most = max(2, min(_MOST_LABELS, (rows + 1) // 2))
    ticks, texts = _round_ticks(scale, most)
    if len(ticks) < 2 or len(set(texts)) < len(texts):
        ticks, texts = [scale.low, scale.high], [f"{scale.low:.4g}", f"{scale.high:.4g}"]
    places = np.rint((1 - scale.shares(np.array(ticks))) * (rows - 1)).astype(int).tolist()
    for place, text in zip(places, texts, strict=True):
        if 0 <= place < rows and not labels[place]:
            labels[place] = text
    return labels


def _round_ticks(scale: Scale, most: int) -> tuple[list[float], list[str]]:
    if scale.log:
        for ticks in (_powers(scale, most, (1.0,)), _powers(scale, most, (1.0, 2.0, 5.0))):
            if 3 <= len(ticks) <= most:
                return ticks, [f"{tick:.3g}" for tick in ticks]
    return _multiples(scale, most)


def _powers(scale: Scale, most: int, heads: tuple[float, ...]) -> list[float]:
    """Round numbers of every magnitude, or of every second, third … where these would be too many."""
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    every = max(1, math.ceil((last - first) / most)) if len(heads) == 1 else 1
    if (last - first) // every * len(heads) > 4 * most:
        return []
    numbers = [float(f"{head}e{exponent}") for exponent in range(first, last + 1, every) for head in heads]
    return [number for number in numbers if scale.low <= number <= scale.high]


def _multiples(scale: Scale, most: int) -> tuple[list[float], list[str]]:
    """The multiples of the smallest round step that are not too many."""
    span = scale.high - scale.low
    if not (math.isfinite(span) and span > 0):
        return [], []
    for step, decimals in _steps(span / most):
        first, last = scale.low / step, scale.high / step
        if not (math.isfinite(first) and math.isfinite(last)):
            return [], []
        # A hair's breadth of room: 0.3 / 0.1 is a little less than 3.
        counts = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
        if len(counts) > most:
            continue
        ticks = [min(max(count * step, scale.low), scale.high) for count in counts]
        largest = max(map(abs, ticks), default=0.0)
        if 1e-4 <= largest < 1e6 and decimals <= 6:
            return ticks, [f"{tick:.{decimals}f}" for tick in ticks]
        return ticks, [f"{tick:.3g}" for tick in ticks]
    return [], []


def _steps(least: float) -> Iterator[tuple[float, int]]:
    """Round steps from about `least` on, each with the decimals that its multiples need."""
    exponent = math.floor(math.log10(least)) if least > 0 else -400
    for power in range(exponent, exponent + 3):
        for head in _ROUND:
            step = float(f"{head}e{power}")
            if step > 0 and math.isfinite(step):
                yield step, max(0, -power + (head == 2.5))
