"""The pictures below a folder, each with its caption file as it was read."""

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from loratory.dataset.listing import CAPTION_EXTENSIONS, Listing, parse_folder_name, stem, walk
from loratory.tags.files import read_caption_bytes
from loratory.tags.text import EMPTY, CaptionText, bare, decode, key, tags_of

_REGULARIZATION = frozenset({"reg", "regs", "regularization", "regularisation", "reg_data", "class_images"})


class Item:
    """One picture and its caption file.

    name: path below the root with "/" between its parts. folder: name of the folder it lies in. class_tokens: what the
    folder's name says after `N_`, "" where it is no concept folder. is_reg: whether it belongs to a regularization set.
    shared_with: names of other pictures that use the same caption file.
    """

    __slots__ = (
        "_bare_keys",
        "_caption",
        "_data",
        "_keys",
        "_tags",
        "caption_name",
        "class_tokens",
        "directory",
        "folder",
        "image_name",
        "is_read",
        "is_reg",
        "name",
        "problem",
        "reviewed",
        "shared_with",
        "stamp",
    )

    def __init__(
        self, directory: Path, image_name: str, caption_name: str, name: str, class_tokens: str, is_reg: bool
    ) -> None:
        self.directory = directory
        self.image_name = image_name
        self.caption_name = caption_name
        self.name = name
        self.folder = directory.name
        self.class_tokens = class_tokens
        self.is_reg = is_reg
        self.reviewed = False
        self.shared_with: tuple[str, ...] = ()
        self.problem = ""
        self.stamp: tuple[int, int, int] | None = None
        self.is_read = False
        self._data: bytes | None = None
        self._caption: CaptionText | None = None
        self._tags: tuple[str, ...] | None = None
        self._keys: tuple[str, ...] | None = None
        self._bare_keys: tuple[str, ...] | None = None

    @property
    def image(self) -> Path:
        return self.directory / self.image_name

    @property
    def caption_path(self) -> Path:
        return self.directory / self.caption_name

    @property
    def data(self) -> bytes | None:
        """The bytes of the caption file, read when they are first asked for; None where there is none."""
        if not self.is_read:
            self.read()
        return self._data

    @data.setter
    def data(self, data: bytes | None) -> None:
        self.is_read = True
        self._data = data
        self._caption = self._tags = self._keys = self._bare_keys = None

    @property
    def caption(self) -> CaptionText:
        caption = self._caption
        if caption is None:
            data = self.data
            caption = EMPTY if data is None else decode(data)
            # Searches read on other threads: nothing that is stale by now may be kept.
            if self._data is data:
                self._caption = caption
        return caption

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that a trainer reads, as written."""
        tags = self._tags
        if tags is None:
            caption = self.caption
            tags = tags_of(caption.text)
            if self._caption is caption:
                self._tags = tags
        return tags

    @property
    def keys(self) -> tuple[str, ...]:
        """The comparison key of each tag."""
        keys = self._keys
        if keys is None:
            tags = self.tags
            keys = tuple(_shared_key(tag) for tag in tags)
            if self._tags is tags:
                self._keys = keys
        return keys

    @property
    def bare_keys(self) -> tuple[str, ...]:
        """The keys without emphasis: "(blue eyes:1.2)" is found as "blue eyes"."""
        bare_keys = self._bare_keys
        if bare_keys is None:
            keys = self.keys
            emphasised = any(tag.startswith("(") for tag in keys)
            bare_keys = tuple(_shared_key(bare(tag)) for tag in keys) if emphasised else keys
            if self._keys is keys:
                self._bare_keys = bare_keys
        return bare_keys

    def has_changed(self) -> bool:
        """Whether the caption file holds other bytes than it did; cheap while its stamp is the old one."""
        stamp = file_stamp(self.caption_path)
        if stamp == self.stamp:
            return False
        try:
            changed = read_caption_bytes(self.caption_path) != self._data or bool(self.problem)
        except OSError:
            return not self.problem
        if not changed:
            self.stamp = stamp
        return changed

    def read(self) -> bool:
        """Reads the caption file anew; whether its bytes are other than before. `problem` tells why it cannot be
        read."""
        self.is_read = True
        self.stamp = file_stamp(self.caption_path)
        try:
            data = read_caption_bytes(self.caption_path)
        except OSError as error:
            self.problem = f"cannot be read ({error.strerror})"
            return False
        self.problem = ""
        if data == self._data:
            return False
        self.data = data
        return True


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """(mtime in ns, size in bytes, inode) of a file, which change when it does; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def find_items(directory: Path, root: Path, caption_extension: str = ".txt") -> list[Item]:
    """Every picture in `directory` and the folders below it (five deep), sorted by folder and name; captions unread.

    Hidden folders are left out, and so are folders that links lead back to. Raises LoratoryError when `directory`
    cannot be listed; a folder below it that cannot is left out.
    """
    items: list[Item] = []
    for folder, listing in walk(directory):
        if listing.images:
            items += _items_of(folder, listing, root, caption_extension)
    return items


def is_regularization(directory: Path, root: Path) -> bool:
    """Whether a folder of the dataset at `root` lies in one that is named as regularization sets are."""
    return any(part.casefold() in _REGULARIZATION for part in directory.relative_to(root).parts)


def _items_of(directory: Path, listing: Listing, root: Path, caption_extension: str) -> list[Item]:
    names = frozenset(listing.names)
    _, class_tokens, problem = parse_folder_name(directory.name)
    is_reg = is_regularization(directory, root)
    below = os.path.relpath(directory, root).replace(os.sep, "/")
    prefix = "" if below == "." else f"{below}/"
    items: list[Item] = []
    by_caption: defaultdict[str, list[Item]] = defaultdict(list)
    for entry in listing.images:
        caption = _caption_name(stem(entry.name), names, caption_extension)
        item = Item(directory, entry.name, caption, f"{prefix}{entry.name}", "" if problem else class_tokens, is_reg)
        items.append(item)
        by_caption[caption].append(item)
    for sharing in by_caption.values():
        if len(sharing) > 1:
            for item in sharing:
                item.shared_with = tuple(other.name for other in sharing if other is not item)
    return items


def _caption_name(base: str, names: frozenset[str], extension: str) -> str:
    for ending in (extension, *CAPTION_EXTENSIONS):
        if base + ending in names:
            return base + ending
    return base + extension


def tag_counts(items: Sequence[Item]) -> dict[str, int]:
    """On how many of the items each tag key occurs, commonest first."""
    counts: defaultdict[str, int] = defaultdict(int)
    for item in items:
        for tag in set(item.keys):
            counts[tag] += 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


@lru_cache(maxsize=200_000)
def _shared_key(tag: str) -> str:
    # One string object for each tag of the set: ten thousand captions repeat the same few hundred.
    return key(tag)
