"""The line in which a person types, and what it suggests."""

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from loratory.tui.text import UNICODE, Glyphs, fitted, number, printable


class PromptLine(Input):
    """A text field that leaves Tab, Enter, Escape, comma and the arrows to the prompt."""

    BINDINGS: ClassVar[list[BindingType]] = []

    class Key(Message):
        """A key the field does not keep: "tab", "enter", "escape", "up", "down" or "comma"."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    def __init__(self) -> None:
        super().__init__(select_on_focus=False, compact=True, id="prompt-line")
        self.cursor_blink = False
        self.takes_comma = False

    async def _on_key(self, event: events.Key) -> None:
        key = {"ctrl+n": "down", "ctrl+p": "up", "shift+tab": "up"}.get(event.key, event.key)
        if key in ("tab", "enter", "escape", "up", "down") or (key == "comma" and self.takes_comma):
            event.stop()
            event.prevent_default()
            self.post_message(self.Key(key))
            return
        await super()._on_key(event)


class Prompt(Horizontal):
    """A label and the line."""

    def compose(self) -> ComposeResult:
        yield Static("", id="prompt-label", markup=False)
        yield PromptLine()

    @property
    def line(self) -> PromptLine:
        return self.query_one(PromptLine)

    def open(self, label: str, text: str = "", *, takes_comma: bool = False) -> None:
        """Shows the prompt and puts the keyboard into it."""
        self.display = True
        self.label = label
        self.line.takes_comma = takes_comma
        self.line.value = text
        self.line.cursor_position = len(text)
        self.line.focus()

    @property
    def label(self) -> str:
        return self._label

    @label.setter
    def label(self, label: str) -> None:
        self._label = label
        label, room = printable(label), self.app.size.width // 2
        if cell_len(label) > room:  # however long a tag is, half of the line stays for what is typed
            label = fitted(label[:-3], room - 3) + label[-3:]
        self.query_one("#prompt-label", Static).update(Content(label))

    def close(self) -> None:
        self.display = False
        self.line.value = ""
        self.screen.set_focus(None)


@dataclass(frozen=True)
class Row:
    """A suggestion as it is shown. note: what is worth knowing of it, such as what it implies."""

    name: str
    count: int
    category: str
    note: str = ""


class Suggestions(Widget):
    """What may be meant by the text in the prompt; the marked row is what Tab takes."""

    def __init__(self, glyphs: Glyphs = UNICODE, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._rows: tuple[Row, ...] = ()
        self._marked = 0
        self._note = ""

    def show(self, rows: tuple[Row, ...], marked: int, note: str = "") -> None:
        if (rows, marked, note) != (self._rows, self._marked, self._note):
            self._rows, self._marked, self._note = rows, marked, note
            self.styles.height = max(1, len(rows) + 2)
            self.refresh()

    def render(self) -> Content:
        width = self.size.width
        if width < 12:
            return Content("")
        lines = [self._line(row, index == self._marked, width) for index, row in enumerate(self._rows)]
        if self._rows and 0 <= self._marked < len(self._rows):
            lines.append(Content(fitted(self._rows[self._marked].note, width, self._glyphs.ellipsis)).stylize("italic"))
        lines.append(Content(fitted(self._note, width, self._glyphs.ellipsis)).stylize("$foreground-muted"))
        return Content("\n").join(lines)

    def _line(self, row: Row, marked: bool, width: int) -> Content:
        if not row.count and not row.category:
            name = fitted(row.name, width - 2, self._glyphs.ellipsis)
            return Content(f"{self._glyphs.cursor if marked else ' '} {name}")
        name_width = width - 2 - 6 - 9
        return Content.assemble(
            (f"{self._glyphs.cursor} " if marked else "  ", "$text-accent"),
            (fitted(row.name, name_width, self._glyphs.ellipsis), "bold" if marked else ""),
            (f"{number(row.count) if row.count else '':>6}", "$foreground-muted"),
            (f" {fitted(row.category, 8)}", "$foreground-muted"),
        )
