"""The training resolution that pictures were prepared for."""

from collections import Counter
from pathlib import Path

from loratory.errors import LoratoryError
from loratory.imaging.recipe_toml import read_recipes
from loratory.preparation.lines import read_lines
from loratory.preparation.manifest import MANIFEST
from loratory.preparation.places import ORIGINALS, STATE
from loratory.preparation.shelf import recipes_file


def prepared_resolution(root: Path) -> tuple[int, int] | None:
    """(width, height) in px that the pictures of the dataset at `root` were prepared for; None where they were not.

    Of several folders of originals, that of the one most pictures come from. Recipes that cannot be read count for
    nothing here: whoever works with them is told.
    """
    try:
        folders = Counter(str(line["folder"]) for line in read_lines(root / STATE / MANIFEST) if "folder" in line)
        del folders[ORIGINALS]
        for folder, _ in folders.most_common():
            file = recipes_file((root / folder).resolve(), root)
            if file.exists():
                return read_recipes(file).defaults.resolution
    except (OSError, LoratoryError):
        return None
    return None
