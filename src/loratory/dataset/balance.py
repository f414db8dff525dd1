"""How many repeats give each concept folder an equal share of the training, and what that means. Pure.

The folder with most pictures sets the target, its pictures times its repeats; every other gets target / pictures
repeats, halves rounded up: 51, 43 and 32 pictures at 10 repeats make 10, 12 and 16, or divided by two 5, 6 and 8.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

Overbake = Literal["", "watch", "likely"]

# More is refused where a dataset is read; a date before the underscore is usually meant.
MOST_REPEATS = 10_000
# A picture trained half as often again as those of the largest folder is learnt by heart sooner than they are learnt at
# all; with fewer than ten of them little else is there to learn. The linter's rule "small-folder" goes by both.
_MUCH_MORE = 1.5
_FEW_IMAGES = 10
_MOST_TRIED = 20
_EVEN = 0.01


@dataclass(frozen=True)
class Concept:
    """A concept folder. images: pictures in it. repeats: visits of each in an epoch."""

    name: str
    images: int
    repeats: int

    @property
    def visits(self) -> int:
        """Visits of an epoch."""
        return self.images * self.repeats


@dataclass(frozen=True)
class Row:
    """A concept folder in a balance.

    before: its repeats as they are. repeats: as they would be. visits: of an epoch. share: of all visits, 0 to 1.
    deviation: of its visits from the mean of all folders, as a share of that mean. ratio: how many times as often each
    of its pictures is trained as those of the largest folder. overbake: "watch" where that is 1.5 or more, "likely"
    where there are fewer than ten pictures besides.
    """

    name: str
    images: int
    before: int
    repeats: int
    visits: int
    share: float
    deviation: float
    ratio: float
    overbake: Overbake

    def exposure(self, epochs: float) -> float:
        """How often each of its pictures is trained in `epochs`."""
        return self.repeats * epochs


@dataclass(frozen=True)
class Balance:
    """Concept folders with the repeats they would get, in the order they were given.

    left_out: names of folders without pictures. largest: index of the row that sets the target; of equals the first.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    largest: int

    @property
    def visits(self) -> int:
        """Visits of an epoch."""
        return sum(row.visits for row in self.rows)

    @property
    def residual(self) -> float:
        """The largest deviation from the mean visits, as a share of the mean; 0 where all are equal."""
        return max((abs(row.deviation) for row in self.rows), default=0.0)

    @cached_property
    def divisor(self) -> int:
        """The greatest number that divides all repeats; 1 where none does."""
        return math.gcd(*(row.repeats for row in self.rows)) or 1

    @property
    def is_changed(self) -> bool:
        """Whether any folder has other repeats than before."""
        return any(row.repeats != row.before for row in self.rows)

    @property
    def largest_row(self) -> Row:
        return self.rows[self.largest]

    def divided(self) -> "Balance":
        """The same with all repeats divided by `divisor`: as many times the epochs give the same exposure."""
        by = self.divisor
        rows = (replace(row, repeats=row.repeats // by, visits=row.visits // by) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def epochs_for(self, exposure: float) -> int:
        """Epochs, at least 1, after which the pictures of the largest folder have been trained `exposure` times.

        As a run resolves `training.exposure`.
        """
        return max(1, math.floor(exposure / self.largest_row.repeats + 0.5))


def with_repeats(concepts: Sequence[Concept], repeats: Sequence[int]) -> Balance:
    """The table of concepts with these repeats, one of at least 1 for each concept.

    Raises ValueError where no concept has pictures, or for repeats below 1.
    """
    kept = [(concept, count) for concept, count in zip(concepts, repeats, strict=True) if concept.images]
    if not kept:
        raise ValueError("no folder has pictures")
    if min(count for _, count in kept) < 1:
        raise ValueError("repeats are at least 1")
    visits = [concept.images * count for concept, count in kept]
    mean, total = sum(visits) / len(visits), sum(visits)
    largest = _largest([concept for concept, _ in kept])
    rows: list[Row] = []
    for (concept, count), of_epoch in zip(kept, visits, strict=True):
        ratio = count / kept[largest][1]
        rows.append(
            Row(
                name=concept.name,
                images=concept.images,
                before=concept.repeats,
                repeats=count,
                visits=of_epoch,
                share=of_epoch / total,
                deviation=of_epoch / mean - 1,
                ratio=ratio,
                overbake=_overbake(concept.images, ratio),
            )
        )
    return Balance(tuple(rows), tuple(concept.name for concept in concepts if not concept.images), largest)


def as_they_are(concepts: Sequence[Concept]) -> Balance:
    """The table of concepts with the repeats they have; raises ValueError where none has pictures."""
    return with_repeats(concepts, [concept.repeats for concept in concepts])


def balanced(
    concepts: Sequence[Concept], largest_repeats: int | None = None, fixed: Mapping[str, int] | None = None
) -> Balance:
    """Concepts with the repeats that give each about as many visits as the largest has.

    largest_repeats: of the folder with most pictures (of equals the first), at least 1; left out, those it has. fixed:
    repeats that are kept as given, by the concept's name; the largest folder's set the target. Raises ValueError where
    no concept has pictures, or for repeats below 1.
    """
    kept = [concept for concept in concepts if concept.images]
    if not kept:
        raise ValueError("no folder has pictures")
    fixed = fixed or {}
    largest = kept[_largest(kept)]
    target = largest.images * fixed.get(largest.name, largest_repeats or largest.repeats)
    return with_repeats(
        concepts, [fixed.get(c.name, _rounded(target, c.images)) if c.images else c.repeats for c in concepts]
    )


def finer(concepts: Sequence[Concept], residual: float) -> tuple[int, float] | None:
    """(repeats of the largest folder, residual) that balance better than `residual`; None where none up to 20 do, or
    where it is below 1 % already.

    The fewest repeats that leave less than 1 %, else those up to 20 that leave least.
    """
    if residual < _EVEN:
        return None
    tried = [(count, balanced(concepts, count).residual) for count in range(1, _MOST_TRIED + 1)]
    best = next((each for each in tried if each[1] < _EVEN), min(tried, key=lambda each: each[1]))
    return best if best[1] < residual else None


@dataclass(frozen=True)
class Regularization:
    """What regularization folders add to a run.

    images: pictures in them. visits: of an epoch, as many as there are of the others. per_image: visits of each picture
    in the run, on average. epochs_to_all: after how many epochs each was seen. never: pictures that the run never sees.
    """

    images: int
    visits: int
    per_image: float
    epochs_to_all: int
    never: int


def regularization(folders: Iterable[Concept], train_visits: int, epochs: int) -> Regularization | None:
    """What regularization folders add to `epochs` epochs of `train_visits` visits each; None where they are empty.

    An epoch goes on where the last one ended, through rounds of all pictures, each as often as its repeats say: the
    folders are not balanced with the others. `never` is an expectation where repeats are above 1, as the order of a
    round is shuffled.
    """
    folders = [folder for folder in folders if folder.images]
    images, of_round = sum(folder.images for folder in folders), sum(folder.visits for folder in folders)
    if not images or not train_visits:
        return None
    seen = train_visits * epochs
    unseen = sum(folder.images * _unseen(folder.repeats, of_round, seen) for folder in folders)
    return Regularization(
        images=images,
        visits=train_visits,
        per_image=seen / images,
        epochs_to_all=-(-of_round // train_visits),
        never=math.floor(unseen + 0.5),
    )


def _largest(concepts: Sequence[Concept]) -> int:
    return max(range(len(concepts)), key=lambda index: (concepts[index].images, -index))


def _rounded(target: int, images: int) -> int:
    """target / images with halves up, at least 1; in whole numbers, as floats lose the halves of large ones."""
    return max(1, (2 * target + images) // (2 * images))


def _overbake(images: int, ratio: float) -> Overbake:
    if ratio < _MUCH_MORE:
        return ""
    return "likely" if images < _FEW_IMAGES else "watch"


def _unseen(repeats: int, of_round: int, seen: int) -> float:
    """The chance that none of a picture's `repeats` places in a shuffled round is among the first `seen`."""
    if seen + repeats > of_round:
        return 0.0
    return math.prod((of_round - seen - place) / (of_round - place) for place in range(repeats))
