"""The loss was steady for long and then changes massively: something went wrong, or the adapter begins to overtrain.

The newest steps are compared with up to 400 steps before them, in losses relative to what is usual at each timestep and
for each picture: what is left of their movement is a tenth of the raw loss's. Two windows look at once, a short one for
the massive change and a long one for the smaller.

In twenty healthy runs of the embedded model, which learns faster than any real one, the short window moved by no more
than a factor 1.21 up and 0.80 down, the long one by 1.11 and 0.89 (`bench/alarms.py`).
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from loratory.dataset.findings import shown
from loratory.runs.diagnosis.alarm import Told, name_of
from loratory.runs.diagnosis.seen import Look, Seen
from loratory.runs.events import Started, Step


@dataclass(frozen=True)
class _Window:
    """At least so many pictures and steps; told from a factor `rise` up or `fall` down."""

    looks: int
    steps: int
    rise: float
    fall: float

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Logarithms of `fall` and `rise`."""
        return math.log(self.fall), math.log(self.rise)


_WINDOWS = (_Window(32, 8, rise=1.5, fall=0.6), _Window(96, 24, rise=1.3, fall=0.7))
# What they are compared with, and what the change must exceed besides: so many standard errors.
_BEFORE_LOOKS, _BEFORE_STEPS, _BEFORE_STEPS_AT_MOST = 96, 40, 400
_STANDARD_ERRORS = 6.0
# One picture counts for no more than this factor: it has an alarm of its own.
_FURTHEST = math.log(3.0)
# How many visits the guess is worth that a picture is like the others, and over how many its mean goes back.
_GUESS_WORTH, _MEMORY = 3, 30
_PICTURES_TOLD = 8
# Where it began is known to a few steps; this many before, all was well.
_SURELY_BEFORE = 10


@dataclass
class _Sums:
    """Running sums after each step, so that any stretch of steps is a difference. Index 0 is before the first."""

    steps: list[int] = field(default_factory=lambda: [0])
    looks: list[int] = field(default_factory=lambda: [0])
    excess: list[float] = field(default_factory=lambda: [0.0])
    rates: list[dict[str, float]] = field(default_factory=lambda: [{}])

    def append(self, step: Step, excesses: list[float]) -> None:
        self.steps.append(step.step)
        self.looks.append(self.looks[-1] + len(excesses))
        self.excess.append(self.excess[-1] + sum(excesses))
        self.rates.append(step.effective_lr)

    def __len__(self) -> int:
        return len(self.steps) - 1

    def mean(self, start: int, end: int) -> float:
        return (self.excess[end] - self.excess[start]) / max(self.looks[end] - self.looks[start], 1)

    def start_of(self, window: _Window) -> int:
        """Where the newest steps begin that hold as much as `window` asks for; may be negative: there are too few."""
        by_looks = bisect_right(self.looks, self.looks[-1] - window.looks) - 1
        return min(by_looks, len(self) - window.steps)

    def trim(self, keep: int) -> None:
        for sums in (self.steps, self.looks, self.excess, self.rates):
            del sums[: len(sums) - keep - 1]

    def forget_beyond(self, step: int) -> None:
        kept = max(bisect_right(self.steps, step), 1)
        for sums in (self.steps, self.looks, self.excess, self.rates):
            del sums[kept:]


