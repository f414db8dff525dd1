"""Pictures and recipes in words and numbers: pure, and without a screen."""

from dataclasses import dataclass

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import at_resolution, place_image
from loratory.imaging.facts import PictureFacts
from loratory.imaging.recipe import Box, Defaults, Recipe
from loratory.tui.prepare.crop import Size, clamped, sides

_CLEANS = {
    "upscale": "enlarge twice against noise",
    "downscale": "shrink to {scale:.0%} and enlarge again, against noise",
    "adverse": "smooth against noise",
}
_FORMATS = {
    "auto": "PNG, or the JPEG as it is",
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WebP",
    "keep": "the original's format",
}
_SHRUNK_FROM = 1.25
_LEAST_SIDE_PX = 64


@dataclass(frozen=True)
class Trained:
    """How one picture that comes out is trained.

    size: of what comes out. bucket: it is trained at. scale: by how much it is enlarged for that, below 1 shrunk.
    cut_share: of it, lost at the edges of the bucket. by_network: whether the enlarging is done here, by a network.
    """

    size: Size
    bucket: Size
    scale: float
    cut_share: float
    by_network: bool = False


def trained(size: Size, recipe: Recipe, defaults: Defaults, settings: DatasetSettings) -> Trained:
    """How a picture cut to `size` is trained by `settings`, at the resolution of `defaults`."""
    if recipe.clean == "upscale":
        size = (2 * size[0], 2 * size[1])
    limit = defaults.max_side_px if recipe.max_side_px is None else recipe.max_side_px
    longest = max(size)
    if longest > limit > 0:
        size = max(1, round(size[0] * limit / longest)), max(1, round(size[1] * limit / longest))
    placed = place_image(size, _at(settings, defaults.resolution))
    scale = placed.resized[0] / size[0]
    covered = placed.bucket[0] * placed.bucket[1] / (placed.resized[0] * placed.resized[1])
    enlarges = placed.resized[0] > size[0] or placed.resized[1] > size[1]
    by_network = enlarges and (recipe.upscale or defaults.upscale) == "auto"
    return Trained(placed.resized if by_network else size, placed.bucket, scale, 1 - covered, by_network)


def cuts(recipe: Recipe, size: Size) -> tuple[Box, ...]:
    """What is cut out of a picture, all of it where nothing is."""
    boxes = recipe.split or ((recipe.crop,) if recipe.crop else ((0, 0, *size),))
    return tuple(clamped(box, size) for box in boxes)


def won_share(size: Size, box: Box, resolution: Size) -> float:
    """The share, 0 to 1, of the training px of what is in `box` that it gets only by being cut out."""
    from loratory.imaging.background import won_share as won  # with numpy: not for the first paint

    return won(size, box, resolution[0] * resolution[1])


def facts_words(facts: PictureFacts) -> list[str]:
    """A few short lines about a picture that could be read: what it is, its ground, its quality."""
    what = [facts.format or "?"]
    if facts.mode not in ("RGB", "RGBA", "L", "P", "LA"):
        what.append(facts.mode)
    if facts.frames > 1:
        what.append(f"{facts.frames} frames, the first is taken")
    if facts.orientation != 1:
        what.append("turned by its EXIF data")
    if facts.has_profile:
        what.append("colour profile")
    lines = [", ".join(what)]
    if facts.transparent_share:
        hidden = ", other colours hidden behind it" if facts.hides_colours else ""
        lines.append(f"{percent(facts.transparent_share)} transparent{hidden}")
    if facts.ground is not None:
        name = facts.ground.name or "#{:02x}{:02x}{:02x}".format(*facts.ground.colour)
        lines.append(f"plain ground, {name}: {percent(facts.ground.share)} of it")
    if len(facts.figures) > 1:
        lines.append(f"{len(facts.figures)} separate figures")
    quality = ["greyscale"] if facts.is_grey else []
    quality.append(f"detail {percent(facts.detail)}")
    quality.append(f"sharpness {facts.sharpness:.2f}")
    if facts.format == "JPEG" or facts.blockiness >= 0.1:
        quality.append(f"JPEG blocks {facts.blockiness:.2f}")
    lines.append(", ".join(quality))
    return lines


