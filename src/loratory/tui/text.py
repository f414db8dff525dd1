"""The one way for text of others (tags, captions, file names, messages) onto the screen: plain, never markup."""

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content

# What stands for a character that would move the cursor, ring the bell or turn the writing direction around.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def printable(text: str) -> str:
    """`text` on one line, with every character that is none to be seen replaced."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        " " if c in "\n\t" else _REPLACEMENT if not c.isprintable() or c in _BIDI or "\ud800" <= c <= "\udfff" else c
        for c in text
    )


def plain(text: str, style: str = "") -> Content:
    """Text of others as content: markup in it is shown, not obeyed."""
    return Content(printable(text)).stylize(style) if style else Content(printable(text))


def fitted(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` as exactly `width` cells: cut with an ellipsis, or padded."""
    if width <= 0:
        return ""
    text = printable(text)
    if cell_len(text) > width:
        text = set_cell_size(text, width - cell_len(ellipsis)) + ellipsis if width > cell_len(ellipsis) else text
    return set_cell_size(text, width)


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
    vertical: str = "│"
    horizontal: str = "─"
    dot: str = "·"
    ellipsis: str = "…"


ASCII = Glyphs(
    cursor=">",
    reviewed="v",
    untouched=".",
    selected="*",
    untagged="o",
    arrow="->",
    prompt=">",
    vertical="|",
    horizontal="-",
    dot="-",
    ellipsis="~",
)
UNICODE = Glyphs()
