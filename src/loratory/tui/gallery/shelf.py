"""The pictures of a run in order: its samples by prompt and step, and its grids."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from loratory.runs.events import Sampled, Started, Timed, decode
from loratory.runs.store import EventReader, RunDirectory

# Of the events, only these lines are read as such: those of a long run are mostly steps.
_WANTED = (b'"kind":"sampled"', b'"kind":"started"')
_GRIDS = "grids"
_TAIL = re.compile(r"-(own|\d+)-(\d+)$")


@dataclass(frozen=True)
class Picture:
    """A sample: drawn with the network as it was after `step`."""

    path: Path
    step: int
    epoch: int
    prompt: str
    seed: int


@dataclass
class Row:
    """The pictures of one prompt and seed, by step."""

    prompt: str
    seed: int
    pictures: list[Picture] = field(default_factory=list[Picture])

    def nearest(self, step: int) -> int:
        """The index of the picture whose step is nearest."""
        return min(range(len(self.pictures)), key=lambda index: abs(self.pictures[index].step - step), default=0)


class Shelf:
    """The samples that a run has told of, folded from its events."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._rows: dict[tuple[str, str, int], Row] = {}

    @property
    def rows(self) -> list[Row]:
        """As they are now; what is added later does not change them."""
        return [replace(row) for row in self._rows.values()]

    def add(self, timed: Timed) -> None:
        match timed.event:
            case Started(from_step=step):
                # What came after it was lost with the process that drew it, and will be drawn again.
                for key, row in list(self._rows.items()):
                    row.pictures = [picture for picture in row.pictures if picture.step <= step]
                    if not row.pictures:
                        del self._rows[key]
            case Sampled() as sampled:
                self._put(sampled)
            case _:
                pass

    def _put(self, sampled: Sampled) -> None:
        path = self._run.path / sampled.path
        tail = _TAIL.search(path.stem)
        index, seed = (tail[1], int(tail[2])) if tail else (str(sampled.index), sampled.seed)
        row = self._rows.setdefault((sampled.prompt, index, seed), Row(sampled.prompt, seed))
        row.pictures = [picture for picture in row.pictures if picture.path != path]
        row.pictures.append(Picture(path, sampled.step, sampled.epoch, sampled.prompt, seed))
        row.pictures.sort(key=lambda picture: (picture.step, picture.path))


class Finder:
    """Finds what is new in a run's folder; made for a thread of its own."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._reader = EventReader(run.events)

    def new_events(self) -> tuple[list[Timed], bool]:
        """The events since the last time that tell of samples, and whether the file is another one than then."""
        is_other = self._reader.size_bytes() < self._reader.offset
        if is_other:
            self._reader.offset = 0
        return list(_sampled(self._reader.lines())), is_other

    def grids(self) -> tuple[Path, ...]:
        """The sheets of `loratory grid`, oldest first."""
        try:
            with os.scandir(self.run.path / _GRIDS) as entries:
                found = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(".png")]
        except OSError:
            return ()
        return tuple(Path(path) for _, path in sorted(found) if not Path(path).name.startswith("."))


def _sampled(lines: Iterable[bytes]) -> Iterator[Timed]:
    for line in lines:
        if any(wanted in line for wanted in _WANTED):
            timed = decode(line.decode("utf-8", "replace"))
            if timed is not None and isinstance(timed.event, (Sampled, Started)):
                yield timed
