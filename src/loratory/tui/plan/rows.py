"""The settings as rows of a form. Pure."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from loratory.config.draft import Draft
from loratory.config.fields import FIELDS, TABLES
from loratory.config.schema.network import unread

HEAD = {
    "model.pretrained_model_name_or_path": "base model",
    "dataset.train_data_dir": "pictures",
    "preset": "preset",
    "output.output_name": "output name",
}
"""What every run needs said, above the tables."""

UNREAD = "unread"
"""Stands where the origin does, at a setting that the chosen network type does not read."""

_REST = ("compatibility",)


@dataclass(frozen=True)
class Row:
    """key: the setting, "" for the title of a table. origin: who says so, "" where it is the default, or UNREAD."""

    key: str
    title: str
    value: str = ""
    origin: str = ""
    is_changed: bool = False
    severity: str = ""

    @property
    def is_setting(self) -> bool:
        return bool(self.key)


def form_rows(draft: Draft, severities: dict[str, str], *, only: Collection[str] | None = None) -> tuple[Row, ...]:
    """The rows of the form; only: the settings to show, None for all. severities: of the worst finding of a setting."""
    changed = set(draft.changed())
    network_type = str(draft.value("network.network_type"))

    def row(key: str, title: str) -> Row:
        origin = draft.origin(key)
        value = draft.shown(key)
        if not value and FIELDS[key].is_required():
            value = "(needed)"
        origin = "" if origin == "default" else origin
        table, _, name = key.rpartition(".")
        if table == "network" and unread(name, network_type):
            origin = UNREAD
        return Row(key, title, value, origin, key in changed, severities.get(key, ""))

    rows = [row(key, title) for key, title in HEAD.items() if only is None or key in only]
    rows += [row(key, key) for key in _REST if only is None or key in only]
    for table in TABLES:
        keys = [
            key for key in FIELDS if key.startswith(f"{table}.") and key not in HEAD and (only is None or key in only)
        ]
        if keys:
            rows.append(Row("", f"[{table}]"))
            rows += [row(key, key.partition(".")[2]) for key in keys]
    return tuple(rows)


def step(rows: tuple[Row, ...], start: int, by: int, fits: Callable[[Row], bool]) -> int | None:
    """The next row behind `start` that fits, going round; None where none does."""
    count = len(rows)
    for distance in range(1, count + 1):
        at = (start + by * distance) % count
        if fits(rows[at]):
            return at
    return None


def moved(rows: tuple[Row, ...], start: int, by: int) -> int:
    """`by` settings further from `start`, not beyond the first and last."""
    places = [index for index, row in enumerate(rows) if row.is_setting]
    if not places:
        return 0
    at = next((number for number, index in enumerate(places) if index >= start), len(places) - 1)
    return places[max(0, min(len(places) - 1, at + by))]


def table_start(rows: tuple[Row, ...], start: int, by: int) -> int:
    """The first setting of the next table, or of the one before."""
    starts = [0, *(index + 1 for index, row in enumerate(rows) if not row.is_setting)]
    if by > 0:
        return next((index for index in starts if index > start), start)
    return next((index for index in reversed(starts) if index < start), start)


def place_of(rows: tuple[Row, ...], key: str) -> int | None:
    """The row of a setting."""
    return next((index for index, row in enumerate(rows) if row.key == key), None)


def hits(text: str) -> list[str]:
    """The settings with every word of a search: first those that have them in the name, then those in the help.

    Of the names, one that is the very text comes first: others have `resolution` in theirs, too.
    """
    words = text.casefold().split()
    named: list[str] = []
    explained: list[str] = []
    for key in FIELDS:
        name = f"{key} {HEAD.get(key, '')}".casefold()
        if all(word in name for word in words):
            named.append(key)
        elif all(word in f"{name} {FIELDS[key].description or ''}".casefold() for word in words):
            explained.append(key)
    named.sort(key=lambda key: key.rpartition(".")[2] != "_".join(words))
    return named + explained
