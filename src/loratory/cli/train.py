"""`loratory train`: the loop in this process, or in one of its own."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.cli.progress import Viewer
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import FAILED
from loratory.runs.detached import start_detached
from loratory.runs.events import Finished
from loratory.runs.host import host, host_follower, open_for_resume
from loratory.runs.launch import process_count, process_rank
from loratory.runs.store import RunDirectory
from loratory.runs.way_back import resume_command
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.training.plan import Plan


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. training.seed=7.")
@click.option("--resume", metavar="RUN", help="Go on with a stopped or killed run (its folder or its name).")
@click.option("--detach", is_flag=True, help="Train in a process of its own and return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events to stdout, one JSON object a line.")
def train(config: Path | None, overrides: tuple[str, ...], resume: str | None, detach: bool, as_json: bool) -> int:
    """Train the adapter that CONFIG (a TOML file) describes.

    Ctrl-C once saves the state and stops; twice stops at once. `--resume RUN` goes on as if nothing had happened, with
    `--set` in less memory, for example `--set training.gradient_checkpointing=true`.
    For several graphics cards: `torchrun --nproc-per-node N -m loratory train …`.
    """
    if (config is None) == (resume is None):
        raise click.UsageError("Give a CONFIG, or --resume RUN.")
    if detach and as_json:
        raise click.UsageError("--detach returns at once; `loratory watch RUN --json` prints the events of its run.")
    if detach and process_count() > 1:
        raise click.UsageError("--detach starts one process; let the launcher run in tmux or with nohup instead.")
    if process_rank() > 0:
        host_follower(load_config(find_run(resume).config if resume else config or "", overrides))
        return 0
    plan, seen = None, 0
    if resume is not None:
        run = find_run(resume)
        seen = run.events.stat().st_size if run.events.exists() else 0
        settings = open_for_resume(run, overrides)
    else:
        assert config is not None
        settings = load_config(config, overrides)
        plan = _planned(settings)
        run = RunDirectory.create(settings.output.runs_dir, settings.output.output_name, dump_config(settings))
    if detach:
        return _detach(run)
    return 0 if train_here(settings, run, as_json=as_json, plan=plan, seen=seen).status == "done" else FAILED


def _planned(settings: Config) -> "Plan":
    """The plan of a new run; what can be refused before the first step is refused here, before it has a directory."""
    with output.working("reading pictures and model"):
        from loratory.training.outputs import refuse_overwriting  # imports torch, which takes seconds
        from loratory.training.plan import make_plan

        refuse_overwriting(settings, None)
        return make_plan(settings, process_count())


def train_here(
    settings: Config, run: RunDirectory, *, as_json: bool, plan: "Plan | None" = None, seen: int = 0
) -> Finished:
    """Trains in this thread with a viewer beside it. Raises what `host` raises, after the viewer has shown the rest.

    plan: that of `settings`, where it has been made already. seen: bytes of the run's events that are not shown.
    """
    if not as_json:
        output.say(f"run {run.path}")
    stopping = threading.Event()
    viewer = Viewer(run, as_json=as_json, from_offset=seen, stopping=stopping)
    viewer.start()
    try:
        finished = host(settings, run, threading.Event(), stopping, plan)
    finally:
        viewer.close()
    if not as_json:
        output.say(finished.message)
        if finished.status == "stopped":
            output.say(f"`{resume_command(run)}` goes on.")
    return finished


def _detach(run: RunDirectory) -> int:
    pid = start_detached(run)
    output.data(str(run.path))
    output.say(f"training in process {pid}; `loratory watch {typed(run.path)}` shows it.")
    return 0
