"""`loratory PATH`: the screens, on a folder of pictures, a run, a folder of runs, or a config."""

import gc
import importlib
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--preview", metavar="MODE", help="How pictures are shown: auto, kitty, sixel, half, ascii or off.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal, to select text.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
def edit(path: Path, preview: str | None, no_mouse: bool, ascii_only: bool) -> int:
    """Tag the pictures of PATH with the keyboard; or plan a config, or watch a run. `?` shows every key."""
    return open_screens(path, preview=preview, mouse=not no_mouse, ascii_only=ascii_only)


def open_screens(path: Path, **options: Any) -> int:
    """Opens the screens on `path`, and stays while a run that was started in them goes on; the exit code.

    options: those of `tui.start.run`. Raises LoratoryError as that does, and what went wrong in the screens where no
    run goes on.
    """
    # Looking for garbage among freshly imported modules takes a third of the time until the first paint; the program
    # switches it on again when that is done.
    gc.disable()
    # Looked up by name: the command line and the screens stand beside each other and do not import each other.
    left = importlib.import_module("loratory.tui.start").run(path, **options)
    if left.run is None:
        if left.problem is not None:
            raise left.problem
        return 0
    from loratory.cli import output
    from loratory.cli.carry_on import carry_on

    if left.problem is not None:
        output.error(left.problem.message, left.problem.hint)
    return carry_on(left.run)
