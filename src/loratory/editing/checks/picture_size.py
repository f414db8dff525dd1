"""What training makes of a picture's size and shape: enlarged, cut, or mostly empty."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import Placement, Size, place_image, widened_to_bucket
from loratory.editing.checks.finding import Fix, RecipeFix, Said
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.errors import LoratoryError
from loratory.imaging.background import suggested_crop

MOST_PX = 3000
# Rounding to bucket steps enlarges by a few per cent what is just large enough.
_ENLARGED, _MUCH_ENLARGED, _TOO_SMALL = 1.1, 2.0, 4.0
_CUT, _MUCH_CUT = 1 / 6, 1 / 3
_FEWEST_PX = 32
# A crop that makes the subject half as large again is worth a line; less is a matter of taste.
_WON = 1.5
_SHEET_TAG = {"danbooru": "multiple_views", "e621": "multiple_angles", "natural": "multiple_views"}
_SHEET_TAGS = (
    "multiple_views", "multiple_angles", "multiple_poses", "reference_sheet", "model_sheet", "character_sheet",
    "expression_sheet", "turnaround", "comic", "4koma", "multiple_images", "collage",
)  # fmt: skip
_SEVERAL_TAGS = (
    "duo", "trio", "group", "multiple_girls", "multiple_boys", "multiple_others", "2girls", "3girls", "4girls",
    "5girls", "6+girls", "2boys", "3boys", "4boys", "5boys", "6+boys", "couple", "crowd", "1boy1girl",
)  # fmt: skip
_LOW_RES_TAGS = {"danbooru": "lowres", "e621": "low_res", "natural": "low resolution"}


class _Crop(NamedTuple):
    """size: what is left, in words. won: how many times as many px of training the subject gets. lost: share of what is
    left that its bucket cuts off."""

    size: str
    won: float
    lost: float
    fix: Fix


def size_and_shape(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    """What training makes of a picture's sides."""
    width, height = picture.facts.size
    if min(width, height) < 1:
        return
    try:
        placement = place_image((width, height), context.dataset)
    except LoratoryError:  # settings without any bucket, which a run refuses
        return
    crop = _cropped(picture, placement, context)
    if min(width, height) < _FEWEST_PX or _aspect(width, height) > 2 * _longest_aspect(context):
        yield _extreme(picture, placement, crop)
        return
    if max(width, height) > MOST_PX:
        message = (
            f"{width}x{height} px: no training uses so much, and it takes long to load. Shrink it to {MOST_PX} px."
        )
        yield Said("too-large", "note", message, (), (Fix(f"shrink to {MOST_PX} px", _shrunk()),))
    yield from _enlarged(picture, placement, context)
    yield from _cut(placement, crop)
    if crop is not None and crop.won >= _WON:
        message = (
            f"Much of it is empty ground: cropped to {crop.size} px, the subject gets {crop.won:.1f} times as many px."
        )
        yield Said("empty-ground", "note", message, (), (crop.fix,))


