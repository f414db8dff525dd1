"""The recipes of a folder of originals: `recipes.toml`, and its history, by which every change can be taken back.

The history is append-only, one JSON object a line: {"v":1,"id":…,"time":…,"label":…,"changes":{name:[before,after]}} is
a change, {"v":1,"undoes":id} and {"v":1,"redoes":id} are the ways back and forth, and {"v":1,"settles":{name:after}}
tells what the last changes of these pictures came to when they were built. A torn last line is no line.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from loratory.atomic import write_text
from loratory.dataset.root import STATE
from loratory.errors import FAILED, LoratoryError
from loratory.imaging.recipe import Defaults, Recipe
from loratory.imaging.recipe_toml import Book, Prepare, read_recipes, render
from loratory.preparation.lines import append_line, read_lines
from loratory.preparation.record import stamp_of

RECIPES = "recipes.toml"
HISTORY = "recipes-history.jsonl"

Changes = Mapping[str, tuple[Recipe, Recipe]]


@dataclass(frozen=True)
class RecipeBatch:
    """One change of the history. time_s: since the epoch. changes: name -> (before, after)."""

    id: str
    label: str
    time_s: float
    changes: Changes


class RecipeBook:
    """The recipes of the originals in `folder`.

    file: where they stand if not in `folder`/recipes.toml. defaults: what goes where the file has none. Every change is
    written at once, and what somebody wrote into the file meanwhile is read first. Raises LoratoryError for a file that
    cannot be read or written.
    """

    def __init__(self, folder: Path, *, file: Path | None = None, defaults: Defaults | None = None) -> None:
        self.folder = folder
        self.file = file or folder / RECIPES
        self.history_file = (self.file.parent if self.file.parent.name == STATE else self.file.parent / STATE) / HISTORY
        self._without_file = Book(Prepare(), defaults or Defaults(), {})
        self._stamp: tuple[int, int, int] | None = None
        self._book = self._without_file
        self.refresh()

    @property
    def prepare(self) -> Prepare:
        return self._book.prepare

    @property
    def defaults(self) -> Defaults:
        return self._book.defaults

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        return self._book.recipes

    def recipe_of(self, name: str) -> Recipe:
        """The recipe of a picture; the plain one where it has none."""
        return self._book.recipes.get(name) or Recipe()

    def refresh(self) -> bool:
        """Reads the file anew if somebody has written it; whether it was."""
        stamp = stamp_of(self.file)
        if stamp == self._stamp:
            return False
        self._book = self._without_file if stamp is None else read_recipes(self.file)
        self._stamp = stamp
        return True

    def set_up(self, prepare: Prepare, defaults: Defaults, *, write: bool = True) -> None:
        """Sets what goes for the whole folder. write: False only supposes it, until the file changes."""
        self.refresh()
        book = replace(self._book, prepare=prepare, defaults=defaults)
        if not write:
            self._book = book
        elif book != self._book:
            self._write(book)

    def settle(self, recipes: Mapping[str, Recipe], *, with_the_change: bool = False) -> None:
        """Writes recipes with what building chose, such as whose turn a colour was: no step to undo.

        with_the_change: the choice goes when the change that led to it is undone; else it stays.
        """
        self.refresh()
        recipes = {name: recipe for name, recipe in recipes.items() if self.recipe_of(name) != recipe}
        if recipes:
            if with_the_change:
                self._append({"v": 1, "settles": {name: _spelled(recipe) for name, recipe in recipes.items()}})
            self._write(replace(self._book, recipes=_with(self._book.recipes, recipes)))

    def change(
        self, label: str, recipes: Mapping[str, Recipe | None], *, batch_id: str | None = None
    ) -> RecipeBatch | None:
        """Gives pictures new recipes, None for the plain one, as one step of the history; None where nothing changes.

        batch_id: of a step that several books share.
        """
        self.refresh()
        wanted = {name: recipe or Recipe() for name, recipe in recipes.items()}
        changes = {name: (self.recipe_of(name), new) for name, new in wanted.items() if new != self.recipe_of(name)}
        if not changes:
            return None
        batch = RecipeBatch(batch_id or secrets.token_hex(8), label, time.time(), changes)
        told = {name: [_spelled(before), _spelled(after)] for name, (before, after) in changes.items()}
        self._append({"v": 1, "id": batch.id, "time": batch.time_s, "label": label, "changes": told})
        self._write(replace(self._book, recipes=_with(self._book.recipes, wanted)))
        return batch

    def history(self) -> tuple[list[RecipeBatch], list[RecipeBatch]]:
        """(what is in force, oldest first; what was undone, to be redone from the end)."""
        done: list[RecipeBatch] = []
        undone: list[RecipeBatch] = []
        for line in read_lines(self.history_file):
            if "undoes" in line:
                _move(str(line["undoes"]), done, undone)
            elif "redoes" in line:
                _move(str(line["redoes"]), undone, done)
            elif "settles" in line:
                _settle(line, done)
            elif (batch := _batch(line)) is not None:
                done.append(batch)
                undone.clear()
        return done, undone

    def undo(self) -> RecipeBatch | None:
        """Takes the last change back, None where there is none.

        Field by field: what was changed since in another field, or by hand, stays.
        """
        done, _ = self.history()
        return self._step(done[-1], "undoes") if done else None

    def redo(self) -> RecipeBatch | None:
        """Undoes the last undo, None where there is none or something was changed since."""
        _, undone = self.history()
        return self._step(undone[-1], "redoes") if undone else None

    def _step(self, batch: RecipeBatch, word: str) -> RecipeBatch:
        self.refresh()
        pairs = {
            name: (after, before) if word == "undoes" else (before, after)
            for name, (before, after) in batch.changes.items()
        }
        recipes = {name: _moved(self.recipe_of(name), old, new) for name, (old, new) in pairs.items()}
        # In this order: a process that dies between the two has undone it, and may do so once more.
        self._write(replace(self._book, recipes=_with(self._book.recipes, recipes)))
        self._append({"v": 1, word: batch.id})
        return batch

    def rename(self, names: Mapping[str, str]) -> None:
        """Has the recipes of pictures go by other names."""
        self.refresh()
        recipes = {names.get(name, name): recipe for name, recipe in self._book.recipes.items()}
        if recipes != self._book.recipes:
            self._write(replace(self._book, recipes=recipes))

    def _write(self, book: Book) -> None:
        with _explaining(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, render(book))
        self._book, self._stamp = book, stamp_of(self.file)

    def _append(self, line: Mapping[str, Any]) -> None:
        with _explaining(self.history_file):
            self.history_file.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.history_file, line)


class _explaining:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise LoratoryError(
                f"{self._path} cannot be written ({error.strerror}); no recipe was changed.",
                hint="Check the permissions of the folder and the space on the disk.",
                exit_code=FAILED,
            ) from error


def _with(recipes: Mapping[str, Recipe], changed: Mapping[str, Recipe]) -> dict[str, Recipe]:
    merged = {**recipes, **changed}
    return {name: recipe for name, recipe in sorted(merged.items()) if recipe != Recipe()}


def _moved(now: Recipe, old: Recipe, new: Recipe) -> Recipe:
    """`now` with the fields that differ between `old` and `new` as `new` has them, where they are as `old` has them."""
    changed = {
        field.name: getattr(new, field.name)
        for field in fields(Recipe)
        if getattr(old, field.name) != getattr(new, field.name) and getattr(now, field.name) == getattr(old, field.name)
    }
    return replace(now, **changed)


def _move(batch_id: str, source: list[RecipeBatch], target: list[RecipeBatch]) -> None:
    for batch in reversed(source):
        if batch.id == batch_id:
            source.remove(batch)
            target.append(batch)
            return


def _settle(line: Mapping[str, Any], done: list[RecipeBatch]) -> None:
    """Has the last change of each picture have led to what a line of the history tells."""
    try:
        settled = {str(name): _recipe(after) for name, after in line["settles"].items()}
    except (TypeError, ValueError, AttributeError):
        return
    for name, after in settled.items():
        for number, batch in reversed(list(enumerate(done))):
            if name in batch.changes:
                done[number] = replace(batch, changes={**batch.changes, name: (batch.changes[name][0], after)})
                break


def _spelled(recipe: Recipe) -> dict[str, Any]:
    plain = Recipe()
    pairs = ((field.name, getattr(recipe, field.name)) for field in fields(Recipe))
    return {name: value for name, value in pairs if value != getattr(plain, name)}


def _batch(line: Mapping[str, Any]) -> RecipeBatch | None:
    """A line of the history; None for one that is damaged or of a newer version."""
    try:
        changes = {str(name): (_recipe(before), _recipe(after)) for name, (before, after) in line["changes"].items()}
        return RecipeBatch(str(line["id"]), str(line["label"]), float(line["time"]), changes)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _recipe(spelled: Mapping[str, Any]) -> Recipe:
    known = {field.name for field in fields(Recipe)}
    return Recipe(**{name: _tupled(value) for name, value in spelled.items() if name in known})


def _tupled(value: Any) -> Any:
    return tuple(_tupled(one) for one in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
