"""Changes of captions as a patch on stdout, for a person to read or for `git apply` and `patch -p1` to take."""

import sys
from collections.abc import Sequence
from pathlib import Path

from loratory.cli import output
from loratory.tags.diff import unified
from loratory.tags.journal import Change
from loratory.tags.text import decode


def print_patch(changes: Sequence[Change], directory: Path) -> None:
    """Prints what `changes` (all below `directory`) do, as a patch that is applied in `directory`.

    On a terminal the captions as text, in a pipe or a file byte for byte, whatever their encoding.
    """
    if sys.stdout.isatty():
        for change in changes:
            name = change.path.relative_to(directory).as_posix()
            text = unified(name, _text(change.before), _text(change.after))
            output.data(output.plain(text.rstrip("\n") or f"{name}: the text stays, the encoding changes"))
        return
    for change in changes:
        patch = unified(change.path.relative_to(directory).as_posix(), _raw(change.before), _raw(change.after))
        output.data_bytes(patch.encode("utf-8", "surrogateescape"))


def _text(data: bytes | None) -> str | None:
    return None if data is None else decode(data).text


def _raw(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "surrogateescape")
