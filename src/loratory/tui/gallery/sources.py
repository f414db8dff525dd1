"""Pictures made of pictures: what is other in one of them, and many on one sheet."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.errors import LoratoryError
from loratory.tui.graphics.drawing import Stamp, stamp_of

if TYPE_CHECKING:
    from PIL import Image

# So many times as large as it is, a difference is shown: most are faint.
ENLARGED = 3
_LEAST_LABELLED_PX = 56
_GAP_PX = 2
_MARK, _GROUND, _INK = (230, 160, 60), (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Difference:
    """How far two pictures are apart, pixel by pixel and channel by channel; black where they are the same."""

    first: Path
    second: Path

    @property
    def name(self) -> str:
        return f"{self.first.name} and {self.second.name}"

    @property
    def subject(self) -> Hashable:
        return self

    def stamp(self) -> Stamp:
        return _stamp((self.first, self.second))

    def open(self, box_px: tuple[int, int]) -> "Image.Image":
        from PIL import ImageChops

        ours, theirs = _pair(self.first, self.second)
        return ImageChops.difference(ours, theirs).point([min(255, value * ENLARGED) for value in range(256)] * 3)


def psnr_db(first: Path, second: Path) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in decibels; infinite where they are the same.

    Raises LoratoryError where sizes differ or a file cannot be read.
    """
    import numpy as np

    ours, theirs = (np.asarray(picture, dtype=np.float64) for picture in _pair(first, second))
    error = float(np.mean((ours - theirs) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@dataclass(frozen=True)
class Thumbnails:
    """Pictures on one sheet, in reading order, each with a label; the one that is looked at in a frame."""

    pictures: tuple[tuple[Path, str], ...]
    here: int

    @property
    def name(self) -> str:
        return f"{len(self.pictures)} pictures"

    @property
    def subject(self) -> Hashable:
        return self.pictures

    def stamp(self) -> Stamp:
        return _stamp([path for path, _ in self.pictures])

    def open(self, box_px: tuple[int, int]) -> "Image.Image":
        from PIL import Image, ImageDraw

        columns = _columns(len(self.pictures), box_px)
        rows = -(-len(self.pictures) // columns)
        cell_px = max(4, min(box_px[0] // columns, box_px[1] // rows, 256))
        sheet = Image.new("RGB", (columns * cell_px, rows * cell_px), _GROUND)
        draw = ImageDraw.Draw(sheet)
        inner_px = max(2, cell_px - 2 * _GAP_PX)
        for index, (path, label) in enumerate(self.pictures):
            x, y = index % columns * cell_px, index // columns * cell_px
            if index == self.here:
                draw.rectangle((x, y, x + cell_px - 1, y + cell_px - 1), fill=_MARK)
            small = _thumbnail(path, stamp_of(path), inner_px)
            if small is not None:
                sheet.paste(small, (x + (cell_px - small.width) // 2, y + (cell_px - small.height) // 2))
            if cell_px >= _LEAST_LABELLED_PX:
                draw.text((x + _GAP_PX + 2, y + _GAP_PX + 1), label, fill=_INK, stroke_width=2, stroke_fill=_GROUND)
        return sheet


def _columns(count: int, box_px: tuple[int, int]) -> int:
    """So many columns that the cells are as large as they can be."""
    return max(range(1, count + 1), key=lambda columns: min(box_px[0] // columns, box_px[1] // -(-count // columns)))


@lru_cache(maxsize=512)
def _thumbnail(path: Path, stamp: Stamp, side_px: int) -> "Image.Image | None":
    """stamp: only for the cache, so that a file that was drawn again is read again."""
    from PIL import Image, ImageOps

    try:
        return ImageOps.contain(_read(path), (side_px, side_px), Image.Resampling.BICUBIC)
    except LoratoryError:
        return None


def _pair(first: Path, second: Path) -> "tuple[Image.Image, Image.Image]":
    ours, theirs = _read(first), _read(second)
    if ours.size != theirs.size:
        raise LoratoryError(f"The sizes differ: {ours.width}x{ours.height} and {theirs.width}x{theirs.height} pixels.")
    return ours, theirs


def _read(path: Path) -> "Image.Image":
    from loratory.imaging.pixels import UnreadablePicture, open_rgb

    try:
        return open_rgb(path)
    except UnreadablePicture as error:
        raise LoratoryError(f"{path.name}: {error.reason}") from error


def _stamp(paths: Sequence[Path]) -> Stamp:
    stamps = [stamp for path in paths if (stamp := stamp_of(path)) is not None]
    return (max(time for time, _ in stamps), sum(size for _, size in stamps)) if stamps else None


def settings_of(path: Path) -> dict[str, str]:
    """The text that a PNG carries; LoratoryError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except (OSError, ValueError, SyntaxError) as error:
        raise LoratoryError(f"{path} cannot be read: {error}.") from error
