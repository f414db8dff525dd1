"""The files that vocabularies come in, told apart by what is in them, and read row by row.

Facts about the formats: the tag list of the a1111 tag-autocomplete extension has no header, `name,category,count,
"alias,alias"`, and may lack the last columns or hold free text in the third. e621 exports tables as CSV with a header.
Danbooru's API answers with JSON arrays of objects.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

from loratory.errors import LoratoryError
from loratory.tags.vocabulary.model import CATEGORIES, Category, Site
from loratory.tags.vocabulary.names import cleaned, fault
from loratory.tags.vocabulary.packs import parse_knowledge

EXPECTED = (
    'Expected is one of: a tag list (name,category,count,"alias,alias"), an e621 export of tags, tag_aliases or '
    "tag_implications (CSV or CSV.gz), pages of Danbooru's API (JSON), or a rules file (TOML)."
)
_BAD_ROWS_NAMED = 5
_LARGEST_COUNT = 1 << 53
_DANBOORU: dict[str, Category] = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta"}
_E621: dict[str, Category] = {
    **_DANBOORU,
    "-1": "invalid",
    "2": "contributor",
    "5": "species",
    "6": "invalid",
    "7": "meta",
    "8": "lore",
}
_NUMBERS: dict[Site, dict[str, Category]] = {"e621": _E621, "danbooru": _DANBOORU, "natural": _DANBOORU}
_JSON_STARTS = re.compile(r'\[\s*(\{|\[|\]|$)|\{\s*("|\}|$)')
_TOML_STARTS = re.compile(r"\[\s*(tags|aliases|implications|translations)\s*[\].]")

# A line's number, counted from 1, and its text without the newline; None for a line that is absurdly long.
Lines = Iterator[tuple[int, str | None]]


class Tag(NamedTuple):
    """A canonical tag, with the aliases that stand in the same row."""

    name: str
    category: str
    posts: int
    deprecated: bool
    aliases: tuple[str, ...] = ()


class Alias(NamedTuple):
    """One name for another."""

    name: str
    target: str


class Implication(NamedTuple):
    """A direct one."""

    specific: str
    general: str


Record = Tag | Alias | Implication


@dataclass
class Tally:
    """What of a file was not taken, and why."""

    bad: int = 0
    first_bad: list[str] = field(default_factory=list[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    unknown_categories: int = 0

    def refuse(self, line: int, why: str) -> None:
        """Counts a row that is wrong, and remembers the first few."""
        self.bad += 1
        if len(self.first_bad) < _BAD_ROWS_NAMED:
            self.first_bad.append(f"line {line}: {why}")


class Format(NamedTuple):
    """A format that was recognised. name: for people.

    site: the only site that writes it, if so. settles_aliases: whether it is the site's own word on
    what is an alias, which makes a canonical tag of an older import one.
    """

    name: str
    site: Site | None
    settles_aliases: bool
    read: Callable[[Lines, Site, Tally], Iterator[Record]]


def recognise(sample: list[str], path: Path) -> Format:
    """The format of a file by its first lines.

    path: tells aliases from implications, whose tables have the same columns. Raises LoratoryError, saying what is
    expected, when it is none of those known.
    """
    text = "\n".join(sample).lstrip()
    meaningful = (line.strip() for line in sample)
    if _TOML_STARTS.match(next((line for line in meaningful if line and not line.startswith("#")), "")):
        return Format("rules", None, False, partial(_read_rules, path=path))
    if _JSON_STARTS.match(text) and '"antecedent_name"' in text:
        relation = _relation(path)
        name = "JSON pages of tag aliases" if relation is Alias else "JSON pages of tag implications"
        return Format(name, None, relation is Alias, partial(_read_json, relation=relation))
    if _JSON_STARTS.match(text) and (
        ('"name"' in text and '"post_count"' in text) or re.fullmatch(r"\[\s*\]\s*", text)
    ):
        return Format("JSON pages of tags", None, False, partial(_read_json, relation=None))
    header = {*_header((sample[0] if sample else "").replace('"', "").split(","))}
    if {"name", "category", "post_count"} <= header:
        return Format("e621 tags", "e621", False, _read_tag_table)
    if {"antecedent_name", "consequent_name"} <= header:
        relation = _relation(path)
        name = "e621 tag aliases" if relation is Alias else "e621 tag implications"
        return Format(name, "e621", relation is Alias, partial(_read_relation_table, relation=relation))
    is_document = text.startswith("<") or isinstance(_loaded(text), list)
    if not is_document and any(_is_list_row(line) for line in sample):
        return Format("tag list", None, False, _read_tag_list)
    page = " It looks like a web page." if text.startswith("<") else ""
    raise LoratoryError(f"{path} is no vocabulary that can be read.{page}", hint=EXPECTED)


def _relation(path: Path) -> type[Alias] | type[Implication]:
    is_alias, is_implication = "alias" in path.name.lower(), "implication" in path.name.lower()
    if is_alias == is_implication:
        raise LoratoryError(
            f"{path} holds pairs of tags; its content does not say whether they are aliases or implications.",
            hint="Give it a name with “alias” or “implication” in it, such as tag_implications.csv.",
        )
    return Alias if is_alias else Implication


def _is_list_row(line: str) -> bool:
    row = _row(line) or []
    return len(row) > 1 and (
        row[1].strip().lower() in CATEGORIES or re.fullmatch(r"-?\d{1,2}", row[1].strip()) is not None
    )


def _row(line: str) -> list[str] | None:
    """The fields of a line of CSV; None where its quotes do not match. No field spans lines: tags have no newlines."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return None


