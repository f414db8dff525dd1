"""The Textual program: its panes, the run it trains, and a good end whatever happens to its terminal."""

import gc
import importlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from textual import events
from textual._styles_cache import StylesCache
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.message import Message
from textual.message_pump import MessagePump

from loratory.errors import FAILED, LoratoryError
from loratory.terminal.modes import Graphics
from loratory.tui.ascii_only import AsciiOnly
from loratory.tui.crash import keep_crash
from loratory.tui.delivery import Delivery
from loratory.tui.first_frame import FirstFrame, is_loaded, module_of
from loratory.tui.in_turn import KeysInTurn
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import Project
from loratory.tui.text import ASCII, UNICODE, Glyphs, Harmless

if TYPE_CHECKING:
    from loratory.config.schema import Config
    from loratory.editing.session import Session
    from loratory.runs.host_thread import RunThread
    from loratory.runs.store import RunDirectory
    from loratory.tui.pane import Pane
    from loratory.tui.screens.tags import TagsScreen

# So long an orderly end may take once the terminal is gone; captions are written to the last in any case.
_ORDERLY_END_S = 5.0
# By then the screen behind a page that was closed has been drawn.
_COLLECTED_AFTER_S = 0.1
_FIRST_FRAME = "first-frame"  # the mode it has; panes have theirs by their names


