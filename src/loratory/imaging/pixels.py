"""Pictures as training sees them: upright, opaque, sRGB, 8 bits a channel, cover-resized and cropped to a
bucket."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from loratory.errors import LoratoryError
from loratory.imaging.opening import DAMAGED, opened
from loratory.imaging.opening import UnreadablePicture as UnreadablePicture  # its usual place for others

# What a folder for training may hold. Others that Pillow knows are not tried, whatever a file's name says:
# some start outside programs (EPS), and none is a picture people train on. GIF is read because it hides
# behind .webp.
READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "GIF")

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
}


class Crop(Protocol):
    """The part of a bucket placement that cutting pixels needs; all (width, height) or (left, top) in px."""

    @property
    def bucket(self) -> tuple[int, int]: ...
    @property
    def resized(self) -> tuple[int, int]: ...
    @property
    def crop_left_top(self) -> tuple[int, int]: ...


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in px of the upright picture, read from the header alone.

    Orientation comes from the EXIF or XMP data before the pixels, as in `open_rgb`. Raises UnreadablePicture.
    """
    with opened(path, READABLE_FORMATS) as image:
        width, height = image.size
        return (height, width) if stored_orientation(image) >= 5 else (width, height)


def open_rgb(path: Path, background: Sequence[int] = (255, 255, 255)) -> Image.Image:
    """The picture upright, in sRGB, flattened onto `background` ((red, green, blue), 0 to 255): mode "RGB".

    Colours hidden under transparent pixels never show. Embedded ICC profiles are converted to sRGB, invalid
    ones ignored. 16-bit grey is scaled to 8 bits. Of an animation it is the first frame. Raises
    UnreadablePicture.
    """
    with opened(path, READABLE_FORMATS) as image:
        # Asked before the pixels are loaded, so that it agrees with `picture_size`: PNG may carry more
        # after them.
        orientation = stored_orientation(image)
        image.load()
        alpha = opacity_of(image)
        picture = to_srgb(image)
    if alpha is not None:
        ground = Image.new("RGB", picture.size, (background[0], background[1], background[2]))
        picture = Image.composite(picture, ground, alpha)
    turn = UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def training_mask(path: Path, placement: Crop, *, alpha: bool) -> npt.NDArray[np.float32] | None:
    """How much each latent pixel counts, 0 to 1: float32 (height / 8, width / 8) of the bucket; None where all counts.

    alpha: the opacity of a training picture; otherwise the red channel of a mask picture, whose size need not be that
    of its training picture. Averaged over the 8x8 px that one latent stands for. Raises UnreadablePicture.
    """
    if alpha:
        with opened(path, READABLE_FORMATS) as image:
            orientation = stored_orientation(image)
            image.load()
            opacity = opacity_of(image)
        if opacity is None:
            return None
        turn = UPRIGHT.get(orientation)
        mask = opacity if turn is None else opacity.transpose(turn)
    else:
        mask = open_rgb(path).getchannel("R")
    levels = np.asarray(mask)[..., None]
    resized = (
        resize_area(levels, placement.resized)[..., 0] if levels.shape[1::-1] != placement.resized else levels[..., 0]
    )
    left, top = placement.crop_left_top
    width, height = placement.bucket
    cut = resized[top : top + height, left : left + width].astype(np.float32) / 255
    return cut.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))


def training_pixels(
    path: Path,
    placement: Crop,
    background: Sequence[int] = (255, 255, 255),
    interpolation: str | None = None,
) -> npt.NDArray[np.uint8]:
    """The picture resized to `placement.resized` and cut to its bucket: uint8 (height, width, 3).

    interpolation: "lanczos", "area", "bicubic", "bilinear", "nearest" or "box"; None is sd-scripts' choice,
    area averaging when no side grows and Lanczos otherwise. All but "area" are Pillow's, which widens its
    filters when shrinking. Raises UnreadablePicture, and LoratoryError when the picture no longer has the
    proportions that `placement` was computed from.
    """
    picture = open_rgb(path, background)
    (width, height), (to_width, to_height) = picture.size, placement.resized
    # Each resized side is off by at most half a pixel from one common scale; more means another picture.
    if abs(to_width * height - to_height * width) > (width + height) / 2 + 1e-6 * width * height:
        raise LoratoryError(
            f"{path}: the picture is now {width}x{height} px, which is not the shape it had when the dataset was read.",
            hint="Start again, so that the changed picture gets its own bucket.",
        )
    if interpolation is None:
        interpolation = "area" if width >= to_width and height >= to_height else "lanczos"
    if (width, height) == (to_width, to_height):
        pixels = np.asarray(picture)
    elif interpolation == "area":
        pixels = resize_area(np.asarray(picture), (to_width, to_height))
    else:
        pixels = np.asarray(picture.resize((to_width, to_height), _RESAMPLING[interpolation]))
    left, top = placement.crop_left_top
    bucket_width, bucket_height = placement.bucket
    return pixels[top : top + bucket_height, left : left + bucket_width].copy()


