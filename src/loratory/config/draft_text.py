"""The text of a configuration file after some of its settings changed: comments, order and unknown parts stay."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import tomli_w

from loratory.config.draft_values import inline
from loratory.config.fields import TABLES

_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(#.*)?$")
_OTHER_HEADER = re.compile(r"\s*\[")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_MOST_LINES = 2000  # of one value


class _Entry(NamedTuple):
    """A setting in the text. table: "" for the top. lines: from first to the one behind its last."""

    table: str
    key: str
    first: int
    end: int


def rewritten(text: str, document: Mapping[str, Any]) -> tuple[str, bool]:
    """`text`, changed so that it holds `document`; and whether its comments and order are still there.

    Where lines cannot simply be replaced, the whole is written anew.
    """
    if not text.strip():
        return dumped(document), True
    if _without_empty(_parsed(text)) == _without_empty(document):
        return text, True
    if not text.endswith("\n"):
        text += "\n"
    patched = _patched(text, document)
    if _without_empty(_parsed(patched)) == _without_empty(document):
        return patched, True
    return dumped(document), False


def dumped(document: Mapping[str, Any]) -> str:
    """A document as TOML, short lists on one line, the tables in the order of the schema."""
    tables = {name: document[name] for name in TABLES if document.get(name)}
    others = {name: value for name, value in document.items() if name not in TABLES}
    tables |= {name: value for name, value in others.items() if isinstance(value, Mapping)}
    top = "".join(f"{_line(name, value)}\n" for name, value in others.items() if name not in tables)
    parts = [_table(name, cast("Mapping[str, Any]", table)) for name, table in tables.items()]
    return "\n".join([*([top] if top else []), *parts])


def _table(name: str, table: Mapping[str, Any]) -> str:
    if any(_is_tables(value) for value in table.values()):
        return tomli_w.dumps({name: table})
    return f"[{name}]\n" + "".join(f"{_line(key, value)}\n" for key, value in table.items())


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in cast("list[Any]", value))


def _line(key: str, value: Any) -> str:
    name = inline({key: 0})[2:].partition(" = 0")[0]
    return f"{name} = {inline(value)}"


def _patched(text: str, document: Mapping[str, Any]) -> str:
    """`text` with its settings replaced, removed and added, as far as its lines can be told apart."""
    lines = text.splitlines(keepends=True)
    entries, headers = _read(lines)
    wanted = {("", key): value for key, value in document.items() if not isinstance(value, Mapping)}
    for table, content in document.items():
        if isinstance(content, Mapping):
            wanted |= {(table, key): value for key, value in cast("Mapping[str, Any]", content).items()}
    changes: list[tuple[int, int, list[str]]] = []
    last: dict[str, int] = dict(headers)
    for entry in entries:
        last[entry.table] = entry.end
        place = (entry.table, entry.key)
        if place not in wanted:
            changes.append((entry.first, entry.end, []))
            continue
        value = wanted.pop(place)
        old = _value_of(lines, entry)
        if old != value or isinstance(old, bool) != isinstance(value, bool):
            remark = _remark(lines, entry)
            changes.append((entry.first, entry.end, [_line(entry.key, value) + remark + "\n"]))
    added: dict[str, list[str]] = {}
    for (table, key), value in wanted.items():
        if not _is_tables(value):  # tables in a list are never written by a form: they are there, or they are not
            added.setdefault(table, []).append(_line(key, value) + "\n")
    end: list[str] = []
    for table, new in added.items():
        if table in last:
            changes.append((last[table], last[table], new))
        elif table:
            end += ["\n", f"[{table}]\n", *new]
        else:
            first = next((i for i, line in enumerate(lines) if not line.lstrip().startswith("#")), len(lines))
            changes.append((first, first, new))
    for first, stop, new in sorted(changes, key=lambda change: change[:2], reverse=True):
        lines[first:stop] = new
    return "".join([*lines, *end])


def _read(lines: list[str]) -> tuple[list[_Entry], dict[str, int]]:
    """Every setting that stands in lines of its own, and the line behind the header of each table."""
    entries: list[_Entry] = []
    headers: dict[str, int] = {}
    table: str | None = ""
    at = 0
    while at < len(lines):
        line = lines[at]
        header = _HEADER.match(line.rstrip("\r\n"))
        if header:
            table = str(header[1])
            headers.setdefault(table, at + 1)
        elif _OTHER_HEADER.match(line):
            table = None
        else:
            key = _KEY.match(line)
            end = _end(lines, at) if key else at + 1
            if key and table is not None:
                entries.append(_Entry(table, key[1], at, end))
            at = end
            continue
        at += 1
    return entries, headers


def _end(lines: list[str], first: int) -> int:
    """The line behind a value that starts in line `first`."""
    for end in range(first + 1, min(len(lines), first + _MOST_LINES) + 1):
        if _parsed("".join(lines[first:end])) is not None:
            return end
    return first + 1


def _value_of(lines: list[str], entry: _Entry) -> Any:
    return next(iter((_parsed("".join(lines[entry.first : entry.end])) or {"": None}).values()))


def _remark(lines: list[str], entry: _Entry) -> str:
    """The comment behind a value, with the space before it."""
    if entry.end - entry.first != 1:
        return ""
    line = lines[entry.first].rstrip("\r\n")
    for at in (i for i, character in enumerate(line) if character == "#"):
        if _parsed(line[:at]) is not None:
            bare = line[:at].rstrip()
            return line[len(bare) :]
    return ""


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _without_empty(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if document is None else {name: value for name, value in document.items() if value != {}}
