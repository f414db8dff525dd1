"""A grid of pictures: each adapter file of a run at several strengths, the same prompts and seeds everywhere.

Nothing here imports torch: what is to be drawn is found out first, and what was drawn before is not drawn again.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loratory import atomic
from loratory.config.schema import Config
from loratory.models.detect import ModelInfo
from loratory.runs.events import Saved
from loratory.runs.store import EventReader, RunDirectory
from loratory.sampling.hints import Look, look_at, remark
from loratory.sampling.prompts import Prompt, parameters_text, prompt_line
from loratory.sampling.sheet import contact_sheet

GRIDS = "grids"
_CELLS = "cells"
# Pictures drawn by another way of drawing must not be taken for those of this one.
_FORMAT = 1
_LARGEST_CELL_PX = 384
_WRITTEN_LATER_S = 60.0

Columns = Literal["strengths", "epochs"]


@dataclass(frozen=True)
class AdapterAt:
    """An adapter file of a run: the network as it was after `step`. label: for people, such as "epoch 3"."""

    path: Path
    label: str
    step: int
    epoch: int


@dataclass(frozen=True)
class SavedFiles:
    """The adapter files of a run: those there are, by step, those removed meanwhile, and those written again since."""

    there: tuple[AdapterAt, ...]
    removed: tuple[Path, ...]
    rewritten: tuple[Path, ...]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. adapter: None for the base model. path: where it lies once it is drawn."""

    prompt: Prompt
    adapter: AdapterAt | None
    strength: float
    path: Path


@dataclass(frozen=True)
class Grid:
    """What is drawn: for each prompt the base model once, and each adapter at each strength but 0."""

    run: RunDirectory
    prompts: tuple[Prompt, ...]
    adapters: tuple[AdapterAt, ...]
    strengths: tuple[float, ...]
    cells: dict[tuple[Prompt, AdapterAt | None, float], Cell]

    def cell(self, prompt: Prompt, adapter: AdapterAt | None, strength: float) -> Cell:
        """The picture at a place of the grid; at strength 0 every adapter has the base model's."""
        return self.cells[prompt, None, 0.0] if not strength else self.cells[prompt, adapter, strength]


def saved_files(run: RunDirectory, epochs: Collection[int] | None = None) -> SavedFiles:
    """The adapter files that a run has told of; epochs: only those saved in one of these."""
    last: dict[Path, tuple[Saved, float]] = {}
    for timed in EventReader(run.events).read():
        if isinstance(timed.event, Saved) and (epochs is None or timed.event.epoch in epochs):
            last[Path(timed.event.path)] = (timed.event, timed.time_s)
    there: list[AdapterAt] = []
    removed: list[Path] = []
    rewritten: list[Path] = []
    for path, (saved, time_s) in sorted(last.items(), key=lambda item: (item[1][0].step, item[0])):
        try:
            modified_s = path.stat().st_mtime
        except OSError:
            removed.append(path)
            continue
        there.append(AdapterAt(path, _label(path, saved), saved.step, saved.epoch))
        if modified_s > time_s + _WRITTEN_LATER_S:
            rewritten.append(path)
    return SavedFiles(tuple(there), tuple(removed), tuple(rewritten))


def _label(path: Path, saved: Saved) -> str:
    average = " average" if path.stem.endswith("-ema") else ""
    stem = path.stem.removesuffix("-ema")
    if re.search(r"-step\d{8}$", stem):
        return f"step {saved.step}{average}"
    return f"epoch {saved.epoch}{average}" if re.search(r"-\d{6}$", stem) else f"last{average} (epoch {saved.epoch})"


def make_grid(
    config: Config,
    info: ModelInfo,
    run: RunDirectory,
    prompts: Sequence[Prompt],
    adapters: Sequence[AdapterAt],
    strengths: Sequence[float],
) -> Grid:
    """What is to be drawn, and where. Reads each adapter file once, for its digest; raises OSError where that fails.

    A picture has its name from all that its look depends on, so that one that is there is the one that is wanted.
    """
    fixed = {
        "format": _FORMAT,
        "model": [_stamp(path) for path in _model_files(config, info)],
        "predicts": [info.prediction_type, info.zero_terminal_snr],
        "base_weights": list(config.model.base_weights_multiplier),
        "clip_skip": config.model.clip_skip,
        "caption": [config.caption.max_token_length, config.caption.weighted_captions],
        "precision": config.training.mixed_precision,
    }
    digests = {adapter: _digest(adapter.path) for adapter in adapters}
    cells: dict[tuple[Prompt, AdapterAt | None, float], Cell] = {}
    places: list[tuple[AdapterAt | None, float]] = [(None, 0.0)]
    places += [(adapter, strength) for adapter in adapters for strength in strengths if strength]
    for adapter, strength in places:
        for prompt in prompts:
            about = fixed | {
                "adapter": digests[adapter] if adapter else None,
                "strength": strength,
                "prompt": dataclasses.asdict(prompt),
            }
            name = hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
            path = run.path / GRIDS / _CELLS / f"{name}.png"
            cells[prompt, adapter, strength] = Cell(prompt, adapter, strength, path)
    return Grid(run, tuple(prompts), tuple(adapters), tuple(strengths), cells)


