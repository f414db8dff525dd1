"""A picture file as what a terminal shows of it: the slow half, made to run beside the user interface."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from textual.strip import Strip

from loratory.errors import LoratoryError
from loratory.terminal.modes import Graphics, fitted
from loratory.tui.graphics import half_block, kitty, sixel
from loratory.tui.graphics.half_block import Colours

if TYPE_CHECKING:
    from PIL import Image

# More pixels on a side would cost more to send than they show.
_MAX_SIDE_PX = 1600
_MAX_SIDE_OVER_SSH_PX = 640

# (modification time in ns, size in bytes), or None of a file that is not there.
Stamp = tuple[int, int] | None


class Source(Hashable, Protocol):
    """A picture that is not simply a file, such as what would be made of one. Equal ones look the same while their
    stamp does."""

    @property
    def name(self) -> str:
        """What it is called where it cannot be shown."""
        ...

    @property
    def subject(self) -> Hashable:
        """The same for sources that may stand for each other until the right one is drawn."""
        ...

    def stamp(self) -> Stamp:
        """What changes when its look does."""
        ...

    def open(self, box_px: tuple[int, int]) -> Image.Image:
        """The picture as "RGB", to be fitted into (width, height) px. Raises LoratoryError and what Pillow raises."""
        ...


@dataclass(frozen=True)
class Drawing:
    """A picture (or the reason why there is none) as cells, and what must be written beside them.

    strips: exactly the size that was asked for, margins without a style. `transmission`: kitty's, written once, before
    the cells. `overlay`: sixel's, drawn at cell `overlay_at` (column, row) of the strips each time after them.
    """

    strips: list[Strip]
    stamp: Stamp
    size_bytes: int = 0  # roughly, of memory
    number: int = 0  # kitty's name for the picture; 0 for none
    transmission: str = field(default="", repr=False)
    overlay: str = field(default="", repr=False)
    overlay_at: tuple[int, int] = (0, 0)


def stamp_of(path: Path) -> Stamp:
    """What changes when the file does."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def draw(
    source: Path | Source, columns: int, rows: int, graphics: Graphics, colours: Colours, *, on_light: bool = False
) -> Drawing:
    """A picture for `columns` x `rows` cells; never raises for what its file is."""
    from loratory.imaging.pixels import UnreadablePicture, open_rgb  # takes numpy and Pillow along

    stamp = stamp_of(source) if isinstance(source, Path) else source.stamp()
    try:
        if isinstance(source, Path):
            picture = open_rgb(source)
        else:
            cell = (1, 2) if graphics.mode in ("half", "ascii") else graphics.cell_px
            picture = source.open((columns * cell[0], rows * cell[1]))
        return _drawn(picture, stamp, columns, rows, graphics, colours, on_light)
    except UnreadablePicture as unreadable:
        return notice(f"{source.name}: {unreadable.reason}", columns, rows, stamp)
    except LoratoryError as error:
        return notice(f"{source.name}: {error.message}", columns, rows, stamp)
    except (OSError, ValueError, MemoryError) as error:
        return notice(f"{source.name}: cannot be shown ({error or type(error).__name__})", columns, rows, stamp)


def notice(text: str, columns: int, rows: int, stamp: Stamp = None) -> Drawing:
    """Words instead of a picture, wrapped and centred; control characters are made visible."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    lines = [
        piece
        for line in textwrap.wrap(plain, columns, break_long_words=False)
        for piece in (chop_cells(line, columns) if cell_len(line) > columns else [line])
    ]
    lines = [line for line in lines if cell_len(line) <= columns][:rows]
    blank = Strip([Segment(" " * columns)], columns)
    above = (rows - len(lines)) // 2
    middle = [_centred(line, columns) for line in lines]
    return Drawing([blank] * above + middle + [blank] * (rows - above - len(lines)), stamp)


def _centred(line: str, columns: int) -> Strip:
    space = columns - cell_len(line)
    return Strip([Segment(" " * (space // 2) + line + " " * (space - space // 2))], columns)


def _drawn(
    picture: Image.Image,
    stamp: Stamp,
    columns: int,
    rows: int,
    graphics: Graphics,
    colours: Colours,
    on_light: bool,
) -> Drawing:
    if graphics.mode in ("half", "ascii"):
        strips = half_block.strips(
            picture, columns, rows, colours if graphics.mode == "half" else "none", on_light=on_light
        )
        # A segment is a tuple, a string and a style that several share.
        return Drawing(strips, stamp, sum(300 * len(strip) for strip in strips))
    cell_width, cell_height = graphics.cell_px
    box = (columns * cell_width, rows * cell_height)
    width, height = fitted(picture.size, box)
    used = min(columns, -(-width // cell_width)), min(rows, -(-height // cell_height))
    if graphics.mode == "sixel":
        encoded = sixel.encode(sixel.quantized(_resized(picture, width, height)))
        blank = Strip([Segment(" " * columns)], columns)
        at = (columns - used[0]) // 2, (rows - used[1]) // 2
        return Drawing([blank] * rows, stamp, len(encoded), overlay=encoded, overlay_at=at)
    used = min(used[0], len(kitty.MARKS)), min(used[1], len(kitty.MARKS))
    longest = _MAX_SIDE_OVER_SSH_PX if graphics.over_ssh else _MAX_SIDE_PX
    # Not enlarged here: the terminal does that, and better than more bytes would.
    scale = min(1.0, longest / max(width, height), max(picture.size) / max(width, height))
    small = _resized(picture, max(1, round(width * scale)), max(1, round(height * scale)))
    png = io.BytesIO()
    small.save(png, "PNG", compress_level=6 if graphics.over_ssh else 1)
    number = kitty.new_number()
    sent = kitty.transmit(number, png.getvalue(), *used, in_tmux=graphics.in_tmux)
    strips = kitty.strips(number, *used, columns, rows)
    return Drawing(strips, stamp, len(sent) + 12 * columns * rows, number=number, transmission=sent)


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    from PIL import Image

    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
