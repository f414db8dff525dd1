"""Files of one JSON object a line, to which a process that may die at any instant appends."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, none where there is no file. Lines that are torn or damaged are passed over.

    Raises OSError as the disk does.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for line in file:
            if (value := decode_line(line)) is not None:
                yield value


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None for one that is torn or damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def encode_line(value: Mapping[str, Any]) -> bytes:
    """One line. ASCII: names that are not UTF-8 hold characters that only JSON's own escapes can spell."""
    return encode(value) + b"\n"


def encode(value: Any) -> bytes:
    """A value as `encode_line` writes it."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def append_line(path: Path, value: Mapping[str, Any] | bytes) -> int:
    """Appends a line, encoded or to be encoded, and tells at which byte it begins.

    What a process that died left unfinished is ended first, and so passed over ever after. Raises OSError
    as the disk does, and then nothing is appended.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = value if isinstance(value, bytes) else encode_line(value)
        data = b"\n" + line if torn else line
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return size + torn
    finally:
        os.close(descriptor)
