"""What a query can ask of a picture, computed when it is asked and kept while it holds."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.editing.items import Item, file_stamp
from loratory.tags.text import Line, parse, render

if TYPE_CHECKING:
    from loratory.editing.session import Session
    from loratory.imaging.facts import PictureFacts

_CHUNK_BYTES = 1 << 20


class FactBook:
    """The facts of a session's pictures. Pictures are read once, and again when their files change.

    pictures: what one look at each told, by the item's name; empty until `learn` is told, as decoding takes time.
    picture_issues: the ids of what is to be said of each picture, by the item's name, beside those of its caption.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._facts: dict[str, ItemFacts] = {}
        self._tokens: dict[str, int] = {}
        self._sizes: dict[str, tuple[object, tuple[int, int]]] = {}
        self.issues_of: Callable[[Item], frozenset[str]] = lambda item: frozenset()
        self.pictures: dict[str, PictureFacts] = {}
        self.picture_issues: Mapping[str, frozenset[str]] = {}

    def of(self, item: Item) -> "ItemFacts":
        facts = self._facts.get(item.name)
        if facts is None or facts.item is not item:
            facts = self._facts[item.name] = ItemFacts(item, self)
        return facts

    def tokens(self, text: str) -> int:
        """Number of CLIP tokens of a caption, without begin and end."""
        count = self._tokens.get(text)
        if count is None:
            count = self._tokens[text] = self._count(text)
        return count

    def size(self, item: Item) -> tuple[int, int]:
        """(width, height) in px of the upright picture; (0, 0) where it cannot be read."""
        from loratory.imaging.pixels import UnreadablePicture, picture_size

        stamp = file_stamp(item.image)
        kept = self._sizes.get(item.name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        try:
            size = picture_size(item.image)
        except UnreadablePicture:
            size = (0, 0)
        self._sizes[item.name] = (stamp, size)
        return size

    def learn(self, pictures: "Mapping[str, PictureFacts]") -> None:
        """Takes over what one look at pictures told, by the item's name. Any thread may call it."""
        self.pictures = {**self.pictures, **pictures}
        self.__dict__.pop("_duplicates", None)

    def forget(self) -> None:
        """Forgets which pictures are the same and what they look like: the list of them has changed."""
        self._facts.clear()
        self.pictures, self.picture_issues = {}, {}
        self.__dict__.pop("_duplicates", None)

    def known_tokens(self, item: Item) -> int | None:
        """The token count of a caption that was counted already."""
        return self._tokens.get(trained_line(item))

    def known_size(self, item: Item) -> tuple[int, int] | None:
        """The size of a picture that was read already; (0, 0) where it cannot be."""
        kept = self._sizes.get(item.name)
        return None if kept is None else kept[1]

    def is_duplicate(self, item: Item) -> bool:
        """Whether another picture of the session has the same bytes, or looks nearly the same as far as pictures were
        looked at."""
        return item.name in self._duplicates

    @cached_property
    def _count(self) -> Callable[[str], int]:
        from loratory.models.tokens import count_tokens, light_clip

        clip = light_clip()
        return lambda text: count_tokens(clip, text)

    @cached_property
    def _duplicates(self) -> frozenset[str]:
        by_size: defaultdict[int, list[Item]] = defaultdict(list)
        for item in self._session.items:
            stamp = file_stamp(item.image)
            if stamp is not None:
                by_size[stamp[1]].append(item)
        by_content: defaultdict[str, list[str]] = defaultdict(list)
        for same_size in by_size.values():
            for item in same_size if len(same_size) > 1 else ():
                by_content[_digest(item.image)].append(item.name)
        same = {name for digest, names in by_content.items() if digest and len(names) > 1 for name in names}
        return frozenset(same | _nearly_same(self.pictures))


class ItemFacts:
    """The facts of one picture, by the names that the query language has for them."""

    __slots__ = ("_book", "item")

    def __init__(self, item: Item, book: FactBook) -> None:
        self.item = item
        self._book = book

    @property
    def name(self) -> str:
        return self.item.image_name

    @property
    def path(self) -> str:
        return self.item.name

    @property
    def caption(self) -> str:
        return self.item.caption.text

    @property
    def keys(self) -> tuple[str, ...]:
        return self.item.bare_keys

    @property
    def reviewed(self) -> bool:
        return self.item.reviewed

    @property
    def tokens(self) -> int:
        return self._book.tokens(trained_line(self.item))

    @property
    def size(self) -> tuple[int, int]:
        return self._book.size(self.item)

    @property
    def duplicate(self) -> bool:
        return self._book.is_duplicate(self.item)

    @property
    def issues(self) -> frozenset[str]:
        return self._book.issues_of(self.item) | self._book.picture_issues.get(self.item.name, frozenset())


def trained_line(item: Item) -> str:
    """The line of the caption that a trainer reads: the first that is not blank."""
    line = next((line for line in parse(item.caption.text) if line.has_text), None)
    return "" if line is None else render([Line(line.parts, "")]).strip()


def _nearly_same(pictures: "Mapping[str, PictureFacts]") -> set[str]:
    """The names of pictures that look nearly as another one does, mirrored or not."""
    from loratory.imaging.similarity import near_duplicates

    names = [name for name, facts in pictures.items() if not facts.problem]
    groups = near_duplicates([pictures[name] for name in names]) if names else []
    return {names[index] for group in groups for index in group.members}


def _digest(path: Path) -> str:
    """A digest of a file's bytes, "" where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        if not path.is_file():  # a named pipe would wait for somebody to write into it
            return ""
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()
