"""Pictures from characters: two pixels a cell in half blocks, or one brightness a cell in ASCII."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from rich.color import Color, ColorSystem, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from loratory.terminal.modes import fitted

if TYPE_CHECKING:
    from PIL import Image  # and numpy: with both at hand only when there is a picture, the program starts sooner

Colours = Literal["truecolor", "256", "16", "none"]

_SYSTEMS = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT, "16": ColorSystem.STANDARD}

# From no ink to much, as it looks on a dark ground.
_RAMP = " .:-=+*#%@"

# The six levels of the colour cube of 256-colour terminals (indices 16 to 231).
_CUBE_LEVELS = (0, 95, 135, 175, 215, 255)


def strips(image: Image.Image, width: int, height: int, colours: Colours, *, on_light: bool = False) -> list[Strip]:
    """An RGB picture, centred, as `height` strips of `width` cells, its proportions kept (cells taken as 1:2).

    Margins are blank cells without a style, and the last line of an odd picture has no ground: both for the widget to
    fill in. "256" and "16" use only the colour cube and the greys of 256-colour terminals, of which Rich makes the 16;
    "none" draws in ASCII, for dark text on a light ground with `on_light`.
    """
    if colours == "none":
        return _ascii(image, width, height, on_light)
    columns, pixel_rows = fitted(image.size, (width, 2 * height))
    pixels = _shrunk(image, columns, pixel_rows)
    if colours != "truecolor":
        pixels = _to_palette(pixels)
    rows = (pixel_rows + 1) // 2
    left = (width - columns) // 2
    lines = [_line(pixels, row, width, left, _SYSTEMS[colours]) for row in range(rows)]
    return _centred(lines, width, height)


def _line(pixels: Image.Image, row: int, width: int, left: int, system: ColorSystem) -> Strip:
    import numpy as np

    columns = pixels.width
    upper, lower = 2 * row, min(2 * row + 2, pixels.height)
    packed = np.asarray(pixels.crop((0, upper, columns, lower))).astype(np.int64) @ np.array([65536, 256, 1])
    # An odd picture ends within a cell: below it the ground shows.
    below = packed[1] if lower - upper == 2 else np.full(columns, -1)
    changes = np.flatnonzero((np.diff(packed[0]) != 0) | (np.diff(below) != 0)) + 1
    starts = [0, *changes.tolist()]
    ends = [*starts[1:], columns]
    segments = [Segment(" " * left)] if left else []
    for start, end in zip(starts, ends, strict=True):
        glyph, style = _cell(int(packed[0, start]), int(below[start]), system)
        segments.append(Segment(glyph * (end - start), style))
    if right := width - columns - left:
        segments.append(Segment(" " * right))
    return Strip(segments, width)


@lru_cache(16384)
def _cell(above: int, below: int, system: ColorSystem) -> tuple[str, Style]:
    ground = None if below < 0 else _colour(below)
    style = Style.from_color(None if above == below else _colour(above), ground)
    # The style keeps the codes it is made into: made here, they cost the user interface nothing when it paints.
    Strip.render_ansi(style, system)
    return (" " if above == below else "▀"), style


def _colour(rgb: int) -> Color:
    """A true colour from 0xRRGGBB, without the parsing that Rich's own makers do."""
    return Color("", ColorType.TRUECOLOR, triplet=ColorTriplet(rgb >> 16, rgb >> 8 & 255, rgb & 255))


def _to_palette(pixels: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    levels = np.array(_CUBE_LEVELS)
    values = np.asarray(pixels).astype(np.int64)
    cube = levels[np.abs(values[..., None] - levels).argmin(-1)]
    mean = values.mean(-1)
    grey = np.clip(np.rint((mean - 8) / 10), 0, 23).astype(np.int64) * 10 + 8
    greys = np.repeat(grey[..., None], 3, -1)
    nearer = ((greys - values) ** 2).sum(-1) < ((cube - values) ** 2).sum(-1)
    return Image.fromarray(np.where(nearer[..., None], greys, cube).astype(np.uint8))


def _ascii(image: Image.Image, width: int, height: int, on_light: bool) -> list[Strip]:
    columns, pixel_rows = fitted(image.size, (width, 2 * height))
    brightness = _shrunk(image.convert("L"), columns, (pixel_rows + 1) // 2)
    ramp = _RAMP[::-1] if on_light else _RAMP
    table = bytes(ord(ramp[level * len(ramp) // 256]) for level in range(256))
    text = brightness.tobytes().translate(table).decode("ascii")
    lines = [
        Strip([Segment(text[start : start + columns].center(width))], width) for start in range(0, len(text), columns)
    ]
    return _centred(lines, width, height)


def _shrunk(image: Image.Image, width: int, height: int) -> Image.Image:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)


def _centred(lines: list[Strip], width: int, height: int) -> list[Strip]:
    blank = Strip([Segment(" " * width)], width)
    above = (height - len(lines)) // 2
    return [blank] * above + lines + [blank] * (height - above - len(lines))
