"""What the picture beside the list shows: original, result, what differs, and boxes being marked on it.

All of it is made on the thread of the preview; only `Studio.measured` is read from the screen's.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from math import isinf
from pathlib import Path

from PIL import Image, ImageDraw

from loratory.errors import LoratoryError
from loratory.imaging.recipe import Box, Defaults, Recipe
from loratory.terminal.modes import fitted
from loratory.tui.graphics.drawing import Stamp, stamp_of
from loratory.tui.prepare.crop import Boxes, Size

# Originals are kept at most so large while boxes are moved over them; more is not to be seen in a terminal.
_WORKING_PX = 1600
_KEPT_ORIGINALS = 3
_KEPT_MEASURES = 500
# Differences are measured on pictures as they are, up to this: larger ones would take seconds.
_MEASURED_PX = 3000

# Smoothing takes about 5 s for a megapixel.
_SMOOTHED_PX = 512

_OUTSIDE = 0.3  # of the brightness
_MOVING, _OTHER = (255, 176, 0), (64, 144, 224)
_CHECKS = (150, 150, 150), (105, 105, 105)


class Studio:
    """Reads originals and makes what is shown of them. told: called when something was measured."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.told = told
        self.measured: OrderedDict[Hashable, str] = OrderedDict()
        self._originals: OrderedDict[tuple[Path, Stamp], tuple[Image.Image, Size]] = OrderedDict()

    def original(self, path: Path) -> tuple[Image.Image, Size]:
        """(the upright original, shrunk to working size, its true size in px). Raises LoratoryError."""
        from loratory.imaging.reading import read_picture

        key = path, stamp_of(path)
        if key not in self._originals:
            pixels = read_picture(path).pixels
            size = pixels.size
            pixels.thumbnail((_WORKING_PX, _WORKING_PX), Image.Resampling.BOX, reducing_gap=2.0)
            self._originals[key] = pixels, size
            while len(self._originals) > _KEPT_ORIGINALS:
                self._originals.popitem(last=False)
        self._originals.move_to_end(key)
        return self._originals[key]

    def note(self, look: Hashable, text: str) -> None:
        """Keeps what was measured of a look, and tells that there is something."""
        self.measured[look] = text
        while len(self.measured) > _KEPT_MEASURES:
            self.measured.popitem(last=False)
        self.told()


@dataclass(frozen=True)
class OriginalLook:
    """The original, upright; what is transparent shows a check pattern."""

    path: Path
    studio: Studio = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subject(self) -> Hashable:
        return self.path

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def open(self, box_px: Size) -> Image.Image:
        return _on_checks(self.studio.original(self.path)[0], box_px)


@dataclass(frozen=True)
class ResultLook:
    """What a recipe makes of an original, but for the enlarging by a network."""

    path: Path
    recipe: Recipe
    defaults: Defaults
    studio: Studio = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subject(self) -> Hashable:
        return self.path, "result"

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def open(self, box_px: Size) -> Image.Image:
        smooths = self.recipe.clean == "adverse"
        made = _side_by_side(
            _made(self.path, replace(self.recipe, clean="none") if smooths else self.recipe, self.defaults)
        )
        # Smoothing takes seconds for a large picture, which is shown too small for it to be seen.
        return _smoothed(made) if smooths and max(made.size) <= _SMOOTHED_PX else made


@dataclass(frozen=True)
class DifferenceLook:
    """What cleaning and erasing change of a picture, amplified; grey where nothing.

    built: the file that was made by this recipe, None where there is none: it shows what a network did too.
    """

    path: Path
    recipe: Recipe
    defaults: Defaults
    built: Path | None
    studio: Studio = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subject(self) -> Hashable:
        return self

    def stamp(self) -> Stamp:
        return stamp_of(self.built or self.path)

    def open(self, box_px: Size) -> Image.Image:
        from loratory.imaging.clean import difference, psnr
        from loratory.imaging.reading import flattened, read_picture

        # The same cut of the picture, without what this is about.
        plain = replace(self.recipe, clean="none")
        before = _side_by_side(_made(self.path, replace(plain, erase=()), self.defaults))
        where = "changed,"
        if self.built is not None:
            after = flattened(read_picture(self.built).pixels)
        elif self.recipe.clean == "adverse":
            after = _side_by_side(_made(self.path, plain, self.defaults))
            where = "changed," if max(after.size) <= _SMOOTHED_PX else "middle,"
            before = _middle(before)
            after = _smoothed(_middle(after))
        else:
            after = _side_by_side(_made(self.path, self.recipe, self.defaults))
            # What a network enlarges is enlarged plainly here.
            where = "changed," if self.recipe.clean == "none" else "about"
        ratio = psnr(before, after)
        self.studio.note(self, "nothing is changed" if isinf(ratio) else f"{where} PSNR {ratio:.1f} dB")
        return difference(before, after)


