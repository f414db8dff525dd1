"""Plain backgrounds: whether there is one, what colour it has, what stands on it, and what cutting it away would win.

How often it is right, measured on pictures labelled by eye, is in docs/detector.md; bench/detector.py measures it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loratory.imaging.colour_names import colour_name
from loratory.imaging.components import Mask, Part, box_of, cleaned, components, grown, sides_of
from loratory.imaging.facts import Ground
from loratory.imaging.frames import CLEAN_TOLERANCE, SHORTEST_PX, border_px, commonest, inside_frames, is_half
from loratory.imaging.pixels import resize_area
from loratory.imaging.recipe import Box

__all__ = [
    "LEAST_WON",
    "MARGIN",
    "WORKING_PX",
    "colour_name",
    "find_figures",
    "find_frame",
    "find_ground",
    "suggested_crop",
    "won_share",
]

Pixels = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.float32]

# Longest side in px of what is looked at. Smaller loses thin limbs, larger costs time and finds no other grounds.
WORKING_PX = 256

# Levels of 255 that a px of a noisy ground may be off in its worst channel; CLEAN_TOLERANCE is for a clean one.
_NOISY_TOLERANCE = 26.0
# How much a soft gradient may change across the picture, in levels, to count as a background without anything on it.
_WIDEST_GRADIENT = 110.0
# What a ground has to cover: of the border, of the second least covered side, and of the picture.
_BORDER_SHARE, _THIRD_SIDE_SHARE, _PICTURE_SHARE = 0.6, 0.25, 0.08
# Of the px along the border that are near the ground's colour, the share that may be too far off to belong to it.
# And of all px.
_DOUBTFUL_SHARE, _DOUBTFUL_PICTURE_SHARE = 0.2, 0.35
# A gradient has to cover more of the border: fitted surfaces follow much that is no ground.
_GRADIENT_BORDER_SHARE = 0.85
# Mean step in levels from px to px of a ground, as looked at. Wood, grass and cloth have 2 and more, paper and JPEG
# less than 1.
_ROUGHEST = 1.5

# Empty space left around what is cut out, as a share of its longer side.
MARGIN = 0.04
# A crop that wins less than this share of the training px is not worth a question.
LEAST_WON = 0.2
# Buckets reach to about 1:4 at the usual settings; narrower crops than this keep some of the ground.
_NARROWEST = 3.0

# A figure next to the largest: at least this share of its px and of its longer side.
_COMPARABLE_AREA, _COMPARABLE_SIDE = 0.2, 0.4
# Gaps closed inside a figure, as a share of the longest side.
_GAP = 0.005


class _Fit(NamedTuple):
    """distance: levels that each px is off the ground in its worst channel. tolerance: up to which it is ground.
    span: levels that the ground changes by across its own px."""

    distance: Levels
    tolerance: float
    span: float

    @property
    def mask(self) -> Mask:
        return self.distance <= self.tolerance


def find_ground(rgb: Pixels) -> Ground | None:
    """The plain background of a picture, or None.

    rgb: uint8 (h, w, 3) of any size. Plain is one colour or a soft gradient, with what noise and JPEG do to it; a
    gradient has a name only where all of it has the same. The subject may touch the border, but most of the border and
    at least two sides are of the ground. Frames and letterbox bars, whatever ends in straight lines all around,
    are no ground: what counts is the picture inside them.
    """
    small = _shrunk(rgb)
    if min(small.shape[:2]) < SHORTEST_PX:
        return None
    left, top, right, bottom = inside_frames(small)
    inner = small[top:bottom, left:right]
    if min(inner.shape[:2]) < SHORTEST_PX:
        return None
    levels = inner.astype(np.float32)
    fit = _fit(levels, commonest(levels[border_px(levels.shape[:2])]))
    mask = fit.mask
    subject = box_of(cleaned(~mask))
    halved = subject is not None and is_half(~mask, subject)
    framed = subject is None and inner.shape != small.shape
    if halved or framed or not _is_plain(levels, fit):
        return None
    ground = levels[mask]
    colour = _rounded(ground.mean(axis=0))
    subject = subject or (0, 0, inner.shape[1], inner.shape[0])
    moved = (subject[0] + left, subject[1] + top, subject[2] + left, subject[3] + top)
    return Ground(
        colour=colour,
        name=_common_name(ground, colour),
        border_share=round(float(mask[border_px(mask.shape)].mean()), 4),
        share=round(float(mask.sum()) / (small.shape[0] * small.shape[1]), 4),
        box=_scaled(moved, small.shape[:2], rgb.shape[:2]),
    )


def find_frame(rgb: Pixels) -> Box | None:
    """The picture inside a frame or letterbox bars of one colour, in px of `rgb`; None where there are none."""
    small = _shrunk(rgb)
    height, width = small.shape[:2]
    inside = inside_frames(small) if min(height, width) >= SHORTEST_PX else (0, 0, width, height)
    return None if inside == (0, 0, width, height) else _scaled(inside, (height, width), rgb.shape[:2])


def find_figures(rgb: Pixels, ground: Ground) -> tuple[Box, ...]:
    """Boxes of the separate figures on a ground that `find_ground` found, in px of `rgb`, largest first.

    () unless at least two are of comparable size. Specks and lines of text are none; parts with a gap of about 1 % of
    the longest side between them are one figure. Figures that touch count as one.
    """
    small = _shrunk(rgb)
    left, top, right, bottom = inside_frames(small)
    levels = small[top:bottom, left:right].astype(np.float32)
    if min(levels.shape[:2]) < SHORTEST_PX:
        return ()
    mask = _fit(levels, np.asarray(ground.colour, np.float32)).mask
    gap = max(1, round(_GAP * max(levels.shape[:2])))
    parts = components(grown(cleaned(~mask), gap), ~mask)
    figures = [part for part in parts if not _is_text(part)]
    if not figures:
        return ()
    largest = max(figures, key=lambda part: part.area)
    longest = max(sides_of(largest.box))
    alike = [
        part
        for part in figures
        if part.area >= _COMPARABLE_AREA * largest.area and max(sides_of(part.box)) >= _COMPARABLE_SIDE * longest
    ]
    if len(alike) < 2:
        return ()
    alike.sort(key=lambda part: (-part.area, part.box))
    moved = [(box[0] + left, box[1] + top, box[2] + left, box[3] + top) for box in (part.box for part in alike)]
    return tuple(_scaled(box, small.shape[:2], rgb.shape[:2]) for box in moved)


def won_share(size: tuple[int, int], box: Box, area_px: int | None = None) -> float:
    """Share, 0 to 1, of the training px of what is inside `box` that it gets only by being cut out.

    size: (width, height) of the picture in px. Training gives each picture about `area_px` whatever its shape, so one
    px of it becomes `min(1, area_px / (width * height))` training px: before with the sides of the picture, after with
    those of the box. The result is 1 - before / after: 0.5 doubles the subject's px. Without `area_px` small
    pictures count as enlarged to it, and the result is 1 - area of box / area of picture. Bucket steps are left out;
    they change it by a few per cent. Raises ValueError for an empty size, box or area.
    """
    whole, part = size[0] * size[1], (box[2] - box[0]) * (box[3] - box[1])
    if min(*size, box[2] - box[0], box[3] - box[1]) <= 0 or (area_px is not None and area_px <= 0):
        raise ValueError("size, box and area must not be empty")
    before, after = (whole, part) if area_px is None else (max(whole, area_px), max(part, area_px))
    return max(0.0, 1 - after / before)


def suggested_crop(ground: Ground, size: tuple[int, int]) -> Box | None:
    """What to keep of a picture of `size` (width, height): what stands on the ground, with some margin; None where
    that would win less than `LEAST_WON` of the training px or nothing stands on it.

    Narrow subjects keep some of the ground at their sides: the crop is at most 3 times as long as wide where the
    picture has room for that.
    """
    left, top, right, bottom = ground.box
    margin = round(MARGIN * max(right - left, bottom - top))
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    across = margin + max(0, round((height / _NARROWEST - width) / 2))
    along = margin + max(0, round((width / _NARROWEST - height) / 2))
    crop = max(0, left - across), max(0, top - along), min(size[0], right + across), min(size[1], bottom + along)
    return crop if won_share(size, crop) >= LEAST_WON else None


def _shrunk(rgb: Pixels) -> Pixels:
    height, width = rgb.shape[:2]
    longest = max(height, width)
    if longest <= WORKING_PX:
        return rgb
    size = max(1, round(width * WORKING_PX / longest)), max(1, round(height * WORKING_PX / longest))
    return resize_area(rgb, size)


def _fit(levels: Levels, colour: Levels) -> _Fit:
    """How far each px is from the ground: one colour where that does, else a surface of second order that follows soft
    gradients, fitted to the border first and then to all that agrees with it."""
    border = border_px(levels.shape[:2])
    flat = np.abs(levels - colour).max(axis=2)
    near = flat[border]
    near = near[near <= _NOISY_TOLERANCE]
    noise = float(np.percentile(near, 90)) if near.size else 0.0
    tolerance = min(max(CLEAN_TOLERANCE, 2 * noise), _NOISY_TOLERANCE)
    height, width = levels.shape[:2]
    y, x = np.meshgrid(
        np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32), indexing="ij"
    )
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    covered = float((flat[border] <= tolerance).mean())
    if covered >= 0.97:
        return _Fit(flat, tolerance, 0.0)
    chosen = border & (flat <= tolerance)
    distance, surface = flat, np.broadcast_to(colour, levels.shape)
    for count, within in ((3, border), (6, border), (6, border), (6, None), (6, None)):
        if int(chosen.sum()) < 4 * count:
            break
        # In units of few enough px: a fit of six numbers gains nothing from more.
        sample = np.flatnonzero(chosen)
        sample = sample[:: max(1, sample.size // 4000)]
        basis = terms.reshape(-1, 6)[:, :count]
        weights = np.linalg.lstsq(basis[sample], levels.reshape(-1, 3)[sample], rcond=None)[0]
        surface = (basis @ weights).reshape(levels.shape)
        distance = np.abs(levels - surface).max(axis=2)
        chosen = distance <= tolerance if within is None else within & (distance <= tolerance)
    if covered >= 0.97 * float((distance[border] <= tolerance).mean()):
        return _Fit(flat, tolerance, 0.0)
    on_it = surface[distance <= tolerance]
    span = float((np.percentile(on_it, 98, axis=0) - np.percentile(on_it, 2, axis=0)).max()) if on_it.size else 0.0
    return _Fit(distance, tolerance, span)


def _is_plain(levels: Levels, fit: _Fit) -> bool:
    mask = fit.mask
    border = border_px(mask.shape)
    along = mask[border]
    sides = sorted((mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()))
    # A subject or a flat surface has clear edges; a dim or misty scene passes slowly from "of it" to "not of it".
    doubtful = (fit.distance > fit.tolerance) & (fit.distance <= 3 * fit.tolerance)
    return (
        fit.span <= _WIDEST_GRADIENT
        and float(along.mean()) >= (_GRADIENT_BORDER_SHARE if fit.span else _BORDER_SHARE)
        and float(sides[1]) >= _THIRD_SIDE_SHARE
        and float(mask.mean()) >= _PICTURE_SHARE
        and float(doubtful[border].mean()) <= _DOUBTFUL_SHARE * float(along.mean())
        and float(doubtful.mean()) <= _DOUBTFUL_PICTURE_SHARE
        and _roughness(levels, mask) <= _ROUGHEST
    )


def _roughness(levels: Levels, mask: Mask) -> float:
    """Mean step in levels between neighbouring px that are both of the mask; 0 where there are none."""
    light = levels.mean(axis=2)
    pairs = mask[:, 1:] & mask[:, :-1]
    return float(np.abs(np.diff(light, axis=1))[pairs].mean()) if pairs.any() else 0.0


def _is_text(part: Part) -> bool:
    """Lines of text are long, low and far from filled once their letters are joined."""
    width, height = sides_of(part.box)
    return width >= 5 * height


def _scaled(box: Box, shape: tuple[int, ...], to: tuple[int, ...]) -> Box:
    """A box in px of a picture of `shape` (h, w), in px of one of `to`, rounded outwards."""
    (height, width), (to_height, to_width) = shape[:2], to[:2]
    return (
        box[0] * to_width // width,
        box[1] * to_height // height,
        -(-box[2] * to_width // width),
        -(-box[3] * to_height // height),
    )


def _rounded(colour: npt.NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.rint(colour).clip(0, 255))
    return red, green, blue


def _common_name(ground: Levels, colour: tuple[int, int, int]) -> str:
    """The name of a ground's mean colour where its lightest and darkest parts have it too."""
    light = ground.mean(axis=1)
    low, high = np.percentile(light, (5, 95))
    ends = (ground[light <= low].mean(axis=0), ground[light >= high].mean(axis=0))
    name = colour_name(colour)
    if float(high - low) > 2 * CLEAN_TOLERANCE and any(colour_name(_rounded(end)) != name for end in ends):
        return ""
    return name
