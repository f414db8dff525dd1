"""Masks: growing them, taking specks away, and their connected parts."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loratory.imaging.recipe import Box

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class Part(NamedTuple):
    """A connected part of a mask. area: in px of what was measured. box: around it, in px."""

    area: int
    box: Box


def components(joined: Mask, measured: Mask) -> list[Part]:
    """The connected parts (8 neighbours) of `joined`, by first row; box and area of the px of `measured` in each.

    Both (h, w). Parts without any measured px are left out.
    """
    # A line is two longer than its row, so that no run touches one of the row before or after it.
    line = joined.shape[1] + 2
    steps = np.flatnonzero(np.diff(np.pad(joined, ((0, 0), (1, 1))).ravel().view(np.int8), prepend=0))
    starts, ends = steps[::2], steps[1::2]
    labels = _joined_labels(starts, ends, line)
    px = np.flatnonzero(np.pad(measured, ((0, 0), (1, 1))).ravel())
    first, behind = np.searchsorted(px, starts), np.searchsorted(px, ends)
    there = behind > first
    first, behind, labels = first[there], behind[there], labels[there]
    rows = starts[there] // line
    found, places = np.unique(labels, return_inverse=True)
    areas = np.bincount(places, behind - first, found.size)
    left, right = np.full(found.size, line), np.zeros(found.size, np.intp)
    top, bottom = np.full(found.size, joined.shape[0]), np.zeros(found.size, np.intp)
    np.minimum.at(left, places, px[first] - rows * line - 1)
    np.maximum.at(right, places, px[behind - 1] - rows * line)
    np.minimum.at(top, places, rows)
    np.maximum.at(bottom, places, rows + 1)
    boxes = zip(left.tolist(), top.tolist(), right.tolist(), bottom.tolist(), strict=True)
    return [Part(int(area), box) for area, box in zip(areas, boxes, strict=True)]


def _joined_labels(starts: Indices, ends: Indices, line: int) -> Indices:
    """For each run of px the first run that it is connected with. Runs go from start to end, rows are `line` apart."""
    labels = np.arange(starts.size)
    above = np.searchsorted(ends, starts - line)  # the first run of the row above that it touches, and the one behind
    counts = np.searchsorted(starts, ends - line, side="right") - above
    lower = np.repeat(labels, counts)
    upper = np.repeat(above - np.cumsum(counts) + counts, counts) + np.arange(lower.size)
    while True:
        one, other = labels[lower], labels[upper]
        if (one == other).all():
            return labels
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while (labels[labels] != labels).any():
            labels = labels[labels]


def grown(mask: Mask, by: int) -> Mask:
    """A mask grown by `by` px to all sides, corners included."""
    for axis in (0, 1):
        across = mask if axis == 0 else mask.T
        result = across.copy()
        for step in range(1, by + 1):
            result[step:] |= across[:-step]
            result[:-step] |= across[step:]
        mask = result if axis == 0 else result.T
    return mask


def cleaned(mask: Mask) -> Mask:
    """Without specks: px that have fewer than three others of the mask around them."""
    padded = np.pad(mask, 1).view(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return mask & (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 4)


def box_of(mask: Mask) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def sides_of(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
