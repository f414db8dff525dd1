"""Loss charts: what they look like, and what holds for any series, any window and any size."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.geometry import Region

from loratory.terminal.chart import Band, ChartView, Curve, Line, draw_chart, legend, moved, steady_band, zoomed
from loratory.terminal.ticks import Scale, rounded, steady_scale, tick_labels
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.chart import Chart

STEPS = list(range(1, 101))
FALLING = [1.0 + math.exp(-step / 30) for step in STEPS]
UP_AND_DOWN = Curve([1, 2, 3, 4, 5], [1, 3, 1, 3, 1])


def drawn(view: ChartView, width: int, height: int, ascii_only: bool = True) -> list[str]:
    return ["".join(text for text, _ in line) for line in draw_chart(view, width, height, ascii_only=ascii_only)]


def roles(lines: list[Line]) -> set[str]:
    return {role for line in lines for _, role in line}


def test_a_loss_in_braille_and_in_ascii() -> None:
    assert drawn(ChartView([Curve(STEPS, FALLING)]), 34, 6, ascii_only=False) == [
        "     │⠑⢄                          ",
        "1.75 ┤ ⠈⠓⢄⡀                       ",
        "1.50 ┤    ⠙⠲⢄⡀                    ",
        "1.25 ┤       ⠈⠙⠲⠤⣄⣀⡀              ",
        "     │             ⠉⠉⠑⠒⠒⠢⠤⠤⠤⠤⢄⣀⣀⣀⣀",
        "      1            50          100",
    ]
    assert drawn(ChartView([Curve(STEPS, FALLING)]), 34, 6) == [
        "     |**                          ",
        "1.75 + ****                       ",
        "1.50 +    ****                    ",
        "1.25 +        ********            ",
        "     |               *************",
        "      1            50          100",
    ]


def test_raw_values_are_dots_under_the_line_and_a_step_without_a_number_has_its_mark() -> None:
    raw = Curve([1, 2, 3, 4, 5], [1, 3, math.nan, 3, 1], "raw", as_dots=True)
    view = ChartView([raw, Curve([1, 5], [2, 2])], marks=[3])
    assert drawn(view, 14, 4) == ["3 +  .  x  .  ", "  |***********", "1 +.         .", "   1    3    5"]
    assert roles(draw_chart(view, 14, 4)) == {"axis", "", "raw", "line", "mark"}


def test_the_dots_of_two_layers_in_one_character_stay_and_the_upper_one_gives_the_role() -> None:
    raw = Curve([1, 2, 3], [0, 1, 0], "raw", as_dots=True)
    alone, line = ChartView([raw]), ChartView([Curve([1, 3], [0, 1])])
    together = ChartView([raw, Curve([1, 3], [0, 1])])
    field = [drawn(view, 8, 2, ascii_only=False)[0][3:] for view in (alone, line, together)]
    bits = [[ord(sign) - 0x2800 if sign != " " else 0 for sign in text] for text in field]
    assert [a | b for a, b in zip(bits[0], bits[1], strict=True)] == bits[2]
    assert ("raw" in roles(draw_chart(alone, 8, 2))) and ("raw" not in roles(draw_chart(together, 8, 2)[:1]))


def test_a_band_is_two_dotted_lines() -> None:
    view = ChartView([UP_AND_DOWN], Band([1, 5], [2, 1], [2, 3]))
    assert drawn(view, 20, 6) == [
        "3 +    *       * - -",
        "  |   * *- - -* *   ",
        "2 +- * - *   *   *  ",
        "  | *    -*-*-    * ",
        "1 +*       *   - - *",
        "   1       3       5",
    ]


def test_runs_over_each_other_are_told_apart_without_colour() -> None:
    view = ChartView([Curve([1, 50], [1, 2], "run-1", name="fox"), Curve([1, 50], [2, 1], "run-2", name="hare")])
    assert [(entry.letter, entry.name, entry.role) for entry in legend(view)] == [
        ("a", "fox", "run-1"),
        ("b", "hare", "run-2"),
    ]
    text = "\n".join(drawn(view, 40, 6, ascii_only=False))
    assert text.count("a") >= 2 and text.count("b") >= 2
    assert drawn(view, 40, 6)[0] == "2.0 +bbbbb                         aaaaa"


def test_magnitudes() -> None:
    lines = drawn(ChartView([Curve([1, 2, 3, 4], [1e-4, 1e-2, 1, 100])], log=True), 40, 9)
    assert [line.split()[0] for line in lines[:-1]] == ["100", "|", "1", "|", "|", "0.01", "|", "0.0001"]


def test_a_gap_ends_the_line_and_another_value_begins_it_anew() -> None:
    curve = Curve([1, 10, 20, 30, 40], [1, 1, math.nan, 1, 1])
    assert drawn(ChartView([curve]), 43, 3)[1] == "1 +**********                   ***********"[:43]


def test_a_window_shows_the_line_up_to_its_edges() -> None:
    whole = ChartView([Curve([0, 100], [0.0, 1.0]), Curve([40, 60], [0.4, 0.6])], window=(40, 60))
    top, *_, steps = drawn(whole, 40, 6)
    assert top.rstrip().endswith("*") and steps.split() == ["40", "50", "60"]
    only = ChartView([Curve([0, 100], [0.0, 1.0])], window=(40, 60))
    assert sum(line.count("*") for line in drawn(only, 40, 6)) == 35


@pytest.mark.parametrize("view", [ChartView(), ChartView([Curve([1, 2], [math.nan, math.inf])], marks=[1.0])])
def test_nothing_to_draw(view: ChartView) -> None:
    assert drawn(view, 16, 3) == ["no values yet   ", " " * 16, " " * 16]


def test_one_value_and_equal_values() -> None:
    assert drawn(ChartView([Curve([5], [3.0])]), 12, 4) == [
        "  |         ",
        "3 +    *    ",
        "  |         ",
        "       5    ",
    ]
    assert drawn(ChartView([Curve([1, 9], [3.0, 3.0])]), 12, 4)[1] == "3 +*********"


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("as_dots", [False, True])
def test_no_peak_is_lost_among_a_hundred_thousand_steps(as_dots: bool, ascii_only: bool) -> None:
    values = np.zeros(100_000)
    values[50_123] = 1.0
    lines = drawn(ChartView([Curve(np.arange(100_000), values, as_dots=as_dots)]), 80, 10, ascii_only)
    assert len(lines[0].split()) == 3


numbers = st.floats(width=64)  # with NaN, infinities, subnormal numbers and the largest there are
series = st.lists(st.tuples(st.integers(0, 10**6) | numbers, numbers), max_size=60)
curves = st.builds(
    lambda points, as_dots, name: Curve([s for s, _ in points], [v for _, v in points], as_dots=as_dots, name=name),
    series,
    st.booleans(),
    st.sampled_from(["", "fox"]),
)
bands = st.none() | st.builds(
    lambda points: Band([s for s, _, _ in points], [a for _, a, _ in points], [b for _, _, b in points]),
    st.lists(st.tuples(st.integers(0, 100), numbers, numbers), max_size=9),
)
windows = st.none() | st.tuples(st.floats(0, 1000), st.floats(0, 1000)).map(lambda ends: (min(ends), max(ends)))


@given(
    st.lists(curves, max_size=3),
    bands,
    st.lists(numbers, max_size=4),
    windows,
    st.booleans(),
    st.integers(0, 100),
    st.integers(0, 14),
    st.booleans(),
)
def test_a_chart_has_the_size_it_was_asked_for(
    some: list[Curve],
    band: Band | None,
    marks: list[float],
    window: tuple[float, float] | None,
    log: bool,
    width: int,
    height: int,
    ascii_only: bool,
) -> None:
    view = ChartView(some, band, marks, window, log)
    lines = drawn(view, width, height, ascii_only)
    assert len(lines) == height and all(len(line) == width for line in lines)
    assert not ascii_only or all(line.isascii() for line in lines)
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(30, 90), st.booleans())
def test_every_value_of_a_series_is_drawn(values: list[float], width: int, as_dots: bool) -> None:
    view = ChartView([Curve(range(len(values)), values, as_dots=as_dots)])
    lines = drawn(view, width, 6)
    field = [line[max(line.find("+"), line.find("|")) + 1 :] for line in lines[:-1]]
    highest, lowest = max(values), min(values)
    if highest > lowest:
        assert field[0].strip() and field[-1].strip()
    assert any(sign in "".join(field) for sign in ".*")


@given(numbers.filter(math.isfinite), numbers.filter(math.isfinite), st.integers(1, 30))
def test_labels_are_few_and_rising(one: float, other: float, rows: int) -> None:
    labels = tick_labels(Scale(min(one, other), max(one, other)), rows)
    assert len(labels) == rows
    told = [float(label) for label in labels if label]
    assert 1 <= len(told) <= 5 and told == sorted(told, reverse=True)


@given(st.floats(0.001, 1000), st.floats(1.05, 100))
def test_there_are_three_to_five_round_labels_where_there_is_room(low: float, ratio: float) -> None:
    labels = [label for label in tick_labels(Scale(low, low * ratio), 40) if label]
    assert 3 <= len(labels) <= 5
    assert all(low * 0.999 <= float(label) <= low * ratio * 1.001 for label in labels)


@given(st.floats(0, 900), st.floats(1, 100), st.floats(0.1, 10), st.floats(-3, 3))
def test_a_window_stays_within_the_run(first: float, width: float, factor: float, by: float) -> None:
    whole = (0.0, 1000.0)
    for window in (zoomed((first, first + width), whole, factor), moved((first, first + width), whole, by)):
        assert whole[0] <= window[0] < window[1] <= whole[1] + 1e-9
    assert zoomed(whole, whole, 0.5) == (250.0, 750.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.integers(1, 299), st.booleans(), st.booleans())
def test_what_was_drawn_stays_when_steps_are_added(values: list[float], more: int, as_dots: bool, log: bool) -> None:
    scale = Scale(min(abs(value) for value in values) + 1e-3, max(abs(value) for value in values) + 2e-3, log=log)
    columns: list[list[str]] = []
    for count in (max(1, len(values) - more), len(values)):
        shown = [abs(value) + 1.5e-3 for value in values[:count]]
        view = ChartView([Curve(range(1, count + 1), shown, as_dots=as_dots)], window=(1, 300), log=log)
        lines = draw_chart(view, 60, 8, settle=lambda _: scale)
        columns.append(list(map("".join, zip(*("".join(text for text, _ in line) for line in lines), strict=True))))
    drawn_to = max(at for at, column in enumerate(columns[0]) if column[:-1].strip())
    assert columns[1][:drawn_to] == columns[0][:drawn_to]


ordered = st.tuples(st.floats(1e-6, 1e6), st.floats(0, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(ordered, min_size=1, max_size=20), st.booleans())
def test_a_kept_scale_holds_all_values_and_is_not_left_empty(extents: list[tuple[float, float]], log: bool) -> None:
    kept: Scale | None = None
    for low, high in extents:
        now, before = Scale(low, high, log), kept
        kept = steady_scale(before, now)
        assert kept.low <= low and high <= kept.high
        if kept is not before:
            assert kept == rounded(now)
        elif not kept.is_flat:
            first, last = kept.shares(np.array([low, high])).tolist()
            assert last - first >= 0.5
        assert steady_scale(kept, now) is kept or kept.is_flat or low == high


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_rounded_scale_is_mostly_filled(low: float, span: float) -> None:
    scale = rounded(Scale(low, low + span))
    assert span >= 0.7 * (scale.high - scale.low)


def test_a_scale_widens_at_once_and_narrows_late() -> None:
    first = steady_scale(None, Scale(0.52, 1.43))
    assert (first.low, first.high) == (0.5, 1.5)
    assert steady_scale(first, Scale(0.6, 1.2)) is first
    wider = steady_scale(first, Scale(0.52, 1.51))
    assert (wider.low, wider.high) == (0.5, pytest.approx(1.6))
    assert steady_scale(wider, Scale(0.8, 1.3)).high == pytest.approx(1.3)
    logarithmic = steady_scale(None, Scale(2.9e-4, 0.8, log=True))
    assert (logarithmic.low, logarithmic.high) == (2e-4, 1.0)


def test_a_band_that_moves_by_less_than_can_be_seen_stays() -> None:
    band, scale = Band([1, 10], [0.5, 0.5], [1.5, 1.5]), Scale(0.0, 2.0)
    near, far = (Band([1, 20], [0.5 - by, 0.5 - by], [1.5 + by, 1.5 + by]) for by in (0.02, 0.2))
    kept = steady_band(band, near, scale)
    assert (kept.steps, kept.low, kept.high) == ([1, 20], [0.5, 0.5], [1.5, 1.5])
    assert steady_band(band, far, scale) is far


class Viewer(App[None]):
    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self.chart = Chart(glyphs)

    def compose(self) -> ComposeResult:
        yield self.chart


def screen_of(chart: Chart) -> list[str]:
    return [chart.render_line(y).text for y in range(chart.size.height)]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_the_widget_draws_only_what_changed(glyphs: Glyphs, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        app = Viewer(glyphs)
        async with app.run_test(size=(60, 12)) as pilot:
            chart = app.chart
            values = [*FALLING[:50], *[1.0] * 50]
            chart.show(ChartView([Curve(STEPS, values)]))
            await pilot.pause()
            assert screen_of(chart)[-1].split() == ["1", "50", "100"]
            refreshed: list[Region] = []
            monkeypatch.setattr(chart, "refresh", lambda *regions: refreshed.extend(regions))
            chart.show(ChartView([Curve(STEPS, values)]))
            assert refreshed == []
            chart.show(ChartView([Curve(STEPS, [*values[:-1], 1.2])]))
            assert 1 <= len(refreshed) <= 4 and all(region.height == 1 and region.width <= 3 for region in refreshed)

    asyncio.run(scenario())


def test_hostile_names_in_a_legend_take_no_more_than_their_line() -> None:
    async def scenario() -> None:
        app = Viewer(UNICODE)
        async with app.run_test(size=(50, 10)) as pilot:
            names = ["[/b]\x1b[2J", "\u202efox 狐狸" * 20, "x" * 300]
            app.chart.show(ChartView([Curve([1, 2], [i, i + 1], f"run-{i + 1}", name=n) for i, n in enumerate(names)]))
            await pilot.pause()
            strips = [app.chart.render_line(y) for y in range(10)]
            assert all(strip.cell_length == 50 for strip in strips)
            assert "[/b]" in strips[0].text and "\x1b" not in strips[0].text and "\u202e" not in strips[0].text

    asyncio.run(scenario())
