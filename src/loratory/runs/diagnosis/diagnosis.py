"""Folds the events of a run into alarms."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from loratory.runs.diagnosis.alarm import Alarm, Told, name_of
from loratory.runs.diagnosis.broken import Broken
from loratory.runs.diagnosis.change import SuddenChange
from loratory.runs.diagnosis.learning import NotLearning
from loratory.runs.diagnosis.outliers import Outliers
from loratory.runs.diagnosis.overtraining import Overtraining
from loratory.runs.diagnosis.seen import Look, Seen
from loratory.runs.diagnosis.starved import Starved
from loratory.runs.diagnosis.timesteps import TimestepNorm
from loratory.runs.events import NotANumber, Saved, Started, StateSaved, Step, Timed, Validated

# Alarms and files remembered. Rules tell each thing once: a run with more alarms has other troubles.
_REMEMBERED = 1000


class _Rule(Protocol):
    """At Started a rule forgets what it knows of steps beyond `from_step`, as far as it would mislead."""

    def add(self, seen: Seen) -> Iterator[Told]: ...


class Diagnosis:
    """Judges a run from its events, in the order they were written. Pure: the same events give the same alarms.

    tags: the tags of each picture as events name it, where the captions are known; without them no tag is judged.
    norm: of whoever folds the same events before this, to be learned from them once; it is left alone as soon as the
    two must differ. Memory grows with the number of pictures and tags, not with that of steps.
    """

    def __init__(self, tags: Mapping[str, Sequence[str]] | None = None, *, norm: TimestepNorm | None = None) -> None:
        self.norm = norm or TimestepNorm()
        self.alarms: list[Alarm] = []
        self._step = 0
        self._files: list[Saved | StateSaved] = []
        self._rules: tuple[_Rule, ...] = (
            Broken(),
            NotLearning(),
            SuddenChange(),
            Outliers(tags or {}),
            Overtraining(),
            Starved(),
        )

    def add(self, timed: Timed) -> list[Alarm]:
        """Takes the next event and returns the alarms it gives, usually none."""
        event = timed.event
        match event:
            case Started(from_step=step):
                self._forget_beyond(step)
            case Saved() | StateSaved():
                self._files.append(event)
                del self._files[:-_REMEMBERED]
            case Step(step=step) | NotANumber(step=step):
                self._step = step
            case _:
                pass
        looks = tuple(self._looks(event)) if isinstance(event, Step) else ()
        seen = Seen(event, looks, self.norm.deviation, self.norm.level if isinstance(event, Validated) else 0.0)
        found = [told for rule in self._rules for told in rule.add(seen)]
        self._move_norm(math.prod(told.factor for told in found))
        new = [self._alarm(timed.time_s, told) for told in found]
        if isinstance(event, NotANumber):  # it says what its step said, and more
            self.alarms = [alarm for alarm in self.alarms if (alarm.rule, alarm.step) != ("nan", event.step)]
        self.alarms += new
        del self.alarms[:-_REMEMBERED]
        return new

    def _looks(self, step: Step) -> Iterator[Look]:
        for sample, normalised in zip(step.samples, self.norm.learn(step), strict=True):
            if 0.0 < normalised < math.inf:
                yield Look(sample.image, math.log(normalised))

    def _move_norm(self, factor: float) -> None:
        """A level that has changed is usual from now on: for this judgement, not for the curve that shows it."""
        if factor != 1.0:
            self.norm = self.norm.copy()
            self.norm.move(factor)

    def _alarm(self, time_s: float, told: Told) -> Alarm:
        sentence, path = told.sentence, ""
        good = None if told.since is None else self._last_good(told.since, told.rule)
        if good is not None:
            path = good.path
            what = "state" if isinstance(good, StateSaved) else "adapter"
            sentence += f" The newest {what} from before is {name_of(path)} (step {good.step})."
        return Alarm(self._step, time_s, told.rule, told.severity, sentence, told.images, path)

    def _last_good(self, step: int, rule: str) -> Saved | StateSaved | None:
        """A run that broke is resumed from a state; of one that changed, an earlier adapter is what can be used."""
        before = [file for file in self._files if file.step <= step]
        wanted = [file for file in before if isinstance(file, StateSaved) == (rule == "nan")]
        return (wanted or before)[-1] if before else None

    def _forget_beyond(self, from_step: int) -> None:
        """Drops what was said of steps that were lost: they are trained again, and judged again."""
        self.alarms = [alarm for alarm in self.alarms if alarm.step <= from_step]
        self._files = [file for file in self._files if file.step <= from_step]
        self._step = from_step