def _model_files(config: Config, info: ModelInfo) -> list[Path]:
    own = [info.path] if info.layout == "single_file" else sorted(info.path.rglob("*.safetensors"))
    return [*own, *([Path(config.model.vae)] if config.model.vae else []), *map(Path, config.model.base_weights)]


def _stamp(path: Path) -> list[str | int]:
    """What changes when the file does; a base model of 7 GB is not read for it."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_cell(cell: Cell) -> Image.Image | None:
    """The picture as it was drawn before; None where it was not, or cannot be read."""
    try:
        with Image.open(cell.path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None


def waiting_cells(grid: Grid) -> list[Cell]:
    """What is still to be drawn: the base model first, then file by file."""
    return [cell for cell in grid.cells.values() if read_cell(cell) is None]


def keep_cell(cell: Cell, picture: Image.Image) -> None:
    """Writes a picture where `read_cell` finds it."""
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    drawn_by = f"{cell.adapter.path.stem}:{cell.strength:g}" if cell.adapter else "none"
    with atomic.replacing(cell.path, durable=False) as temporary:
        picture.save(temporary, "PNG", pnginfo=_info(parameters_text(cell.prompt, drawn_by)))


@dataclass(frozen=True)
class Judged:
    """How a picture looks beside the base model's with the same seed. remark: words for it, "" for none."""

    cell: Cell
    look: Look
    remark: str


def judge(grid: Grid) -> list[Judged]:
    """The looks of all pictures of adapters; all must have been drawn."""
    judged: list[Judged] = []
    for prompt in grid.prompts:
        base = _drawn(grid.cell(prompt, None, 0.0))
        for cell in grid.cells.values():
            if cell.prompt == prompt and cell.adapter is not None:
                look = look_at(_drawn(cell), base)
                judged.append(Judged(cell, look, remark(look)))
    return judged


def write_sheet(
    grid: Grid, prompt: Prompt, judged: Sequence[Judged], path: Path, columns: Columns, footer: Sequence[str]
) -> None:
    """Writes the labelled sheet of one prompt, with all that it was drawn with in its text chunks."""
    said = {each.cell: each for each in judged}
    strengths = [f"{strength:g}" if strength else "0: the base model" for strength in grid.strengths]
    labels = [adapter.label for adapter in grid.adapters]
    cells = [[grid.cell(prompt, adapter, strength) for strength in grid.strengths] for adapter in grid.adapters]
    if columns == "epochs":
        cells = [list(row) for row in zip(*cells, strict=True)]
    across, down = (strengths, labels) if columns == "strengths" else (labels, strengths)
    rows = [(label, [_drawn(cell) for cell in row]) for label, row in zip(down, cells, strict=True)]
    sheet = contact_sheet(
        rows,
        across,
        cell_px=max(128, min(_LARGEST_CELL_PX, max(prompt.width, prompt.height))),
        title=f"{grid.run.name}: {prompt.text}",
        under=[[_under(said.get(cell)) for cell in row] for row in cells],
        footer=[
            f"seed {prompt.seed}, {prompt.sampler}, {prompt.steps} steps, guidance {prompt.guidance_scale:g}",
            *footer,
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "run": grid.run.name,
        "prompt": prompt_line(prompt),
        "strengths": list(grid.strengths),
        "adapters": [str(adapter.path) for adapter in grid.adapters],
        "pictures": [
            {
                "adapter": each.cell.adapter.path.name if each.cell.adapter else None,
                "strength": each.cell.strength,
                **dataclasses.asdict(each.look),
                "remark": each.remark,
            }
            for each in judged
            if each.cell.prompt == prompt
        ],
    }
    info = _info(parameters_text(prompt, f"{', '.join(labels)} at {', '.join(strengths)}"))
    info.add_text("loratory-grid", json.dumps(about))
    with atomic.replacing(path, durable=False) as temporary:
        sheet.save(temporary, "PNG", pnginfo=info)


def sheet_path(grid: Grid, index: int, out: Path | None) -> Path:
    """Where the sheet of a prompt goes: `out`, with a number where there are several, or a name of its own in the run,
    the same for the same grid."""
    if out is not None:
        return out if len(grid.prompts) == 1 else out.with_name(f"{out.stem}-{index:02d}{out.suffix}")
    prompt = grid.prompts[index]
    about = "".join(cell.path.stem for cell in grid.cells.values() if cell.prompt == prompt)
    return grid.run.path / GRIDS / f"grid-{index:02d}-{hashlib.sha256(about.encode()).hexdigest()[:8]}.png"


def draw_waiting(
    waiting: Sequence[Cell], draw: Callable[[AdapterAt | None, float, Prompt], Image.Image], at: Callable[[int], None]
) -> None:
    """Draws and keeps one picture after the other. at: gets how many are done."""
    for done, cell in enumerate(waiting):
        at(done)
        keep_cell(cell, draw(cell.adapter, cell.strength, cell.prompt))
    at(len(waiting))


def _under(judged: Judged | None) -> str:
    if judged is None:
        return ""
    return f"{judged.look.distance:.0%} away" + (f": {judged.remark}" if judged.remark else "")


def _drawn(cell: Cell) -> Image.Image:
    picture = read_cell(cell)
    if picture is None:
        raise FileNotFoundError(2, "was drawn, and is gone", str(cell.path))
    return picture


def _info(parameters: str) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", parameters)
    return info
