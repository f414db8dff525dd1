"""Dots of charts: where a value's dot is, the line a pen draws through columns, and dots as characters. Pure."""

import math

import numpy as np
from numpy.typing import NDArray

from loratory.terminal.ticks import Scale

Floats = NDArray[np.float64]
Grid = NDArray[np.bool_]

_BRAILLE = 0x2800
# The bits of a braille character's dots, by row from the top and column.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.int64)


def dot_rows(values: Floats, scale: Scale, rows: int) -> Floats:
    """The row of dots of each value, 0 at the top; equal values are half way down."""
    if scale.is_flat:
        return np.full(len(values), float(rows // 2))
    # What lies outside by more than any float is as good as just outside.
    return np.rint((1 - np.clip(scale.shares(values), -1e6, 1e6)) * (rows - 1)) if rows > 1 else np.zeros(len(values))


def draw_pen(grid: Grid, tops: Floats, bottoms: Floats, lifted: Grid) -> None:
    """Fills each column from its top to its bottom row, and on to the column before, as a pen would draw.

    NaN: nothing in the column. lifted: columns that the pen comes to anew.
    """
    before: tuple[int, int] | None = None
    last = grid.shape[0] - 1
    for column, (top, bottom) in enumerate(zip(tops.tolist(), bottoms.tolist(), strict=True)):
        if math.isnan(top):
            before = None
            continue
        own = (int(top), int(bottom))
        first, end = own
        if before is not None and not lifted[column]:
            first, end = min(first, before[1] + 1), max(end, before[0] - 1)
        grid[max(0, first) : min(last, end) + 1, column] = True
        before = own


def braille_cells(grid: Grid) -> NDArray[np.int64]:
    """The dots of each character, 0 for none; the grid has four rows and two columns for each."""
    rows, columns = grid.shape
    cells = grid.reshape(rows // 4, 4, columns // 2, 2).astype(np.int64)
    return np.einsum("ricj,ij->rc", cells, _DOTS)


def braille_text(cells: NDArray[np.int64]) -> str:
    """A row of characters from their dots."""
    return "".join(chr(_BRAILLE + bits) if bits else " " for bits in cells.tolist())


def axis_sign(label: str, ascii_only: bool) -> str:
    """The piece of the axis beside a label, "" for none."""
    if ascii_only:
        return "+" if label else "|"
    return "┤" if label else "│"
