"""A configuration that is being written: what its preset says, what the person changed, and what is wrong with it.

A draft is never changed: every edit gives the next one, which knows the way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from loratory.config.describe import show
from loratory.config.draft_problems import Problem, problems_in
from loratory.config.draft_text import rewritten
from loratory.config.draft_values import (
    choices,
    default,
    flat,
    inline,
    may_be_left_out,
    parse_text,
    plain,
    refusal,
    same,
    typed,
    zero_is_off,
)
from loratory.config.fields import FIELDS, TABLES
from loratory.config.load import FROM_PRESET, resolve
from loratory.config.presets import inherited_documents, list_presets
from loratory.config.schema import LENGTHS, Config
from loratory.errors import LoratoryError

Document = Mapping[str, Any]
Origin = Literal["default", "preset", "yours"]

SUBSETS = "dataset.subsets"
"""The one setting that a form shows and does not edit: tables, which are kept as they are."""

_LENGTHS = tuple(f"training.{key}" for key in LENGTHS)
_MOST_STEPS_BACK = 500


class Difference(NamedTuple):
    """A setting that has two values; None is "left out"."""

    key: str
    mine: Any
    other: Any


@dataclass(frozen=True)
class Draft:
    """A configuration being written.

    folder: what relative paths are seen from. document: what its file holds, or would hold. path: its file, None for
    one that has none yet. text: the file's text, as it was read or written last. remark: what was left out when it was
    opened, "" for nothing.
    """

    folder: Path
    document: Document
    path: Path | None = None
    text: str = ""
    remark: str = ""
    past: tuple[Document, ...] = field(default=(), repr=False, compare=False)
    future: tuple[Document, ...] = field(default=(), repr=False, compare=False)

    # --- what it says ---

    @property
    def place(self) -> Path:
        """Where its file is, or would be."""
        return self.path or self.folder / "draft.toml"

    @property
    def preset(self) -> str | None:
        """The preset it starts from, or for a finished run's record, came from."""
        named = self.document.get("preset", self.document.get(FROM_PRESET))
        return named if isinstance(named, str) else None

    def value(self, key: str) -> Any:
        """The value of a setting as a file would hold it; None for one that has none."""
        if key == "preset":
            return self.preset
        return self._values[key]

    def origin(self, key: str) -> Origin:
        """Who says so."""
        if key == "preset":
            return "default" if self.preset is None else "yours"
        if key in self._own or (key in _LENGTHS and key in self._inherited and self._names_length):
            return "yours"
        return "preset" if key in self._inherited else "default"

    def base(self, key: str) -> Any:
        """The value that the preset, or else the default, gives a setting."""
        return self._base[key]

    def typed(self, key: str) -> str:
        """The value as a person would type it."""
        return typed(key, self.value(key))

    def shown(self, key: str) -> str:
        """The value on one short line; "" for none."""
        value = self.value(key)
        if key == SUBSETS:
            count = len(cast("list[Any]", value)) if isinstance(value, list) else 0
            return f"{count} {'table' if count == 1 else 'tables'}" if count else ""
        if value is None or value == []:
            return ""
        return show(value) if not isinstance(value, str) else show(value)[1:-1]

    def changed(self) -> list[str]:
        """The settings that differ from the preset and the defaults, in the schema's order."""
        return [key for key in self._base if not same(self._values[key], self._base[key])]

    def difference(self, preset: str) -> list[Difference]:
        """Every setting in which this differs from a preset. Raises LoratoryError if there is none of that name."""
        other = _values_of({}, _inherited(preset, self.folder))
        return [
            Difference(key, value, other[key]) for key, value in self._values.items() if not same(value, other[key])
        ]

    @property
    def config(self) -> Config | None:
        """The configuration, None while something is wrong with it."""
        return self._resolved if isinstance(self._resolved, Config) else None

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that keeps this from being trained, in the order of the settings."""
        found = self._resolved
        problems = problems_in(found, str(self.place)) if isinstance(found, str) else []
        order = {key: number for number, key in enumerate(FIELDS)}
        return tuple(sorted(problems, key=lambda problem: order.get(problem.key, -1)))

    @cached_property
    def _resolved(self) -> Config | str:
        """The configuration, or what is wrong with it."""
        try:
            return resolve(self.document, self.place)
        except LoratoryError as error:
            return error.message

    def toml(self) -> str:
        """The file: `preset` and what differs from it. Comments and order of an opened file stay where they can."""
        return self._written[0]

    @property
    def keeps_comments(self) -> bool:
        """Whether the comments and the order of the opened file are in `toml`."""
        return self._written[1]

    @cached_property
    def _written(self) -> tuple[str, bool]:
        return rewritten(self.text, self.document)

    @property
    def is_saved(self) -> bool:
        """Whether the file holds this."""
        return self.path is not None and self.text == self.toml()

    # --- edits ---

    def set(self, key: str, text: str) -> "Draft":
        """The draft in which a setting is what a person typed.

        Raises LoratoryError, with the reason that a file with this value would get, if it cannot be. A value that only
        disagrees with other settings is taken, and is among `problems`.
        """
        if key == SUBSETS:
            raise LoratoryError(
                "Subsets are tables, which are not edited here; they stay as they are.",
                hint="An editor of text changes them in the file.",
            )
        if not text.strip() and (key == "preset" or refusal(key, text)):
            return self.clear(key)
        return self.put(key, parse_text(key, text))

    def put(self, key: str, value: Any) -> "Draft":
        """`set` with a TOML value; one that the preset or default gives anyway is not written down."""
        if key == "preset":
            return self._with_preset(value)
        wrong = refusal(key, value)
        if wrong:
            raise LoratoryError(wrong)
        if same(plain(key, value), self.value(key)):
            return self
        document = self._without(_LENGTHS if key in _LENGTHS else (key,))
        if same(plain(key, value), _values_of(document, self._inherited)[key]):
            return self._next(document)
        return self._next(_with(document, key, value))

    def clear(self, key: str) -> "Draft":
        """The draft in which a setting has no value; or that of preset and default, where it must have one."""
        if key == "preset":
            return self._with_preset(None)
        inherited = self._base[key]
        if inherited is None or not may_be_left_out(key):
            return self.reset(key)
        if key in _LENGTHS or zero_is_off(key):
            return self.put(key, 0)
        raise LoratoryError(
            f"{key} = {show(inherited)} stands in the preset, and a file has no word that takes it back.",
            hint="Give it another value, or start from another preset.",
        )

    def choose(self, key: str, by: int = 1) -> "Draft":
        """The draft with the next of the choices of a setting, or with `by` = -1 the one before.

        Raises LoratoryError for a setting that is typed.
        """
        names = [preset.name for preset in list_presets()] if key == "preset" else choices(key)
        if not names:
            raise LoratoryError(f"{key} has no list of choices: it is typed.")
        now = self.value(key)
        at = next((index for index, each in enumerate(names) if same(each, now)), None)
        following = names[(0 if by > 0 else -1) if at is None else (at + by) % len(names)]
        return self.clear(key) if following is None else self.put(key, following)

    def reset(self, key: str) -> "Draft":
        """The draft in which a setting is what preset and defaults say."""
        if key == "preset":
            return self._with_preset(None)
        return self._next(self._without(_LENGTHS if key in _LENGTHS else (key,)))

    def undo(self) -> "Draft":
        """The draft before the last edit; itself where there is none."""
        if not self.past:
            return self
        future = (self.document, *self.future)
        return replace(self, document=self.past[-1], past=self.past[:-1], future=future)

    def redo(self) -> "Draft":
        """The draft before the last `undo`; itself where nothing was undone."""
        if not self.future:
            return self
        past = (*self.past, self.document)
        return replace(self, document=self.future[0], past=past, future=self.future[1:])

    def _with_preset(self, name: object) -> "Draft":
        if name is not None and not isinstance(name, str):
            raise LoratoryError(f"preset = {show(name)}: must be text: the name of a preset or the path of a TOML file")
        rest = {key: value for key, value in self.document.items() if key not in ("preset", FROM_PRESET)}
        if name is None:
            return self._next(rest)
        _inherited(name, self.folder)  # refuses one that is not there
        return self._next({"preset": name, **rest})

    def _without(self, keys: tuple[str, ...]) -> Document:
        document = dict(self.document)
        for key in keys:
            table, _, name = key.rpartition(".")
            branch = document.get(table) if table else document
            if isinstance(branch, Mapping) and name in branch:
                left = {each: value for each, value in cast("Document", branch).items() if each != name}
                if table and left:
                    document[table] = left
                elif table:
                    del document[table]
                else:
                    document = left
        return document

    def _next(self, document: Document) -> "Draft":
        if document == self.document:
            return self
        return replace(self, document=document, past=(*self.past, self.document)[-_MOST_STEPS_BACK:], future=())

    # --- layers ---

    @cached_property
    def _own(self) -> dict[str, Any]:
        return flat(self.document)

    @property
    def _names_length(self) -> bool:
        return any(key in self._own for key in _LENGTHS)

    @cached_property
    def _inherited(self) -> dict[str, Any]:
        name = self.document.get("preset")
        if not isinstance(name, str) or FROM_PRESET in self.document:
            return {}
        try:
            return _inherited(name, self.folder)
        except LoratoryError:  # which is among the problems
            return {}

    @cached_property
    def _values(self) -> dict[str, Any]:
        return _values_of(self.document, self._inherited)

    @cached_property
    def _base(self) -> dict[str, Any]:
        return _values_of({}, self._inherited)


def replaced(before: Draft, after: Draft) -> list[str]:
    """The ways to give the run's length that an edit took out: one excludes the others."""
    return [key for key in _LENGTHS if before.value(key) is not None and after.value(key) is None]


