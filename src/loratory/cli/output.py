"""The two streams: stdout is data, stderr is talk. Nothing else in the program writes to either."""

import json
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

# Markup and emoji codes are off: captions, file names and messages are text, whatever they look like.
talk = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def data(text: str) -> None:
    """A line of the result, for a person or a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def data_json(value: Any) -> None:
    """The result as JSON."""
    data(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def say(text: str, style: str = "") -> None:
    """A sentence beside the result."""
    talk.print(Text(plain(text), style=style))


def plain(text: str) -> str:
    """`text` without control characters (they could move the cursor or set the window's title), newlines kept."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def error(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it."""
    talk.print(Text.assemble(("error: ", "bold red"), plain(message)))
    if hint:
        talk.print(Text(plain(hint)))


def show(renderable: RenderableType) -> None:
    """A table of the result, with an empty line on either side."""
    # Built per call: a test, or a run that lost its terminal, may have put another stream in place.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print()
    console.print(renderable)
    console.print()
