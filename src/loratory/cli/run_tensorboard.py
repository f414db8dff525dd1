"""`loratory runs tensorboard`: a run's events as a log that TensorBoard shows."""

from pathlib import Path

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.errors import FAILED, LoratoryError


@click.command("tensorboard")
@click.argument("run")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("logs"),
    show_default=True,
    help="Where the log goes, into a folder of the run's name.",
)
def run_tensorboard(run: str, folder: Path) -> None:
    """Write the scalars and sample pictures of RUN as a log for TensorBoard.

    An earlier log of the run there is replaced. Show it with `tensorboard --logdir FOLDER`; TensorBoard itself comes
    with `pip install '.[tensorboard]'`.
    """
    from loratory.runs.tensorboard import convert

    directory = find_run(run, to_look=True)
    with output.working("writing the log"):
        try:
            path, events = convert(directory, folder / directory.name)
        except OSError as error:
            raise LoratoryError(
                f"The log cannot be written to {folder}: {error.strerror or error}.",
                hint="Choose another folder with -o.",
                exit_code=FAILED,
            ) from error
    output.say(f"{events} events; show them with `tensorboard --logdir {folder}`.")
    output.data(str(path))
