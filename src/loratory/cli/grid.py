"""`loratory grid`: which epoch, and how strong? Each adapter of a run at several strengths, on one sheet a prompt."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.style import Style
from rich.text import Text

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.config.load import load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.wording import typed

if TYPE_CHECKING:
    from PIL import Image

    from loratory.models.detect import ModelInfo
    from loratory.sampling.grid import Columns, Grid, Judged, SavedFiles
    from loratory.sampling.prompts import Prompt


_CAPTIONS = 2  # drawn where a run has no prompts


@click.command()
@click.argument("run")
@click.option("--strengths", default="0,0.5,0.8,1", show_default=True, metavar="N,N,…", help="0 is the base model.")
@click.option("--epochs", default="all", show_default=True, metavar="all|N,N,…", help="Only files saved in these.")
@click.option("--prompts", "prompt_file", type=click.Path(path_type=Path), help="A file of prompts, one a line.")
@click.option("--prompt", "prompt_lines", multiple=True, metavar="TEXT", help="A prompt with flags, as in the config.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Draw every prompt with this seed.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The PNG to write. [default: in RUN/grids]")
@click.option("--columns", type=click.Choice(["strengths", "epochs"]), default="strengths", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def grid(
    run: str,
    strengths: str,
    epochs: str,
    prompt_file: Path | None,
    prompt_lines: tuple[str, ...],
    seed: int | None,
    out: Path | None,
    columns: "Columns",
    as_json: bool,
) -> None:
    """Draw the prompts of RUN with each adapter it saved, at several strengths and the same seeds: one PNG a prompt.

    Prompts are those of the run's config unless some are given; where it has none, two captions of the training set.
    What was drawn before is not drawn again, so that an interrupted grid goes on where it was.
    """
    from loratory.models.detect import detect_model
    from loratory.sampling.grid import judge, make_grid, saved_files, sheet_path, write_sheet

    directory = find_run(run, to_look=True)
    config = load_config(directory.config)
    wanted = _strengths(strengths)
    prompts = _prompts(config, prompt_file, prompt_lines, seed)
    if out is not None and out.suffix.lower() != ".png":
        raise LoratoryError(f"{out} does not end in .png.", hint="The sheet is a PNG.")
    files = saved_files(directory, _epochs(epochs))
    _tell_of(files)
    if not files.there:
        which = "" if epochs == "all" else f" in epoch {epochs}"
        raise LoratoryError(
            f"{directory.path} has no adapter file saved{which} that is still there.",
            hint=f"`loratory runs save {typed(directory.path)}` has a run that is under way save one.",
        )
    info = detect_model(config.model, config.noise)
    planned = make_grid(config, info, directory, prompts, files.there, wanted)
    _draw(planned, config, info)
    judged = judge(planned)
    footer = _conclusions(planned, judged)
    sheets = [sheet_path(planned, index, out) for index in range(len(prompts))]
    for prompt, path in zip(prompts, sheets, strict=True):
        write_sheet(planned, prompt, judged, path, columns, footer)
    if as_json:
        output.data_json(_summary(planned, files, judged, footer, sheets))
        return
    _print(planned, judged, footer, sheets)


def _strengths(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise LoratoryError(f"--strengths {text}: give numbers with commas between, such as 0,0.5,1.") from None
    if not all(-10 <= value <= 10 for value in values):
        raise LoratoryError(f"--strengths {text}: a strength is from -10 to 10.")
    if not any(values):
        raise LoratoryError("--strengths 0 is the base model alone.", hint="Add another, such as 0,1.")
    return sorted(set(values))


def _epochs(text: str) -> set[int] | None:
    if text == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise LoratoryError(f"--epochs {text}: give “all”, or numbers with commas between, such as 1,2,5.")
    return {int(part) for part in parts}


def _prompts(config: Config, file: Path | None, lines: Sequence[str], seed: int | None) -> "list[Prompt]":
    from loratory.sampling.prompts import default_prompt, parse_prompt, prompts_of, read_prompts

    defaults = default_prompt(config)
    prompts = [parse_prompt(line, defaults) for line in lines]
    if file is not None:
        prompts += read_prompts(file, defaults)
    if file is None and not lines:
        prompts = prompts_of(config)
        prompts += _captions(config, config.sample.prompts_from_captions or (0 if prompts else _CAPTIONS))
    if not prompts:
        raise LoratoryError(
            f"{file} holds no prompt."
            if file is not None
            else "The run's config has no prompts, and no caption of its training set can be read.",
            hint='Give one with --prompt, such as --prompt "fox, snow --d 7".',
        )
    if seed is not None:
        prompts = [replace(prompt, seed=seed) for prompt in prompts]
    return list(dict.fromkeys(prompts))


def _captions(config: Config, count: int) -> "list[Prompt]":
    """So many captions of the training set; none, with a word of why, where it cannot be read."""
    from loratory.dataset.scan import scan_dataset
    from loratory.sampling.caption_prompts import prompts_from_captions

    if not count:
        return []
    try:
        return prompts_from_captions(config, scan_dataset(config.dataset, config.caption).images, count)
    except LoratoryError as error:
        output.say(output.one_line(f"No captions as prompts: {error.message}"), "yellow")
        return []


def _tell_of(files: "SavedFiles") -> None:
    for path in files.removed:
        output.say(output.one_line(f"{path} was removed meanwhile: left out."))
    for path in files.rewritten:
        output.say(output.one_line(f"{path} was written again since this run saved it: it may be another's."), "yellow")


def _draw(planned: "Grid", config: Config, info: "ModelInfo") -> None:
    from loratory.sampling.grid import draw_waiting, waiting_cells

    waiting = waiting_cells(planned)
    kept = len(planned.cells) - len(waiting)
    if kept:
        output.say(f"{kept} of {len(planned.cells)} pictures were drawn before")
    if not waiting:
        return
    with output.working("loading the base model"):
        from loratory.sampling.painter import Painter  # imports torch, which takes seconds
        from loratory.sampling.samplers import refuse_samplers
        from loratory.training.device import compute_dtype, pick_device

        refuse_samplers(planned.prompts, info)
        device = pick_device()
        painter = Painter(config, info, device, compute_dtype(config.training, device))
    try:
        with output.counting("drawing") as tell:
            draw_waiting(
                waiting,
                lambda adapter, strength, prompt: painter.draw(adapter.path if adapter else None, strength, prompt),
                lambda done: tell(done, len(waiting)),
            )
    except KeyboardInterrupt:
        output.say("broken off; what was drawn is kept, and the same command goes on")
        raise


def _conclusions(planned: "Grid", judged: "Sequence[Judged]") -> list[str]:
    from loratory.sampling.hints import conclusions

    looks = [
        (adapter.label, strength, [e.look for e in judged if (e.cell.adapter, e.cell.strength) == (adapter, strength)])
        for adapter in planned.adapters
        for strength in planned.strengths
        if strength
    ]
    return conclusions(looks)


def _summary(
    planned: "Grid", files: "SavedFiles", judged: "Sequence[Judged]", footer: list[str], sheets: list[Path]
) -> dict[str, Any]:
    return {
        "run": str(planned.run.path),
        "sheets": [str(path) for path in sheets],
        "prompts": [dataclasses.asdict(prompt) for prompt in planned.prompts],
        "strengths": list(planned.strengths),
        "adapters": [dataclasses.asdict(adapter) | {"path": str(adapter.path)} for adapter in planned.adapters],
        "left_out": [str(path) for path in files.removed],
        "pictures": [
            {
                "adapter": str(each.cell.adapter.path) if each.cell.adapter else None,
                "strength": each.cell.strength,
                "prompt": planned.prompts.index(each.cell.prompt),
                "path": str(each.cell.path),
                **dataclasses.asdict(each.look),
                "remark": each.remark,
            }
            for each in judged
        ],
        "hints": footer,
    }


def _print(planned: "Grid", judged: "Sequence[Judged]", footer: list[str], sheets: list[Path]) -> None:
    width = max(len(adapter.label) for adapter in planned.adapters)
    output.say(f"{'':<{width}}  strength  from the base  colour  clipped", "bold")
    for adapter in planned.adapters:
        for strength in planned.strengths:
            looks = [e.look for e in judged if (e.cell.adapter, e.cell.strength) == (adapter, strength)]
            if looks:
                away, colour, clipped = (
                    sum(values) / len(looks)
                    for values in zip(*((look.distance, look.colour, look.clipped) for look in looks), strict=True)
                )
                output.say(f"{adapter.label:<{width}}  {strength:>8g}  {away:>13.1%}  {colour:>5.2f}x  {clipped:>7.1%}")
    for sentence in footer:
        output.say(sentence)
    for path in sheets:
        if sys.stdout.isatty() and output.is_unicode() and "NO_COLOR" not in os.environ:
            _show(path)
        output.data(output.one_line(str(path)))
    output.say(output.one_line(f"`loratory {typed(planned.run.path)}` shows them too: key 6."))


def _show(path: Path) -> None:
    """The sheet in half blocks, as large as the terminal is: enough to see which picture to look at."""
    from PIL import Image, ImageOps

    columns, rows = shutil.get_terminal_size()
    with Image.open(path) as sheet:
        small = ImageOps.contain(sheet.convert("RGB"), (columns - 1, 2 * max(4, rows - 4)), Image.Resampling.LANCZOS)
    output.show(Text("\n").join(_half_blocks(small, y) for y in range(0, small.height - 1, 2)))


def _half_blocks(picture: "Image.Image", y: int) -> Text:
    line = Text(no_wrap=True)
    for x in range(picture.width):
        upper, lower = (_colour(picture.getpixel((x, row))) for row in (y, y + 1))
        line.append("▀", Style(color=upper, bgcolor=lower))
    return line


def _colour(pixel: Any) -> str:
    red, green, blue = pixel
    return f"rgb({red},{green},{blue})"
