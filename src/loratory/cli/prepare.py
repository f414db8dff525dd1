"""`loratory prepare`: from a folder of original pictures to a folder that can be trained on."""

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.prepare_report import Bar, as_data, print_history, print_plan, print_report
from loratory.errors import FAILED, LoratoryError
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.imaging.recipe import Defaults
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.desk import Desk

_INTERRUPTED = 130
_path = click.Path(path_type=Path)


@click.command(short_help="Make a training folder from original pictures.")
@click.argument("source", metavar="SRC", type=_path)
@click.argument("destination", metavar="[DST]", required=False, type=_path)
@click.option("--token", metavar="TAG", help="Instance token: what you will prompt with. Names the folder N_TAG.")
@click.option("--class", "class_token", metavar="TAG", help="Class token: what it is, such as dog or woman.")
@click.option("--repeats", type=click.IntRange(1), metavar="N", help="Repeats in the names of new folders.")
@click.option("--resolution", metavar="N|WxH", help="Training resolution in px: smaller pictures are upscaled to it.")
@click.option("--upscaler", metavar="NAME|FILE", help="default, another that comes with Loratory, or a model file.")
@click.option("--upscale/--no-upscale", default=None, help="Whether pictures that are too small are upscaled.")
@click.option("--max-side", type=click.IntRange(0), metavar="PX", help="Longest side; larger is shrunk. 0: no limit.")
@click.option(
    "--format", "format_name", type=click.Choice(["auto", "png", "jpeg", "webp", "keep"]), help="What is written."
)
@click.option("--backgrounds", metavar="COLOURS", help="Take turns behind transparency: white,black,#4060d0.")
@click.option("--dedupe", is_flag=True, help="Of originals of the same bytes leave out all but the first.")
@click.option("--prune", is_flag=True, help="Remove what was made of originals that are gone.")
@click.option("--force", is_flag=True, help="Make anew what was changed by hand, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be done to each picture, and write nothing.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes; by default one for each core.")
@click.option("--recipes", type=_path, metavar="FILE", help="Where the recipes stand, if not in SRC/recipes.toml.")
@click.option("--undo", is_flag=True, help="Take the last change of recipes back, and build.")
@click.option("--history", is_flag=True, help="List the changes of recipes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prepare(
    source: Path,
    destination: Path | None,
    token: str | None,
    class_token: str | None,
    repeats: int | None,
    resolution: str | None,
    upscaler: str | None,
    upscale: bool | None,
    max_side: int | None,
    format_name: Any,
    backgrounds: str | None,
    dedupe: bool,
    prune: bool,
    force: bool,
    dry_run: bool,
    jobs: int | None,
    recipes: Path | None,
    undo: bool,
    history: bool,
    as_json: bool,
) -> int:
    """Make a training folder from the original pictures in SRC, which stay as they are.

    DST is the training folder, in which each concept gets a folder `N_name`, or one such folder. Pictures become
    upright, opaque, sRGB, 8 bits, of a format that trainers read and a size that suits them; recipes in
    SRC/recipes.toml say what else is done to each. Captions follow. Run again, it makes what has changed and nothing
    else. Options that say how pictures are made are remembered.

    SRC may also be a training folder by itself: what was changed in its recipes is made.
    """
    from loratory.preparation.desk import Desk
    from loratory.preparation.work import Options

    if dry_run and undo:
        raise click.UsageError("--dry-run does not go with --undo, which changes the recipes.")
    desk = Desk(source, destination, recipes=recipes)
    if history:
        return print_history(desk, as_json)
    settings = {
        "token": token,
        "class_token": class_token,
        "repeats": repeats,
        "resolution": None if resolution is None else _resolution(resolution),
        "upscaler": None if upscaler is None else _upscaler(upscaler),
        "upscale": None if upscale is None else "auto" if upscale else "never",
        "max_side_px": max_side,
        "format": format_name,
        "backgrounds": None if backgrounds is None else _backgrounds(backgrounds),
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if desk.is_dataset and given:
        raise LoratoryError(
            f"{source} is a training folder itself: its pictures stay as they are but for their recipes.",
            hint=f"Give the folder of the originals first: loratory prepare ORIGINALS {typed(source)}",
        )
    if undo:
        label = desk.undo()
        if label is None:
            raise LoratoryError(f"No recipe of {source} was changed: there is nothing to undo.")
        output.say(f"taken back: {label}")
    elif not desk.is_dataset:
        _set_up(desk, destination, given, write=not dry_run)
        _say_folders(desk, given)
    if not any(desk.names()):
        raise LoratoryError(
            f"No picture found in {source} or the folders below it.",
            hint="Loratory reads png, jpg, webp, bmp, avif, gif and tiff files, and heic and jxl with their packages.",
        )
    options = Options(force, prune, dedupe, jobs)
    if dry_run:
        return print_plan(desk, options, as_json)
    with _stopping() as stop, Bar() as bar:
        report = desk.build(progress=bar.making, looking=bar.looking, stop=stop, options=options)
    if as_json:
        output.data_json(as_data(desk, report))
    else:
        print_report(desk, report)
    if report.stopped:
        return _INTERRUPTED
    return FAILED if report.failed or (report.captions and report.captions.skipped) else 0


def _set_up(desk: "Desk", destination: Path | None, given: dict[str, Any], *, write: bool) -> None:
    from loratory.tags.edits.base import checked_tag

    for name in ("token", "class_token"):
        if name in given:
            given[name] = checked_tag(given[name])
    said: Prepare = replace(desk.book.prepare, **{k: v for k, v in given.items() if hasattr(desk.book.prepare, k)})
    defaults: Defaults = replace(desk.defaults, **{k: v for k, v in given.items() if hasattr(desk.defaults, k)})
    if destination is not None:
        said = replace(said, destination=os.path.relpath(destination.resolve(), desk.directory))
    desk.set_up(said, defaults, write=write)


def _say_folders(desk: "Desk", given: dict[str, Any]) -> None:
    """What options that name folders come to where folders have their names already."""
    from loratory.dataset.findings import shown
    from loratory.dataset.listing import parse_folder_name
    from loratory.dataset.root import is_concept

    naming = [f"--{name.removesuffix('_token')}" for name in ("token", "class_token", "repeats") if name in given]
    if not naming or desk.destination is None:
        return
    if is_concept(desk.destination.name):
        has = "have" if len(naming) > 1 else "has"
        output.say(
            f"{', '.join(naming)} {has} no part in this: the pictures go to {shown(desk.destination.name)} itself."
        )
        return
    named = {part for name in desk.names() for part in name.split("/")[:-1]}
    for folder in desk.folders:
        repeats = parse_folder_name(folder.name)[0]
        if repeats != given.get("repeats", repeats) and folder.is_dir() and folder.name not in named:
            output.say(f"{shown(folder.name)} is there already and keeps its repeats: `loratory balance` changes them.")


def _resolution(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.isascii() and side.isdecimal() and 64 <= int(side) <= 8192 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise click.BadParameter(f"{text!r} is no resolution: give 512, or 640x448.", param_hint="--resolution")


def _upscaler(name: str) -> str:
    from loratory.upscaling import names

    if name in names():
        return name
    path = Path(name).expanduser()
    if path.is_file():
        return str(path.resolve())
    raise LoratoryError(
        f"There is no upscaler {name!r}, and no file of that name.",
        hint=f"Those that come with Loratory are {', '.join(names())}; else give the path of a model file.",
    )


def _backgrounds(text: str) -> tuple[str, ...]:
    from loratory.imaging.recipe import background_colour

    colours = tuple(colour.strip() for colour in text.split(",") if colour.strip())
    if not colours:
        raise click.BadParameter("name at least one colour.", param_hint="--backgrounds")
    for colour in colours:
        background_colour(colour)
    return tuple(dict.fromkeys(colours))


@contextmanager
def _stopping() -> Generator[Event]:
    """Ctrl-C asks once to stop; what is being made is finished. The second time it is what it always is."""
    stop = Event()
    old = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, old)
        output.say("stopping; Ctrl-C again stops at once")

    try:
        signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread, which alone may; the caller stops in its own way
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old)