class SuddenChange:
    """Compares after each step, and begins anew after an alarm: the new level is then what is steady."""

    def __init__(self) -> None:
        self._sums = _Sums()
        self._usual: dict[str, tuple[float, int]] = {}  # a picture's mean excess, and its visits
        self._newest: deque[tuple[int, float, str]] = deque(maxlen=256)

    def add(self, seen: Seen) -> Iterator[Told]:
        if isinstance(seen.event, Started):
            self._sums.forget_beyond(seen.event.from_step)
            kept = [entry for entry in self._newest if entry[0] <= seen.event.from_step]
            self._newest = deque(kept, maxlen=self._newest.maxlen)
        if not isinstance(seen.event, Step) or not seen.looks:
            return
        own = [self._beyond_usual(look) for look in seen.looks]
        self._newest.extend((seen.event.step, excess, look.image) for excess, look in zip(own, seen.looks, strict=True))
        self._sums.append(seen.event, own)
        if len(self._sums) > 2 * _BEFORE_STEPS_AT_MOST:
            self._sums.trim(_BEFORE_STEPS_AT_MOST + _WINDOWS[-1].looks)
        for window in _WINDOWS:
            start = self._sums.start_of(window)
            change = self._change(window, start, seen.deviation)
            if change:
                yield self._told(start, change)
                self._sums = _Sums()
                return

    def _beyond_usual(self, look: Look) -> float:
        usual, visits = self._usual.get(look.image, (0.0, 0))
        beyond = min(max(look.excess - usual, -_FURTHEST), _FURTHEST)
        # Begins at 0, the guess that it is like the others, which is worth a few visits.
        self._usual[look.image] = (usual + beyond / min(visits + 1 + _GUESS_WORTH, _MEMORY), visits + 1)
        return beyond

    def _change(self, window: _Window, start: int, deviation: float) -> float:
        """By how much the logarithm of the loss has changed since `start`; 0 where that is not worth an alarm."""
        sums = self._sums
        first = max(start - _BEFORE_STEPS_AT_MOST, 0)
        if start - first < _BEFORE_STEPS:
            return 0.0
        change = sums.mean(start, len(sums)) - sums.mean(first, start)
        lowest, highest = window.limits
        if lowest <= change <= highest:
            return 0.0
        before, after = sums.looks[start] - sums.looks[first], sums.looks[-1] - sums.looks[start]
        error = deviation * math.sqrt(1 / before + 1 / after)
        return change if before >= _BEFORE_LOOKS and abs(change) > _STANDARD_ERRORS * error else 0.0

    def _told(self, start: int, change: float) -> Told:
        sums = self._sums
        first, end = max(start - _BEFORE_STEPS_AT_MOST, 0), len(sums)
        # The step from which on the two stretches differ most is where it began.
        middle = sums.mean(first, start) + change / 2
        beyond = [
            math.copysign(1, change) * (sums.excess[end] - sums.excess[i] - middle * (sums.looks[end] - sums.looks[i]))
            for i in range(first + 1, end)
        ]
        began = first + 1 + max(range(len(beyond)), key=beyond.__getitem__)
        step = sums.steps[began + 1]
        factor = math.exp(sums.mean(began, end) - sums.mean(first, began))
        since = [(excess, image) for of_step, excess, image in self._newest if of_step >= step]
        furthest = sorted(since, reverse=change > 0)
        images = tuple(dict.fromkeys(image for _, image in furthest))[:_PICTURES_TOLD]
        pictures = f"; most so with {name_of(images[0])}" if images else ""
        rates = _spoken_rates(sums.rates[max(began - _SURELY_BEFORE, 1)], sums.rates[end])
        return Told(
            "sudden-change",
            "warning",
            f"From step {step} on the loss {'rose' if change > 0 else 'fell'} to {factor:.1f} times what it was in the "
            f"{began - first} steps before ({rates}{pictures}). Something went wrong there, "
            "or the adapter begins to overtrain: compare samples of before and after.",
            images,
            since=step - 1,
            factor=factor,
        )


def _spoken_rates(before: dict[str, float], now: dict[str, float]) -> str:
    """The rates, and what they were where that is another rate and not a step of the schedule."""
    if not now:
        return "rate unknown"
    changed = [
        f"rate of {shown(part)} {rate:.1e}, before {before[part]:.1e}"
        for part, rate in now.items()
        if part in before and not 0.5 * before[part] <= rate <= 1.5 * before[part]
    ]
    return ", ".join(changed) or f"rate {max(now.values()):.1e} as before"
