"""The processor that trains waits for its pictures."""

from collections import deque
from collections.abc import Iterator

from loratory.runs.diagnosis.alarm import Told
from loratory.runs.diagnosis.seen import Seen
from loratory.runs.events import Started, Step

# The first steps fill caches and queues.
_SETTLING, _STEPS = 30, 100
_WAITING, _SETTLED = 0.3, 0.15


class Starved:
    """Tells it once, and again after it was over."""

    def __init__(self) -> None:
        self._seen = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=_STEPS)
        self._told = False

    def add(self, seen: Seen) -> Iterator[Told]:
        if isinstance(seen.event, Started):
            self._seen = 0
            self._times.clear()
        if not isinstance(seen.event, Step):
            return
        self._seen += 1
        if self._seen <= _SETTLING:
            return
        self._times.append((seen.event.data_s, seen.event.step_s))
        if len(self._times) < _STEPS or self._seen % 10:
            return
        waited, whole = (sum(times) for times in zip(*self._times, strict=True))
        share = waited / whole if whole > 0 else 0.0
        if share > _WAITING and not self._told:
            self._told = True
            yield Told(
                "data-starved",
                "note",
                f"{share:.0%} of the time of the last {_STEPS} steps went by waiting for pictures. Keep latents "
                "(dataset.cache_latents), on a fast disk where memory is short, or let more workers read "
                "(dataset.max_data_loader_n_workers).",
            )
        elif share < _SETTLED:
            self._told = False