def sheet(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    """Several separate figures that neither the caption's sheet tags nor its subjects explain."""
    figures, item = picture.facts.figures, picture.item
    if len(figures) < 2 or context.said_in(item, _SHEET_TAGS) or context.said_in(item, _SEVERAL_TAGS):
        return
    message = (
        f"{len(figures)} separate figures stand on a plain ground, so that each gets few px. If they are one sheet, "
        "split it, or tag it as one."
    )
    split = Fix(f"split it into {len(figures)} pictures", RecipeFix({"split": figures}), automatic=False)
    tag = context.adding((_SHEET_TAG[_site(context)],), item)
    yield Said("sheet", "note", message, (), (split, *tag))


def _enlarged(picture: Pictured, placement: Placement, context: PictureContext) -> Iterator[Said]:
    width, height = picture.facts.size
    factor = _lacking(picture.facts.size, placement, context.dataset)
    if context.dataset.bucket_no_upscale:
        becomes = f"is trained at {placement.bucket[0]}x{placement.bucket[1]} px, below the resolution"
    else:
        becomes = f"is enlarged {factor:.1f} times for training, which blurs it"
    if factor <= _ENLARGED:
        return
    severity = "warning" if factor >= _MUCH_ENLARGED else "note"
    upscale = Fix("upscale it", RecipeFix({"upscale": "auto"}))
    message = f"{width}x{height} px {becomes}. Upscale it with a network, or find a larger one."
    yield Said("low-resolution", severity, message, (), (upscale,))
    if factor >= _TOO_SMALL and not picture.item.is_reg:
        yield from low_res_untagged(picture, context)


def _lacking(size: Size, placement: Placement, dataset: DatasetSettings) -> float:
    """How many times too small a picture of `size` is for training; 1 and below is large enough."""
    if dataset.bucket_no_upscale:
        return math.sqrt(math.prod(dataset.resolution_wh) / math.prod(size))
    return max(placement.resized[0] / size[0], placement.resized[1] / size[1])


def low_res_untagged(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    """A picture too small to upscale well, without the tag for that."""
    name = _LOW_RES_TAGS[_site(context)]
    if context.said_in(picture.item, tuple(_LOW_RES_TAGS.values())):
        return
    message = (
        f"It is too small for a good upscale. If it stays, tag it “{context.spelled(name, picture.item)}”, so that its "
        "quality is tied to a word."
    )
    yield Said("low-res-untagged", "note", message, (), context.adding((name,), picture.item))


def _cut(placement: Placement, crop: _Crop | None) -> Iterator[Said]:
    lost = cut_share(placement)
    if lost < _CUT:
        return
    bucket = f"{placement.bucket[0]}x{placement.bucket[1]}"
    fixes = (crop.fix,) if crop is not None and crop.lost < _CUT else ()
    said = f"Cropped to {crop.size} px it loses empty ground alone" if crop and fixes else "Crop it to what matters"
    message = (
        f"{lost:.0%} of the picture is cut away for its bucket of {bucket} px. {said}; other buckets come with "
        "dataset.min_bucket_reso and max_bucket_reso."
    )
    yield Said("crop-loss", "warning" if lost >= _MUCH_CUT else "note", message, (), fixes)


def cut_share(placement: Placement) -> float:
    """Share of a picture, 0 to 1, that its bucket leaves out."""
    return 1 - math.prod(placement.bucket) / math.prod(placement.resized)


def _cropped(picture: Pictured, placement: Placement, context: PictureContext) -> _Crop | None:
    """What is left when plain ground is cut away, where that costs nothing of the subject."""
    facts, dataset = picture.facts, context.dataset
    box = None if facts.ground is None else suggested_crop(facts.ground, facts.size)
    if box is None:
        return None
    box = widened_to_bucket(box, facts.size, dataset)
    width, height = box[2] - box[0], box[3] - box[1]
    trained = place_image((width, height), dataset)
    if cut_share(trained) >= max(_CUT, cut_share(placement)):
        return None
    won = (trained.resized[0] / width * facts.size[0] / placement.resized[0]) ** 2
    fix = Fix(f"crop to {width}x{height} px", RecipeFix({"crop": box}))
    if _lacking((width, height), trained, dataset) > _ENLARGED:
        fix = Fix(f"crop to {width}x{height} px and upscale it", RecipeFix({"crop": box, "upscale": "auto"}))
    return _Crop(f"{width}x{height}", won, cut_share(trained), fix)


def _extreme(picture: Pictured, placement: Placement, crop: _Crop | None) -> Said:
    width, height = picture.facts.size
    lost = cut_share(placement)
    cut = f": {min(lost, 0.99):.0%} of it would be cut away" if lost >= _CUT else ""
    message = f"{width}x{height} px is no shape to train{cut}. Crop it, or leave it out."
    skip = Fix("leave the picture out", RecipeFix({"skip": True}), automatic=False)
    return Said("extreme-aspect", "warning", message, (), (*(() if crop is None else (crop.fix,)), skip))


def _longest_aspect(context: PictureContext) -> float:
    """Of the buckets, the longer side by the shorter one."""
    dataset = context.dataset
    if not dataset.enable_bucket or dataset.bucket_no_upscale:
        return 4.0
    return max(dataset.max_bucket_reso / dataset.min_bucket_reso, 1.0)


def _aspect(width: int, height: int) -> float:
    return max(width, height) / min(width, height)


def _shrunk() -> RecipeFix:
    return RecipeFix({"max_side_px": MOST_PX})


def _site(context: PictureContext) -> str:
    if context.captions.style == "natural":
        return "natural"
    vocabulary = context.captions.vocabulary
    return "danbooru" if vocabulary is None else vocabulary.site
