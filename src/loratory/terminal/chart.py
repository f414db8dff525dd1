"""A chart of series over steps, as lines of text in roles: dots of braille, or plain ASCII. Pure.

Layers lie over each other: where two meet in a character the dots of both stay, in the role of the upper one. A role
("line", "raw", "band", "mark", "axis", "run-1" and so on) says what a piece of text is, not what colour it has.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from loratory.terminal.dots import Floats, Grid, axis_sign, braille_cells, braille_text, dot_rows, draw_pen
from loratory.terminal.ticks import Scale, tick_labels

Piece = tuple[str, str]
"""Text and its role."""
Line = tuple[Piece, ...]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# So far apart stand the letters of a named curve, and so far are those of the next one moved.
_LETTER_EVERY, _LETTER_SHIFT = 16, 5
_BAND_SLACK = 0.02
_NEAREST = 3  # a curve is worth more than labels that take a third of its room


@dataclass(frozen=True, eq=False)
class Curve:
    """Values over ascending steps. NaN and infinities are gaps.

    as_dots: a dot for each value instead of a line through them. name: for the legend; named curves are marked with
    letters, a, b, c in their order, so that no colour is needed to tell them apart.
    """

    steps: ArrayLike
    values: ArrayLike
    role: str = "line"
    as_dots: bool = False
    name: str = ""


@dataclass(frozen=True, eq=False)
class Band:
    """Where values are expected, as two dotted lines; `low` and `high` may be equal."""

    steps: ArrayLike
    low: ArrayLike
    high: ArrayLike
    role: str = "band"


@dataclass(frozen=True, eq=False)
class ChartView:
    """All that a chart shows.

    curves: the lowest layer first. marks: steps with a cross at the top, such as those whose loss was no number.
    window: first and last step shown, None for all. log: magnitudes; what is not above 0 is a gap. empty: stands there
    where there is nothing to draw. subject: what is shown; a chart on the screen that goes on showing it keeps its
    scale as long as it can.
    """

    curves: Sequence[Curve] = ()
    band: Band | None = None
    marks: Sequence[float] = ()
    window: tuple[float, float] | None = None
    log: bool = False
    empty: str = "no values yet"
    subject: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """letter: that marks the curve; role and name: its own."""

    letter: str
    name: str
    role: str


@dataclass(frozen=True, eq=False)
class _Points:
    """What can be drawn of a curve, in dots from the left and from the top, and whether a gap was before each."""

    columns: Floats
    rows: Floats
    after_gap: Grid


def legend(view: ChartView) -> list[LegendEntry]:
    """The named curves; after 26 of them the letters come again."""
    named = [curve for curve in view.curves if curve.name]
    return [LegendEntry(_LETTERS[i % len(_LETTERS)], curve.name, curve.role) for i, curve in enumerate(named)]


def draw_chart(
    view: ChartView,
    width: int,
    height: int,
    *,
    ascii_only: bool = False,
    settle: Callable[[Scale], Scale] = lambda scale: scale,
) -> list[Line]:
    """The chart as exactly `height` lines of `width` characters: the curves over one line for the steps.

    Every value is drawn where its column is, so that no peak is lost. With one line there is no room for steps.
    settle: makes the scale that is drawn from the one that the values just fit; it has to hold them all.
    """
    width, height = max(0, width), max(0, height)
    series = [_series(curve.steps, curve.values, log=view.log) for curve in view.curves]
    window = view.window or _extent([steps for steps, _ in series], view.marks)
    seen = [_within(steps, values, window) for steps, values in series] if window else []
    known = _known(seen, window) if window else np.empty(0)
    if window is None or not known.size:
        return _said(view.empty, width, height)
    plot_height = height - 1 if height > 1 else height
    scale = settle(Scale(float(known.min()), float(known.max()), log=view.log))
    labels = tick_labels(scale, plot_height)
    gutter = max(map(len, labels), default=0)
    if gutter + 2 > width // _NEAREST:
        labels, gutter = [""] * plot_height, 0
    columns = width - gutter - 2
    if columns < 1 or plot_height < 1:
        return _said(view.empty, width, height)

    canvas = _Canvas(columns, plot_height, window, scale, ascii_only=ascii_only)
    if view.band is not None:
        canvas.add_band(view.band)
    named = 0
    for curve, (steps, values) in zip(view.curves, seen, strict=True):
        canvas.add_curve(curve, steps, values, named if curve.name else None)
        named += bool(curve.name)
    canvas.add_marks(view.marks)
    lines = [
        _line([(f"{label:>{gutter}} {axis_sign(label, ascii_only)}", "axis"), *cells])
        for label, cells in zip(labels, canvas.rows(), strict=True)
    ]
    if height > 1:
        lines.append(_line([(" " * (gutter + 2) + _step_line(window, columns), "axis")]))
    return lines


def zoomed(window: tuple[float, float], whole: tuple[float, float], factor: float) -> tuple[float, float]:
    """A window `factor` times as wide around the same middle, within `whole` and at least two steps wide."""
    first, last = whole
    half = max(1.0, (window[1] - window[0]) * factor / 2)
    middle = (window[0] + window[1]) / 2
    if 2 * half >= last - first:
        return whole
    middle = min(max(middle, first + half), last - half)
    return (middle - half, middle + half)


def moved(window: tuple[float, float], whole: tuple[float, float], by: float) -> tuple[float, float]:
    """The window moved by `by` of its own width, within `whole`."""
    wide = window[1] - window[0]
    first = min(max(window[0] + by * wide, whole[0]), max(whole[0], whole[1] - wide))
    return (first, min(first + wide, whole[1]))


def steady_band(before: Band, now: Band, scale: Scale) -> Band:
    """Where the band was, at the steps of now, while no end of it has moved by more than two in a hundred of a scale.

    What is expected is estimated anew with each step: drawn to the dot, two lines over the whole chart would tremble.
    """
    ends = [np.asarray(end, np.float64) for end in (before.low, before.high, now.low, now.high)]
    if scale.is_flat or len({end.shape for end in ends}) != 1:
        return now
    with np.errstate(all="ignore"):
        low, high, its_low, its_high = (scale.shares(end) for end in ends)
    moved_by = np.abs(np.concatenate([low - its_low, high - its_high]))
    return Band(now.steps, before.low, before.high, now.role) if np.all(moved_by < _BAND_SLACK) else now


# --- the layers ---


class _Canvas:
    """The field of the curves: for each character its dots, what else stands there, and the role of its top layer."""

    def __init__(
        self, columns: int, height: int, window: tuple[float, float], scale: Scale, *, ascii_only: bool
    ) -> None:
        self._across, self._down = (1, 1) if ascii_only else (2, 4)
        self._grid_shape = (height * self._down, columns * self._across)
        self._shape = (height, columns)
        self._window, self._scale, self._ascii_only = window, scale, ascii_only
        self._dots = np.zeros(self._shape, np.int64)
        self._signs: dict[tuple[int, int], str] = {}
        self._roles: list[list[str]] = [[""] * columns for _ in range(height)]

    def add_band(self, band: Band) -> None:
        for bound in (band.low, band.high):
            grid = self._new_grid()
            steps, values = _series(band.steps, bound, log=self._scale.log)
            tops, bottoms, _ = self._traced(self._points(steps, values))
            for column in range(0, grid.shape[1], 2):
                if not math.isnan(tops[column]):
                    grid[int(tops[column]) : int(bottoms[column]) + 1, column] = True
            self._lay(grid, band.role, "-")

    def add_curve(self, curve: Curve, steps: Floats, values: Floats, number: int | None) -> None:
        """number: of a named curve among those."""
        letter = "" if number is None else _LETTERS[number % len(_LETTERS)]
        grid = self._new_grid()
        points = self._points(steps, values)
        if curve.as_dots:
            inside = (points.columns >= 0) & (points.columns < grid.shape[1]) & self._is_in_height(points.rows)
            grid[points.rows[inside].astype(int), points.columns[inside].astype(int)] = True
            self._lay(grid, curve.role, letter or ".")
            return
        tops, bottoms, lifted = self._traced(points)
        draw_pen(grid, tops, bottoms, lifted)
        self._lay(grid, curve.role, letter or "*")
        if letter and number is not None and not self._ascii_only:
            self._write_letters(letter, number, curve.role, tops)

    def add_marks(self, steps: Sequence[float]) -> None:
        first, last = self._window
        inside = np.array([step for step in steps if first <= step <= last], np.float64)
        for column in np.unique(self._columns(inside)).astype(int).tolist():
            self._sign(0, column // self._across, "x" if self._ascii_only else "×", "mark")

    def rows(self) -> list[list[Piece]]:
        """Each row's text, a piece for each stretch of one role."""
        signs: dict[int, dict[int, str]] = {}
        for (row, column), sign in self._signs.items():
            signs.setdefault(row, {})[column] = sign
        drawn: list[list[Piece]] = []
        for row, roles in enumerate(self._roles):
            dots = self._dots[row]
            text = "".join(chr(sign or 32) for sign in dots.tolist()) if self._ascii_only else braille_text(dots)
            if row in signs:
                text = "".join(signs[row].get(column, sign) for column, sign in enumerate(text))
            start, pieces = 0, list[Piece]()
            for role, stretch in groupby(roles):
                end = start + len(list(stretch))
                pieces.append((text[start:end], role))
                start = end
            drawn.append(pieces)
        return drawn

    def _new_grid(self) -> Grid:
        return np.zeros(self._grid_shape, np.bool_)

    def _is_in_height(self, rows: Floats) -> Grid:
        return (rows >= 0) & (rows < self._grid_shape[0])

    def _columns(self, steps: Floats) -> Floats:
        first, last = self._window
        columns = self._grid_shape[1]
        if not last > first:
            return np.full(len(steps), float(columns // 2))
        return np.rint((steps - first) / (last - first) * (columns - 1))

    def _points(self, steps: Floats, values: Floats) -> _Points:
        finite = np.flatnonzero(np.isfinite(values))
        after_gap = np.diff(finite, prepend=finite[:1] - 1) > 1
        rows = dot_rows(values[finite], self._scale, self._grid_shape[0])
        return _Points(self._columns(steps[finite]), rows, after_gap)

    def _traced(self, points: _Points) -> tuple[Floats, Floats, Grid]:
        """The highest and lowest row of a line in each column, NaN where it is not, and where it begins anew."""
        columns = self._grid_shape[1]
        tops, bottoms = np.full(columns, np.nan), np.full(columns, np.nan)
        lifted = np.zeros(columns, np.bool_)
        if not points.columns.size:
            return tops, bottoms, lifted
        every = np.arange(columns, dtype=np.float64)
        # Between two points the line is straight; with several in a column the last meets the first of the next.
        between = np.rint(np.interp(every, points.columns, points.rows, left=np.nan, right=np.nan))
        following = np.searchsorted(points.columns, every, side="right")
        broken = points.after_gap[np.minimum(following, points.after_gap.size - 1)]
        between[broken | (following == points.columns.size)] = np.nan
        inside = (points.columns >= 0) & (points.columns < columns) & self._is_in_height(points.rows)
        at, rows = points.columns[inside].astype(int), points.rows[inside]
        own = np.zeros(columns, np.bool_)
        own[at] = True
        between[own | ~self._is_in_height(between)] = np.nan
        tops[:], bottoms[:] = between, between
        np.fmin.at(tops, at, rows)
        np.fmax.at(bottoms, at, rows)
        first_of_column = np.diff(at, prepend=-1) > 0
        lifted[at[first_of_column]] = points.after_gap[inside][first_of_column]
        return tops, bottoms, lifted

    def _lay(self, grid: Grid, role: str, sign: str) -> None:
        if self._ascii_only:
            self._dots[grid] = ord(sign)
            covered = grid
        else:
            cells = braille_cells(grid)
            self._dots |= cells
            covered = cells > 0
        for row, column in zip(*(axis.tolist() for axis in np.nonzero(covered)), strict=True):
            self._roles[row][column] = role

    def _write_letters(self, letter: str, number: int, role: str, tops: Floats) -> None:
        drawn = np.flatnonzero(~np.isnan(tops)) // self._across
        if not drawn.size:
            return
        places = set(range(number * _LETTER_SHIFT % _LETTER_EVERY, self._shape[1], _LETTER_EVERY)) & set(drawn.tolist())
        for column in sorted(places | {int(drawn[-1])}):
            top = np.nanmin(tops[column * self._across : (column + 1) * self._across])
            self._sign(int(top) // self._down, column, letter, role)

    def _sign(self, row: int, column: int, sign: str, role: str) -> None:
        self._signs[row, column] = sign
        self._roles[row][column] = role


def _series(steps: ArrayLike, values: ArrayLike, *, log: bool) -> tuple[Floats, Floats]:
    """Both as arrays of one length, steps ascending and finite; values that cannot be drawn are NaN."""
    at, what = np.asarray(steps, np.float64), np.array(values, np.float64)
    length = min(len(at), len(what))
    at, what = at[:length], what[:length]
    what[~np.isfinite(what) | ((what <= 0) if log else False)] = np.nan
    known = np.isfinite(at)
    at, what = at[known], what[known]
    if at.size > 1 and bool(np.any(np.diff(at) < 0)):
        order = np.argsort(at, kind="stable")
        at, what = at[order], what[order]
    return at, what


def _extent(steps: list[Floats], marks: Sequence[float]) -> tuple[float, float] | None:
    ends = [float(end) for each in steps if each.size for end in (each[0], each[-1])]
    ends += [step for step in marks if math.isfinite(step)] if ends else []
    return (min(ends), max(ends)) if ends else None


def _within(steps: Floats, values: Floats, window: tuple[float, float]) -> tuple[Floats, Floats]:
    """The part of a series in the window, and a value more at each side: the line goes on to the edge."""
    first = max(0, int(np.searchsorted(steps, window[0], side="left")) - 1)
    last = int(np.searchsorted(steps, window[1], side="right")) + 1
    return steps[first:last], values[first:last]


def _known(seen: list[tuple[Floats, Floats]], window: tuple[float, float]) -> Floats:
    """The values that the scale is made for: those in the window, or if there are none those around it."""
    inside = [values[(steps >= window[0]) & (steps <= window[1])] for steps, values in seen]
    known = np.concatenate([*inside, np.empty(0)])
    if not np.isfinite(known).any():
        known = np.concatenate([*(values for _, values in seen), np.empty(0)])
    return known[np.isfinite(known)]


def _step_line(window: tuple[float, float], columns: int) -> str:
    """First, middle and last step; only as many as there is room for, the last one first."""
    first, last = (f"{end:.0f}" for end in window)
    middle = f"{(window[0] + window[1]) / 2:.0f}"
    if first == last:
        return f"{last[:columns]:^{columns}}"
    if len(first) + len(last) + 1 > columns:
        return f"{last[:columns]:>{columns}}"
    line = first + f"{last:>{columns - len(first)}}"
    start = columns // 2 - len(middle) // 2
    if middle not in (first, last) and start > len(first) + 1 and start + len(middle) + 1 < columns - len(last):
        line = line[:start] + middle + line[start + len(middle) :]
    return line


def _said(text: str, width: int, height: int) -> list[Line]:
    lines = [f"{text[:width]:<{width}}"] + [" " * width] * (height - 1)
    return [_line([(line, "axis")]) for line in lines[:height]]


def _line(pieces: Sequence[Any]) -> Line:
    return tuple(piece for piece in pieces if piece[0])
