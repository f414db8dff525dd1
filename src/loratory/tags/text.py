"""Captions as text: bytes to text and back, lines and tags to text and back, and when two tags are the same.

Nothing is lost on the way: `encode(decode(data)) == data` and `render(parse(text)) == text` for all data and text.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from loratory.errors import LoratoryError

# The byte-order mark that stands before the text, by the encoding's name here.
_MARKS = {"utf-8-sig": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
_UNICODE = ("utf-8", "utf-8-sig")
_SPOKEN = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "cp1252": "Windows-1252", "latin-1": "Latin-1"}

_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
_NEWLINE = re.compile(r"[\r\n]")
_DELIMITER = re.compile(r"(,|\|\|\|)")
_ESCAPED = re.compile(r"\\+([()\[\]])")
_GAP = re.compile(r"[_\s]+")
_WEIGHT = re.compile(r"(.+):\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*", re.DOTALL)

# Faces that boorus name with an underscore: two like eyes (o_o, ^_^, <o>_<o>), symbols only (>_<, ;_:), and a few odd
# pairs.
_FACE = re.compile(r"([^\s_]|[^\w\s]\w[^\w\s])_+\1|[^\w\s]{1,3}_+[^\w\s]{1,3}")
_ODD_FACES = frozenset({"6_9", "@_o", "o_@", "o_0", "0_o", "o_x", "x_o", "p_q", ">_o", "o_<", "^_o", "o_^"})


@dataclass(frozen=True)
class CaptionText:
    """A caption with what is needed to write it again as it was.

    text: decoded, newlines as in the file. encoding: "utf-8", "utf-8-sig", "utf-16-le" or "utf-16-be" (these
    three with a byte-order mark, which is no part of the text), "cp1252" or "latin-1".
    """

    text: str
    encoding: str

    @property
    def is_utf8(self) -> bool:
        """Whether it is UTF-8, with or without a byte-order mark."""
        return self.encoding in _UNICODE


EMPTY = CaptionText("", "utf-8")


class Part(NamedTuple):
    """One tag of a line, or the nothing between two delimiters.

    lead, trail: the white space around it. body: the tag as written, "" for none (the white space is `lead` then).
    delimiter: what follows: ",", "|||" (the fence of kept tags) or "" at the end of the line.
    """

    lead: str
    body: str
    trail: str
    delimiter: str


class Line(NamedTuple):
    """A line of a caption: at least one part, the last without a delimiter, and its newline ("" if it has none)."""

    parts: tuple[Part, ...]
    ending: str

    @property
    def has_text(self) -> bool:
        """Whether a trainer takes it for a caption: it is not blank."""
        return any(part.body or part.delimiter for part in self.parts)


def decode(data: bytes) -> CaptionText:
    """The text of a caption file. Never fails: what is no UTF is cp1252, or latin-1, which takes any byte."""
    for encoding, mark in _MARKS.items():
        if data.startswith(mark):
            attempts = (encoding, "cp1252")
            break
    else:
        attempts = ("utf-8", "cp1252")
    for encoding in attempts:
        mark = _MARKS.get(encoding, b"")
        try:
            return CaptionText(data[len(mark) :].decode(encoding.removesuffix("-sig")), encoding)
        except UnicodeDecodeError:
            continue
    return CaptionText(data.decode("latin-1"), "latin-1")


def encode(caption: CaptionText) -> bytes:
    """The bytes of a caption file, in the encoding the caption came in.

    Raises LoratoryError when a character does not exist in that encoding, or when the bytes would be read as
    another text (an old encoding is only ever guessed).
    """
    encoding = caption.encoding
    try:
        data = _MARKS.get(encoding, b"") + caption.text.encode(encoding.removesuffix("-sig"))
    except UnicodeEncodeError as error:
        character = caption.text[error.start]
        if encoding.startswith("utf"):
            raise LoratoryError(
                f"The caption holds half a character (U+{ord(character):04X}), which no file can hold.",
                hint="Type that part of the caption again.",
            ) from None
        raise LoratoryError(
            f"“{character}” (U+{ord(character):04X}) does not exist in the caption's encoding, {_SPOKEN[encoding]}: "
            "convert it to UTF-8 first.",
            hint="`loratory tag utf8 DIR` does it.",
        ) from None
    if encoding not in _UNICODE and decode(data).text != caption.text:
        raise LoratoryError(
            f"The caption would be read as another text if it were written in {_SPOKEN[encoding]} again: convert it to "
            "UTF-8 first.",
            hint="`loratory tag utf8 DIR` does it.",
        )
    return data


def parse(text: str) -> tuple[Line, ...]:
    """The lines of a caption and their tags; () for "". A newline at the end starts no further line."""
    return tuple(Line(_parts(found[1]), found[2]) for found in _LINE.finditer(text) if found[0])


def render(lines: Iterable[Line]) -> str:
    """The text that `parse` gives these lines for."""
    return "".join(
        "".join(part.lead + part.body + part.trail + part.delimiter for part in line.parts) + line.ending
        for line in lines
    )


def tags_of(text: str) -> tuple[str, ...]:
    """The tags, as written, of the line that a trainer reads: the first that is not blank."""
    # Called for every caption of a set when it is opened, so without the objects of `parse`.
    for line in _NEWLINE.split(text):
        if stripped := line.strip():
            return tuple(tag for piece in _DELIMITER.split(stripped)[::2] if (tag := piece.strip()))
    return ()


def split_tags(text: str) -> tuple[str, ...]:
    """The tags of a list that a person typed, commas (or newlines) between them."""
    return tuple(tag for piece in re.split(r"[,\r\n]", text) if (tag := piece.strip()))


@lru_cache(maxsize=1 << 16)
def key(tag: str) -> str:
    """What two tags are compared by: case, underscores, runs of white space and escaped brackets do not count.

    Emoticons such as ^_^ keep their underscores. `key(key(tag)) == key(tag)`.
    """
    tag = _ESCAPED.sub(r"\1", tag.strip()).casefold()
    words = (word if is_emoticon(word) else _GAP.sub(" ", word) for word in tag.split())
    return " ".join(" ".join(words).split()) or tag


def is_emoticon(word: str) -> bool:
    """Whether the underscores of `word` (without white space) are a face's, as in ^_^ or o_o, not a space's."""
    word = word.casefold()
    return "_" in word and (word in _ODD_FACES or _FACE.fullmatch(word) is not None)


def bare(tag: str) -> str:
    """The tag without the emphasis of prompts around the whole of it: "(blue eyes:1.2)" is "blue eyes".

    Brackets that are part of the name stay: "photo (medium)", "\\(x\\)", "(o)_(o)".
    """
    tag = tag.strip()
    while (inner := _inside(tag)) is not None:
        tag = inner
    return tag


def _inside(tag: str) -> str | None:
    """What one pair of brackets around the whole of `tag` holds, without its weight; None without such a pair."""
    close = {"(": ")", "[": "]"}.get(tag[:1])
    if close is None or len(tag) < 3:
        return None
    depth, index = 0, 0
    while index < len(tag):
        if tag[index] == "\\":
            index += 2  # an escaped bracket is a character of the name
            continue
        depth += (tag[index] == tag[0]) - (tag[index] == close)
        if depth == 0:
            break
        index += 1
    if index != len(tag) - 1:
        return None
    inner = tag[1:-1].strip()
    weighted = _WEIGHT.fullmatch(inner)
    if weighted and weighted[1].strip():
        inner = weighted[1].strip()
    return inner or None


def _parts(line: str) -> tuple[Part, ...]:
    pieces = [*_DELIMITER.split(line), ""]  # text, delimiter, text, …: the last text has none, so "" stands for it
    return tuple(_part(written, delimiter) for written, delimiter in zip(pieces[::2], pieces[1::2], strict=True))


def _part(written: str, delimiter: str) -> Part:
    body = written.strip()
    if not body:
        return Part(written, "", "", delimiter)
    start = written.index(body)
    return Part(written[:start], body, written[start + len(body) :], delimiter)
