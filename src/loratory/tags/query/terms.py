"""The terms of a query: what each asks about one image, and how it is written."""

import operator
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from loratory.tags.query.patterns import compile_pattern
from loratory.tags.text import key

TextField = Literal["tag", "caption", "name", "path", "issue"]
NumberField = Literal["tags", "tokens", "chars", "size", "width", "height", "ratio"]
FlagName = Literal["dup", "untagged", "reviewed", "issue"]
Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
Need = Literal["tokens", "size", "dup", "issue"]

TEXT_FIELDS: tuple[TextField, ...] = get_args(TextField)
NUMBER_FIELDS: tuple[NumberField, ...] = get_args(NumberField)
FLAGS: tuple[FlagName, ...] = get_args(FlagName)
OPERATORS = ("and", "or", "not")

NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
RATIO = re.compile(rf"{NUMBER.pattern}(?::{NUMBER.pattern})?")

_NEEDS: dict[str, Need] = {
    "tokens": "tokens",
    "size": "size",
    "width": "size",
    "height": "size",
    "ratio": "size",
    "dup": "dup",
    "issue": "issue",
}
_COMPARE: dict[Comparison, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SIMPLE = re.compile(r"[\w*?./][\w*?./-]*")


class Facts(Protocol):
    """What a query may ask about one image; a property may be worked out when it is read.

    name: file name without its folder. path: relative to the dataset, with "/". caption: the text. keys:
    `tags.text.key` of each tag, in order. tokens: of the caption. size: (width, height) in pixels, zeros where the
    picture cannot be read. issues: ids of the rules that have a finding about it. duplicate: whether another image
    is (nearly) the same. reviewed: whether a person has marked it so.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def tokens(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def issues(self) -> frozenset[str]: ...
    @property
    def duplicate(self) -> bool: ...
    @property
    def reviewed(self) -> bool: ...


Test = Callable[[Facts], bool]


@dataclass(frozen=True)
class Text:
    """`tag:fox`, or the bare word `fox`. field: None for a bare word. pattern: as in `patterns`."""

    field: TextField | None
    pattern: str

    @property
    def needs(self) -> frozenset[str]:
        return _needs(self.field)

    def asks_for_issues(self, issues: Iterable[str]) -> bool:
        """Whether it asks for findings of any of these rules."""
        return self.field == "issue" and any(map(compile_pattern(self.pattern, "whole", str.casefold), issues))

    def compiled(self) -> Test:
        match self.field:
            case "tag":
                in_tags = _any_of(compile_pattern(self.pattern, "whole", key, underscores=True))
                return lambda facts: in_tags(facts.keys)
            case "issue":
                in_issues = _any_of(compile_pattern(self.pattern, "whole", str.casefold))
                return lambda facts: in_issues(tuple(map(str.casefold, facts.issues)))
            case "caption":
                found = compile_pattern(self.pattern, "part", _folded)
                return lambda facts: found(_folded(facts.caption))
            case "name":
                found = compile_pattern(self.pattern, "part", _folded)
                return lambda facts: found(_folded(facts.name))
            case "path":
                found = compile_pattern(self.pattern, "part", _folded)
                return lambda facts: found(_folded(facts.path))
            case None:
                in_tags = _any_of(compile_pattern(self.pattern, "words", key, underscores=True))
                in_name = compile_pattern(self.pattern, "part", _folded)
                return lambda facts: in_tags(facts.keys) or in_name(_folded(facts.name))

    def __str__(self) -> str:
        simple = _SIMPLE.fullmatch(self.pattern) is not None
        if self.field is None:
            # "12" is a word, and so is "tags" where no comparison follows it; the quotes tell it from a field.
            simple = simple and self.pattern.lower() not in {*OPERATORS, *FLAGS, *TEXT_FIELDS, *NUMBER_FIELDS}
        written = self.pattern if simple else '"{}"'.format(self.pattern.replace('"', '\\"'))
        return written if self.field is None else f"{self.field}:{written}"


@dataclass(frozen=True)
class Number:
    """`tags>20`. value: as written, in the form of `NUMBER`, for the ratio of `RATIO`."""

    field: NumberField
    comparison: Comparison
    value: str

    @property
    def needs(self) -> frozenset[str]:
        return _needs(self.field)

    @property
    def limit(self) -> tuple[int, int]:
        """The value as a fraction: what is above the line and below it, which is 0 for a ratio to 0."""
        number, _, divisor = self.value.partition(":")
        (over, under), (divisor_over, divisor_under) = _fraction(number), _fraction(divisor or "1")
        return over * divisor_under, under * divisor_over

    def compiled(self) -> Test:
        compare = _COMPARE[self.comparison]
        over, under = self.limit  # whole numbers on both sides of each comparison: 1536 x 1024 is 1.5 exactly
        match self.field:
            case "tags":
                return lambda facts: compare(len(facts.keys) * under, over)
            case "tokens":
                return lambda facts: compare(facts.tokens * under, over)
            case "chars":
                return lambda facts: compare(len(facts.caption) * under, over)
            case "size":
                return lambda facts: compare(min(facts.size) * under, over)
            case "width":
                return lambda facts: compare(facts.size[0] * under, over)
            case "height":
                return lambda facts: compare(facts.size[1] * under, over)
            case "ratio":

                def ratio_holds(facts: Facts) -> bool:
                    width, height = facts.size  # zeros, where no picture could be read, are no ratio
                    return height > 0 and compare(width * under, height * over)

                return ratio_holds

    def __str__(self) -> str:
        return f"{self.field}{self.comparison}{self.value}"


@dataclass(frozen=True)
class Flag:
    """`untagged`: a word that is true of an image or not."""

    name: FlagName

    @property
    def needs(self) -> frozenset[str]:
        return _needs(self.name)

    def asks_for_issues(self, issues: Iterable[str]) -> bool:
        """Whether it asks for findings of any of these rules; "issue" asks for those of all."""
        return self.name == "issue"

    def compiled(self) -> Test:
        match self.name:
            case "dup":
                return lambda facts: facts.duplicate
            case "untagged":
                return lambda facts: not facts.keys
            case "reviewed":
                return lambda facts: facts.reviewed
            case "issue":
                return lambda facts: bool(facts.issues)

    def __str__(self) -> str:
        return self.name


Term = Text | Number | Flag


def _needs(name: str | None) -> frozenset[str]:
    return frozenset({_NEEDS[name]}) if name in _NEEDS else frozenset()


def _fraction(number: str) -> tuple[int, int]:
    whole, _, decimals = number.partition(".")
    return int(whole + decimals), 10 ** len(decimals)


def _folded(text: str) -> str:
    # File names from macOS hold accents as characters of their own. ASCII, nearly everything, is not copied.
    return unicodedata.normalize("NFC", text.casefold())


def _any_of(matches: Callable[[str], bool]) -> Callable[[tuple[str, ...]], bool]:
    """Whether a string of many matches, remembering every string: a dataset has few tags, each on many images."""
    seen: set[str] = set()
    hits: set[str] = set()

    def any_matches(strings: tuple[str, ...]) -> bool:
        if not seen.issuperset(strings):
            new = set(strings) - seen
            hits.update(filter(matches, new))
            seen.update(new)
        return not hits.isdisjoint(strings)

    return any_matches
