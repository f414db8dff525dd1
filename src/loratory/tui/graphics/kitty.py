"""kitty's graphics protocol with Unicode placeholders: the picture is sent once, its cells are characters.

A cell is U+10EEEE with three combining marks that give its row and column in the picture and the first byte of the
picture's number; the colour of its text, one of the 256, is the last byte. So it goes wherever text goes: through a
scroll, through tmux, through a link that changes 24-bit colours into others.
Source: https://sw.kovidgoyal.net/kitty/graphics-protocol/.
"""

import base64
import secrets
from itertools import cycle

from rich.color import Color, ColorType
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from loratory.terminal.tmux import passthrough

PLACEHOLDER = "\U0010eeee"

# kitty's rowcolumn-diacritics.txt: the marks above a letter (class 230) of Unicode 6.0 that no normalization fuses.
_MARK_RANGES = (
    "0305 030D-030E 0310 0312 033D-033F 0346 034A-034C 0350-0352 0357 035B 0363-036F 0483-0487 0592-0595 0597-0599 "
    "059C-05A1 05A8-05A9 05AB-05AC 05AF 05C4 0610-0617 0657-065B 065D-065E 06D6-06DC 06DF-06E2 06E4 06E7-06E8 "
    "06EB-06EC 0730 0732-0733 0735-0736 073A 073D 073F-0741 0743 0745 0747 0749-074A 07EB-07F1 07F3 0816-0819 "
    "081B-0823 0825-0827 0829-082D 0951 0953-0954 0F82-0F83 0F86-0F87 135D-135F 17DD 193A 1A17 1A75-1A7C 1B6B "
    "1B6D-1B73 1CD0-1CD2 1CDA-1CDB 1CE0 1DC0-1DC1 1DC3-1DC9 1DCB-1DCC 1DD1-1DE6 1DFE 20D0-20D1 20D4-20D7 20DB-20DC "
    "20E1 20E7 20E9 20F0 2CEF-2CF1 2DE0-2DFF A66F A67C-A67D A6F0-A6F1"
)


def _marks() -> str:
    bounds = [[int(end, 16) for end in entry.split("-")] for entry in _MARK_RANGES.split()]
    return "".join(chr(code) for pair in bounds for code in range(pair[0], pair[-1] + 1))


MARKS = _marks()

_CHUNK = 4096  # base64 characters an escape sequence may carry

# The first byte tells this program's pictures from those of others in the same terminal. The last is a palette index
# beyond the 16 that themes change.
_FIRST_BYTE = 1 + secrets.randbelow(len(MARKS) - 1)
_LAST_BYTES = cycle(range(16, 256))


def new_number() -> int:
    """A number for a picture, of 32 bits, that none of this program's last 239 has."""
    return _FIRST_BYTE << 24 | next(_LAST_BYTES)


def transmit(number: int, png: bytes, columns: int, rows: int, *, in_tmux: bool) -> str:
    """Sends a PNG and makes a virtual placement of `columns` x `rows` cells for it; the terminal stays silent.

    The terminal fits the picture into the cells, its proportions kept. In tmux every chunk is wrapped by itself, as
    tmux drops a sequence of more than 1 MB.
    """
    data = base64.standard_b64encode(png).decode("ascii")
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    sequences: list[str] = []
    for index, chunk in enumerate(chunks):
        keys = f"a=T,U=1,q=2,f=100,t=d,i={number},c={columns},r={rows}," if index == 0 else "q=2,"
        sequences.append(f"\x1b_G{keys}m={int(index < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(passthrough(sequence) if in_tmux else sequence for sequence in sequences)


def delete(number: int, *, in_tmux: bool) -> str:
    """Removes a picture, and its data, from the terminal."""
    sequence = f"\x1b_Ga=d,d=I,q=2,i={number}\x1b\\"
    return passthrough(sequence) if in_tmux else sequence


def strips(number: int, columns: int, rows: int, width: int, height: int) -> list[Strip]:
    """The cells of a sent picture, centred in `height` strips of `width` cells; margins have no style."""
    index, first_byte = number & 255, MARKS[number >> 24]
    # With a triplet, Textual leaves the colour as it is; without, it would write the true colour in its place.
    style = Style.from_color(Color("", ColorType.EIGHT_BIT, index, Color.from_ansi(index).get_truecolor()))
    left, above = (width - columns) // 2, (height - rows) // 2
    blank = Strip([Segment(" " * width)], width)
    lines: list[Strip] = []
    for row in range(rows):
        cells = "".join(PLACEHOLDER + MARKS[row] + MARKS[column] + first_byte for column in range(columns))
        margins = Segment(" " * left), Segment(" " * (width - columns - left))
        lines.append(Strip([margins[0], Segment(cells, style), margins[1]], width))
    return [blank] * above + lines + [blank] * (height - above - rows)
