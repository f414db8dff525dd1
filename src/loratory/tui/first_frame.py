"""What stands on the screen while the modules of the first pane are imported, which takes most of a second."""

import importlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from loratory.tui.frame import footer_line, frame_line
from loratory.tui.keys import Keymap
from loratory.tui.project import Project
from loratory.tui.text import Glyphs


def module_of(pane: str) -> str:
    """The module that a pane's class is in."""
    return f"loratory.tui.{pane}.screen"


def is_loaded(pane: str) -> bool:
    """Whether a pane can be made without a wait."""
    return module_of(pane) in sys.modules


class FirstFrame(Screen[None]):
    """The frame of a pane, at once; its modules are imported beside it. Keys are kept for the pane.

    loaded: called in the screen's thread when the pane can be made, with what was typed meanwhile.
    """

    BINDINGS: ClassVar[list[BindingType]] = []
    AUTO_FOCUS = ""

    def __init__(
        self, pane: str, project: Project, keymap: Keymap, glyphs: Glyphs, loaded: Callable[[list[Message]], object]
    ) -> None:
        super().__init__()
        self._pane, self._project, self._keymap, self._glyphs = pane, project, keymap, glyphs
        self._loaded = loaded
        self._typed: list[Message] = []

    def compose(self) -> ComposeResult:
        title, footer = self._lines()
        yield Static(title, classes="pane-title", markup=False)
        yield Static(f" reading{self._glyphs.ellipsis}", classes="pane-body", markup=False)
        yield Static(footer, classes="pane-footer", markup=False)

    def on_mount(self) -> None:
        self.call_after_refresh(threading.Thread(target=self._load, name="first pane", daemon=True).start)

    def on_resize(self) -> None:
        if self.size.width != self._width:
            title, footer = self._lines()
            self.query_one(".pane-title", Static).update(title, layout=False)
            self.query_one(".pane-footer", Static).update(footer, layout=False)

    def _lines(self) -> tuple[Content, Content]:
        self._width = self.app.size.width
        where, state = _told_of(self._project, self._pane, self._glyphs)
        title = frame_line(where, state, self._pane, self._width, self._glyphs)
        return title, footer_line(self._keymap, "", self._width, self._glyphs)

    def _load(self) -> None:
        with suppress(Exception):  # making the pane fails in the same way, where it can be told
            _import(module_of(self._pane))
        self.call_later(lambda: self._loaded(self._typed))

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        self._typed.append(events.Key(event.key, event.character))

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        self._typed.append(events.Paste(event.text))


def _import(module: str) -> None:
    importlib.import_module(module)


def _told_of(project: Project, pane: str, glyphs: Glyphs) -> tuple[str, str]:
    """What a pane is opened on, and how that stands as far as one look at it tells."""
    if pane == "plan":
        return (project.config.name if project.config else "a new draft"), ""
    run = project.newest_run()
    if run is None:
        return project.directory.name, ""
    from loratory.runs.store import liveness
    from loratory.tui.run.signs import sign

    record = run.read_record()
    state = liveness(record) if record is not None or run.events.exists() else "not started"
    return run.name, f"{sign(state, glyphs)} "
