"""The one way for text of others (tags, captions, file names, messages) onto the screen: plain, never markup."""

import re
import textwrap
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.content import Content
from textual.filter import LineFilter

# What stands for a character that would move the cursor, ring the bell or turn the writing direction around.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_ACTING = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{''.join(sorted(_BIDI))}]")


def printable(text: str) -> str:
    """`text` on one line, with every character that is none to be seen replaced."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_seen(c) for c in text)


def _seen(c: str) -> str:
    if c.isspace():
        return c if c == "\N{NO-BREAK SPACE}" else " "
    return c if c.isprintable() and c not in _BIDI and not "\ud800" <= c <= "\udfff" else _REPLACEMENT


def plain(text: str, style: str = "") -> Content:
    """Text of others as content: markup in it is shown, not obeyed."""
    return Content(printable(text)).stylize(style) if style else Content(printable(text))


def fitted(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` as exactly `width` cells: cut with an ellipsis, or padded."""
    if width <= 0:
        return ""
    # No more than can be seen, marks that take no cell included: a caption may be a tag of a megabyte.
    text = printable(text[: 16 * width + 16])
    if cell_len(text) > width:
        text = set_cell_size(text, width - cell_len(ellipsis)) + ellipsis if width > cell_len(ellipsis) else text
    return set_cell_size(text, width)


class Harmless(LineFilter):
    """Takes what acts on a terminal out of every line before it is sent there.

    Fields in which a person types hold their text as it is, and would send its escape sequences along. Such characters
    are no cells wide, so that nothing moves when they are left out.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            Segment(_ACTING.sub(_without_width, text), style) if not control and _ACTING.search(text) else segment
            for segment in segments
            for text, style, control in (segment,)
        ]


def _without_width(found: re.Match[str]) -> str:
    return _REPLACEMENT if cell_len(found[0]) else ""


def wrapped(text: str, width: int) -> list[str]:
    """Text as lines of at most `width` cells, broken between words where that goes."""
    lines = textwrap.wrap(printable(text), max(1, width), break_on_hyphens=False)
    # Characters of two cells make a line wider than it has characters.
    return [piece for line in lines for piece in chop_cells(line, max(2, width))]


def number(count: int) -> str:
    """A count in the space of four or five characters: 812, 1.2k, 64k, 1.8M."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if count >= size:
            short = count / size
            return f"{short:.1f}{unit}" if short < 10 else f"{short:.0f}{unit}"
    return str(count)


@dataclass(frozen=True)
class Glyphs:
    """The signs of the screen; each state has a sign of its own, so that colour is never all that tells it."""

    cursor: str = "▶"
    reviewed: str = "✓"
    finding: str = "!"
    untouched: str = "·"
    selected: str = "●"
    untagged: str = "○"
    arrow: str = "→"
    prompt: str = "›"
    dot: str = "·"
    ellipsis: str = "…"
    bar: str = "▇"
    plus_minus: str = "±"


ASCII = Glyphs(
    cursor=">",
    reviewed="v",
    untouched=".",
    selected="*",
    untagged="o",
    arrow="->",
    prompt=">",
    dot="-",
    ellipsis="~",
    bar="#",
    plus_minus="+-",
)
UNICODE = Glyphs()
