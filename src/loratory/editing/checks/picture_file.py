"""What a picture's file is: whether it can be read, what its ending promises, and what trainers make of it otherwise
than it looks."""

from collections.abc import Iterator

from loratory.dataset.findings import shown
from loratory.dataset.listing import IMAGE_EXTENSIONS, extension, is_text, stem
from loratory.editing.checks.finding import Fix, RecipeFix, Said
from loratory.editing.checks.picture_context import Pictured

# What each ending promises, as Pillow names formats; MPO is a JPEG with further pictures behind the first.
_PROMISED = {
    ".png": ("PNG",),
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".webp": ("WEBP",),
    ".bmp": ("BMP", "DIB"),
    ".avif": ("AVIF",),
}
_READ_BY_TRAINERS = frozenset(name for names in _PROMISED.values() for name in names)
_SPOKEN = {"WEBP": "WebP", "MPO": "JPEG", "DIB": "BMP", "HEIF": "HEIC", "JXL": "JPEG XL"}

_LEAVE_OUT = Fix("leave the picture out", RecipeFix({"skip": True}))
_TO_PNG = Fix("convert it to PNG", RecipeFix({"format": "png"}))


def unreadable(picture: Pictured) -> Iterator[Said]:
    """That a picture cannot be read, and nothing else can be said of it."""
    facts = picture.facts
    if facts.problem == "unreadable":
        # The disk says no, the picture may be fine: not for a program to set aside.
        yield Said("image-unreadable", "error", f"The picture {_clause(facts.reason)}. A run would stop at it.")
        return
    message = (
        f"The picture cannot be used: {facts.reason.rstrip('.')}. A run would stop at it. Get it anew, or leave it out."
    )
    yield Said("image-unreadable", "error", message, (), (_LEAVE_OUT,))


def file_name(picture: Pictured) -> Iterator[Said]:
    """Names that other programs stumble over."""
    name = picture.item.image_name
    rename = Fix("give it a name without them", RecipeFix({"name": _printable(stem(name))}))
    if not is_text(name):
        message = "The file's name is not valid UTF-8, which a run refuses. Rename it."
        yield Said("file-name", "error", message, (), (rename,))
    elif not name.isprintable():
        message = "The file's name has characters that cannot be shown, such as line breaks. Rename it."
        yield Said("file-name", "warning", message, (), (rename,))


def file_format(picture: Pictured) -> Iterator[Said]:
    """What the bytes are, against what the ending says and trainers read."""
    item, facts = picture
    ending = extension(item.image_name)
    spoken = _SPOKEN.get(facts.format, facts.format)
    if ending not in IMAGE_EXTENSIONS:
        message = f"Trainers leave {shown(ending)} files out, so this {spoken} is not trained. Convert it to PNG."
        yield Said("image-format", "warning", message, (), (_TO_PNG,))
    elif facts.format not in _READ_BY_TRAINERS:
        message = f"The file is a {spoken}, whatever its ending says; not all trainers read it. Convert it to PNG."
        yield Said("image-format", "note", message, (), (_TO_PNG,))
    elif facts.format not in _PROMISED[ending]:
        message = (
            f"The file is a {spoken}, not what {shown(ending)} says. Trainers read it all the same; some other "
            "programs do not."
        )
        rename = Fix("give it the ending of what it is", RecipeFix({"name": _printable(stem(item.image_name))}))
        yield Said("wrong-extension", "note", message, (), (rename,))


def read_otherwise(picture: Pictured) -> Iterator[Said]:
    """What trainers make of a picture otherwise than it looks."""
    facts = picture.facts
    if facts.frames > 1:
        message = f"The picture moves ({facts.frames} frames); only its first frame is trained. Keep that one."
        yield Said("animated", "note", message, (), (Fix("keep its first frame", RecipeFix({"format": "png"})),))
    if facts.transparent_share > 0:
        yield _transparent(picture)
    if facts.orientation != 1:
        message = (
            "The file says that it is to be turned or mirrored (EXIF). That is done here; sd-scripts trains on it as "
            "it lies. Save it upright."
        )
        yield Said("exif-rotated", "note", message, (), (Fix("save it upright", RecipeFix({"format": "png"})),))
    colours = _colours(picture)
    if colours:
        message = f"{colours} It is converted here; sd-scripts may show other colours. Save it as sRGB with 8 bits."
        yield Said("colour-mode", "note", message, (), (Fix("convert it to sRGB", RecipeFix({"format": "png"})),))


def _transparent(picture: Pictured) -> Said:
    share = picture.facts.transparent_share
    much = "Most of it" if share >= 0.5 else "A part of it" if share >= 0.01 else "A little of it"
    ground = Fix("put a plain colour behind it", RecipeFix({"background": ""}))
    if picture.facts.hides_colours:
        message = (
            f"{much} is transparent, and other colours hide there: sd-scripts drops the transparency and trains on "
            "them, here it is white. Put a colour behind it, and tag it."
        )
        return Said("transparent", "warning", message, (), (ground,))
    message = (
        f"{much} is transparent and is trained as white. Put a colour behind it, another one from picture to picture, "
        "and tag it."
    )
    return Said("transparent", "note", message, (), (ground,))


def _colours(picture: Pictured) -> str:
    facts = picture.facts
    if facts.mode == "CMYK":
        return "Its colours are CMYK, for printing."
    if facts.mode.startswith(("I", "F")):
        return "It has more than 8 bits a channel."
    if facts.mode in ("LAB", "HSV", "YCbCr") and facts.format not in ("JPEG", "MPO"):
        return f"Its colours are {facts.mode}."
    return "It has a colour profile other than sRGB." if facts.has_profile else ""


def _printable(name: str) -> str:
    """A stem without what cannot be shown or written."""
    text = "".join(c if c.isprintable() else " " for c in name.encode("utf-8", "replace").decode())
    return " ".join(text.replace("/", " ").split()).strip(". ") or "picture"


def _clause(reason: str) -> str:
    return reason.rstrip(".")
