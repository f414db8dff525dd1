"""The Textual program: its panes, the run it trains, and a good end whatever happens to its terminal."""

import asyncio
import gc
import importlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rich.console import Console
from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.message import Message
from textual.message_pump import MessagePump

from loratory.errors import FAILED, LoratoryError
from loratory.paths import cache_dir, config_dir
from loratory.terminal.modes import Graphics
from loratory.terminal.probe import settle
from loratory.tui.ascii_only import AsciiOnly
from loratory.tui.first_frame import FirstFrame, is_loaded, module_of
from loratory.tui.in_turn import KeysInTurn
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import Project, open_project
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
_FIRST_FRAME = "first-frame"  # the mode it has; panes have theirs by their names


class Left(NamedTuple):
    """What there is when the screens have ended. run: still trains in this process, and goes on while that lives.
    problem: what went wrong, to be told."""

    run: "RunThread | None"
    problem: LoratoryError | None


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
        with suppress(RuntimeError):  # the loop has ended, and the screens with it
            self._own_loop.call_soon_threadsafe(self.leave)

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
        text = io.StringIO()
        console = Console(file=text, width=120)
        for renderable in self._exit_renderables:
            console.print(renderable)
        self._exit_renderables.clear()
        _keep_crash(text.getvalue())

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
        self._refuse_second_run()
        run = _new_run(config)
        self._train(config, run)
        return run

    def start_detached(self, config: "Config") -> "RunDirectory":
        """Trains in a process of its own, and shows it."""
        run = _new_run(config)
        self._start_apart(run)
        return run

    def resume(self, run: "RunDirectory", *, detached: bool) -> None:
        """Goes on with a run that has stopped, failed or crashed."""
        from loratory.runs.host import open_for_resume

        if detached:
            open_for_resume(run)
            self._start_apart(run)
        else:
            self._refuse_second_run()
            self._train(open_for_resume(run), run)

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


def crash_file() -> Path:
    """Where the traceback of a defect is kept."""
    return cache_dir() / "editor-crash.txt"


def _keep_crash(text: str) -> None:
    with suppress(OSError):  # the sentence is told all the same
        crash_file().parent.mkdir(parents=True, exist_ok=True)
        crash_file().write_text(text, "utf-8", "backslashreplace")


def _collect_garbage_again() -> None:
    gc.freeze()  # what is there now stays: it need not be looked through while somebody types
    gc.enable()


def _new_run(config: "Config") -> "RunDirectory":
    from loratory.config.load import dump_config
    from loratory.runs.store import RunDirectory

    return RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))


def run(
    path: Path,
    *,
    first: str = "",
    preview: str | None = None,
    mouse: bool = True,
    ascii_only: bool = False,
    read_only: bool = False,
) -> Left:
    """Opens what lies at `path` until the person leaves: a folder of pictures, a run, a folder of runs, or a config.

    first: the pane to begin with, where it is no folder of pictures. read_only: runs are shown and told nothing.
    Raises LoratoryError before it starts if it cannot.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):  # it draws on the last of them
        raise LoratoryError("This needs a terminal.", hint="Without one, use the verbs: `loratory --help` lists them.")
    size = os.get_terminal_size(sys.stdout.fileno())
    if (size.columns, size.lines) < (1, 1):
        raise LoratoryError("The terminal says it has no size.", hint="`stty rows 24 columns 80` tells it.")
    project = open_project(path)
    session = None
    if project.dataset is not None:
        from loratory.editing.session import open_session

        session = open_session(project.dataset)
    keymaps = Keymaps(config_dir() / "keys.toml")
    encoding = (sys.stdout.encoding or "").lower()
    ascii_only = ascii_only or not encoding.startswith("utf")
    graphics = settle("ascii" if ascii_only and preview is None else preview, os.environ)
    glyphs = ASCII if ascii_only else UNICODE
    if not first:
        has_run = session is None and project.config is None and project.newest_run() is not None
        first = "run" if has_run else "plan"
    app = LoratoryApp(session, keymaps, graphics, glyphs, project=project, first=first, read_only=read_only)
    problem: LoratoryError | None = None
    try:
        app.run(mouse=mouse)
    except Exception:
        if app.own_run is None:
            raise
        _keep_crash(traceback.format_exc())  # a run must not end with the screens, whatever ended these
        problem = _broken_off()
    finally:
        app.close()
    if app.return_code:  # without this a crash would look like a good end
        problem = _broken_off()
    elif session is not None and app.editor_screen.last_words:
        problem = LoratoryError("\n".join(app.editor_screen.last_words), exit_code=FAILED)
    thread = app.own_run
    if thread is None or not thread.is_alive:
        return Left(None, problem)
    if app.hung_up:
        _leave_terminal(thread.run.log)
    return Left(thread, problem)


def _broken_off() -> LoratoryError:
    return LoratoryError(
        "The program broke off: a defect of Loratory. Every change that it told of is on disk.",
        hint=f"{crash_file()} says where; please report it with that.",
        exit_code=FAILED,
    )


def _leave_terminal(log: Path) -> None:
    """Sends what would go to a terminal that is gone to `log`."""
    with suppress(OSError):  # without a log there is still the run
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
