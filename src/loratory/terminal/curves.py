"""Charts as lines of text: dots of braille, or plain ASCII where the terminal has nothing else. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.-=+*#@"
_NOTHING = "(no values)"
_BRAILLE = 0x2800
# The bits of a braille character's dots, by row from the top and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class _Span(NamedTuple):
    """The lowest and the highest of the values that one column of dots shows."""

    low: float
    high: float


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
    scaled = [(math.log(v) if log else v) if _is_drawable(v, log=log) else None for v in values]
    if log:
        low, high = math.log(low), math.log(high)
    rows = _rows_of(_columns(scaled, columns * across), low, high, height * down)
    cells = _ascii_cells(rows, height) if ascii_only else _braille_cells(rows, height)
    lines = [f"{label:>{gutter}} {_axis(label, ascii_only)}{line}" for label, line in zip(labels, cells, strict=True)]
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


def _columns(values: Sequence[float | None], count: int) -> list[_Span | None]:
    total = len(values)
    spans: list[_Span | None] = []
    for column in range(count):
        first = column * total // count
        piece = values[first : max(first + 1, (column + 1) * total // count)]
        known = [value for value in piece if value is not None]
        spans.append(_Span(min(known), max(known)) if known else None)
    return spans


def _rows_of(spans: Sequence[_Span | None], low: float, high: float, rows: int) -> list[range]:
    """The rows of dots, 0 at the top, that each column fills; each reaches to the one before, as a pen would draw."""
    filled: list[range] = []
    before: tuple[int, int] | None = None
    for span in spans:
        if span is None:
            filled.append(range(0))
            before = None
            continue
        if low == high:
            top = bottom = rows // 2
        else:
            top = round((1 - _share(span.high, low, high)) * (rows - 1))
            bottom = round((1 - _share(span.low, low, high)) * (rows - 1))
        own = (top, bottom)
        if before is not None:
            top, bottom = min(top, before[1] + 1), max(bottom, before[0] - 1)
        filled.append(range(top, bottom + 1))
        before = own
    return filled


def _share(value: float, low: float, high: float) -> float:
    """Where `value` lies between two others, from 0 to 1. Halved first: their distance can be beyond any float."""
    span = high / 2 - low / 2  # 0 for the two smallest floats
    return (value / 2 - low / 2) / span if span else float(value > low)


def _ascii_cells(columns: Sequence[range], height: int) -> list[str]:
    return ["".join("*" if row in filled else " " for filled in columns) for row in range(height)]


def _braille_cells(columns: Sequence[range], height: int) -> list[str]:
    lines: list[str] = []
    for line in range(height):
        cells: list[str] = []
        for pair in zip(columns[::2], columns[1::2], strict=True):
            bits = sum(
                _DOTS[dot][side] for side, filled in enumerate(pair) for dot in range(4) if 4 * line + dot in filled
            )
            cells.append(chr(_BRAILLE + bits) if bits else " ")
        lines.append("".join(cells))
    return lines


def _axis(label: str, ascii_only: bool) -> str:
    if ascii_only:
        return "+" if label else "|"
    return "┤" if label else "│"


def _x_line(first: str, last: str, columns: int) -> str:
    """The two labels at the ends of a line; only the last where there is no room for both."""
    if len(first) + len(last) + 1 > columns:
        return f"{last[:columns]:>{columns}}"
    return first + f"{last:>{columns - len(first)}}"
