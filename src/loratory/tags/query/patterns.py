"""Text with wildcards, made into tests of a string.

A pattern is text in which `*` stands for any run of characters, `?` for one, and a backslash takes the meaning from the
character after it. Every other character, `[` included, stands for itself.
"""

import re
from collections.abc import Callable
from typing import Literal

Extent = Literal["whole", "part", "words"]


def escaped(character: str) -> str:
    """A pattern that stands for one character itself."""
    return f"\\{character}" if character in "\\*?" else character


def compile_pattern(
    pattern: str, extent: Extent, normal: Callable[[str], str], *, underscores: bool = False
) -> Callable[[str], bool]:
    """A test of strings that are already in the form that `normal` gives.

    extent: "whole" - the pattern covers the string; "part" - it occurs in it; "words" - it occurs in it and does
    not begin or end inside a word, unless with a wildcard. underscores: beside wildcards, where a face cannot be
    told from a word, a space and an underscore stand for either.
    """
    many, one = _absent_from(pattern)
    text = normal(_with_stand_ins(pattern, many, one))
    is_plain = many not in text and one not in text
    if is_plain and extent == "part":
        return lambda string: text in string

    def regex(part: str) -> str:
        return "".join("." if c == one else "[ _]" if underscores and c in " _" else re.escape(c) for c in part)

    underscores = underscores and not is_plain
    parts = [regex(part) for part in text.split(many)]
    if extent == "words":
        # A wildcard at an end leaves that end open.
        if text[:1].isalnum():
            parts[0] = rf"(?<!\w){parts[0]}"
        if text[-1:].isalnum():
            parts[-1] = rf"{parts[-1]}(?!\w)"
    # Each part is sought once, at its earliest place: what follows can only gain from an earlier one. The atomic
    # groups say so to the regex engine, which would otherwise try them all, for ages on text like "aaaa…".
    if extent == "whole":
        head, *middle = parts
        tail = middle.pop() if middle else None
        source = head + _sought(middle) + ("" if tail is None else f".*{tail}") + r"\Z"
    else:
        source = _sought(parts)
    found = re.compile(source, re.DOTALL).match
    return lambda string: found(string) is not None


def _sought(parts: list[str]) -> str:
    return "".join(f"(?>.*?{part})" for part in parts if part)


def _with_stand_ins(pattern: str, many: str, one: str) -> str:
    plain: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            plain.append(next(characters, ""))
        else:
            plain.append(many if character == "*" else one if character == "?" else character)
    return "".join(plain)


def _absent_from(text: str) -> tuple[str, str]:
    """Two characters that `text` does not hold and that no normal form changes: private ones, of which there are more
    than a query has characters."""
    absent = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in text)
    return next(absent), next(absent)
