"""What a viewer of a run knows: its events, folded into figures of a fixed size however long the run is. Pure.

Steps that were lost with a process are forgotten when the next one starts before them.
"""

import math
import statistics
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from loratory.dataset.listing import parse_folder_name
from loratory.runs.adjustments import Adjustments, at, history
from loratory.runs.control import Command
from loratory.runs.diagnosis import TimestepNorm
from loratory.runs.events import (
    Continued,
    Finished,
    Hardware,
    NotANumber,
    Notice,
    Obeyed,
    Paused,
    Phase,
    Sampled,
    Saved,
    Started,
    StateSaved,
    Step,
    Timed,
    Validated,
    Weights,
)
from loratory.runs.series import NEWEST, Series

_SMOOTHING = 0.95
_PACE_STEPS = 50
_RECENT_LOSSES = 6
_CONCEPT_HISTORY = 32
_HARDWARE_HISTORY = 120
_KEPT_EVENTS = 200
_KEPT_NORMS = 64  # states that a run might be taken up from; some kilobytes each
_MOST_STEPS = 2**40
_FURTHEST = 1e6  # what is further off than that is no more wrong, and would drown a sum


@dataclass
class ImageLoss:
    """Loss of one picture, over what is expected at its timesteps (1.0 = as expected).

    recent: (step, loss), the newest last. broken: how often it was no number.
    """

    image: str
    count: int = 0
    total: float = 0.0
    broken: int = 0
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque[tuple[int, float]](maxlen=_RECENT_LOSSES))

    @property
    def mean(self) -> float:
        """Of all visits; NaN without one that gave a number."""
        return self.total / self.count if self.count else math.nan

    @property
    def recent_mean(self) -> float:
        known = [loss for _, loss in self.recent]
        return sum(known) / len(known) if known else math.nan


@dataclass
class ConceptLoss:
    """Loss of the pictures of one concept folder, as that of a picture.

    images: seen so far. visits: how often one of them was trained on, flips and repeats included. repeats: those of the
    folder's name, None where it has none. history: means of equal parts of the run so far.
    """

    folder: str
    repeats: int | None
    images: int = 0
    visits: int = 0
    count: int = 0
    total: float = 0.0
    losses: Series = field(default_factory=Series)

    @property
    def exposure(self) -> float:
        """How often each of its pictures was shown, on average."""
        return self.visits / self.images if self.images else 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def history(self) -> list[float]:
        return self.losses.between(1, self.losses.last_step, _CONCEPT_HISTORY).mean.tolist()


class _Visit(NamedTuple):
    image: str
    folder: str
    loss: float  # over what is expected; NaN where it was no number


