"""Masks: growing them, taking specks away, and their connected parts."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loratory.imaging.recipe import Box

Mask = npt.NDArray[np.bool_]


class Part(NamedTuple):
    """A connected part of a mask. area: in px of what was measured. box: around it, in px."""

    area: int
    box: Box


def components(joined: Mask, measured: Mask) -> list[Part]:
    """The connected parts (8 neighbours) of `joined`, by first row; box and area of the px of `measured` in each.

    Both (h, w). Parts without any measured px are left out.
    """
    parents: list[int] = []

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    runs: list[tuple[int, int, int]] = []  # row, start, end
    before: list[int] = []
    for row in np.flatnonzero(joined.any(axis=1)).tolist():
        steps = np.flatnonzero(np.diff(joined[row].astype(np.int8), prepend=0, append=0)).tolist()
        if before and runs[before[0]][0] != row - 1:
            before = []
        here: list[int] = []
        place = 0
        for start, end in zip(steps[::2], steps[1::2], strict=True):
            label = len(parents)
            parents.append(label)
            runs.append((row, start, end))
            here.append(label)
            while place < len(before) and runs[before[place]][2] < start:
                place += 1
            for other in before[place:]:
                if runs[other][1] > end:
                    break
                parents[root(other)] = root(label)
        before = here
    found: dict[int, Part] = {}
    for label, (row, start, end) in enumerate(runs):
        columns = np.flatnonzero(measured[row, start:end])
        if columns.size:
            first, last, key = start + int(columns[0]), start + int(columns[-1]) + 1, root(label)
            area, box = found.get(key, Part(0, (first, row, last, row + 1)))
            grown = min(box[0], first), min(box[1], row), max(box[2], last), max(box[3], row + 1)
            found[key] = Part(area + int(columns.size), grown)
    return list(found.values())


def grown(mask: Mask, by: int) -> Mask:
    """A mask grown by `by` px to all sides, corners included."""
    for axis in (0, 1):
        padded = np.pad(mask, [(by, by) if each == axis else (0, 0) for each in (0, 1)])
        length = mask.shape[axis]
        mask = np.logical_or.reduce([np.take(padded, range(k, k + length), axis) for k in range(2 * by + 1)])
    return mask


def cleaned(mask: Mask) -> Mask:
    """Without specks: px that have fewer than three others of the mask around them."""
    padded = np.pad(mask, 1).astype(np.uint8)
    height, width = mask.shape
    around = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return mask & (around >= 4)


def box_of(mask: Mask) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def sides_of(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
