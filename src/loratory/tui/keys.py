"""The keys of the panes: a table each that dispatches, that the help screen shows, and that a file can change.

A key is written as Textual names it ("j", "ctrl+d", "right_square_bracket" as "]"); a sequence has spaces ("g g").
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loratory.config.toml_files import read_toml
from loratory.errors import LoratoryError


@dataclass(frozen=True)
class Action:
    """id: stable, for the key file. keys: sequences that start it. takes: what it asks for next ("hint" or "").

    help: what it does, for the help screen. short: for the footer, "" for none.
    """

    id: str
    keys: tuple[str, ...]
    help: str
    group: str
    takes: str = ""
    short: str = ""


# The panes by their numbers; each has a table of its own in the key file, the tag editor's being [keys].
PANES = ("tags", "prepare", "stats", "plan", "run", "gallery")

PANE, MOVE, EDIT, WIDE, SELECT, LOOK, PROGRAM = (
    "Panes",
    "Move",
    "Edit this picture",
    "Edit many pictures (selected, else filtered, else all)",
    "Select and filter",
    "Look",
    "Program",
)


def pane_actions(own: str, keys: Mapping[str, tuple[str, ...]]) -> tuple[Action, ...]:
    """The actions that go to the other panes: "pane-prepare" and so on, with the keys given for each."""
    return tuple(Action(f"pane-{name}", keys[name], f"the {name} pane", PANE) for name in PANES if name != own)


# Where digits are free they lead to the panes; in the tag editor they are the palette.
PANE_DIGITS = {
    name: (str(number), f"g {number}", *((f"f{number}",) if number > 1 else ()))
    for number, name in enumerate(PANES, start=1)
}

ACTIONS: tuple[Action, ...] = (
    Action("next", ("j", "down"), "next picture", MOVE),
    Action("previous", ("k", "up"), "previous picture", MOVE),
    Action("first", ("g g", "home"), "first picture", MOVE),
    Action("last", ("G", "end"), "last picture", MOVE),
    Action("half-page-down", ("ctrl+d", "pagedown"), "half a page down", MOVE),
    Action("half-page-up", ("ctrl+u", "pageup"), "half a page up", MOVE),
    Action("accept", ("space",), "reviewed; on to the next with a finding, or not reviewed", MOVE, short="next"),
    Action("next-finding", ("] i",), "next picture with a finding", MOVE),
    Action("previous-finding", ("[ i",), "previous picture with a finding", MOVE),
    Action("next-untagged", ("] u",), "next picture without tags", MOVE),
    Action("previous-untagged", ("[ u",), "previous picture without tags", MOVE),
    Action("next-duplicate", ("] d",), "next picture whose file is in the set twice", MOVE),
    Action("previous-duplicate", ("[ d",), "previous such picture", MOVE),
    Action("next-unreviewed", ("] r",), "next picture not reviewed", MOVE),
    Action("previous-unreviewed", ("[ r",), "previous picture not reviewed", MOVE),
    Action("next-hit", ("n",), "next hit of the last filter", MOVE),
    Action("previous-hit", ("N",), "previous hit of the last filter", MOVE),
    Action("last-edited", ("'",), "the picture edited last", MOVE),
    Action("add", ("a",), "add tags at the end", EDIT, short="add"),
    Action("prepend", ("p",), "add tags at the front", EDIT),
    Action("remove", ("d",), "remove a tag", EDIT, "hint", short="remove"),
    Action("change", ("c",), "change a tag", EDIT, "hint", short="change"),
    Action("move", ("m",), "move a tag: its letter, then that of its new place (^ first, $ last)", EDIT, "hint"),
    Action("keep", ("!",), "keep a tag: its findings are fine in this dataset", EDIT, "hint"),
    Action("fix", ("f",), "fix the first finding that has a fix", EDIT),
    Action("edit-text", ("e", "enter"), "edit the caption as text", EDIT),
    Action("repeat", (".",), "repeat the last edit here", EDIT),
    Action("carry", ("Q",), "add what was added to the picture edited last", EDIT),
    Action("copy-caption", ("y y",), "copy the tags of this picture", EDIT),
    Action("paste", ("g p",), "add the copied tags", EDIT),
    Action("sort", ("g s",), "sort the tags after the first two", EDIT),
    Action("dedupe", ("g d",), "remove tags that stand twice", EDIT),
    Action("palette", ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0"), "palette tag on or off", EDIT),
    Action("to-palette", ("y",), "put a tag on the palette", EDIT, "hint"),
    Action("prepend-wide", ("P",), "add tags at the front of many", WIDE),
    Action("add-wide", ("A",), "add tags at the end of many", WIDE),
    Action("remove-wide", ("x", "D"), "remove a tag from many", WIDE, "hint"),
    Action("change-wide", ("C",), "rename a tag in many", WIDE, "hint"),
    Action("fix-wide", ("F",), "fix the same finding in many", WIDE),
    Action("paste-wide", ("g P",), "add the copied tags to many", WIDE),
    Action("repeat-wide", ("g .",), "repeat the last edit on many", WIDE),
    Action("review-tag", ("t",), "go through all pictures for one tag: y yes, n no", WIDE, "hint"),
    Action("undo", ("u",), "undo the last change, whatever it was", PROGRAM, short="undo"),
    Action("redo", ("U", "ctrl+r"), "redo what was undone", PROGRAM),
    Action("filter", ("/",), "show only what a query finds", SELECT, short="filter"),
    Action("select", ("s",), "select or unselect this picture", SELECT),
    Action("select-range", ("v",), "select a range: v, move, v", SELECT),
    Action("select-tag", ("*",), "select all pictures with a tag", SELECT, "hint"),
    Action("select-shown", ("g a",), "select all pictures in the list", SELECT),
    Action("select-invert", ("g i",), "select the others of the list", SELECT),
    Action("clear", ("escape",), "drop what is begun, then the selection, then the filter", SELECT),
    Action("zoom", ("z z",), "the picture over the whole screen", LOOK),
    Action("preview", ("z p",), "picture on or off", LOOK),
    Action("tag-table", ("T",), "all tags with their counts", LOOK),
    Action("finding-table", ("I",), "all findings of the dataset", LOOK),
    Action("history", ("H",), "all changes; undo any of them", LOOK),
    Action("draws", ("=",), "ten draws of the caption as training makes them", LOOK),
    Action("command", (":",), "a command: the verbs of `loratory tag`, and more", PROGRAM),
    Action("record", ("q",), "record keys; q ends it", PROGRAM),
    Action("replay", ("@",), "replay the recorded keys", PROGRAM),
    Action("reload", ("g r",), "look for new pictures and changed captions", PROGRAM),
    Action("redraw", ("ctrl+l",), "draw the screen and the picture anew", PROGRAM),
    Action("help", ("?", "f1"), "all keys", PROGRAM, short="keys"),
    Action("quit", ("ctrl+q", "Z Z"), "leave; everything is saved already", PROGRAM, short="quit"),
    *pane_actions("tags", {name: keys[1:] for name, keys in PANE_DIGITS.items()}),
)

# Letters of the tags' hints, the home row first; the rest follows in twos where there are many tags.
HINT_LETTERS = "asdfghjklewruiopqtzxcvbnm"


class Keymap:
    """Which action a sequence of keys starts."""

    def __init__(self, actions: Iterable[Action] = ACTIONS) -> None:
        self.actions = tuple(actions)
        self._by_keys = {keys: action for action in self.actions for keys in action.keys}
        self._prefixes = {
            " ".join(parts[:end])
            for parts in (keys.split(" ") for keys in self._by_keys)
            for end in range(1, len(parts))
        }

    def find(self, keys: str) -> Action | None:
        """The action of a whole sequence."""
        return self._by_keys.get(keys)

    def is_prefix(self, keys: str) -> bool:
        """Whether a longer sequence begins with these keys."""
        return keys in self._prefixes

    def keys_of(self, action_id: str) -> str:
        """The first key of an action, as a person reads it; "" where it has none."""
        for action in self.actions:
            if action.id == action_id:
                return shown_keys(action.keys[0]) if action.keys else ""
        return ""


def written_key(key: str, character: str | None) -> str:
    """A key press as the table writes it: its character where it has one, else its name."""
    if key == "space" or character == " ":
        return "space"
    if character is not None and character.isprintable():
        return character
    return key


def shown_keys(keys: str) -> str:
    """A sequence for people: "g g" is typed gg."""
    parts = keys.split(" ")
    return "".join(parts) if all(len(part) == 1 for part in parts) else " ".join(parts)


def hints(count: int) -> list[str]:
    """`count` hints, none of which begins another: single letters while they last, pairs for the later ones, and
    where there are more tags than pairs (625) as many letters for each as it takes."""
    letters = HINT_LETTERS
    if count <= len(letters):
        return list(letters[:count])
    if count > len(letters) ** 2:
        length = next(length for length in itertools.count(3) if len(letters) ** length >= count)
        return ["".join(hint) for hint in itertools.islice(itertools.product(letters, repeat=length), count)]
    leaders = -(-(count - len(letters)) // (len(letters) - 1))
    singles = list(letters[: len(letters) - leaders])
    pairs = [first + second for first in letters[len(letters) - leaders :] for second in letters]
    return (singles + pairs)[:count]


def read_keymap(path: Path, pane: str = "tags", actions: tuple[Action, ...] = ACTIONS) -> Keymap:
    """A pane's table with the changes of a key file: action id = a sequence or a list of them.

    The tag editor's are in `[keys]`, those of the other panes in tables with their names. An empty list frees an
    action's keys. Raises LoratoryError that names what is unknown or taken twice.
    """
    if not path.exists():
        return Keymap(actions)
    document = read_toml(path)
    tables = {name: "keys" if name == "tags" else name for name in PANES}
    for table in document:
        if table not in tables.values():
            known = ", ".join(f"[{name}]" for name in tables.values())
            raise LoratoryError(
                f"{path}: [{table}] is unknown.", hint=f'Write one of {known}, then lines like add = "a".'
            )
    changes = _changes(cast(Mapping[str, Any], document.get(tables[pane], {})), path, tables[pane], actions)
    changed = [
        Action(action.id, changes[action.id], action.help, action.group, action.takes, action.short)
        if action.id in changes
        else action
        for action in actions
    ]
    taken: dict[str, str] = {}
    for action in changed:
        for keys in action.keys:
            other = taken.setdefault(keys, action.id)
            if other != action.id:
                raise LoratoryError(
                    f"{path}: {shown_keys(keys)} is the key of both {other} and {action.id}.",
                    hint=f"Give one of them another; `{other} = []` frees a key.",
                )
    for keys in taken:
        parts = keys.split(" ")
        for end in range(1, len(parts)):
            shorter = " ".join(parts[:end])
            owner = taken.get(shorter)
            # y takes a hint, and y y copies all: a hint never is the letter that follows its key.
            if owner is not None and next(action for action in changed if action.id == owner).takes != "hint":
                raise LoratoryError(
                    f"{path}: {shown_keys(keys)} can never be typed, because {shown_keys(shorter)} is {owner} already."
                )
    return Keymap(changed)


def _changes(given: Mapping[str, Any], path: Path, table: str, actions: Iterable[Action]) -> dict[str, tuple[str, ...]]:
    known = [action.id for action in actions]
    changes: dict[str, tuple[str, ...]] = {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"Did you mean {near[0]}?"
                if near
                else "`?` in the pane lists its actions, and so do the pages in docs."
            )
            raise LoratoryError(f"{path}: {table}.{name} is no action.", hint=hint)
        sequences = [value] if isinstance(value, str) else value
        if not isinstance(sequences, list) or not all(
            isinstance(keys, str) and keys.strip() for keys in cast(list[Any], sequences)
        ):
            raise LoratoryError(f'{path}: {table}.{name} must be a key such as "a" or "g g", or a list of them.')
        changes[name] = tuple(" ".join(keys.split()) for keys in cast(list[str], sequences))
    return changes