class LoratoryApp(App[None]):
    """The panes of one dataset, the tag editor first, or of a project without one.

    first: the pane to open with, where there is no dataset.
    """

    CSS_PATH = "loratory.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", show=False, priority=True),
        Binding("ctrl+c", "say_quit", show=False, priority=True),
    ]

    def __init__(
        self,
        session: "Session | None",
        keymaps: Keymaps,
        graphics: Graphics,
        glyphs: Glyphs = UNICODE,
        *,
        project: Project | None = None,
        first: str = "plan",
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self._session = session
        self._keymaps = keymaps
        self._graphics = graphics
        self._glyphs = glyphs
        self._first = first
        self.project = project or Project(Path.cwd(), Path.cwd() / "runs")
        self._editor = None if session is None else self._make_editor(session)
        self.panes: dict[str, Pane] = {}
        self.read_only = read_only
        self._shown_run: RunDirectory | None = None
        self.own_run: RunThread | None = None
        self.hung_up = False
        self._was_told_to_end = False
        self._is_over = threading.Event()
        # Nothing moves by itself: over a slow link each frame of an animation is one too many.
        self.animation_level = "none"
        self._harmless = Harmless()
        self._ascii_only = glyphs is ASCII
        self._keys_in_turn = KeysInTurn(super().on_event, self._way_of_keys)
        self.typed_ahead = ""
        """Keys as a terminal sends them, pressed before the program could read them."""

    def on_load(self) -> None:
        # Here they come before those that the terminal still holds.
        if self.typed_ahead:
            parser = XTermParser()
            for event in (*parser.feed(self.typed_ahead), *parser.feed("")):  # "": what may begin a sequence is a key
                if isinstance(event, (events.Key, events.Paste)):
                    self.post_message(event)

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
            self._deliver = Delivery(self)
            # Without this the process dies with captions still to be written and a run in it, or spins on a terminal
            # that is gone.
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
        editor = self._editor
        if editor is not None:
            self.add_mode("tags", lambda: editor)
            self.switch_mode("tags")
        elif is_loaded(self._first):
            self.show_pane(self._first)
        else:
            frame = FirstFrame(
                self._first, self.project, self._keymaps(self._first), self._glyphs, self._leave_first_frame
            )
            self.add_mode(_FIRST_FRAME, lambda: frame)
            self.switch_mode(_FIRST_FRAME)
            return
        self._collect_garbage_again()

    def _make_editor(self, session: "Session") -> "TagsScreen":
        from loratory.tui.screens.tags import TagsScreen  # not where no dataset is open

        return TagsScreen(self, session, self._keymaps("tags"), self._glyphs, self._graphics)

    def _leave_first_frame(self, typed: list[Message]) -> None:
        """The pane it stood for can be made now; it gets the keys that were typed meanwhile."""
        if self.current_mode == _FIRST_FRAME:
            self.show_pane(self._first)
            for event in typed:
                self.post_message(event)
        self._collect_garbage_again()

    def _collect_garbage_again(self) -> None:
        if not gc.isenabled():  # `loratory DIR` switches it off to start sooner
            self.call_after_refresh(_collect_garbage_again)

    @property
    def editor_screen(self) -> "TagsScreen":
        """The tag editor. Raises LoratoryError where no dataset is open."""
        if self._editor is None:
            raise LoratoryError(
                "No dataset is open here.", hint="`loratory DIR` opens a folder of pictures, with all panes."
            )
        return self._editor

    def _on_signal(self, number: int, frame: object) -> None:
        """Ends the screens in good order, or after a while without it; a second one, of those who want an end, stops
        the run with its state saved.

        A handler of Python's own rather than the event loop's: the loop may be waiting, for ever, until a terminal that
        is gone takes what was written to it.
        """
        self.hung_up = self.hung_up or number == signal.SIGHUP
        if not self._was_told_to_end:
            self._was_told_to_end = True
            threading.Thread(target=self._end_anyway, name="end", daemon=True).start()
        elif number != signal.SIGHUP and self.own_run is not None:
            self.own_run.stop()
        self._deliver(self.leave)

    def _end_anyway(self) -> None:
        time.sleep(_ORDERLY_END_S)
        if self._editor is not None:
            self._editor.end_writing()
        if self.own_run is not None:
            self.own_run.wait()
            if self._is_over.is_set():  # what follows the screens ends by itself
                return
        os._exit(FAILED)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [self._harmless, *([AsciiOnly()] if self._ascii_only else []), *super().get_line_filters()]

    def _print_error_renderables(self) -> None:
        """Keeps the traceback of a defect, which shows captions, in a file instead of on the terminal."""
        if not self._exit_renderables:
            return  # a good end; what is kept of an earlier one stays
        text = io.StringIO()
        console = Console(file=text, width=120, markup=False, emoji=False)
        for renderable in self._exit_renderables:
            console.print(renderable)
        self._exit_renderables.clear()
        keep_crash(text.getvalue())

    def pop_screen(self) -> AwaitComplete:
        # Textual's cache of colours keeps the newest 1,024 widgets that were drawn, with all lines that were drawn of
        # them: some 9,000 objects for each opening of a page, among which the collector then searches for garbage.
        StylesCache.get_inner_outer.cache_clear()
        # A page is one large circle. It is collected now, while what lies behind it is looked at, rather than with two
        # others at some later key, which would wait for 30 ms and more.
        self.set_timer(_COLLECTED_AFTER_S, _collect_garbage)
        return super().pop_screen()

    def show_pane(self, name: str, at: str | None = None) -> None:
        """Brings a pane to the front, at the picture of that name; it is made when it is first wanted."""
        if name == "tags":
            editor = self.editor_screen
            self.switch_mode(name)
            editor.arrive(at)
            return
        pane = self.panes.get(name)
        if pane is None:
            pane = self.panes[name] = self._make_pane(name)
            self.add_mode(name, lambda: pane)
        self.switch_mode(name)
        pane.come(at)

    def show_pictures(self, label: str, names: Collection[str]) -> None:
        """Shows some pictures, by their names, in the tag editor; `label` says which they are."""
        editor = self.editor_screen
        self.switch_mode("tags")
        editor.show_only(label, names)

    # --- runs ---

    @property
    def run_shown(self) -> "RunDirectory | None":
        """The run that the run pane and the gallery show."""
        if self._shown_run is None:
            self._shown_run = self.project.newest_run()
        return self._shown_run

    def show_run(self, run: "RunDirectory") -> None:
        """Brings a run to the front of the run pane."""
        self._shown_run = run
        self.show_pane("run")

    def plan_config(self, path: Path) -> None:
        """Opens a TOML file in the plan pane."""
        self.show_pane("plan", str(path))

    def start(self, config: "Config") -> "RunDirectory":
        """Trains in a thread of this process, one run at a time, and shows it."""
        self._refuse_in_a_view()
        self._refuse_second_run()
        run = _new_run(config)
        self._train(config, run)
        return run

    def start_detached(self, config: "Config") -> "RunDirectory":
        """Trains in a process of its own, and shows it."""
        self._refuse_in_a_view()
        run = _new_run(config)
        self._start_apart(run)
        return run

    def resume(self, run: "RunDirectory", *, detached: bool) -> None:
        """Goes on with a run that has stopped, failed or crashed."""
        from loratory.runs.host import open_for_resume

        self._refuse_in_a_view()
        if detached:
            open_for_resume(run)
            self._start_apart(run)
        else:
            self._refuse_second_run()
            self._train(open_for_resume(run), run)

    def _refuse_in_a_view(self) -> None:
        if self.read_only:
            raise LoratoryError("This is a read-only view: nothing is trained from here.")

    def _refuse_second_run(self) -> None:
        if self.own_run is not None and self.own_run.is_alive:
            raise LoratoryError(
                f"This program trains {self.own_run.run.name} already, and one run at a time.",
                hint="Start this one in a process of its own, or put it in the queue: `loratory queue add CONFIG`.",
            )

    def _train(self, config: "Config", run: "RunDirectory") -> None:
        from loratory.runs.host_thread import RunThread

        self.own_run = RunThread(config, run)
        self.own_run.start()
        self.show_run(run)

    def _start_apart(self, run: "RunDirectory") -> None:
        from loratory.runs.detached import start_detached

        try:
            start_detached(run)
        except OSError as error:
            raise LoratoryError(f"No process can be started for {run.name}: {error.strerror}.") from error
        self.show_run(run)

    def rename(self, work: Callable[[], object], done: str) -> None:
        """Renames folders once all captions are written, and has every pane look at them anew; `done` tells of it."""
        from loratory.tui.told import Told

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
        from loratory.tui.pane import DatasetPane

        kind = getattr(importlib.import_module(module_of(name)), f"{name.capitalize()}Screen")
        rest = self._keymaps(name), self._glyphs, self._graphics
        return kind(self, self.editor_screen.session, *rest) if issubclass(kind, DatasetPane) else kind(self, *rest)

    def leave(self) -> None:
        """Ends the program; what is being written is written first. A run in this process goes on."""
        if self._editor is not None:
            self._editor.leave()
        else:
            self.exit()

    def close(self) -> None:
        """Ends all threads but that of a run; every change that was shown is on disk when this returns."""
        for pane in self.panes.values():
            pane.end()
        if self._editor is not None:
            self._editor.close()
        self._is_over.set()

    async def action_quit(self) -> None:
        self.leave()

    def action_say_quit(self) -> None:
        from loratory.tui.told import Told

        if self.current_mode == _FIRST_FRAME:
            return  # it is in front for a moment only
        front = self.panes.get(self.current_mode) or self.editor_screen
        front.tell(Told("ctrl+q leaves; everything is saved already"))


def _collect_garbage() -> None:
    if gc.isenabled():  # not while the engine is loaded, which makes a million objects that stay
        gc.collect()


def _collect_garbage_again() -> None:
    gc.freeze()  # what is there now stays: it need not be looked through while somebody types
    gc.enable()


def _new_run(config: "Config") -> "RunDirectory":
    from loratory.config.load import dump_config
    from loratory.runs.store import RunDirectory

    return RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
