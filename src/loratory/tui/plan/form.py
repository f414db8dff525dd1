"""The settings as a list with a cursor; only the rows on screen are made."""

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from loratory.tui.plan.rows import UNREAD, Row
from loratory.tui.text import Glyphs, fitted, plain, printable

_NAME_WIDTH = 27
_LEAST_VALUE = 12
_ORIGIN_WIDTH = 6
_SIGNS = {"error": "x", "warning": "!", "note": "i"}
_STYLES = {"error": "bold $text-error", "warning": "$text-warning", "note": "$text-accent"}


class Form(Widget):
    """Draws the rows of a draft; whoever owns it moves the cursor."""

    class Clicked(Message):
        """A row was clicked."""

        def __init__(self, index: int) -> None:
            self.index = index
            super().__init__()

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._rows: tuple[Row, ...] = ()
        self._cursor = 0
        self._top = 0
        self._is_active = True
        self._empty = ""

    def show(self, rows: tuple[Row, ...], cursor: int, *, is_active: bool, empty: str = "") -> None:
        """Shows rows with the cursor at one of them. is_active: keys go here. empty: what stands where are no rows."""
        self._rows, self._cursor, self._is_active, self._empty = rows, cursor, is_active, empty
        self.refresh()

    @property
    def rows_shown(self) -> int:
        """How many rows there is room for."""
        return max(1, self.size.height)

    def render(self) -> Content:
        width, height = self.size
        if width < 8 or height < 1:
            return Content("")
        if not self._rows:
            return Content(fitted(f" {self._empty}", width, self._glyphs.ellipsis)).stylize("$foreground-muted")
        top = self._cursor
        if top and not self._rows[top - 1].is_setting:
            top -= 1  # the title of a table comes into view with its first setting
        self._top = max(min(self._top, top), self._cursor + 1 - height)
        self._top = max(0, min(self._top, len(self._rows) - height))
        shown = range(self._top, min(self._top + height, len(self._rows)))
        return Content("\n").join([self._line(self._rows[index], index == self._cursor, width) for index in shown])

    def _line(self, row: Row, here: bool, width: int) -> Content:
        ellipsis = self._glyphs.ellipsis
        if not row.is_setting:
            return Content(fitted(f" {row.title}", width, ellipsis)).stylize("bold $foreground-muted")
        name_width = min(_NAME_WIDTH, max(8, width - _LEAST_VALUE - _ORIGIN_WIDTH - 6))
        value_width = max(0, width - name_width - _ORIGIN_WIDTH - 6)
        cursor = self._glyphs.cursor if here else " "
        changed = self._glyphs.selected if row.is_changed else " "
        is_idle = not row.is_changed and (not row.value or row.origin == UNREAD)
        value = plain(fitted(row.value, value_width, ellipsis), "$foreground-muted" if is_idle else "")
        if row.is_changed:
            value = value.stylize("bold")
        line = Content.assemble(
            (f"{cursor} ", "$text-accent"),
            (printable(_SIGNS.get(row.severity, " ")), _STYLES.get(row.severity, "")),
            f"{changed} ",
            (fitted(row.title, name_width, ellipsis), "$foreground-muted" if is_idle else ""),
            " ",
            value,
            (fitted(row.origin, _ORIGIN_WIDTH, ellipsis), "$foreground-muted"),
        )
        return line.stylize("bold" if not self._is_active else "bold reverse") if here else line

    def on_click(self, event: events.Click) -> None:
        index = self._top + event.y
        if index < len(self._rows) and self._rows[index].is_setting:
            self.post_message(self.Clicked(index))


class Lines(Widget):
    """Lines of text that are longer than the screen: whoever owns it scrolls."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Content] = []
        self._top = 0

    def show(self, lines: list[Content]) -> None:
        """Shows lines; the place in them stays."""
        if lines != self._lines:
            self._lines = lines
            self.move(0)

    def move(self, by: int) -> None:
        """Scrolls by some lines."""
        self._top = max(0, min(self._top + by, len(self._lines) - self.size.height))
        self.refresh()

    def render(self) -> Content:
        shown = self._lines[self._top : self._top + max(1, self.size.height)]
        return Content("\n").join([line.truncate(self.size.width) for line in shown])
