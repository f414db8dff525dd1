"""A table of plain values with a cursor: only the rows on screen are made."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from loratory.tui.text import Glyphs, fitted, plain, printable, wrapped

_GAP = 2
_LEAST_TEXT = 8
_BAR_WIDTH = 20


@dataclass(frozen=True)
class Column:
    """kind: "text" is cut where room is short, "number" stands at the right, "bar" is a share from 0 to 1 drawn."""

    title: str
    kind: Literal["text", "number", "bar"] = "number"


@dataclass(frozen=True)
class Line:
    """A row. cells: a text for each column, for a bar its share as a number. pictures: names of those it is about.

    style: of the whole row, "" for none.
    """

    cells: tuple[str, ...]
    pictures: Collection[str] = ()
    style: str = ""


@dataclass(frozen=True)
class TableView:
    """All that the table shows. notes: sentences under the rows. empty: what stands there where there are no rows."""

    columns: tuple[Column, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    empty: str = ""
    widths: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        # Measured once a view: a table of thousands is drawn with every key.
        widths = [
            max([cell_len(column.title), *(min(cell_len(line.cells[index]), 200) for line in self.lines)])
            if column.kind != "bar"
            else _BAR_WIDTH
            for index, column in enumerate(self.columns)
        ]
        object.__setattr__(self, "widths", tuple(widths))


class Table(Widget):
    """Draws a TableView; whoever owns it moves the cursor."""

    class Clicked(Message):
        """A row was clicked."""

        def __init__(self, index: int) -> None:
            self.index = index
            super().__init__()

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._view = TableView()
        self._top = 0
        self.cursor = 0

    @property
    def view(self) -> TableView:
        return self._view

    @property
    def rows_shown(self) -> int:
        """How many rows there is room for."""
        return max(1, self.size.height - 1 - self._note_rows())

    def show(self, view: TableView, cursor: int) -> None:
        """Shows a view with the cursor at a row."""
        self._view, self.cursor = view, cursor
        self.refresh()

    def _note_rows(self) -> int:
        return min(len(self._note_lines()), max(0, self.size.height - 3))

    def _note_lines(self) -> list[str]:
        return [line for note in self._view.notes for line in wrapped(note, max(1, self.size.width - 2))]

    def render(self) -> Content:
        width, height = self.size
        view = self._view
        if width < 4 or height < 2:
            return Content("")
        if not view.lines:
            said = [fitted(f" {line}", width) for line in wrapped(view.empty, max(1, width - 2))[:height]]
            return Content("\n").join(Content(line).stylize("$foreground-muted") for line in said)
        widths = _fitted_widths(view, width - 2)
        rows = self.rows_shown
        self._top = max(min(self._top, self.cursor), self.cursor + 1 - rows)
        self._top = max(0, min(self._top, len(view.lines) - rows))
        header = "  " + (" " * _GAP).join(
            _aligned(column.title, column, room) for column, room in zip(view.columns, widths, strict=True) if room
        )
        drawn = [Content(fitted(header, width)).stylize("bold $foreground-muted")]
        for index in range(self._top, min(self._top + rows, len(view.lines))):
            drawn.append(self._row(view.lines[index], index == self.cursor, widths, width))
        drawn += [Content("")] * (1 + rows - len(drawn))
        drawn += [Content(fitted(f" {note}", width)) for note in self._note_lines()[: self._note_rows()]]
        return Content("\n").join(drawn)

    def _row(self, line: Line, here: bool, widths: list[int], width: int) -> Content:
        parts: list[Content] = []
        for cell, column, room in zip(line.cells, self._view.columns, widths, strict=True):
            if not room:
                continue
            if column.kind == "bar":
                filled = round(min(1.0, max(0.0, float(cell))) * room)
                bar = self._glyphs.bar * filled
                parts.append(Content(fitted(bar, room)).stylize("$text-accent"))
            else:
                parts.append(plain(_aligned(printable(cell), column, room, self._glyphs.ellipsis)))
        row = plain(" " * _GAP).join(parts)
        if line.style:
            row = row.stylize(line.style)
        lead = Content(f"{self._glyphs.cursor if here else ' '} ").stylize("$text-accent")
        whole = lead + row
        return whole.stylize("bold") if here else whole

    def on_click(self, event: events.Click) -> None:
        index = self._top + event.y - 1
        if 1 <= event.y <= self.rows_shown and index < len(self._view.lines):
            self.post_message(self.Clicked(index))


def _aligned(text: str, column: Column, width: int, ellipsis: str = "…") -> str:
    if column.kind == "number":
        return " " * (width - cell_len(text)) + text if cell_len(text) <= width else fitted(text, width, ellipsis)
    return fitted(text, width, ellipsis)


def _fitted_widths(view: TableView, width: int) -> list[int]:
    """A width for each column, 0 for one that has no room: bars give way first, then texts are cut."""
    widths = list(view.widths)

    def total() -> int:
        shown = [each for each in widths if each]
        return sum(shown) + _GAP * max(0, len(shown) - 1)

    for index, column in enumerate(view.columns):
        if column.kind == "bar" and total() > width:
            over = total() - width
            widths[index] = widths[index] - over if widths[index] - over >= 6 else 0
    while total() > width:
        texts = [i for i, column in enumerate(view.columns) if column.kind == "text" and widths[i] > _LEAST_TEXT]
        if not texts:
            break
        longest = max(texts, key=lambda index: widths[index])
        widths[longest] = max(_LEAST_TEXT, widths[longest] - (total() - width))
    for index in reversed(range(1, len(widths))):  # the last columns say least
        if total() > width:
            widths[index] = 0
    if widths:
        widths[0] = min(widths[0], width)
    return widths
