"""The list of pictures: only the rows on screen are made, so ten thousand cost what ten do."""

from collections.abc import Callable

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from loratory.editing.items import Item
from loratory.tui.selection import Selection
from loratory.tui.text import Glyphs, fitted, printable


class ImageList(Widget):
    """One row a picture: cursor, selection, name, state. It draws a Selection and never changes it."""

    class Clicked(Message):
        """A row was clicked. index: into the shown pictures."""

        def __init__(self, index: int) -> None:
            self.index = index
            super().__init__()

    def __init__(
        self, selection: Selection, has_finding: Callable[[Item], bool], glyphs: Glyphs, *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._selection = selection
        self._has_finding = has_finding
        self._glyphs = glyphs
        self._top = 0

    def render(self) -> Content:
        width, height = self.size
        shown, cursor = self._selection.shown, self._selection.cursor
        # The cursor keeps two rows of sight ahead of it where there are rows.
        margin = min(2, (height - 1) // 2)
        self._top = max(min(self._top, cursor - margin), cursor + margin + 1 - height)
        self._top = max(0, min(self._top, len(shown) - height))
        ranged = {item.name for item in self._selection.ranged}
        rows = [
            self._row(shown[index], index == cursor, shown[index].name in ranged, width)
            for index in range(self._top, min(self._top + height, len(shown)))
        ]
        return Content("\n").join(rows) if rows else Content("")

    def _row(self, item: Item, here: bool, in_range: bool, width: int) -> Content:
        glyphs = self._glyphs
        selected = self._selection.is_selected(item) or in_range
        if not item.tags:
            state, colour = glyphs.untagged, "$text-warning"
        elif self._has_finding(item):
            state, colour = glyphs.finding, "$text-warning"
        elif item.reviewed:
            state, colour = glyphs.reviewed, "$text-success"
        else:
            state, colour = glyphs.untouched, "$foreground-muted"
        if item.reviewed and state != glyphs.reviewed:
            state += glyphs.reviewed
        name = short_name(item.image_name, width - 5, glyphs.ellipsis)
        lead = (glyphs.cursor if here else " ") + (glyphs.selected if selected else " ")
        return Content.assemble(
            (lead, "$text-accent"),
            (fitted(name, width - 5), "bold" if here else ""),
            " ",
            (fitted(state, 2), colour),
        )

    def on_click(self, event: events.Click) -> None:
        index = self._top + event.y
        if index < len(self._selection.shown):
            self.post_message(self.Clicked(index))


def short_name(name: str, width: int, ellipsis: str) -> str:
    """A file name without its ending where it is too long, then without its beginning: numbers stand at the end."""
    name = printable(name)
    if cell_len(name) <= width:
        return name
    stem = name.rpartition(".")[0] or name
    if cell_len(stem) <= width:
        return stem
    while stem and cell_len(stem) > width - cell_len(ellipsis):
        stem = stem[1:]
    return ellipsis + stem
