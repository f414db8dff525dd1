"""Makes the files of one picture, each beside its place under a temporary name."""

import errno
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from PIL import Image

from loratory.atomic import temporary_beside
from loratory.errors import LoratoryError
from loratory.imaging.apply import Enlarge, apply, lanczos, tags_of
from loratory.imaging.reading import read_picture
from loratory.imaging.workers import Failure
from loratory.preparation.plan import Plan, target_size
from loratory.preparation.record import Stamp, digest_of_bytes, stamp_of
from loratory.upscaling import Stopped

if TYPE_CHECKING:
    from loratory.upscaling.upscaler import Upscaler

DISK_FULL = "the disk is full"
_FULL = (errno.ENOSPC, errno.EDQUOT)

# Measured on nine pictures of 0.4 to 2 Mpx, drawn and photo-like: level 3 is a fifth faster and its files 9 % larger,
# level 6 a tenth slower and 0.4 % smaller, level 9 three times slower and 1 % smaller.
_PNG_LEVEL = 4
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Written:
    """A file that waits to be renamed to `target`. stamp: it keeps it when it is."""

    target: Path
    temporary: Path
    digest: str
    stamp: Stamp


@dataclass(frozen=True)
class Made:
    """What was made of one original, and the tags that tell of it."""

    files: tuple[Written, ...]
    tags: tuple[str, ...]


def make(plan: Plan, enlarge: Enlarge = lanczos) -> Made | Failure:
    """Makes what a plan tells, and leaves it under temporary names. enlarge: a network's where the plan needs one."""
    written: list[Written] = []
    try:
        if not plan.targets:
            return Made((), ())
        files, tags = _files(plan, enlarge)
        for target, data in zip(plan.targets, files, strict=True):
            written.append(_write(target, data))
    except (LoratoryError, OSError) as error:
        for one in written:
            with suppress(OSError):
                one.temporary.unlink()
        return Failure(_reason(error))
    return Made(tuple(written), tags)


class Maker:
    """Makes pictures that need a network, which is loaded when the first does.

    tell: is given what could not be done as asked, a sentence each.
    """

    def __init__(self, stop: Event, tell: Callable[[str], None]) -> None:
        self._stop = stop
        self._tell = tell
        self._upscalers: dict[str, Upscaler] = {}

    def make(self, plan: Plan) -> Made | Failure:
        """As `make`."""

        def enlarge(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
            upscaler = self._upscaler(plan.settled.upscaler)
            try:
                return upscaler.enlarge(picture, size, stop=self._stop)
            finally:
                self._tell_notes(upscaler)

        try:
            return make(plan, enlarge)
        except Stopped:
            return Failure("stopped")
        except Exception as error:  # noqa: BLE001 - of torch, such as memory that ran out: costs this picture alone
            return Failure(f"{type(error).__name__}: {error}")

    def _tell_notes(self, upscaler: "Upscaler") -> None:
        while upscaler.notes:  # those of this picture: each is told once
            self._tell(upscaler.notes.pop(0))

    def _upscaler(self, name: str) -> "Upscaler":
        if name not in self._upscalers:
            from loratory.upscaling import open_upscaler

            self._upscalers[name] = open_upscaler(name)
        return self._upscalers[name]


def encoded(picture: Image.Image, format_name: str) -> bytes:
    """The picture as a file without any metadata; the same bytes each time."""
    buffer = io.BytesIO()
    match format_name:
        case "PNG":
            picture.save(buffer, "PNG", compress_level=_PNG_LEVEL)
        case "JPEG":
            picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        case _:
            picture.save(buffer, "WEBP", lossless=True, quality=40)
    return buffer.getvalue()


def _files(plan: Plan, enlarge: Enlarge) -> tuple[list[bytes], tuple[str, ...]]:
    path, settled = plan.original.path, plan.settled
    if plan.copies:
        if not plan.look.whole:
            read_picture(path)  # raises for one that is cut off
        data = path.read_bytes()
        if digest_of_bytes(data) != plan.look.digest:
            raise LoratoryError("it was changed while it was prepared: run it again")
        return [data], settled.tags
    picture = read_picture(path).pixels
    made = apply(picture, settled, enlarge, target=lambda size: target_size(size, settled))
    return [encoded(one, plan.format) for one in made], tags_of(settled, picture)


def _write(target: Path, data: bytes) -> Written:
    temporary = temporary_beside(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        stamp = stamp_of(temporary)
        assert stamp is not None
        return Written(target, temporary, digest_of_bytes(data), stamp)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _reason(error: LoratoryError | OSError) -> str:
    if isinstance(error, OSError):
        return DISK_FULL if error.errno in _FULL else f"{error.strerror or error}"
    return getattr(error, "reason", error.message)
