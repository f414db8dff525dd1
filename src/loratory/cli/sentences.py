"""Sentences and bars of a result: wrapped for a person, one line each for a pipe."""

import shutil
import sys
import textwrap

from loratory.cli import output

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sentence(text: str, indent: str = "") -> None:
    """A sentence of the result; on a terminal it is broken between words, further lines by `indent` to the right."""
    text = output.one_line(text)
    if not sys.stdout.isatty():
        output.data(text)
        return
    width = max(20, min(shutil.get_terminal_size().columns, 120))
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for line in lines or [""]:
        output.data(line)


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """A bar of at most `width` cells for a share from 0 to 1; in ASCII where the result has no other characters."""
    share = min(max(share, 0.0), 1.0)
    if ascii_only or not output.is_unicode():
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
