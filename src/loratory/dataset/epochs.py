"""The order of training, and how long it is. Pure: nothing here depends on anything but its arguments."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

from loratory.dataset.regularization import in_file_order, rotated
from loratory.dataset.visits import Visit
from loratory.randomness import stream

T = TypeVar("T")
Bucket = tuple[int, int]


@dataclass(frozen=True)
class FolderCount:
    """What the length of a run depends on in one concept folder: its repeats per epoch and its number of
    pictures."""

    repeats: int
    images: int


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    epoch_ends: steps done at the end of each epoch, were it not cut short. total_steps: optimizer steps.
    exposures: for each folder, how often each of its pictures is trained in the whole run (an average where
    the last epoch is cut short).
    """

    epoch_ends: tuple[int, ...]
    total_steps: int
    exposures: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """Begun epochs; the last one may be cut short."""
        return len(self.epoch_ends)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 1) that the last of `step` finished steps belongs to; the first one before any."""
        return min(bisect_left(self.epoch_ends, step), self.epochs - 1) + 1

    def epoch_start(self, epoch: int) -> int:
        """Steps done before `epoch` (from 1) begins."""
        return self.epoch_ends[epoch - 2] if epoch > 1 else 0

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is complete after `step` steps."""
        return step > 0 and self.epoch_ends[self.epoch_of(step) - 1] == step


