"""The list of originals: only the rows on screen are made."""

from typing import TYPE_CHECKING

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from loratory.dataset.findings import shown
from loratory.tui.prepare.state import PrepareState
from loratory.tui.prepare.views import state_glyph
from loratory.tui.text import Glyphs, fitted
from loratory.tui.widgets.image_list import short_name

if TYPE_CHECKING:
    from loratory.preparation.desk import Entry


class EntryList(Widget):
    """One row a picture: cursor, name, finding, state. It draws a state and never changes it."""

    class Clicked(Message):
        """A row was clicked. index: into the shown pictures."""

        def __init__(self, index: int) -> None:
            self.index = index
            super().__init__()

    def __init__(self, state: PrepareState, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._state = state
        self._glyphs = glyphs
        self._top = 0

    def render(self) -> Content:
        width, height = self.size
        entries, cursor = self._state.shown, self._state.cursor
        # The cursor keeps two rows of sight ahead of it where there are rows.
        margin = min(2, (height - 1) // 2)
        self._top = max(min(self._top, cursor - margin), cursor + margin + 1 - height)
        self._top = max(0, min(self._top, len(entries) - height))
        rows = [
            self._row(entries[index], index == cursor, width)
            for index in range(self._top, min(self._top + height, len(entries)))
        ]
        return Content("\n").join(rows) if rows else Content("")

    def _row(self, entry: "Entry", here: bool, width: int) -> Content:
        glyphs, state = self._glyphs, self._state
        sign, colour = state_glyph(state, entry, glyphs)
        found = state.findings_of(entry)
        finding_colour = "$text-warning" if state.is_serious(entry) else "$foreground-muted"
        name_style = "bold" if here else "$foreground-muted" if state.recipe(entry).skip else ""
        return Content.assemble(
            (glyphs.cursor if here else " ", "$text-accent"),
            " ",
            (
                fitted(short_name(shown(entry.name.rpartition("/")[2]), width - 5, glyphs.ellipsis), width - 5),
                name_style,
            ),
            " ",
            (glyphs.finding if found else " ", finding_colour),
            (fitted(sign, 1), colour),
        )

    def on_click(self, event: events.Click) -> None:
        index = self._top + event.y
        if index < len(self._state.shown):
            self.post_message(self.Clicked(index))