def _inherited(name: str, folder: Path) -> dict[str, Any]:
    """What a preset and those it starts from say. Raises LoratoryError."""
    given: dict[str, Any] = {}
    for _, document in inherited_documents(name, folder):
        _lay(given, flat(document))
    return given


def _lay(given: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lays settings over those below; one way to give the run's length replaces the others, as in a file."""
    if any(key in layer for key in _LENGTHS):
        for key in _LENGTHS:
            given.pop(key, None)
    given.update(layer)


def _values_of(document: Document, inherited: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(inherited)
    _lay(given, flat(document))
    tables: dict[str, dict[str, Any]] = {name: {} for name in ("", *TABLES)}
    for key, value in given.items():
        table, _, name = key.rpartition(".")
        tables[table][name] = value
    return {
        key: plain(key, given[key]) if key in given else default(key, tables[key.rpartition(".")[0]])
        for key in FIELDS
        if key != "preset"
    }


def _with(document: Document, key: str, value: Any) -> Document:
    table, _, name = key.rpartition(".")
    if not table:
        return {**document, name: value}
    branch = document.get(table)
    return {**document, table: {**(cast("Document", branch) if isinstance(branch, Mapping) else {}), name: value}}


def spoken_value(value: Any) -> str:
    """A value of a Difference in words."""
    return "left out" if value is None else inline(value)
