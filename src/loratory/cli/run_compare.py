"""`loratory runs diff`: two runs beside each other."""

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len

from loratory.cli import output
from loratory.config.describe import show
from loratory.wording import spoken_time

if TYPE_CHECKING:
    from loratory.runs.compare import Difference, Summary
    from loratory.runs.store import RunDirectory

_CHART_WIDTH, _CHART_HEIGHT = 80, 12
_GAP = 2  # between columns


@click.command("diff")
@click.argument("a", metavar="RUN_A")
@click.argument("b", metavar="RUN_B")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(a: str, b: str, as_json: bool) -> None:
    """The settings in which two runs differ, and how each came out.

    A run is its folder, or in ./runs its name or the beginning of it.
    """
    from loratory.cli.find_run import find_run
    from loratory.runs.compare import settings_diff, summary

    one, other = find_run(a), find_run(b)
    differences = settings_diff(one, other)
    summaries = [summary(one), summary(other)]
    if as_json:
        output.data_json(
            {
                "runs": [asdict(each) | {"path": str(each.path)} for each in summaries],
                "settings": [asdict(difference) for difference in differences],
            }
        )
        return
    width = shutil.get_terminal_size().columns
    for line in _lines(differences, summaries, width):
        output.data(line)
    _draw(one, other, min(width, _CHART_WIDTH))
    if not differences:
        output.say("Both were trained with the same settings.")


def _lines(differences: "list[Difference]", summaries: "list[Summary]", width: int) -> list[str]:
    """Both runs in columns, at most `width` cells wide; what does not fit beside each other stands below each other,
    so that no key, path or name is broken."""
    settings = [(each.key, _shown(each.a), _shown(each.b)) for each in differences]
    figures = [row for row in _figures(summaries) if any(row[1:])]
    names = ("", *(each.name for each in summaries))
    rows = [tuple(map(output.one_line, row)) for row in (names, *settings, *figures)]
    first = max(cell_len(row[0]) for row in rows)
    half = (width - first - 2 * _GAP) // 2
    columns = first, min(half, max(cell_len(row[1]) for row in rows))
    lines: list[str] = []
    for number, row in enumerate(rows):
        if number and number == len(settings) + 1 and settings:
            lines.append("")
        if all(cell_len(cell) <= room for cell, room in zip(row[1:], (columns[1], half), strict=True)):
            lines.append(_in_columns(row, columns))
            continue
        lines += [row[0]] if row[0] else []
        lines += (f"  {letter}  {cell}" for letter, cell in zip("ab", row[1:], strict=True))
        if not number:
            lines.append(_in_columns(("", "a", "b"), columns))
    return lines


def _in_columns(cells: tuple[str, ...], widths: tuple[int, int]) -> str:
    spaces = (" " * (max(0, width - cell_len(cell)) + _GAP) for cell, width in zip(cells, (*widths, 0), strict=True))
    return "".join(cell + space for cell, space in zip(cells, spaces, strict=True)).rstrip()


def _figures(summaries: "list[Summary]") -> list[tuple[str, ...]]:
    def row(title: str, *cells: str) -> tuple[str, ...]:
        return (title, *cells)

    return [
        row("state", *(each.state for each in summaries)),
        row("step", *(f"{each.step} of {each.total_steps}" if each.total_steps else "" for each in summaries)),
        row("loss, last epoch", *(_loss(each.loss) for each in summaries)),
        row("loss, best epoch", *(_loss(each.best_loss) for each in summaries)),
        row("normalised by timestep", *(_loss(each.normalised) for each in summaries)),
        row("exposure", *(_exposure(each) for each in summaries)),
        row("duration", *("" if each.lasted_s is None else spoken_time(each.lasted_s) for each in summaries)),
        row("file", *(each.output or "" for each in summaries)),
    ]


def _draw(one: "RunDirectory", other: "RunDirectory", width: int) -> None:
    """The losses of both over each other, the first as a, the second as b."""
    from loratory.runs.compare import loss_series
    from loratory.terminal.chart import ChartView, Curve, draw_chart, legend

    series = [loss_series(each, 2 * width) for each in (one, other)]
    view = ChartView(
        [Curve(each.steps, each.values, name=each.name) for each in series],
        marks=sorted(step for each in series for step in each.broken),
    )
    if not any(each.values for each in series):
        return
    output.data(
        "\nloss, smoothed: " + ", ".join(f"{each.letter} {output.one_line(each.name)}" for each in legend(view))
    )
    for line in draw_chart(view, width, _CHART_HEIGHT, ascii_only=not output.is_unicode()):
        output.data("".join(text for text, _ in line).rstrip())


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _exposure(each: "Summary") -> str:
    return ", ".join(f"{folder or '.'} {exposure:.0f}" for folder, exposure in each.exposures.items())


def _shown(value: Any) -> str:
    return "not set" if value is None else show(value)
