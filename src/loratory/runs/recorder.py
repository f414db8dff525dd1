"""The writing end of a run directory: events, and the record that says who runs it and that it lives."""

import dataclasses
import fcntl
import os
import time
from types import TracebackType

from loratory import atomic
from loratory.errors import LoratoryError
from loratory.runs.events import Event, Finished, Started, Step
from loratory.runs.store import HEARTBEAT_EVERY_S, EventWriter, RunDirectory, Status, new_record


class Recorder:
    """Writes the events of one process's part of a run; use as a context manager.

    It holds the run: a second recorder for it, in this or another process, raises LoratoryError.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._lock = _hold(run)
        for folder in (run.path, run.samples):
            atomic.remove_leftovers(folder, "*")
        self._beaten_s = time.monotonic()
        before = run.read_record()
        self._record = dataclasses.replace(new_record(), step=before.step if before else 0)
        self._writer = EventWriter(run.events)
        run.write_record(self._record)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()
        os.close(self._lock)

    @property
    def step(self) -> int:
        """The last step that was written."""
        return self._record.step

    def write(self, event: Event) -> None:
        self._writer.write(event)
        match event:
            case Started(from_step=step, total_steps=total):
                self._update("running", step=step, total_steps=total)
            case Step(step=step):
                self._record = dataclasses.replace(self._record, step=step)
                self._beat()
            case Finished(status=status, message=message):
                self._update(status, message=message)
            case _:
                self._beat()

    def _beat(self) -> None:
        # Not by the clock on the wall, which may be set back.
        if time.monotonic() - self._beaten_s >= HEARTBEAT_EVERY_S:
            self._update(self._record.status)

    def _update(self, status: Status, **changes: int | str) -> None:
        self._beaten_s = time.monotonic()
        self._record = dataclasses.replace(self._record, status=status, heartbeat_s=time.time(), **changes)  # pyright: ignore[reportArgumentType]
        self._run.write_record(self._record)


def _hold(run: RunDirectory) -> int:
    """Locks the run for as long as the returned descriptor is open; the system releases it when the process dies."""
    descriptor = os.open(run.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LoratoryError(
            f"{run.path} is being trained by another process at this moment.",
            hint=f"`loratory watch {run.path}` shows it.",
        ) from None
    except OSError:
        pass  # some network file systems have no locks; the record still says who trains
    return descriptor
