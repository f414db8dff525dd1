"""A thread that does the newest of what it is asked, so that holding a key never builds a queue."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirst(Generic[T]):
    """Runs `work` on a daemon thread for the newest wanted job, then for the newest idle one; others are forgotten.

    A daemon thread, unlike a worker of asyncio's executor, is not waited for when the program ends: a picture on a
    stalled network drive must not keep a person from leaving. `work` must not raise.
    """

    def __init__(self, work: Callable[[T], None], name: str) -> None:
        self._work = work
        self._name = name
        self._changed = threading.Condition()
        self._wanted: T | None = None
        self._idle: T | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, job: T) -> None:
        """Does `job` next, in the place of any that waits."""
        with self._changed:
            self._wanted = job
            self._start()

    def when_idle(self, job: T) -> None:
        """Does `job` when nothing is wanted, in the place of the idle one that waits."""
        with self._changed:
            self._idle = job
            self._start()

    def forget(self) -> None:
        """Drops what waits."""
        with self._changed:
            self._wanted = self._idle = None

    def close(self) -> None:
        """Lets the thread end after the job in hand; nothing more is done. It is not waited for."""
        with self._changed:
            self._closed = True
            self._wanted = self._idle = None
            self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted is not None or self._idle is not None)
                if self._closed:
                    return
                if self._wanted is not None:
                    job, self._wanted = self._wanted, None
                else:
                    job, self._idle = self._idle, None
            if job is not None:
                self._work(job)
