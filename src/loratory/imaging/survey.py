"""One look at each picture of a set: in several processes, and only at those that changed since the last time."""

import os
import stat
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
from PIL import Image

from loratory.imaging.background import WORKING_PX, find_ground_and_figures
from loratory.imaging.facts import Ground, PictureFacts
from loratory.imaging.fingerprints import SIDE_PX, hashes, thumbnail
from loratory.imaging.opening import LARGEST_BYTES
from loratory.imaging.pixels import UnreadablePicture
from loratory.imaging.quality import blockiness, detail, is_grey, residual, sharpness
from loratory.imaging.reading import Picture, flattened, peek, read_picture
from loratory.imaging.recipe import Box
from loratory.imaging.styles import style
from loratory.imaging.survey_cache import Stamp, SurveyCache, stamp_of
from loratory.imaging.workers import Failure, mapped

# What `quality.sharpness` shrinks to by itself, more slowly.
SHARPNESS_PX = 512
_PIECE_BYTES = 1 << 20
# Levels that a colour behind transparency may differ from white before somebody sees it.
_WHITE_ENOUGH = 8


def survey(
    paths: Iterable[Path], *, workers: int | None = None, stop: Event | None = None
) -> Generator[tuple[Path, PictureFacts]]:
    """Yields each path with the facts about its file: first those known from an earlier survey, then the others as they
    come.

    Nothing is raised because of a picture: facts of an unreadable one tell its problem. workers: as for
    `workers.mapped`. `stop` ends the survey early; what was found is kept. Memory does not grow with the number of
    pictures, but for their paths.
    """
    cache = SurveyCache()
    try:
        unknown: list[Path] = []
        for path in paths:
            if stop is not None and stop.is_set():
                return
            stamp = stamp_of(path)
            facts = cache.find(path, stamp) if stamp else None
            if facts is None:
                unknown.append(path)
            else:
                yield path, facts
        for path, look in mapped(_look, unknown, workers=workers, stop=stop):
            if isinstance(look, Failure):
                yield path, _facts_of_killer(path, look)
                continue
            stamp, facts = look
            # Problems may end by themselves: a mode, a plug-in, a copy that was under way.
            if stamp is not None and not facts.problem:
                cache.keep(path, stamp, facts)
            yield path, facts
    finally:
        cache.close()


def facts_of(path: Path) -> PictureFacts:
    """What one look at the file tells; never raises, never waits for a pipe.

    The pixels are decoded once. What full resolution shows is looked for in a bounded part of them, all else in a
    copy of at most 256 px.
    """
    size_bytes, digest, trouble = _digest(path)
    facts = PictureFacts(size_bytes=size_bytes, digest=digest)
    try:
        return _facts_of_pixels(facts, read_picture(path))
    except UnreadablePicture as error:
        facts = replace(facts, problem=error.problem, reason=error.reason)
    except MemoryError:
        facts = replace(facts, problem="bomb", reason="needs more memory than there is")
    except (OSError, ValueError) as error:  # a name that no file can have, among others
        facts = replace(facts, problem="unreadable", reason=trouble or f"cannot be opened ({error})")
    with suppress(UnreadablePicture, MemoryError, OSError, ValueError):
        header = peek(path)
        facts = replace(
            facts,
            format=header.format,
            mode=header.mode,
            size=header.size,
            orientation=header.orientation,
            frames=header.frames,
            has_profile=header.has_profile,
        )
    return facts


def _look(path: Path) -> tuple[Stamp | None, PictureFacts]:
    """The facts with the stamp of the file that they are about; None where it changed meanwhile."""
    before = stamp_of(path)
    facts = facts_of(path)
    return before if before == stamp_of(path) else None, facts


def _facts_of_killer(path: Path, failure: Failure) -> PictureFacts:
    size_bytes, digest, _ = _digest(path)
    reason = f"cannot be decoded ({failure.reason})"
    return PictureFacts(size_bytes=size_bytes, digest=digest, problem="damaged", reason=reason)


