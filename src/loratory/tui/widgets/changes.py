"""Which cells of a widget's lines changed, so that only those are drawn and sent to the terminal again."""

from collections.abc import Sequence
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

# Between two changes on a line, fewer unchanged cells than these are cheaper than the cursor's move to the second.
_NEAR = 3


def refresh_changed(widget: Widget, before: Sequence[Strip], after: Sequence[Strip]) -> None:
    """Has those cells drawn again in which the lines of a widget differ."""
    width = widget.size.width
    if len(before) != len(after):
        widget.refresh()
        return
    regions = [
        Region(start, y, end - start, 1)
        for y, (old, new) in enumerate(zip(before, after, strict=True))
        for start, end in changed_cells(old, new, width)
    ]
    if regions:
        widget.refresh(*regions)


def changed_cells(old: Strip, new: Strip, width: int) -> list[tuple[int, int]]:
    """The stretches of cells in which two lines of `width` cells differ, as (first, after the last)."""
    if old is new or old == new:
        return []
    before, after = list(old), list(new)
    # Most lines change in few places: what is the same at both ends is not looked at cell by cell.
    start = 0
    while before and after and before[0] == after[0]:
        start += before.pop(0).cell_length
        after.pop(0)
    while before and after and before[-1] == after[-1]:
        before.pop()
        after.pop()
    cells = (_cells(before), _cells(after))
    if len(cells[0]) != len(cells[1]):
        return [(0, width)]
    stretches: list[tuple[int, int]] = []
    for at in [at for at, (a, b) in enumerate(zip(*cells, strict=True), start) if a != b]:
        if stretches and at - stretches[-1][1] < _NEAR:
            stretches[-1] = (stretches[-1][0], at + 1)
        else:
            stretches.append((at, at + 1))
    return stretches


@lru_cache(maxsize=4096)
def is_even(text: str) -> bool:
    """Whether each character takes one cell: none is wide, and none is a mark on the one before."""
    return text.isascii() or all(cell_len(character) == 1 for character in set(text))


def _cells(segments: Sequence[Segment]) -> list[tuple[str, object]]:
    """A character and its style for each cell; what a wide character takes beside its first cell is told from it."""
    cells: list[tuple[str, object]] = []
    for segment in segments:
        style = segment.style
        if is_even(segment.text):
            cells += [(character, style) for character in segment.text]
            continue
        for character in segment.text:
            width = cell_len(character)
            if width:
                cells += [(character, style), *[(f"\0{character}", style)] * (width - 1)]
            elif cells:  # a mark on the character before
                cells[-1] = (cells[-1][0] + character, style)
    return cells
