"""Files of one JSON object a line, to which a process that may die at any instant appends."""

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
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield cast(dict[str, Any], value)


def encode_line(value: Mapping[str, Any]) -> bytes:
    """One line. ASCII: names that are not UTF-8 hold characters that only JSON's own escapes can spell."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Appends a line; what a process that died left unfinished is ended first, and so passed over ever after.

    Raises OSError as the disk does, and then nothing is appended.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + encode_line(value)
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(28, os.strerror(28), str(path))
    finally:
        os.close(descriptor)
