"""Caption files on disk: read whole, written whole, never over what somebody else has put there meanwhile."""

import errno
import os
import stat
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from loratory import atomic
from loratory.errors import LoratoryError
from loratory.tags.merge import Conflict, merge
from loratory.tags.text import CaptionText, decode, encode

DISK_FULL = "The disk is full."

# Files are written in groups: the disk gets a group's data in one go, which makes a file cost 0.3 ms where it costs
# 5 ms alone. Each of a group has its temporary file and an open descriptor meanwhile.
_GROUP = 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Change:
    """What becomes of one caption file. before, after: its bytes; None where there is no file."""

    path: Path
    before: bytes | None
    after: bytes | None


class Changes(Sequence[Change]):
    """Changes of many files, most of them below `root`: kept as names and bytes: paths take thrice as much."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rows: list[tuple[str | Path, bytes | None, bytes | None]] = []

    def append(self, place: str | Path, before: bytes | None, after: bytes | None) -> None:
        """Adds a change. place: the file, as seen from the root or absolute."""
        self._rows.append((place, before, after))

    def without(self, indices: Collection[int]) -> "Changes":
        """All but some of the changes."""
        others = Changes(self._root)
        others._rows = [row for index, row in enumerate(self._rows) if index not in indices]
        return others

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Change]: ...
    def __getitem__(self, index: int | slice) -> Change | Sequence[Change]:
        if isinstance(index, slice):
            return [self._change(*row) for row in self._rows[index]]
        return self._change(*self._rows[index])

    def _change(self, place: str | Path, before: bytes | None, after: bytes | None) -> Change:
        return Change(self._root / place, before, after)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - equal to lists, which have none


def read_caption_bytes(path: Path) -> bytes | None:
    """The bytes of a caption file, None where there is none.

    Raises OSError as the disk does, and for anything that is no file (a folder, a pipe).
    """
    try:
        # A pipe would keep a plain open waiting for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        return file.read()


def reconcile(change: Change) -> tuple[Change | None, str]:
    """The change that takes the file from what it holds now to what is wanted, or None and why there is none.

    Where somebody else changed the file since `before`, that is the three-way merge of both.
    """
    try:
        disk = read_caption_bytes(change.path)
        if disk in (change.before, change.after):
            return Change(change.path, disk, change.after), ""
        merged = merge(_text(change.before), _text(change.after), _text(disk))
        return Change(change.path, disk, None if merged is None else encode(merged)), ""
    except Conflict as conflict:
        return None, conflict.reason
    except LoratoryError as error:
        return None, error.message
    except OSError as error:
        return None, f"It cannot be read ({error.strerror})."


def write_changes(changes: Sequence[Change]) -> Generator[tuple[int, str | None]]:
    """Carries the changes out, yielding for each in order its index and why it was skipped (None when it was not).

    Every file is the old one or the new one at any moment, also after a power cut; all are safe from one when the last
    has been yielded. A file that is no longer as `before` says is skipped. Modes stay, links are followed. After the
    disk is full nothing more is tried. Closing the generator early leaves no temporary files.
    """
    directories: set[Path] = set()
    full = False
    try:
        for start in range(0, len(changes), _GROUP):
            group = changes[start : start + _GROUP]
            if full:
                yield from ((start + index, DISK_FULL) for index in range(len(group)))
                continue
            for index, reason in _write_group(group, directories):
                full = full or reason == DISK_FULL
                yield start + index, reason
    finally:
        for directory in directories:
            # Some network disks cannot do this; the files themselves are written.
            with suppress(OSError):
                atomic.fsync_directory(directory)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the temporary files of these caption files that a killed process left."""
    names: dict[Path, list[str]] = {}
    for path in paths:
        target = _target(path)
        names.setdefault(target.parent, []).append(target.name)
    for directory, ours in names.items():
        with suppress(OSError):  # the folder may be gone, and its leftovers with it
            for leftover in atomic.leftovers_of(directory, ours):
                leftover.unlink(missing_ok=True)


def explain(error: OSError) -> str:
    """Why the disk refused a file, as a sentence."""
    if error.errno in _FULL:
        return DISK_FULL
    if error.errno in (errno.EACCES, errno.EPERM):
        return "There is no permission to write in its folder."
    if error.errno == errno.EROFS:
        return "The disk is read-only."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "Its folder is gone."
    return f"{error.strerror or error}."


def _write_group(group: Sequence[Change], directories: set[Path]) -> Generator[tuple[int, str | None]]:
    targets = [_target(change.path) for change in group]
    reasons: list[str | None] = [None] * len(group)
    temporaries: dict[int, Path] = {}
    descriptors: dict[int, int] = {}
    try:
        for index, change in enumerate(group):
            if DISK_FULL in reasons:
                reasons[index] = DISK_FULL
            elif change.after is not None:
                temporary = atomic.temporary_beside(targets[index])
                try:
                    descriptors[index] = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                    temporaries[index] = temporary
                    _write_all(descriptors[index], change.after)
                    atomic.keep_attributes(targets[index], temporary)
                except OSError as error:
                    reasons[index] = explain(error)
        if len(descriptors) > 1 and hasattr(os, "posix_fadvise"):
            for descriptor in descriptors.values():
                # Has Linux start writing all of them now, so that the fsyncs below find little left to wait for.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for index, descriptor in descriptors.items():
            try:
                os.fsync(descriptor)
            except OSError as error:
                reasons[index] = reasons[index] or explain(error)
        for index, change in enumerate(group):
            if reasons[index] is None:
                try:
                    reasons[index] = _put(change, targets[index], temporaries.get(index))
                    directories.add(targets[index].parent)
                except OSError as error:
                    reasons[index] = explain(error)
            yield index, reasons[index]
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _text(data: bytes | None) -> CaptionText | None:
    return None if data is None else decode(data)


def _put(change: Change, target: Path, temporary: Path | None) -> str | None:
    """Makes the change visible, or says why not."""
    disk = read_caption_bytes(target)
    if disk == change.after:
        return None
    if disk != change.before:
        return "Another program changed it at that moment."
    if temporary is None:
        target.unlink()
    else:
        temporary.replace(target)
    return None


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _target(path: Path) -> Path:
    # A caption that is a link stays one: what it points at is written.
    return Path(os.path.realpath(path)) if path.is_symlink() else path
