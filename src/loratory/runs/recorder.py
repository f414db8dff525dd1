"""The writing end of a run directory: events, and the record that says who runs it and that it lives.

A full disk does not end a run. It pauses it, which run.json (it has its place on the disk already) tells every viewer,
and what could not be written is tried again until there is room.
"""

import dataclasses
import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from loratory import atomic
from loratory.errors import LoratoryError
from loratory.runs.control import Command, Control
from loratory.runs.events import Continued, Event, Finished, Hardware, Notice, Paused, Started, Step
from loratory.runs.store import HEARTBEAT_EVERY_S, EventWriter, RunDirectory, Status, is_full_disk, new_record
from loratory.wording import typed

RETRY_EVERY_S = 5.0
# How soon a command is heard while a run waits for room.
_LISTEN_EVERY_S = 0.2

_T = TypeVar("_T")


class Recorder:
    """Writes the events of one process's part of a run; use as a context manager. Safe to call from several threads.

    It holds the run: a second recorder for it, in this or another process, raises LoratoryError.
    control: where the `resume` and `stop` of a run that waits for room come from; that of the run's folder by default.
    """

    def __init__(self, run: RunDirectory, control: Control | None = None) -> None:
        self._run = run
        self._control = control or Control(run.control)
        self._lock = _hold(run)
        for folder in (run.path, run.samples):
            atomic.remove_leftovers(folder, "*")
        self._writing = threading.RLock()
        # Nothing follows the last word, and the number of a closed file may be another's.
        self._ended = False
        self._beaten_s = time.monotonic()
        # While it waits for room, what is tried again may not wait a second time; its events come when it has ended.
        self._waits = False
        self._retries = False
        self._unwritten: list[Event] = []
        before = run.read_record()
        self._record = dataclasses.replace(new_record(), step=before.step if before else 0)
        self._writer = EventWriter(run.events)
        run.write_record(self._record)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._writing:
            self._ended = True
            self._writer.close()
            os.close(self._lock)

    @property
    def step(self) -> int:
        """The last step that was written."""
        return self._record.step

    def write(self, event: Event) -> None:
        """Appends `event`, and keeps the record with it; on a full disk it waits, as `patiently` does.

        The last word of a process, Finished, does not wait: where it does not fit, the record alone tells it.
        """
        with self._writing:
            try:
                self._writer.write(event)
                full = None
            except OSError as error:
                if not is_full_disk(error):
                    raise
                full = error
            if full is None or isinstance(event, Finished):
                self._keep_record(event)
                return
        if self._retries:
            self._unwritten.append(event)
            return
        self._wait_for_room(lambda: None, "an event", full, event)
        self._keep_record(event)

    def mention(self, event: Hardware | Notice) -> None:
        """A word from beside the work, which is also a sign of life: the heartbeat, and `event` if the disk takes it.

        Never waits, and says nothing after the run's last word.
        """
        with self._writing:
            if self._ended:
                return
            try:
                self._writer.write(event)
            except OSError as error:
                if not is_full_disk(error):
                    raise
            self._update(self._record.status)

    def patiently(self, work: Callable[[], _T], what: str) -> _T:
        """What `work()` returns; a full disk pauses the run until it succeeds.

        work: writes something, and is called again from its beginning, so it must bear that; it is called in this
        thread. Any error but a full disk goes through at once, also one of a later attempt. Events that `work` writes
        do not wait themselves while it is being retried; they come when it has succeeded.
        what: a few words for a sentence, "the state" or "the adapter".

        Attempts are `RETRY_EVERY_S` apart; the command `resume` asks for one now. On the command `stop` the error of
        the last attempt is raised, and nothing waits any more: the run is to end with it. Other commands stay for the
        loop, in their order. Not for a save that a stop asked for: who stops has no wish to wait, and resumes from the
        state before.
        """
        try:
            return work()
        except Exception as error:
            if not is_full_disk(error):
                raise
            full = error
        # Not while it is being handled: later errors would be taken to come from it.
        return self._wait_for_room(work, what, full)

    def _wait_for_room(self, work: Callable[[], _T], what: str, error: Exception, *late: Event) -> _T:
        """Tries `work` and then the events `late` until they succeed; raises `error` or a later one on `stop`."""
        if self._waits:
            raise error
        self._waits = True
        began_s = time.monotonic()
        reason = f"The disk is full: {what} could not be written. Make room; the run goes on by itself."
        status, message = self._record.status, self._record.message
        if status == "paused":  # by a command: what goes on again is that pause
            late = (Paused(self.step, message), *late)
        held: list[Command] = []
        results: list[_T] = []
        paused = [Paused(self.step, reason)]
        with self._writing:
            self._update("paused", message=reason)
        while True:
            try:
                self._append(*paused)
                paused.clear()
            except OSError as full:
                if not is_full_disk(full):
                    raise
            if self._rests(held) == "stop":
                self._hand_on(held)
                raise error  # `_waits` stays set: from here on nothing waits
            try:
                if not results:
                    self._unwritten.clear()
                    self._retries = True
                    try:
                        results.append(work())
                    finally:
                        self._retries = False
                self._append(*paused, *self._unwritten, Continued(self.step, time.monotonic() - began_s), *late)
                break
            except Exception as again:
                if not is_full_disk(again):
                    raise
                error = again
        self._unwritten.clear()
        self._waits = False
        self._hand_on(held)
        with self._writing:
            self._update(status, message=message)
        return results[0]

    def _hand_on(self, held: list[Command]) -> None:
        for command in held:
            self._control.request(command.name, command.value)

    def _rests(self, held: list[Command]) -> str:
        """Waits until the next attempt is due: `resume` or `stop` if one of these commands came, else ""."""
        until_s = time.monotonic() + RETRY_EVERY_S
        while time.monotonic() < until_s:
            for command in self._control.poll():
                if command.name in ("resume", "stop"):
                    return command.name
                held.append(command)
            with self._writing:
                self._beat()
            time.sleep(_LISTEN_EVERY_S)
        return ""

    def _append(self, *events: Event) -> None:
        if events:
            with self._writing:
                self._writer.write(*events)

    def _keep_record(self, event: Event) -> None:
        with self._writing:
            match event:
                case Started(from_step=step, total_steps=total):
                    self._update("running", step=step, total_steps=total)
                case Step(step=step):
                    self._record = dataclasses.replace(self._record, step=step)
                    self._beat()
                case Paused(reason=reason):
                    self._update("paused", message=reason)
                case Continued():
                    self._update("running", message="")
                case Finished(status=status, message=message):
                    self._ended = True
                    self._update(status, message=message)
                case _:
                    self._beat()

    def _beat(self) -> None:
        # Not by the clock on the wall, which may be set back.
        if time.monotonic() - self._beaten_s >= HEARTBEAT_EVERY_S:
            self._update(self._record.status)

    def _update(self, status: Status, **changes: int | str) -> None:
        self._beaten_s = time.monotonic()
        changed: dict[str, Any] = {"status": status, "heartbeat_s": time.time(), **changes}
        self._record = dataclasses.replace(self._record, **changed)
        try:
            self._run.write_record(self._record)
        except OSError as error:
            if not is_full_disk(error):  # some file systems need room to change a file, too
                raise


@contextmanager
def held(run: RunDirectory) -> Generator[None]:
    """Keeps every recorder away from `run` for a moment. Raises LoratoryError where one is at work."""
    lock = _hold(run)
    try:
        yield
    finally:
        os.close(lock)


def _hold(run: RunDirectory) -> int:
    """Locks the run for as long as the returned descriptor is open; the system releases it when the process dies."""
    descriptor = os.open(run.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LoratoryError(
            f"{run.path} is being trained by another process at this moment.",
            hint=f"`loratory watch {typed(run.path)}` shows it.",
        ) from None
    except OSError:
        pass  # some network file systems have no locks; the record still says who trains
    return descriptor
