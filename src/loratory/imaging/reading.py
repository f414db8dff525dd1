"""Reading any picture a person may have: upright, sRGB, 8 bits a channel, its transparency kept."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from loratory.imaging.completeness import Corrupt, Incomplete, check_completeness
from loratory.imaging.opening import DAMAGED, UnreadablePicture, opened
from loratory.imaging.pixels import (
    READABLE_FORMATS,
    UPRIGHT,
    has_foreign_profile,
    opacity_of,
    stored_orientation,
    to_srgb,
)

# What `read_picture` knows beside READABLE_FORMATS. MPO is the JPEG of cameras that add a preview.
_MORE_FORMATS = ("TIFF",)
# By the format's name in Pillow: the module that teaches Pillow to read it, and the package that has it.
_PLUGINS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a")


@dataclass(frozen=True)
class Header:
    """What a picture tells before its pixels are decoded.

    format: what the bytes are, as Pillow names it. mode: Pillow's, of what is stored. size: (width, height) in px,
    upright. orientation: EXIF, 1 to 8. frames: of an animation, or pages; 1 for a plain picture. has_profile: an ICC
    profile that is not sRGB.
    """

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int
    frames: int
    has_profile: bool


@dataclass(frozen=True)
class Picture(Header):
    """pixels: upright, sRGB, mode "RGB", or "RGBA" with straight alpha where something is transparent."""

    pixels: Image.Image


def peek(path: Path) -> Header:
    """What the header tells; no pixel is decoded, and a file that is cut off later may pass.

    Raises UnreadablePicture.
    """
    try:
        with opened(path, _formats(), _Refusals(path, whole=False)) as image:
            return _header_of(image)
    except UnreadablePicture as error:
        if error.problem in ("damaged", "not-a-picture"):
            # Some decoders do not begin where the end is missing, and cannot say so: `read_picture` can.
            with opened(path, _formats(), _Refusals(path, whole=True)):
                pass
        raise


def read_picture(path: Path) -> Picture:
    """The whole picture, of an animation its first frame, of pages the first.

    PNG, JPEG, WebP, BMP, AVIF, GIF and TIFF; HEIC and JPEG XL where pillow-heif and pillow-jxl-plugin are installed.
    16 bits, float, palette, CMYK and LAB come out as 8-bit sRGB. Colours under full transparency stay as they are
    stored: `flattened` before any resizing keeps them from showing. Raises UnreadablePicture, also for a file that is
    cut off or whose checksums are wrong, which decoders would let pass.
    """
    with opened(path, _formats(), _Refusals(path, whole=True)) as image:
        header = _header_of(image)
        with suppress(EOFError):
            image.seek(0)
        image.load()
        image = _within_8_bits(image)
        alpha = opacity_of(image)
        pixels = to_srgb(image)
        if alpha is not None:
            pixels.putalpha(alpha)
        # Pillow turns TIFF pictures itself.
        turn = None if header.format == "TIFF" else UPRIGHT.get(header.orientation)
        if turn is not None:
            pixels = pixels.transpose(turn)
        # A profile of other colours, done with by now, would be saved with them and change them once more.
        pixels.info = {}
    return Picture(
        format=header.format,
        mode=header.mode,
        size=pixels.size,
        orientation=header.orientation,
        frames=header.frames,
        has_profile=header.has_profile,
        pixels=pixels,
    )


def flattened(pixels: Image.Image, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The picture on a plain ground: mode "RGB"; one without transparency comes back as it is."""
    if pixels.mode != "RGBA":
        return pixels
    return Image.composite(pixels.convert("RGB"), Image.new("RGB", pixels.size, colour), pixels.getchannel("A"))


class _Refusals:
    """What is refused before a decoder sees it."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self._path = path
        self._whole = whole

    def __call__(self, file: BinaryIO, start: bytes) -> None:
        name = _plugin_format(start)
        # A file of the brands "mif1" and "msf1" may be AVIF as well, which Pillow reads itself.
        if name and name not in _formats() and start[8:12] not in (b"mif1", b"msf1"):
            title = "HEIC" if name == "HEIF" else "JPEG XL"
            reason = f"is a {title} picture: to read these, install the package {_PLUGINS[name][1]}"
            raise UnreadablePicture(self._path, "unreadable", reason)
        if not self._whole:
            return
        try:
            check_completeness(file, start)
        except Incomplete as error:
            reason = str(error) or "the end of the file is missing"
            raise UnreadablePicture(self._path, "truncated", f"the picture is cut off: {reason}") from None
        except Corrupt as error:
            raise UnreadablePicture(self._path, "damaged", f"the picture is damaged ({error})") from None


def _plugin_format(start: bytes) -> str:
    if start.startswith(_JXL_STARTS):
        return "JXL"
    return "HEIF" if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS else ""


@cache
def _formats() -> tuple[str, ...]:
    found: list[str] = []
    for name, (module_name, _) in _PLUGINS.items():
        with suppress(ImportError, OSError):  # OSError: installed, but a library that it needs is not
            module = import_module(module_name)
            if name == "HEIF":
                module.register_heif_opener()
            found.append(name)
    return (*READABLE_FORMATS, *_MORE_FORMATS, *found)


def _header_of(image: Image.Image) -> Header:
    name = "JPEG" if image.format == "MPO" else image.format or ""
    orientation = stored_orientation(image)
    width, height = image.size
    # Pillow's size of a TIFF is upright already.
    turned = orientation >= 5 and name != "TIFF"
    return Header(
        format=name,
        mode=image.mode,
        size=(height, width) if turned else (width, height),
        orientation=orientation,
        frames=1 if image.format == "MPO" else _frames(image),
        has_profile=has_foreign_profile(image.info.get("icc_profile")),
    )


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except DAMAGED:  # a later frame is cut off; the first one is all that is taken
        return 2


def _within_8_bits(image: Image.Image) -> Image.Image:
    """A loaded picture in a mode that `to_srgb` knows: float levels scaled, LAB as RGB; others unchanged."""
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
        lowest, highest = float(levels.min()), float(levels.max())
        # A file does not say what its white is: the smallest of the usual ones that holds every level.
        white = next((white for white in (1.0, 255.0, 65535.0) if highest <= white), highest)
        lowest = min(lowest, 0.0)
        return Image.fromarray(np.rint((levels - lowest) * (255 / (white - lowest))).astype(np.uint8))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return image if converted is None else converted
    return image
