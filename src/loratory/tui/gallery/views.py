"""What the gallery says: its lines, its list, and why it is empty."""

from collections.abc import Mapping
from pathlib import Path

from textual.content import Content

from loratory.runs.store import RunDirectory
from loratory.tui.gallery.place import SECTIONS, Place, Section
from loratory.tui.gallery.sources import ENLARGED
from loratory.tui.text import Glyphs, fitted, plain, printable, wrapped
from loratory.tui.widgets.table import Column, Line, TableView
from loratory.wording import typed


def place_words(place: Place, width: int, glyphs: Glyphs) -> tuple[Content, Content]:
    """The line above the picture (sections, where one stands, how it is looked at) and the one below (its prompt)."""
    counts = {"samples": sum(len(row.pictures) for row in place.rows), "grids": len(place.grids)}
    tabs = [
        plain(f" {name} {counts[name]} ", "reverse bold" if name == place.section else "$foreground-muted")
        for name in SECTIONS
    ]
    line = Content("").join(tabs)
    where, state, caption = _words(place, glyphs)
    room = width - line.cell_length - len(state)
    line += plain(fitted(f"  {where}", room, glyphs.ellipsis)) + plain(state, "$text-accent")
    return line, Content(fitted(f" {caption}", width, glyphs.ellipsis)).stylize("$foreground-muted")


def _words(place: Place, glyphs: Glyphs) -> tuple[str, str, str]:
    if place.section == "grids":
        path = place.path
        return (f"{place.grid + 1} of {len(place.grids)}", "", path.name) if path else ("", "", "")
    picture = place.picture
    if picture is None:
        return "", "", ""
    row = place.rows[place.row]
    first = row.pictures[0].step
    state = {
        "compare": f" left: step {first} ",
        "difference": f" x{ENLARGED} against step {first} ",
        "sheet": " all steps ",
    }.get(place.look, "")
    parts = (
        f"step {picture.step}",
        f"epoch {picture.epoch}",
        f"{place.column + 1} of {len(row.pictures)}",
        f"prompt {place.row + 1} of {len(place.rows)}",
    )
    return f" {glyphs.dot} ".join(parts), state, f"{row.prompt}  {glyphs.dot} seed {row.seed}"


def list_view(place: Place, run: RunDirectory, *, with_paths: bool) -> TableView:
    """All samples, prompt by prompt, or all grids."""
    if place.section == "grids":
        return TableView((Column("grid", "text"),), tuple(Line((_below(path, run.path),)) for path in place.grids))
    columns = (Column("step"), Column("prompt", "text"))
    if with_paths:
        columns = (Column("step"), Column("epoch"), Column("prompt", "text"), Column("file", "text"))
    lines: list[Line] = []
    for row in place.rows:
        for picture in row.pictures:
            prompt = f"{row.prompt} (seed {row.seed})"
            shown = (str(picture.step), prompt)
            if with_paths:
                shown = (str(picture.step), str(picture.epoch), prompt, _below(picture.path, run.path))
            lines.append(Line(shown))
    return TableView(columns, tuple(lines))


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def whole_line(path: Path) -> str:
    """A path to be copied."""
    return printable(str(path))


def settings_lines(path: Path, found: Mapping[str, str], width: int) -> list[Content]:
    """The text chunks of a picture, for reading."""
    lines = [plain(str(path), "$foreground-muted"), Content("")]
    for key, text in found.items():
        lines.append(plain(key, "bold $text-accent"))
        shown = [piece for line in text.split("\n") for piece in wrapped(line, width)]
        lines += [*(plain(f"  {line}") for line in shown), Content("")]
    return lines if found else [*lines, Content("The file carries no text.")]


def empty_text(run: RunDirectory | None, section: Section, runs_dir: Path, width: int) -> Content:
    """Why there is nothing to see, and how pictures come about."""
    if run is None:
        sentences = (f"No run in {runs_dir} yet.", "4 plans a training and starts it; its samples appear here.")
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
            f"loratory grid {typed(run.path)}",
        )
    lines = [line for sentence in sentences for line in [*wrapped(sentence, max(20, width)), ""]]
    return Content("\n").join(plain(line) for line in lines)
