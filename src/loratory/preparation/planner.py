"""The plans of a shelf, each with a name that nothing else has: neither what lies in the training folder nor what is to
come back there."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from loratory.dataset.listing import extension, list_folder, stem
from loratory.imaging.recipe import Recipe
from loratory.preparation.manifest import Look, Manifest
from loratory.preparation.naming import claim, name_outputs, natural_name
from loratory.preparation.places import EXTENSIONS, Original, safe_name
from loratory.preparation.plan import Plan, plan_picture
from loratory.preparation.shelf import Shelf


class Planner:
    """Plans the pictures of `shelf` with `recipes`.

    What prepare did not make is left alone and told, where originals lie elsewhere. Adopted pictures lie among
    others that stay as they are, and will want their own places again: what is made of one takes no place of another,
    nor a caption that goes by another's stem.
    """

    def __init__(self, manifest: Manifest, shelf: Shelf, recipes: Mapping[str, Recipe]) -> None:
        self._shelf = shelf
        records = manifest.of_folder(shelf.key)
        self.named = {name: str(record.done["name"]) for name, record in records.items() if "name" in record.done}
        others = [
            manifest.root / output.path
            for record in manifest.records.values()
            if record.folder != shelf.key
            for output in record.outputs
        ]
        originals = shelf.originals.values()
        self._bases = name_outputs(list(originals), recipes, self.named, others)
        self._claimed = {claim(one.folder, self._bases[one.name]) for one in originals if one.name in self._bases}
        self._adopted = {_home(one): one.name for one in originals} if shelf.adopted else {}
        self._strangers = _strangers(manifest, {home.parent for home in self._adopted}) - self._adopted.keys()
        self._stems = {_stem_of(path) for path in (*self._adopted, *self._strangers)}

    def plan(self, original: Original, recipe: Recipe, look: Look) -> tuple[Plan, str]:
        """What becomes of a picture, and the name it gets, "" where that is the one it would have anyway or asks for.

        Raises LoratoryError for an unknown background.
        """
        base = self._bases.get(original.name, "")
        wanted = safe_name(recipe.name) if recipe.name else natural_name(original)
        plan = plan_picture(original, base, recipe, self._shelf.book.defaults, look)
        number = 1
        while self._is_hitting(original, plan):
            while claim(original.folder, base) in self._claimed:
                number += 1
                base = f"{wanted}-{number}"
            self._claimed.add(claim(original.folder, base))
            plan = plan_picture(original, base, recipe, self._shelf.book.defaults, look)
        return plan, "" if recipe.skip or base == wanted else base

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
