"""Working through the queue: each entry is trained in a process of its own, whose run directory says how it goes.

What this process knows is in the entries and the runs, so that it can be killed at any moment and begun again: it then
waits for the run at hand if that still trains, resumes it if not, and goes on with the next.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from loratory.errors import LoratoryError
from loratory.runs import control
from loratory.runs.control import Command
from loratory.runs.detached import start_detached
from loratory.runs.queue import Entry, EntryState, Queue
from loratory.runs.store import RunDirectory, RunRecord, liveness
from loratory.wording import spoken_time

# A run whose process died without a word, by a crash or a power cut, is resumed; one that keeps dying is given up.
MOST_TRIES = 2
_POLL_S = 0.3
_TOLD_EVERY_S = 60.0
_LOG_TAIL_BYTES = 4000

Tell = Callable[[str], None]


@dataclass
class Stopping:
    """How often a signal asked for an end: once saves the state of the run at hand, twice ends it at once."""

    times: int = 0

    def ask(self, *_: object) -> None:
        """A signal handler, so it takes no lock: the thread that it interrupts might hold it."""
        self.times += 1


def work_through(queue: Queue, tell: Tell, stopping: Stopping) -> list[Entry]:
    """Trains what waits, one after the other, until nothing does or a stop is asked for: the entries it ended.

    tell: takes a sentence each time something changes. An entry that fails is recorded and left behind. Raises
    LoratoryError where another process does this already, and OSError where the queue itself cannot be written.
    """
    ended: list[Entry] = []
    with queue.working():
        for path in queue.damaged():
            tell(f"{path} is no entry of this version; it is left alone.")
        while not stopping.times and queue.stop_request() is None:
            entry = _next(queue)
            if entry is None:
                break
            tell(f"{entry.name} (number {entry.number}): {'goes on' if entry.run else 'begins'}.")
            began_s = time.monotonic()
            state, reason = _train(queue, entry, tell, stopping)
            took = spoken_time(time.monotonic() - began_s)
            # Who was asked to stop has not failed, however often that happens.
            tries = {"tries": 0} if state == "waiting" else {}
            now = queue.update(entry.number, _with(state=state, reason=reason, ended_s=time.time(), **tries))
            if now is None:
                continue
            if state == "waiting":
                tell(f"{entry.name} is stopped, its state saved; it goes on when the queue does.")
            else:
                tell(f"{entry.name}: {state} after {took}. {reason}".rstrip())
                ended.append(now)
    return ended


def _next(queue: Queue) -> Entry | None:
    """What a killed process had in hand, else the first that waits."""
    entries = queue.entries()
    running = [entry for entry in entries if entry.state == "running"]
    return next(iter(running + [entry for entry in entries if entry.state == "waiting"]), None)


def _with(**changes: Any) -> Callable[[Entry], Entry]:
    return lambda entry: replace(entry, **changes)


def _train(queue: Queue, entry: Entry, tell: Tell, stopping: Stopping) -> tuple[EntryState, str]:
    """Trains an entry to its end, and over a crash: what became of it, and why. "waiting": it was asked to stop."""
    tries, pid = entry.tries, None
    try:
        while True:
            run = _run_of(queue, entry, tell)
            if liveness(run.read_record()) == "done":
                return "done", ""
            if not _is_alive(run):
                if tries >= MOST_TRIES:
                    return "failed", f"Its process died {tries} times without a word. {_last_words(run)}".strip()
                tries += 1
                queue.update(entry.number, _with(tries=tries))
                pid = start_detached(run)
            was_asked = _wait(run, queue, entry.name, tell, stopping)
            if pid is not None:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # it has ended: the system may forget it
            record = run.read_record()
            state = liveness(record)
            message = record.message if record else ""
            match state:
                case "done":
                    return "done", ""
                case "failed":
                    return "failed", message
                case "stopped":
                    return ("waiting", "") if was_asked else ("stopped", message)
                case _ if was_asked:
                    return "waiting", ""
                case _:
                    tell(f"{entry.name}: its process died at step {record.step if record else 0}.")
            entry = next((each for each in queue.entries() if each.number == entry.number), entry)
    except LoratoryError as error:
        return "failed", f"{error.message} {error.hint}".strip()
    except OSError as error:
        return "failed", f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}."


def _run_of(queue: Queue, entry: Entry, tell: Tell) -> RunDirectory:
    """The run of an entry, made where it has none; from now on the entry is being trained."""
    run: RunDirectory | None = None
    if entry.run:
        try:
            run = RunDirectory.open(Path(entry.run))
        except LoratoryError:
            tell(f"{entry.run} is gone; {entry.name} begins anew.")
    if run is None:
        config = entry.settings()
        run = RunDirectory.create(config.output.runs_dir, config.output.output_name, entry.config)
    queue.update(entry.number, _with(state="running", run=str(run.path), reason=""))
    return run


def _is_alive(run: RunDirectory) -> bool:
    # Not one that is silent: its process, on another machine, is taken to be dead, as `train --resume` takes it.
    return liveness(run.read_record()) in ("starting", "running", "paused")


def _wait(run: RunDirectory, queue: Queue, name: str, tell: Tell, stopping: Stopping) -> bool:
    """Waits until nobody trains the run any more; whether it was asked to stop for the queue's sake."""
    was_asked = was_ended = False
    told_s = time.monotonic()
    while _is_alive(run):
        if (stopping.times or queue.stop_request() == "now") and not was_asked:
            was_asked = True
            tell(f"{name} is asked to save its state and stop.")
            _ask_to_stop(run)
        if stopping.times > 1 and not was_ended:
            was_ended = True
            _end_at_once(run.read_record())
        if time.monotonic() - told_s >= _TOLD_EVERY_S:
            told_s = time.monotonic()
            _tell_step(run, name, tell)
        time.sleep(_POLL_S)
    return was_asked


def _tell_step(run: RunDirectory, name: str, tell: Tell) -> None:
    record = run.read_record()
    if record is not None and record.total_steps:
        tell(f"{name}: {'paused at ' if record.status == 'paused' else ''}step {record.step} of {record.total_steps}.")


def _ask_to_stop(run: RunDirectory) -> None:
    try:
        control.send(run.control, Command("stop"))
    except OSError:  # a full disk; the same can be said with a signal
        record = run.read_record()
        if _can_be_signalled(record):
            with suppress(OSError):
                os.kill(record.pid, signal.SIGTERM)


def _can_be_signalled(record: RunRecord | None) -> TypeGuard[RunRecord]:
    """Whether a process of this machine trains it: elsewhere its number may be that of any other process."""
    alive = liveness(record) in ("starting", "running", "paused")
    return record is not None and alive and record.host == socket.gethostname()


def _end_at_once(record: RunRecord | None) -> None:
    """Tells a live process twice to stop, which ends it without another step."""
    if not _can_be_signalled(record):
        return
    with suppress(OSError):
        os.kill(record.pid, signal.SIGTERM)
        time.sleep(_POLL_S)  # two signals at the same instant are one
        os.kill(record.pid, signal.SIGTERM)


def _last_words(run: RunDirectory) -> str:
    """The last line that a process wrote, which says most where it died before it could write an event."""
    try:
        with run.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").split("\n") if line.strip()]
    except OSError:
        return ""
    return f"Its log ends with: {lines[-1][:300]}" if lines else ""
