"""`loratory DIR`: the tag editor."""

import gc
import importlib
from pathlib import Path

import click


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--preview", metavar="MODE", help="How pictures are shown: auto, kitty, sixel, half, ascii or off.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal, to select text.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
def edit(directory: Path, preview: str | None, no_mouse: bool, ascii_only: bool) -> None:
    """Tag the pictures of DIR with the keyboard. `?` shows every key."""
    # Looking for garbage among freshly imported modules takes a third of the time until the first paint; the program
    # switches it on again when that is done.
    gc.disable()
    # Looked up by name: the command line and the screens stand beside each other and do not import each other.
    app = importlib.import_module("loratory.tui.app")
    app.run(directory, preview=preview, mouse=not no_mouse, ascii_only=ascii_only)
