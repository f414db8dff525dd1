"""Picture files that break programs which trust them: each function writes one kind; `write_all` writes every kind."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATIONS = range(1, 9)

# What can be a file's name and is taken for markup, for a terminal's orders, for several lines or for a folder's end.
NAMES: tuple[str, ...] = (
    "[bold].png",
    "[\\b].png",
    "[@click=app.quit]x.png",
    "[red]x.png",
    "line\nbreak.png",
    "carriage\rreturn.png",
    "tab\there.png",
    "\x1b[2J\x1b]0;title\x07.png",
    "bell\x07 c1\x9b2J.png",
    "\u202egnp.desrever.png",
    "zero\u200bwidth.png",
    " leading and trailing .png",
    "-rf.png",
    "--fix.png",
    "'quoted' \"twice\".png",
    "back\\slash\\x80.png",
    "%s {0} $HOME `id`.png",
    "#hash=equals].png",
    "漢字 \U0001f98a.png",
    "cafe\u0301.png",
    "x" * 250 + ".png",
    "prepare",
    "defaults",
    b"no utf8 \xff.png".decode("utf-8", "surrogateescape"),
    b"\xc3\x28\x80.png".decode("utf-8", "surrogateescape"),
)


def pattern(width: int, height: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture that no two of its pixels share and that compresses badly: uint8 (height, width, channels)."""
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((x * 37 + y * 101 + c * 59 + x * y * 13) % 256).astype(np.uint8)


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """A small good picture, mode "RGB"."""
    return Image.fromarray(pattern(width, height))


# --- cut off ----------------------------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.5, **options: Any) -> Path:
    """A picture of the format that `path` ends in, of which only the first `share` of the bytes is there."""
    picture().save(path, **options)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    return path


def zero_tail(path: Path) -> Path:
    """A file as a broken download leaves it: of the right length, its second half all zeros."""
    picture().save(path)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    return path


def png_without_end(path: Path) -> Path:
    """All pixels are there; the last part, IEND, is not."""
    picture().save(path)
    path.write_bytes(path.read_bytes()[:-12])
    return path


def png_wrong_checksum(path: Path) -> Path:
    """One bit of the compressed pixels is flipped."""
    picture().save(path, compress_level=0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return path


# --- bombs and odd sizes ----------------------------------------------------------------------------------------------


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(path: Path, width: int = 60_000, height: int = 60_000) -> Path:
    """A PNG of under 100 bytes that claims a size and has no pixels."""
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _png_chunk(b"IDAT", b"") + _png_chunk(b"IEND", b""))
    return path


def png_bomb(path: Path, width: int = 20_000, height: int = 20_000) -> Path:
    """A valid PNG, one bit a pixel, of some 50 kB that decodes to 400 million pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.flush()
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _png_chunk(b"IDAT", pixels) + _png_chunk(b"IEND", b""))
    return path


def jpeg_of_scans(path: Path, scans: int = 5000) -> Path:
    """A progressive JPEG that repeats its last scan: a small file on which a decoder works for minutes."""
    picture(512, 512).save(path, progressive=True, quality=5)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * scans + b"\xff\xd9")
    return path


def thin(path: Path, width: int = 1, height: int = 20_000) -> Path:
    """A good picture of extreme proportions."""
    picture(width, height).save(path)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


# --- modes ------------------------------------------------------------------------------------------------------------


def grey_16_bit(path: Path) -> Path:
    """A ramp from 0 to 65535, mode "I;16"."""
    Image.fromarray(np.linspace(0, 65535, 64 * 16).reshape(16, 64).astype(np.uint16)).save(path)
    return path


def rgb_16_bit(path: Path) -> Path:
    """A PNG with 16 bits a channel, which Pillow cannot write: red rises to the right, green falls, blue is half."""
    red = np.linspace(0, 65535, 64).astype(">u2")
    row = np.stack([red, red[::-1], np.full(64, 32768, ">u2")], axis=-1).astype(">u2").tobytes()
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 16, 16, 2, 0, 0, 0))
    pixels = _png_chunk(b"IDAT", zlib.compress((b"\0" + row) * 16))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + _png_chunk(b"IEND", b""))
    return path


def float_tiff(path: Path) -> Path:
    """Grey levels from 0 to 1 as 32-bit floats."""
    Image.fromarray(np.linspace(0, 1, 64 * 16, dtype=np.float32).reshape(16, 64)).save(path, format="TIFF")
    return path


def cmyk(path: Path) -> Path:
    """Left half without ink, right half full cyan; no profile."""
    image = Image.new("CMYK", (64, 32), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (32, 0, 64, 32))
    image.save(path, quality=95)
    return path


def cmyk_with_wrong_profile(path: Path) -> Path:
    """The same with an RGB profile, which cannot be its own."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("CMYK", (64, 32), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (32, 0, 64, 32))
    image.save(path, quality=95, icc_profile=profile.replace("sRGB".encode("utf-16-be"), "wrng".encode("utf-16-be")))
    return path


