"""How things stand with the pictures of a shelf, as a screen lists them."""

from dataclasses import dataclass
from pathlib import Path

from loratory.imaging.recipe import Recipe
from loratory.preparation import adopt
from loratory.preparation.build import State, state_of
from loratory.preparation.manifest import Manifest
from loratory.preparation.places import Original
from loratory.preparation.planner import Planner
from loratory.preparation.record import Record, stamp_of
from loratory.preparation.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture.

    name: its path as it is shown, by which recipes are given. source: the original; for a picture that lies in a
    training folder as it is, that one. outputs: what is made of it, whether it is there yet or not; none of a picture
    that nobody has looked at yet.
    """

    name: str
    source: Path
    outputs: tuple[Path, ...]
    state: State


def entries_of(root: Path, shelf: Shelf, manifest: Manifest) -> list[Entry]:
    """The pictures of a shelf, and those whose originals are gone."""
    records = manifest.of_folder(shelf.key)
    planner = Planner(manifest, shelf, shelf.book.recipes) if shelf.problem is None else None
    entries: list[Entry] = []
    for original in shelf.originals.values():
        record = records.get(original.name)
        outputs, state = _state(root, shelf, original, record, planner)
        entries.append(Entry(original.name, original.path, outputs, state))
    for name, record in records.items():
        if name not in shelf.originals:
            outputs = tuple(root / output.path for output in record.outputs)
            entries.append(Entry(name, shelf.folder / name, outputs, "source gone"))
    return entries


def _state(
    root: Path, shelf: Shelf, original: Original, record: Record | None, planner: Planner | None
) -> tuple[tuple[Path, ...], State]:
    if planner is None:
        return (), "new"
    recipe = shelf.book.recipe_of(original.name)
    if record is None:
        # Which ending it gets is known when it has been looked at.
        return (), "made" if recipe.skip else "new"
    made = tuple(root / output.path for output in record.outputs)
    if shelf.adopted and recipe == Recipe():
        return made or (original.folder / original.path.name,), "as it is" if record.done == adopt.AS_IT_IS else "stale"
    if record.stamp != stamp_of(original.path):
        return made, "stale"
    plan, _ = planner.plan(original, recipe, record.look)
    return plan.targets or made, state_of(root, record, plan)
