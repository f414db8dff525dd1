"""What is done to one picture on its way from the original to the training folder: a value, without any pixels."""

from dataclasses import dataclass
from difflib import get_close_matches
from string import hexdigits
from typing import Literal

from loratory.errors import LoratoryError

# left, top, right, bottom in px of the upright original; right and bottom are outside, as in Pillow.
Box = tuple[int, int, int, int]

Clean = Literal["none", "upscale", "downscale", "adverse"]
Upscale = Literal["auto", "never"]
Format = Literal["auto", "keep", "png", "jpeg", "webp"]

CLEANS: tuple[Clean, ...] = ("none", "upscale", "downscale", "adverse")
FORMATS: tuple[Format, ...] = ("keep", "png", "jpeg", "webp", "auto")

# The colours behind transparent pictures, in the order they take turns, by the word that goes before "background".
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "blue": (64, 96, 208),
    "green": (72, 152, 72),
    "red": (200, 56, 56),
    "yellow": (236, 208, 80),
    "purple": (136, 84, 176),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The picture operations of one image, in the order in which they are done. The default does what is always done:
    upright, sRGB, 8 bits, opaque, within the limits of `Defaults`.

    skip: the picture is left out. name: stem of what comes out, "" for the original's. background: what stands behind
    transparency, a name of `BACKGROUNDS` or "#rrggbb"; "" is whichever has its turn. erase: filled from what is around.
    crop: what is kept, None for all. split: one picture for each box, instead of crop. flip: mirrored left to right.
    clean: cure of adversarial noise; upscale enlarges twice, downscale shrinks by `clean_scale` and enlarges again,
    adverse smooths. max_side_px, upscale, format: instead of the defaults; None takes those. tags: added to the
    caption, beside those that tell what was done.
    """

    skip: bool = False
    name: str = ""
    background: str = ""
    erase: tuple[Box, ...] = ()
    crop: Box | None = None
    split: tuple[Box, ...] = ()
    flip: bool = False
    clean: Clean = "none"
    clean_scale: float = 0.5
    max_side_px: int | None = None
    upscale: Upscale | None = None
    format: Format | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """What goes for every picture of a folder unless its recipe says otherwise.

    resolution: (width, height) of the training area in px; pictures that would be enlarged to reach it are upscaled
    where upscale is "auto". max_side_px: the longest side, larger ones are shrunk; 0 for no limit. upscaler: "default",
    another embedded one, or the path of a model file. format: of what is written; "auto" leaves a jpeg alone to which
    nothing is done, and makes all else png; "keep" leaves png, jpeg and webp what they are. backgrounds: take turns
    behind transparent pictures, as in `Recipe.background`. background_tags: whether the caption is told about the
    colour.
    """

    resolution: tuple[int, int] = (512, 512)
    max_side_px: int = 3000
    upscale: Upscale = "auto"
    upscaler: str = "default"
    format: Format = "auto"
    backgrounds: tuple[str, ...] = ("white", "black", "blue", "green", "red")
    background_tags: bool = True


# For pictures that lie in a training folder already: nothing happens to them but what their recipe says.
AS_THEY_ARE = Defaults(max_side_px=0, upscale="never", format="keep")


def in_original(box: Box, made: tuple[int, int], recipe: Recipe, original: tuple[int, int]) -> Box | None:
    """A box in px of what `recipe` made, in px of the original; None for a sheet that was split.

    made, original: their sizes, (width, height) in px.
    """
    if recipe.split:
        return None
    cut = recipe.crop or (0, 0, *original)
    left, right = _stretched(box[0], box[2], made[0], cut[2] - cut[0])
    top, bottom = _stretched(box[1], box[3], made[1], cut[3] - cut[1])
    if recipe.flip:
        left, right = cut[2] - cut[0] - right, cut[2] - cut[0] - left
    return cut[0] + left, cut[1] + top, cut[0] + right, cut[1] + bottom


def _stretched(first: int, last: int, side: int, to_side: int) -> tuple[int, int]:
    """A range of one side on another one, inside of it and not empty."""
    start = max(0, min(round(first * to_side / side), to_side - 1))
    return start, max(start + 1, min(round(last * to_side / side), to_side))


def background_colour(background: str) -> tuple[int, int, int]:
    """(red, green, blue) of a name of `BACKGROUNDS` or "#rrggbb". Raises LoratoryError."""
    if background in BACKGROUNDS:
        return BACKGROUNDS[background]
    digits = background[1:]
    if background.startswith("#") and len(digits) == 6 and all(digit in hexdigits for digit in digits):
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    near = get_close_matches(background, BACKGROUNDS, 1)
    raise LoratoryError(
        f"{background!r} is no background." + (f" Did you mean {near[0]!r}?" if near else ""),
        hint=f'A background is {", ".join(BACKGROUNDS)}, or a colour as "#rrggbb".',
    )
