"""What lies in a folder, and how names and numbers of pictures are told."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loratory.dataset.findings import shown
from loratory.errors import LoratoryError

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
# Endings of caption files: what trainers look for first.
CAPTION_EXTENSIONS = (".txt", ".caption", ".TXT", ".CAPTION")

_NAMES_SHOWN = 5
_DEEPEST = 5


@dataclass
class Listing:
    """The entries of one directory by kind, each sorted by the bytes of its name."""

    directories: list[os.DirEntry[str]] = field(default_factory=list[os.DirEntry[str]])
    images: list[os.DirEntry[str]] = field(default_factory=list[os.DirEntry[str]])
    names: list[str] = field(default_factory=list[str])


def list_folder(directory: Path) -> Listing:
    """Lists a directory once. A picture's name that is a folder counts as a folder; a link that leads nowhere, or to
    itself, as a picture."""
    listing = Listing()
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            if _is_folder(entry):
                listing.directories.append(entry)
                continue
            listing.names.append(entry.name)
            if extension(entry.name) in IMAGE_EXTENSIONS:
                listing.images.append(entry)
    return listing


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def walk(
    directory: Path, *, without: Path | None = None, unreadable: list[tuple[Path, str]] | None = None
) -> Iterator[tuple[Path, Listing]]:
    """Yields `directory` and the folders below it, five deep, each with what lies in it.

    Hidden folders, `without`, and folders that links lead back to are left out. Raises LoratoryError when `directory`
    cannot be listed; folders below it that cannot are left out and go to `unreadable`, with the reason.
    """
    refused: list[tuple[Path, str]] = [] if unreadable is None else unreadable
    yield from _walk(directory, without, refused, set(), _DEEPEST)


def _walk(
    directory: Path, without: Path | None, refused: list[tuple[Path, str]], seen: set[tuple[int, int]], depth: int
) -> Iterator[tuple[Path, Listing]]:
    try:
        status = directory.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        listing = list_folder(directory)
    except OSError as error:
        if depth == _DEEPEST:
            raise LoratoryError(f"{directory} cannot be read ({error.strerror}).", hint="Check the path.") from error
        refused.append((directory, f"cannot be read ({error.strerror})"))
        return
    yield directory, listing
    if depth:
        for entry in listing.directories:
            path = Path(entry.path)
            if not entry.name.startswith(".") and path != without:
                yield from _walk(path, without, refused, seen, depth - 1)


def count_images(directory: os.DirEntry[str]) -> int:
    try:
        return len(list_folder(Path(directory.path)).images)
    except OSError:
        return 0


def is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def stem(name: str) -> str:
    """A file name without its extension, as pathlib tells it but ten times as fast: folders hold ten thousands."""
    base, _, ending = name.rpartition(".")
    return base if base and ending else name


def extension(name: str) -> str:
    """The extension of a file name in lower case, with its dot; "" where there is none."""
    base, _, ending = name.rpartition(".")
    return f".{ending.lower()}" if base and ending else ""


def pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def some_names(names: Sequence[str]) -> str:
    """Up to five names and how many more there are."""
    text = ", ".join(shown(name) for name in names[:_NAMES_SHOWN])
    return text if len(names) <= _NAMES_SHOWN else f"{text} and {len(names) - _NAMES_SHOWN} more"


def parse_folder_name(name: str) -> tuple[int, str, str | None]:
    """(repeats, class_tokens, why the folder is not a concept folder or None), by the rule of sd-scripts."""
    number, _, class_tokens = name.partition("_")
    if not is_text(name):
        return 0, "", "its name is not valid UTF-8"
    try:
        repeats = int(number)
    except ValueError:
        return 0, "", "its name does not begin with a whole number and an underscore"
    if repeats < 1:
        return 0, "", f"{repeats} repeats are none"
    return repeats, class_tokens, None
