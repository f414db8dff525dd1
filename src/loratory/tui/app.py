"""The Textual program: opens a folder in the tag editor, and ends well whatever happens to its terminal."""

import asyncio
import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.message_pump import MessagePump

from loratory.editing.session import Session, open_session
from loratory.errors import FAILED, LoratoryError
from loratory.paths import cache_dir, config_dir
from loratory.terminal.modes import Graphics
from loratory.terminal.probe import settle
from loratory.tui.ascii_only import AsciiOnly
from loratory.tui.in_turn import KeysInTurn
from loratory.tui.keymaps import Keymaps
from loratory.tui.screens.tags import TagsScreen
from loratory.tui.text import ASCII, UNICODE, Glyphs, Harmless

if TYPE_CHECKING:
    from loratory.tui.pane import Pane

# So long an orderly end may take once the terminal is gone; captions are written to the last in any case.
_ORDERLY_END_S = 5.0


class LoratoryApp(App[None]):
    """One dataset in its panes: the tag editor first."""

    CSS_PATH = "loratory.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", show=False, priority=True),
        Binding("ctrl+c", "say_quit", show=False, priority=True),
    ]

    def __init__(self, session: Session, keymaps: Keymaps, graphics: Graphics, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self._session = session
        self._keymaps = keymaps
        self._graphics = graphics
        self._glyphs = glyphs
        self.editor_screen = TagsScreen(self, session, keymaps("tags"), glyphs, graphics)
        self.panes: dict[str, Pane] = {}
        # Nothing moves by itself: over a slow link each frame of an animation is one too many.
        self.animation_level = "none"
        self._harmless = Harmless()
        self._ascii_only = glyphs is ASCII
        self._keys_in_turn = KeysInTurn(super().on_event, self._way_of_keys)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            await self._keys_in_turn.take(event)
        else:
            await super().on_event(event)

    def _way_of_keys(self) -> list[MessagePump]:
        first = self.focused or self.screen
        return [first, *first.ancestors]

    def on_mount(self) -> None:
        if not self.is_headless:
            self._own_loop = asyncio.get_running_loop()
            # Without this the process dies with captions still to be written, or spins on a terminal that is gone.
            for number in (signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, self._on_hangup)
        self.add_mode("tags", lambda: self.editor_screen)
        self.switch_mode("tags")
        if not gc.isenabled():  # `loratory DIR` switches it off to start sooner
            self.editor_screen.call_after_refresh(_collect_garbage_again)

    def _on_hangup(self, number: int, frame: object) -> None:
        """Ends the program in good order, or after a while without it.

        A handler of Python's own rather than the event loop's: the loop may be waiting, for ever, until a terminal that
        is gone takes what was written to it.
        """
        threading.Thread(target=self._end_anyway, name="end", daemon=True).start()
        self._own_loop.call_soon_threadsafe(self.leave)

    def _end_anyway(self) -> None:
        time.sleep(_ORDERLY_END_S)
        self.editor_screen.end_writing()
        os._exit(FAILED)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [self._harmless, *([AsciiOnly()] if self._ascii_only else []), *super().get_line_filters()]

    def _print_error_renderables(self) -> None:
        """Keeps the traceback of a defect, which shows captions, in a file instead of on the terminal."""
        crash_file().parent.mkdir(parents=True, exist_ok=True)
        with crash_file().open("w", encoding="utf-8") as file:
            console = Console(file=file, width=120)
            for renderable in self._exit_renderables:
                console.print(renderable)
        self._exit_renderables.clear()

    def show_pane(self, name: str, at: str | None = None) -> None:
        """Brings a pane to the front, at the picture of that name; it is made when it is first wanted."""
        if name == "tags":
            self.switch_mode(name)
            self.editor_screen.arrive(at)
            return
        pane = self.panes.get(name)
        if pane is None:
            pane = self.panes[name] = self._make_pane(name)
            self.add_mode(name, lambda: pane)
        self.switch_mode(name)
        pane.come(at)

    def show_pictures(self, label: str, names: Collection[str]) -> None:
        """Shows some pictures, by their names, in the tag editor; `label` says which they are."""
        self.switch_mode("tags")
        self.editor_screen.show_only(label, names)

    def rename(self, work: Callable[[], object], done: str) -> None:
        """Renames folders once all captions are written, and has every pane look at them anew; `done` tells of it."""
        from loratory.tui.editor import Told

        def renamed(result: object) -> None:
            told = Told.of(result) if isinstance(result, LoratoryError) else Told(done)
            self.editor_screen.look_anew()
            for pane in self.panes.values():
                pane.renamed(told)

        self.editor_screen.writer.put(work, renamed)

    def reload(self) -> None:
        """Looks for pictures that came or went."""
        self.editor_screen.reload()

    def _make_pane(self, name: str) -> "Pane":
        kind = getattr(importlib.import_module(f"loratory.tui.{name}.screen"), f"{name.capitalize()}Screen")
        return kind(self, self._session, self._keymaps(name), self._glyphs, self._graphics)

    def leave(self) -> None:
        """Ends the program; what is being written is written first."""
        self.editor_screen.leave()

    def close(self) -> None:
        """Ends all threads; every change that was shown is on disk when this returns."""
        for pane in self.panes.values():
            pane.end()
        self.editor_screen.close()

    async def action_quit(self) -> None:
        self.leave()

    def action_say_quit(self) -> None:
        from loratory.tui.editor import Told

        front = self.panes.get(self.current_mode, self.editor_screen)
        front.tell(Told("ctrl+q leaves; everything is saved already"))


def crash_file() -> Path:
    """Where the traceback of a defect is kept."""
    return cache_dir() / "editor-crash.txt"


def _collect_garbage_again() -> None:
    gc.freeze()  # what is there now stays: it need not be looked through while somebody types
    gc.enable()


def run(directory: Path, *, preview: str | None = None, mouse: bool = True, ascii_only: bool = False) -> None:
    """Opens the tag editor on a folder until the person leaves. Raises LoratoryError before it starts if it cannot."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):  # it draws on the last of them
        raise LoratoryError(
            "The tag editor needs a terminal.", hint="Without one, use `loratory tag` and `loratory check`."
        )
    size = os.get_terminal_size(sys.stdout.fileno())
    if (size.columns, size.lines) < (1, 1):
        raise LoratoryError("The terminal says it has no size.", hint="`stty rows 24 columns 80` tells it.")
    session = open_session(directory)
    keymaps = Keymaps(config_dir() / "keys.toml")
    encoding = (sys.stdout.encoding or "").lower()
    ascii_only = ascii_only or not encoding.startswith("utf")
    graphics = settle("ascii" if ascii_only and preview is None else preview, os.environ)
    glyphs = ASCII if ascii_only else UNICODE
    app = LoratoryApp(session, keymaps, graphics, glyphs)
    try:
        app.run(mouse=mouse)
    finally:
        app.close()
    if app.return_code:  # Textual has shown where; without this a crash would look like a good end
        raise LoratoryError(
            "The tag editor broke off: a defect of Loratory. Every change that it told of is on disk.",
            hint=f"{crash_file()} says where; please report it with that.",
            exit_code=FAILED,
        )
    if app.editor_screen.last_words:
        raise LoratoryError("\n".join(app.editor_screen.last_words), exit_code=FAILED)
