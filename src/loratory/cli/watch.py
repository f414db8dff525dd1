"""`loratory watch`: a run, from any terminal on any machine that sees its folder."""

import os

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.errors import FAILED
from loratory.runs.store import ALIVE, RunDirectory, liveness
from loratory.runs.way_back import gone


@click.command()
@click.argument("run")
@click.option("--plain", is_flag=True, help="A progress line instead of the dashboard.")
@click.option("--read-only", is_flag=True, help="Show it only: no key tells the run anything.")
@click.option("--preview", metavar="MODE", help="How pictures are shown: auto, kitty, sixel, half, ascii or off.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal, to select text.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events, one JSON object a line.")
def watch(
    run: str, plain: bool, read_only: bool, preview: str | None, no_mouse: bool, ascii_only: bool, as_json: bool
) -> int:
    """Show RUN in the dashboard; without a terminal as lines, until it ends.

    Ctrl-Q leaves the dashboard, Ctrl-C the lines; the run goes on.
    """
    directory = find_run(run, to_look=True)
    if as_json or plain or not all(map(os.isatty, (0, 1, 2))) or os.environ.get("TERM", "dumb") == "dumb":
        return _follow(directory, as_json=as_json)
    from loratory.cli.edit import open_screens

    return open_screens(
        directory.path, first="run", preview=preview, mouse=not no_mouse, ascii_only=ascii_only, read_only=read_only
    )


def _follow(directory: RunDirectory, *, as_json: bool) -> int:
    from loratory.cli.progress import Viewer

    viewer = Viewer(directory, as_json=as_json)
    viewer.follow(lambda: liveness(directory.read_record()) in ALIVE)
    if viewer.finished is None:
        output.error(*gone(directory))
        return FAILED
    if viewer.finished.status == "failed":
        output.error(viewer.finished.message, viewer.finished.hint)
        return FAILED
    if not as_json:
        output.say(viewer.finished.message)
    return 0
