"""Elements that many otherwise different pictures have at the same place: signatures, logos, text boxes, frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loratory.imaging.duplicates import near_duplicates
from loratory.imaging.facts import PictureFacts
from loratory.imaging.fingerprints import SIDE_PX

Levels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Tile = tuple[int, int]  # top, left, in px of a thumbnail

# The tiles that are compared, in px of a thumbnail: neighbours overlap by half.
_TILE_PX, _STEP_PX = 8, 4
# Least correlation of the gradients of two tiles, and least mean gradient, in levels, of a tile worth comparing.
_ALIKE, _PLAIN = 0.75, 3.0
# What an overlay must be found in.
_LEAST_PICTURES, _LEAST_SHARE = 4, 0.1
# Two pictures that are alike in more of their tiles than this are alike as a whole.
_MOST_TILES = 0.45
# Tiles are of one overlay where this share of their pictures is the same.
_SAME_PICTURES = 0.5
# The edge of a figure, which icons and product pictures have at the same place, runs one way: an overlay has a tile
# whose weaker direction has this share of the stronger one. Nor does one tile make an overlay, or this share of all.
_BOTH_WAYS, _LEAST_TILES, _WIDEST = 0.3, 2, 0.5
# Time and memory grow with the square of the pictures.
_MOST = 1000


@dataclass(frozen=True)
class Overlay:
    """box: (left, top, right, bottom) as shares, 0 to 1, of the sides. members: indices of the facts, ascending."""

    box: tuple[float, float, float, float]
    members: tuple[int, ...]


def repeated_overlays(facts: Sequence[PictureFacts]) -> list[Overlay]:
    """What at least 4 pictures and 10 % of the set show at the same place, the one in most pictures first.

    Compares the gradients of the thumbnails tile by tile, so what is smaller than about a tenth of the sides, faint, or
    at another place in each picture is not found. Of near-duplicates one counts, and pictures that are alike as a whole
    are no evidence for each other. Beyond 1,000 pictures an even sample is compared; members are of the sample.
    """
    chosen = _one_of_each(facts)
    if len(chosen) < _LEAST_PICTURES:
        return []
    thumbnails = np.array([np.frombuffer(facts[index].thumbnail, np.uint8) for index in chosen], np.uint8)
    gradients = _gradients(thumbnails.reshape(-1, SIDE_PX, SIDE_PX))
    differ = _differ_as_a_whole(gradients)
    least = max(_LEAST_PICTURES, int(np.ceil(_LEAST_SHARE * len(chosen))))
    found: dict[Tile, set[int]] = {}
    rich: set[Tile] = set()
    for tile in _tiles():
        alike = _alike(gradients, tile)[0] & differ
        counts = alike.sum(axis=1)
        centre = int(counts.argmax())
        if counts[centre] + 1 >= least:
            found[tile] = {centre, *np.flatnonzero(alike[centre]).tolist()}
            if _runs_both_ways(gradients[centre], tile):
                rich.add(tile)
    overlays = [
        _overlay(tiles, found, chosen)
        for tiles in _joined(found)
        if not rich.isdisjoint(tiles) and _LEAST_TILES <= len(tiles) <= _WIDEST * len(_tiles())
    ]
    return sorted(overlays, key=lambda overlay: (-len(overlay.members), overlay.box))


def _one_of_each(facts: Sequence[PictureFacts]) -> list[int]:
    repeated = {member for group in near_duplicates(facts) if group.kind != "mirrored" for member in group.members[1:]}
    chosen = [
        index for index, each in enumerate(facts) if not each.problem and each.thumbnail and index not in repeated
    ]
    if len(chosen) <= _MOST:
        return chosen
    return [chosen[place * len(chosen) // _MOST] for place in range(_MOST)]


def _gradients(thumbnails: npt.NDArray[np.uint8]) -> Levels:
    """Steps down and across at each px, (n, 64, 64, 2); long ones are shortened, so that a single hard edge does not
    outweigh everything else."""
    levels = thumbnails.astype(np.float32)
    down = np.diff(levels, axis=1, append=levels[:, -1:])
    across = np.diff(levels, axis=2, append=levels[:, :, -1:])
    steps = np.stack([down, across], axis=-1)
    return np.sign(steps) * np.sqrt(np.abs(steps))


def _tiles() -> list[Tile]:
    starts = range(0, SIDE_PX - _TILE_PX + 1, _STEP_PX)
    return [(top, left) for top in starts for left in starts]


def _alike(gradients: Levels, tile: Tile) -> tuple[Mask, Mask]:
    """Which pictures (n, n) have the same in a tile, and which (n) anything at all; none has the same as itself."""
    top, left = tile
    steps = gradients[:, top : top + _TILE_PX, left : left + _TILE_PX]
    # Without what all of the tile has: soft shading that brightens the same way is nothing in common.
    rows = (steps - steps.mean(axis=(1, 2), keepdims=True)).reshape(len(gradients), -1)
    busy = (rows**2).mean(axis=1) >= _PLAIN  # about the mean step: gradients are roots
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(busy[:, None], rows / np.maximum(lengths, 1e-6), 0)
    alike = rows @ rows.T >= _ALIKE
    np.fill_diagonal(alike, False)
    return alike, busy


def _runs_both_ways(gradients: Levels, tile: Tile) -> bool:
    """Whether a tile of a picture (64, 64, 2) has more than one straight or softly bent edge."""
    top, left = tile
    steps = gradients[top : top + _TILE_PX, left : left + _TILE_PX].reshape(-1, 2)
    weaker, stronger = np.linalg.eigvalsh(steps.T @ steps)
    return bool(weaker >= _BOTH_WAYS * stronger)


def _differ_as_a_whole(gradients: Levels) -> Mask:
    """Which pairs (n, n) are alike in few of the tiles where both have anything; tiles that do not overlap."""
    shape = len(gradients), len(gradients)
    alike, busy = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for tile in _tiles():
        if tile[0] % _TILE_PX == 0 and tile[1] % _TILE_PX == 0:
            alike_here, busy_here = _alike(gradients, tile)
            alike += alike_here
            busy += busy_here[:, None] & busy_here
    return alike <= _MOST_TILES * busy


def _joined(found: dict[Tile, set[int]]) -> list[list[Tile]]:
    """Neighbouring tiles with mostly the same pictures."""
    left_over = dict.fromkeys(sorted(found, key=lambda tile: (-len(found[tile]), tile)))
    groups: list[list[Tile]] = []
    while left_over:
        group = [next(iter(left_over))]
        del left_over[group[0]]
        for tile in group:
            for other in list(left_over):
                if max(abs(tile[0] - other[0]), abs(tile[1] - other[1])) <= _TILE_PX and _same(
                    found[tile], found[other]
                ):
                    group.append(other)
                    del left_over[other]
        groups.append(group)
    return groups


def _same(first: set[int], second: set[int]) -> bool:
    return len(first & second) >= _SAME_PICTURES * min(len(first), len(second))


def _overlay(tiles: Sequence[Tile], found: dict[Tile, set[int]], chosen: Sequence[int]) -> Overlay:
    members = sorted({chosen[picture] for tile in tiles for picture in found[tile]})
    top, left = min(tile[0] for tile in tiles), min(tile[1] for tile in tiles)
    bottom, right = (max(tile[axis] for tile in tiles) + _TILE_PX for axis in (0, 1))
    return Overlay((left / SIDE_PX, top / SIDE_PX, right / SIDE_PX, bottom / SIDE_PX), tuple(members))
