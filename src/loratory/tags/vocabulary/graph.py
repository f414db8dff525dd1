"""What follows from what: shortest paths through the implications."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from loratory.tags.vocabulary.model import Origin

# The weakest edge gives the path its origin.
_TRUST: tuple[Origin, ...] = ("rules", "pack", "import")


class Path(NamedTuple):
    """Keys from the specific tag to the general one, both included, and where the weakest edge comes from."""

    keys: tuple[str, ...]
    origin: Origin


def shortest_paths(start: str, edges: Callable[[str], Iterable[tuple[str, Origin]]]) -> dict[str, Path]:
    """The shortest path from `start` to everything that can be reached, nearest first; `start` itself is left out.

    edges: the direct general tags of a key. Among paths of one length the edge that is given first wins. Cycles end
    where they began.
    """
    reached = {start: Path((start,), "import")}
    queue = [start]
    for at in queue:  # grows while it is walked: breadth first
        path = reached[at]
        for general, origin in edges(at):
            if general not in reached:
                weakest = _TRUST[min(_TRUST.index(path.origin), _TRUST.index(origin))]
                reached[general] = Path((*path.keys, general), weakest)
                queue.append(general)
    del reached[start]
    return reached
