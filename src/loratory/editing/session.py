"""A dataset opened for tagging: its pictures and captions in memory, and every change through the journal.

An edit goes in three steps, so that a screen can show it before the disk has it: `plan` computes what would become of
each caption, `show` puts that into memory, `commit` writes it. `settle` then takes over what was really written, which
differs where somebody else changed a file meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from loratory.dataset.renaming import recover_renaming, renamings
from loratory.dataset.root import find_root
from loratory.editing.facts import FactBook
from loratory.editing.items import Item, find_items
from loratory.editing.settings import (
    FOLDER,
    Marks,
    read_marks,
    read_settings,
    write_marks,
    write_settings,
)
from loratory.errors import LoratoryError
from loratory.tags.edits import Edit
from loratory.tags.journal import Change, Journal, Outcome
from loratory.tags.query import Query
from loratory.tags.rename_log import Renaming, follow
from loratory.tags.text import encode
from loratory.tags.vocabulary.model import Site
from loratory.tags.vocabulary.store import Vocabulary, open_vocabulary

Progress = Callable[[int, int], None]

_GUESSED_FROM = 300


@dataclass(frozen=True)
class Plan:
    """What an edit would do. unchanged: captions that stay as they are. refused: captions it cannot be done to, why."""

    label: str
    changes: tuple[Change, ...]
    unchanged: int
    refused: tuple[tuple[Path, str], ...]


class Session:
    """The pictures at and below `directory`.

    One thread changes it; others may read. `commit`, and the journal's own undo and redo, only touch journal and disk:
    any thread may call them, one at a time.
    """

    def __init__(self, directory: Path) -> None:
        """Lists the pictures; each caption is read when it is first needed.

        completed_renaming: the renaming of folders that was cut short and is now completed, to be told; None for none.
        Raises LoratoryError for a folder that cannot be used.
        """
        if not directory.exists():
            raise LoratoryError(f"{directory} does not exist.", hint="Give the folder of the pictures.")
        if not directory.is_dir():
            raise LoratoryError(f"{directory} is not a folder.", hint="Give the folder that holds the pictures.")
        self.directory = directory.resolve()
        self.root = find_root(self.directory)
        self.completed_renaming = recover_renaming(self.root)
        self.settings = read_settings(self.root)
        self._renamings_followed = self._renamings()
        self.marks: Marks = read_marks(self.root)
        self.journal = Journal(self.root)
        self.items: list[Item] = []
        self.reviewed = 0
        self.facts = FactBook(self)
        self._vocabulary: Vocabulary | None = None
        self._guess: Site | None = None
        self.rescan()

    def rescan(self) -> None:
        """Lists the pictures anew, and reads each caption anew when it is needed.

        Marks follow folders that were renamed, here or by another process. Raises LoratoryError for a log of renamings
        that cannot be read.
        """
        self.marks, self._renamings_followed = self._marks_now()
        self.items = find_items(self.directory, self.root, self.settings.caption_extension)
        self.facts.forget()
        self.__dict__.pop("_by_caption", None)
        self.reviewed = 0
        if self.marks.reviewed:
            for item in self.items:
                item.reviewed = item.name in self.marks.reviewed
            self.reviewed = sum(item.reviewed for item in self.items)

    @cached_property
    def _by_caption(self) -> dict[Path, list[Item]]:
        by_caption: defaultdict[Path, list[Item]] = defaultdict(list)
        for item in self.items:
            by_caption[item.caption_path].append(item)
        return dict(by_caption)

    @property
    def site(self) -> Site:
        """The vocabulary of the dataset: as set, else as its tags look."""
        if self.settings.vocabulary is not None:
            return self.settings.vocabulary
        if self._guess is None:
            self._guess = guess_site(self.items)
        return self._guess

    @property
    def known_site(self) -> Site | None:
        """The vocabulary as far as it is set or guessed already: guessing takes a tenth of a second."""
        return self.settings.vocabulary or self._guess

    @property
    def vocabulary(self) -> Vocabulary:
        if self._vocabulary is None or self._vocabulary.site != self.site:
            self._vocabulary = open_vocabulary(self.site)
        return self._vocabulary

    def find(self, query: Query | None) -> list[Item]:
        """The items that a query matches; all of them for None."""
        if query is None:
            return list(self.items)
        matches, facts_of = query.matches, self.facts.of
        return [item for item in self.items if matches(facts_of(item))]

    def plan(self, edit: Edit, targets: Iterable[Item]) -> Plan:
        """What `edit` would do to the captions of `targets`; a caption that several share is edited once."""
        changes: list[Change] = []
        refused: list[tuple[Path, str]] = []
        unchanged = 0
        for item in {item.caption_path: item for item in targets}.values():
            caption = item.caption
            if item.problem:
                refused.append((item.caption_path, item.problem))
                continue
            try:
                after = edit.apply(caption)
                data = item.data if after == caption else encode(after)
            except LoratoryError as error:
                refused.append((item.caption_path, error.message))
                continue
            if after == caption or data == (item.data or b""):
                unchanged += 1
            else:
                changes.append(Change(item.caption_path, item.data, data))
        return Plan(edit.label, tuple(changes), unchanged, tuple(refused))

    def show(self, plan: Plan) -> None:
        """Puts the captions of a plan into memory."""
        for change in plan.changes:
            for item in self._by_caption[change.path]:
                item.data = change.after

    def commit(self, plan: Plan, progress: Progress | None = None) -> Outcome:
        """Writes a plan through the journal. Raises LoratoryError as the journal does."""
        if not plan.changes:
            return Outcome(None, (), (), plan.refused)
        outcome = self.journal.commit(plan.label, plan.changes, progress=progress)
        return replace(outcome, skipped=(*plan.refused, *outcome.skipped))

    def settle(self, outcome: Outcome) -> list[Item]:
        """Takes into memory what was really written, and reads again what was not; the items that look different."""
        touched = {change.path for change in outcome.written} | {path for path, _ in outcome.skipped}
        touched |= set(outcome.merged)
        return [item for path in touched for item in self._by_caption.get(path, ()) if item.read()]

    def items_of(self, caption_path: Path) -> Sequence[Item]:
        return self._by_caption.get(caption_path, ())

    def review(self, targets: Iterable[Item], reviewed: bool) -> None:
        """Marks pictures as looked through, or not."""
        for item in targets:
            self.reviewed += reviewed - item.reviewed
            item.reviewed = reviewed
            (self.marks.reviewed.add if reviewed else self.marks.reviewed.discard)(item.name)

    def save_marks(self) -> None:
        """Writes who was reviewed. Raises LoratoryError where the folder cannot be written."""
        marks, _ = self._marks_now()
        _writing(self.root, lambda: write_marks(self.root, marks))

    def _renamings(self) -> dict[int, Renaming]:
        return {each.id: each for each in renamings(self.root) if each.has_moved}

    def _marks_now(self) -> tuple[Marks, dict[int, Renaming]]:
        """The marks with the names that folders have now, and the renamings that they follow."""
        known, marks = self._renamings(), self.marks
        for number, renaming in known.items():
            if number not in self._renamings_followed:
                moves = dict(renaming.moves)
                answers = {
                    tag: {follow(name, moves): answer for name, answer in list(given.items())}
                    for tag, given in list(marks.answers.items())
                }
                marks = Marks({follow(name, moves) for name in list(marks.reviewed)}, answers, marks.problem)
        return marks, known

    def save_settings(self) -> None:
        """Writes the settings of the dataset. Raises LoratoryError where the folder cannot be written."""
        _writing(self.root, lambda: write_settings(self.root, self.settings))


def open_session(directory: Path) -> Session:
    """The dataset at `directory`. Raises LoratoryError for a folder that cannot be used or has no pictures."""
    session = Session(directory)
    if not session.items:
        raise LoratoryError(
            f"No picture found in {directory} or the folders below it.",
            hint="Trainers read png, jpg, webp, bmp and avif files; `loratory prepare` makes them from others.",
        )
    return session


def guess_site(items: Sequence[Item]) -> Site:
    """Which vocabulary captions look written in: sentences are natural language; tags go by the site that knows more.

    Danbooru where nothing speaks for another.
    """
    captioned = [item for item in items if item.tags][:_GUESSED_FROM]
    words = [len(tag.split()) for item in captioned for tag in item.tags]
    if words and sum(words) / len(words) > 4.5:
        return "natural"
    keys = {tag for item in captioned for tag in item.keys}
    e621, danbooru = open_vocabulary("e621"), open_vocabulary("danbooru")
    known = {site.site: sum(site.find(tag) is not None for tag in keys) for site in (e621, danbooru)}
    return "e621" if known["e621"] > known["danbooru"] else "danbooru"


def _writing(root: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise LoratoryError(
            f"{root / FOLDER} cannot be written ({error.strerror}).",
            hint="Check the permissions of the folder and the space on the disk.",
        ) from error