def recipe_words(
    recipe: Recipe, facts: PictureFacts | None, defaults: Defaults, settings: DatasetSettings
) -> list[str]:
    """What is done to a picture, a few words for each operation, in the order in which they are done."""
    if recipe.skip:
        return ["left out"]
    words: list[str] = []
    if facts is not None and facts.transparent_share:
        words.append(f"flatten on {recipe.background or 'the colour whose turn it is'}")
    elif recipe.background:
        words.append(f"{recipe.background} behind it" + ("" if facts is None else ", were it transparent"))
    if recipe.erase:
        words.append("erase " + ("a part" if len(recipe.erase) == 1 else f"{len(recipe.erase)} parts"))
    words += _cut_words(recipe, facts, defaults)
    if recipe.flip:
        words.append("flip left to right")
    if recipe.clean != "none":
        words.append(_CLEANS[recipe.clean].format(scale=recipe.clean_scale))
    words += _size_words(recipe, facts, defaults, settings)
    if recipe.upscale is not None and recipe.upscale != defaults.upscale:
        words.append("never enlarge" if recipe.upscale == "never" else "enlarge where it is too small")
    if recipe.format is not None:
        words.append(f"write {_FORMATS[recipe.format]}")
    if recipe.name:
        words.append(f"call it {recipe.name}")
    if recipe.tags:
        words.append(f"tag {', '.join(recipe.tags)}")
    return words


def _cut_words(recipe: Recipe, facts: PictureFacts | None, defaults: Defaults) -> list[str]:
    if recipe.split:
        return [f"split into {len(recipe.split)} pictures"]
    if recipe.crop is None:
        return []
    if facts is None or facts.problem:
        return ["crop to {}x{}".format(*sides(recipe.crop))]
    box = clamped(recipe.crop, facts.size)
    won = won_share(facts.size, box, defaults.resolution)
    to = "crop {}x{} to {}x{}".format(*facts.size, *sides(box))
    return [f"{to}, wins {percent(won)}" if won >= 0.005 else to]


def _size_words(recipe: Recipe, facts: PictureFacts | None, defaults: Defaults, settings: DatasetSettings) -> list[str]:
    if facts is None or facts.problem:
        return []
    words: list[str] = []
    limit = defaults.max_side_px if recipe.max_side_px is None else recipe.max_side_px
    sizes = [sides(box) for box in cuts(recipe, facts.size)]
    if any(max(size) > limit > 0 for size in sizes):
        words.append(f"shrink to {limit} px")
    looks = (trained(size, recipe, defaults, settings) for size in sizes)
    scales = [look.scale for look in looks if look.by_network]
    if scales:
        words.append(f"enlarge {times(max(scales))} with a network")
    return words


def trained_words(look: Trained) -> str:
    """`look` as a clause: "bucket 448x576, shrunk to 55%, 2% cut away"."""
    parts = ["bucket {}x{}".format(*look.bucket)]
    if look.scale < 1 / _SHRUNK_FROM:
        parts.append(f"shrunk to {percent(look.scale)}")
    elif look.scale > 1.005 and not look.by_network:
        parts.append(f"enlarged {times(look.scale)}")
    if look.cut_share >= 0.005:
        parts.append(f"{percent(look.cut_share)} cut away")
    return ", ".join(parts)


def percent(share: float) -> str:
    """A share as whole per cent; a little is not nothing, and nearly all is not all."""
    if 0 < share < 0.01:
        return "<1%"
    return f"{min(99, round(100 * share)) if share < 1 else round(100 * share)}%"


def times(scale: float) -> str:
    """A factor: 1.02x, 1.5x, 13x."""
    return f"{scale:.3g}x" if scale < 1.1 else f"{scale:.2g}x"


def duration(seconds: float) -> str:
    """A time as people read it: 45 s, 12 min, 1 h 20 min."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _at(settings: DatasetSettings, resolution: Size) -> DatasetSettings:
    """The settings at the resolution that a picture is prepared for, which may be another than that of the set."""
    width, height = (max(_LEAST_SIDE_PX, side) for side in resolution)
    return settings if settings.resolution_wh == (width, height) else at_resolution(settings, (width, height))
