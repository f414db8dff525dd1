"""What is to be done to each picture, and whether it is done already: pure, from what is known of the files."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import place_image
from loratory.errors import LoratoryError
from loratory.imaging.apply import Settled, Size, settle
from loratory.imaging.recipe import Box, Defaults, Format, Recipe
from loratory.preparation.captions import SHEET_TAGS, TRANSPARENT_TAGS
from loratory.preparation.naming import parts_of
from loratory.preparation.places import Original
from loratory.preparation.record import Look

# No network enlarges beyond this.
_LARGEST_PX = 3000
_LEAST_RESOLUTION_PX = 64
_EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_BY_NETWORK = ("upscale", "downscale")
_FORMATS: dict[Format, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one original comes to.

    targets: what is to be made, none where it is skipped. format: as Pillow names it. enlarged: for each target the
    size (width, height) in px that a network enlarges it to, None where none does. done: the operations that make a
    difference to this picture, as plain values: two plans of equal ones make the same files and tags.
    """

    original: Original
    recipe: Recipe
    settled: Settled
    look: Look
    targets: tuple[Path, ...]
    format: str
    enlarged: tuple[Size | None, ...]
    done: Mapping[str, Any]

    @property
    def copies(self) -> bool:
        """Whether the original is taken over byte for byte."""
        return self.look.plain and self.look.format == self.format and not self.done.keys() - {"format", "name", "tags"}

    @property
    def needs_network(self) -> bool:
        """Whether a network has a part in it."""
        return any(self.enlarged) or self.settled.clean in _BY_NETWORK


def plan_picture(original: Original, base: str, recipe: Recipe, defaults: Defaults, look: Look) -> Plan:
    """What `recipe` and `defaults` make of a picture, called `base`. Raises LoratoryError for an unknown background."""
    settled = settle(recipe, defaults, "")
    if recipe.skip:
        return Plan(original, recipe, settled, look, (), look.format, (), {"skip": True})
    sizes = _cut_sizes(settled, look.size)
    limit = settled.max_side_px
    enlarged = tuple(_larger(_limited(size, limit), settled) for size in sizes)
    done: dict[str, Any] = {}
    if look.transparent:
        done |= {"background": settled.background, "background_tag": settled.background_tag}
    operations = {
        "erase": settled.erase,
        "crop": settled.crop,
        "split": settled.split,
        "flip": settled.flip,
        "clean": settled.clean != "none" and settled.clean,
        "clean_scale": settled.clean == "downscale" and settled.clean_scale,
        "max_side_px": any(max(size) > limit for size in sizes) and limit,
        "enlarged": any(enlarged) and enlarged,
        "tags": settled.tags,
    }
    done |= {name: value for name, value in operations.items() if value}
    if any(enlarged) or settled.clean in _BY_NETWORK:
        done["upscaler"] = settled.upscaler
    is_untouched = look.plain and not done.keys() - {"tags"}
    format_name = _format(settled.format, look.format, is_untouched=is_untouched)
    done = {"name": base, "format": format_name, **done}
    ending = _EXTENSIONS[format_name]
    targets = tuple(original.folder / f"{part}{ending}" for part in parts_of(base, recipe))
    return Plan(original, recipe, settled, look, targets, format_name, enlarged, _plain(done))


def _format(wanted: Format, original: str, *, is_untouched: bool) -> str:
    """What is written, as Pillow names it."""
    if wanted == "auto":
        # JPEG gains nothing by being written as PNG, and loses by being written as JPEG again.
        return original if is_untouched and original == "JPEG" else "PNG"
    if wanted == "keep":
        return original if original in _EXTENSIONS else "PNG"
    return _FORMATS[wanted]


def no_longer_true(plan: Plan) -> tuple[str, ...]:
    """Tags of the original's caption that are not true of what is made of it."""
    sheet = SHEET_TAGS if plan.recipe.split else ()
    return (*sheet, *(TRANSPARENT_TAGS if plan.look.transparent else ()))


def target_size(size: Size, settled: Settled) -> Size:
    """The size that covers the bucket of a picture, at least its own.

    Its own too where the other is beyond all use: of a strip one pixel wide it has millions.
    """
    return _larger(size, settled) or size


def take_turns(
    originals: Iterable[Original],
    recipes: Mapping[str, Recipe],
    looks: Callable[[str], Look | None],
    defaults: Defaults,
) -> dict[str, Recipe]:
    """New recipes for the transparent pictures that have no background yet: each gets the colour least used so far.

    Of colours used equally often, the first in `Defaults.backgrounds`. What has a colour keeps it.
    """
    if not defaults.backgrounds:
        return {}
    used = Counter(
        recipe.background
        for recipe in recipes.values()
        if recipe.background in defaults.backgrounds and not recipe.skip
    )
    chosen: dict[str, Recipe] = {}
    alike: dict[Recipe, Recipe] = {}
    for original in originals:
        recipe = recipes.get(original.name) or Recipe()
        if recipe.background or recipe.skip:
            continue
        look = looks(original.name)
        if look is None or not look.transparent:
            continue
        colour = min(defaults.backgrounds, key=lambda colour: used[colour])
        used[colour] += 1
        new = replace(recipe, background=colour)
        chosen[original.name] = alike.setdefault(new, new)
    return chosen


