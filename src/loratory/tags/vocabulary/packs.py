"""Knowledge in TOML: the starter packs that ship, and the person's own rules.

Tables: `[tags]` (category -> names, commonest first, and `deprecated`), `[aliases]` (other name -> canonical name, or
several), `[implications]` (specific name -> general names, direct ones only), `[translations]` (canonical name ->
canonical name on the other site).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import loratory
from loratory import atomic
from loratory.config.toml_files import parse_toml
from loratory.errors import LoratoryError
from loratory.paths import cache_dir, config_dir
from loratory.tags.text import key
from loratory.tags.vocabulary.model import CATEGORIES, Origin, Site, Size, TagInfo
from loratory.tags.vocabulary.names import cleaned, fault

TABLES = ("tags", "aliases", "implications", "translations")
_HINT = "docs/vocabularies.md shows the format."


@dataclass(frozen=True)
class Knowledge:
    """What one TOML file says, by `text.key`. Names as they are written there.

    aliases: the alias as written and its targets. implications: the specific tag as written and the general ones.
    state: differs whenever the file does.
    """

    tags: dict[str, TagInfo] = field(default_factory=dict[str, TagInfo])
    aliases: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict[str, tuple[str, tuple[str, ...]]])
    implications: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict[str, tuple[str, tuple[str, ...]]])
    translations: dict[str, str] = field(default_factory=dict[str, str])
    state: str = ""

    @property
    def size(self) -> Size:
        """How much it says."""
        return Size(
            len(self.tags),
            sum(len(targets) for _, targets in self.aliases.values()),
            sum(len(generals) for _, generals in self.implications.values()),
        )


def pack_path(site: Site) -> Path:
    """The starter pack that ships for `site`."""
    return Path(__file__).parent / "packs" / f"{site}.toml"


def rules_path(site: Site) -> Path:
    """The person's own rules for `site`; there need be no such file."""
    return config_dir() / "rules" / f"{site}.toml"


def read_knowledge(path: Path) -> bytes:
    """The bytes of a pack or rules file, b"" where there is none. Raises LoratoryError for what cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error


def read_pack(path: Path, site: Site) -> Knowledge:
    """What a starter pack says; raises LoratoryError as `parse_knowledge`.

    The big packs take 30 ms to parse, so the result is kept in the cache folder, from where it takes 3 ms.
    """
    data = read_knowledge(path)
    state = _state(data)
    kept = cache_dir() / "vocabularies" / f"{site}.pack.{state}.json"
    try:
        return _restored(json.loads(kept.read_bytes()), state)
    except (OSError, ValueError, TypeError, AttributeError):
        knowledge = parse_knowledge(data, path, "pack")
    with suppress(OSError):  # a disk that refuses costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        for older in kept.parent.glob(f"{site}.pack.*.json"):
            older.unlink(missing_ok=True)
        tags = [(at, info.name, info.category, info.deprecated) for at, info in knowledge.tags.items()]
        tables = [tags, knowledge.aliases, knowledge.implications, knowledge.translations]
        atomic.write_text(kept, json.dumps(tables))
    return knowledge


def _state(data: bytes) -> str:
    return hashlib.sha256(loratory.__version__.encode() + b"\n" + data).hexdigest()[:16]


def _restored(tables: list[Any], state: str) -> Knowledge:
    tags, aliases, implications, translations = tables
    return Knowledge(
        {at: TagInfo(name, category, 0, deprecated, "pack") for at, name, category, deprecated in tags},
        {at: (name, tuple(targets)) for at, (name, targets) in aliases.items()},
        {at: (name, tuple(generals)) for at, (name, generals) in implications.items()},
        dict(translations),
        state,
    )


def parse_knowledge(data: bytes, path: Path, origin: Origin) -> Knowledge:
    """What the bytes of a pack or rules file say. Raises LoratoryError naming `path` and the key."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoratoryError(f"{path} is not UTF-8 text (offset {error.start}).", hint=_HINT) from None
    document = parse_toml(text, path)
    unknown = next((name for name in document if name not in TABLES), None)
    if unknown is not None:
        raise _wrong(path, unknown, f"no such table; there are {', '.join(TABLES)}")
    aliases = dict(_lists(document, "aliases", path))
    implications = dict(_lists(document, "implications", path))
    knowledge = Knowledge(
        _tags(document, path, origin),
        {key(alias): (alias, targets) for alias, targets in aliases.items()},
        {key(specific): (specific, general) for specific, general in implications.items()},
        {key(name): other[0] for name, other in _lists(document, "translations", path)},
        _state(data),
    )
    for alias, (name, targets) in knowledge.aliases.items():
        if alias in knowledge.tags:
            raise _wrong(path, f"aliases.{name}", "this is a name of [tags] too; it can only be one of them")
        if alias in map(key, targets):
            raise _wrong(path, f"aliases.{name}", "this stands for itself")
    return knowledge


def _tags(document: dict[str, Any], path: Path, origin: Origin) -> dict[str, TagInfo]:
    table = _table(document, "tags", path)
    unknown = next((name for name in table if name not in (*CATEGORIES, "deprecated")), None)
    if unknown is not None:
        raise _wrong(path, f"tags.{unknown}", f"no such category; there are {', '.join(CATEGORIES)}")
    named = {name: _names(table[name], path, f"tags.{name}") for name in table}
    deprecated = {key(name): name for name in named.pop("deprecated", ())}
    tags: dict[str, TagInfo] = {}
    for category, names in [*named.items(), ("general", tuple(deprecated.values()))]:
        for name in names:
            tags.setdefault(key(name), TagInfo(name, category, 0, key(name) in deprecated, origin))
    return tags


def _lists(document: dict[str, Any], table: str, path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in _table(document, table, path).items():
        where = f"{table}.{name}"
        names = _names([value] if isinstance(value, str) else value, path, where)
        if not names:
            raise _wrong(path, where, "an empty list says nothing")
        yield _name(name, path, where), names


def _table(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise _wrong(path, name, "must be a table")
    return cast(dict[str, Any], value)


def _names(value: object, path: Path, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(path, where, "must be a list of names in quotes")
    return tuple(_name(name, path, where) for name in cast(list[object], value))


def _name(value: object, path: Path, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, where, f"{value!r} must be a name in quotes")
    name = cleaned(value)
    if why := fault(name):
        raise _wrong(path, where, f"“{name[:40]}” cannot be a tag: {why}")
    return name


def _wrong(path: Path, where: str, problem: str) -> LoratoryError:
    return LoratoryError(f"{path}, {where[:80]}: {problem}.", hint=_HINT)
