"""Screens over the editor: tables to choose from, text to read, the picture alone. Escape leaves each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from loratory.terminal.modes import Graphics
from loratory.tui.screens.page import Page
from loratory.tui.text import plain
from loratory.tui.widgets.preview import Preview

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Choice(Generic[_Value]):
    """A row of a table. key: the key that chose it."""

    value: _Value
    key: str


@dataclass(frozen=True)
class TableRow(Generic[_Value]):
    """text: what is shown and filtered by; style: of the whole row."""

    text: str
    value: _Value
    style: str = ""


class TableScreen(Page[Choice[_Value] | None], Generic[_Value]):
    """A list to move through, filter with / and choose from with the keys it names.

    keys: key -> what it does, for the line at the bottom; "enter" is one of them.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
        Binding("g", "first", show=False),
        Binding("G", "last", show=False),
    ]

    def __init__(self, title: str, rows: Sequence[TableRow[_Value]], keys: dict[str, str], empty: str) -> None:
        super().__init__()
        self._title = title
        self._rows = list(rows)
        self._shown = list(rows)
        self._keys = keys
        self._empty = empty

    def compose(self) -> ComposeResult:
        with Vertical(id="table"):
            yield Static(plain(self._title, "bold"), id="table-title")
            yield OptionList(id="table-rows", markup=False)
            yield Input(id="table-filter", compact=True, placeholder="filter")
            does = "  ".join(f"{key} {what}" for key, what in self._keys.items())
            yield Static(plain(f"{does}  / filter  Esc back"), id="table-keys")

    def on_mount(self) -> None:
        self.query_one(Input).display = False
        self._fill()
        self.query_one(OptionList).focus()

    def _fill(self) -> None:
        options = self.query_one(OptionList)
        shown = [Option(plain(row.text, row.style)) for row in self._shown]
        empty = "Nothing here fits the filter." if self._rows else self._empty
        options.set_options(shown or [Option(plain(empty, "$foreground-muted"), disabled=True)])
        if self._shown:
            options.highlighted = 0

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        if by > 0:
            options.action_cursor_down()
        else:
            options.action_cursor_up()

    def action_first(self) -> None:
        self.query_one(OptionList).action_first()

    def action_last(self) -> None:
        self.query_one(OptionList).action_last()

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        words = event.value.casefold().split()
        self._shown = [row for row in self._rows if all(word in row.text.casefold() for word in words)]
        self._fill()

    @on(Input.Submitted)
    def _filtered(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        if "enter" in self._keys:
            self._choose("enter")

    def on_key(self, event: events.Key) -> None:
        filtering = isinstance(self.focused, Input)
        key = event.character if event.character and event.character.isprintable() else event.key
        if event.key == "escape":
            event.stop()
            field = self.query_one(Input)
            if field.display:
                field.display = False
                field.value = ""
                self.query_one(OptionList).focus()
            else:
                self.dismiss(None)
        elif key == "/" and not filtering:
            event.stop()
            event.prevent_default()
            self.query_one(Input).display = True
            self.query_one(Input).focus()
        elif not filtering and key in self._keys:
            event.stop()
            self._choose(key)

    def _choose(self, key: str) -> None:
        index = self.query_one(OptionList).highlighted
        if index is not None and index < len(self._shown):
            self.dismiss(Choice(self._shown[index].value, key))


class TextScreen(Page[None]):
    """Text to read, scrolled by the usual keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
        Binding("space,pagedown,ctrl+d", "scroll(10)", show=False),
        Binding("pageup,ctrl+u", "scroll(-10)", show=False),
        Binding("g,home", "scroll(-100000)", show=False),
        Binding("G,end", "scroll(100000)", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[Content]) -> None:
        super().__init__()
        self._title = title
        self._lines = list(lines)

    def compose(self) -> ComposeResult:
        with Vertical(id="reader"):
            yield Static(plain(self._title, "bold"), id="reader-title")
            with VerticalScroll(id="reader-text", can_focus=False):
                yield Static(Content("\n").join(self._lines), id="reader-lines")
            yield Static("j k Space move   Esc back", id="reader-keys", markup=False)

    def action_scroll(self, by: int) -> None:
        self.query_one("#reader-text").scroll_relative(y=by, animate=False)


class ZoomScreen(Page[None]):
    """The picture over the whole screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,z,q,enter,space", "dismiss", show=False)]

    def __init__(self, graphics: Graphics, path: Path) -> None:
        super().__init__()
        self._graphics = graphics
        self._path = path

    def compose(self) -> ComposeResult:
        yield Preview(self._graphics, id="zoom")

    def on_mount(self) -> None:
        self.query_one(Preview).show(self._path)