@dataclass(frozen=True)
class EpochOrder:
    """What the order of training depends on, and the order.

    buckets, repeats, is_reg: for each picture. batch_size: pictures of one forward pass, of all processes together.
    kohya: regularization pictures are chosen and mixed in as sd-scripts does.
    """

    buckets: tuple[Bucket, ...]
    repeats: tuple[int, ...]
    is_reg: tuple[bool, ...]
    batch_size: int
    gradient_accumulation_steps: int
    seed: int
    kohya: bool = False

    @cached_property
    def train_visits(self) -> int:
        """Visits of an epoch without the regularization pictures."""
        return sum(self._train_repeats)

    def reg_visits(self, epoch: int) -> list[Visit]:
        """The visits of regularization pictures in `epoch`: as many as there are others."""
        if self.kohya:
            return in_file_order(self._reg_repeats, self.train_visits)
        return rotated(self._reg_repeats, self.train_visits, self.seed, epoch)

    def batches(self, epoch: int) -> list[tuple[Visit, ...]]:
        """The batches of `epoch`, see `epoch_batches`."""
        regs, evenly = self.reg_visits(epoch), not self.kohya
        return epoch_batches(self.buckets, self._train_repeats, self.batch_size, self.seed, epoch, regs, evenly=evenly)

    def batch_count(self, epoch: int) -> int:
        """How many batches `epoch` has. Only regularization pictures that take turns make epochs differ."""
        counts = Counter(self._train_counts)
        counts.update(self.buckets[visit.image] for visit in self.reg_visits(epoch))
        return batches_per_epoch(counts, self.batch_size)

    def steps(self, epoch: int) -> int:
        """Optimizer steps of `epoch`. A last, shorter accumulation counts as a step."""
        return -(-self.batch_count(epoch) // self.gradient_accumulation_steps)

    @cached_property
    def _train_repeats(self) -> tuple[int, ...]:
        return tuple(0 if reg else count for count, reg in zip(self.repeats, self.is_reg, strict=True))

    @cached_property
    def _reg_repeats(self) -> tuple[int, ...]:
        return tuple(count if reg else 0 for count, reg in zip(self.repeats, self.is_reg, strict=True))

    @cached_property
    def _train_counts(self) -> dict[Bucket, int]:
        return visits_by_bucket(self.buckets, self._train_repeats)


def epoch_batches(
    buckets: Sequence[Bucket],
    repeats: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    reg_visits: Sequence[Visit] = (),
    *,
    evenly: bool = True,
) -> list[tuple[Visit, ...]]:
    """The batches of one epoch, in training order; every batch holds pictures of one bucket.

    buckets, repeats: for each picture; repeats may be 0. Per bucket there are ceil(visits / batch_size) batches, the
    last of which may be smaller, as in sd-scripts. Visits are shuffled within their bucket and batches among each
    other, anew each epoch (from 1); the order within one bucket does not depend on the other buckets. reg_visits are
    spread evenly among the others, so that at batch size 1 training alternates; with evenly=False they are shuffled in
    like any other.
    """
    by_bucket: dict[Bucket, list[Visit]] = {}
    regs_by_bucket: dict[Bucket, list[Visit]] = {}
    for image, (bucket, count) in enumerate(zip(buckets, repeats, strict=True)):
        by_bucket.setdefault(bucket, []).extend(Visit(image, repeat) for repeat in range(count))
    for visit in reg_visits:
        target = regs_by_bucket if evenly else by_bucket
        target.setdefault(buckets[visit.image], []).append(visit)
    batches: list[tuple[Visit, ...]] = []
    reg_batches: list[tuple[Visit, ...]] = []
    regs = set(reg_visits)
    for bucket, visits in sorted(by_bucket.items()):
        stream(seed, "order within bucket", epoch, *bucket).shuffle(visits)
        others = regs_by_bucket.get(bucket, [])
        stream(seed, "regularization order within bucket", epoch, *bucket).shuffle(others)
        mixed = spread(visits, others)
        for at in range(0, len(mixed), batch_size):
            batch = tuple(mixed[at : at + batch_size])
            mostly_reg = evenly and sum(visit in regs for visit in batch) * 2 > len(batch)
            (reg_batches if mostly_reg else batches).append(batch)
    stream(seed, "order of batches", epoch).shuffle(batches)
    stream(seed, "order of regularization batches", epoch).shuffle(reg_batches)
    return spread(batches, reg_batches)


def spread(many: Sequence[T], few: Sequence[T]) -> list[T]:
    """Both in one list, each in its own order and at even distances; equally many alternate."""
    places = [
        ((index + 0.5) / len(items), which, item)
        for which, items in enumerate((many, few))
        for index, item in enumerate(items)
    ]
    return [item for _, _, item in sorted(places, key=lambda place: place[:2])]


def visits_by_bucket(buckets: Iterable[Bucket], repeats: Iterable[int]) -> dict[Bucket, int]:
    """How many visits each bucket gets in an epoch; buckets and repeats are given for each picture."""
    counts: Counter[Bucket] = Counter()
    for bucket, count in zip(buckets, repeats, strict=True):
        counts[bucket] += count
    return dict(sorted(counts.items()))


def batches_per_epoch(counts_by_bucket: Mapping[Bucket, int], batch_size: int) -> int:
    """Batches of one epoch, from the visits of each bucket: partial batches count as whole ones."""
    return sum(-(-visits // batch_size) for visits in counts_by_bucket.values())


def resolve_length(
    folders: Sequence[FolderCount],
    steps_of_epoch: Callable[[int], int],
    *,
    max_train_steps: int | None = None,
    max_train_epochs: int | None = None,
    exposure: float | None = None,
) -> RunLength:
    """The length of a run from one of three settings; the first given of epochs, steps, exposure counts.

    folders: those with training pictures, regularization left out; at least one. steps_of_epoch: steps, at least 1,
    of an epoch (from 1): they differ where regularization pictures of several buckets take turns.
    exposure: repeats x epochs. Folders differ in their repeats, so the one with most pictures decides (of
    equals, the first): epochs = max(1, exposure / its repeats), rounded with halves up. Raises ValueError
    when no setting is given.
    """
    if max_train_epochs is not None:
        epochs = max_train_epochs
    elif max_train_steps is not None:
        ends: list[int] = []
        while not ends or ends[-1] < max_train_steps:
            ends.append((ends[-1] if ends else 0) + steps_of_epoch(len(ends) + 1))
        last_share = 1 - (ends[-1] - max_train_steps) / steps_of_epoch(len(ends))
        passes = len(ends) - 1 + last_share
        return RunLength(tuple(ends), max_train_steps, tuple(folder.repeats * passes for folder in folders))
    elif exposure is not None:
        repeats = max(folders, key=lambda folder: folder.images).repeats
        epochs = max(1, math.floor(exposure / repeats + 0.5))
    else:
        raise ValueError("one of max_train_epochs, max_train_steps and exposure is needed")
    ends = list(accumulate(steps_of_epoch(epoch) for epoch in range(1, epochs + 1)))
    return RunLength(tuple(ends), ends[-1], tuple(float(folder.repeats * epochs) for folder in folders))
