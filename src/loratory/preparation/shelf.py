"""A folder of originals with its recipes, and where what is made of them goes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from loratory.errors import LoratoryError
from loratory.imaging.recipe import AS_THEY_ARE
from loratory.preparation.book import RECIPES, RecipeBook
from loratory.preparation.manifest import Manifest
from loratory.preparation.places import (
    ORIGINALS,
    STATE,
    Original,
    concept_folder,
    existing_folder,
    find_names,
    recipe_name,
)
from loratory.wording import typed


@dataclass
class Shelf:
    """One folder of originals of a dataset.

    key: the folder as `Record.folder` tells it. originals: by their name in the recipes, in the order in which they are
    done. problem: why nothing of it can be made, None where it can. adopted: whether these are originals of pictures
    that lay in the training folder before. unreadable: folders below whose pictures are not known, and why.
    """

    folder: Path
    key: str
    book: RecipeBook
    originals: dict[str, Original] = field(default_factory=dict[str, Original])
    problem: LoratoryError | None = None
    adopted: bool = False
    unreadable: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])


def folder_key(root: Path, folder: Path) -> str:
    """How the manifest of `root` tells a folder: as seen from there, so that both can move together."""
    return Path(os.path.relpath(folder, root)).as_posix()


def source_shelf(root: Path, source: Path, destination: Path | None, book: RecipeBook) -> Shelf:
    """The pictures below `source`, for `destination`; without one, nothing of them can be made.

    Raises LoratoryError when `source` cannot be listed.
    """
    shelf = Shelf(source, folder_key(root, source), book)
    if destination is None:
        shelf.problem = LoratoryError(
            f"Where the pictures of {source} go is not known.",
            hint=f"`loratory prepare {typed(source)} TRAINING_FOLDER --token NAME` says it once.",
        )
    tokens = concept_tokens(book)
    places: dict[str, Path] = {}
    for below, file_name in find_names(source, without=destination, unreadable=shelf.unreadable):
        name = recipe_name(below, file_name)
        if below not in places:
            places[below] = (
                concept_folder(destination, below, book.prepare.repeats, tokens or "?") if destination else source
            )
        place = places[below]
        if destination is not None and not tokens and place.name.endswith("_?"):
            shelf.problem = shelf.problem or LoratoryError(
                f"What the pictures that lie directly in {source} show has no name yet.",
                hint="Give the tag to prompt with: --token NAME, and what it is: --class NAME. Or name the folder they "
                f"go to: {destination / '10_NAME'}.",
            )
        shelf.originals[name] = Original(name, source, place)
    return shelf


def adopted_shelf(root: Path, manifest: Manifest) -> Shelf:
    """The originals of pictures that lay in the dataset at `root` before."""
    folder = root / ORIGINALS
    shelf = Shelf(folder, ORIGINALS, RecipeBook(folder, defaults=AS_THEY_ARE), adopted=True)
    if folder.is_dir():
        places: dict[str, Path] = {}
        for below, file_name in find_names(folder):
            name = recipe_name(below, file_name)
            if (ORIGINALS, name) in manifest.records:
                if below not in places:
                    parent = root / below
                    places[below] = existing_folder(parent.parent, parent.name)
                shelf.originals[name] = Original(name, folder, places[below])
    return shelf


def recorded_shelf(root: Path, key: str, manifest: Manifest) -> Shelf:
    """The originals of a folder elsewhere from which pictures of the dataset at `root` were made, as far as those go.

    Raises LoratoryError for recipes that cannot be read.
    """
    folder = Path(os.path.normpath(root / key))
    shelf = Shelf(folder, key, RecipeBook(folder, file=recipes_file(folder, root)))
    records = manifest.of_folder(key)
    places: dict[str, Path] = {}
    for name in sorted(records):
        record = records[name]
        made = [output.path for output in record.outputs] or list(record.captions)
        path = folder / name
        why = _refusal(path)
        if why and (path.parent, why) not in shelf.unreadable:
            shelf.unreadable.append((path.parent, why))
        if made and os.path.exists(path):  # noqa: PTH110 - which does not mind a folder that cannot be read
            below = made[0].rpartition("/")[0]
            shelf.originals[name] = Original(name, folder, places.setdefault(below, root / below))
    return shelf


def recipes_file(source: Path, root: Path) -> Path:
    """Where the recipes of `source` stand: beside the originals, or with the dataset where those cannot be written."""
    beside, inside = source / RECIPES, root / STATE / RECIPES
    # Which do not mind a folder that cannot be read.
    if os.path.exists(beside) or (os.access(source, os.W_OK) and not os.path.exists(inside)):  # noqa: PTH110
        return beside
    return inside


def _refusal(path: Path) -> str:
    """Why it is not known whether a file is there; "" where it is."""
    try:
        path.stat()
    except PermissionError as error:
        return f"cannot be read ({error.strerror})"
    except OSError:
        return ""
    return ""


def concept_tokens(book: RecipeBook) -> str:
    """What the name of a concept folder says after its repeats: "token" or "token class"."""
    return " ".join(tokens_said(book))


def tokens_said(book: RecipeBook) -> tuple[str, ...]:
    """The instance token and the class token that the pictures are said to be of; () where nobody said."""
    prepare = book.prepare
    return tuple(filter(None, (prepare.token, prepare.class_token))) if prepare.token else ()


def follow_renamed(root: Path, manifest: Manifest) -> None:
    """Has the manifest know concept folders that were renamed to other repeats, as balancing does."""
    moved: dict[str, str] = {}
    for path in manifest.records.folders:
        folder = root / path
        if path and not folder.is_dir():
            now = existing_folder(folder.parent, folder.name)
            if now != folder and now.is_dir():
                moved[path] = now.relative_to(root).as_posix()
    if moved:
        manifest.move_folders(moved)
