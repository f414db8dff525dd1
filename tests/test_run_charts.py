"""The chart of a run stays where it is while steps are added, and the terminal is sent no more than what changed."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from loratory.runs.events import SampleLoss, Started, Step, Timed
from loratory.runs.progress import Progress
from loratory.runs.series import NEWEST, Series
from loratory.terminal.chart import ChartView, draw_chart
from loratory.terminal.ticks import Scale
from loratory.tui.run.charts import ChartState, chart_view, window_of
from loratory.tui.sparing import SparingUpdate

WIDTH = 60


def progress_at(steps: int, total: int = 100_000) -> Progress:
    progress = Progress()
    progress.add(Timed(0.0, Started(0, total, 100, total // 100, "cpu", "0")))
    for step in range(1, steps + 1):
        add_step(progress, step)
    return progress


def add_step(progress: Progress, step: int) -> None:
    loss = 0.1 + 0.05 * math.sin(step * 1.7) + 0.02 * math.cos(step * 0.03)
    samples = [SampleLoss("10_fox/a.png", step * 37 % 1000, loss)]
    progress.add(Timed(float(step), Step(step, -(-step // 100), loss, {"unet": 1e-4}, {}, 0.2, 0.1, 0.0, samples)))


def columns_of(view: ChartView) -> list[str]:
    lines = draw_chart(view, WIDTH, 12, settle=lambda scale: Scale(0.0, 4.0, scale.log))
    return list(map("".join, zip(*("".join(text for text, _ in line) for line in lines), strict=True)))


def test_the_window_over_a_whole_run_ends_at_a_round_step_and_never_beyond_its_last() -> None:
    progress = progress_at(0, 300)
    ends: dict[int, int] = {}
    for step in range(1, 301):
        add_step(progress, step)
        ends.setdefault(window_of(progress, "whole run")[1], step)
    assert list(ends) == [10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 125, 160, 200, 250, 300]
    assert all(step <= end for end, step in ends.items())
    assert all(later / earlier <= 1.31 for earlier, later in pairwise(ends))


@pytest.mark.parametrize("subject", [0, 1])
def test_columns_that_were_drawn_stay_while_steps_are_added(subject: int) -> None:
    progress = progress_at(1)
    state = ChartState(subject=subject)
    before: tuple[object, list[str]] | None = None
    for step in range(2, 3 * NEWEST):
        add_step(progress, step)
        if step % 97 and step % NEWEST:  # the newest half of what is kept one by one is folded at a multiple of it
            continue
        view = chart_view(state, progress, [], WIDTH, "run")
        shown = (view.window, columns_of(ChartView(view.curves, None, (), view.window, subject=view.subject)))
        if before is not None and before[0] == shown[0]:
            newest = max(at for at, column in enumerate(before[1]) if column[:-1].strip())
            assert shown[1][: newest - 1] == before[1][: newest - 1]
        before = shown


@given(st.integers(1, 3 * NEWEST), st.integers(1, 500), st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_a_stretch_stays_once_a_later_one_has_begun(count: int, more: int, stretches: int) -> None:
    series, last = Series(), 4 * NEWEST
    for step in range(1, count + 1):
        series.add(step, math.sin(step))
    before = series.columns(1, last, stretches)
    for step in range(count + 1, count + more + 1):
        series.add(step, math.sin(step))
    after = series.columns(1, last, stretches)
    finished = len(before.first) - 1
    for old, new in ((before.first, after.first), (before.low, after.low), (before.high, after.high)):
        assert old[:finished].tolist() == new[:finished].tolist()
    assert len(after.first) <= stretches
    assert np.nanmax(after.high) == max(math.sin(step) for step in range(1, count + more + 1))


# --- what is sent ---

styles = st.sampled_from(
    [
        Style(),
        Style(color="#ff0000", bgcolor="#000010"),
        Style(color="#00ff00", bgcolor="#000010", bold=True),
        Style(color="#00ff00", bgcolor="#000010", dim=True),
        Style(color="#00ff00", bold=True, dim=True),
        Style(color="#00ff00", bgcolor="#200000", reverse=True),
        Style(underline=True, italic=True),
        Style(color="#0000ff", bgcolor="#000010", blink=True),
    ]
)
texts = st.sampled_from(["a", "bc", " ", "   ", "⣿⠁", "日本", "e\u0301x"])
strips = st.lists(st.tuples(texts, styles), min_size=1, max_size=8).map(
    lambda pieces: Strip([Segment(text, style) for text, style in pieces])
)
Cell = tuple[str, frozenset[str], str, str]


class Terminal:
    """So much of a terminal as the update needs: places, styles and characters."""

    ENDS = {"22": "12", "23": "3", "24": "4", "25": "5", "27": "7", "29": "9"}  # noqa: RUF012

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], Cell] = {}
        self.x = self.y = 0
        self.style: tuple[frozenset[str], str, str] = (frozenset(), "", "")

    def take(self, said: str) -> None:
        for order, kind, text in re.findall(r"\x1b\[([0-9;]*)([A-Za-z])|([^\x1b])", said):
            if text:
                self._write(text)
            elif kind == "H":
                self.y, self.x = (int(part) - 1 for part in order.split(";"))
            elif kind == "C":
                self.x += int(order)
            else:
                assert kind == "m"
                self._turn(order.split(";"))

    def _write(self, text: str) -> None:
        width = cell_len(text)
        if not width:
            place = (self.y, self.x - 1)
            self.cells[place] = (self.cells[place][0] + text, *self.cells[place][1:])
            return
        attributes, colour, ground = self.style
        # A blank of no more than bold, dim or italic shows its ground alone.
        bare = text == " " and attributes <= frozenset("123")
        for part in range(width):
            said = text if part == 0 else ""
            self.cells[self.y, self.x + part] = (
                (said, frozenset(), "", ground) if bare else (said, attributes, colour, ground)
            )
        self.x += width

    def _turn(self, codes: list[str]) -> None:
        attributes, colour, ground = self.style
        while codes:
            code = codes.pop(0)
            if code in ("38", "48"):
                rest = ";".join([code, *codes[:4]])
                del codes[:4]
                colour, ground = (rest, ground) if code == "38" else (colour, rest)
            elif code in ("", "0"):
                attributes, colour, ground = frozenset[str](), "", ""
            elif code == "39":
                colour = ""
            elif code == "49":
                ground = ""
            elif code in self.ENDS:
                attributes -= frozenset(self.ENDS[code])
            else:
                attributes |= {code}
        self.style = (attributes, colour, ground)


@given(st.lists(strips, min_size=1, max_size=3), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=3))
def test_an_update_leaves_the_cells_that_textual_would(line: list[Strip], some: list[tuple[int, int]]) -> None:
    console = Console(color_system="truecolor", force_terminal=True)
    ends = np.cumsum([strip.cell_length for strip in line]).tolist()
    starts = [0, *ends[:-1]]
    spans: list[tuple[int, int, int]] = []
    for start, width in sorted(some):
        if (not spans or start > spans[-1][2]) and start < ends[-1]:
            spans.append((2, start, min(start + width, ends[-1])))
    chops = [{}, {}, dict(zip(starts, line, strict=True))]
    whole, part = Terminal(), Terminal()
    whole.take("\x1b[3;1H" + "".join(strip.render(console) for strip in line))
    part.take(SparingUpdate(chops, spans, [[], [], ends]).render_segments(console))
    assert part.style == (frozenset(), "", "")
    for _, first, last in spans:
        for x in range(first, last):
            assert part.cells[2, x] == whole.cells[2, x]