def duplicates(
    originals: Iterable[Original], recipes: Mapping[str, Recipe], looks: Callable[[str], Look | None]
) -> dict[str, str]:
    """Originals of the same bytes as an earlier one for the same folder: name -> name of the first."""
    first: dict[tuple[Path, str], str] = {}
    found: dict[str, str] = {}
    for original in originals:
        look, recipe = looks(original.name), recipes.get(original.name)
        if look is None or (recipe is not None and recipe.skip):
            continue
        earlier = first.setdefault((original.folder, look.digest), original.name)
        if earlier != original.name:
            found[original.name] = earlier
    return found


def spoken(plan: Plan) -> list[str]:
    """What a plan does, in words, in the order in which it is done."""
    done, recipe = plan.done, plan.recipe
    if recipe.skip:
        return ["left out"]
    words: list[str] = []
    if "background" in done:
        words.append(f"{recipe.background or 'white'} behind what is transparent")
    if recipe.erase:
        words.append(f"{len(recipe.erase)} part{'s' if len(recipe.erase) > 1 else ''} erased")
    if recipe.split:
        words.append(f"split into {len(recipe.split)}")
    elif recipe.crop:
        left, top, right, bottom = recipe.crop
        words.append(f"cropped to {right - left}x{bottom - top} at {left},{top}")
    if recipe.flip:
        words.append("flipped")
    if recipe.clean != "none":
        words.append(f"cleaned ({recipe.clean})")
    if "max_side_px" in done:
        words.append(f"shrunk to {plan.settled.max_side_px} px")
    enlarged = [size for size in plan.enlarged if size is not None]
    if enlarged:
        sizes = ", ".join(f"{width}x{height}" for width, height in enlarged)
        words.append(f"enlarged to {sizes} by “{Path(plan.settled.upscaler).name}”")
    if plan.copies:
        return ["copied as it is"]
    if plan.look.format != plan.format:
        words.append(f"{plan.look.format} to {plan.format}")
    elif not words:
        words.append("made upright, sRGB, 8 bits, opaque")
    return words


def _cut_sizes(settled: Settled, size: Size) -> list[Size]:
    """The sizes of what is cut out and cleaned."""
    boxes: Sequence[Box] = settled.split or ((settled.crop,) if settled.crop else ((0, 0, *size),))
    times = 2 if settled.clean == "upscale" else 1
    cuts = [_inside(box, size) for box in boxes]
    return [(times * (right - left), times * (bottom - top)) for left, top, right, bottom in cuts]


def _inside(box: Box, size: Size) -> Box:
    left, top, right, bottom = box
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, max(min(right, size[0]), left + 1), max(min(bottom, size[1]), top + 1)


def _limited(size: Size, limit: int) -> Size:
    longest = max(size)
    if not limit or longest <= limit:
        return size
    return max(1, round(size[0] * limit / longest)), max(1, round(size[1] * limit / longest))


def _larger(size: Size, settled: Settled) -> Size | None:
    """What a picture is enlarged to, None where it is not."""
    if settled.resolution is None:
        return None
    wanted = place_image(size, _settings(settled.resolution)).resized
    if max(wanted) > (settled.max_side_px or _LARGEST_PX):
        return None
    return wanted if wanted[0] > size[0] or wanted[1] > size[1] else None


_known: dict[Size, DatasetSettings] = {}


def _settings(resolution: Size) -> DatasetSettings:
    if resolution not in _known:
        if min(resolution) < _LEAST_RESOLUTION_PX:
            raise LoratoryError(
                f"A training resolution of {resolution[0]}x{resolution[1]} px is too small.",
                hint=f"Models take {_LEAST_RESOLUTION_PX} px and more; most are trained at 512, 768 or 1024.",
            )
        shortest, longest = min(resolution), max(resolution)
        limits = {"min_bucket_reso": min(256, shortest), "max_bucket_reso": max(1024, longest)}
        _known[resolution] = DatasetSettings.model_validate({"train_data_dir": ".", "resolution": resolution, **limits})
    return _known[resolution]


def _plain(value: Any) -> Any:
    """Tuples as lists: as JSON gives them back."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in cast(dict[str, Any], value).items()}
    return [_plain(one) for one in cast(list[Any], value)] if isinstance(value, tuple | list) else value
