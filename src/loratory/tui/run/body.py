"""The part of the run pane between its title and its message: five views of one run, drawn from what is known of it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.geometry import Size

from loratory.runs.diagnosis import Alarm
from loratory.runs.events import Sampled
from loratory.runs.progress import Progress
from loratory.terminal.modes import Graphics
from loratory.tui.run import facts, head, tables
from loratory.tui.run.charts import ChartState, caption, chart_view
from loratory.tui.run.head import Situation
from loratory.tui.run.lines import Lines
from loratory.tui.text import Glyphs, fitted, plain, printable
from loratory.tui.widgets.chart import Chart
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.table import Table, TableView

View = Literal["overview", "chart", "pictures", "files", "log"]
VIEWS: tuple[View, ...] = get_args(View)

_ROOMY = (110, 30)  # columns and lines from which the overview has chart, lists and files beside each other
_TALL = 34  # lines from which a narrow one has the chart too
_LISTS = 9
_SAID = 4
_ADVICE = 7  # as many as a reason, what to do about it and a command to copy need in 80 columns


class Body(Vertical):
    """Shows one view at a time; where there is room, the overview has something of all."""

    def __init__(self, glyphs: Glyphs, graphics: Graphics, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._graphics = graphics
        self._view: View = "overview"
        self._is_roomy = False
        self._cursors: dict[str, int] = {}
        self._rows: Sequence[str | Sampled | None] = ()

    def compose(self) -> ComposeResult:
        yield Lines(id="run-head")
        yield Lines(id="run-tabs")
        with Horizontal(id="run-main"):
            with Vertical(id="run-left"):
                yield Lines(id="run-caption")
                yield Chart(self._glyphs, id="run-chart")
                yield Lines(id="run-said")
                yield Lines(id="run-lines")
                yield Table(self._glyphs, id="run-table")
            with Vertical(id="run-side"):
                yield Lines(id="run-facts")
                yield Lines(id="run-sample-caption")
                yield Preview(self._graphics, id="run-sample")

    # --- the cursor ---

    @property
    def row(self) -> str | Sampled | None:
        """What stands at the cursor of the view: the name of a picture, a sample, or None."""
        cursor = self._cursors.get(self._view, 0)
        return self._rows[cursor] if cursor < len(self._rows) else None

    @property
    def has_chart(self) -> bool:
        return self._view == "chart" or (self._view == "overview" and (self._is_roomy or self.has_class("-tall")))

    @property
    def measures(self) -> tuple[Size, ...]:
        """How large the parts are for which lines are made to measure."""
        return tuple(self.query_one(f"#run-{name}").size for name in ("main", "left", "chart", "side"))

    def move(self, by: int) -> None:
        self._cursors[self._view] = max(0, self._cursors.get(self._view, 0) + by)

    def go_to(self, row: int) -> None:
        self._cursors[self._view] = row

    def forget(self) -> None:
        """Another run is shown."""
        self._cursors, self._rows = {}, ()

    # --- drawing ---

    def lay_out(self, view: View, screen: Size) -> None:
        """Makes room for a view on a screen of that size."""
        if view != self._view:
            self._rows = ()
        self._view = view
        self._is_roomy = screen.width >= _ROOMY[0] and screen.height >= _ROOMY[1]
        for name in VIEWS:
            self.set_class(name == view, f"-{name}")
        self.set_class(self._is_roomy, "-roomy")
        self.set_class(screen.height >= _TALL, "-tall")
        tabs = [
            plain(f" {name.capitalize()} ", "reverse bold" if name == view else "$foreground-muted") for name in VIEWS
        ]
        self._lines("tabs").show([Content(" ") + Content("").join(tabs)])

    def show_nothing(self, runs_dir: Path) -> None:
        """There is no run to show."""
        said = [f"There is no run in {runs_dir} yet.", "4 plans one and starts it; R lists the runs there are."]
        self._show("head", head.advice_lines(said, self.size.width, _ADVICE))
        for name in ("said", "lines"):
            self._show(name, [])

    def show_numbers(self, situation: Situation) -> None:
        """How the run stands."""
        width = self.size.width
        lines = [
            head.progress_line(situation, width, self._glyphs),
            head.status_line(situation, width, self._glyphs),
            *head.advice_lines(head.advice(situation), width, _ADVICE),
        ]
        self._show("head", lines)

    def show_chart(self, state: ChartState, situation: Situation, others: Sequence[tuple[str, Progress]]) -> None:
        """others: runs laid over this one, by their names."""
        if not self.has_chart:
            return
        chart = self.query_one(Chart)
        width = chart.size.width or self.size.width  # it may have been given a place just now
        left, right = caption(state, situation.progress)
        room = max(0, width - len(right) - 1)
        shown = fitted(f" {left}", room, self._glyphs.ellipsis)
        self._lines("caption").show([Content.assemble((shown, "$foreground-muted"), printable(right))])
        chart.show(chart_view(state, situation.progress, others, width, situation.run.name))

    def show_lists(self, situation: Situation, alarms: Iterable[Alarm], log: tuple[str, ...]) -> None:
        """Everything but numbers and chart: what was said, pictures, files, the log."""
        progress, now_s, glyphs = situation.progress, situation.now_s, self._glyphs
        width = self.query_one("#run-left").size.width
        said: list[Content] = []
        if self._view in ("overview", "chart"):
            said = tables.said_lines(progress, alarms, width, _SAID, now_s, glyphs)
        self._show("said", said)
        match self._view:
            case "overview" if self._is_roomy:
                left = width * 3 // 5
                concepts = facts.concept_lines(progress, left, _LISTS, glyphs)
                images = facts.image_lines(progress, width - left - 2, _LISTS, glyphs)
                self._show("lines", facts.beside(concepts, images, left + 2) if progress.concepts else [])
                side = self.query_one("#run-side").content_size
                most = side.height * 2 // 3 if progress.samples else side.height
                self._show("facts", facts.side_lines(progress, side.width, most, now_s, glyphs))
                self._show_sample(situation)
            case "overview":
                self._show("lines", facts.narrow_lines(progress, width, now_s, glyphs))
            case "chart":
                self._show("lines", [])
            case "pictures":
                concepts = facts.concept_lines(progress, width, 7, glyphs)
                self._show("lines", [*concepts, Content("")] if progress.concepts else [])
                self._show_table(*tables.image_table(progress))
            case "files":
                self._show("lines", [])
                self._show_table(*tables.file_table(progress, now_s))
                self._show_sample(situation)
            case "log":
                room = self.query_one("#run-main").size.height
                offset = max(0, min(self._cursors.get("log", 0), len(log) - room))
                self._cursors["log"] = offset
                self._show("lines", tables.log_lines(log, width, room, offset))

    def _show_table(self, view: TableView, rows: Sequence[str | Sampled | None]) -> None:
        table = self.query_one(Table)
        cursor = max(0, min(self._cursors.get(self._view, 0), len(rows) - 1))
        self._cursors[self._view], self._rows = cursor, rows
        if (view, cursor) != (table.view, table.cursor):
            table.show(view, cursor)

    def _show_sample(self, situation: Situation) -> None:
        """The sample at the cursor of the files, else the newest."""
        samples, row = situation.progress.samples, self.row
        sampled = row if isinstance(row, Sampled) else samples[-1][1] if samples else None
        preview, line = self.query_one(Preview), self._lines("sample-caption")
        path = None if sampled is None else situation.run.path / sampled.path
        if sampled is None:
            line.show([])
        else:
            text = f" sample, step {sampled.step}: {sampled.prompt}"
            line.show([plain(fitted(text, line.size.width, self._glyphs.ellipsis), "$foreground-muted")])
        if preview.source != path:
            preview.show(path)

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#run-{name}", Lines)

    def _show(self, name: str, lines: Sequence[Content]) -> None:
        """Shows lines in a widget that is as high as there are lines."""
        widget = self._lines(name)
        height = widget.styles.height
        if height is None or (height.value, height.is_cells) != (len(lines), True):
            widget.styles.height = len(lines)
        widget.show(lines)
