"""The concept folders of a dataset with their numbers of pictures, by their names alone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loratory.dataset.balance import Concept
from loratory.dataset.findings import shown
from loratory.dataset.listing import list_folder, parse_folder_name, pictures
from loratory.errors import LoratoryError


@dataclass(frozen=True)
class ConceptFolders:
    """Folders `N_name` of a dataset.

    train: those directly in the dataset's folder, sorted by name, empty ones too; named as they are. regularization:
    with pictures, anywhere below; named by their path.
    """

    train: tuple[Concept, ...]
    regularization: tuple[Concept, ...]


def find_concepts(directory: Path, found: Iterable[tuple[Path, bool]]) -> ConceptFolders:
    """The concept folders of `directory`.

    found: (folder, whether it belongs to a regularization set) of every picture below it. Raises LoratoryError where
    there is no concept folder, or none with pictures.
    """
    counts = Counter(found)
    train: list[Concept] = []
    for entry in list_folder(directory).directories:
        repeats, _, problem = parse_folder_name(entry.name)
        if problem is None and not counts[directory / entry.name, True]:
            train.append(Concept(entry.name, counts[directory / entry.name, False], repeats))
    if not any(concept.images for concept in train):
        raise _none(directory, counts)
    return ConceptFolders(tuple(train), regularization_folders(directory, counts.elements()))


def regularization_folders(directory: Path, found: Iterable[tuple[Path, bool]]) -> tuple[Concept, ...]:
    """The concept folders at or below `directory` that belong to a regularization set, sorted by path."""
    folders: list[Concept] = []
    for folder, images in sorted(Counter(folder for folder, is_reg in found if is_reg).items()):
        repeats, _, problem = parse_folder_name(folder.name)
        if problem is None:
            name = folder.name if folder == directory else folder.relative_to(directory).as_posix()
            folders.append(Concept(name, images, repeats))
    return tuple(folders)


def renamed(name: str, repeats: int) -> str:
    """The name of a concept folder with other repeats: 12 for "10_fox" is "12_fox"."""
    return f"{repeats}_{name.partition('_')[2]}"


def _none(directory: Path, counts: Counter[tuple[Path, bool]]) -> LoratoryError:
    if parse_folder_name(directory.name)[2] is None and counts[directory, False]:
        return LoratoryError(
            f"{directory} is itself a concept folder ({pictures(counts[directory, False])}).",
            hint=f"Give the folder that holds it: {directory.parent}",
        )
    deeper = [folder for folder, is_reg in counts if not is_reg and parse_folder_name(folder.name)[2] is None]
    hint = (
        f"There is {shown(deeper[0].name)} in {deeper[0].parent}: give that folder."
        if deeper
        else f"Put the pictures of each concept into a folder like {directory / '10_fox'}."
    )
    return LoratoryError(
        f"No concept folder with pictures found in {directory}. Expected folders named like 10_fox (repeats, "
        "underscore, token).",
        hint=hint,
    )
