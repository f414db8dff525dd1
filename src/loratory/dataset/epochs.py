"""The order of training, and how long it is. Pure: nothing here depends on anything but its arguments."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loratory.randomness import stream

Bucket = tuple[int, int]


@dataclass(frozen=True)
class Visit:
    """One look at one picture in one epoch. image: index into `Dataset.images`; repeat: from 0 to its repeats
    - 1."""

    image: int
    repeat: int


@dataclass(frozen=True)
class FolderCount:
    """What the length of a run depends on in one concept folder: its repeats per epoch and its number of
    pictures."""

    repeats: int
    images: int


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    epochs: begun epochs; the last one is cut short where total_steps says so. total_steps: optimizer steps.
    exposures: for each folder, how often each of its pictures is trained in the whole run (an average where
    the last epoch is cut short).
    """

    epochs: int
    total_steps: int
    exposures: tuple[float, ...]


def epoch_batches(
    buckets: Sequence[Bucket], repeats: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[tuple[Visit, ...]]:
    """The batches of one epoch, in training order; every batch holds pictures of one bucket.

    buckets, repeats: for each picture of the dataset; repeats may be 0. Per bucket there are ceil(visits /
    batch_size) batches, the last of which may be smaller, as in sd-scripts. Visits are shuffled within their
    bucket and batches among each other, anew each epoch (from 1); the order within one bucket does not depend
    on the other buckets.
    """
    by_bucket: dict[Bucket, list[Visit]] = {}
    for image, (bucket, count) in enumerate(zip(buckets, repeats, strict=True)):
        by_bucket.setdefault(bucket, []).extend(Visit(image, repeat) for repeat in range(count))
    batches: list[tuple[Visit, ...]] = []
    for (width, height), visits in sorted(by_bucket.items()):
        stream(seed, "order within bucket", epoch, width, height).shuffle(visits)
        batches += (tuple(visits[at : at + batch_size]) for at in range(0, len(visits), batch_size))
    stream(seed, "order of batches", epoch).shuffle(batches)
    return batches


def visits_by_bucket(buckets: Iterable[Bucket], repeats: Iterable[int]) -> dict[Bucket, int]:
    """How many visits each bucket gets in an epoch; buckets and repeats are given for each picture."""
    counts: Counter[Bucket] = Counter()
    for bucket, count in zip(buckets, repeats, strict=True):
        counts[bucket] += count
    return dict(sorted(counts.items()))


def batches_per_epoch(counts_by_bucket: Mapping[Bucket, int], batch_size: int) -> int:
    """Batches of one epoch, from the visits of each bucket: partial batches count as whole ones."""
    return sum(-(-visits // batch_size) for visits in counts_by_bucket.values())


def steps_per_epoch(counts_by_bucket: Mapping[Bucket, int], batch_size: int, gradient_accumulation_steps: int) -> int:
    """Optimizer steps of one epoch, from the visits of each bucket. A last, shorter accumulation counts as a
    step."""
    return -(-batches_per_epoch(counts_by_bucket, batch_size) // gradient_accumulation_steps)


def resolve_length(
    folders: Sequence[FolderCount],
    steps_per_epoch: int,
    *,
    max_train_steps: int | None = None,
    max_train_epochs: int | None = None,
    exposure: float | None = None,
) -> RunLength:
    """The length of a run from one of three settings; the first given of epochs, steps, exposure counts.

    folders: those with training pictures, regularization left out; at least one. steps_per_epoch: at least 1.
    exposure: repeats x epochs. Folders differ in their repeats, so the one with most pictures decides (of
    equals, the first): epochs = max(1, exposure / its repeats), rounded with halves up. Raises ValueError
    when no setting is given.
    """
    if max_train_epochs is not None:
        epochs, total_steps = max_train_epochs, max_train_epochs * steps_per_epoch
    elif max_train_steps is not None:
        epochs, total_steps = -(-max_train_steps // steps_per_epoch), max_train_steps
    elif exposure is not None:
        repeats = max(folders, key=lambda folder: folder.images).repeats
        epochs = max(1, math.floor(exposure / repeats + 0.5))
        total_steps = epochs * steps_per_epoch
    else:
        raise ValueError("one of max_train_epochs, max_train_steps and exposure is needed")
    passes = total_steps / steps_per_epoch
    return RunLength(epochs, total_steps, tuple(folder.repeats * passes for folder in folders))
