"""What a trainer reads otherwise than it looks: files it misreads or misses, text it cuts, brackets it
takes literally."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loratory.config.schema import CaptionSettings
from loratory.dataset.findings import Severity, shown
from loratory.dataset.listing import extension, stem
from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.finding import Fix, RecipeFix, Said, quoted, some_tags
from loratory.tags.edits import Normalise, ToUtf8
from loratory.tags.text import bare

if TYPE_CHECKING:
    from loratory.editing.items import Item

_ESCAPE = re.compile(r"\\[()\[\]]")
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*[)\]]")
_BRACKET = re.compile(r"(?<!\\)[()\[\]]")
_NAMES = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "cp1252": "Windows-1252", "latin-1": "Latin-1"}
_SHOWN_OF_CUT = 60

_UTF8 = Fix("save it as UTF-8", ToUtf8())
_UNESCAPE = Fix("write plain brackets", Normalise(escapes="remove"))
_ESCAPED = Fix("escape the brackets", Normalise(escapes="add"))


def caption_file(item: "Item", settings: CaptionSettings) -> Iterator[Said]:
    """What is to be said of the file itself: its absence, its ending, its encoding, its emptiness."""
    instead = f"{quoted(item.class_tokens)}, from the folder's name" if item.class_tokens else "no text at all"
    if item.problem:
        yield Said("caption-unreadable", "error", f"The caption file {item.problem}. Check its permissions.")
        return
    if item.data is None:
        if not (item.is_reg and item.class_tokens):
            severity: Severity = "note" if item.class_tokens else "warning"
            message = (
                f"There is no {settings.caption_extension} file, so the picture is trained on {instead}. Write its "
                "tags."
            )
            yield Said("caption-missing", severity, message)
        return
    if not item.caption_name.endswith(settings.caption_extension):
        message = (
            f"The caption is in {shown(item.caption_name)}, but caption_extension is {settings.caption_extension}, so "
            f"the picture would be trained on {instead}. Rename the file, or set caption.caption_extension."
        )
        yield Said("caption-extension", "warning", message)
    text = item.caption.text
    if "\0" in text:
        yield Said("caption-nul", "error", "The file has NUL bytes, so it is no text file. Write the caption anew.")
    elif not item.tags:
        message = (
            "The file holds no tag, so the picture is trained without text; sd-scripts stops at an empty file. Write "
            f"its tags, or delete the file to train on {instead}."
        )
        yield Said("caption-empty", "warning", message)
    elif not item.caption.is_utf8:
        message = (
            f"The file is not UTF-8 and was read as {_NAMES[item.caption.encoding]}; sd-scripts stops at such a file. "
            "Check its accented letters and save it as UTF-8."
        )
        yield Said("caption-encoding", "warning", message, (), (_UTF8,))
    elif item.caption.encoding == "utf-8-sig":
        message = (
            "The file begins with a byte-order mark, which sd-scripts takes for part of the first tag. Save it as "
            "plain UTF-8."
        )
        yield Said("caption-bom", "note", message, (), (_UTF8,))


def picture_file(item: "Item") -> Iterator[Said]:
    """What is to be said of the picture's name."""
    if item.shared_with:
        message = (
            f"The picture shares its caption file with {' and '.join(map(shown, item.shared_with))}, so all of them "
            "are trained on one caption. Rename all but one of them."
        )
        # The caption stays with the first; the others get a copy under their new names.
        name = f"{stem(item.image_name)}_{extension(item.image_name)[1:]}"
        rename = Fix(f"call it “{shown(name)}”", RecipeFix({"name": name}))
        is_first = item.name < min(item.shared_with)
        yield Said("stem-clash", "warning", message, (), () if is_first else (rename,))
    ending = item.image.suffix
    if ending not in (ending.lower(), ending.upper()):
        message = (
            f"The ending {shown(ending)} is neither in small nor in capital letters: sd-scripts leaves such a picture "
            "out on Linux. It is trained here; rename it if you use both."
        )
        rename = Fix("write the ending in small letters", RecipeFix({"name": stem(item.image_name)}))
        yield Said("extension-case", "note", message, (), (rename,))


def several_lines(lines: Sequence[str], settings: CaptionSettings) -> Iterator[Said]:
    """lines: those of the caption that are not blank."""
    if len(lines) > 1 and not settings.enable_wildcard:
        message = (
            f"The caption has {len(lines)} lines, of which only the first is trained. Join them, or set "
            "caption.enable_wildcard to draw one line per visit."
        )
        yield Said("caption-lines", "warning", message)


def cut_text(line: str, tags: Sequence[str], context: CheckContext) -> Iterator[Said]:
    """What of a line lies beyond the tokens that the text encoder reads. tags: those of the line."""
    settings = context.caption
    line = " ".join(filter(None, (settings.caption_prefix, line, settings.caption_suffix)))
    # A token is at least a byte: what is shorter than the limit fits.
    if context.overflow is None or len(line.encode(errors="replace")) <= settings.max_token_length:
        return
    tokens, cut = context.overflow(line)
    if cut is None:
        return
    lost = _cut_tags(line, tags, cut)
    cut = cut.strip(", ")
    beginning = cut if len(cut) <= _SHOWN_OF_CUT else f"{cut[:_SHOWN_OF_CUT]}…"
    limit = settings.max_token_length
    longer = f", or set caption.max_token_length = {limit + 75}" if limit < 225 else ""
    message = f"{tokens} tokens, of which {limit} are read: {quoted(beginning)} is cut off. Take out tags{longer}."
    yield Said("over-tokens", "warning", message, lost)


def _cut_tags(line: str, tags: Sequence[str], cut: str) -> tuple[str, ...]:
    """The tags of a line that its end `cut` takes away, if only in part; () where brackets were read as emphasis, since
    `cut` lacks them."""
    if not line.endswith(cut):
        return ()
    lost: list[str] = []
    end = 0
    for tag in tags:
        end = line.find(tag, end) + len(tag)
        if end > len(line) - len(cut):
            lost.append(tag)
    return tuple(lost)


def brackets(tags: Sequence[str], settings: CaptionSettings) -> Iterator[Said]:
    """Brackets that are read otherwise than they were meant: escapes and weights."""
    if settings.weighted_captions:
        read = [tag for tag in tags if _BRACKET.search(tag) and bare(tag) == tag]
        if read:
            message = (
                f"The brackets of {some_tags(read, 3)} are read as an emphasis, because caption.weighted_captions is "
                "on. Escape them where they belong to the name."
            )
            yield Said("weights", "note", message, tuple(read), (_ESCAPED,))
        return
    escaped = [tag for tag in tags if _ESCAPE.search(tag)]
    if escaped:
        message = (
            f"{some_tags(escaped, 3)}: backslashes before brackets are for prompts; a trainer reads them as text, and "
            "the tag is another one than the model knows. Write plain brackets."
        )
        yield Said("escaped-brackets", "warning", message, tuple(escaped), (_UNESCAPE,))
    weighted = [tag for tag in tags if bare(tag) != tag and _WEIGHT.search(tag)]
    if weighted:
        message = (
            f"{some_tags(weighted, 3)}: the weight is read as text, because caption.weighted_captions is off. Take it "
            "out, or switch that setting on."
        )
        yield Said("weights", "warning", message, tuple(weighted))
