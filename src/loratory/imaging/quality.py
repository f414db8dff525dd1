"""How good the px of a picture are: sharpness, true resolution, traces of JPEG, noise, colour.

Everything takes levels as they are in the file, before any shrinking: shrinking removes what is measured here. Each
looks at a bounded number of px, whatever the size. What values mean was measured as docs/detector.md tells.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from loratory.imaging.pixels import resize_area

Grey = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.float32]

# Below this detail a picture looks enlarged: 2 % of 310 real pictures as they are; enlarged twice 89 % (bicubic) or
# 96 % (Lanczos), enlarged four times 98 %.
LITTLE_DETAIL = 0.75
# From this blockiness on, JPEG blocks show: 1 % of the same pictures as they are, 19 % at JPEG quality 75, 43 % at 50,
# 62 % at 30. Blocks in flat colours and in textures stay unseen.
BLOCKY = 0.5
# A residual from NOISY up to TEXTURED may be adversarial noise: 3 % of the same pictures as they are and after JPEG 75;
# with *simulated* noise of at most 8 levels 43 % of the drawings and 83 % of the photographs. No picture from Glaze or
# Nightshade was measured, and no method tells them reliably. From TEXTURED on all of a picture is grass, stone or
# film grain.
NOISY, TEXTURED = 2.3, 4.0

# Longest side in px at which sharpness is compared.
_SHARPNESS_PX = 512
# Tiles that are looked at instead of a whole large picture: this many a side at most, of this many px.
_TILES, _TILE_PX = 4, 128
_BLOCK_PX = 16
# The side of the middle part in which JPEG's blocks are looked for, and how much of it at once: what fits into a
# core's cache takes half the time.
_GRID_PX, _STRIP_PX = 768, 192


def sharpness(grey: Grey) -> float:
    """How steep the strongest edges are, 0 to 1, at a longest side of 512 px; larger is sharper.

    grey: uint8 (h, w). For the strongest 2 % of the px, the step to the next px as a share of the range within 4 px
    around: a clean edge reaches 1 at any contrast, and what is not an edge does not count, so that flat drawings are
    not called blurred. The median of those. 0 where there is no edge at all.
    """
    height, width = grey.shape
    longest = max(height, width)
    if longest > _SHARPNESS_PX:
        size = max(1, round(width * _SHARPNESS_PX / longest)), max(1, round(height * _SHARPNESS_PX / longest))
        grey = resize_area(grey[..., None], size)[..., 0]
    if min(grey.shape) < 2:
        return 0.0
    steps = np.maximum(_steps(grey[:, :-1], 0), _steps(grey[:-1], 1))
    counts = Image.fromarray(steps).histogram()
    strong = max(int(np.searchsorted(np.cumsum(counts), 0.98 * steps.size)), 4)
    steps = steps.ravel()
    chosen = np.flatnonzero(steps >= strong)
    if not chosen.size:
        return 0.0
    spread = _extreme(grey, 4, np.maximum) - _extreme(grey, 4, np.minimum)
    return float(np.median(steps[chosen] / np.maximum(spread[:-1, :-1].ravel()[chosen], 1)))


def detail(grey: Grey) -> float:
    """Share of the sides' resolution that holds any detail, 0 to 1.

    Enlarging twice leaves 0.5 to 0.75, four times 0.3 to 0.4; what was not enlarged mostly has 1. grey: uint8 (h, w) at
    the original size. From the spectrum of the tiles with most contrast: the frequency above
    which less is left than noise and rounding leave. Enlarging by whole px (nearest neighbour) is told by
    the px that repeat. 1 for pictures without any contrast, or too small to tell. Blurred and strongly
    compressed pictures have little detail too: whatever the cause, smaller copies would show as much.
    """
    repeats = _repeats(grey)
    if repeats > 1:
        return 1 / repeats
    tiles = [tile for tile in _tiles(grey) if min(tile.shape) >= 64]
    contrasts = [_contrast(tile) for tile in tiles]
    if not tiles or max(contrasts) < 0.5:
        return 1.0
    order = sorted(range(len(tiles)), key=lambda index: -contrasts[index])[:4]
    return min(1.0, max(_reach([tiles[index] for index in order], axis) for axis in (0, 1)))


def blockiness(grey: Grey) -> float:
    """Of 8x8 JPEG blocks, 0 none to 1 plain to see, wherever the grid begins.

    grey: uint8 (h, w) at the original size. How much larger the steps between px are at every eighth line than
    at the others; large steps count as edges, not as blocks. Px art that was enlarged 8 times has such lines too.
    """
    return min(_grid(grey, 0), _grid(grey, 1))


def residual(grey: Grey) -> float:
    """Noise in the flattest regions of a picture, as a standard deviation in levels of 255.

    grey: uint8 (h, w) at the original size. In blocks of 16x16 px, what is left after taking away a plane; nine of ten
    blocks are rougher than the value. 0 for clean drawings, below 1 for JPEG and most photographs.
    """
    if min(grey.shape) < _BLOCK_PX:
        return 0.0
    return float(np.percentile(_rough(np.concatenate([_blocks(tile) for tile in _tiles(grey)])), 10))


def is_grey(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether a picture has no colour to speak of: black and white, a pencil drawing, a grey photograph.

    rgb: uint8 (h, w, 3). 98 of 100 px have channels at most 12 levels apart. A sepia picture is not grey.
    """
    height, width = rgb.shape[:2]
    step = max(1, -(-max(height, width) // 512))
    red, green, blue = (np.ascontiguousarray(rgb[::step, ::step, channel]) for channel in range(3))
    # Pair by pair: numpy takes ten times as long along an axis of three.
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float((apart > 12).mean()) <= 0.02


def _tiles(grey: Grey) -> list[Grey]:
    """Evenly spread tiles that begin at multiples of 8 px; all of a small picture."""
    height, width = grey.shape
    return [
        grey[y : y + _TILE_PX, x : x + _TILE_PX]
        for y in _starts(height, _TILE_PX, _TILES)
        for x in _starts(width, _TILE_PX, _TILES)
    ]


def _starts(length: int, tile: int, count: int) -> Sequence[int]:
    if length <= tile * count:
        return range(0, length, tile)
    return [round(index * (length - tile) / (count - 1)) // 8 * 8 for index in range(count)]


def _steps(grey: Grey, axis: int) -> Grey:
    """Levels between each px and the next one along an axis."""
    one, other = (grey[:-1], grey[1:]) if axis == 0 else (grey[:, :-1], grey[:, 1:])
    return np.maximum(one, other) - np.minimum(one, other)


def _at_most(levels: Grey, most: int) -> Grey:
    # A whole array of the limit: against a single number numpy takes ten times as long.
    return np.minimum(levels, np.full_like(levels, most))


def _contrast(tile: Grey) -> float:
    """Mean levels between neighbours, down and across together."""
    return sum(float(steps.sum(dtype=np.uint32)) / steps.size for steps in (_steps(tile, 0), _steps(tile, 1)))


def _extreme(grey: Grey, by: int, of: np.ufunc) -> Grey:
    """The largest or smallest level within `by` px to all sides."""
    for axis in (0, 1):
        padded = np.pad(grey, [(by, by) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        found = padded if axis == 0 else padded.T
        # Of 2, 4, 8 px by pairs, then of all by two that overlap.
        width, whole = 1, 2 * by + 1
        while 2 * width <= whole:
            found, width = of(found[:-width], found[width:]), 2 * width
        found = of(found[: len(found) - whole + width], found[whole - width :])
        grey = found if axis == 0 else found.T
    return grey


def _repeats(grey: Grey) -> int:
    """How often each px repeats along both sides, 1 to 8: enlarged by whole px without any smoothing."""
    few = grey[:1024, :1024]
    changes = [
        np.flatnonzero((few[1:] != few[:-1]).any(axis=1)),
        np.flatnonzero((few[:, 1:] != few[:, :-1]).any(axis=0)),
    ]
    for times in range(8, 1, -1):
        if min(few.shape) >= 8 * times and all(_are_apart(places, times) for places in changes):
            return times
    return 1


def _are_apart(places: npt.NDArray[np.intp], times: int) -> bool:
    """Whether all places are a multiple of `times` px from each other."""
    # Drawings of few lines repeat by chance.
    return places.size >= 16 and bool(((places - places[0]) % times == 0).all())


# Power of the sides' spectrum relative to what a natural picture has at the frequency: below this there is nothing.
_NOTHING = 0.1


def _reach(tiles: Sequence[Grey], axis: int) -> float:
    """The highest frequency along an axis with any detail, as a share of half the sampling rate."""
    power, rounding = np.zeros(_TILE_PX // 2 + 1), 0.0
    for tile in tiles:
        length = tile.shape[axis]
        transform, levels = _transform(length), tile.astype(np.float32)
        waves = transform @ levels if axis == 0 else transform @ levels.T
        power += np.einsum("kn,kn->k", waves, waves).reshape(2, -1).sum(axis=0) / waves.shape[1]
        # Whole levels are at most 1/2 off, 1/12 in the mean of squares.
        rounding += float((np.hanning(length) ** 2).sum()) / 12
    # Natural pictures and drawn edges fall with the square of the frequency.
    flat = power * np.arange(power.size) ** 2
    flat = np.convolve(np.pad(flat, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    scale = np.percentile(flat[4 : power.size // 4], 50)
    there = np.flatnonzero((flat >= _NOTHING * scale) & (power >= 4 * rounding))
    return float(there[-1] / (power.size - 1)) if there.size else 0.0


@cache
def _transform(length: int) -> Levels:
    """What makes the spectrum of `length` px less their mean, under a window, zeros up to a tile's side after them:
    float32 (real, then imaginary parts, px). For so few px the product is faster than FFTs one by one."""
    angles = 2 * np.pi / _TILE_PX * np.outer(np.arange(_TILE_PX // 2 + 1), np.arange(length))
    waves = np.concatenate([np.cos(angles), np.sin(angles)]) * np.hanning(length)
    return (waves - waves.mean(axis=1, keepdims=True)).astype(np.float32)


def _blocks(tile: Grey) -> Grey:
    """The whole blocks of a tile: uint8 (blocks, px of a block, row by row)."""
    height, width = (length // _BLOCK_PX for length in tile.shape)
    whole = tile[: height * _BLOCK_PX, : width * _BLOCK_PX]
    return whole.reshape(height, _BLOCK_PX, width, _BLOCK_PX).swapaxes(1, 2).reshape(-1, _BLOCK_PX**2)


def _rough(blocks: Grey) -> Levels:
    """Of each block (n, px) the standard deviation from the plane that fits it best: float32 (n,)."""
    levels = blocks.astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    slope = np.linspace(-1, 1, _BLOCK_PX, dtype=np.float32)
    slope /= np.linalg.norm(slope) * np.sqrt(np.float32(_BLOCK_PX))
    planes = levels @ np.stack([np.tile(slope, _BLOCK_PX), np.repeat(slope, _BLOCK_PX)], axis=1)
    squares = np.einsum("ij,ij->i", levels, levels) - (planes**2).sum(axis=1)
    return np.sqrt(np.maximum(squares, 0) / _BLOCK_PX**2)


def _grid(grey: Grey, axis: int) -> float:
    """How much the steps along an axis at every eighth line stand out, 0 to 1."""
    height, width = grey.shape
    if grey.shape[1 - axis] < 8 or grey.shape[axis] < 32:
        return 0.0
    top, left = max(0, (height - _GRID_PX) // 2), max(0, (width - _GRID_PX) // 2)
    part = grey[top : top + _GRID_PX, left : left + _GRID_PX]
    starts = range(0, part.shape[1 - axis], _STRIP_PX)
    strips = (part[:, k : k + _STRIP_PX] if axis == 0 else part[k : k + _STRIP_PX] for k in starts)
    lines = np.sum([_steps_alone(strip, axis) for strip in strips], axis=0) / part.shape[1 - axis]
    usable = lines.size // 8 * 8
    phases = lines[:usable].reshape(-1, 8).mean(axis=0)
    others = float(np.median(phases))
    return float((phases.max() - others) / (phases.max() + 0.05))


def _steps_alone(grey: Grey, axis: int) -> Levels:
    """For each line across an axis but the ends the sum of its small steps without any beside them, float32: a block's
    step is small and stands alone; real edges are large or have others beside them."""
    steps = _steps(grey, axis)
    twice = (steps <= 16) * (2 * steps)
    steps = _at_most(steps, 32)
    if axis == 0:
        twice, beside = twice[1:-1], steps[:-2] + steps[2:]
    else:
        twice, beside = twice[:, 1:-1], steps[:, :-2] + steps[:, 2:]
    alone = _at_most(np.maximum(twice, beside) - beside, 12).astype(np.float32)
    ones = np.ones(alone.shape[1 - axis], np.float32)
    return alone @ ones if axis == 0 else ones @ alone
