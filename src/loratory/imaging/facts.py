"""What one look at a picture tells: plain data, computed once and kept. Nothing here judges; checks do."""

from dataclasses import dataclass
from typing import Literal

from loratory.imaging.recipe import Box

Problem = Literal["", "empty", "unreadable", "truncated", "damaged", "bomb", "not-a-picture"]


@dataclass(frozen=True)
class Ground:
    """A plain background, found from the border.

    colour: its mean, (red, green, blue). name: the word that goes before "background" ("white", "grey", …), "" where no
    usual one fits. border_share: share of the border px that are of it, 0 to 1. share: of the whole picture. box:
    around all that is not of it, in px of the upright picture; the whole picture where nothing else is there.
    """

    colour: tuple[int, int, int]
    name: str
    border_share: float
    share: float
    box: Box


@dataclass(frozen=True)
class PictureFacts:
    """Facts about one file. Where `problem` is set, only `problem`, `reason`, `size_bytes`, `digest` and what the
    header told are meaningful.

    reason: the clause after the file's name that tells the problem. digest: blake2b of the file's bytes, hex.
    format: what the bytes are, as Pillow names it ("PNG", "JPEG", "WEBP", "GIF", "TIFF", …). mode: Pillow's ("RGB",
    "CMYK", "I;16", …). size: (width, height) in px, upright. orientation: EXIF, 1 to 8. has_profile: an ICC profile
    that is not sRGB. frames: 1 where it does not move. transparent_share: of px that are not opaque, 0 to 1.
    hides_colours: whether trainers that drop the transparency show other colours than white behind it.
    ground: None where the border is not plain. figures: boxes of separate figures on a plain ground, largest first,
    () where there is one or none. is_grey: no colour to speak of. sharpness: of the edges at a fixed working size,
    comparable between pictures, larger is sharper. detail: share of the sides' resolution that holds any detail, 0 to
    1; enlarging twice leaves 0.5 to 0.75, four times 0.3 to 0.4. blockiness: of 8x8 JPEG blocks, 0 none to 1 plain to
    see. residual: high-frequency noise in its flat regions, in levels of 255; what adversarial noise adds to.
    hash, mirrored_hash: 64-bit perceptual hashes of the picture and of its mirror image. thumbnail: 64x64 grey levels,
    row by row, the whole picture squeezed. style: a few numbers about colours and strokes, each about 0 to 1.
    """

    size_bytes: int
    digest: str
    problem: Problem = ""
    reason: str = ""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    has_profile: bool = False
    frames: int = 1
    transparent_share: float = 0.0
    hides_colours: bool = False
    ground: Ground | None = None
    figures: tuple[Box, ...] = ()
    is_grey: bool = False
    sharpness: float = 0.0
    detail: float = 1.0
    blockiness: float = 0.0
    residual: float = 0.0
    hash: int = 0
    mirrored_hash: int = 0
    thumbnail: bytes = b""
    style: tuple[float, ...] = ()
