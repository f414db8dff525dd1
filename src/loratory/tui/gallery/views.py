"""What the gallery says: its lines, its list, and why it is empty."""

from collections.abc import Sequence
from pathlib import Path

from textual.content import Content

from loratory.runs.store import RunDirectory
from loratory.tui.gallery.shelf import Picture, Row
from loratory.tui.text import Glyphs, fitted, plain, wrapped
from loratory.tui.widgets.table import Column, Line, TableView

SECTIONS = ("samples", "grids")


def place_line(section: str, counts: tuple[int, int], where: str, state: str, width: int, glyphs: Glyphs) -> Content:
    """The two sections with how much each holds, where one stands, and at the right what is looked at."""
    tabs = [
        plain(f" {name} {count} ", "reverse bold" if name == section else "$foreground-muted")
        for name, count in zip(SECTIONS, counts, strict=True)
    ]
    line = Content("").join(tabs)
    room = width - line.cell_length - len(state)
    return line + plain(fitted(f"  {where}", room, glyphs.ellipsis)) + plain(state, "$text-accent")


def where_of(picture: Picture, row: Row, at: int, rows: int, row_at: int, glyphs: Glyphs) -> str:
    """`step 120 · epoch 3 · 4 of 9 · prompt 2 of 8`."""
    parts = [
        f"step {picture.step}",
        f"epoch {picture.epoch}",
        f"{at + 1} of {len(row.pictures)}",
        f"prompt {row_at + 1} of {rows}",
    ]
    return f" {glyphs.dot} ".join(parts)


def caption_line(text: str, width: int, glyphs: Glyphs) -> Content:
    return Content(fitted(f" {text}", width, glyphs.ellipsis)).stylize("$foreground-muted")


def sample_list(rows: Sequence[Row], run: RunDirectory, *, with_paths: bool) -> TableView:
    """All samples, prompt by prompt."""
    columns = (Column("step"), Column("prompt", "text"))
    if with_paths:
        columns = (Column("step"), Column("epoch"), Column("prompt", "text"), Column("file", "text"))
    lines: list[Line] = []
    for row in rows:
        for picture in row.pictures:
            shown = (str(picture.step), f"{row.prompt} (seed {row.seed})")
            if with_paths:
                shown = (shown[0], str(picture.epoch), shown[1], _below(picture.path, run.path))
            lines.append(Line(shown))
    return TableView(columns, tuple(lines))


def grid_list(grids: Sequence[Path], run: RunDirectory) -> TableView:
    return TableView((Column("grid", "text"),), tuple(Line((_below(path, run.path),)) for path in grids))


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def empty_text(run: RunDirectory | None, section: str, runs_dir: Path, width: int) -> Content:
    """Why there is nothing to see, and how pictures come about."""
    if run is None:
        sentences = (
            f"No run in {runs_dir} yet.",
            "4 plans a training and starts it; its samples appear here.",
        )
    elif section == "samples":
        sentences = (
            f"{run.name} has drawn no samples yet.",
            "A run draws the prompts of its config: [sample] prompts, or sample_prompts for a file of them, with "
            "sample_every_n_epochs or sample_every_n_steps, and sample_at_first to compare with.",
            "While it trains, g draws one now.",
        )
    else:
        sentences = (
            f"{run.name} has no grids yet.",
            "A grid shows which epoch is the best and how strong to use it: every adapter that was saved, at several "
            "strengths, with the same seeds.",
            f"loratory grid {run.path}",
        )
    lines = [line for sentence in sentences for line in [*wrapped(sentence, max(20, width)), ""]]
    return Content("\n").join(plain(line) for line in lines)
