"""All runs of the project, newest first: one to be shown, two to be compared, several to be laid over each other."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.timer import Timer
from textual.widgets import Static

from loratory.config.describe import show
from loratory.errors import LoratoryError
from loratory.runs.compare import Difference, Glance, glance, settings_diff
from loratory.runs.store import ALIVE, RunDirectory, find_runs
from loratory.tui.delivery import Delivery
from loratory.tui.frame import footer_line
from loratory.tui.keys import Action, Keymap, written_key
from loratory.tui.pane import Panes, key_lines
from loratory.tui.run.head import clock, sign
from loratory.tui.screens.overlays import TextScreen
from loratory.tui.screens.page import Page
from loratory.tui.text import Glyphs, plain, printable
from loratory.tui.widgets.table import Column, Line, Table, TableView
from loratory.wording import spoken_time

_RUNS, _MOVE = "The run at the cursor, or the marked ones", "Move"
ACTIONS: tuple[Action, ...] = (
    Action("show", ("enter",), "show the run", _RUNS, short="show"),
    Action("mark", ("space",), "mark the run, or not", _RUNS, short="mark"),
    Action("diff", ("=",), "the settings in which two marked runs differ", _RUNS, short="differ"),
    Action("overlay", ("o",), "lay the curves of the marked runs over each other", _RUNS, short="overlay"),
    Action("copy", ("c",), "plan a new run with the settings of this one", _RUNS, short="plan anew"),
    Action("next", ("j", "down"), "next run", _MOVE),
    Action("previous", ("k", "up"), "previous run", _MOVE),
    Action("first", ("g g", "home"), "first run", _MOVE),
    Action("last", ("G", "end"), "last run", _MOVE),
    Action("page-down", ("ctrl+d", "pagedown"), "a page down", _MOVE),
    Action("page-up", ("ctrl+u", "pageup"), "a page up", _MOVE),
    Action("help", ("?", "f1"), "all keys", "List", short="keys"),
    Action("back", ("escape", "q"), "back to the run", "List", short="back"),
)
_COLUMNS = (
    Column("", "text"),
    Column("state", "text"),
    Column("run", "text"),
    Column("steps"),
    Column("began"),
    Column("took"),
    Column("loss"),
)
_MARK = "+"
# Runs that are being trained change; so often those on screen are read again.
_LOOK_EVERY_S = 2.0
# What was read is shown this often: a line at a time, the table would be drawn for each.
_TOLD_EVERY_S = 0.1


class RunsScreen(Page[list[RunDirectory] | None]):
    """Dismisses with the runs that are to be laid over each other in the chart, or None.

    Names are listed in a thread, and records read for the rows on screen only: a thousand runs cost what forty do.
    """

    DEFAULT_CSS = """
    RunsScreen { background: $background; }
    #runs-list { width: 100%; height: 100%; background: $background; }
    #runs-title { height: 1; background: $panel; padding: 0 1; }
    #runs-rows { height: 1fr; padding: 0 1; }
    #runs-told { height: 1; }
    #runs-keys { height: 1; background: $panel; }
    """
    BINDINGS: ClassVar = []
    AUTO_FOCUS = ""

    def __init__(self, panes: Panes, glyphs: Glyphs) -> None:
        super().__init__()
        self._panes = panes
        self._glyphs = glyphs
        self._keymap = Keymap(ACTIONS)
        self._typed: list[str] = []
        self._runs: list[RunDirectory] | None = None
        self._glances: dict[int, Glance] = {}
        self._marked: list[int] = []
        self._cursor = 0
        self._view: TableView | None = None  # as long as nothing in it has changed
        self._said = ""
        self._problem = ""
        self._wanted = threading.Event()
        self._wanted_rows: list[int] = []
        self._stopping = threading.Event()
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="runs-list"):
            yield Static(plain(f"Runs in {self._panes.project.runs_dir}", "bold"), id="runs-title")
            yield Table(self._glyphs, id="runs-rows")
            yield Static("", id="runs-told", markup=False)
            yield Static("", id="runs-keys", markup=False)

    def on_mount(self) -> None:
        self._deliver = Delivery(self)
        threading.Thread(target=self._read, name="runs", daemon=True).start()
        self._timer = self.set_interval(_LOOK_EVERY_S, self._want_living)
        self._look()

    def on_unmount(self) -> None:
        self._stopping.set()
        self._wanted.set()

    def on_resize(self) -> None:
        self.call_after_refresh(self._look)

    @property
    def runs(self) -> list[RunDirectory]:
        return self._runs or []

    @property
    def message(self) -> str:
        return self._said

    # --- reading, in a thread ---

    def _read(self) -> None:
        found: list[RunDirectory] = []
        problem = ""
        try:
            found = list(find_runs(self._panes.project.runs_dir))
        except OSError as error:
            problem = f"{error.strerror} ({error.filename})"
        self._deliver(lambda: self._take_runs(found, problem))
        while not self._stopping.is_set():
            self._wanted.wait()
            self._wanted.clear()
            rows = self._wanted_rows
            told_s = time.monotonic()
            read: dict[int, Glance] = {}
            for row in rows:
                read[row] = glance(found[row])
                is_over = self._stopping.is_set() or rows is not self._wanted_rows or row == rows[-1]
                if is_over or time.monotonic() - told_s > _TOLD_EVERY_S:
                    told_s = time.monotonic()
                    self._deliver(partial(self._take_glances, read))
                    read = {}
                if is_over:
                    break

    def _take_runs(self, found: list[RunDirectory], problem: str) -> None:
        self._runs, self._problem, self._view = found, problem, None
        shown = self._panes.run_shown
        paths = [run.path for run in found]
        if shown is not None and shown.path in paths:
            self._cursor = paths.index(shown.path)
        self._look()

    def _take_glances(self, read: dict[int, Glance]) -> None:
        if any(self._glances.get(row) != each for row, each in read.items()):
            self._glances.update(read)
            self._view = None
            self._look()

    def _want_living(self) -> None:
        self._want(lambda row: row not in self._glances or self._glances[row].state in ALIVE)

    def _want(self, wanted: Callable[[int], bool]) -> None:
        """Has the rows around the cursor read, as far as they are wanted; those next to it first."""
        around = self.query_one(Table).rows_shown
        rows = range(max(0, self._cursor - around), min(len(self.runs), self._cursor + around + 1))
        near = sorted(filter(wanted, rows), key=lambda row: abs(row - self._cursor))
        if near:
            self._wanted_rows = near
            self._wanted.set()

    # --- drawing ---

    def _look(self) -> None:
        if not (self.is_mounted and self.is_running):
            return
        empty = "Looking for runs." if self._runs is None else f"No runs in {self._panes.project.runs_dir}."
        self.query_one(Table).show(
            TableView(_COLUMNS, tuple(map(self._line, range(len(self.runs)))), empty=printable(self._problem or empty)),
            self._cursor,
        )
        self.query_one("#runs-told", Static).update(plain(f" {self._said}"))
        self.query_one("#runs-keys", Static).update(footer_line(self._keymap, "", self.size.width, self._glyphs))
        self._want(lambda row: row not in self._glances)

    def _line(self, row: int) -> Line:
        mark = _MARK if row in self._marked else " "
        read = self._glances.get(row)
        if read is None:
            return Line((mark, "", self.runs[row].name, "", "", "", ""))
        record = read.record
        state = sign(read.state if record else "not started", self._glyphs)
        steps = f"{record.step}/{record.total_steps}" if record and record.total_steps else ""
        began = "" if read.started_s is None else clock(read.started_s, time.time())
        took = "" if read.lasted_s is None else spoken_time(read.lasted_s)
        loss = "" if read.loss is None else f"{read.loss:.4f}"
        style = "$text-error" if read.state in ("failed", "crashed") and record else ""
        return Line((mark, state, self.runs[row].name, steps, began, took, loss), style=style)

    # --- keys ---

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        keys = " ".join([*self._typed, written_key(event.key, event.character)])
        action = self._keymap.find(keys)
        self._typed = keys.split(" ") if action is None and self._keymap.is_prefix(keys) else []
        if action is None:
            return
        self._said = ""
        try:
            self._do(action.id)
        except LoratoryError as error:
            self._said = f"{self._glyphs.finding} {error.message}"
        self._look()

    def _do(self, action_id: str) -> None:
        page = self.query_one(Table).rows_shown
        match action_id:
            case "next" | "previous":
                self._move(1 if action_id == "next" else -1)
            case "first" | "last":
                self._move(-len(self.runs) if action_id == "first" else len(self.runs))
            case "page-down" | "page-up":
                self._move(page if action_id == "page-down" else -page)
            case "help":
                self.app.push_screen(TextScreen("Keys", key_lines(self._keymap)))
            case "back":
                self.dismiss(None)
            case _ if not self.runs:
                self._said = "There is no run yet."
            case "mark":
                self._mark()
            case "diff":
                self._compare()
            case "overlay":
                self.dismiss([self.runs[row] for row in self._marked or [self._cursor]])
            case "show":
                run = self.runs[self._cursor]
                self.dismiss(None)
                self._panes.show_run(run)
            case "copy":
                run = self.runs[self._cursor]
                self.dismiss(None)
                self._panes.plan_config(run.config)
            case _:
                raise AssertionError(action_id)

    def _move(self, by: int) -> None:
        self._cursor = max(0, min(len(self.runs) - 1, self._cursor + by))

    def _mark(self) -> None:
        if self._cursor in self._marked:
            self._marked.remove(self._cursor)
        else:
            self._marked.append(self._cursor)
        self._view = None
        self._move(1)

    def _compare(self) -> None:
        rows = self._marked if len(self._marked) != 1 else [*self._marked, self._cursor]
        if len(set(rows)) != 2:
            self._said = "Mark two runs with Space to see in which settings they differ."
            return
        a, b = (self.runs[row] for row in rows)
        differences = settings_diff(a, b)
        lines = diff_lines(a.name, b.name, differences)
        self.app.push_screen(TextScreen("Settings that differ", [plain(text, style) for text, style in lines]))

    @on(Table.Clicked)
    def _clicked(self, event: Table.Clicked) -> None:
        self._cursor = event.index
        self._look()


def diff_lines(a: str, b: str, differences: list[Difference]) -> list[tuple[str, str]]:
    """The settings in which two runs differ, for reading: (line, style)."""
    lines = [(f"a  {a}", "bold"), (f"b  {b}", "bold"), ("", "")]
    if not differences:
        return [*lines, ("Both have the same settings.", "")]
    for difference in differences:
        values = ("not set" if value is None else show(value) for value in (difference.a, difference.b))
        lines.append((difference.key, "$text-accent"))
        lines += [(f"   {letter}  {value}", "") for letter, value in zip("ab", values, strict=True)]
    return lines