@dataclass(frozen=True)
class BoxesLook:
    """The original with the boxes marked on it: outside of a crop it is dim, inside an erased box it is filled."""

    path: Path
    boxes: Boxes
    studio: Studio = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def subject(self) -> Hashable:
        return self.path, "boxes"

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def open(self, box_px: Size) -> Image.Image:
        original, size = self.studio.original(self.path)
        shown = _on_checks(original, box_px)
        boxes = [_scaled(box, size, shown.size) for box in self.boxes.boxes]
        marked = _filled(shown, boxes) if self.boxes.kind == "erase" else _lit(shown, boxes)
        _outline(marked, boxes, self.boxes)
        return marked


def _made(path: Path, recipe: Recipe, defaults: Defaults) -> list[Image.Image]:
    """What comes out of a picture, without enlarging it to the training resolution."""
    from loratory.imaging.apply import apply, lanczos, settle
    from loratory.imaging.reading import read_picture

    settled = settle(replace(recipe, upscale="never"), defaults, "")
    return [_limited(part) for part in apply(read_picture(path).pixels, settled, lanczos)]


def _smoothed(picture: Image.Image) -> Image.Image:
    from loratory.imaging.clean import adverse

    return adverse(picture)


def _middle(picture: Image.Image) -> Image.Image:
    """The middle of a picture, as much as is smoothed while somebody waits."""
    width, height = (min(side, _SMOOTHED_PX) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _limited(picture: Image.Image) -> Image.Image:
    if max(picture.size) > _MEASURED_PX:
        picture.thumbnail((_MEASURED_PX, _MEASURED_PX), Image.Resampling.BOX, reducing_gap=2.0)
    return picture


def _side_by_side(parts: list[Image.Image]) -> Image.Image:
    """Parts of a sheet in a row, all of one height."""
    if len(parts) == 1:
        return parts[0]
    height = max(part.height for part in parts)
    gap = max(2, height // 30)
    parts = [part.resize((max(1, part.width * height // part.height), height)) for part in parts]
    row = Image.new("RGB", (sum(part.width for part in parts) + gap * (len(parts) - 1), height), _CHECKS[0])
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width + gap
    return row


def _lit(shown: Image.Image, boxes: list[Box]) -> Image.Image:
    """Dim but for what is in the boxes."""
    dim = shown.point(lambda level: int(level * _OUTSIDE))
    for box in boxes:
        dim.paste(shown.crop(box), box[:2])
    return dim


def _filled(shown: Image.Image, boxes: list[Box]) -> Image.Image:
    from loratory.imaging.erase import filled

    for box in boxes:
        if box != (0, 0, *shown.size):
            try:
                shown = filled(shown, box)
            except LoratoryError:  # nothing is left around it: the outline says enough
                continue
    return shown.copy()


def _outline(picture: Image.Image, boxes: list[Box], marked: Boxes) -> None:
    """Lines just inside each box; those that keys move are in the colour of what is in hand."""
    draw = ImageDraw.Draw(picture)
    width = max(1, max(picture.size) // 400)
    for index, (left, top, right, bottom) in enumerate(boxes):
        moving = index == marked.index
        first = _MOVING if moving and marked.handle in ("top left", "box") else _OTHER
        last = _MOVING if moving and marked.handle in ("bottom right", "box") else _OTHER
        right, bottom = right - 1, bottom - 1
        draw.line([(right, top), (right, bottom)], last, width)
        draw.line([(left, bottom), (right, bottom)], last, width)
        draw.line([(left, top), (right, top)], first, width)
        draw.line([(left, top), (left, bottom)], first, width)


def _on_checks(pixels: Image.Image, box_px: Size) -> Image.Image:
    """ "RGB", fitted into the box, on a check pattern where it is transparent."""
    size = fitted(pixels.size, box_px)
    picture = pixels.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    light, dark = _CHECKS
    side = max(2, max(size) // 24)
    ground = Image.new("RGB", size, dark)
    draw = ImageDraw.Draw(ground)
    for y in range(0, size[1], side):
        for x in range(y // side % 2 * side, size[0], 2 * side):
            draw.rectangle((x, y, x + side - 1, y + side - 1), light)
    ground.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return ground


def _scaled(box: Box, size: Size, to: Size) -> Box:
    """A box of a picture of `size`, on one of size `to`; at least one px."""
    left, top = (min(box[0] * to[0] // size[0], to[0] - 1)), (min(box[1] * to[1] // size[1], to[1] - 1))
    right, bottom = round(box[2] * to[0] / size[0]), round(box[3] * to[1] / size[1])
    return left, top, max(left + 1, min(to[0], right)), max(top + 1, min(to[1], bottom))
