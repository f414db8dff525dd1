"""The run pane: follows a run from its folder, and leaves commands there."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.timer import Timer

from loratory.runs.events import Sampled
from loratory.runs.store import RunDirectory
from loratory.terminal.modes import Graphics
from loratory.tui.frame import frame_line
from loratory.tui.keys import Keymap
from loratory.tui.pane import Pane, Panes
from loratory.tui.run.body import VIEWS, Body, View
from loratory.tui.run.charts import SUBJECTS, ZOOMS, ChartState
from loratory.tui.run.follower import READ_EVERY_S, Follower
from loratory.tui.run.head import Situation
from loratory.tui.run.signs import sign
from loratory.tui.run.verbs import Verbs
from loratory.tui.sparing import SparingCompositor
from loratory.tui.text import Glyphs
from loratory.tui.told import Told
from loratory.tui.widgets.table import Table

_FIRST_LOOK_S = 0.1

_HELP = """\
The run is read from its folder, as by every other viewer. What you ask of
it is left there and obeyed after the step in hand, also by a run in another
terminal or on another machine. Quitting never ends a run.
A picture's loss is divided by what is usual at its timesteps: 1.0 is as
expected. Between the dotted lines lie 95 of 100 steps of a healthy run.
"""


class RunScreen(Pane):
    """Draws what the follower knows, twice a second, the chart once; keys that change the run go to `Verbs`."""

    CSS_PATH = "run.tcss"
    name_of_pane = "run"
    # The chart is drawn every so many times.
    CHART_EVERY: ClassVar[int] = 2

    def __init__(self, panes: Panes, keymap: Keymap, glyphs: Glyphs, graphics: Graphics) -> None:
        super().__init__(panes, keymap, glyphs, graphics)
        self._compositor = SparingCompositor()

    def body(self) -> ComposeResult:
        yield Body(self.glyphs, self.graphics, id="run")

    def begin(self) -> None:
        self.follower: Follower | None = None
        self.others: list[Follower] = []
        self.chart = ChartState()
        self._view = 0
        self._ticks = 0
        self._drawn_version: object = None
        self._timer: Timer | None = None
        self._told_of_s = 0.0
        self._title = ""
        self.verbs_of_run = Verbs(self)

    # --- coming and going ---

    def arrive(self, at: str | None) -> None:
        """Follows the run that the program shows; another one than before is read from its beginning."""
        run = self.panes.run_shown
        if run is not None and (self.follower is None or self.follower.run.path != run.path):
            self.follow(run)
        self._set_looking(True)

    def follow(self, run: RunDirectory) -> None:
        for follower in (self.follower, *self.others):
            if follower is not None:
                follower.end()
        self.others = []
        self.follower = Follower(run)
        self.query_one(Body).forget()
        self._drawn_version = None
        self._told_of_s = time.time()
        self.follower.start()

    def overlay(self, runs: list[RunDirectory]) -> None:
        """Lays the curves of other runs over that of this one; none takes them away."""
        for follower in self.others:
            follower.end()
        own = self.follower.run.path if self.follower else None
        self.others = [Follower(run) for run in runs if run.path != own]
        for follower in self.others:
            follower.start()
        self._drawn_version = None

    def on_screen_suspend(self) -> None:
        self._set_looking(False)

    def on_screen_resume(self) -> None:
        if self._has_begun:
            self._set_looking(True)

    def on_resize(self) -> None:
        self.call_after_refresh(self.look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        for follower in (getattr(self, "follower", None), *getattr(self, "others", [])):
            if follower is not None:
                follower.end()

    def _set_looking(self, is_looked_at: bool) -> None:
        for follower in (self.follower, *self.others):
            if follower is not None:
                follower.look(is_looked_at)
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if is_looked_at:
            self.set_timer(_FIRST_LOOK_S, self._tick)
            self._timer = self.set_interval(READ_EVERY_S, self._tick)

    def _tick(self) -> None:
        if self.follower is None or not self.is_current:
            return
        self.verbs_of_run.tick()
        versions = (self.follower.version, *(other.version for other in self.others))
        version = (versions, self.query_one(Body).measures)
        if version == self._drawn_version:
            return
        self._ticks += 1
        with_chart = self._ticks % self.CHART_EVERY == 1 or self._drawn_version is None or self.follower.behind > 0
        self._draw_body(with_chart=with_chart)
        if with_chart:  # else the next time has it to draw
            self._drawn_version = version
        title = self.title_content(self.size.width)
        if title.plain != self._title:
            self._title = title.plain
            self._line("title", title)

    # --- what there is ---

    @property
    def view(self) -> View:
        return VIEWS[self._view]

    @property
    def is_up_to_date(self) -> bool:
        """Whether all that the run has written so far is known."""
        return self.follower is not None and self.follower.is_up_to_date

    def situation(self, follower: Follower) -> Situation:
        own = self.panes.own_run
        is_own = own is not None and own.is_alive and own.run.path == follower.run.path
        return Situation(
            follower.run,
            follower.standing,
            follower.progress,
            is_own,
            follower.behind,
            time.time(),
            self.panes.read_only,
        )

    def title_content(self, width: int) -> Content:
        if self.follower is None:
            return frame_line(self.panes.project.directory.name, "", self.name_of_pane, width, self.glyphs)
        with self.follower.lock:
            state = sign(self.situation(self.follower).state, self.glyphs)
        return frame_line(self.follower.run.name, f"{state} ", self.name_of_pane, width, self.glyphs)

    def help_lines(self) -> list[str]:
        return list(_HELP.splitlines())

    def attempt(self, work: Callable[[], object]) -> None:
        """Does what may be refused, and tells why."""
        self._try(work)

    def legal_keys(self) -> str:
        return self.verbs_of_run.legal_keys()

    def idle_actions(self) -> Collection[str]:
        return self.verbs_of_run.idle()

    def takes_key(self, key: str) -> bool:
        return self.verbs_of_run.takes_key(key)

    # --- drawing ---

    def draw(self) -> None:
        self._draw_body(with_chart=True)

    def _draw_body(self, *, with_chart: bool) -> None:
        body, follower = self.query_one(Body), self.follower
        body.lay_out(self.view, self.size)
        if follower is None:
            body.show_nothing(self.panes.project.runs_dir)
            return
        with follower.lock:
            situation = self.situation(follower)
            body.show_numbers(situation)
            if with_chart:
                others = [(other.run.name, other.progress) for other in self.others]
                body.show_chart(self.chart, situation, others)
                body.show_lists(situation, follower.diagnosis.alarms, follower.log)

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        page = max(1, self.size.height // 2)
        of_run = self.verbs_of_run
        return {
            "pause": of_run.pause,
            "save": of_run.save,
            "sample": of_run.sample,
            "stop": of_run.stop,
            "skip": of_run.skip,
            "rate": of_run.rate,
            "detach": of_run.detach,
            "continue": of_run.go_on,
            "memory": of_run.memory,
            "runs": self._list_runs,
            "next-view": lambda: self._turn(1),
            "previous-view": lambda: self._turn(-1),
            "log": lambda: self.look_at("overview" if self.view == "log" else "log"),
            "subject": lambda: self._choose(subject=(self.chart.subject + 1) % len(SUBJECTS)),
            "previous-subject": lambda: self._choose(subject=(self.chart.subject - 1) % len(SUBJECTS)),
            "zoom": lambda: self._choose(zoom=(self.chart.zoom + 1) % len(ZOOMS)),
            "log-scale": lambda: self._choose(log=not self.chart.log),
            "next": lambda: self._move(1),
            "previous": lambda: self._move(-1),
            "first": lambda: self._move(-(10**6)),
            "last": lambda: self._move(10**6),
            "page-down": lambda: self._move(page),
            "page-up": lambda: self._move(-page),
        }

    def _list_runs(self) -> None:
        """All runs: one to be shown instead, or several to be laid over this one."""
        from loratory.tui.run.runs_list import RunsScreen  # not for the first paint

        def chosen(runs: list[RunDirectory] | None) -> None:
            if runs is not None:
                self.overlay(runs)
                self.look_at("chart")

        self.app.push_screen(RunsScreen(self.panes, self.glyphs), chosen)

    @property
    def row(self) -> str | Sampled | None:
        """What stands at the cursor: the name of a picture, a sample, or None."""
        return self.query_one(Body).row

    def look_at(self, view: View) -> None:
        self._view = VIEWS.index(view)
        self.tell(Told(""))
        self.call_after_refresh(self.look)  # what has a place now knows how large it is

    def _turn(self, by: int) -> None:
        self.look_at(VIEWS[(self._view + by) % len(VIEWS)])

    def _choose(self, subject: int | None = None, zoom: int | None = None, log: bool | None = None) -> None:
        state = self.chart
        self.chart = ChartState(
            state.subject if subject is None else subject,
            state.zoom if zoom is None else zoom,
            state.log if log is None else log,
        )
        if not self.query_one(Body).has_chart:
            self.look_at("chart")

    def _move(self, by: int) -> None:
        # The log is read from its end.
        self.query_one(Body).move(-by if self.view == "log" else by)

    @on(Table.Clicked)
    def _clicked(self, event: Table.Clicked) -> None:
        self.query_one(Body).go_to(event.index)
        self.look()
