"""The two streams: stdout is data, stderr is talk. Nothing else in the program writes to either."""

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from loratory.runs.signs import SIGNS

# What stands in for our own punctuation where the terminal has only ASCII.
_ASCII = str.maketrans(
    {"·": "-", "“": '"', "”": '"', "’": "'", "…": "...", "–": "-", "→": "->"}
    | {sign.glyph: sign.letter for sign in SIGNS.values()}
    | {"\N{REPLACEMENT CHARACTER}": "?"}
)


class _Talk(Console):
    def on_broken_pipe(self) -> None:
        # The default ends the program. Nobody listens any more (`2>&1 | head`), but the work goes on.
        self.quiet = True


# Markup and emoji codes are off: captions, file names and messages are text, whatever they look like.
talk = _Talk(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def redraws() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return talk.is_terminal and not talk.is_dumb_terminal


def data(text: str) -> None:
    """A line of the result, for a person or a pipe."""
    sys.stdout.write(_fitting(text, sys.stdout.encoding) + "\n")
    sys.stdout.flush()


def data_bytes(data: bytes) -> None:
    """A part of the result as it is, such as a patch of captions that are no UTF-8. For pipes and files."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def data_json(value: Any, *, stream: TextIO | None = None, indent: int | None = 1) -> None:
    """The result as JSON; with `indent` None on one line."""
    to = stream if stream is not None else sys.stdout
    separators = (",", ":") if indent is None else None
    ascii_only = not _is_unicode(to.encoding)
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators, default=str)
    # JSON itself has only the first 32 control characters escaped; a terminal takes orders by others too.
    to.write("\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n")) + "\n")
    to.flush()


def say(text: str, style: str = "") -> None:
    """A sentence beside the result."""
    _tell((text, style))


def error(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it."""
    _tell(("error: ", "bold red"), (message, ""))
    if hint:
        _tell((hint, ""))


@contextmanager
def working(text: str) -> Generator[Callable[[str], None]]:
    """Shows on a terminal, until it is left, that something is being done; call what it gives with a new text."""
    status = talk.status(spelled(text), spinner="dots" if _is_unicode(talk.encoding) else "line")

    def tell(now: str) -> None:
        with suppress(OSError):
            status.update(spelled(one_line(now)))

    # A terminal may go at any time, and the work goes on without it.
    with suppress(OSError):
        status.start()
    try:
        yield tell
    finally:
        with suppress(OSError):
            status.stop()


@contextmanager
def counting(what: str, unit: int = 1) -> Generator[Callable[[int, int], None]]:
    """On a terminal, how far a job is and how long it will take; call what it gives with (done, in all).

    unit: of the numbers shown, such as 10**6 where bytes are given and megabytes said.
    """
    began_s = told_s = time.monotonic()
    with working(what) as tell:

        def at(done: int, total: int) -> None:
            nonlocal told_s
            now_s = time.monotonic()
            taken_s = now_s - began_s
            # A line that changes more often than it can be read only costs time, and the first second tells nothing.
            if taken_s >= 1 and now_s - told_s >= 0.2 and done:
                told_s = now_s
                tell(f"{what}: {done // unit} of {total // unit} · ETA {taken_s * (total - done) / done:.0f} s")

        yield at


def _escaped(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def is_unicode() -> bool:
    """Whether the result can hold characters beyond ASCII."""
    return _is_unicode(sys.stdout.encoding)


def show(renderable: RenderableType) -> None:
    """A table of the result."""
    # Built per call: a test, or a run that lost its terminal, may have put another stream in place.
    Console(markup=False, emoji=False, highlight=False).print(renderable)


def plain(text: str) -> str:
    """`text` without control characters (they could move the cursor or set the window's title), newlines kept."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str) -> str:
    """`plain` text on one line: what comes from a file cannot pass for a line of ours."""
    return plain(" ".join(text.split()))


def spelled(text: str) -> str:
    """`text` in the characters that the terminal has."""
    return _fitting(text, talk.encoding)


def _tell(*parts: tuple[str, str]) -> None:
    styled = talk.is_terminal  # in log.txt, where a run that lost its terminal writes, colours are noise
    pieces = [(spelled(plain(text)), style if styled else "") for text, style in parts]
    with suppress(OSError):  # the terminal has gone, or the disk behind a redirection is full: the work goes on
        # A terminal by itself breaks lines inside words. What may be copied, a command or a path, must stay in one
        # piece, and so must every line of a pipe or a log.
        text = Text.assemble(*pieces)
        whole = (
            "`" in text.plain
            or text.plain.startswith("$ ")
            or any(len(word) > talk.width // 2 for word in text.plain.split())
        )
        talk.print(text, soft_wrap=whole or not styled)


def _fitting(text: str, encoding: str | None) -> str:
    return text if _is_unicode(encoding) else text.translate(_ASCII)


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "utf-8").lower().replace("-", "").startswith("utf")