class Progress:
    """Folds events, in the order they were written. Reading its attributes is all that viewers do.

    norm: shared with a Diagnosis that is given each event after this, so that losses are learned once.
    """

    def __init__(self, norm: TimestepNorm | None = None) -> None:
        self.started: Started | None = None
        self.started_s = 0.0
        self.phase: Phase | None = None
        self.last: Step | None = None
        self.last_s = 0.0  # when the newest event was written
        self.finished: Finished | None = None
        self.paused: Paused | None = None
        self.notices: deque[tuple[float, Notice]] = deque(maxlen=_KEPT_EVENTS)
        self.obeyed: deque[tuple[float, Obeyed]] = deque(maxlen=_KEPT_EVENTS)
        self.broken: deque[NotANumber] = deque(maxlen=_KEPT_EVENTS)
        self.saves: deque[tuple[float, Saved]] = deque(maxlen=_KEPT_EVENTS)
        self.states: deque[tuple[float, StateSaved]] = deque(maxlen=_KEPT_EVENTS)
        self.samples: deque[tuple[float, Sampled]] = deque(maxlen=_KEPT_EVENTS)
        self.hardware: Hardware | None = None
        self.hardware_history: deque[Hardware] = deque(maxlen=_HARDWARE_HISTORY)
        self.images: dict[str, ImageLoss] = {}
        self.concepts: dict[str, ConceptLoss] = {}
        self.losses = Series()
        self.smoothed = Series()
        self.normalised = Series()
        self.normalised_smoothed = Series()
        self.grad_norms = Series()
        self.step_times = Series()
        self.validation = Series()
        self.rates: dict[str, Series] = {}
        self.effective_rates: dict[str, Series] = {}
        self.weight_norms: dict[str, Series] = {}
        self.norm = norm or TimestepNorm()
        self._norms: deque[tuple[int, TimestepNorm]] = deque(maxlen=_KEPT_NORMS)
        self._visits: deque[tuple[int, tuple[_Visit, ...]]] = deque(maxlen=NEWEST)
        # Not taken back with the steps that were lost: whoever goes on makes them again.
        self._changes: list[tuple[int, Command]] = []
        self._spent = {"data": 0.0, "step": 0.0, "save": 0.0, "sample": 0.0}

    # --- figures ---

    @property
    def step(self) -> int:
        """Steps done; what was lost does not count."""
        if self.last is not None:
            return self.last.step
        return self.started.from_step if self.started else 0

    @property
    def total_steps(self) -> int:
        return self.started.total_steps if self.started else 0

    @property
    def epoch(self) -> int:
        """The epoch of the newest step, from 1; 0 before the first."""
        if self.last is not None:
            return self.last.epoch
        return -(-self.started.from_step // max(1, self.started.steps_per_epoch)) if self.started else 0

    @property
    def epochs(self) -> int:
        return self.started.epochs if self.started else 0

    @property
    def first_step_of_epoch(self) -> int:
        """The first step of the epoch that the newest step belongs to."""
        per_epoch = max(1, self.started.steps_per_epoch) if self.started else 1
        return (max(self.step, 1) - 1) // per_epoch * per_epoch + 1

    @property
    def seconds_per_step(self) -> float:
        """The median of the newest steps, which one long step does not move; 0.0 without any."""
        recent = [seconds for seconds in self.step_times.tail(_PACE_STEPS) if math.isfinite(seconds)]
        return statistics.median(recent) if recent else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step, with as large a share for saves and samples as so far; None without a step."""
        if not self.step_times or self.started is None:
            return None
        left = max(0, self.total_steps - self.step)
        steps_s = self._spent["data"] + self._spent["step"]
        beside_s = self._spent["save"] + self._spent["sample"]
        return left * self.seconds_per_step * (1 + (beside_s / steps_s if steps_s > 0 else 0.0))

    @property
    def adjustments(self) -> Adjustments:
        """What people changed, as it holds now."""
        return at(self._changes, self.step)

    def time_shares(self) -> dict[str, float]:
        """Where the time went: fractions for "data", "step", "save" and "sample"; empty before the first step."""
        whole = sum(self._spent.values())
        return {name: seconds / whole for name, seconds in self._spent.items()} if whole > 0 else {}

    def worst_images(self, most: int) -> list[ImageLoss]:
        """The pictures with the highest mean loss, those that gave no number first."""
        known = [image for image in self.images.values() if image.count or image.broken]
        return sorted(known, key=lambda image: (-image.broken, -image.mean if image.count else 0.0))[:most]

    def exposure_goal(self, concept: ConceptLoss) -> int | None:
        """How often each picture of a concept will have been shown at the end; None where its folder does not say."""
        return concept.repeats * self.epochs if concept.repeats is not None and self.epochs else None

    # --- folding ---

    def add(self, timed: Timed) -> None:
        """Takes an event. One with numbers that no run comes to is left out."""
        try:
            self._add(timed)
        except (TypeError, ValueError, AttributeError, OverflowError):
            return

    def _add(self, timed: Timed) -> None:
        if not 0 <= getattr(timed.event, "step", 0) < _MOST_STEPS:
            return
        self.last_s = timed.time_s
        match timed.event:
            case Step() as step:
                self._add_step(step)
            case Started() as started:
                self._start(started, timed.time_s)
            case Phase() as phase:
                self.phase = phase
                self.finished = None
            case Hardware() as hardware:
                self.hardware = hardware
                self.hardware_history.append(hardware)
            case Weights(step=step, norms=norms):
                _add_all(self.weight_norms, step, norms)
            case Validated(step=step, loss=loss):
                self.validation.add(step, float(loss))
            case Saved(took_s=took_s) as saved:
                self.saves.append((timed.time_s, saved))
                self._spent["save"] += took_s
            case StateSaved(step=step, took_s=took_s) as state:
                self.states.append((timed.time_s, state))
                self._spent["save"] += took_s
                self._norms.append((step, self.norm.copy()))
            case Sampled(took_s=took_s) as sampled:
                self.samples.append((timed.time_s, sampled))
                self._spent["sample"] += took_s
            case Notice() as notice:
                self.notices.append((timed.time_s, notice))
            case Obeyed() as obeyed:
                self.obeyed.append((timed.time_s, obeyed))
                self._changes += history([obeyed])
            case Paused() as paused:
                self.paused = paused
            case Continued():
                self.paused = None
            case NotANumber() as broken:
                self.broken.append(broken)
            case Finished() as finished:
                self.finished, self.phase, self.paused = finished, None, None
            case _:
                pass

    def _start(self, started: Started, time_s: float) -> None:
        self._forget_after(started.from_step)
        self.started, self.started_s = started, time_s
        self.phase = self.finished = self.paused = None

    def _add_step(self, step: Step) -> None:
        if step.step <= self.step_times.last_step:
            return  # not of this run's order: a torn or foreign line
        self.last, self.phase, self.paused = step, None, None
        if not step.is_empty:
            self.losses.add(step.step, step.loss)
            _smooth(self.smoothed, step.step, step.loss)
            self.grad_norms.add(step.step, step.grad_norm)
        self.step_times.add(step.step, step.step_s)
        self._spent["data"] += step.data_s
        self._spent["step"] += max(0.0, step.step_s - step.data_s)
        _add_all(self.rates, step.step, step.lr)
        _add_all(self.effective_rates, step.step, step.effective_lr)
        losses = self.norm.learn(step)
        visits = tuple(
            _Visit(sample.image, _folder(sample.image), min(loss, _FURTHEST))  # NaN stays NaN
            for sample, loss in zip(step.samples, losses, strict=True)
        )
        self._visits.append((step.step, visits))
        if visits:
            value = sum(visit.loss for visit in visits) / len(visits)
            self.normalised.add(step.step, value)
            _smooth(self.normalised_smoothed, step.step, value)
        by_folder: defaultdict[str, list[float]] = defaultdict(list)
        for visit in visits:
            self._add_visit(step.step, visit)
            by_folder[visit.folder].append(visit.loss)
        for folder, of_folder in by_folder.items():
            self.concepts[folder].losses.add(step.step, sum(of_folder) / len(of_folder))

    def _add_visit(self, step: int, visit: _Visit) -> None:
        name, folder, loss = visit
        concept = self.concepts.get(folder)
        if concept is None:
            repeats, _, problem = parse_folder_name(folder.rpartition("/")[2])
            concept = self.concepts[folder] = ConceptLoss(folder, None if problem else repeats)
        image = self.images.get(name)
        if image is None:
            image = self.images[name] = ImageLoss(name)
            concept.images += 1
        concept.visits += 1
        if loss == loss:
            image.count += 1
            image.total += loss
            image.recent.append((step, loss))
            concept.count += 1
            concept.total += loss
        else:
            image.broken += 1

    def _take_back_visit(self, visit: _Visit) -> None:
        image, concept = self.images[visit.image], self.concepts[visit.folder]
        concept.visits -= 1
        if visit.loss == visit.loss:
            image.count -= 1
            image.total -= visit.loss
            concept.count -= 1
            concept.total -= visit.loss
        else:
            image.broken -= 1
        if not image.count and not image.broken:
            del self.images[visit.image]
            concept.images -= 1

    def _forget_after(self, step: int) -> None:
        """Takes back the steps after `step`: exactly for the newest 2048, of older ones what was counted stays."""
        if self.last is not None and self.last.step > step:
            self.last = None
        every = (self.rates, self.effective_rates, self.weight_norms)
        for series in (
            *(self.losses, self.smoothed, self.normalised, self.normalised_smoothed, self.grad_norms),
            *(self.step_times, self.validation),
            *(series for table in every for series in table.values()),
            *(concept.losses for concept in self.concepts.values()),
        ):
            series.forget_after(step)
        while self._visits and self._visits[-1][0] > step:
            for visit in self._visits.pop()[1]:
                self._take_back_visit(visit)
        for image in self.images.values():
            while image.recent and image.recent[-1][0] > step:
                image.recent.pop()
        self.concepts = {name: concept for name, concept in self.concepts.items() if concept.visits > 0}
        for events in (self.saves, self.states, self.samples, self.obeyed):
            while events and events[-1][1].step > step:
                events.pop()
        while self.broken and self.broken[-1].step > step:
            self.broken.pop()
        while self._norms and self._norms[-1][0] > step:
            self._norms.pop()
        if step <= 0:
            self.norm = TimestepNorm() if self.norm.count else self.norm
        elif self._norms and self._norms[-1][0] == step:
            self.norm = self._norms[-1][1].copy()


def _folder(image: str) -> str:
    return image.rpartition("/")[0]


def _smooth(series: Series, step: int, value: float) -> None:
    """Adds a running mean that starts as a plain one, so that the first value does not hold back those after it."""
    if value - value != 0.0:
        return
    before = series.last
    weight = max(1 - _SMOOTHING, 1 / step)
    series.add(step, value if before != before else before + weight * (value - before))


def _add_all(table: dict[str, Series], step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        series = table.get(name)
        if series is None:
            series = table[name] = Series()
        series.add(step, value)
