"""`loratory queue`: configurations that are trained one after the other, unattended."""

import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from loratory.cli import output
from loratory.errors import FAILED, LoratoryError
from loratory.runs.signs import SIGNS

if TYPE_CHECKING:
    from loratory.runs.queue import Entry, Queue

_STARTS_WITHIN_S = 30.0


def _queue() -> "Queue":
    from loratory.runs.queue import Queue

    return Queue()


@click.group()
def queue() -> None:
    """Train one config after the other, unattended."""


@queue.command()
@click.argument("configs", metavar="CONFIG…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of each of them.")
def add(configs: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Put each CONFIG at the end of the queue.

    It is checked now and kept as it is now: later changes of the file change nothing.
    """
    from loratory.config.load import load_config
    from loratory.training.outputs import refuse_overwriting  # imports torch, which takes seconds
    from loratory.training.plan import make_plan

    waiting = _queue()
    loaded = [(path, load_config(path, overrides)) for path in configs]
    for path, config in loaded:
        with output.working(f"reading the pictures and the model of {path}"):
            # What a run would refuse at night is refused now.
            refuse_overwriting(config, None)
            make_plan(config)
    for path, config in loaded:
        entry = waiting.add(config, path)
        output.data(f"{entry.number} {output.one_line(entry.name)}")
    if not waiting.is_running():
        output.say("`loratory queue run` trains them.")


@queue.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_entries(as_json: bool) -> None:
    """What is in the queue, in the order in which it is trained."""
    waiting = _queue()
    entries = waiting.entries()
    if as_json:
        shown = [{key: value for key, value in asdict(entry).items() if key != "config"} for entry in entries]
        output.data_json({"running": waiting.is_running(), "entries": shown})
        return
    for entry in entries:
        output.data(_line(entry))
    for path in waiting.damaged():
        output.say(f"{path} is no entry of this version.")
    if not entries:
        output.say("The queue is empty.")
    elif waiting.is_running():
        output.say("It is being worked through.")
    elif any(entry.state in ("waiting", "running") for entry in entries):
        output.say("`loratory queue run` works through it.")


def _line(entry: "Entry") -> str:
    from loratory.runs.store import RunDirectory

    state, how = entry.state, output.one_line(entry.reason)
    if entry.state == "running":
        record = RunDirectory(Path(entry.run)).read_record()
        how = f"step {record.step}/{record.total_steps}" if record and record.total_steps else ""
    name = output.one_line(entry.name)
    return f"{entry.number:>3} {SIGNS[state].glyph} {state:<8} {name}  {how}".rstrip()


@queue.command()
@click.argument("name", metavar="N|NAME")
def remove(name: str) -> None:
    """Take an entry out of the queue; its run, if it has one, stays."""
    entry = _queue().remove(name)
    output.say(f"{entry.name} is out of the queue.")


@queue.command()
@click.argument("name", metavar="N|NAME")
@click.argument("where", type=click.Choice(["up", "down", "first"]))
def move(name: str, where: Literal["up", "down", "first"]) -> None:
    """Change the place of an entry that waits."""
    waiting = _queue()
    entry = waiting.move(name, where)
    order = [each.number for each in waiting.entries() if each.state == "waiting"]
    output.say(f"{entry.name} is number {order.index(entry.number) + 1} of {len(order)} that wait.")


@queue.command()
@click.argument("name", metavar="N|NAME", required=False)
def retry(name: str | None) -> None:
    """Have what failed or was stopped wait again, all or one.

    A run that was begun is resumed.
    """
    again = _queue().retry(name)
    output.say(f"Waiting again: {', '.join(entry.name for entry in again)}." if again else "Nothing failed.")


@queue.command()
def clear() -> None:
    """Take out what is done, failed or stopped; runs and files stay."""
    ended = _queue().clear()
    output.say(f"{len(ended)} {'entry is' if len(ended) == 1 else 'entries are'} out of the queue.")


@queue.command()
@click.option("--now", is_flag=True, help="Do not wait for the run at hand: save its state and stop.")
def stop(now: bool) -> None:
    """End the queue after the run at hand."""
    _queue().request_stop("now" if now else "after")
    output.say(
        "The run at hand saves its state and stops; it goes on when the queue does."
        if now
        else "The queue ends after the run at hand."
    )


@queue.command()
@click.option("--detach", is_flag=True, help="Work through it in a process of its own and return at once.")
def run(detach: bool) -> int:
    """Train what waits, one after the other, each in a process of its own.

    What fails is recorded, and the next begins. Ctrl-C saves the state of the run at hand and keeps its place; twice
    stops at once. Killed and begun again, it goes on where it was.
    """
    if detach:
        return _detach(_queue())
    import signal

    from loratory.runs.queue_runner import Stopping, work_through

    stopping = Stopping()
    signal.signal(signal.SIGINT, stopping.ask)
    signal.signal(signal.SIGTERM, stopping.ask)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal may go away
    ended = work_through(_queue(), lambda text: output.say(f"{time.strftime('%H:%M')} {text}"), stopping)
    counts = {state: sum(entry.state == state for entry in ended) for state in ("done", "failed", "stopped")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    output.say(f"The queue ends: {told}." if told else "The queue ends: nothing was trained to its end.")
    return FAILED if counts["failed"] or counts["stopped"] or stopping.times else 0


def _detach(waiting: "Queue") -> int:
    if waiting.is_running():
        raise LoratoryError("The queue is being worked through already.", hint="`loratory queue list` shows it.")
    waiting.folder.mkdir(parents=True, exist_ok=True)
    # -P: a file named like a module, in the folder we are in, is not that module.
    command = [sys.executable, "-P", "-m", "loratory", "queue", "run"]
    with waiting.log.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    limit_s = time.monotonic() + _STARTS_WITHIN_S
    try:
        while not waiting.is_running() and process.poll() is None and time.monotonic() < limit_s:
            time.sleep(0.05)
    except BaseException:
        process.terminate()  # nobody has been told of it
        raise
    if process.poll():
        raise LoratoryError(f"The queue ended at once; {waiting.log} says why.", exit_code=FAILED)
    output.data(str(process.pid))
    output.say(f"The queue is worked through in process {process.pid}; {waiting.log} tells of it.")
    return 0
