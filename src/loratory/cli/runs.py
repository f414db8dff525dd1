"""`loratory runs`: what is and was trained, and commands to what still is."""

import dataclasses
import importlib
from pathlib import Path

import click
from rich.cells import cell_len

from loratory.cli import output
from loratory.cli.find_run import HERE
from loratory.cli.run_commands import COMMANDS
from loratory.errors import LoratoryError
from loratory.runs.signs import SIGNS
from loratory.runs.store import find_runs, liveness
from loratory.runs.way_back import way_back
from loratory.wording import spoken_time

# Name of a command -> (module, its name in there): imported when it is called.
_ELSEWHERE = {
    "show": ("run_show", "show"),
    "diff": ("run_compare", "diff"),
    "tensorboard": ("run_tensorboard", "run_tensorboard"),
}


class _Runs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            module, name = _ELSEWHERE[cmd_name]
            return getattr(importlib.import_module(f"loratory.cli.{module}"), name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Runs)
def runs() -> None:
    """List and compare runs; pause, stop or steer them, have them save."""


for _command in COMMANDS:
    runs.add_command(_command)


@runs.command("list")
@click.argument("runs_dir", type=click.Path(path_type=Path), default=HERE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(runs_dir: Path, as_json: bool) -> None:
    """The runs in RUNS_DIR (./runs), newest first."""
    if runs_dir != HERE and not runs_dir.is_dir():
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
    crashed: list[str] = []
    for run, record in rows:
        state = liveness(record)
        name = names[run.path] + " " * (width - cell_len(names[run.path]))
        steps = f"step {record.step}/{record.total_steps}" if record and record.total_steps else ""
        took = spoken_time(record.heartbeat_s - record.started_s) if record else ""
        output.data(f"{SIGNS[state].glyph} {state:<9} {name}  {steps:<18} {took}".rstrip())
        if state == "crashed":
            crashed.append(output.one_line(way_back(run)))
        elif state == "paused" and record and record.message:
            output.say(f"{output.one_line(run.name)} waits: {output.one_line(record.message)}")
    for sentence in crashed:
        output.say(sentence)
