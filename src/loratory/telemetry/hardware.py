"""What the machine does that trains: one look at it, and a thread that looks every few seconds."""

import threading
from contextlib import suppress
from types import TracebackType

import psutil

from loratory.runs.events import Hardware
from loratory.runs.recorder import Recorder
from loratory.runs.store import HEARTBEAT_EVERY_S
from loratory.telemetry.cards import read_cards

# The load of the processor is a mean since the look before; the first look waits so long for one.
_FIRST_AFTER_S = 1.0
# A driver that hangs does not hold the end of a run up: the recorder takes no more beats then.
_LEAVES_AFTER_S = 2.0


def snapshot() -> Hardware:
    """The machine now. cpu: the mean since the last call in the same thread, 0 at the first."""
    memory = psutil.virtual_memory()
    return Hardware(
        cpu=psutil.cpu_percent(),
        ram_bytes=memory.total - memory.available,
        ram_total_bytes=memory.total,
        process_bytes=psutil.Process().memory_info().rss,
        cards=read_cards(),
    )


class Beat:
    """Writes a `Hardware` event and the run's heartbeat every 5 seconds from a thread, until it is left.

    So a run that saves, draws or waits for long does not look dead. A disk that fails is for the work to tell of.
    """

    def __init__(self, recorder: Recorder, every_s: float = HEARTBEAT_EVERY_S) -> None:
        self._recorder = recorder
        self._every_s = every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="telemetry", daemon=True)

    def __enter__(self) -> "Beat":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join(timeout=_LEAVES_AFTER_S)

    def _beat(self) -> None:
        psutil.cpu_percent()
        wait_s = min(_FIRST_AFTER_S, self._every_s)
        while not self._ending.wait(wait_s):
            with suppress(OSError):
                self._recorder.mention(snapshot())
            wait_s = self._every_s
