"""Which folders of a dataset were renamed: `.loratory/renames.jsonl`, append-only, one JSON object a line.

{"v":1,"crc":"…","kind":"begun","id":2,"time":…,"label":"…","undoes":null,"token":"…","after_batch":7,"moves":[[old,new]]}
{"v":1,"crc":"…","kind":"parked","id":2}        then "moved", then "done"; or "rolled back" instead of one of them

crc: as in the journal. old, new: paths below the root, parts joined by "/"; all moves of a renaming happen at once, so
that two folders can swap names. after_batch: id of the last batch of captions before it. A torn line is no line.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import ENOSPC
from pathlib import Path
from typing import Any, Literal

from loratory import atomic
from loratory.errors import FAILED, LoratoryError
from loratory.tags.journal_log import decode_line, encode_line

RENAMES = "renames.jsonl"

State = Literal["begun", "parked", "moved", "done", "rolled back"]
_ORDER: tuple[State, ...] = ("begun", "parked", "moved", "done", "rolled back")


@dataclass(frozen=True)
class Renaming:
    """Folders that were renamed at once.

    moves: (old, new) below the root. token: part of the temporary names that it uses. after_batch: id of the last batch
    of captions before it, 0 for none. undoes: the renaming that it took back. undone: whether another took it back.
    """

    id: int
    label: str
    time_s: float
    moves: tuple[tuple[str, str], ...]
    token: str
    after_batch: int
    undoes: int | None = None
    undone: bool = False
    state: State = "begun"

    @property
    def is_pending(self) -> bool:
        """Whether it has begun and neither been completed nor taken back."""
        return self.state not in ("done", "rolled back")

    @property
    def has_moved(self) -> bool:
        """Whether all folders have their new names."""
        return self.state in ("moved", "done")


class RenameLog:
    """The log at `path`, which is read anew each time: it is short.

    `begin` and `mark` are for the holder of the dataset's lock. All raise LoratoryError for a log that cannot be read
    or is of a newer version; those that write raise OSError as the disk does, and leave the log as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Renaming]:
        """Every renaming, oldest first."""
        found: dict[int, Renaming] = {}
        for line in self._lines():
            header = decode_line(line, self.path)
            try:
                if header is not None:
                    _take(header, found)
            except (KeyError, TypeError, ValueError):
                continue
        return list(found.values())

    def pending(self) -> Renaming | None:
        """The renaming that has begun and not ended; None while there is none."""
        last = next(reversed(self.read()), None)
        return last if last is not None and last.is_pending else None

    def translated(self, names: Iterable[str], batch: int) -> list[str]:
        """Paths below the root as a batch of captions wrote them, as they are after the renamings since."""
        later = [dict(each.moves) for each in self.read() if each.after_batch >= batch and each.has_moved]
        result = list(names)
        for moves in later:
            result = [follow(name, moves) for name in result]
        return result

    def begin(self, renaming: Renaming) -> None:
        """Appends that a renaming begins; once this returns, a power cut cannot take the line away."""
        self._append(
            {
                "kind": "begun",
                "id": renaming.id,
                "time": renaming.time_s,
                "label": renaming.label,
                "undoes": renaming.undoes,
                "token": renaming.token,
                "after_batch": renaming.after_batch,
                "moves": renaming.moves,
            },
            durable=True,
        )

    def mark(self, renaming: Renaming, state: State) -> Renaming:
        """Appends how far a renaming has come, durably like `begin` but for its end.

        Should a power cut take the line that it is done, it is completed once more, which finds nothing to do.
        """
        self._append({"kind": state, "id": renaming.id}, durable=state != "done")
        return replace(renaming, state=state)

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise LoratoryError(f"{self.path} cannot be read ({error.strerror}).", exit_code=FAILED) from error

    def _append(self, body: Mapping[str, Any], *, durable: bool) -> None:
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        size = os.fstat(descriptor).st_size
        try:
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + encode_line(body)
            if os.write(descriptor, data) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC), str(self.path))
            if durable:
                os.fsync(descriptor)
        except OSError:
            # A line that is there, but whose writer was told that it is not, would be acted on later.
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)
        if is_new:
            with suppress(OSError):  # some network disks cannot
                atomic.fsync_directory(self.path.parent)


def follow(name: str, moves: Mapping[str, str]) -> str:
    """A path below the root after folders on its way were renamed, old -> new path."""
    folder, rest = name, ""
    while folder:
        if folder in moves:
            return moves[folder] + rest
        folder, slash, last = folder.rpartition("/")
        rest = f"{slash}{last}{rest}"
    return name


def _take(header: Mapping[str, Any], found: dict[int, Renaming]) -> None:
    number, kind = int(header["id"]), header["kind"]
    if kind == "begun":
        moves = tuple((_inside(old), _inside(new)) for old, new in header["moves"])
        undoes = None if header["undoes"] is None else int(header["undoes"])
        token, after, label = str(header["token"]), int(header["after_batch"]), str(header["label"])
        found[number] = Renaming(number, label, float(header["time"]), moves, token, after, undoes)
        return
    if kind not in _ORDER:
        raise ValueError(kind)
    before = found[number]
    found[number] = replace(before, state=kind)
    if kind == "done" and before.undoes in found:
        found[before.undoes] = replace(found[before.undoes], undone=True)


def _inside(path: Any) -> str:
    if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise ValueError(path)
    return path
