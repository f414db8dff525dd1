"""The plans of a shelf, each with a name that nothing else has: neither what lies in the training folder nor what is to
come back there."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from loratory.dataset.listing import extension, list_folder, stem
from loratory.imaging.recipe import Recipe
from loratory.preparation.manifest import Manifest
from loratory.preparation.naming import claim, name_outputs, natural_name
from loratory.preparation.places import EXTENSIONS, Original, safe_name
from loratory.preparation.plan import Plan, plan_picture
from loratory.preparation.record import Look, Record, Stamp
from loratory.preparation.shelf import Shelf


class Planner:
    """Plans the pictures of `shelf` with `recipes`.

    What prepare did not make is left alone and told, where originals lie elsewhere. Adopted pictures lie among
    others that stay as they are, and will want their own places again: what is made of one takes no place of another,
    nor a caption that goes by another's stem.
    """

    def __init__(self, manifest: Manifest, shelf: Shelf, recipes: Mapping[str, Recipe]) -> None:
        self._shelf = shelf
        self._defaults = shelf.book.defaults
        self._records = manifest.of_folder(shelf.key)
        others = (
            manifest.root / output.path
            for key in manifest.records
            if key[0] != shelf.key
            for output in manifest.records[key].outputs
        )
        originals = shelf.originals.values()
        self._bases = name_outputs(originals, recipes, self.recorded_name, others)
        adopted = originals if shelf.adopted else ()
        named = (one for one in adopted if not (recipes.get(one.name) or Recipe()).skip)
        self._claimed = {claim(one.folder, self._base(one)) for one in named}
        self._adopted = {_home(one): one.name for one in adopted}
        self._strangers = _strangers(manifest, {home.parent for home in self._adopted}) - self._adopted.keys()
        self._stems = {_stem_of(path) for path in (*self._adopted, *self._strangers)}

    def recorded_name(self, name: str) -> str | None:
        """What was made of a picture is called, by its name in the recipes; None where nothing was."""
        record = self._records.get(name)
        return str(record.done["name"]) if record is not None and "name" in record.done else None

    def plan(self, original: Original, recipe: Recipe, look: Look) -> tuple[Plan, str]:
        """What becomes of a picture, and the name it gets, "" where that is the one it would have anyway or asks for.

        The same each time it is asked. Raises LoratoryError for an unknown background.
        """
        base = self._base(original)
        wanted = safe_name(recipe.name) if recipe.name else natural_name(original)
        plan = plan_picture(original, base, recipe, self._defaults, look)
        number = 1
        while self._is_hitting(original, plan):
            while claim(original.folder, base) in self._claimed:
                number += 1
                base = f"{wanted}-{number}"
            self._claimed.add(claim(original.folder, base))
            self._bases[original.name] = base
            plan = plan_picture(original, base, recipe, self._defaults, look)
        return plan, "" if recipe.skip or base == wanted else base

    def _base(self, original: Original) -> str:
        return self._bases.get(original.name) or natural_name(original)

    def _is_hitting(self, original: Original, plan: Plan) -> bool:
        if not self._shelf.adopted:
            return False
        own = _stem_of(_home(original))
        return any(
            target in self._strangers
            or self._adopted.get(target, original.name) != original.name
            or (_stem_of(target) != own and _stem_of(target) in self._stems)
            for target in plan.targets
        )


class Looks:
    """What was seen of originals, by their names in the recipes.

    seen: with the stamps of the files, where the manifest's records tell another or nothing.
    """

    def __init__(self, records: Mapping[str, Record], seen: dict[str, tuple[Look, Stamp]]) -> None:
        self._records = records
        self._seen = seen

    def with_stamp(self, name: str) -> tuple[Look, Stamp]:
        if name in self._seen:
            return self._seen[name]
        record = self._records[name]
        return record.look, record.stamp

    def look(self, name: str) -> Look:
        return self.with_stamp(name)[0]

    def forget(self, name: str) -> None:
        """Has the manifest tell of a picture from now on: it was told what was seen."""
        self._seen.pop(name, None)


class Plans:
    """The plans of some originals, each made when it is asked for, which takes 50 us: they take 2 kB each."""

    def __init__(self, planner: Planner, recipes: Mapping[str, Recipe], looks: Looks) -> None:
        self.originals: list[Original] = []
        self.looks = looks
        self._planner = planner
        self._recipes = recipes

    def of(self, original: Original) -> Plan:
        """The plan of one of the originals."""
        recipe = self._recipes.get(original.name) or Recipe()
        return self._planner.plan(original, recipe, self.looks.look(original.name))[0]

    def __iter__(self) -> Iterator[Plan]:
        return map(self.of, self.originals)

    def __len__(self) -> int:
        return len(self.originals)


def _strangers(manifest: Manifest, folders: Iterable[Path]) -> set[Path]:
    owned = manifest.owners()
    found: set[Path] = set()
    for folder in folders:
        with suppress(OSError):  # it is not there any more
            paths = (folder / name for name in list_folder(folder).names if extension(name) in EXTENSIONS)
            found |= {path for path in paths if path.relative_to(manifest.root).as_posix() not in owned}
    return found


def _home(original: Original) -> Path:
    return original.folder / original.path.name


def _stem_of(path: Path) -> tuple[Path, str]:
    return claim(path.parent, stem(path.name))
