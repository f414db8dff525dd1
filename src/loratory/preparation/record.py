"""What became of one original, as an object and as JSON tells it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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


def digest_if_readable(path: Path) -> str:
    """`digest_of`, and "" for a file that is not there or cannot be read."""
    try:
        return digest_of(path)
    except OSError:
        return ""


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


def elsewhere(record: Record, names: Mapping[str, str]) -> Record:
    """A record with its files in folders of other names."""
    outputs = tuple(replace(one, path=_moved(one.path, names)) for one in record.outputs)
    return replace(
        record, outputs=outputs, captions={_moved(path, names): one for path, one in record.captions.items()}
    )


def _moved(path: str, names: Mapping[str, str]) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{names.get(folder, folder)}{slash}{name}"


def told(record: Record) -> dict[str, Any]:
    """A record as JSON tells it."""
    line = asdict(record)
    line["captions"] = spelled(record.captions)
    line["outputs"] = [[one.path, one.digest, one.stamp, one.earlier] for one in record.outputs]
    return {"v": 1, **line}


def read_record(line: Mapping[str, Any]) -> Record:
    """`told` back again. Raises KeyError, TypeError, ValueError or AttributeError for what is none."""
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
