"""Groups out of pairs, without chains."""

import numpy as np
import numpy.typing as npt


def stars(pairs: npt.NDArray[np.intp], count: int) -> list[tuple[int, ...]]:
    """Groups of at least two, each with its centre first: every member is a neighbour of the centre.

    pairs: (n, 2), each pair of neighbours once, in either order; all below `count`. The one with the most free
    neighbours (the first among equals) takes them all, then the next. Connected parts would put a series of small
    changes, whose ends have nothing in common, into one group.
    """
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    starts, neighbours = np.searchsorted(ends[:, 0], np.arange(count + 1)), ends[:, 1]
    free, free_neighbours = np.ones(count, bool), np.diff(starts)
    groups: list[tuple[int, ...]] = []
    while free_neighbours.any():
        centre = int(free_neighbours.argmax())
        members = neighbours[starts[centre] : starts[centre + 1]]
        members = np.sort(members[free[members]])
        taken = np.append(members, centre)
        free[taken] = False
        for index in taken.tolist():
            free_neighbours[neighbours[starts[index] : starts[index + 1]]] -= 1
        free_neighbours[~free] = 0
        groups.append((centre, *members.tolist()))
    return groups
