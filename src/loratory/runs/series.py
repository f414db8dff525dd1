"""A number for each step of a run of any length, in a fixed amount of memory, without losing a peak or a broken step.

The newest steps are kept one by one. What is older is kept as spans of steps, each with its lowest and highest value,
its mean and its broken steps; when there are too many spans, two become one. Pure.
"""

import math
from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEWEST = 2048
"""At least so many of the newest values are kept one by one: to zoom into, and to be taken back exactly."""
# 80 kB a series; a screen has fewer columns of dots than that.
_SPANS = 2048

Floats = NDArray[np.float64]


class Spans(NamedTuple):
    """Stretches of steps in rising order, a row each: the steps from `first` to `last`.

    low, high, mean: of the finite values, NaN where there are none. broken: how many values were no numbers.
    """

    first: Floats
    last: Floats
    low: Floats
    high: Floats
    mean: Floats
    broken: Floats


class _Rows(NamedTuple):
    """Stretches that can still be added up."""

    first: Floats
    last: Floats
    low: Floats
    high: Floats
    total: Floats
    known: Floats  # how many values are finite
    broken: Floats


class Series:
    """One value a step, for steps counted from 1, added in rising order; steps may be left out."""

    def __init__(self) -> None:
        self.last_step = 0
        self._steps = array("q")
        self._values = array("d")
        self._folded = 0  # the last step that is in spans
        self._width = 1  # steps of a span
        self._old: _Rows | None = None

    def __bool__(self) -> bool:
        return self.last_step > 0

    @property
    def last(self) -> float:
        """The newest value, NaN without any."""
        return self._values[-1] if self._values else math.nan

    def add(self, step: int, value: float) -> None:
        """Steps that are not above the last one are left out: a foreign line must not end a viewer."""
        if step <= self.last_step:
            return
        self._values.append(value)
        self._steps.append(step)
        self.last_step = step
        if len(self._steps) >= 2 * NEWEST:
            self._fold()

    def forget_after(self, step: int) -> None:
        """Takes back all values of later steps.

        Exact for those kept one by one. Of older ones, the span that holds `step` keeps what it has seen.
        """
        if step >= self.last_step:
            return
        if step <= 0:
            self.__init__()
            return
        kept = int(np.searchsorted(np.frombuffer(self._steps, np.int64), step, side="right")) if self._steps else 0
        del self._steps[kept:], self._values[kept:]
        if self._old is not None and step < self._folded:
            stays = self._old.first <= step
            self._old = _Rows(*(column[stays] for column in self._old))
            self._folded = step
        older = int(self._old.last[-1]) if self._old is not None and len(self._old.last) else 0
        self.last_step = self._steps[-1] if self._steps else min(older, step)

    def between(self, first: int, last: int, most: int) -> Spans:
        """The steps from `first` to `last` as at most `most` stretches of equal length; the values while they fit."""
        rows = self._rows(first, last)
        most = max(1, most)
        if len(rows.first) > most:
            # By the window rather than by what there is: a stretch stays what it was while steps are added.
            rows = _merged(rows, np.floor((np.maximum(rows.first, first) - first) * most / (last - first + 1)))
        return _spans(rows)

    def columns(self, first: int, last: int, count: int) -> Spans:
        """The steps from `first` to `last` as `count` equal stretches, left out where there are no steps.

        What is in a stretch never changes once a later one has begun, whatever else is added to the series; only where
        a stretch is shorter than what old steps are kept as, by what these become.
        """
        rows = self._rows(first, last)
        wide = last - first + 1
        if wide > max(1, count) and len(rows.first):
            # As long as a span will be at the window's end, so that no span ever lies in two stretches.
            unit = _span_width(last)
            unit = unit if wide >= unit * count else 1
            starts = np.maximum((rows.first - 1) // unit * unit + 1, first)
            rows = _merged(rows, np.floor((starts - first) * count / wide))
        return _spans(rows)

    def _rows(self, first: int, last: int) -> _Rows:
        """All that is known of the steps from `first` to `last`."""
        start, end = np.searchsorted(np.frombuffer(self._steps, np.int64), (first, last + 1)) if self._steps else (0, 0)
        rows = _singles(np.array(self._steps[start:end], np.float64), np.array(self._values[start:end], np.float64))
        if self._old is not None and first <= self._folded:
            inside = (self._old.last >= first) & (self._old.first <= last)
            rows = _joined(_Rows(*(column[inside] for column in self._old)), rows)
        return rows

    def tail(self, count: int) -> list[float]:
        """The newest values, at most `count`."""
        return self._values[max(0, len(self._values) - count) :].tolist()

    def _fold(self) -> None:
        """Moves the older half of what is kept one by one into spans."""
        rows = _singles(np.array(self._steps[:NEWEST], np.float64), np.array(self._values[:NEWEST], np.float64))
        del self._steps[:NEWEST], self._values[:NEWEST]
        self._folded = int(rows.last[-1])
        if self._old is not None:
            rows = _joined(self._old, rows)
        self._width = max(self._width, _span_width(self._folded))
        self._old = _merged(rows, np.floor((rows.first - 1) / self._width))


def _span_width(steps: int) -> int:
    """How many steps a span has in a series of so many."""
    width = 1
    while (steps - 1) // width >= _SPANS:
        width *= 2
    return width


def _spans(rows: _Rows) -> Spans:
    known = rows.known > 0
    with np.errstate(all="ignore"):
        mean = np.where(known, rows.total / np.maximum(rows.known, 1), np.nan)
    low, high = np.where(known, rows.low, np.nan), np.where(known, rows.high, np.nan)
    # A sum of values near the largest float is none.
    mean = np.where(known & ~np.isfinite(mean), high, mean)
    return Spans(rows.first, rows.last, low, high, mean, rows.broken)


def _singles(steps: Floats, values: Floats) -> _Rows:
    finite = np.isfinite(values)
    return _Rows(
        steps,
        steps,
        np.where(finite, values, np.inf),
        np.where(finite, values, -np.inf),
        np.where(finite, values, 0.0),
        finite.astype(np.float64),
        (~finite).astype(np.float64),
    )


def _joined(a: _Rows, b: _Rows) -> _Rows:
    return _Rows(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))


def _merged(rows: _Rows, groups: Floats) -> _Rows:
    """Rows of one group as one; `groups` rises."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    ends = np.append(starts[1:], len(groups)) - 1
    with np.errstate(over="ignore"):
        return _Rows(
            rows.first[starts],
            rows.last[ends],
            np.minimum.reduceat(rows.low, starts),
            np.maximum.reduceat(rows.high, starts),
            np.add.reduceat(rows.total, starts),
            np.add.reduceat(rows.known, starts),
            np.add.reduceat(rows.broken, starts),
        )
