"""Opening a picture file without trusting it: what it is, how large it says it is, and why it cannot be read."""

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from loratory.errors import LoratoryError
from loratory.imaging.facts import Problem

# What is wrong with a file is told in the program's own words; a warning would stand in the middle of a screen.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pillow's own limit, kept as ours so that nothing here depends on, or changes, what Pillow is set to.
LARGEST_PX = 178_956_970
# More than any picture within LARGEST_PX needs, 16 bits a channel and uncompressed.
LARGEST_BYTES = 2 << 30

# Pillow's decoders leak these on damaged files.
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnreadablePicture(LoratoryError):
    """A picture that cannot be opened or decoded; `reason` is the clause after the file's name, `problem` its kind."""

    def __init__(self, path: Path, problem: Problem, reason: str) -> None:
        self.problem: Problem = problem
        self.reason = reason
        super().__init__(f"{path}: {reason}", hint="Replace the file or remove it from the folder.")


@contextmanager
def opened(
    path: Path, formats: Sequence[str], check: Callable[[BinaryIO, bytes], None] | None = None
) -> Generator[Image.Image]:
    """The picture in `path` with its header read and its pixels not yet; `formats` as Pillow names them.

    check: is given the file and its first 16 bytes before any decoder sees them; raises what should be said. Never
    waits for a pipe, never reads a device. Raises UnreadablePicture, also for whatever a decoder raises inside the
    `with` block.
    """
    try:
        with _regular_file(path) as file:
            if check is not None:
                check(file, file.read(16))
                file.seek(0)
            image = _recognized(path, file, formats)
            width, height = image.size
            if width < 1 or height < 1:
                raise UnreadablePicture(path, "damaged", f"the picture is damaged (it claims {width}x{height} px)")
            if width * height > LARGEST_PX:
                raise UnreadablePicture(
                    path,
                    "bomb",
                    f"claims {width}x{height} px, far more than a picture for training: refused as a decompression "
                    "bomb",
                )
            yield image
    except DAMAGED as error:
        raise _unreadable(path, error) from error


@contextmanager
def _regular_file(path: Path) -> Generator[BinaryIO]:
    # Without O_NONBLOCK, opening a named pipe waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise UnreadablePicture(path, "unreadable", "is a folder, not a picture")
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadablePicture(path, "unreadable", "is no regular file but a pipe or a device: not opened")
        if facts.st_size == 0:
            raise UnreadablePicture(path, "empty", "the file is empty (0 bytes)")
        if facts.st_size > LARGEST_BYTES:
            raise UnreadablePicture(path, "bomb", f"has {facts.st_size / 1e9:.0f} GB, too many for a picture")
        yield file


def _recognized(path: Path, file: BinaryIO, formats: Sequence[str]) -> Image.Image:
    """The first of `formats` whose plug-in can read the header.

    Asks the plug-ins themselves, as `Image.open` would: that warns, on the terminal, about every picture above half of
    LARGEST_PX.
    """
    if any(name not in Image.OPEN for name in formats):
        Image.init()
    prefix = file.read(16)
    failure: Exception | None = None
    for name in formats:
        if name not in Image.OPEN:  # an older Pillow, or one built without it
            continue
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except DAMAGED as error:  # some formats share their first bytes: the next one may know better
            failure = failure or error
    if failure is not None:
        raise failure
    raise Image.UnidentifiedImageError()


def _unreadable(path: Path, error: BaseException) -> UnreadablePicture:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = "has far more pixels than a picture for training: refused as a decompression bomb"
        return UnreadablePicture(path, "bomb", reason)
    if isinstance(error, MemoryError):
        return UnreadablePicture(path, "bomb", "needs more memory than there is")
    if isinstance(error, OSError) and error.errno is not None:
        return UnreadablePicture(path, "unreadable", f"cannot be opened ({error.strerror})")
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "not a PNG, JPEG, WebP, BMP, AVIF, GIF or TIFF picture, or its header is damaged"
        return UnreadablePicture(path, "not-a-picture", reason)
    text = str(error)
    if "truncated" in text.lower():
        return UnreadablePicture(path, "truncated", "the picture is cut off: the end of the file is missing")
    return UnreadablePicture(path, "damaged", f"the picture is damaged ({text or type(error).__name__})")
