"""What fixes of pictures come to: changes of their recipes, and the pictures built anew."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from loratory.dataset.listing import extension, stem
from loratory.editing.checks.finding import CaptionFinding, RecipeFix
from loratory.imaging.opening import UnreadablePicture
from loratory.imaging.reading import peek
from loratory.imaging.recipe import Box, Defaults, Recipe, in_original
from loratory.preparation.places import ORIGINALS

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk, Entry

_BOXES = ("crop", "split", "erase")

BuildProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class RecipeChange:
    """A picture of the dataset whose recipe would change. path: of the picture. name: of its entry on the desk."""

    path: Path
    name: str
    before: Recipe
    after: Recipe

    def told(self) -> str:
        """The fields that change, as a person reads them: "upscale = auto, skip = yes"."""
        changed = [
            f"{field.name} = {_shown(getattr(self.after, field.name))}"
            for field in fields(Recipe)
            if getattr(self.before, field.name) != getattr(self.after, field.name)
        ]
        return ", ".join(changed) or "upscaled anew, for another resolution"


@dataclass(frozen=True)
class RecipePlan:
    """What fixes would do.

    unchanged: pictures whose recipe says it already. refused: pictures it cannot be done to, and why. resolution: the
    training area in px that pictures are upscaled to, None where none are.
    """

    label: str
    changes: tuple[RecipeChange, ...]
    unchanged: int
    refused: tuple[tuple[Path, str], ...]
    resolution: tuple[int, int] | None = None


def plan_recipes(
    desk: "Desk",
    items: "Sequence[Item]",
    findings: Sequence[CaptionFinding],
    label: str,
    resolution: tuple[int, int],
) -> RecipePlan:
    """What the best fix of each finding would do to the recipes; nothing is written.

    items: those that the findings are about, maybe others. Findings without a fix that may be taken unasked, or with
    one of captions, are left out. A colour behind transparency is the one that had its turn least often so far.
    """
    by_name = {item.name: item.image for item in items}
    wanted: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for finding in findings:
        fix = finding.automatic_fix
        if fix is not None and isinstance(fix.edit, RecipeFix) and finding.item in by_name:
            wanted[finding.item].update(fix.edit.changes)
    entries = _by_picture(desk)
    turns = Counter(desk.recipe_of(entry).background for entry in desk.entries)
    stems = Counter(_stem_of(entry) for entry in desk.entries)
    after: dict[str, RecipeChange] = {}
    refused: list[tuple[Path, str]] = []
    unchanged, upscaled = 0, False
    for name, changes in wanted.items():
        path = by_name[name]
        entry = entries.get(_place(path))
        if entry is None:
            refused.append((path, "it is no picture that can be prepared"))
            continue
        before = after[entry.name].after if entry.name in after else desk.recipe_of(entry)
        if any(changes.get(field) for field in _BOXES) and _place(path) != _place(entry.source):
            changes, why = _in_original(changes, path, entry, desk.recipe_of(entry))
            refused += [(path, why)] if why else []
        if "format" in changes and not before.name and stems[_stem_of(entry)] > 1:
            changes = {"name": f"{stem(entry.source.name)}_{extension(entry.source.name)[1:]}", **changes}
        recipe = with_fix(before, changes, turns, Defaults().backgrounds)
        upscales = changes.get("upscale") == "auto"
        prepared_for = desk.settled(entry, recipe).resolution
        if upscales and prepared_for is not None and _is_made_elsewhere(entry, desk):
            # Recipes say whether a picture is upscaled; how large is said once, for all of the originals.
            upscales = False
            if math.prod(prepared_for) < math.prod(resolution):
                refused.append((path, _prepared_for(prepared_for, resolution)))
                recipe = replace(recipe, upscale=before.upscale)
            elif desk.settled(entry, before).resolution == prepared_for:
                recipe = replace(recipe, upscale=before.upscale)
        if recipe == before and not (upscales and prepared_for != resolution):
            unchanged += 1
        else:
            first = after[entry.name].before if entry.name in after else before
            after[entry.name] = RecipeChange(path, entry.name, first, recipe)
            upscaled |= upscales
    return RecipePlan(label, tuple(after.values()), unchanged, tuple(refused), resolution if upscaled else None)


def take(
    desk: "Desk", plan: RecipePlan, *, progress: BuildProgress | None = None, stop: Event | None = None
) -> "Report":
    """Changes the recipes as one step that can be undone, and builds those pictures anew."""
    if plan.resolution is not None and desk.is_dataset:
        # Of the pictures that lie in the training folder themselves; those made elsewhere have a recipes.toml there.
        desk.book.set_up(desk.book.prepare, replace(desk.defaults, resolution=plan.resolution))
    names = {change.name for change in plan.changes}
    desk.change(plan.label, {change.name: change.after for change in plan.changes})
    entries = [entry for entry in desk.entries if entry.name in names]
    return desk.build(entries, progress=progress or (lambda done, total, name: None), stop=stop or Event())


def with_fix(before: Recipe, changes: Mapping[str, Any], turns: Counter[str], backgrounds: Sequence[str]) -> Recipe:
    """The recipe with the changes of a `RecipeFix`, their boxes in px of the original.

    turns: how often each background is used. Where one is asked for, it is the one of `backgrounds` that is used least,
    which is counted.
    """
    values: dict[str, Any] = dict(changes)
    if values.get("skip"):
        return replace(before, skip=True)  # what is left out needs no other change
    if values.get("background") == "":
        values["background"] = before.background or min(backgrounds, key=lambda name: turns[name], default="white")
        turns[values["background"]] += not before.background
    if "erase" in values:
        values["erase"] = tuple(dict.fromkeys((*before.erase, *values["erase"])))
    if values.get("split"):
        values["crop"] = None
    elif values.get("crop"):
        values["split"] = ()
    return replace(before, **values)


def _by_picture(desk: "Desk") -> "dict[Path, Entry]":
    """The entries by each file that may be the picture of a finding."""
    # Where its recipe could not be done, a picture of the dataset still lies where it always did.
    by_picture = {_place(desk.root / entry.name): entry for entry in desk.entries}
    for entry in desk.entries:
        for path in (entry.source, *entry.outputs):
            by_picture[_place(path)] = entry
    return by_picture


def _stem_of(entry: "Entry") -> tuple[Path, str]:
    """Folder and stem of a picture, without which ending it has."""
    made = _place(entry.outputs[0] if entry.outputs else entry.source)
    return made.parent, stem(made.name)


def _place(path: Path) -> Path:
    """Where a file lies, links of folders resolved and its own link not."""
    return path.parent.resolve() / path.name


def _in_original(changes: Mapping[str, Any], made: Path, entry: "Entry", recipe: Recipe) -> tuple[dict[str, Any], str]:
    """Changes with their boxes in px of the original that `recipe` made the picture of; without boxes where that
    cannot be told, and why."""
    others = {field: value for field, value in changes.items() if field not in _BOXES}
    if entry.state == "stale":
        return others, "its recipe has changed since it was made: build it first"
    try:
        shown, original = peek(made).size, peek(entry.source).size
    except UnreadablePicture as error:
        return others, error.reason
    placed: dict[str, Any] = {}
    for field in changes.keys() - others.keys():
        asked = (changes[field],) if field == "crop" else changes[field]
        boxes = [in_original(box, shown, recipe, original) for box in asked]
        if None in boxes:
            return others, "its recipe splits it: change that recipe instead"
        placed[field] = boxes[0] if field == "crop" else tuple(boxes)
    return others | placed, ""


def _is_made_elsewhere(entry: "Entry", desk: "Desk") -> bool:
    """Whether a picture was made from an original in a folder of originals, not from one that lay in its place."""
    return entry.source not in entry.outputs and not entry.source.is_relative_to(desk.root / ORIGINALS)


def _prepared_for(prepared: tuple[int, int], resolution: tuple[int, int]) -> str:
    said, wanted = (f"{width}x{height}" for width, height in (prepared, resolution))
    return f"it was prepared for {said} px: prepare the originals with --resolution {wanted}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "as usual"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return " and ".join(_shown_box(box) for box in value)
    if isinstance(value, tuple) and len(value) == 4:
        return _shown_box(value)
    return str(value) or "as usual"


def _shown_box(box: Box) -> str:
    return f"{box[2] - box[0]}x{box[3] - box[1]} px at {box[0]}, {box[1]}"
