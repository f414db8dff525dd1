"""Smoothing adversarial noise away, and showing what that changed."""

from math import inf, log10

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = npt.NDArray[np.float32]

# Figures of the public "adverse cleaner": 64 bilateral passes (5x5 px, sigma 8 levels and 8 px), which flatten the
# noise between edges, then 4 guided passes (radius 4 px, epsilon 16), which bring the drawing of the original back.
_BILATERAL_PASSES = 64
_SIGMA_LEVELS = 8.0
_SIGMA_PX = 8.0
_GUIDED_PASSES = 4
_GUIDED_RADIUS_PX = 4
_GUIDED_EPSILON = 16.0

# Every pair of pixels at most 2 px apart, each once: (down, right).
_PAIRS = ((0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0))
# What is worked on at a time: one plane of it stays in a core's cache, and memory stays flat for any picture.
_STRIP_PX = 1 << 16
_GUIDED_STRIP_PX = 1 << 18


def adverse(picture: Image.Image) -> Image.Image:
    """The picture, "RGB", without fine noise between its edges: the usual cure of Glaze and Nightshade.

    Some fine detail goes with the noise. On one core 4 to 5 s for a megapixel, most of it the bilateral passes; memory
    is a few copies of the picture.
    """
    original = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1), np.float32)
    smooth, spare = original.copy(), np.empty_like(original)
    for _ in range(_BILATERAL_PASSES):
        _bilateral(smooth, spare)
        smooth, spare = spare, smooth
    for _ in range(_GUIDED_PASSES):
        _guided(original, smooth, spare)
        smooth, spare = spare, smooth
    return Image.fromarray(np.ascontiguousarray(np.rint(smooth.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0)))


