"""Which regularization pictures an epoch visits. Pure."""

from collections.abc import Sequence
from functools import lru_cache

from loratory.dataset.visits import Visit
from loratory.randomness import stream


def rotated(repeats: Sequence[int], count: int, seed: int, epoch: int) -> list[Visit]:
    """`count` visits of one epoch (from 1), cut from an endless sequence in which every picture comes evenly often.

    repeats: for each picture of the dataset, 0 for those that are not of the regularization set; they weigh pictures
    against each other. The sequence is one seeded shuffle of all visits after another, and each epoch goes on where the
    last one ended: over the run no picture is visited more than one round of its repeats more often than another.
    """
    weights = tuple(repeats)
    total = sum(weights)
    if not total or not count:
        return []
    start, end = (epoch - 1) * count, epoch * count
    visits: list[Visit] = []
    for cycle in range(start // total, (end - 1) // total + 1):
        first, last = max(start - cycle * total, 0), min(end - cycle * total, total)
        for image, repeat in _round(weights, seed, cycle)[first:last]:
            # Counted through the rounds: a picture that comes twice in an epoch gets other noise each time.
            visits.append(Visit(image, cycle * weights[image] + repeat))
    return visits


@lru_cache(maxsize=8)
def _round(repeats: tuple[int, ...], seed: int, cycle: int) -> tuple[tuple[int, int], ...]:
    order = [(image, repeat) for image, count in enumerate(repeats) for repeat in range(count)]
    stream(seed, "regularization round", cycle).shuffle(order)
    return tuple(order)


def in_file_order(repeats: Sequence[int], count: int) -> list[Visit]:
    """The same visits in every epoch, chosen as sd-scripts does: `compatibility = "kohya"`.

    Pictures are taken in the order of their files, each with all its repeats, until there are `count` visits or a few
    more; where one pass is not enough, further passes add one visit a picture. Pictures behind that are never used.
    """
    visits: list[Visit] = []
    taken = [0] * len(repeats)
    first_pass = True
    while len(visits) < count and any(repeats):
        for image, weight in enumerate(repeats):
            if weight and len(visits) < count:
                for _ in range(weight if first_pass else 1):
                    visits.append(Visit(image, taken[image]))
                    taken[image] += 1
        first_pass = False
    return visits
