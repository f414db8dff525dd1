"""Doing what a recipe says: from the pixels of an original to the pictures that are written."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, sqrt

import numpy as np
from PIL import Image

from loratory.errors import LoratoryError
from loratory.imaging.background import colour_name
from loratory.imaging.clean import adverse
from loratory.imaging.erase import filled
from loratory.imaging.reading import flattened
from loratory.imaging.recipe import BACKGROUNDS, Box, Clean, Defaults, Format, Recipe, background_colour

Size = tuple[int, int]
Enlarge = Callable[[Image.Image, Size], Image.Image]

# Below this, what is transparent is rounded corners and soft edges, and nobody would call its colour the background.
_BACKGROUND_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Settled:
    """A recipe with nothing left open; two that are equal make the same pictures and tags from the same original.

    background: (red, green, blue) behind transparency. background_tag: what the caption is told about it, "" for
    nothing. erase, crop, split, flip, clean, tags: as in `Recipe`; crop is None where there is a split. clean_scale:
    1.0 where nothing is shrunk by it. max_side_px: 0 for no limit. resolution: (width, height) of the training area up
    to which pictures are upscaled, None where they are not. upscaler: "" where none is needed. format: of what is
    written.
    """

    background: tuple[int, int, int]
    background_tag: str
    erase: tuple[Box, ...]
    crop: Box | None
    split: tuple[Box, ...]
    flip: bool
    clean: Clean
    clean_scale: float
    max_side_px: int
    resolution: Size | None
    upscaler: str
    format: Format
    tags: tuple[str, ...]


def settle(recipe: Recipe, defaults: Defaults, turn: str) -> Settled:
    """The recipe with every open choice made from the defaults.

    turn: the background whose turn it is, a name of `BACKGROUNDS` or "#rrggbb", used where the recipe names none; ""
    (for a picture that shows no background) is white without a tag. Raises LoratoryError for an unknown background.
    """
    background = recipe.background or turn
    colour = background_colour(background) if background else (255, 255, 255)
    word = background if background in BACKGROUNDS else colour_name(colour) if background else ""
    upscale = (defaults.upscale if recipe.upscale is None else recipe.upscale) == "auto"
    enlarges = upscale or recipe.clean in ("upscale", "downscale")
    return Settled(
        background=colour,
        background_tag=f"{word} background" if word and defaults.background_tags else "",
        erase=recipe.erase,
        crop=None if recipe.split else recipe.crop,
        split=recipe.split,
        flip=recipe.flip,
        clean=recipe.clean,
        clean_scale=recipe.clean_scale if recipe.clean == "downscale" else 1.0,
        max_side_px=defaults.max_side_px if recipe.max_side_px is None else recipe.max_side_px,
        resolution=defaults.resolution if upscale else None,
        upscaler=defaults.upscaler if enlarges else "",
        format=defaults.format if recipe.format is None else recipe.format,
        tags=recipe.tags,
    )


def as_text(settled: Settled) -> str:
    """One line of JSON that is the same for equal recipes, whenever and wherever it is written."""
    return json.dumps(asdict(settled), sort_keys=True, separators=(",", ":"))


def apply(
    picture: Image.Image, settled: Settled, enlarge: Enlarge, *, target: Callable[[Size], Size] | None = None
) -> list[Image.Image]:
    """What the recipe makes of a picture: one of mode "RGB", or one for each box of `split`.

    picture: upright, "RGB" or "RGBA", as `read_picture` gives it. In this order: flattened, erased, cropped or split,
    mirrored, cleaned, limited to the longest side, upscaled. enlarge: makes a picture larger, to an exact (width,
    height): an upscaling network, or `lanczos`. target: the size that a picture of (width, height) has to have at
    least; without it, the area of `settled.resolution` at the picture's own proportions. Raises LoratoryError for a box
    that has nothing of the picture in it.
    """
    whole = flattened(picture, settled.background)
    erased = [_clipped(box, whole.size, "erase") for box in settled.erase]
    for box in erased:
        whole = filled(whole, box)
    if settled.split:
        parts = [whole.crop(_clipped(box, whole.size, "split")) for box in settled.split]
    elif settled.crop is not None:
        parts = [whole.crop(_clipped(settled.crop, whole.size, "crop"))]
    else:
        parts = [whole]
    return [_finished(part, settled, enlarge, target) for part in parts]


def _finished(
    part: Image.Image, settled: Settled, enlarge: Enlarge, target: Callable[[Size], Size] | None
) -> Image.Image:
    if settled.flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = part.size
    if settled.clean == "adverse":
        part = adverse(part)
    elif settled.clean == "upscale":
        part = enlarge(part, (2 * width, 2 * height))
    elif settled.clean == "downscale":
        shrunk = lanczos(part, _scaled(part.size, settled.clean_scale))
        part = enlarge(shrunk, (width, height))
    if settled.max_side_px and max(part.size) > settled.max_side_px:
        part = lanczos(part, _scaled(part.size, settled.max_side_px / max(part.size)))
    if settled.resolution is not None:
        wanted = target(part.size) if target is not None else covering_size(part.size, settled.resolution)
        if wanted[0] > part.width or wanted[1] > part.height:
            part = enlarge(part, wanted)
    return part


def covering_size(size: Size, resolution: Size) -> Size:
    """The size at which a picture has the area of `resolution`, proportions kept; its own where it has more."""
    scale = sqrt(resolution[0] * resolution[1] / (size[0] * size[1]))
    return size if scale <= 1 else (ceil(size[0] * scale), ceil(size[1] * scale))


def lanczos(picture: Image.Image, size: Size) -> Image.Image:
    """The picture at another size without a network; when it shrinks, every pixel counts (no aliasing)."""
    return picture.resize(size, Image.Resampling.LANCZOS)


def tags_of(settled: Settled, picture: Image.Image) -> tuple[str, ...]:
    """What the caption is told: the background's colour where enough of what is kept was transparent, and the recipe's
    own tags.

    picture: as `apply` gets it.
    """
    told = settled.background_tag and _shows_background(settled, picture)
    return ((settled.background_tag,) if told else ()) + tuple(
        tag for tag in settled.tags if not told or tag != settled.background_tag
    )


def _shows_background(settled: Settled, picture: Image.Image) -> bool:
    if picture.mode != "RGBA":
        return False
    opacity = picture.getchannel("A")
    boxes = settled.split or ((settled.crop,) if settled.crop is not None else ())
    if boxes:
        parts = [np.asarray(opacity.crop(_clipped(box, picture.size, "crop"))) for box in boxes]
    else:
        parts = [np.asarray(opacity)]
    transparent = sum(part.size - float(part.sum(dtype=np.int64)) / 255 for part in parts)
    return transparent >= _BACKGROUND_SHARE * sum(part.size for part in parts)


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _clipped(box: Box, size: Size, what: str) -> Box:
    left, top, right, bottom = box
    clipped = (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1]))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise LoratoryError(
            f"The box [{left}, {top}, {right}, {bottom}] of `{what}` has nothing of the picture in it, which is "
            f"{size[0]}x{size[1]} px.",
            hint="A box is [left, top, right, bottom] in px of the whole picture, upright.",
        )
    return clipped