def _rows(lines: Lines, tally: Tally) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        if line is None:
            tally.refuse(number, "it is absurdly long")
        elif line and not line.isspace():
            row = _row(line)
            if row is None:
                tally.refuse(number, "its quotes do not match")
            else:
                yield number, row


def _read_tag_list(lines: Lines, site: Site, tally: Tally) -> Iterator[Record]:
    for number, row in _rows(lines, tally):
        category = _category(row[1], site, tally) if len(row) > 1 else "general"
        if category is None:
            tally.refuse(number, f"“{row[1][:20]}” is no category")
            continue
        posts = _posts(row[2]) if len(row) > 2 else 0
        aliases = ",".join(row[3:]).split(",") if len(row) > 3 else ()
        # Free text where the count should be is a description: the custom lists have it there.
        yield from _tag(number, row[0], category, posts or 0, False, aliases, tally)


def _read_tag_table(lines: Lines, site: Site, tally: Tally) -> Iterator[Record]:
    rows = _rows(lines, tally)
    header = _header(next(rows)[1])
    name, category, posts = (header.get(column, -1) for column in ("name", "category", "post_count"))
    for number, row in rows:
        if len(row) != len(header):
            tally.refuse(number, f"it has {len(row)} columns, the header {len(header)}")
            continue
        yield from _counted_tag(
            number, row[name], row[category], row[posts] if posts >= 0 else None, False, site, tally
        )


def _read_relation_table(
    lines: Lines, site: Site, tally: Tally, *, relation: type[Alias] | type[Implication]
) -> Iterator[Record]:
    rows = _rows(lines, tally)
    header = _header(next(rows)[1])
    first, second, status = (header.get(column, -1) for column in ("antecedent_name", "consequent_name", "status"))
    for number, row in rows:
        if len(row) != len(header):
            tally.refuse(number, f"it has {len(row)} columns, the header {len(header)}")
            continue
        yield from _pair(number, relation, row[first], row[second], row[status] if status >= 0 else "active", tally)


def _read_json(
    lines: Lines, site: Site, tally: Tally, *, relation: type[Alias] | type[Implication] | None
) -> Iterator[Record]:
    for number, value in _json_objects(lines, tally):
        if not isinstance(value, dict):
            tally.refuse(number, "an object is expected")
            continue
        item = cast(dict[str, Any], value)
        if relation is not None:
            pair = (item.get("antecedent_name"), item.get("consequent_name"))
            yield from _pair(number, relation, *pair, item.get("status", "active"), tally)
        else:
            deprecated = item.get("is_deprecated") is True
            fields = (item.get("name"), item.get("category", 0), item.get("post_count"))
            yield from _counted_tag(number, *fields, deprecated, site, tally)


