"""What was made from what: `.loratory/prepared.jsonl` in the root of a dataset, one object a line for each original.

A later line about the same original replaces an earlier one; {"folder":…,"name":…,"gone":true} takes it out, and
{"expects":…} tells of captions that are about to be written, null when they are. A line is
appended before the files that it tells of take their places, with the digests of what may still stand there: so a
process may die at any instant, and the next one knows which files are ours.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from loratory.atomic import write_bytes
from loratory.preparation.lines import append_line, encode_line, read_lines

MANIFEST = "prepared.jsonl"

# (mtime in ns, size in bytes, inode) of a file, which change when it does.
Stamp = tuple[int, int, int]
# The folder of the originals as `Record.folder` tells it, and the picture's name in its recipes.
Key = tuple[str, str]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an original tells that decides what is done to it.

    digest: blake2b of its bytes, hex. format: of the bytes, as Pillow names it. size: (width, height) in px, upright.
    transparent: anywhere. plain: upright, opaque, sRGB, 8 bits, unmoving: it can be taken over byte for byte.
    """

    digest: str
    format: str
    size: tuple[int, int]
    transparent: bool = False
    plain: bool = False
    frames: int = 1
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """A file that was made. path: below the root, "/" between its parts. earlier: digests of what stood there before,
    which stands there still if a process died."""

    path: str
    digest: str
    stamp: Stamp
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carried:
    """What a caption was last given.

    text: the file as if nobody had edited it since, None for no file. kept: what it held when its picture was taken
    away, None while there is one. is_from_source: whether there was a caption beside the original. written: what the
    file was really given, where that is another text since edits of another file were taken over; None where it is not.
    """

    text: str | None
    kept: str | None = None
    is_from_source: bool = False
    written: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one original.

    folder: of the originals, below the root or absolute. stamp: of the original. done: the operations that make a
    difference, as `plan.Plan.done` tells them. tags: that tell what was done. captions: by their path below the root.
    """

    folder: str
    name: str
    stamp: Stamp
    look: Look
    done: Mapping[str, Any]
    outputs: tuple[Output, ...] = ()
    tags: tuple[str, ...] = ()
    captions: Mapping[str, Carried] = field(default_factory=dict[str, Carried])

    @property
    def key(self) -> Key:
        return self.folder, self.name


class Manifest:
    """The manifest of the dataset at `root`, which one process at a time writes. Methods raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".loratory" / MANIFEST
        self.records: dict[Key, Record] = {}
        self.expected: dict[str, Any] | None = None
        self._lines = 0
        self.read()

    def read(self) -> None:
        """Reads the file anew."""
        self.records.clear()
        self.expected = None
        self._lines = 0
        for line in read_lines(self.path):
            self._lines += 1
            if "expects" in line:
                self.expected = line["expects"]
                continue
            try:
                key = str(line["folder"]), str(line["name"])
                if line.get("gone"):
                    self.records.pop(key, None)
                else:
                    self.records[key] = _record(line)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # of a newer version, or damaged: the file it tells of counts as somebody else's

    def put(self, record: Record) -> None:
        """Appends what became of an original."""
        self._append(_line(record))
        self.records[record.key] = record

    def expect(self, captions: dict[str, Any] | None) -> None:
        """Appends what is about to become of captions, so that who comes after a process that died can look whether
        it did; None when the records tell it."""
        self._append({"expects": captions})
        self.expected = captions

    def drop(self, key: Key) -> None:
        """Forgets an original and what was made of it."""
        if key in self.records:
            self._append({"folder": key[0], "name": key[1], "gone": True})
            del self.records[key]

    def compact(self) -> None:
        """Writes the file anew where some of its lines are outdated."""
        if self._lines > len(self.records) and self.expected is None:
            write_bytes(self.path, b"".join(encode_line(_line(record)) for _, record in sorted(self.records.items())))
            self._lines = len(self.records)

    def of_folder(self, folder: str) -> dict[str, Record]:
        """The records of one folder of originals, by the picture's name."""
        return {record.name: record for record in self.records.values() if record.folder == folder}

    def owners(self) -> dict[str, Record]:
        """The record of each output, by its path below the root."""
        return {output.path: record for record in self.records.values() for output in record.outputs}

    def move_folders(self, names: Mapping[str, str]) -> None:
        """Follows concept folders that somebody has renamed: old -> new path below the root."""
        for key, record in list(self.records.items()):
            outputs = tuple(replace(one, path=_moved(one.path, names)) for one in record.outputs)
            captions = {_moved(path, names): carried for path, carried in record.captions.items()}
            if outputs != record.outputs or captions != record.captions:
                self.records[key] = replace(record, outputs=outputs, captions=captions)

    def _append(self, line: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, line)
        self._lines += 1


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, following links; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def digest_of(path: Path) -> str:
    """blake2b of a file's bytes, hex; memory does not grow with the file. Raises OSError."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """`digest_of` for bytes in memory."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def text_of(data: bytes | None) -> str | None:
    """The bytes of a caption as text that JSON can hold, whatever they are."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def bytes_of(text: str | None) -> bytes | None:
    """`text_of` back again."""
    return None if text is None else text.encode("utf-8", "surrogateescape")


def spelled(captions: Mapping[str, Carried]) -> dict[str, Any]:
    """The captions of a record as JSON tells them."""
    return {path: [one.text, one.kept, one.is_from_source, one.written] for path, one in captions.items()}


def read_captions(told: Mapping[str, Any]) -> dict[str, Carried]:
    """`spelled` back again."""
    return {str(path): Carried(*carried) for path, carried in told.items()}


def _moved(path: str, names: Mapping[str, str]) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{names.get(folder, folder)}{slash}{name}"


def _line(record: Record) -> dict[str, Any]:
    line = asdict(record)
    line["captions"] = spelled(record.captions)
    line["outputs"] = [[one.path, one.digest, one.stamp, one.earlier] for one in record.outputs]
    return {"v": 1, **line}


def _record(line: Mapping[str, Any]) -> Record:
    look = line["look"]
    return Record(
        str(line["folder"]),
        str(line["name"]),
        _stamp(line["stamp"]),
        Look(
            str(look["digest"]),
            str(look["format"]),
            (int(look["size"][0]), int(look["size"][1])),
            bool(look["transparent"]),
            bool(look["plain"]),
            int(look["frames"]),
            bool(look["whole"]),
        ),
        dict(line["done"]),
        tuple(
            Output(str(path), str(digest), _stamp(stamp), tuple(map(str, earlier)))
            for path, digest, stamp, earlier in line["outputs"]
        ),
        tuple(map(str, line["tags"])),
        read_captions(line["captions"]),
    )


def _stamp(value: Any) -> Stamp:
    mtime_ns, size_bytes, inode = value
    return int(mtime_ns), int(size_bytes), int(inode)
