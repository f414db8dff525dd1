"""Work on many pictures in several processes, each of which may die without taking the others along.

Workers are plain child processes that talk over a socket pair. `multiprocessing` is not used to start them: it imports
the main module anew in each, and cannot start any where a terminal program has put its own object in place of
`sys.stderr`. A child is started without forking this process's memory, so threads do no harm.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from threading import Event
from time import monotonic
from typing import Any, TypeVar

from loratory.errors import LoratoryError

A = TypeVar("A")
R = TypeVar("R")

# Below this many, starting processes (0.2 s) costs more than it wins.
_FEW = 8
# Arguments that a worker has before it: with the second one there it never waits for this process.
_AHEAD = 2
# How soon `stop` is noticed, and how long a worker may take to end what it is at before it is killed.
_LOOK_S, _LET_FINISH_S = 0.1, 3.0
# A worker that cannot even start will not the next time either.
_MOST_FAILED_STARTS = 2

# The path comes first: what the function is found by is not known before.
_CHILD = "import sys, os; sys.path[:] = {path!r}; from loratory.imaging.workers import serve; serve({descriptor})"


@dataclass(frozen=True)
class Failure:
    """Why there is no result: a clause such as "MemoryError" or "its process was killed (SIGKILL)"."""

    reason: str


def mapped(
    function: Callable[[A], R], arguments: Iterable[A], *, workers: int | None = None, stop: Event | None = None
) -> Generator[tuple[A, R | Failure]]:
    """Calls `function` with each argument in other processes; yields each argument with its result, as they come.

    function: found by its module and name (or a `functools.partial` of such), in a module other than the main one;
    arguments and results are pickled, and arguments are small (paths, not pictures). workers: how many processes, by
    default one for each core this process may use; with 1, or fewer than 9 arguments, all is done in this process. At
    most two arguments for each worker are taken ahead, so memory does not grow with their number. An exception becomes
    a Failure, and so does a worker that dies: it costs its argument and is replaced. `stop` ends the work early: what
    was begun is finished or, after 3 s, killed. Leaving the loop early, by an exception or Ctrl-C too, does the same.
    """
    rest = iter(arguments)
    first = list(islice(rest, _FEW + 1))
    workers = cores() if workers is None else workers
    if workers <= 1 or len(first) <= _FEW:
        yield from _inline(function, chain(first, rest), stop)
        return
    # Pickled here, so that a function that cannot be fails in the caller's face.
    pool = _Pool(pickle.dumps(function), chain(first, rest), workers)
    try:
        while not (stop is not None and stop.is_set()) and pool.feed():
            yield from pool.results()
    finally:
        pool.close()
    if not pool.can_start:
        yield from _inline(function, pool.left(), stop)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(descriptor: int) -> None:
    """The life of a worker: answers what comes over the socket `descriptor` until it closes."""
    # The terminal's Ctrl-C is for the program that started this one; it closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            function = pickle.loads(connection.recv_bytes())
            connection.send_bytes(b"ready")
            while True:
                argument = pickle.loads(connection.recv_bytes())
                connection.send_bytes(_answer(function, argument))
        except (EOFError, ConnectionError):
            return


def _answer(function: Callable[[Any], Any], argument: object) -> bytes:
    try:
        return pickle.dumps(_call(function, argument))
    except Exception as error:  # noqa: BLE001 - a result that cannot be pickled
        return pickle.dumps(_failure(error))


def _call(function: Callable[[A], R], argument: A) -> R | Failure:
    try:
        return function(argument)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other arguments go on
        return _failure(error)


def _failure(error: Exception) -> Failure:
    if isinstance(error, LoratoryError):
        return Failure(error.message)
    return Failure(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _inline(function: Callable[[A], R], arguments: Iterable[A], stop: Event | None) -> Iterator[tuple[A, R | Failure]]:
    for argument in arguments:
        if stop is not None and stop.is_set():
            return
        yield argument, _call(function, argument)


@dataclass
class _Worker:
    """given: arguments without an answer yet, in the order in which they are worked on."""

    process: subprocess.Popen[bytes]
    connection: Connection
    given: deque[Any] = field(default_factory=deque[Any])
    is_ready: bool = False

    def death(self) -> str:
        """Why it died, as a clause."""
        code = self.process.wait()
        if code >= 0:
            return f"its process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"its process was killed ({name})"


class _Pool:
    def __init__(self, function: bytes, arguments: Iterator[Any], workers: int) -> None:
        self.can_start = True
        self._function = function
        self._arguments = arguments
        self._again: deque[Any] = deque()
        self._wanted = workers
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def feed(self) -> bool:
        """Keeps every worker busy; False when all is answered or no worker can be started."""
        for step in range(_AHEAD):
            for worker in [*self._workers]:
                if len(worker.given) <= step and (found := self._next()):
                    self._give(worker, found[0])
        while self.can_start and len(self._workers) < self._wanted and (found := self._next()):
            try:
                worker = _start(self._function)
            except OSError:
                self._again.appendleft(found[0])
                # Fewer are enough; without any, this process works.
                self._wanted = len(self._workers)
                self.can_start = bool(self._workers)
                break
            self._workers.append(worker)
            self._give(worker, found[0])
        return any(worker.given for worker in self._workers)

    def results(self) -> Iterator[tuple[Any, Any]]:
        """What came within a moment; the dead are taken away, what they had not begun is kept for the others."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), _LOOK_S):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            try:
                data = connection.recv_bytes()
            except (EOFError, OSError):
                yield from self._bury(worker)
                continue
            if worker.is_ready:
                yield worker.given.popleft(), pickle.loads(data)
            worker.is_ready = True

    def left(self) -> Iterator[Any]:
        """The arguments that no worker took."""
        return chain(self._again, self._arguments)

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        patience_until_s = monotonic() + _LET_FINISH_S
        for worker in self._workers:
            try:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, patience_until_s - monotonic()))
            finally:
                # After a second Ctrl-C too. Nothing happens to one that has ended.
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    def _bury(self, worker: _Worker) -> Iterator[tuple[Any, Failure]]:
        self._workers.remove(worker)
        worker.connection.close()
        reason = worker.death()
        if worker.is_ready:
            self._failed_starts = 0
            culprit = [worker.given.popleft()] if worker.given else []
            self._again.extend(worker.given)
            for argument in culprit:
                yield argument, Failure(reason)
            return
        self._again.extend(worker.given)
        self._failed_starts += 1
        if self._failed_starts > _MOST_FAILED_STARTS:
            self._wanted = len(self._workers)
            self.can_start = bool(self._workers)

    def _next(self) -> tuple[Any] | None:
        if self._again:
            return (self._again.popleft(),)
        for argument in self._arguments:
            return (argument,)
        return None

    def _give(self, worker: _Worker, argument: Any) -> None:
        worker.given.append(argument)
        with suppress(OSError):  # it is dead, which its socket tells next
            worker.connection.send_bytes(pickle.dumps(argument))


def _start(function: bytes) -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD.format(path=sys.path, descriptor=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders written in C complain there, into a full-screen program
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C in a terminal goes to the group, also before a child could ignore it
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        except BaseException:
            ours.close()
            raise
    worker = _Worker(process, Connection(ours.detach()))
    with suppress(OSError):  # it died at once, which its socket tells next
        worker.connection.send_bytes(function)
    return worker
