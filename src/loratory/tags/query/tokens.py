"""The text of a query, cut into parentheses, operators and terms."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from loratory.tags.query.error import QueryError
from loratory.tags.query.patterns import escaped
from loratory.tags.query.terms import (
    FLAGS,
    NUMBER,
    NUMBER_FIELDS,
    OPERATORS,
    RATIO,
    TEXT_FIELDS,
    Comparison,
    Flag,
    Number,
    NumberField,
    Term,
    Text,
)

Kind = Literal["(", ")", "and", "or", "not", "term", "end"]

MAX_LENGTH = 10_000
"""Characters of a query; a longer one is a file pasted by mistake."""

_NAME = re.compile(r"[A-Za-z]+")
_COMPARISON = re.compile(r"\s*(<=|>=|==|!=|=|<|>)\s*")
_SHELL = "In a shell, put the whole query in single quotes: there > and ! mean something else."
_QUOTES = "To search for the text itself, put it in quotes."


@dataclass(frozen=True)
class Token:
    """A piece of a query. start, end: its place in the text. term: what a "term" says."""

    kind: Kind
    start: int
    end: int
    term: Term | None = None

    @property
    def spelled(self) -> str:
        """How a message names it."""
        if self.kind == "end":
            return "the end"
        return self.kind.upper() if self.term is None else "the term before"


def read_tokens(text: str) -> Iterator[Token]:
    """The tokens of a query, the last one of kind "end". Raises QueryError when the reading comes to a mistake."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"a query has at most {MAX_LENGTH:,} characters, this one {len(text):,}", text, MAX_LENGTH)
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        token = _token(text, at)
        yield token
        at = token.end


def _token(text: str, at: int) -> Token:
    if at >= len(text):
        return Token("end", len(text), len(text))
    character = text[at]
    if character in "()":
        return Token("(" if character == "(" else ")", at, at + 1)
    if character in "-!":
        if at + 1 == len(text) or text[at + 1].isspace():
            raise QueryError(f'{character} stands directly before what it excludes; as text, "{character}"', text, at)
        return Token("not", at, at + 1)
    name = _NAME.match(text, at)
    if name is not None:
        token = _named(text, at, name[0], name.end())
        if token is not None:
            return token
    pattern, end = _pattern(text, at)
    if _COMPARISON.fullmatch(text[at:end]):
        raise QueryError(f"expected the name of a number before {text[at:end]}, such as tags>5", text, at)
    return Token("term", at, end, Text(None, pattern))


def _named(text: str, at: int, written: str, end: int) -> Token | None:
    """The operator, flag, number or text that begins with the name `written`; None for a bare word."""
    name = written.lower()
    after = text[end : end + 1]
    if not after or after.isspace() or after in "()":
        # NOT( is an operator and a parenthesis, while fox(animal) is one word.
        if name in OPERATORS:
            return Token(cast(Kind, name), at, end)
        if name in FLAGS and after != "(":
            return Token("term", at, end, Flag(name))
    comparison = _COMPARISON.match(text, end)
    if name in NUMBER_FIELDS and after != "(":
        if comparison is not None:
            return _number(text, at, name, comparison)
        if not after or after.isspace() or after in "):":
            reason = f'{name} is a number: write {name}>5, or another comparison (as text: "{name}")'
            raise QueryError(reason, text, at, hint=_SHELL)
    if after == ":":
        if name not in TEXT_FIELDS:
            raise QueryError(_unknown(name, ":"), text, at, hint=_QUOTES)
        if end + 1 == len(text) or text[end + 1].isspace() or text[end + 1] == ")":
            raise QueryError(f"expected text directly after {name}:", text, end + 1)
        pattern, end = _pattern(text, end + 1)
        return Token("term", at, end, Text(name, pattern))
    if comparison is not None and comparison.start(1) == end:
        raise QueryError(_unknown(name, comparison[1]), text, at, hint=_QUOTES)
    return None


def _unknown(name: str, mark: str) -> str:
    """What to say of a name that does not go with the `mark` behind it, ":" or a comparison."""
    kinds = {**dict.fromkeys(NUMBER_FIELDS, ">5"), **dict.fromkeys(TEXT_FIELDS, ":")}
    likely = [field for field in kinds if (kinds[field] == ":") == (mark == ":")]
    near = difflib.get_close_matches(name[:20], likely, n=1) or difflib.get_close_matches(name[:20], kinds, n=1)
    if name in kinds:
        return f"{name} is text: write {name}:fox" + (f", or {near[0]}>5 for a number" if near[0] != name else "")
    if near:
        return f"there is no field {name[:20]}; did you mean {near[0]}{kinds[near[0]]}?"
    return f"there is no field {name[:20]}; there are {', '.join(kinds)}"


def _number(text: str, at: int, field: NumberField, comparison: re.Match[str]) -> Token:
    form = RATIO if field == "ratio" else NUMBER
    found = form.match(text, comparison.end())
    after = text[found.end() : found.end() + 1] if found else ""
    if found is None or not (not after or after.isspace() or after in "()"):
        example = "1.5 or 3:2" if field == "ratio" else "20"
        place = found.end() if found else comparison.end()
        raise QueryError(f"expected a number such as {example} after {field}{comparison[1]}", text, place)
    sign = "=" if comparison[1] == "==" else comparison[1]
    number = Number(field, cast(Comparison, sign), found[0])
    if number.limit[1] == 0:
        raise QueryError("a ratio to 0 is none", text, comparison.end())
    return Token("term", at, found.end(), number)


def _pattern(text: str, at: int) -> tuple[str, int]:
    """The pattern that begins at `at`, quoted or not, and where it ends."""
    return _quoted(text, at) if text[at] == '"' else _word(text, at)


def _quoted(text: str, opening: int) -> tuple[str, int]:
    pieces: list[str] = []
    at = opening + 1
    while at < len(text) and text[at] != '"':
        piece, at = _character(text, at)
        pieces.append(piece)
    if at >= len(text):
        raise QueryError(f'expected " to close the one at character {opening + 1}', text, len(text))
    if not pieces:
        raise QueryError("expected text between the quotes", text, at)
    at += 1
    if at < len(text) and not text[at].isspace() and text[at] not in "()":
        raise QueryError("expected a space after the closing quote", text, at)
    return "".join(pieces), at


def _word(text: str, at: int) -> tuple[str, int]:
    pieces: list[str] = []
    opened: list[int] = []
    while at < len(text) and not text[at].isspace():
        character = text[at]
        if character == '"':
            raise QueryError('a quote inside a word; write \\" for the character itself', text, at)
        if character == ",":
            raise QueryError("terms are joined by AND or OR; text with a comma goes in quotes", text, at)
        if character == "(":
            opened.append(at)
        elif character == ")":
            if not opened:
                break
            opened.pop()
        piece, at = _character(text, at)
        pieces.append(piece)
    if opened:
        raise QueryError("this ( is not closed in its word; quote text with spaces, or write \\(", text, opened[-1])
    return "".join(pieces), at


def _character(text: str, at: int) -> tuple[str, int]:
    """The character at `at` as part of a pattern, and where the next one begins."""
    if text[at] != "\\":
        return text[at], at + 1
    if at + 1 == len(text):
        raise QueryError("expected a character after \\; for a backslash, write two", text, at + 1)
    return escaped(text[at + 1]), at + 2
