"""A screen of ASCII characters, for terminals and fonts that have no others."""

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_PLAIN = str.maketrans("“”‘’·•→›…×–—│─▶✓●○\u00a0", "\"\"''-*>>~x--|->v*o ")


class AsciiOnly(LineFilter):
    """Writes every character as ASCII of the same width, right before it is sent to the terminal."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if control or text.isascii() else Segment(ascii_text(text), style)
            for segment in segments
            for text, style, control in (segment,)
        ]


def ascii_text(text: str) -> str:
    """`text` with quotation marks, dashes and lines as ASCII has them, and a ? a cell for all that it lacks."""
    return "".join(c if c.isascii() else "?" * cell_len(c) for c in text.translate(_PLAIN))