def _json_objects(lines: Lines, tally: Tally) -> Iterator[tuple[int, object]]:
    """The objects of pages, one array or object a line, or of one document over many lines."""
    first = next(lines)
    if _loaded(first[1]) is not None:
        pages = ((number, _loaded(text)) for number, text in chain([first], lines) if text != "")
    else:
        kept = [first, *lines]
        document = _loaded("\n".join(text or "" for _, text in kept))
        pages = [(number, _loaded(text)) for number, text in kept] if document is None else [(first[0], document)]
    for number, page in pages:
        if page is None:
            tally.refuse(number, "it is not JSON")
        elif isinstance(page, list):
            yield from ((number, item) for item in cast(list[object], page))
        else:
            yield number, page


def _loaded(text: str | None) -> object:
    """A JSON value, None for what is none."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_rules(lines: Lines, site: Site, tally: Tally, *, path: Path) -> Iterator[Record]:
    text = "\n".join(line or "" for _, line in lines)
    knowledge = parse_knowledge(text.encode("utf-8", "surrogateescape"), path, "import")
    for tag in knowledge.tags.values():
        yield Tag(tag.name, tag.category, 0, tag.deprecated)
    for alias, targets in knowledge.aliases.values():
        yield from (Alias(alias, target) for target in targets)
    for specific, generals in knowledge.implications.values():
        yield from (Implication(specific, general) for general in generals)
    if knowledge.translations:
        tally.skipped["translations, which count in the rules file only"] += len(knowledge.translations)


def _header(row: list[str]) -> dict[str, int]:
    return {name.strip().lower(): index for index, name in enumerate(row)}


def _tag(
    line: int, name: str, category: str, posts: int, deprecated: bool, aliases: Iterable[str], tally: Tally
) -> Iterator[Record]:
    name = cleaned(name)
    if why := fault(name):
        tally.refuse(line, why)
        return
    kept: list[str] = []
    for alias in map(cleaned, aliases):
        if not alias:
            continue
        if why := fault(alias):
            tally.refuse(line, f"an alias of {name[:40]}: {why}")
        else:
            kept.append(alias)
    yield Tag(name, category, posts, deprecated, tuple(kept))


def _counted_tag(
    line: int, name: object, category: object, posts: object, deprecated: bool, site: Site, tally: Tally
) -> Iterator[Record]:
    """A row of a site's own table, which also lists names that nothing is tagged with: mostly typing mistakes."""
    count = None if posts is None else _posts(str(posts))
    known = _category(str(category), site, tally)
    if not isinstance(name, str):
        tally.refuse(line, "it has no name")
    elif known is None:
        tally.refuse(line, f"“{str(category)[:20]}” is no category")
    elif posts is not None and count is None:
        tally.refuse(line, f"“{str(posts)[:20]}” is no number of posts")
    elif count == 0:
        tally.skipped["used by no post"] += 1
    else:
        yield from _tag(line, name, known, count or 0, deprecated, (), tally)


def _pair(
    line: int, relation: type[Alias] | type[Implication], first: object, second: object, status: object, tally: Tally
) -> Iterator[Record]:
    if not isinstance(first, str) or not isinstance(second, str):
        tally.refuse(line, "it does not name two tags")
        return
    first, second = cleaned(first), cleaned(second)
    if status != "active":
        tally.skipped["not active"] += 1
    elif why := fault(first) or fault(second):
        tally.refuse(line, why)
    elif first == second:
        tally.skipped["a tag paired with itself"] += 1
    elif relation is Alias and (second == "invalid_tag" or second.endswith("_(disambiguation)")):
        tally.skipped["an alias that stands for no tag"] += 1
    else:
        yield relation(first, second)


def _category(value: str, site: Site, tally: Tally) -> Category | None:
    """The category of a number or a word; a number that the site does not have is taken for a general tag."""
    value = value.strip().lower()
    known = _NUMBERS[site].get(value)
    if known is not None:
        return known
    if value in CATEGORIES:
        return value
    if not re.fullmatch(r"-?\d{1,3}", value):
        return None
    tally.unknown_categories += 1
    return "general"


def _posts(value: str) -> int | None:
    """A number of posts, 0 for a negative one; None for what is no number."""
    return min(max(int(value), 0), _LARGEST_COUNT) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else None
