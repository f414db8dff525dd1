"""Where a dataset begins: the folder whose `.loratory` tells of its captions, pictures and what was done to them."""

from pathlib import Path

from loratory.dataset.listing import parse_folder_name

STATE = ".loratory"

# A dataset opened at one of its folders shares the state of the whole; this far up it is looked for.
_ROOT_LEVELS = 3


def find_root(directory: Path) -> Path:
    """The folder whose `.loratory` is the dataset's: the nearest that has one, else the one above a concept folder."""
    for candidate in (directory, *directory.parents[:_ROOT_LEVELS]):
        if (candidate / STATE).is_dir() and candidate != Path.home():
            return candidate
    return directory.parent if is_concept(directory.name) else directory


def is_concept(name: str) -> bool:
    """Whether a folder of this name is a concept folder, `N_name`."""
    return parse_folder_name(name)[2] is None
