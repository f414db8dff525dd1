"""Runs beside each other: the settings in which two differ, how each stands, and their losses for one chart."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loratory.config.fields import FIELDS, holds_path
from loratory.config.schema import SubsetSettings
from loratory.config.toml_files import read_toml
from loratory.runs.events import Saved, Step, decode
from loratory.runs.progress import Progress
from loratory.runs.store import EventReader, Liveness, RunDirectory, RunRecord, liveness

# What a run is called and where it lies says least about why it came out as it did.
_NAMES = frozenset({"preset", "from_preset", "output.output_name"})
_TAIL_BYTES = 64_000
_LATEST_S = 1e11  # what a clock can tell in every place


@dataclass(frozen=True)
class Glance:
    """What a list of runs says of one, from its record and the end of its events.

    started_s, lasted_s: None where the run has no record. loss: mean of the newest steps of the last epoch, None
    without one that is a number.
    """

    run: RunDirectory
    state: Liveness
    record: RunRecord | None
    loss: float | None = None

    @property
    def started_s(self) -> float | None:
        return self.record.started_s if self.record else None

    @property
    def lasted_s(self) -> float | None:
        return max(0.0, self.record.heartbeat_s - self.record.started_s) if self.record else None


@dataclass(frozen=True)
class Summary:
    """A run in figures.

    loss, best_loss: mean of the last epoch and lowest of any; normalised: of the last epoch, over what is expected at
    its timesteps. All None without steps whose loss is a number. exposures: concept folder -> how often each of its
    pictures was shown. lasted_s: of the last process. output: the newest adapter file.
    """

    name: str
    path: Path
    state: Liveness
    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float | None
    best_loss: float | None
    normalised: float | None
    exposures: Mapping[str, float]
    lasted_s: float | None
    output: str | None
    message: str


@dataclass(frozen=True)
class LossSeries:
    """A run's loss, smoothed, for a chart: `values` over `steps`, and the steps whose loss was no number."""

    name: str
    steps: list[float]
    values: list[float]
    broken: list[float]


@dataclass(frozen=True)
class Difference:
    """A setting in which two runs differ; None where a run has no value for it."""

    key: str
    a: Any
    b: Any


def settings_diff(a: RunDirectory, b: RunDirectory) -> list[Difference]:
    """The settings in which two runs differ, in the order of the schema, paths and names last.

    Read as they stand in the files: runs of other versions of the program can be compared too. Raises LoratoryError for
    a config.toml that cannot be read.
    """
    one, other = (dict(_settings("", read_toml(run.config))) for run in (a, b))
    order = {key: place for place, key in enumerate(FIELDS)}
    differing = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    differing.sort(key=lambda key: (_says_least(key), order.get(key.partition("[")[0], len(order))))
    return [Difference(key, one.get(key), other.get(key)) for key in differing]


def glance(run: RunDirectory, *, with_loss: bool = True) -> Glance:
    """How a run stands; costs two small reads however long the run is, one `with_loss` false."""
    record = _sound_record(run)
    return Glance(run, liveness(record), record, _newest_loss(run.events) if with_loss else None)


def summary(run: RunDirectory) -> Summary:
    """Reads all events of a run: about a second for ten thousand steps."""
    record = _sound_record(run)
    progress = Progress()
    epochs: dict[int, list[float]] = {}
    saved: Saved | None = None
    for timed in EventReader(run.events).events():
        progress.add(timed)
        match timed.event:
            case Step() as step if math.isfinite(step.loss) and not step.is_empty:
                total = epochs.setdefault(step.epoch, [0.0, 0.0])
                total[0] += step.loss
                total[1] += 1
            case Saved() as saved:
                pass
            case _:
                pass
    means = {epoch: total / count for epoch, (total, count) in epochs.items()}
    first = progress.first_step_of_epoch
    spans = progress.normalised.between(first, max(first, progress.step), 1).mean.tolist()
    finished = progress.finished
    return Summary(
        name=run.name,
        path=run.path,
        state=liveness(record),
        step=record.step if record else progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        epochs=progress.epochs,
        loss=means.get(progress.epoch),
        best_loss=min(means.values(), default=None),
        normalised=next((mean for mean in spans if math.isfinite(mean)), None),
        exposures={folder: concept.exposure for folder, concept in progress.concepts.items()},
        lasted_s=max(0.0, record.heartbeat_s - record.started_s) if record else None,
        output=saved.path if saved else None,
        message=finished.message if finished else "",
    )


def loss_series(run: RunDirectory, most: int = 1000) -> LossSeries:
    """The smoothed loss of a run in at most `most` values; reads all of its events."""
    progress = Progress()
    for timed in EventReader(run.events).events():
        progress.add(timed)
    spans = progress.smoothed.between(1, max(1, progress.step), most)
    raw = progress.losses.between(1, max(1, progress.step), most)
    return LossSeries(run.name, spans.last.tolist(), spans.mean.tolist(), raw.first[raw.broken > 0].tolist())


def _sound_record(run: RunDirectory) -> RunRecord | None:
    """The record, None for one with numbers that no run comes to: a list shows whatever lies in a folder."""
    record = run.read_record()
    if record is None:
        return None
    numbers = (record.started_s, record.heartbeat_s, record.step, record.total_steps)
    return record if all(0 <= value < _LATEST_S for value in numbers) else None


def _settings(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """Every single setting with its full name; those of lists of tables are numbered from 1."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return [pair for key, each in table.items() for pair in _settings(f"{prefix}.{key}" if prefix else key, each)]
    if isinstance(value, list) and any(isinstance(each, dict) for each in cast("list[Any]", value)):
        tables = enumerate(cast("list[Any]", value), 1)
        return [pair for number, each in tables for pair in _settings(f"{prefix}[{number}]", each)]
    return [(prefix, value)]


def _says_least(key: str) -> bool:
    if key in _NAMES:
        return True
    field = FIELDS.get(key) or SubsetSettings.model_fields.get(key.rpartition(".")[2])
    return field is not None and holds_path(field)


def _newest_loss(events: Path) -> float | None:
    try:
        with events.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError:
        return None
    epoch, total, count = None, 0.0, 0
    for line in reversed(tail.decode("utf-8", "replace").split("\n")):
        timed = decode(line) if '"kind":"step"' in line[:80] else None
        if timed is None or not isinstance(timed.event, Step):
            continue
        if epoch is not None and timed.event.epoch != epoch:
            break
        epoch = timed.event.epoch
        if math.isfinite(timed.event.loss) and not timed.event.is_empty:
            total, count = total + timed.event.loss, count + 1
    return total / count if count else None
