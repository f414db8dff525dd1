"""The pictures of a folder of originals, or of a dataset, with their recipes: what a screen or a command works on."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

from PIL import Image

from loratory.dataset.renaming import recover_renaming
from loratory.dataset.root import find_root, is_concept
from loratory.errors import LoratoryError
from loratory.imaging.apply import Settled, apply, lanczos, settle
from loratory.imaging.reading import flattened, read_picture
from loratory.imaging.recipe import Defaults, Recipe
from loratory.imaging.recipe_toml import Prepare
from loratory.preparation import adopt
from loratory.preparation.book import RECIPES, RecipeBook
from loratory.preparation.build import Progress, Report, preparing
from loratory.preparation.captions import caption_extension
from loratory.preparation.entries import Entry, entries_of
from loratory.preparation.manifest import Manifest
from loratory.preparation.places import (
    ORIGINALS,
    Original,
    check_folders,
    find_pictures,
    has_concepts,
    recipe_name,
)
from loratory.preparation.plan import target_size
from loratory.preparation.shelf import (
    Shelf,
    adopted_shelf,
    follow_renamed,
    recipes_file,
    recorded_shelf,
    source_shelf,
)
from loratory.preparation.work import Arranged, Options, arrange, work


def _silent(done: int, total: int, name: str) -> None:
    pass


class Desk:
    """The pictures at and below `directory`.

    It is a folder of originals where it has recipes.toml, where `destination` says what they are for, or where it has
    no concept folders; else a dataset. One thread at a time may call its methods. Raises LoratoryError for folders that
    cannot be used and recipes that cannot be read.
    """

    def __init__(self, directory: Path, destination: Path | None = None, *, recipes: Path | None = None) -> None:
        """recipes: the file, where it is not that of the folder."""
        if destination is not None:
            check_folders(directory, destination)
        elif not directory.is_dir():
            raise LoratoryError(f"{directory} is not a folder.", hint="Give the folder that holds the pictures.")
        self.directory = directory.resolve()
        has_recipes = (self.directory / RECIPES).exists()
        self.is_dataset = destination is None and not has_recipes and has_concepts(self.directory)
        self._recipes_file = recipes
        self._destination = None if destination is None else destination.resolve()
        self._book: RecipeBook | None = None
        self._manifest: Manifest | None = None
        self._listed: tuple[list[Entry], dict[str, tuple[Shelf | None, str]]] | None = None
        self.rescan()

    @property
    def entries(self) -> list[Entry]:
        """The pictures, sorted by name. Listed when they are first asked for: they take 2 kB each."""
        return self._list()[0]

    @property
    def _homes(self) -> dict[str, tuple[Shelf | None, str]]:
        """The shelf of each entry, and what it is called there."""
        return self._list()[1]

    def names(self) -> Iterator[str]:
        """The names of the entries, in no order; of originals they are not listed for that."""
        if self.is_dataset:
            yield from self._homes
            return
        (shelf,) = self._shelves
        yield from shelf.originals
        yield from (name for name in self.manifest.of_folder(shelf.key) if name not in shelf.originals)

    @property
    def manifest(self) -> Manifest:
        """What was made from what, below the root."""
        assert self._manifest is not None
        return self._manifest

    @property
    def destination(self) -> Path | None:
        """The concept or training folder that originals are for; None for a dataset, and where nobody has said."""
        return None if self.is_dataset else self._place

    @property
    def folders(self) -> list[Path]:
        """The concept folders that originals go to, whether they are there yet or not."""
        return sorted({original.folder for shelf in self._shelves for original in shelf.originals.values()})

    @property
    def defaults(self) -> Defaults:
        """What goes for pictures without a recipe of their own: of the originals, or of pictures that are as they
        are."""
        return self.book.defaults

    @property
    def book(self) -> RecipeBook:
        """The recipes of the originals; of a dataset those of its adopted pictures."""
        return self._shelves[0].book

    def rescan(self) -> None:
        """Reads everything anew: pictures, recipes, and what became of them."""
        self._listed = None
        if self.is_dataset:
            self.root = find_root(self.directory)
            self._place = None
            recover_renaming(self.root)
            self._read_manifest()
            others = sorted({folder for folder, _ in self.manifest.records} - {ORIGINALS})
            self._shelves = [adopted_shelf(self.root, self.manifest)]
            self._shelves += [recorded_shelf(self.root, key, self.manifest) for key in others]
        else:
            self._open_originals()

    def _read_manifest(self) -> None:
        if self._manifest is None or self._manifest.root != self.root:
            self._manifest = Manifest(self.root)
        else:
            self._manifest.read()
        follow_renamed(self.root, self._manifest)

    def _open_originals(self) -> None:
        beside = self.directory / RECIPES
        place = self._destination
        if place is None and beside.exists():
            said = RecipeBook(self.directory).prepare.destination
            place = (self.directory / said).resolve() if said else None
        self._place = place
        self.root = self.directory if place is None else _root_of(place, self.directory)
        file = self._recipes_file or (beside if place is None else recipes_file(self.directory, self.root))
        if self._book is None or self._book.file != file:
            self._book = RecipeBook(self.directory, file=file)
        self._book.refresh()
        recover_renaming(self.root)
        self._read_manifest()
        self._shelves = [source_shelf(self.root, self.directory, place, self._book)]

    def _list(self) -> tuple[list[Entry], dict[str, tuple[Shelf | None, str]]]:
        if self._listed is not None:
            return self._listed
        homes: dict[str, tuple[Shelf | None, str]] = {}
        entries: list[Entry] = []
        owned = self.manifest.owners() if self.is_dataset else {}
        for number, shelf in enumerate(self._shelves):
            for entry in entries_of(self.root, shelf, self.manifest):
                # Names of other folders could be those of pictures here.
                name = entry.name if number == 0 else f"{shelf.key}/{entry.name}"
                if self.is_dataset and not self._is_here(entry):
                    continue
                homes[name] = shelf, entry.name
                entries.append(replace(entry, name=name))
        if self.is_dataset:
            for below, path in find_pictures(self.directory):
                if is_concept(path.parent.name) and path.relative_to(self.root).as_posix() not in owned:
                    above = self.directory.relative_to(self.root).as_posix()
                    parts = [part for part in (above, below) if part not in (".", "")]
                    name = recipe_name("/".join(parts), path.name)
                    if name not in homes:
                        homes[name] = None, name
                        state = "as it is" if self.book.recipe_of(name) == Recipe() else "stale"
                        entries.append(Entry(name, path, (path,), state))
        self._listed = sorted(entries, key=lambda entry: entry.name), homes
        return self._listed

    def _is_here(self, entry: Entry) -> bool:
        """Whether an entry of a dataset lies below the folder that was opened."""
        places = entry.outputs or (self.root / entry.name,)
        return any(path.is_relative_to(self.directory) for path in places)

    def set_up(self, prepare: Prepare, defaults: Defaults, *, write: bool = True) -> None:
        """Sets what goes for the whole folder of originals; write=False only supposes it, to see what would come of it.

        Raises LoratoryError where it cannot be written.
        """
        self.book.set_up(prepare, defaults, write=write)
        self.rescan()

    def entry_of(self, picture: Path) -> Entry | None:
        """The entry that a picture belongs to, as original or as output."""
        path = picture.parent.resolve() / picture.name
        return next((entry for entry in self.entries if path == entry.source or path in entry.outputs), None)

    def recipe_of(self, entry: Entry) -> Recipe:
        """The recipe of a picture; the plain one where it has none."""
        shelf, name = self._homes[entry.name]
        return (shelf or self._shelves[0]).book.recipe_of(name)

    def settled(self, entry: Entry, recipe: Recipe | None = None) -> Settled:
        """The recipe of a picture, or another, with every open choice made."""
        shelf, _ = self._homes[entry.name]
        return settle(recipe or self.recipe_of(entry), (shelf or self._shelves[0]).book.defaults, "")

    def change(self, label: str, recipes: Mapping[str, Recipe | None]) -> int:
        """Gives pictures, by the names of their entries, new recipes as one step that can be undone; how many change.

        Nothing is built yet. Raises LoratoryError where the recipes cannot be written.
        """
        by_shelf: dict[int, dict[str, Recipe | None]] = {}
        for entry_name, recipe in recipes.items():
            shelf, name = self._homes[entry_name]
            by_shelf.setdefault(self._shelves.index(shelf) if shelf else 0, {})[name] = recipe
        batch_id = secrets.token_hex(8)
        changed = 0
        for number, changes in by_shelf.items():
            batch = self._shelves[number].book.change(label, changes, batch_id=batch_id)
            changed += 0 if batch is None else len(batch.changes)
        self.rescan()
        return changed

    def undo(self) -> str | None:
        """Takes the last change of recipes back, of whichever process: its label, None where there is none."""
        return self._step(forward=False)

    def redo(self) -> str | None:
        """Undoes the last undo: its label, None where there is none."""
        return self._step(forward=True)

    def _step(self, *, forward: bool) -> str | None:
        last = [
            (shelf.book, history[forward][-1]) for shelf in self._shelves if (history := shelf.book.history())[forward]
        ]
        if not last:
            return None
        newest = (min if forward else max)((batch for _, batch in last), key=lambda batch: batch.time_s)
        for book, batch in last:
            if batch.id == newest.id:
                book.redo() if forward else book.undo()
        self.rescan()
        return newest.label

    def history(self) -> list[tuple[float, str, int]]:
        """What changed recipes and is in force, oldest first: (seconds since the epoch, label, pictures)."""
        steps: dict[str, tuple[float, str, int]] = {}
        for shelf in self._shelves:
            for batch in shelf.book.history()[0]:
                count = steps[batch.id][2] if batch.id in steps else 0
                steps[batch.id] = batch.time_s, batch.label, count + len(batch.changes)
        return sorted(steps.values())

    def pending(self) -> list[Entry]:
        """The entries of which building would make something."""
        return [entry for entry in self.entries if entry.state in ("new", "stale")]

    def build(
        self,
        entries: Iterable[Entry] | None = None,
        *,
        progress: Progress = _silent,
        looking: Progress = _silent,
        stop: Event | None = None,
        options: Options | None = None,
    ) -> Report:
        """Makes what the recipes tell of these entries, None for all, and has their captions follow.

        progress, looking: called with how many are done, of how many, and the name, while pictures are made and, before
        that, looked at. Raises LoratoryError where nothing can be made, or no more.
        """
        failed: list[tuple[Path, str]] = []
        shelves: list[tuple[Shelf, set[str] | None]] = []
        if entries is None and not self.is_dataset:
            shelves = [(shelf, None) for shelf in self._shelves if any(self.names())]
        else:
            chosen = self.entries if entries is None else list(entries)
            failed = self._adopt(chosen)
            names: dict[int, set[str]] = {}
            for entry in chosen:
                shelf, name = self._homes.get(entry.name, (None, ""))
                if shelf is not None:
                    names.setdefault(self._shelves.index(shelf), set()).add(name)
            shelves = [(self._shelves[number], some) for number, some in sorted(names.items())]
        for shelf, _ in shelves:
            if shelf.problem is not None:
                raise shelf.problem
        try:
            report = work(self.root, self.manifest, shelves, options or Options(), progress, looking, stop or Event())
        finally:
            self.rescan()
        report.failed += failed
        return report

    def _adopt(self, entries: Iterable[Entry]) -> list[tuple[Path, str]]:
        """Puts the originals of those aside that got their first recipe; those where it fails, and why."""
        first = [entry for entry in entries if entry.state == "stale" and self._homes[entry.name][0] is None]
        failed: list[tuple[Path, str]] = []
        if first:
            with preparing(self.root):
                self.manifest.read()
                adopt.recover(self.root, self.manifest)
                extension = caption_extension(self.root)
                for entry in first:
                    try:
                        adopt.adopt(self.root, self.manifest, entry.source, extension)
                    except OSError as error:
                        failed.append((entry.source, f"its original cannot be put aside ({error.strerror})"))
            self.rescan()
        return failed

    def arrange(self, options: Options | None = None, *, looking: Progress = _silent) -> list[Arranged]:
        """What `build` would do, with nothing written."""
        chosen = options or Options()
        first = {
            name: Original(name, self.root, entry.source.parent)
            for entry in (self.entries if self.is_dataset else ())
            for shelf, name in (self._homes[entry.name],)
            if shelf is None and entry.state == "stale"
        }
        shelves = [
            replace(shelf, originals=shelf.originals | (first if shelf.adopted else {})) for shelf in self._shelves
        ]
        return [arrange(shelf, self.manifest, None, chosen, looking, Event()) for shelf in shelves]

    def preview(self, entry: Entry, recipe: Recipe, box_px: int) -> tuple[Image.Image, Image.Image]:
        """(before, after), each within `box_px` px: the original, and what the recipe makes of it.

        What a network would enlarge is enlarged plainly here. Parts of a sheet stand side by side. Raises
        LoratoryError for a picture that cannot be read and a recipe that cannot be applied.
        """
        settled = self.settled(entry, recipe)
        picture = read_picture(entry.source).pixels
        made = apply(picture, settled, lanczos, target=lambda size: target_size(size, settled))
        return _within(flattened(picture), box_px), _within(_side_by_side(made), box_px)


def _root_of(place: Path, source: Path) -> Path:
    root = find_root(place)
    # The history of recipes lies in the source's own .loratory, which makes it no dataset.
    return root if root != source else (place.parent if is_concept(place.name) and place.parent != source else place)


def _within(picture: Image.Image, box_px: int) -> Image.Image:
    if max(picture.size) <= box_px:
        return picture
    scale = box_px / max(picture.size)
    return lanczos(picture, (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _side_by_side(parts: list[Image.Image]) -> Image.Image:
    if len(parts) == 1:
        return parts[0]
    gap = max(4, max(part.width for part in parts) // 40)
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    row = Image.new("RGB", (width, max(part.height for part in parts)), (128, 128, 128))
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width + gap
    return row
