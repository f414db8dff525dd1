"""Where originals lie and where what is made of them goes. Nothing here is written."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loratory.dataset.findings import shown
from loratory.dataset.listing import IMAGE_EXTENSIONS, extension, list_folder, parse_folder_name, walk
from loratory.dataset.root import STATE, is_concept
from loratory.errors import LoratoryError

ORIGINALS = f"{STATE}/originals"

# What an original may be called, beside what trainers read.
EXTENSIONS = IMAGE_EXTENSIONS | {".gif", ".tif", ".tiff", ".heic", ".heif", ".jxl", ".jfif"}


@dataclass(frozen=True, slots=True)
class Original:
    """A picture to be prepared. name: in the recipes, its path below `source`, the folder of the originals. folder:
    which gets what is made of it."""

    name: str
    source: Path
    folder: Path

    @property
    def path(self) -> Path:
        """The file. Made anew each time: kept, the paths of many pictures take more memory than all else of them."""
        # As one text, so that pathlib keeps parts of it and not `name` itself, in a table that grows with all of these.
        return Path(f"{self.source}/{self.name}")


def has_concepts(directory: Path) -> bool:
    """Whether a folder is a concept folder or holds some."""
    if is_concept(directory.name):
        return True
    try:
        return any(is_concept(entry.name) for entry in list_folder(directory).directories)
    except OSError:
        return False


def find_pictures(source: Path) -> Iterator[tuple[str, Path]]:
    """`find_names`, with the files."""
    return ((below, source / below / name) for below, name in find_names(source))


def find_names(
    source: Path, without: Path | None = None, *, unreadable: list[tuple[Path, str]] | None = None
) -> Iterator[tuple[str, str]]:
    """(folders between with "/", file name) of each picture below `source`, five deep, sorted by folder and name.

    Hidden folders, `without`, and folders that links lead back to are left out. Raises LoratoryError when `source`
    cannot be listed; folders below it that cannot go to `unreadable`, with the reason.
    """
    for directory, listing in walk(source, without=without, unreadable=unreadable):
        below = directory.relative_to(source).as_posix()
        for name in listing.names:
            if extension(name) in EXTENSIONS and not name.startswith("."):
                yield "" if below == "." else below, name


def recipe_name(below: str, file_name: str) -> str:
    """What a picture is called in the recipes: its path below their folder."""
    return f"{below}/{file_name}" if below else file_name


def concept_folder(destination: Path, below: str, repeats: int, tokens: str) -> Path:
    """The concept folder for pictures that lie in `below` of their source.

    A name `N_name` on the way there is taken as it is, the deepest of several; else the first folder gets `repeats`;
    pictures that lie in no folder go by `tokens`. A folder that differs in its repeats alone is taken where it exists:
    balancing renames them.
    """
    if is_concept(destination.name):
        return destination
    parts = below.split("/") if below else []
    named = [part for part in parts if is_concept(part)]
    name = named[-1] if named else f"{repeats}_{safe_name(parts[0] if parts else tokens)}"
    return existing_folder(destination, name)


def existing_folder(parent: Path, name: str) -> Path:
    """`parent`/`name`, or the one folder there that differs in its repeats alone."""
    if not (parent / name).is_dir():
        tokens = parse_folder_name(name)[1]
        try:
            others = [one.name for one in list_folder(parent).directories]
        except OSError:
            others = []
        same = [other for other in others if is_concept(other) and parse_folder_name(other)[1] == tokens]
        if len(same) == 1:
            return parent / same[0]
    return parent / name


def safe_name(name: str) -> str:
    """A file name that every disk and trainer takes: valid UTF-8, nothing that is not shown, no path."""
    text = os.fsencode(name).decode("utf-8", "replace")
    text = "".join("_" if c in "/\N{REPLACEMENT CHARACTER}" or not c.isprintable() else c for c in text)
    text = text.strip(". ") or "_"
    while len(text.encode()) > 200:
        text = text[:-1]
    return text


def check_folders(source: Path, destination: Path) -> None:
    """Raises LoratoryError unless pictures can go from `source` to `destination`; neither is touched."""
    if not source.exists():
        raise LoratoryError(f"{source} does not exist.", hint="Give the folder of the original pictures.")
    if not source.is_dir():
        raise LoratoryError(f"{source} is not a folder.", hint="Give the folder that holds the original pictures.")
    if destination.exists() and not destination.is_dir():
        raise LoratoryError(f"{destination} is not a folder.", hint="Give the folder that the pictures go to.")
    source, destination = source.resolve(), destination.resolve()
    if source == destination:
        raise LoratoryError(
            f"The originals and what is made of them cannot lie in the same folder ({source}).",
            hint="`loratory prepare Raw training` makes training/N_name from Raw.",
        )
    if source.is_relative_to(destination) and is_concept(destination.name):
        raise LoratoryError(
            f"The originals in {source} lie inside the concept folder {shown(destination.name)} itself: trainers would "
            "find them there too.",
            hint="Move them out of it first.",
        )
    if source.is_relative_to(destination) and is_concept(source.name):
        raise LoratoryError(
            f"{source} is a concept folder of {destination} itself.",
            hint="Pictures of a training folder are changed where they are: `loratory check DIR --fix RULE`.",
        )