def palette_with_transparency(path: Path) -> Path:
    """Palette colours: red hidden behind full transparency on the left, opaque blue on the right."""
    image = Image.new("P", (64, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (32, 0, 64, 32))
    image.save(path, transparency=0)
    return path


def hidden_colours(path: Path) -> Path:
    """Half transparent, half opaque blue; a red nobody should see is stored under the transparency."""
    image = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (32, 0, 64, 32))
    image.save(path)
    return path


def one_bit(path: Path) -> Path:
    Image.fromarray(pattern(64, 32, 1)[..., 0] > 127).save(path)
    return path


def grey_with_alpha(path: Path) -> Path:
    levels = pattern(64, 32, 2)
    Image.fromarray(levels, "LA").save(path)
    return path


def animated(path: Path, frames: int = 3) -> Path:
    """An animation (GIF, WebP or PNG, by the ending) whose first frame is red and whose others are green."""
    pictures = [
        Image.new("RGB", (48, 32), (255, 0, 0) if index == 0 else (0, 200 + index, 0)) for index in range(frames)
    ]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    return path


def turned(path: Path, orientation: int) -> Path:
    """A picture of 96x64 stored px with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(path, exif=exif)
    return path


# --- not what they are called -----------------------------------------------------------------------------------------


def jpeg_called(path: Path) -> Path:
    picture().save(path, format="JPEG", quality=90)
    return path


def html_called(path: Path) -> Path:
    """What a download leaves when the picture is gone."""
    path.write_text("<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n")
    return path


def postscript_called(path: Path) -> Path:
    """An EPS, which Pillow would give to an outside program."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    return path


def named(folder: Path, name: str) -> Path:
    """A good picture with a hostile name, whatever the name ends in."""
    path = folder / name
    picture(40, 30).save(path, format="PNG")
    return path


# --- not files --------------------------------------------------------------------------------------------------------


def symlink_loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def dangling_symlink(path: Path) -> Path:
    path.symlink_to("there is nothing of this name.png")
    return path


def folder_named(path: Path) -> Path:
    path.mkdir()
    return path


def without_permission(path: Path) -> Path:
    """Mode 000; root reads it all the same."""
    picture().save(path)
    path.chmod(0)
    return path


def pipe(path: Path) -> Path:
    """A named pipe: opening it for reading waits for ever for somebody to write."""
    os.mkfifo(path)
    return path


GOOD: dict[str, Callable[[Path], Path]] = {
    "tall.png": thin,
    "wide.png": lambda path: thin(path, 20_000, 1),
    "grey16.png": grey_16_bit,
    "rgb16.png": rgb_16_bit,
    "float.tif": float_tiff,
    "cmyk.jpg": cmyk,
    "cmyk-profile.jpg": cmyk_with_wrong_profile,
    "cmyk.tif": cmyk,
    "palette.png": palette_with_transparency,
    "hidden.png": hidden_colours,
    "hidden.webp": lambda path: hidden_colours(path),
    "one-bit.png": one_bit,
    "grey-alpha.png": grey_with_alpha,
    "moving.gif": animated,
    "moving.webp": animated,
    "moving.png": animated,
    "turned.jpg": lambda path: turned(path, 6),
    "turned.tif": lambda path: turned(path, 6),
    "really-a-jpeg.png": jpeg_called,
}
# With the `problem` that reading them has.
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut.png": (cut, "truncated"),
    "cut.jpg": (cut, "truncated"),
    "cut-progressive.jpg": (lambda path: cut(path, progressive=True), "truncated"),
    "cut.webp": (cut, "truncated"),
    "cut.gif": (cut, "truncated"),
    "cut.bmp": (cut, "truncated"),
    "cut.avif": (cut, "truncated"),
    "cut-at-the-end.jpg": (lambda path: cut(path, 0.999), "truncated"),
    "zero-tail.jpg": (zero_tail, "truncated"),
    "zero-tail.png": (zero_tail, "damaged"),
    "no-end.png": (png_without_end, "truncated"),
    "checksum.png": (png_wrong_checksum, "damaged"),
    "claims.png": (png_claiming, "bomb"),
    "bomb.png": (png_bomb, "bomb"),
    "scans.jpg": (jpeg_of_scans, "damaged"),
    "empty.png": (empty, "empty"),
    "html.jpg": (html_called, "not-a-picture"),
    "postscript.png": (postscript_called, "not-a-picture"),
    "loop.png": (symlink_loop, "unreadable"),
    "dangling.png": (dangling_symlink, "unreadable"),
    "folder.png": (folder_named, "unreadable"),
    "forbidden.png": (without_permission, "unreadable"),
    "pipe.png": (pipe, "unreadable"),
}


def write_all(folder: Path) -> list[Path]:
    """Every good, bad and badly named picture of this module, in `folder`, which has to exist."""
    written = [write(folder / name) for name, write in GOOD.items()]
    written += [write(folder / name) for name, (write, _) in BAD.items()]
    return written + [named(folder, name) for name in NAMES]
