"""What the outputs are called: as their originals where that is possible, and never two the same."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from unicodedata import normalize

from loratory.dataset.listing import stem
from loratory.imaging.recipe import Recipe
from loratory.preparation.places import Original, safe_name


def parts_of(base: str, recipe: Recipe) -> tuple[str, ...]:
    """The stems of what comes out of a picture called `base`: `_1`, `_2`, … for the parts of a sheet."""
    if recipe.split:
        return tuple(f"{base}_{number}" for number in range(1, len(recipe.split) + 1))
    return (base,)


def name_outputs(
    originals: Iterable[Original],
    recipes: Mapping[str, Recipe],
    recorded: Callable[[str], str | None],
    taken: Iterable[Path] = (),
) -> dict[str, str]:
    """The stems of outputs by the picture's name, in folders that may not tell a from A; only those that are not the
    picture's `natural_name`, which few are.

    Recipes that give a name come first, then those that had one before (`recorded`), then the others in their order;
    where a name is gone, a number is added. taken: outputs of other folders of originals.
    """
    claimed: set[tuple[Path, str]] = {claim(path.parent, stem(path.name)) for path in taken}
    bases: dict[str, str] = {}

    def name_it(original: Original, wanted: str) -> None:
        recipe = recipes.get(original.name) or Recipe()
        base, number = wanted, 1
        while True:
            claims = {claim(original.folder, part) for part in parts_of(base, recipe)}
            if not claims & claimed:
                break
            number += 1
            base = f"{wanted}-{number}"
        claimed.update(claims)
        if base != natural_name(original):
            bases[original.name] = base

    waiting: list[Original] = []
    for original in originals:
        recipe = recipes.get(original.name) or Recipe()
        if recipe.name and not recipe.skip:
            name_it(original, safe_name(recipe.name))
        elif not recipe.skip:
            waiting.append(original)
    new: list[Original] = []
    for original in waiting:
        name = recorded(original.name)
        if name is None:
            new.append(original)
        else:
            name_it(original, name)
    for original in new:
        name_it(original, natural_name(original))
    return bases


def natural_name(original: Original) -> str:
    """The stem of an original as a name that can be used."""
    return safe_name(stem(original.name.rpartition("/")[2]))


def claim(folder: Path, part: str) -> tuple[Path, str]:
    """A stem in a folder as disks compare them that do not tell a from A; the parts of a sheet have one each."""
    return folder, normalize("NFC", part).casefold()
