"""The loss of the held-back pictures rises while that of the trained ones falls: they are being learned by heart."""

from collections.abc import Iterator

from loratory.runs.diagnosis.alarm import Told
from loratory.runs.diagnosis.seen import Seen
from loratory.runs.events import Started, Validated

# Measurements in a row above the least one by that factor, the last of them the highest or close to it.
_IN_A_ROW, _RISEN = 3, 1.08
# The training loss may have risen by this much, as a logarithm, and still count as not rising.
_LEVEL = 0.02


class Overtraining:
    """Tells it once for each least loss. The validation loss is always measured at the same timesteps and noise."""

    def __init__(self) -> None:
        self._least: Validated | None = None
        self._level = 0.0
        self._above = 0
        self._last = 0.0
        self._told = False

    def add(self, seen: Seen) -> Iterator[Told]:
        event = seen.event
        if isinstance(event, Started):
            self._above, self._last, self._told = 0, 0.0, False
            if self._least is not None and self._least.step > event.from_step:
                self._least = None
            return
        if not isinstance(event, Validated) or not 0.0 < event.loss < float("inf"):
            return
        if self._least is None or event.loss < self._least.loss:
            self._least, self._level, self._above, self._told = event, seen.level, 0, False
            return
        rising = event.loss > _RISEN * self._least.loss and event.loss >= 0.98 * self._last
        self._above, self._last = (self._above + 1 if rising else 0), event.loss
        if self._above >= _IN_A_ROW and not self._told and seen.level <= self._level + _LEVEL:
            self._told = True
            yield Told(
                "overtraining",
                "warning",
                f"The loss of the held-back pictures is {event.loss / self._least.loss:.2f} times its least, that of "
                f"step {self._least.step}, {_IN_A_ROW} measurements running, while the training loss does not rise: "
                "the pictures are being learned by heart. Prefer a file from around that step.",
                since=self._least.step,
            )
