"""`loratory runs`: what is and was trained, and commands to what still is."""

import dataclasses
from pathlib import Path

import click
from rich.cells import cell_len

from loratory.cli import output
from loratory.errors import LoratoryError
from loratory.runs import control
from loratory.runs.store import ALIVE, RunDirectory, find_runs, liveness
from loratory.wording import spoken_time

_HERE = Path("runs")
_GLYPHS = {
    "starting": "○",
    "running": "●",
    "paused": "‖",
    "done": "✓",
    "stopped": "■",
    "failed": "✗",
    "crashed": "✗",
    "silent": "?",
}
_MATCHES_SHOWN = 5


def find_run(name: str) -> RunDirectory:
    """The run at a path, or in ./runs the one whose name is or begins with `name`."""
    path = Path(name)
    if "/" in name or (path / "state").is_dir():
        return RunDirectory.open(path)
    matches = [run for run in find_runs(_HERE) if run.name.startswith(name)]
    exact = [run for run in matches if run.name == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if matches:
        newest = ", ".join(run.name for run in matches[:_MATCHES_SHOWN])
        more = f" and {len(matches) - _MATCHES_SHOWN} more" if len(matches) > _MATCHES_SHOWN else ""
        raise LoratoryError(f"“{name}” could be any of {newest}{more}.", hint="Give more of the name, or the folder.")
    if path.exists():
        return RunDirectory.open(path)  # says what it lacks
    raise LoratoryError(f"There is no run “{name}” here.", hint="`loratory runs list` shows the runs in ./runs.")


@click.group()
def runs() -> None:
    """List runs, stop them, have them save."""


@runs.command("list")
@click.argument("runs_dir", type=click.Path(path_type=Path), default=_HERE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(runs_dir: Path, as_json: bool) -> None:
    """The runs in RUNS_DIR (./runs), newest first."""
    if runs_dir != _HERE and not runs_dir.is_dir():
        raise LoratoryError(f"{runs_dir} is {'not a folder' if runs_dir.exists() else 'not there'}.")
    rows = [(run, run.read_record()) for run in find_runs(runs_dir)]
    if as_json:
        output.data_json(
            [
                {"path": str(run.path), "state": liveness(record)} | (dataclasses.asdict(record) if record else {})
                for run, record in rows
            ]
        )
        return
    if not rows:
        output.say(f"No runs in {runs_dir}.")
    names = {run.path: output.one_line(run.name) for run, _ in rows}
    width = max(map(cell_len, names.values()), default=0)
    for run, record in rows:
        state = liveness(record)
        name = names[run.path] + " " * (width - cell_len(names[run.path]))
        steps = f"step {record.step}/{record.total_steps}" if record and record.total_steps else ""
        took = spoken_time(record.heartbeat_s - record.started_s) if record else ""
        output.data(f"{_GLYPHS[state]} {state:<9} {name}  {steps:<18} {took}".rstrip())


@runs.command()
@click.argument("run")
def stop(run: str) -> None:
    """Have RUN save its state and stop.

    `loratory train --resume RUN` goes on later.
    """
    _send(run, "stop")


@runs.command()
@click.argument("run")
def save(run: str) -> None:
    """Have RUN save the adapter as it is now, and go on."""
    _send(run, "save")


def _send(name: str, command: control.CommandName) -> None:
    run = find_run(name)
    state = liveness(run.read_record())
    if state not in ALIVE:
        raise LoratoryError(f"{run.path} is not being trained: it is {state}.")
    control.send(run.control, control.Command(command))
    output.say(f"{command} is left for {run.name}; it is obeyed after the step in hand.")
