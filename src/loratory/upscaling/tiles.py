"""Cutting an enlargement into pieces whose memory is bounded, so that no seam shows where they meet. No torch here."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# How far a network is shown the mirrored picture beyond its border. It takes what is out there for black and draws a
# rim: 18 levels next to a plain blue border, 1 level with these px. More changes nothing.
RIM_PX = 8


@dataclass(frozen=True)
class Tile:
    """One piece: what the network reads, and what of the result it makes.

    read: (left, top, right, bottom) in px of the picture, up to `RIM_PX` beyond its border. made: the part of the
    result in its px. source: `made` in px of the picture, fractions included; lies within `read`.
    """

    read: tuple[int, int, int, int]
    made: tuple[int, int, int, int]
    source: tuple[float, float, float, float]


def tiles(size: tuple[int, int], enlarged: tuple[int, int], side_px: int, margin_px: int) -> list[Tile]:
    """The pieces of a picture of `size` that is brought to `enlarged`, row by row; both (width, height) in px.

    side_px: the longest side of what is read, about. margin_px: what is read around each piece, as far as the picture
    and its rim go. The pieces meet at whole px of the result and cover it.
    """
    across, down = (_pieces(length, longer, side_px, margin_px) for length, longer in zip(size, enlarged, strict=True))
    return [
        Tile(
            read=(x.read[0], y.read[0], x.read[1], y.read[1]),
            made=(x.made[0], y.made[0], x.made[1], y.made[1]),
            source=(x.source[0], y.source[0], x.source[1], y.source[1]),
        )
        for y in down
        for x in across
    ]


@dataclass(frozen=True)
class _Piece:
    """`Tile` along one axis: (start, end)."""

    read: tuple[int, int]
    made: tuple[int, int]
    source: tuple[float, float]


def _pieces(length: int, longer: int, side_px: int, margin_px: int) -> list[_Piece]:
    whole = length + 2 * RIM_PX <= side_px
    count = 1 if whole else min(math.ceil(length / max(side_px - 2 * margin_px, 1)), longer)
    edges = [round(number * longer / count) for number in range(count + 1)]
    pieces: list[_Piece] = []
    for start, end in pairwise(edges):
        first, last = start * length / longer, end * length / longer
        read = max(math.floor(first) - margin_px, -RIM_PX), min(math.ceil(last) + margin_px, length + RIM_PX)
        pieces.append(_Piece(read, (start, end), (first, last)))
    return pieces


def mirrored(pixels: npt.NDArray[np.uint8], read: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """The px of a box that may reach beyond the picture, which is mirrored at its borders as often as needed.

    pixels: uint8 (height, width, channels); read: (left, top, right, bottom).
    """
    left, top, right, bottom = read
    rows = _mirrored(top, bottom, pixels.shape[0])
    columns = _mirrored(left, right, pixels.shape[1])
    return pixels[rows[:, None], columns[None, :]]


def _mirrored(start: int, end: int, length: int) -> npt.NDArray[np.intp]:
    index = np.arange(start, end) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