def _bilateral(levels: Levels, result: Levels) -> None:
    """One pass over `levels` into `result`, both float32 (3, height, width): the mean of the 13 px within 2 px, each
    counted by how near its colour is (sum of the channels' differences) and how near it lies.

    Neighbours beyond the picture are left out. A pair's weight is computed once and serves both of its pixels.
    """
    _, height, width = levels.shape
    rows = max(4, _STRIP_PX // width)
    buffer, weights = np.empty((3, rows + 4, width), np.float32), np.empty((rows + 4, width), np.float32)
    moved, total = np.empty_like(buffer), np.empty_like(weights)
    for start in range(0, height, rows):
        end = min(start + rows, height)
        first, last = max(start - 2, 0), min(end + 2, height)
        block, count = levels[:, first:last], last - first
        change, norm = moved[:, :count], total[:count]
        change.fill(0)
        norm.fill(1)
        for down, right in _PAIRS:
            if down >= count or abs(right) >= width:
                continue
            here = np.s_[: count - down, max(-right, 0) : width - max(right, 0)]
            there = np.s_[down:count, max(right, 0) : width - max(-right, 0)]
            step, weight = buffer[:, *here], weights[here]
            np.subtract(block[:, *there], block[:, *here], out=step)
            np.abs(step[0], out=weight)
            weight += np.abs(step[1])
            weight += np.abs(step[2])
            np.square(weight, out=weight)
            weight *= -0.5 / _SIGMA_LEVELS**2
            weight -= 0.5 * (down**2 + right**2) / _SIGMA_PX**2
            np.exp(weight, out=weight)
            step *= weight
            change[:, *here] += step
            change[:, *there] -= step
            norm[here] += weight
            norm[there] += weight
        inner = np.s_[start - first : end - first]
        change[:, inner] /= norm[inner]
        np.add(block[:, inner], change[:, inner], out=result[:, start:end])


def _guided(guide: Levels, source: Levels, result: Levels) -> None:
    """One pass of the guided filter with a colour guide (He, Sun, Tang 2010) into `result`, all float32 (3, h, w).

    In every window the source is fitted as a linear function of the guide's colour, and the fits that cover a pixel are
    averaged.
    """
    _, height, width = guide.shape
    rows, reach = max(32, _GUIDED_STRIP_PX // width), 2 * _GUIDED_RADIUS_PX
    for start in range(0, height, rows):
        end = min(start + rows, height)
        first, last = max(start - reach, 0), min(end + reach, height)
        fitted = _guided_strip(guide[:, first:last], source[:, first:last])
        result[:, start:end] = fitted[:, start - first : end - first]


def _guided_strip(guide: Levels, source: Levels) -> Levels:
    guide_mean, source_mean = _box_mean(guide), _box_mean(source)
    red, green, blue = guide - 128  # sums of squares stay small, which float32 needs
    centre = guide_mean - 128
    spread = {
        (i, j): _box_mean(a * b) - centre[i] * centre[j]
        for i, a in enumerate((red, green, blue))
        for j, b in enumerate((red, green, blue))
        if i <= j
    }
    for channel in range(3):
        spread[channel, channel] += _GUIDED_EPSILON
    # The inverse of each pixel's symmetric 3x3 matrix, written out: LAPACK would be called once a pixel.
    a, b, c, d, e, f = (spread[key] for key in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    minors = {
        (0, 0): d * f - e * e,
        (0, 1): c * e - b * f,
        (0, 2): b * e - c * d,
        (1, 1): a * f - c * c,
        (1, 2): b * c - a * e,
        (2, 2): a * d - b * b,
    }
    determinant = a * minors[0, 0] + b * minors[0, 1] + c * minors[0, 2]
    fitted = np.empty_like(source)
    for channel in range(3):
        level = source[channel] - 128
        mean = source_mean[channel] - 128
        joint = [_box_mean(level * own) - mean * centre[i] for i, own in enumerate((red, green, blue))]
        slopes = np.stack(
            [sum(minors[min(i, j), max(i, j)] * joint[j] for j in range(3)) / determinant for i in range(3)]
        )
        offset = source_mean[channel] - (slopes * guide_mean).sum(axis=0)
        fitted[channel] = (_box_mean(slopes) * guide).sum(axis=0) + _box_mean(offset)
    return fitted


def _box_mean(planes: Levels) -> Levels:
    """The mean over the window of 9x9 px around each, over what of it is in the picture; float32 (..., h, w)."""
    for axis in (-1, -2):
        planes = _running_mean(planes, axis)
    return planes


def _running_mean(planes: Levels, axis: int) -> Levels:
    length = planes.shape[axis]
    pads = [(0, 0)] * planes.ndim
    pads[axis] = (_GUIDED_RADIUS_PX, _GUIDED_RADIUS_PX)
    line = np.moveaxis(np.pad(planes, pads), axis, 0)
    # Nine neighbours are eight and one, and eight are four and four: half the additions, and no running sum whose
    # rounding would add up along the line.
    two = line[:-1] + line[1:]
    four = two[:-2] + two[2:]
    nine = four[:-4] + four[4:]
    nine = nine[:length] + line[8:]
    place = np.arange(length)
    count = np.minimum(place, _GUIDED_RADIUS_PX) + np.minimum(length - 1 - place, _GUIDED_RADIUS_PX) + 1
    nine /= count.reshape((-1,) + (1,) * (planes.ndim - 1)).astype(np.float32)
    return np.moveaxis(nine, 0, axis)


def difference(before: Image.Image, after: Image.Image, gain: float = 8) -> Image.Image:
    """What a change did to a picture, amplified: grey 128 where nothing, brighter where it got brighter; mode "RGB".

    after: of another size is brought to that of `before` first. gain: levels shown for one level of change.
    """
    shown = 128 + gain * (_levels(_at_size_of(after, before)) - _levels(before))
    return Image.fromarray(np.rint(shown.clip(0, 255)).astype(np.uint8))


def psnr(before: Image.Image, after: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all channels, larger is closer; infinite where nothing changed.

    after: of another size is brought to that of `before` first.
    """
    error = float(np.square(_levels(before) - _levels(_at_size_of(after, before))).mean())
    return inf if error == 0 else 10 * log10(255 * 255 / error)


def _levels(picture: Image.Image) -> Levels:
    return np.asarray(picture.convert("RGB")).astype(np.float32)


def _at_size_of(picture: Image.Image, other: Image.Image) -> Image.Image:
    return picture if picture.size == other.size else picture.resize(other.size, Image.Resampling.LANCZOS)
