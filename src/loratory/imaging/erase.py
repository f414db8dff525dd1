"""Filling a rectangle from what is around it, as if what stood there had never been drawn."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from loratory.errors import LoratoryError
from loratory.imaging.recipe import Box

Levels = npt.NDArray[np.float32]

# Sides longer than this are solved at a smaller size: the cost grows with the third power of the side.
_LARGEST_SIDE_PX = 512
# How far around the box its grain is measured, and the most that is taken for grain rather than for drawing.
_BAND_PX = 24
_MOST_GRAIN = 10.0


class _Edges(NamedTuple):
    """The colours just outside a box, float32 (length, 3) each; None where the picture ends."""

    left: Levels | None
    top: Levels | None
    right: Levels | None
    bottom: Levels | None


def filled(picture: Image.Image, box: Box) -> Image.Image:
    """The picture, "RGB", with `box` (inside it) filled from the colours along its edges; nothing else changes.

    The smoothest surface that meets those colours (Laplace's equation), with the grain of the surroundings on it; on a
    plain ground it is exactly plain. Structures that the box cuts are not continued. The same box of the same picture
    is always filled in the same way. Raises LoratoryError for a box that covers the whole picture.
    """
    left, top, right, bottom = box
    rgb = np.asarray(picture)
    height, width = rgb.shape[:2]
    edges = _Edges(
        left=_outside(rgb[top:bottom, max(left - 3, 0) : left][:, ::-1].transpose(1, 0, 2)),
        top=_outside(rgb[max(top - 3, 0) : top, left:right][::-1]),
        right=_outside(rgb[top:bottom, right : right + 3].transpose(1, 0, 2)),
        bottom=_outside(rgb[bottom : bottom + 3, left:right]),
    )
    if all(edge is None for edge in edges):
        raise LoratoryError(
            f"The box of `erase` covers the whole picture of {width}x{height} px: nothing is left to fill it from.",
            hint="Use `skip = true` to leave the picture out.",
        )
    surface = _smooth_surface(edges, (bottom - top, right - left))
    surface += _grain(rgb, box)
    result = rgb.copy()
    result[top:bottom, left:right] = np.rint(surface).clip(0, 255).astype(np.uint8)
    return Image.fromarray(result)


def _outside(rows: npt.NDArray[np.uint8]) -> Levels | None:
    """The colour along an edge from up to three rows outside it, nearest first: their median is free of specks."""
    return np.median(rows, axis=0).astype(np.float32) if len(rows) else None


def _smooth_surface(edges: _Edges, shape: tuple[int, int]) -> Levels:
    """The solution of Laplace's equation in a rectangle of (height, width) px: float32 (height, width, 3).

    Along edges with colours it meets them, along the picture's own end it is level. Exact, by the eigenvectors of the
    two one-dimensional problems, which are sines and cosines.
    """
    height, width = shape
    if max(shape) > _LARGEST_SIDE_PX:
        scale = _LARGEST_SIDE_PX / max(shape)
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        lengths = (small[0], small[1], small[0], small[1])
        fewer = _Edges(*(None if e is None else _resampled(e, n) for e, n in zip(edges, lengths, strict=True)))
        coarse = _smooth_surface(fewer, small)
        return np.stack(
            [
                np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC))
                for c in range(3)
            ],
            axis=-1,
        )
    # Relative to one of the colours: a plain edge leaves exact zeros to solve for.
    base = np.median(np.concatenate([edge for edge in edges if edge is not None]), axis=0)
    load = np.zeros((3, height, width))
    for sides, edge in (
        (load[:, :, 0], edges.left),
        (load[:, 0, :], edges.top),
        (load[:, :, -1], edges.right),
        (load[:, -1, :], edges.bottom),
    ):
        if edge is not None:
            sides += (edge - base).T
    down, down_values = _waves(height, edges.top is not None, edges.bottom is not None)
    across, across_values = _waves(width, edges.left is not None, edges.right is not None)
    spectrum = down.T @ load @ across / (down_values[:, None] + across_values)
    surface = down @ spectrum @ across.T
    return (surface.transpose(1, 2, 0) + base).astype(np.float32)


def _waves(
    length: int, starts_known: bool, ends_known: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvectors, as columns of unit length, and eigenvalues of minus the second difference over `length` px.

    An end is either next to a known value (sines vanish there) or free (cosines are level there).
    """
    if ends_known and not starts_known:
        vectors, values = _waves(length, True, False)
        return vectors[::-1], values
    order, place = np.arange(length), np.arange(length)[:, None]
    if starts_known and ends_known:
        angles = np.pi * (order + 1) / (length + 1)
        vectors = np.sin(angles * (place + 1))
    elif starts_known:
        angles = np.pi * (order + 0.5) / (length + 0.5)
        vectors = np.sin(angles * (place + 1))
    else:
        angles = np.pi * order / length
        vectors = np.cos(angles * (place + 0.5))
    return vectors / np.linalg.norm(vectors, axis=0), 2 - 2 * np.cos(angles)


def _resampled(edge: Levels, length: int) -> Levels:
    """An edge of (n, 3) at another length: means where it gets shorter."""
    resized = [Image.fromarray(edge[None, :, c]).resize((length, 1), Image.Resampling.BOX) for c in range(3)]
    return np.stack([np.asarray(channel)[0] for channel in resized], axis=-1)


def _grain(rgb: npt.NDArray[np.uint8], box: Box) -> Levels | float:
    """Noise for the box with the strength and the colour of that around it: float32 (height, width, 3), or 0.0."""
    left, top, right, bottom = box
    first_x, first_y = max(left - _BAND_PX, 0), max(top - _BAND_PX, 0)
    band = rgb[first_y : bottom + _BAND_PX, first_x : right + _BAND_PX].astype(np.float32)
    if min(band.shape[:2]) < 3:
        return 0.0
    # What is left of each pixel after the mean of its 3x3 neighbours, those that touch the box or the end left out.
    rows = band[:-2] + band[1:-1] + band[2:]
    rest = band[1:-1, 1:-1] - (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    outside = np.ones(rest.shape[:2], bool)
    outside[max(top - first_y - 2, 0) : bottom - first_y, max(left - first_x - 2, 0) : right - first_x] = False
    rest = rest[outside]
    if len(rest) < 16:
        return 0.0
    # The median does not see the lines of a drawing, while fewer than half of the pixels are on one.
    spread = np.median(np.abs(rest), axis=0) / 0.6745
    if not spread.any():
        return 0.0
    noise = rest[(np.abs(rest) <= 3 * spread).all(axis=1)].astype(np.float64)
    # Taking the mean away took a ninth of the variance along.
    covariance = noise.T @ noise / max(len(noise), 1) * (9 / 8)
    values, vectors = np.linalg.eigh(covariance)
    mixing = vectors * np.sqrt(values.clip(0, _MOST_GRAIN**2))
    drawn = np.random.default_rng(box).standard_normal((bottom - top, right - left, 3))
    return (drawn @ mixing.T).astype(np.float32)
