"""`loratory runs`: what is and was trained, and commands to what still is."""

import dataclasses
from pathlib import Path

import click

from loratory.cli import output
from loratory.cli.progress import spoken_time
from loratory.errors import LoratoryError
from loratory.runs import control
from loratory.runs.store import RunDirectory, find_runs, liveness

_GLYPHS = {
    "starting": "○",
    "running": "●",
    "done": "✓",
    "stopped": "‖",
    "failed": "✗",
    "crashed": "✗",
    "silent": "?",
}


def find_run(name: str) -> RunDirectory:
    """The run at a path, or of that name (or its only match) in ./runs."""
    path = Path(name)
    if path.exists() or "/" in name:
        return RunDirectory.open(path)
    matches = [run for run in find_runs(Path("runs")) if run.name.startswith(name)]
    exact = [run for run in matches if run.name == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if matches:
        raise LoratoryError(f"“{name}” could be any of {', '.join(run.name for run in matches)}.")
    raise LoratoryError(f"There is no run “{name}” here.", hint="`loratory runs list` shows the runs in ./runs.")


@click.group()
def runs() -> None:
    """List runs, stop them, have them save."""


@runs.command("list")
@click.argument("runs_dir", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(runs_dir: Path, as_json: bool) -> None:
    """The runs in RUNS_DIR (./runs), newest first."""
    found = list(find_runs(runs_dir))
    rows = [(run, run.read_record()) for run in found]
    if as_json:
        output.data_json(
            [
                {"path": str(run.path), "state": liveness(record) if record else "starting"}
                | (dataclasses.asdict(record) if record else {})
                for run, record in rows
            ]
        )
        return
    if not rows:
        output.say(f"No runs in {runs_dir}.")
    for run, record in rows:
        state = liveness(record) if record else "starting"
        steps = f"step {record.step}/{record.total_steps}" if record and record.total_steps else ""
        took = spoken_time(record.heartbeat_s - record.started_s) if record else ""
        output.data(output.plain(f"{_GLYPHS[state]} {state:<9} {run.name:<40} {steps:<18} {took}").rstrip())


@runs.command()
@click.argument("run")
def stop(run: str) -> None:
    """Have RUN save its state and stop; `loratory train --resume` goes on later."""
    _send(run, "stop")


@runs.command()
@click.argument("run")
def save(run: str) -> None:
    """Have RUN save the adapter as it is now, and go on."""
    _send(run, "save")


def _send(name: str, command: control.Command) -> None:
    run = find_run(name)
    state = liveness(run.read_record())
    if state not in ("starting", "running", "silent"):
        raise LoratoryError(f"{run.path} is not being trained: it is {state}.")
    control.send(run.control, command)
    output.say(f"{command} is left for {run.name}; it is obeyed after the step in hand.")
