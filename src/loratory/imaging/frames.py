"""Frames and letterbox bars around a picture: whatever is of one colour and ends in straight lines."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loratory.imaging.components import Mask, box_of
from loratory.imaging.recipe import Box

# float32 (3, …): red, green and blue apart, which numpy works on ten times as fast as on px of three.
Planes = npt.NDArray[np.float32]
Levels = npt.NDArray[np.float32]

# Shorter sides than this have no border to speak of.
SHORTEST_PX = 8
# Levels of 255 that a px may be off one colour in its worst channel, where nothing is known about noise.
CLEAN_TOLERANCE = 10.0

# A frame or a bar ends in a straight line: this share of the line is not of the frame.
_STRAIGHT = 0.88
# Of a frame and what it holds, the share that it holds; where it is less, a straight thing stands on a ground.
_FRAMED_SHARE = 0.35
# One straight bar, thicker than this share of the side, is no frame but a half: sky over sea, a flag.
_ONE_BAR_SHARE = 0.1


def border_px(shape: tuple[int, ...]) -> Mask:
    """The px along the border: 1 % of the shorter side, at least 1 px. At more, less of it is border."""
    width = max(1, round(0.01 * min(shape[:2])))
    border = np.ones(shape[:2], np.bool_)
    border[width:-width, width:-width] = False
    return border


def planes_of(rgb: npt.NDArray[np.uint8]) -> Planes:
    """The levels of a picture, uint8 (h, w, 3), channel by channel: float32 (3, h, w)."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)).astype(np.float32)


def distance(planes: Planes, colour: Sequence[Levels | float] | Planes) -> Levels:
    """How many levels each px is off a colour in its worst channel; the colour may be another one for each px."""
    red, green, blue = (np.abs(plane - level) for plane, level in zip(planes, colour, strict=True))
    return np.maximum(np.maximum(red, green), blue)


def along_border(planes: Planes) -> Planes:
    """The px of `border_px`, row by row: float32 (3, n)."""
    return planes.reshape(3, -1)[:, np.flatnonzero(border_px(planes.shape[1:]))]


def commonest(colours: Planes) -> Levels:
    """The commonest of (3, n) colours: the fullest of coarse cells, each counted with half of its neighbours', and
    the mean of what is near it. A median would be a colour in between where a subject covers a third."""
    red, green, blue = (colours.astype(np.intp) + 8) >> 4
    counts = np.bincount(red * 289 + green * 17 + blue, minlength=17**3).reshape(17, 17, 17).astype(np.float32)
    smooth = counts.copy()
    for axis in range(3):
        near = np.zeros_like(smooth)
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        near[tuple(low)] += smooth[tuple(high)]
        near[tuple(high)] += smooth[tuple(low)]
        smooth = smooth + near / 2
    centre = np.asarray(np.unravel_index(int(smooth.argmax()), smooth.shape), np.float32) * 16
    for _ in range(3):
        near_it = distance(colours, centre) <= 20
        if not near_it.any():
            break
        centre = colours[:, near_it].mean(axis=1)
    return centre


def inside_frames(planes: Planes) -> tuple[Box, Levels]:
    """What is left when frames and bars of one colour are taken off, at most three around each other, and the commonest
    colour along its border."""
    left, top, right, bottom = 0, 0, planes.shape[2], planes.shape[1]
    inner, colour = planes, commonest(along_border(planes))
    for _ in range(3):
        box = _frame(inner, colour)
        if box is None:
            break
        left, top, right, bottom = left + box[0], top + box[1], left + box[2], top + box[3]
        inner = planes[:, top:bottom, left:right]
        colour = commonest(along_border(inner))
        if min(inner.shape[1:]) < SHORTEST_PX:
            break
    return (left, top, right, bottom), colour


def _frame(planes: Planes, colour: Levels) -> Box | None:
    """The box inside one frame of a colour: all that is not of it ends in straight lines."""
    height, width = planes.shape[1:]
    other = distance(planes, colour) > CLEAN_TOLERANCE * 1.6
    box = box_of(other)
    if box is None or box == (0, 0, width, height):
        return None
    inset = _inset(box, (height, width))
    if (box[2] - box[0]) * (box[3] - box[1]) < _FRAMED_SHARE * height * width or _is_one_bar(inset, (height, width)):
        return None
    return box if _ends_straight(other, box) else None


def is_half(other: Mask, box: Box) -> bool:
    """Whether all that is not of the ground is one side of the picture, up to a straight line."""
    return _is_one_bar(_inset(box, other.shape), other.shape) and _ends_straight(other, box)


def _inset(box: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Px between a box and the left, top, right and bottom border."""
    return box[0], box[1], shape[1] - box[2], shape[0] - box[3]


def _is_one_bar(inset: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    """Whether there is room at one border alone, and much of it."""
    sides = shape[1], shape[0], shape[1], shape[0]
    shares = [px / side for px, side in zip(inset, sides, strict=True) if px]
    return len(shares) == 1 and shares[0] > _ONE_BAR_SHARE


def _ends_straight(other: Mask, box: Box) -> bool:
    """Whether what is in a box fills the lines at those of its edges that are not the picture's."""
    inside = other[box[1] : box[3], box[0] : box[2]]
    left, top, right, bottom = _inset(box, other.shape)
    # The line at the edge may be a blend of both, hence the better of two.
    lines = ((left, inside[:, :2], 0), (right, inside[:, -2:], 0), (top, inside[:2], 1), (bottom, inside[-2:], 1))
    return all(float(line.mean(axis=axis).max()) >= _STRAIGHT for inset, line, axis in lines if inset)
