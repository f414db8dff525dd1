"""The tags of the pictures that a run trains on, as far as they can be read on this machine."""

from collections.abc import Iterator
from pathlib import Path

from loratory.config.schema import Config
from loratory.dataset.captions import read_caption
from loratory.dataset.listing import list_folder, stem
from loratory.dataset.root import is_concept
from loratory.tags.text import tags_of


def read_tags(config: Config) -> dict[str, tuple[str, ...]]:
    """Tags by picture as events name it; pictures without a caption file, and what cannot be read, are left out.

    Only names and captions are read: a run may be watched while its folder is on a slow disk, changed or gone.
    """
    roots = (config.dataset.train_data_dir, config.dataset.reg_data_dir)
    extension = config.caption.caption_extension
    return {name: tags for root in roots if root is not None for name, tags in _tags_below(root, extension)}


def _tags_below(root: Path, extension: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        folders = [folder for folder in list_folder(root).directories if is_concept(folder.name)]
    except OSError:
        return
    for folder in folders:
        try:
            listing = list_folder(Path(folder.path))
        except OSError:
            continue
        names = frozenset(listing.names)
        for image in listing.images:
            caption = stem(image.name) + extension
            if caption not in names:
                continue
            try:
                tags = tags_of(read_caption(Path(folder.path) / caption).text)
            except OSError:
                continue
            yield f"{folder.name}/{image.name}", tags
