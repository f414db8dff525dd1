"""Charts of text: what they look like, and what holds for any values and any size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.terminal.curves import draw_curve, sparkline

COSINE = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
TRIANGLE = [0.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0]


def test_a_learning_rate_in_braille() -> None:
    assert draw_curve(COSINE, 34, 4, x_labels=("step 1", "step 100"), y_format="{:.2f}".format) == [
        "1.00 ┤⠉⠉⠉⠑⠒⠒⠤⢤⣀⡀",
        "     │         ⠈⠑⠒⠤⣀",
        "     │              ⠉⠑⠲⠤⣀⡀",
        "0.00 ┤                   ⠉⠙⠒⠢⠤⠤⣀⣀⣀",
        "      step 1              step 100",
    ]


def test_a_learning_rate_in_ascii() -> None:
    assert draw_curve(TRIANGLE, 17, 4, x_labels=("1", "7"), ascii_only=True) == [
        "3 +      **",
        "  |    **  **",
        "  |  **      **",
        "0 +**          **",
        "   1            7",
    ]


def test_magnitudes() -> None:
    powers = [10.0**exponent for exponent in range(7)]
    assert draw_curve(powers, 21, 7, log=True, ascii_only=True, y_format="{:.0e}".format) == [
        "1e+06 +            **",
        "      |          **",
        "      |        **",
        "      |      **",
        "      |    **",
        "      |  **",
        "1e+00 +**",
    ]


def test_equal_values_are_one_line_with_one_label() -> None:
    assert draw_curve([0.0] * 9, 12, 3, ascii_only=True) == ["  |", "0 +*********", "  |"]
    assert draw_curve([5.0], 8, 1) == ["5 ┤⠤⠤⠤⠤⠤"]


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_nothing_to_draw(values: list[float]) -> None:
    assert draw_curve(values, 40, 5, x_labels=("a", "b")) == ["(no values)"]
    assert draw_curve([0.0, -1.0], 40, 5, log=True) == ["(no values)"]


def test_what_is_not_finite_is_a_gap() -> None:
    assert draw_curve([1.0, math.nan, math.inf, 2.0], 7, 2, ascii_only=True) == ["2 +   *", "1 +*"]
    assert draw_curve([0.0, 1.0, 10.0], 6, 2, ascii_only=True, log=True)[0].startswith(" |")


def test_a_peak_between_columns_is_not_lost() -> None:
    values = [0.0] * 1000
    values[501] = 1.0
    assert draw_curve(values, 24, 2, ascii_only=True)[0].count("*") == 1


def test_a_chart_too_narrow_for_its_labels_goes_without() -> None:
    lines = draw_curve(TRIANGLE, 9, 2, x_labels=("first", "last"), y_format="{:.6f}".format, ascii_only=True)
    assert lines == [" |  ***", " |**   **", "     last"]


@pytest.mark.parametrize(
    ("values", "line", "in_ascii"),
    [
        (TRIANGLE, "▁▃▆█▆▃▁", "_-*@*-_"),
        ([0.0, 0.0], "▁▁", "__"),
        ([3.0, 3.0, 3.0], "▅▅▅", "+++"),
        ([1.0, math.nan, 2.0], "▁ █", "_ @"),
        ([], "", ""),
        (COSINE, "██▇▆▅▄▃▂▁▁", "@@#*+=-.__"),
    ],
)
def test_sparkline(values: list[float], line: str, in_ascii: str) -> None:
    assert sparkline(values, 10) == line
    assert sparkline(values, 10, ascii_only=True) == in_ascii


LISTS = st.lists(st.floats(), max_size=200)


@given(LISTS, st.integers(0, 120), st.integers(0, 12), st.booleans(), st.booleans(), st.text("aé1 ", max_size=9))
def test_a_chart_fits(values: list[float], width: int, height: int, log: bool, ascii_only: bool, label: str) -> None:
    lines = draw_curve(values, width, height, x_labels=(label, "end"), log=log, ascii_only=ascii_only)
    assert 1 <= len(lines) <= max(1, height) + 1
    assert all(len(line) <= width for line in lines)
    assert all("\n" not in line for line in lines)
    if ascii_only:
        assert all(line.isascii() for line in lines)
    drawn = any(math.isfinite(value) and (value > 0 or not log) for value in values)
    assert (lines[0] == "(no values)"[:width]) == (not drawn or width < 3)


@given(LISTS, st.integers(0, 120), st.booleans())
def test_a_sparkline_fits(values: list[float], width: int, ascii_only: bool) -> None:
    line = sparkline(values, width, ascii_only=ascii_only)
    assert len(line) == min(width, len(values))
    assert line.isascii() or not ascii_only


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.integers(8, 80))
def test_higher_is_never_drawn_lower(values: list[float], width: int) -> None:
    rising = sorted(values)
    lines = draw_curve(rising, width, 5, ascii_only=True, y_format=lambda _: "")
    tops = [next(row for row, line in enumerate(lines) if line[x : x + 1] == "*") for x in range(2, width)]
    assert tops == sorted(tops, reverse=True)


def test_the_smallest_difference_there_is() -> None:
    """Half of it is 0 already."""
    assert len(draw_curve([0.0, 5e-324], 20, 4)) == 4