def _digest(path: Path) -> tuple[int, str, str]:
    """Size in bytes and digest of a regular file; (0, "", why) where there is none to read.

    No digest of a file that is too large for a picture: reading it could take hours.
    """
    digest, size_bytes = blake2b(), 0
    try:
        # Opening a named pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return 0, "", "is no regular file"
            if status.st_size > LARGEST_BYTES:
                return status.st_size, "", ""
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size_bytes += len(piece)
    except (OSError, ValueError) as error:
        return 0, "", f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    return size_bytes, digest.hexdigest(), ""


def _facts_of_pixels(facts: PictureFacts, picture: Picture) -> PictureFacts:
    transparent_share, hides_colours = _transparency(picture.pixels)
    working = _at_most(picture.pixels, WORKING_PX)
    rgb = np.asarray(flattened(working))
    grey = _grey(picture.pixels)
    levels = np.asarray(grey)
    squeezed = thumbnail(rgb)
    hash_, mirrored_hash = hashes(np.frombuffer(squeezed, np.uint8).reshape(SIDE_PX, SIDE_PX))
    ground, figures = find_ground_and_figures(rgb)
    return replace(
        facts,
        format=picture.format,
        mode=picture.mode,
        size=picture.size,
        orientation=picture.orientation,
        has_profile=picture.has_profile,
        frames=picture.frames,
        transparent_share=transparent_share,
        hides_colours=hides_colours,
        ground=None if ground is None else _enlarged_ground(ground, working.size, picture.size),
        figures=tuple(_enlarged(box, working.size, picture.size) for box in figures),
        is_grey=is_grey(rgb),
        sharpness=sharpness(np.asarray(_at_most(grey, SHARPNESS_PX))),
        detail=detail(levels),
        blockiness=blockiness(levels),
        residual=residual(levels),
        hash=hash_,
        mirrored_hash=mirrored_hash,
        thumbnail=squeezed,
        style=style(rgb),
    )


def _at_most(pixels: Image.Image, longest_px: int) -> Image.Image:
    """The picture with sides of at most longest_px, each px the mean of what it covers, weighed by opacity."""
    longest = max(pixels.size)
    if longest <= longest_px:
        return pixels
    width, height = (max(1, round(side * longest_px / longest)) for side in pixels.size)
    return pixels.resize((width, height), Image.Resampling.BOX, reducing_gap=1.0)


def _grey(pixels: Image.Image) -> Image.Image:
    """The picture's grey levels at its full size, on white."""
    grey = pixels.convert("L")
    if pixels.mode == "RGBA":
        ground = Image.new("L", pixels.size, 255)
        ground.paste(grey, mask=pixels.getchannel("A"))
        return ground
    return grey


def _transparency(pixels: Image.Image) -> tuple[float, bool]:
    """The share of px that are not opaque, and whether other colours than white are stored behind them."""
    if pixels.mode != "RGBA":
        return 0.0, False
    alpha = pixels.getchannel("A")
    share = 1 - alpha.histogram()[255] / (pixels.width * pixels.height)
    # A sample of single px: means would mix what is behind with what is shown.
    step = max(1, max(pixels.size) // WORKING_PX)
    sample: npt.NDArray[np.uint8] = np.asarray(pixels)[::step, ::step]
    behind = sample[sample[..., 3] == 0][:, :3]
    return share, bool((behind < 255 - _WHITE_ENOUGH).any())


def _enlarged_ground(ground: Ground, small: tuple[int, int], size: tuple[int, int]) -> Ground:
    return replace(ground, box=_enlarged(ground.box, small, size))


def _enlarged(box: Box, small: tuple[int, int], size: tuple[int, int]) -> Box:
    """A box in px of the working copy, in px of the picture, rounded outwards."""
    (width, height), (to_width, to_height) = small, size
    return (
        box[0] * to_width // width,
        box[1] * to_height // height,
        -(-box[2] * to_width // width),
        -(-box[3] * to_height // height),
    )
