"""The thread that writes captions, one batch after the other, while the screen goes on."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from loratory.errors import LoratoryError

_Result = TypeVar("_Result")
Deliver = Callable[[Callable[[], None]], None]


@dataclass
class _Job(Generic[_Result]):
    work: Callable[[], _Result]
    done: Callable[[_Result | LoratoryError], None]

    def run(self, deliver: Deliver) -> None:
        try:
            result: _Result | LoratoryError = self.work()
        except LoratoryError as error:
            result = error
        except OSError as error:
            result = LoratoryError(f"{error.strerror or error}: {error.filename or 'while writing'}.")
        except Exception as error:  # noqa: BLE001 - without its thread every later edit would be shown and never written
            result = LoratoryError(f"This is a defect of Loratory: {type(error).__name__}: {error}")
        deliver(lambda: self.done(result))


class Writer:
    """Runs work in the order in which it is given, on one thread; results come back through `deliver`.

    deliver: hands a function over to the thread of the screen, and must never wait for it.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._given = 0
        # No daemon: a batch that was shown is written before the process ends.
        self._thread = threading.Thread(target=self._run, name="caption writer")
        self._thread.start()

    def put(self, work: Callable[[], _Result], done: Callable[[_Result | LoratoryError], None]) -> None:
        """Has `work` done after all that was given before; `done` gets its result, or why it failed."""
        self._given += 1
        self._jobs.put(_Job(work, self._counted(done)))  # pyright: ignore[reportArgumentType] - each job has a type of its own

    @property
    def pending(self) -> int:
        """How many jobs are not done yet."""
        return self._given

    def close(self) -> None:
        """Waits until everything is written. Results that nobody waits for any more are dropped."""
        self._jobs.put(None)
        self._thread.join()

    def _counted(self, done: Callable[[_Result | LoratoryError], None]) -> Callable[[_Result | LoratoryError], None]:
        def finished(result: _Result | LoratoryError) -> None:
            self._given -= 1
            done(result)

        return finished

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._deliver)
