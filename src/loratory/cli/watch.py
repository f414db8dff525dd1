"""`loratory watch`: the progress of a run, from any terminal on any machine that sees its folder."""

import click

from loratory.cli import output
from loratory.cli.progress import Viewer
from loratory.cli.runs import find_run
from loratory.errors import FAILED
from loratory.runs.store import ALIVE, liveness


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events, one JSON object a line.")
def watch(run: str, as_json: bool) -> int:
    """Follow RUN until it ends. Ctrl-C leaves; the run goes on."""
    directory = find_run(run)
    viewer = Viewer(directory, as_json=as_json)
    viewer.follow(lambda: liveness(directory.read_record()) in ALIVE)
    if viewer.finished is None:
        output.error(
            f"{directory.path}: the process that trained it is gone without a word.",
            f"`loratory train --resume {directory.path}` goes on from the last saved state.",
        )
        return FAILED
    if viewer.finished.status == "failed":
        output.error(viewer.finished.message, viewer.finished.hint)
        return FAILED
    if not as_json:
        output.say(viewer.finished.message)
    return 0
