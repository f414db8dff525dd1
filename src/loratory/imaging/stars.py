"""Groups out of pairs, without chains."""

from collections.abc import Mapping, Set


def stars(near: Mapping[int, Set[int]]) -> list[tuple[int, ...]]:
    """Groups of at least two, each with its centre first: every member is a neighbour of the centre.

    near: the neighbours of each, symmetric. The one with the most free neighbours (the first among equals) takes them
    all, then the next. Connected parts would put a series of small changes, whose ends have nothing in common, into one
    group.
    """
    free = {index: set(others) for index, others in near.items() if others}
    by_count: dict[int, set[int]] = {}
    for index, others in free.items():
        by_count.setdefault(len(others), set()).add(index)
    groups: list[tuple[int, ...]] = []
    for count in range(max(by_count, default=0), 0, -1):
        # Those that lost neighbours meanwhile were moved down, so one look at each count is enough.
        while by_count.get(count):
            centre = min(by_count[count])
            members = sorted(free[centre])
            groups.append((centre, *members))
            taken = {centre, *members}
            touched = {other for index in taken for other in free[index]} - taken
            for index in taken:
                by_count[len(free.pop(index))].discard(index)
            for index in touched:
                by_count[len(free[index])].discard(index)
                free[index] -= taken
                by_count.setdefault(len(free[index]), set()).add(index)
    return groups
