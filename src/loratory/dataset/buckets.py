"""Which resolution each picture is trained at: sd-scripts' aspect-ratio buckets, exactly. Sizes are (width,
height), px."""

import math
from functools import lru_cache
from typing import NamedTuple

from loratory.config.schema import DatasetSettings
from loratory.errors import LoratoryError
from loratory.imaging.recipe import Box

Size = tuple[int, int]

# The largest that a configuration takes.
_LARGEST_SIDE = 8192


class Placement(NamedTuple):
    """How one picture comes to its bucket: resized to cover it, then cut at the centre.

    crop_left_top: where the cut begins inside the resized picture. ar_error: aspect ratio of the bucket minus
    that of the picture.
    """

    bucket: Size
    resized: Size
    crop_left_top: tuple[int, int]
    ar_error: float


def at_resolution(settings: DatasetSettings, resolution: Size) -> DatasetSettings:
    """The settings at another resolution, with room for tall and wide pictures a quarter above it."""
    step = settings.bucket_reso_steps
    longest = max(settings.max_bucket_reso, math.ceil(max(resolution) * 1.25 / step) * step)
    return settings.model_copy(
        update={
            "resolution": resolution,
            "min_bucket_reso": min(settings.min_bucket_reso, *resolution),
            "max_bucket_reso": min(longest, _LARGEST_SIDE),
        }
    )


@lru_cache(maxsize=64)
def make_buckets(
    resolution: Size, min_bucket_reso: int, max_bucket_reso: int, bucket_reso_steps: int
) -> tuple[Size, ...]:
    """Every bucket of at most the area of `resolution`, sorted by width, then height.

    Sides are multiples of `bucket_reso_steps` between the two limits, of which the lower is rounded down and
    the upper up to such a multiple. The largest square is always among them. Source: sd-scripts
    make_bucket_resolutions. Raises LoratoryError when the area has no room for one step.
    """
    step = bucket_reso_steps
    low, high = min_bucket_reso // step * step, -(-max_bucket_reso // step) * step
    area = resolution[0] * resolution[1]
    square = math.isqrt(area) // step * step
    buckets = {(square, square)} if square else set[Size]()
    for width in range(max(low, step), high + 1, step):
        height = min(high, area // width // step * step)
        if height >= max(low, step):
            buckets |= {(width, height), (height, width)}
    if not buckets:
        raise LoratoryError(
            f"No bucket fits: dataset.resolution = {resolution[0]}x{resolution[1]} has no room for sides "
            "that "
            f"are multiples of bucket_reso_steps = {step} from {low} to {high}.",
            hint="Set a smaller bucket_reso_steps or enable_bucket = false.",
        )
    return tuple(sorted(buckets))


def place_image(size: Size, settings: DatasetSettings) -> Placement:
    """The bucket of a picture of `size`, and how it gets there. Source: sd-scripts
    BucketManager.select_bucket.

    enable_bucket off: the one bucket is `resolution`. bucket_no_upscale: the bucket follows from the picture
    and is never larger than it; the limits on bucket sides do not apply then. Raises LoratoryError for
    settings without a bucket.
    """
    target = settings.resolution_wh
    if not settings.enable_bucket:
        bucket, resized = target, _cover(size, target)
    elif settings.bucket_no_upscale:
        bucket, resized = _shrink_only(size, target[0] * target[1], settings.bucket_reso_steps)
    else:
        buckets = make_buckets(target, settings.min_bucket_reso, settings.max_bucket_reso, settings.bucket_reso_steps)
        bucket = _closest(size[0] / size[1], buckets)
        resized = _cover(size, bucket)
    return Placement(
        bucket=bucket,
        resized=resized,
        crop_left_top=((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2),
        ar_error=bucket[0] / bucket[1] - size[0] / size[1],
    )


def widened_to_bucket(box: Box, size: Size, settings: DatasetSettings) -> Box:
    """A crop box with as much more of the picture as the shape of its bucket has room for, which the bucket would
    otherwise cut off the box. size: of the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    across, along = place_image((width, height), settings).bucket
    left, right = _widened(box[0], box[2], max(width, round(height * across / along)), size[0])
    top, bottom = _widened(box[1], box[3], max(height, round(width * along / across)), size[1])
    return left, top, right, bottom


def kohya_crop_top_left(size: Size, bucket: Size) -> tuple[int, int]:
    """The (top, left) that sd-scripts gives SDXL as crop coordinates, for comparison with its runs.

    They are not where the picture was cut: `size` is fitted inside the bucket instead of covering it, so the
    offset is on the wrong axis (sd-scripts issue 1443). The true place is `Placement.crop_left_top`.
    """
    aspect = size[0] / size[1]
    if bucket[0] / bucket[1] > aspect:
        return 0, int((bucket[0] - bucket[1] * aspect) // 2)
    return int((bucket[1] - bucket[0] / aspect) // 2), 0


def _widened(first: int, last: int, to: int, limit: int) -> tuple[int, int]:
    """A range widened to both sides within 0 to `limit`; what one side has no room for goes to the other."""
    to = min(to, limit)
    start = min(max(0, first - (to - (last - first)) // 2), limit - to)
    return start, start + to


def _closest(aspect: float, buckets: tuple[Size, ...]) -> Size:
    # The plain difference of ratios, which is kinder to portraits than to landscapes: what every kohya user
    # gets.
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))


def _cover(size: Size, bucket: Size) -> Size:
    """`size` scaled so that one side meets the bucket and the other reaches over it."""
    width, height = size
    if width / height > bucket[0] / bucket[1]:
        scale = bucket[1] / height
    else:
        scale = bucket[0] / width
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _shrink_only(size: Size, area: int, step: int) -> tuple[Size, Size]:
    """(bucket, resized) for `bucket_no_upscale`: a picture keeps its size, or shrinks to `area` px."""
    width, height = size
    resized = size
    if width * height > area:
        aspect = width / height
        ideal_width = math.sqrt(area * aspect)
        by_width = _round_down(ideal_width, step)
        by_height = _round_down(area / ideal_width, step)
        height_of_width = _round_down(by_width / aspect, step)
        width_of_height = _round_down(by_height * aspect, step)
        if not (by_height and height_of_width and by_width and width_of_height):
            return _one_step_strip(size, area, step)
        if abs(by_width / height_of_width - aspect) < abs(width_of_height / by_height - aspect):
            resized = by_width, int(by_width / aspect + 0.5)
        else:
            resized = int(by_height * aspect + 0.5), by_height
    bucket = resized[0] // step * step, resized[1] // step * step
    return (bucket, resized) if all(bucket) else _one_step_strip(size, area, step)


def _one_step_strip(size: Size, area: int, step: int) -> tuple[Size, Size]:
    """(bucket, resized) with the short side one step: for the pictures too small or too narrow for any other.

    The only case in which `bucket_no_upscale` enlarges, by the least possible; sd-scripts stops with an error
    here.
    """
    scale = step / min(size)
    resized = max(step, int(size[0] * scale + 0.5)), max(step, int(size[1] * scale + 0.5))
    longest = max(step, area // step // step * step)
    return (min(longest, resized[0] // step * step), min(longest, resized[1] // step * step)), resized


def _round_down(value: float, step: int) -> int:
    return int(value + 0.5) // step * step
