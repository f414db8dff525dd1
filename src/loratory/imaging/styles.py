"""How pictures are drawn, photographed or rendered, in a few numbers, and which of them look alike in that. A hint: the
numbers know colours and strokes, not artists."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loratory.imaging.facts import PictureFacts
from loratory.imaging.stars import stars

# What `style` returns, in this order.
FEATURES = (
    "colourfulness",
    "saturation",
    "brightness",
    "contrast",
    "edges",
    "dark lines",
    "flatness",
    "palette",
    "fine texture",
)
# Root of the summed squares of the features' differences, up to which two pictures look alike.
_ALIKE = 0.16
# Larger sets are sampled evenly: the time grows with the square, 2,000 take about a second.
_MOST = 2000
_BLOCK = 256


def style(rgb: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """The `FEATURES` of a picture, each 0 to 1; rgb: uint8 (h, w, 3), the longest side about 256 px.

    colourfulness: spread of the opponent colours (Hasler and Süsstrunk 2003). saturation, brightness: means. contrast:
    standard deviation of the brightness. edges: share of px at a clear edge. dark lines: of the px at edges, the share
    darker than both sides around, as in drawings with outlines. flatness: share of px that equal their neighbours.
    palette: how many of 512 colours cover 95 % of the picture, as a logarithm. fine texture: mean step between
    neighbours where there is no edge.
    """
    levels = rgb.astype(np.float32) / 255
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    light = (red + green + blue) / 3
    across, along = red - green, (red + green) / 2 - blue
    colourfulness = np.hypot(across.std(), along.std()) + 0.3 * np.hypot(across.mean(), along.mean())
    # Pair by pair: numpy takes ten times as long along an axis of three.
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = ((highest - lowest) / np.maximum(highest, 1 / 255)).mean()
    if min(light.shape) < 5:
        return _rounded((colourfulness, saturation, light.mean(), 2 * light.std(), 0, 0, 1, 0, 0))
    step = np.maximum(np.abs(light[2:, 1:-1] - light[:-2, 1:-1]), np.abs(light[1:-1, 2:] - light[1:-1, :-2]))
    is_edge = step > 0.12
    centre = light[2:-2, 2:-2]
    darker = np.minimum(
        np.minimum(light[:-4, 2:-2], light[4:, 2:-2]) - centre, np.minimum(light[2:-2, :-4], light[2:-2, 4:]) - centre
    )
    darker = np.maximum(
        darker,
        np.maximum(
            np.minimum(light[:-4, 2:-2], light[4:, 2:-2]) - centre,
            np.minimum(light[2:-2, :-4], light[2:-2, 4:]) - centre,
        ),
    )
    lines = (darker > 0.12).sum() / max(1, int(is_edge.sum()))
    quiet = step[~is_edge]
    texture = float(quiet.mean()) if quiet.size else 1.0
    cells = (rgb[..., 0] >> 5).astype(np.intp) * 64 + (rgb[..., 1] >> 5) * 8 + (rgb[..., 2] >> 5)
    counts = np.sort(np.bincount(cells.ravel(), minlength=512))[::-1]
    colours = 1 + int(np.searchsorted(np.cumsum(counts), 0.95 * cells.size))
    return _rounded(
        (
            colourfulness,
            saturation,
            light.mean(),
            2 * light.std(),
            2 * is_edge.mean(),
            lines,
            (step < 0.004).mean(),
            np.log2(colours) / 9,
            20 * texture,
        )
    )


def style_clusters(facts: Sequence[PictureFacts]) -> list[tuple[int, ...]]:
    """Groups of at least two pictures whose `style` is alike: indices into `facts`, the largest group first.

    Every member is like the one in the middle of its group. Beyond 2,000 pictures an even sample of them is grouped:
    the shares of the groups hold for all, their members are of the sample.
    """
    usable = [index for index, each in enumerate(facts) if not each.problem and each.style]
    usable = [usable[place * len(usable) // _MOST] for place in range(_MOST)] if len(usable) > _MOST else usable
    if len(usable) < 2:
        return []
    points = np.array([facts[index].style for index in usable], np.float32)
    pairs = [np.empty((0, 2), np.intp)]
    for start in range(0, len(points), _BLOCK):
        differences = points[start : start + _BLOCK, None, :] - points[None, :, :]
        rows, columns = np.nonzero((differences**2).sum(axis=2) <= _ALIKE**2)
        rows += start
        pairs.append(np.stack([rows, columns], axis=1)[rows < columns])
    groups = [tuple(sorted(usable[each] for each in group)) for group in stars(np.concatenate(pairs), len(points))]
    return sorted(groups, key=lambda group: (-len(group), group))


def _rounded(values: Sequence[float | np.floating]) -> tuple[float, ...]:
    return tuple(round(min(1.0, max(0.0, float(value))), 4) for value in values)
