"""Charts as lines of text: dots of braille, or plain ASCII where the terminal has nothing else. Pure."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from loratory.terminal.dots import Grid, axis_sign, braille_cells, braille_text, dot_rows, draw_pen
from loratory.terminal.ticks import Scale

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.-=+*#@"
_NOTHING = "(no values)"


def draw_curve(
    values: Sequence[float],
    width: int,
    height: int,
    *,
    x_labels: tuple[str, str] = ("", ""),
    y_format: Callable[[float], str] = "{:.3g}".format,
    log: bool = False,
    ascii_only: bool = False,
) -> list[str]:
    """A chart of `values` at even distances, as `height` lines and one for `x_labels`, of `width` columns at most.

    x_labels: what the first and the last value stand for. y_format: the text of the highest and the lowest value, which
    stand at the left while there is room. log: draws magnitudes, for values above 0. ascii_only: uses no other
    characters. NaN, infinities and (with log) what is not above 0 are gaps. More values than columns are drawn as the
    range they cover, so that no peak is lost. Without anything to draw the one line says so.
    """
    width, height = max(0, width), max(1, height)
    drawable = [value for value in values if _is_drawable(value, log=log)]
    if not drawable:
        return [_NOTHING[:width]]
    low, high = min(drawable), max(drawable)
    labels = _y_labels(low, high, height, y_format)
    gutter = max(len(label) for label in labels)
    if gutter + 2 > width // 2:  # the curve is worth more than its labels
        labels, gutter = [""] * height, 0
    columns = width - gutter - 2
    if columns < 1:
        return [_NOTHING[:width]]

    across, down = (1, 1) if ascii_only else (2, 4)
    grid = _traced(values, columns * across, height * down, Scale(low, high, log=log))
    if ascii_only:
        cells = ["".join("*" if dot else " " for dot in row) for row in grid.tolist()]
    else:
        cells = [braille_text(row) for row in braille_cells(grid)]
    lines = [
        f"{label:>{gutter}} {axis_sign(label, ascii_only)}{line}" for label, line in zip(labels, cells, strict=True)
    ]
    if any(x_labels):
        lines.append(" " * (gutter + 2) + _x_line(*x_labels, columns))
    if ascii_only:
        lines = [line.encode("ascii", "replace").decode() for line in lines]
    return [line.rstrip() for line in lines]


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """`values` as one line of at most `width` characters, each as high as the mean of what it stands for.

    NaN and infinities are left out, and are a space where there is nothing else. Equal values are half as high as the
    line, zeros at its foot.
    """
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    pieces = [[value for value in piece if math.isfinite(value)] for piece in _pieces(values, min(len(values), width))]
    means = [sum(value / len(piece) for value in piece) if piece else None for piece in pieces]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    flat = 0.0 if high == 0 else 0.5
    return "".join(
        " " if mean is None else levels[round((flat if high == low else _share(mean, low, high)) * (len(levels) - 1))]
        for mean in means
    )


def _is_drawable(value: float, *, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _y_labels(low: float, high: float, height: int, spoken: Callable[[float], str]) -> list[str]:
    """The text at the left of each row; equal values have one label, at their row."""
    labels = [""] * height
    if low == high:
        labels[height // 2] = spoken(low)
    else:
        labels[-1] = spoken(low)
        labels[0] = spoken(high)
    return labels


def _pieces(values: Sequence[float], count: int) -> list[Sequence[float]]:
    """`values` cut into `count` pieces of about the same length; with fewer values than that some come again."""
    total = len(values)
    return [values[c * total // count : max(c * total // count + 1, (c + 1) * total // count)] for c in range(count)]


def _traced(values: Sequence[float], columns: int, rows: int, scale: Scale) -> Grid:
    """The dots of a curve, each column filled over the range of what it stands for and on to the one before."""
    pieces = _pieces(values, columns)
    known = [[value for value in piece if _is_drawable(value, log=scale.log)] for piece in pieces]
    highest = np.array([max(piece, default=math.nan) for piece in known])
    lowest = np.array([min(piece, default=math.nan) for piece in known])
    grid = np.zeros((rows, columns), np.bool_)
    missing = np.isnan(highest)
    tops, bottoms = dot_rows(highest, scale, rows), dot_rows(lowest, scale, rows)
    tops[missing] = np.nan
    draw_pen(grid, tops, bottoms, lifted=np.zeros(columns, np.bool_))
    return grid


def _share(value: float, low: float, high: float) -> float:
    return float(Scale(low, high).shares(np.array([value]))[0])


def _x_line(first: str, last: str, columns: int) -> str:
    """The two labels at the ends of a line; only the last where there is no room for both."""
    if len(first) + len(last) + 1 > columns:
        return f"{last[:columns]:>{columns}}"
    return first + f"{last:>{columns - len(first)}}"
