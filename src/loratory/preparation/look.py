"""One look at an original: what decides what is done to it."""

import os
from pathlib import Path

from loratory.imaging.opening import UnreadablePicture
from loratory.imaging.reading import Header, peek, read_picture
from loratory.preparation.places import Original
from loratory.preparation.record import Look, Stamp, digest_of, stamp_of

# What nothing is seen through; all others are decoded to know. PNG and TIFF may have a transparent colour in any mode.
_OPAQUE_FORMATS = ("JPEG",)
_OPAQUE_AS_RGB = ("WEBP", "AVIF", "BMP")
_PLAIN_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")


def look_at_original(original: Original) -> tuple[Look, Stamp] | str:
    """`look_at` for an original."""
    return look_at(original.path)


def look_at(path: Path) -> tuple[Look, Stamp] | str:
    """What a picture is, with the stamp of the file that was read; or why it cannot be read, as a clause."""
    stamp = stamp_of(path)
    try:
        if stamp is None:
            return "its link leads nowhere" if path.is_symlink() else "is not there"
        header = peek(path)
        picture = None if _is_opaque(header) else read_picture(path)
        digest = digest_of(path)
    except UnreadablePicture as error:
        return error.reason
    except OSError as error:
        return f"cannot be read ({error.strerror or os.strerror(error.errno or 5)})"
    transparent = picture is not None and picture.pixels.mode == "RGBA"
    is_plain = (
        not transparent
        and header.orientation == 1
        and not header.has_profile
        and header.frames == 1
        and header.mode in _PLAIN_MODES
    )
    return Look(digest, header.format, header.size, transparent, is_plain, header.frames, picture is not None), stamp


def _is_opaque(header: Header) -> bool:
    return header.format in _OPAQUE_FORMATS or (header.format in _OPAQUE_AS_RGB and header.mode == "RGB")
