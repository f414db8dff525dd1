"""Everything that is to be said of one picture, by the facts that one look at it told."""

from collections.abc import Iterator

from loratory.editing.checks.finding import CaptionFinding, Said
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.editing.checks.picture_file import file_format, file_name, read_otherwise, unreadable
from loratory.editing.checks.picture_quality import colourless, quality
from loratory.editing.checks.picture_size import sheet, size_and_shape

_WORST_FIRST = {"error": 0, "warning": 1, "note": 2}


def check_picture(picture: Pictured, context: PictureContext) -> list[CaptionFinding]:
    """What is to be said of one picture, the worst first. Tens of µs."""
    said = [each for each in _said(picture, context) if not context.captions.is_kept(each.rule)]
    said.sort(key=lambda each: _WORST_FIRST[each.severity])
    return [at_picture(each, picture) for each in said]


def at_picture(said: Said, picture: Pictured) -> CaptionFinding:
    """A finding at the picture it is about."""
    item = picture.item
    return CaptionFinding(said.rule, said.severity, item.image, said.message, item.name, said.tags, said.fixes)


def _said(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    yield from file_name(picture)
    if picture.facts.problem:
        yield from unreadable(picture)
        return
    yield from file_format(picture)
    yield from read_otherwise(picture)
    yield from size_and_shape(picture, context)
    if not picture.item.is_reg:
        yield from sheet(picture, context)
        yield from quality(picture, context)
        yield from colourless(picture, context)
