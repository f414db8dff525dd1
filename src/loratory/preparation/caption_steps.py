"""What several pictures want of one caption file, brought together into one change of it.

Pictures of one stem share a caption: `fox.gif` and `fox.png` have `fox.txt`. One of them may get another name, or be
left out, while the other goes on with the file.
"""

import os
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from loratory.dataset.listing import extension, stem
from loratory.preparation.places import EXTENSIONS, recipe_name
from loratory.preparation.record import Key, Record
from loratory.tags.files import Changes, read_caption_bytes
from loratory.tags.merge import Conflict, merge
from loratory.tags.text import CaptionText, decode, encode

Bytes = bytes | None


@dataclass(slots=True)
class Steps:
    """What is wanted of one caption file, None standing for no file.

    staying: (before, after) of pictures that keep the name. entering: (as nobody has edited it, as it is to be) of
    those that get it. leaving: of those that give it up what it holds, as far as it may go, what they had it tell, and
    that without what was done to them. is_made: whether there was no such file before it was made for one of these.
    """

    staying: tuple[tuple[Bytes, Bytes], ...] = ()
    entering: tuple[tuple[Bytes, Bytes], ...] = ()
    leaving: tuple[tuple[Bytes, Bytes, Bytes], ...] = ()
    is_made: bool = False


@dataclass
class CaptionSteps:
    """The steps of all caption files below `root`.

    known: every record of the manifest, of pictures whose captions stay as they are too. moved: (record, file below
    the root) of the steps that take or give up a file.
    """

    root: Path
    known: Collection[Record]
    moved: set[tuple[Key, str]] = field(default_factory=set[tuple[Key, str]])
    by_path: defaultdict[str, Steps] = field(default_factory=lambda: defaultdict(Steps))

    def enter(self, record: Record, path: str, plain: Bytes, wanted: Bytes) -> None:
        """Adds that a picture takes a caption file, by its path below the root; see `Steps.entering`."""
        self.by_path[path].entering += ((plain, wanted),)
        self._note_moved(record, path)

    def leave(self, record: Record, path: str, before: Bytes, told: Bytes, plain: Bytes, *, is_made: bool) -> None:
        """Adds that a picture gives a caption file up; see `Steps.leaving`, `Steps.is_made`."""
        steps = self.by_path[path]
        steps.leaving += ((before, told, plain),)
        steps.is_made |= is_made
        self._note_moved(record, path)

    def _note_moved(self, record: Record, path: str) -> None:
        if path in record.captions:  # else nobody asks
            self.moved.add((record.key, path))

    def stay(self, path: str, before: Bytes, after: Bytes) -> None:
        """Adds that the caption of a picture becomes another; see `Steps.staying`."""
        self.by_path[path].staying += ((before, after),)

    def changes(self) -> Changes:
        """One change for each file that changes, in the order of the first step; the steps are gone then."""
        changes = Changes(self.root)
        for name in list(self.by_path):
            steps = self.by_path.pop(name)
            before, after = self._change(self.root / name, steps)
            if before != after:
                changes.append(name, before, after)
        return changes

    def _change(self, path: Path, steps: Steps) -> tuple[Bytes, Bytes]:
        if not steps.staying and not ((steps.entering or steps.leaving) and self._is_used(path, steps)):
            before = steps.leaving[0][0] if steps.leaving else None
            after = _all_entering(steps)
            return before, after
        if steps.staying:
            before, after = steps.staying[0]
        else:
            before = after = _now(path)
        for base, wanted in steps.staying[1:]:
            after = merged(base, after, wanted)
        for _, told, plain in steps.leaving:
            # It stays for another picture, without what was said of this one.
            after = after if plain is None or after is None else merged(told, plain, after)
        for plain, wanted in steps.entering:
            # The file is there for another picture: only what a person wrote elsewhere meanwhile comes along.
            if after is None:
                after = wanted
            elif wanted != plain:
                after = merged(plain, after, wanted)
        return before, after

    def _is_used(self, caption: Path, steps: Steps) -> bool:
        """Whether a picture that has nothing to do with the steps goes by this caption."""
        if caption.relative_to(self.root).as_posix() in self._used:
            return True
        return not steps.is_made and _place(caption) in self._strangers(caption.parent)

    @cached_property
    def _used(self) -> frozenset[str]:
        return frozenset(
            caption
            for record in self.known
            for caption in record.captions
            if (record.key, caption) not in self.moved
            and _place(Path(caption)) in {_place(Path(output.path)) for output in record.outputs}
        )

    @cached_property
    def _owned(self) -> frozenset[str]:
        return frozenset(output.path for record in self.known for output in record.outputs)

    def _strangers(self, folder: Path) -> frozenset[tuple[Path, str]]:
        """Folder and stem of the pictures in a folder that nothing here was made of, nor for."""
        if folder not in self._seen:
            below = folder.relative_to(self.root).as_posix()
            below = "" if below == "." else below
            strangers: list[os.DirEntry[str]] = []
            with suppress(OSError), os.scandir(folder) as entries:  # it may not be there yet
                strangers += (
                    entry
                    for entry in entries
                    if extension(entry.name) in EXTENSIONS and recipe_name(below, entry.name) not in self._owned
                )
            # os.path: DirEntry.is_dir raises for a link that leads to itself.
            files = (entry.name for entry in strangers if not os.path.isdir(entry.path))  # noqa: PTH112
            self._seen[folder] = frozenset(_place(folder / name) for name in files)
        return self._seen[folder]

    @cached_property
    def _seen(self) -> dict[Path, frozenset[tuple[Path, str]]]:
        return {}


def merged(base: Bytes, ours: Bytes, theirs: Bytes) -> Bytes:
    """Both changes of a caption; theirs, a person's, where they cannot be brought together."""
    if theirs is None:
        return ours
    with suppress(Conflict):
        both = merge(_caption(base), _caption(ours), _caption(theirs))
        return None if both is None else encode(both)
    return theirs


def _all_entering(steps: Steps) -> Bytes:
    after: Bytes = None
    for number, (plain, wanted) in enumerate(steps.entering):
        after = wanted if number == 0 or after is None else merged(plain, after, wanted)
    return after


def _now(path: Path) -> Bytes:
    try:
        return read_caption_bytes(path)
    except OSError:  # whoever writes the change finds out, and tells why
        return None


def _place(path: Path) -> tuple[Path, str]:
    return path.parent, stem(path.name)


def _caption(data: Bytes) -> CaptionText | None:
    return None if data is None else decode(data)
