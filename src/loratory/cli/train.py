"""`loratory train`: the loop in this process, or in one of its own."""

import subprocess
import sys
import threading
from pathlib import Path

import click

from loratory.cli import output
from loratory.cli.progress import Viewer
from loratory.cli.runs import find_run
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import FAILED
from loratory.runs.events import Finished
from loratory.runs.host import host, open_for_resume
from loratory.runs.store import RunDirectory


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. training.seed=7.")
@click.option("--resume", metavar="RUN", help="Go on with a stopped or killed run (its folder or its name).")
@click.option("--detach", is_flag=True, help="Train in a process of its own and return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events to stdout, one JSON object a line.")
def train(config: Path | None, overrides: tuple[str, ...], resume: str | None, detach: bool, as_json: bool) -> int:
    """Train the adapter that CONFIG (a TOML file) describes.

    Ctrl-C once saves the state and stops; twice stops at once. `--resume RUN` goes on as if nothing had happened.
    """
    if (config is None) == (resume is None):
        raise click.UsageError("Give a CONFIG, or --resume RUN.")
    if resume is not None:
        if overrides:
            raise click.UsageError("--resume goes on with the run's own settings; --set needs a new run.")
        run = find_run(resume)
        settings = open_for_resume(run)
    else:
        assert config is not None
        settings = load_config(config, overrides)
        if detach:
            # What can be refused is refused here, where the person still looks.
            from loratory.training.plan import make_plan

            make_plan(settings)
        run = RunDirectory.create(settings.output.runs_dir, settings.output.output_name, dump_config(settings))
    if detach:
        return _detach(run)
    return 0 if train_here(settings, run, as_json=as_json).status == "done" else FAILED


def train_here(settings: Config, run: RunDirectory, *, as_json: bool) -> Finished:
    """Trains in this thread with a viewer beside it. Raises what `host` raises, after the viewer has shown the rest."""
    if not as_json:
        output.say(f"run {run.path}")
    hung_up = threading.Event()
    offset = run.events.stat().st_size if run.events.exists() else 0
    viewer = Viewer(run, as_json=as_json, from_offset=offset)
    viewer.start()
    try:
        finished = host(settings, run, hung_up)
    finally:
        viewer.close()
    if not as_json and not hung_up.is_set():
        output.say(finished.message)
        if finished.status == "stopped":
            output.say(f"`loratory train --resume {run.path}` goes on.")
    return finished


def _detach(run: RunDirectory) -> int:
    # A new run without a state is resumed from its first step: one way into the engine for both.
    command = [sys.executable, "-m", "loratory", "train", "--resume", str(run.path)]
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    output.data(str(run.path))
    output.say(f"training in process {process.pid}; `loratory watch {run.path}` shows it.")
    return 0