def resize_area(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Area averaging: each new pixel is the mean of the area it covers, edge pixels counted by their share.

    pixels: uint8 (height, width, channels); size: new (width, height) in px, smaller or larger. What OpenCV
    calls INTER_AREA: halves round to even, except up when both sides halve exactly. All sums are integers
    held in float64, hence the same on every machine.
    """
    height, width, channels = pixels.shape
    to_width, to_height = size
    # Half the memory, and as exact, while the largest sum has at most float32's 24 bits.
    first_sums = np.float32 if 255 * height < 1 << 24 else np.float64
    columns_summed = _sum_areas(pixels.reshape(height, width * channels), to_height, first_sums)
    turned = np.ascontiguousarray(columns_summed.reshape(to_height, width, channels).transpose(1, 0, 2))
    summed = _sum_areas(turned.reshape(width, to_height * channels), to_width, np.float64)
    mean = summed.reshape(to_width, to_height, channels).transpose(1, 0, 2) / (height * width)
    halved = (width, height) == (2 * to_width, 2 * to_height)
    return (np.floor(mean + 0.5) if halved else np.rint(mean)).astype(np.uint8)


def _sum_areas(
    rows: npt.NDArray[np.generic], count: int, dtype: type[np.float32] | type[np.float64]
) -> npt.NDArray[np.floating]:
    """Sums `rows` (n, m) into (count, m); weights are in units of 1/count row, so each new row weighs n.

    dtype must hold every sum exactly. One small product per new row: no temporary larger than the rows it
    covers, and 3000x3000 to 512x512 px takes less than 0.1 s on one core.
    """
    total = rows.shape[0]
    result = np.empty((count, rows.shape[1]), dtype)
    for index in range(count):
        start, end = index * total, (index + 1) * total
        first, last = start // count, -(-end // count)
        weights = np.full(last - first, count, dtype)
        weights[0] -= start % count
        weights[-1] -= last * count - end
        np.matmul(weights, rows[first:last], out=result[index])
    return result


def stored_orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 of a picture whose pixels were not loaded yet; 1 where there is none or it is
    damaged."""
    try:
        # Not `image.getexif()`: for PNG that decodes all pixels in search of more.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def opacity_of(image: Image.Image) -> Image.Image | None:
    """The opacity of a loaded picture as mode "L"; None when every pixel is opaque."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        return Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8))
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def to_srgb(image: Image.Image) -> Image.Image:
    """The colours of a loaded picture as sRGB, mode "RGB", transparency left out; the picture itself where it is that
    already."""
    if image.mode == "RGB" and not image.has_transparency_data:
        colours = image
    elif image.mode.startswith("I"):
        levels = np.asarray(image).clip(0, 65535)
        colours = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    elif image.mode == "CMYK":
        colours = image
    elif image.mode in ("1", "L", "LA"):
        colours = image.convert("L")
    else:
        # By way of RGBA: straight to RGB, a palette with transparency warns.
        colours = image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    converted = _apply_profile(colours, image.info.get("icc_profile"))
    return converted if converted.mode == "RGB" else converted.convert("RGB")  # which would copy it once more


def has_foreign_profile(profile: object) -> bool:
    """Whether an ICC profile can be read and is of other colours than sRGB."""
    if not isinstance(profile, bytes) or not profile:
        return False
    try:
        return not _is_srgb(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    # Colours that are sRGB already must come through bit for bit, which a transform does not promise.
    return ImageCms.getProfileDescription(profile).strip() in ("sRGB", "sRGB built-in", "sRGB IEC61966-2.1")


def _apply_profile(colours: Image.Image, profile: object) -> Image.Image:
    """Mode "L", "RGB" or "CMYK" through its ICC profile to sRGB; unchanged where the profile is absent or
    unfit."""
    if not isinstance(profile, bytes) or not profile:
        return colours
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _is_srgb(source):
            return colours
        converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return colours
    return colours if converted is None else converted
