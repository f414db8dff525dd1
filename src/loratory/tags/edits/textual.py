"""Edits of how a caption is written: its whole text, its spelling, its encoding."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from loratory.errors import LoratoryError
from loratory.tags.edits.base import Edit, quoted
from loratory.tags.edits.lines import FENCE, Parts, edit_lines, slots, with_bodies, without
from loratory.tags.text import CaptionText, Part, bare, is_emoticon

_ESCAPED = re.compile(r"\\([()\[\]])")
_PLAIN_BRACKET = re.compile(r"(?<!\\)([()])")


@dataclass(frozen=True)
class Substitute:
    """Replaces text inside captions, everywhere it occurs.

    pattern: text, or with `regex` a regular expression of Python's `re`; then \\1 and \\g<name> in the replacement
    stand for its groups. within: "tag" searches each tag by itself (^ and $ are its ends, and a tag that becomes
    empty goes), "caption" the whole text with its commas and line breaks.
    """

    pattern: str
    replacement: str
    regex: bool = False
    within: Literal["tag", "caption"] = "tag"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if not self.pattern:
            raise LoratoryError("There is nothing to search for.", hint="Give the text to replace.")
        if not self.regex:
            return
        try:
            _ = self._expression
            # An alternative that always matches, so that the groups which the replacement names are looked up now.
            found = _compiled(f"{self.pattern}|").match("")
        except (re.error, OverflowError, RecursionError) as error:
            raise LoratoryError(_regex_problem("regular expression", self.pattern, error)) from None
        try:
            if found:
                found.expand(self.replacement)
        except (re.error, IndexError) as error:
            raise LoratoryError(_regex_problem("replacement", self.replacement, error)) from None

    @property
    def label(self) -> str:
        what = "matches of " if self.regex else ""
        where = " in the whole text" if self.within == "caption" else ""
        return f"replace {what}{quoted(self.pattern)} by {quoted(self.replacement)}{where}"

    def apply(self, caption: CaptionText) -> CaptionText:
        if self.within == "tag":
            return edit_lines(caption, self._line)
        text = self._substituted(caption.text)
        return caption if text == caption.text else replace(caption, text=text)

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        pattern = self.pattern if self.regex else re.escape(self.pattern)
        return _compiled(pattern, re.IGNORECASE if self.ignore_case else 0)

    def _substituted(self, text: str) -> str:
        if not self.regex:
            return self._expression.sub(lambda _: self.replacement, text)
        try:
            return self._expression.sub(self.replacement, text)
        except (re.error, IndexError) as error:
            raise LoratoryError(_regex_problem("replacement", self.replacement, error)) from None

    def _line(self, parts: Parts, spacing: str) -> Parts:
        bodies = {index: self._substituted(parts[index].body).strip() for index in slots(parts)}
        parts = with_bodies(parts, {index: body for index, body in bodies.items() if body})
        for index in reversed([index for index, body in bodies.items() if not body]):
            parts = without(parts, index)
        return parts


@dataclass(frozen=True)
class SetText:
    """Makes `text` the whole caption, with the line breaks customary in the file and its last one kept."""

    text: str

    @property
    def label(self) -> str:
        return f"set the text {quoted(self.text)}" if self.text.strip() else "remove all text"

    def apply(self, caption: CaptionText) -> CaptionText:
        newline = "\r\n" if "\r\n" in caption.text else "\n"
        text = re.sub(r"\r\n|\r|\n", newline, self.text)
        if text and caption.text.endswith("\n") and not text.endswith("\n"):
            text += newline
        return caption if text == caption.text else replace(caption, text=text)


@dataclass(frozen=True)
class Normalise:
    """Writes captions one way. Emoticons such as ^_^ keep their underscores and brackets.

    underscores: "spaces" turns them into spaces, "underscores" spaces into them. escapes: "remove" writes \\( as (,
    "add" writes ( as \\(, except where brackets give a whole tag a weight. spacing: "a ,b,,c" becomes "a, b, c".
    """

    underscores: Literal["spaces", "underscores", "keep"] = "keep"
    escapes: Literal["remove", "add", "keep"] = "keep"
    spacing: bool = False

    def __post_init__(self) -> None:
        if self.underscores == "keep" and self.escapes == "keep" and not self.spacing:
            raise LoratoryError("There is nothing to normalise.", hint="Choose underscores, escapes or spacing.")

    @property
    def label(self) -> str:
        spelled = {"spaces": "spaces for underscores", "underscores": "underscores for spaces"}.get(self.underscores)
        escaped = {"remove": "plain brackets", "add": "escaped brackets"}.get(self.escapes)
        parts = [part for part in (spelled, escaped, "even spacing" if self.spacing else None) if part]
        return f"normalise the writing ({', '.join(parts)})"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line)

    def _line(self, parts: Parts, spacing: str) -> Parts:
        # A tag of nothing but underscores would vanish, and stays.
        bodies = {index: self._spelled(parts[index].body).strip() or parts[index].body for index in slots(parts)}
        parts = with_bodies(parts, bodies)
        return _spaced(parts) if self.spacing else parts

    def _spelled(self, body: str) -> str:
        if self.underscores == "spaces":
            body = _by_word(body, lambda word: re.sub("_+", " ", word))
        if self.escapes == "remove":
            body = _ESCAPED.sub(r"\1", body)
        elif self.escapes == "add" and bare(body) == body:
            body = _by_word(body, _escaped)
        if self.underscores == "underscores":
            body = re.sub(r"\s+", "_", body)
        return body


@dataclass(frozen=True)
class ToUtf8:
    """Writes captions as UTF-8 without a byte-order mark, what every trainer reads; the text stays the same."""

    @property
    def label(self) -> str:
        return "convert the encoding to UTF-8"

    def apply(self, caption: CaptionText) -> CaptionText:
        return caption if caption.encoding == "utf-8" else replace(caption, encoding="utf-8")


@dataclass(frozen=True)
class Several:
    """Edits one after the other, as one."""

    edits: tuple[Edit, ...]

    @property
    def label(self) -> str:
        return ", ".join(edit.label for edit in self.edits)

    def apply(self, caption: CaptionText) -> CaptionText:
        result = caption
        for edit in self.edits:
            result = edit.apply(result)
        return caption if result == caption else result


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a later Python may read otherwise is no news to the person typing
        return re.compile(pattern, flags)


def _regex_problem(what: str, text: str, error: Exception) -> str:
    if isinstance(error, re.error):
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        return f"The {what} {quoted(text)} does not work: {error.msg}{where}."
    return f"The {what} {quoted(text)} does not work: {error}."


def _by_word(body: str, change: Callable[[str], str]) -> str:
    """The tag with every word changed that is no emoticon; the white space between them stays."""
    return "".join(
        piece if index % 2 or is_emoticon(piece) else change(piece)
        for index, piece in enumerate(re.split(r"(\s+)", body))
    )


def _escaped(word: str) -> str:
    # A face of brackets and symbols, such as :), is left alone like one with an underscore.
    return _PLAIN_BRACKET.sub(r"\\\1", word) if any(character.isalnum() for character in word) else word


def _spaced(parts: Parts) -> Parts:
    """The tags with one space after every comma and around every fence, and no empty places between commas."""
    spaced: list[Part] = []
    for index, part in enumerate(parts):
        if not part.body and part.delimiter == ",":
            continue
        after_comma = bool(spaced) and spaced[-1].delimiter == ","
        if not part.body and after_comma:
            # A comma before a fence or the end of the line.
            spaced[-1] = Part(spaced[-1].lead, spaced[-1].body, " " if part.delimiter else "", part.delimiter)
            continue
        first = index == 0 or not spaced
        lead = "" if first or not (part.body or part.delimiter) else " "
        body = " ".join(part.body.split())
        spaced.append(Part(lead, body, " " if body and part.delimiter == FENCE else "", part.delimiter))
    return tuple(spaced)
