"""Plain backgrounds: whether there is one, what colour it has, what stands on it, and what cutting it away would win.

How often it is right, measured on pictures labelled by eye, is in docs/detector.md; bench/detector.py measures it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loratory.imaging.colour_names import colour_name
from loratory.imaging.components import Indices, Mask, Part, box_of, cleaned, components, grown, sides_of
from loratory.imaging.facts import Ground
from loratory.imaging.frames import (
    CLEAN_TOLERANCE,
    SHORTEST_PX,
    Levels,
    Planes,
    border_px,
    distance,
    inside_frames,
    is_half,
    planes_of,
)
from loratory.imaging.pixels import resize_area
from loratory.imaging.recipe import Box

__all__ = [
    "LEAST_WON",
    "MARGIN",
    "WORKING_PX",
    "colour_name",
    "find_frame",
    "find_ground",
    "find_ground_and_figures",
    "suggested_crop",
    "won_share",
]

Pixels = npt.NDArray[np.uint8]

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
# The last fit of a gradient is to every seventh px: odd, so that they are of all columns.
_STEP_PX = 7
# Gaps closed inside a figure, as a share of the longest side.
_GAP = 0.005


class _Fit(NamedTuple):
    """off: levels that each px is off the ground in its worst channel. tolerance: up to which it is ground.
    span: levels that the ground changes by across its own px."""

    off: Levels
    tolerance: float
    span: float


class _View(NamedTuple):
    """A picture's inside with its ground. shape: (h, w) of the working copy; left, top: where in it the inside begins.
    other: the px that are not of the ground; solid: those without specks."""

    shape: tuple[int, int]
    left: int
    top: int
    other: Mask
    solid: Mask
    ground: Ground


def find_ground(rgb: Pixels) -> Ground | None:
    """The plain background of a picture, or None.

    rgb: uint8 (h, w, 3) of any size. Plain is one colour or a soft gradient, with what noise and JPEG do to it; a
    gradient has a name only where all of it has the same. The subject may touch the border, but most of the border and
    at least two sides are of the ground. Frames and letterbox bars, whatever ends in straight lines all around,
    are no ground: what counts is the picture inside them.
    """
    view = _view(rgb)
    return view.ground if view else None


def find_ground_and_figures(rgb: Pixels) -> tuple[Ground | None, tuple[Box, ...]]:
    """What `find_ground` finds, and the boxes of the separate figures on it, in px of `rgb`, largest first.

    No boxes unless at least two figures are of comparable size. Specks and lines of text are none; parts with a gap of
    about 1 % of the longest side between them are one figure. Figures that touch count as one.
    """
    view = _view(rgb)
    if view is None:
        return None, ()
    gap = max(1, round(_GAP * max(view.other.shape)))
    figures = [part for part in components(grown(view.solid, gap), view.other) if not _is_text(part)]
    if not figures:
        return view.ground, ()
    largest = max(figures, key=lambda part: part.area)
    longest = max(sides_of(largest.box))
    alike = [
        part
        for part in figures
        if part.area >= _COMPARABLE_AREA * largest.area and max(sides_of(part.box)) >= _COMPARABLE_SIDE * longest
    ]
    if len(alike) < 2:
        return view.ground, ()
    alike.sort(key=lambda part: (-part.area, part.box))
    return view.ground, tuple(
        _scaled(_moved(part.box, view.left, view.top), view.shape, rgb.shape[:2]) for part in alike
    )


def find_frame(rgb: Pixels) -> Box | None:
    """The picture inside a frame or letterbox bars of one colour, in px of `rgb`; None where there are none."""
    small = _shrunk(rgb)
    height, width = small.shape[:2]
    if min(height, width) < SHORTEST_PX:
        return None
    inside, _ = inside_frames(planes_of(small))
    return None if inside == (0, 0, width, height) else _scaled(inside, (height, width), rgb.shape[:2])


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


def _view(rgb: Pixels) -> _View | None:
    """The picture on its plain ground; None where there is none."""
    small = _shrunk(rgb)
    height, width = small.shape[:2]
    if min(height, width) < SHORTEST_PX:
        return None
    planes = planes_of(small)
    (left, top, right, bottom), colour = inside_frames(planes)
    inner = np.ascontiguousarray(planes[:, top:bottom, left:right])
    if min(inner.shape[1:]) < SHORTEST_PX:
        return None
    fit = _fit(inner, colour)
    if not _is_plain(inner, fit):
        return None
    other = fit.off > fit.tolerance
    solid = cleaned(other)
    subject = box_of(solid)
    halved = subject is not None and is_half(other, subject)
    framed = subject is None and inner.shape != planes.shape
    if halved or framed:
        return None
    colour, name = _colour_and_name(inner, ~other)
    box = _moved(subject or (0, 0, inner.shape[2], inner.shape[1]), left, top)
    ground = Ground(
        colour=colour,
        name=name,
        border_share=round(1 - float(other[border_px(other.shape)].mean()), 4),
        share=round((other.size - int(other.sum())) / (height * width), 4),
        box=_scaled(box, (height, width), rgb.shape[:2]),
    )
    return _View((height, width), left, top, other, solid, ground)


def _fit(planes: Planes, colour: Levels) -> _Fit:
    """How far each px is from the ground: the commonest colour of the border where that does, else a surface of second
    order that follows soft gradients, fitted to the border first and then to all that agrees with it."""
    border = np.flatnonzero(border_px(planes.shape[1:]))
    flat = distance(planes, colour)
    along = flat.ravel()[border]
    near = along[along <= _NOISY_TOLERANCE]
    noise = float(np.percentile(near, 90)) if near.size else 0.0
    tolerance = min(max(CLEAN_TOLERANCE, 2 * noise), _NOISY_TOLERANCE)
    covered = float((along <= tolerance).mean())
    surface = None if covered >= 0.97 else _surface(planes, border, tolerance, along <= tolerance)
    if surface is None:
        return _Fit(flat, tolerance, 0.0)
    off = distance(planes, surface)
    if covered >= 0.97 * float((off.ravel()[border] <= tolerance).mean()):
        return _Fit(flat, tolerance, 0.0)
    on_it = _some(surface.reshape(3, -1), np.flatnonzero(off <= tolerance))
    span = float((np.percentile(on_it, 98, axis=1) - np.percentile(on_it, 2, axis=1)).max())
    return _Fit(off, tolerance, span)


def _surface(planes: Planes, border: Indices, tolerance: float, chosen: Mask) -> Planes | None:
    """The soft gradient that a picture's border follows, float32 (3, h, w); None where it follows none, or too little
    of it for a plain background. chosen: which px of the border to begin with."""
    levels = planes.reshape(3, -1)
    terms = _terms(*planes.shape[1:])
    along, terms_along = levels[:, border], terms[:, border]
    for count in (3, 6, 6):
        if int(chosen.sum()) < 4 * count:
            return None
        weights = _weights(terms_along[:count], along, np.flatnonzero(chosen))
        chosen = distance(along, weights @ terms_along[:count]) <= tolerance
    if float(chosen.mean()) < _BORDER_SHARE:
        return None
    weights = _weights(terms_along, along, np.flatnonzero(chosen))
    few, few_terms = levels[:, ::_STEP_PX], terms[:, ::_STEP_PX]
    agreeing = np.flatnonzero(distance(few, weights @ few_terms) <= tolerance)
    if agreeing.size < 4 * len(terms):
        return None
    return (_weights(few_terms, few, agreeing) @ terms).reshape(planes.shape)


def _terms(height: int, width: int) -> Levels:
    """What a surface of second order is a sum of, at each px: float32 (6, height * width)."""
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    terms = np.empty((6, height, width), np.float32)
    for term, values in zip(terms, (1, across, down, across**2, across * down, down**2), strict=True):
        term[:] = values
    return terms.reshape(6, -1)


def _weights(terms: Levels, levels: Planes, px: Indices) -> Levels:
    """The weights (3, n) of the sum of terms (n, all px) that comes nearest to the levels (3, all px) at some px."""
    known, wanted = _some(terms, px), _some(levels, px)
    # By the normal equations: ten times as fast, and exact enough for a handful of terms between -1 and 1.
    squares, products = (known @ known.T).astype(np.float64), (known @ wanted.T).astype(np.float64)
    return np.linalg.lstsq(squares, products, rcond=1e-7)[0].T.astype(np.float32)


def _some(levels: Levels, px: Indices) -> Levels:
    """The levels (n, all px) at an even sample of the px: a few thousand say as much as all."""
    return levels[:, px[:: max(1, px.size // 4000)]]


def _is_plain(planes: Planes, fit: _Fit) -> bool:
    mask = fit.off <= fit.tolerance
    border = border_px(mask.shape)
    along = float(mask[border].mean())
    sides = sorted((mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()))
    # A subject or a flat surface has clear edges; a dim or misty scene passes slowly from "of it" to "not of it".
    doubtful = ~mask & (fit.off <= 3 * fit.tolerance)
    return (
        fit.span <= _WIDEST_GRADIENT
        and along >= (_GRADIENT_BORDER_SHARE if fit.span else _BORDER_SHARE)
        and float(sides[1]) >= _THIRD_SIDE_SHARE
        and float(mask.mean()) >= _PICTURE_SHARE
        and float(doubtful[border].mean()) <= _DOUBTFUL_SHARE * along
        and float(doubtful.mean()) <= _DOUBTFUL_PICTURE_SHARE
        and _roughness(planes, mask) <= _ROUGHEST
    )


def _roughness(planes: Planes, mask: Mask) -> float:
    """Mean step in levels between neighbouring px that are both of the mask; 0 where there are none."""
    light = planes[0] + planes[1] + planes[2]
    pairs = mask[:, 1:] & mask[:, :-1]
    count = int(np.count_nonzero(pairs))
    return float((np.abs(light[:, 1:] - light[:, :-1]) * pairs).sum() / (3 * count)) if count else 0.0


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


def _colour_and_name(planes: Planes, mask: Mask) -> tuple[tuple[int, int, int], str]:
    """The mean colour of a ground, with its name where its lightest and darkest parts have it too."""
    ground = _some(planes.reshape(3, -1), np.flatnonzero(mask))
    colour = _rounded(ground.mean(axis=1))
    name = colour_name(colour)
    light = ground.mean(axis=0)
    low, high = np.percentile(light, (5, 95))
    if float(high - low) <= 2 * CLEAN_TOLERANCE:
        return colour, name
    ends = (ground[:, light <= low].mean(axis=1), ground[:, light >= high].mean(axis=1))
    return colour, name if all(colour_name(_rounded(end)) == name for end in ends) else ""


def _moved(box: Box, right: int, down: int) -> Box:
    return box[0] + right, box[1] + down, box[2] + right, box[3] + down
