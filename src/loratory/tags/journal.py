"""Every change of captions as a batch that is written to a journal first: undoable for ever, recoverable after a crash.

A batch begins with a line that holds all bytes before and after, then the files are written, then a line ends it. A
file that somebody else has changed meanwhile is merged or left alone, never overwritten. The journal is
`.loratory/journal.jsonl` in the root of the dataset; `journal_log` describes its lines.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loratory.errors import FAILED, LoratoryError
from loratory.tags import journal_lock
from loratory.tags.files import (
    DISK_FULL,
    Change,
    Changes,
    explain,
    read_caption_bytes,
    reconcile,
    remove_leftovers,
    write_changes,
)
from loratory.tags.journal_log import End, Entry, JournalLog, Record
from loratory.tags.rename_log import RENAMES, RenameLog
from loratory.wording import typed

Progress = Callable[[int, int], None]

_FOLDER = ".loratory"
_INTERRUPTED = "The batch was interrupted."


@dataclass(frozen=True)
class Batch:
    """One batch of the history.

    time: seconds since the epoch. count: files it changed. undoes: the batch that it undid, None for an edit. undone:
    whether another batch has taken it back. state: "begun" until it has ended.
    """

    id: int
    label: str
    time: float
    count: int
    undoes: int | None
    undone: bool
    state: Literal["begun", "done", "rolled back"]


@dataclass(frozen=True)
class Outcome:
    """What became of the changes asked for.

    batch: None where nothing was written. written: the true bytes before and after; from `finish` and `roll_back`,
    every file of the batch that now is as it should be. merged: files whose text now also holds what somebody else
    wrote there. skipped: files left as they are, and why.
    """

    batch: Batch | None
    written: Sequence[Change]
    merged: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]


class Journal:
    """The history of the captions below `root`. Nothing is made before the first commit.

    Whatever changes captions holds the dataset's lock meanwhile and raises LoratoryError when the folder cannot be
    written, when another process keeps the lock, or while a batch is pending. `progress` gets (files done, files).
    Methods may be called from several threads.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._lock = self.root / _FOLDER / "lock"
        self._log = JournalLog(self.root / _FOLDER / "journal.jsonl")
        self._renames = RenameLog(self.root / _FOLDER / RENAMES)

    def commit(self, label: str, changes: Sequence[Change], *, progress: Progress | None = None) -> Outcome:
        """Writes the changes, each of another file, as one batch.

        A file that is no longer as `before` says gets the three-way merge of both, or is skipped where they conflict.
        Files that cannot be written are skipped too; once the disk is full, all that follow. Raises LoratoryError for
        a path outside the root, before anything is written.
        """
        for change in changes:
            self._name(change.path)
        with self._exclusive():
            self._refuse_pending()
            return self._carry_out(label, changes, None, progress)

    def undo(self, batch_id: int | None = None, *, progress: Progress | None = None) -> Outcome:
        """Takes a batch back: the last edit that is not undone, or any batch by its id; later ones stay.

        Where all of its files conflict with what was done later, nothing is written and the batch stays in force.
        Raises LoratoryError where there is nothing to undo.
        """
        with self._exclusive():
            self._refuse_pending()
            records, _ = self._log.read()
            if batch_id is None:
                edits = (r for r in reversed(records.values()) if r.undoes is None and _is_in_force(r))
                record = next(edits, None)
                if record is None:
                    raise LoratoryError(f"There is nothing to undo in {self.root}.")
            else:
                record = self._record(batch_id)
                if record.undone or record.end != "done":
                    raise LoratoryError(f"Batch {batch_id} ({record.label}) is undone already.")
            return self._invert(record, records, progress)

    def redo(self, *, progress: Progress | None = None) -> Outcome:
        """Undoes the last undo. Raises LoratoryError where there is none, or where an edit was committed since."""
        with self._exclusive():
            self._refuse_pending()
            records, _ = self._log.read()
            for record in reversed(records.values()):
                if record.undoes is None and _is_in_force(record):
                    break
                if len(_chain(record, records)) % 2 == 0 and _is_in_force(record):
                    return self._invert(record, records, progress)
            raise LoratoryError(f"There is nothing to redo in {self.root}.")

    def batches(self) -> list[Batch]:
        """The whole history, oldest first, without the bytes."""
        return [_batch(record) for record in self._log.read()[0].values()]

    def changes(self, batch_id: int) -> tuple[Change, ...]:
        """What a batch wrote; nothing for one rolled back. Raises LoratoryError where there is no such batch."""
        record = self._record(batch_id)
        if record.end == "rolled back":
            return ()
        return tuple(change for index, change in enumerate(self._all_of(record)) if index not in record.skipped)

    def damaged_lines(self) -> int:
        """How many lines of the journal cannot be read; the batches they told of are not in the history."""
        return self._log.read()[1]

    def pending(self) -> Batch | None:
        """The batch that a process began and died in, until `finish` or `roll_back`; None while one is at work."""
        if self._log.open_record() is None:
            return None
        with journal_lock.holding_if_free(self._lock) as free:
            # Looked up again: a process may have ended that batch since, and another begun one.
            record = self._log.open_record() if free else None
        return None if record is None else _batch(record)

    def finish(self, *, progress: Progress | None = None) -> Outcome:
        """Completes the pending batch: files still as before get what it was about to write.

        Those changed since by somebody else are merged or skipped. Raises LoratoryError, the batch still pending, where
        there is none or the disk is full.
        """
        return self._recover("done", progress)

    def roll_back(self, *, progress: Progress | None = None) -> Outcome:
        """Takes back what the pending batch wrote; otherwise as `finish`."""
        return self._recover("rolled back", progress)

    def _record(self, batch_id: int) -> Record:
        record = self._log.read()[0].get(batch_id)
        if record is None:
            raise LoratoryError(f"The history of {self.root} has no batch {batch_id}.")
        return record

    def _invert(self, record: Record, records: Mapping[int, Record], progress: Progress | None) -> Outcome:
        chain = _chain(record, records)
        label = f"{'undo' if len(chain) % 2 else 'redo'}: {chain[-1].label}"
        return self._carry_out(label, [_inverse(change) for change in self.changes(record.id)], record.id, progress)

    def _carry_out(
        self, label: str, changes: Sequence[Change], undoes: int | None, progress: Progress | None
    ) -> Outcome:
        planned = Changes(self.root)
        merged: list[Path] = []
        skipped: list[tuple[Path, str]] = []
        for change in changes:
            real, reason = reconcile(change)
            if real is None:
                skipped.append((change.path, reason))
                continue
            if real.after != change.after:
                merged.append(change.path)
            if real.before != real.after:
                planned.append(self._place(real.path), real.before, real.after)
        # An undo that finds everything in place already is recorded all the same: its batch is undone.
        if not planned and (undoes is None or skipped):
            return Outcome(None, (), tuple(merged), tuple(skipped))
        with self._explaining("nothing was changed"):
            entries = (self._entry(change) for change in planned)
            record = self._log.begin(label, time.time(), undoes, len(planned), entries)
        failed: dict[int, str] = {}
        try:
            _write(planned, failed, progress)
        except BaseException:
            # Ctrl-C, or a defect of `progress`: what is written stays, in the journal as on disk, and can be undone.
            self._end(record, "done", failed)
            raise
        self._end(record, "done", failed)
        skipped += [(planned[index].path, reason) for index, reason in failed.items()]
        lost = {path for path, _ in skipped}
        return Outcome(
            _batch(record) if len(failed) < len(planned) or not planned else None,
            planned.without(failed),
            tuple(path for path in merged if path not in lost),
            tuple(skipped),
        )

    def _recover(self, end: End, progress: Progress | None) -> Outcome:
        with self._exclusive():
            record = self._log.open_record()
            if record is None:
                raise LoratoryError(f"No batch was cut short in {self.root}: there is nothing to recover.")
            changes = self._all_of(record)
            remove_leftovers(change.path for change in changes)
            wanted = changes if end == "done" else [_inverse(change) for change in changes]
            planned: dict[int, Change] = {}
            merged: dict[int, Path] = {}
            failed: dict[int, str] = {}
            for index, change in enumerate(wanted):
                real, reason = reconcile(change)
                if real is None:
                    failed[index] = reason
                    continue
                if real.after != change.after:
                    merged[index] = change.path
                if real.before != real.after:
                    planned[index] = wanted[index] = real
            # Merged texts are written down before they are on disk, as all others were: this process may die as well.
            amended = {index: real for index, real in planned.items() if index in merged}
            with self._explaining("the batch is still to be recovered"):
                if amended:
                    entries = {i: self._entry(c if end == "done" else _inverse(c)) for i, c in amended.items()}
                    self._log.amend(record, entries)
            indices, refused = list(planned), dict[int, str]()
            _write(list(planned.values()), refused, progress)
            failed |= {indices[position]: reason for position, reason in refused.items()}
            waiting = list(failed.values()).count(DISK_FULL)
            if waiting:
                raise LoratoryError(
                    f"The disk is full: {waiting} captions of the batch are still to be written.",
                    hint="Make room and recover again; nothing is lost.",
                    exit_code=FAILED,
                )
            self._end(record, end, failed)
            return Outcome(
                _batch(record),
                tuple(change for index, change in enumerate(wanted) if index not in failed),
                tuple(path for index, path in merged.items() if index not in failed),
                tuple((wanted[index].path, reason) for index, reason in sorted(failed.items())),
            )

    def _refuse_pending(self) -> None:
        if self._renames.pending() is not None:
            raise LoratoryError(
                f"A renaming of folders in {self.root} was cut short: some have their new names, some have not.",
                hint=f"`loratory balance {typed(self.root)}` completes it.",
            )
        record = self._log.open_record()
        if record is not None:
            raise LoratoryError(
                f"A batch of {record.count} captions in {self.root} was cut short ({record.label}): some are written, "
                f"some are not.",
                hint=f"`loratory tag recover {typed(self.root)} --finish` completes it, `--roll-back` takes it back.",
            )

    def _end(self, record: Record, end: End, skipped: Mapping[int, str]) -> None:
        with self._explaining("the batch is to be recovered once that is mended"):
            self._log.end(record, end, skipped)

    @contextmanager
    def _exclusive(self) -> Generator[None]:
        """Holds the lock, with the log in order. Where that cannot be, LoratoryError says why nothing was changed."""
        with ExitStack() as stack:
            with self._explaining("nothing was changed"):
                self._lock.parent.mkdir(exist_ok=True)
                stack.enter_context(journal_lock.holding(self._lock))
                self._log.repair()
            yield

    @contextmanager
    def _explaining(self, so: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise LoratoryError(
                f"The journal in {self.root / _FOLDER} cannot be written; {so}. {explain(error)}",
                hint="Check the permissions of the folder and the space on its disk.",
                exit_code=FAILED,
            ) from error

    def _name(self, path: Path) -> str:
        """`path` relative to the root. Raises LoratoryError where it is not below it."""
        if path.is_relative_to(self.root) and path != self.root and ".." not in path.parts:
            return path.relative_to(self.root).as_posix()
        # Only the folder: a caption that is a link lies where the link lies.
        root, resolved = self.root.resolve(), path.parent.resolve() / path.name
        if resolved.is_relative_to(root) and resolved != root and path.name != "..":
            return resolved.relative_to(root).as_posix()
        raise LoratoryError(f"{path} is outside {self.root}; nothing was changed.")

    def _place(self, path: Path) -> str | Path:
        """`path` as it is kept: as its name where the root and that name make the same path again."""
        name = self._name(path)
        return name if self.root / name == path else path

    def _entry(self, change: Change) -> Entry:
        return self._name(change.path), change.before, change.after

    def _all_of(self, record: Record) -> list[Change]:
        entries = self._log.entries(record)
        # Folders may have been renamed since: the batch's files lie where they are now.
        names = self._renames.translated((name for name, _, _ in entries), record.id)
        pairs = zip(names, entries, strict=True)
        return [Change(self.root / name, before, after) for name, (_, before, after) in pairs]


def _batch(record: Record) -> Batch:
    count = record.count - len(record.skipped)
    state = record.end or "begun"
    return Batch(record.id, record.label, record.time_s, count, record.undoes, record.undone, state)


def _is_in_force(record: Record) -> bool:
    return record.end == "done" and not record.undone and record.count > len(record.skipped)


def _chain(record: Record, records: Mapping[int, Record]) -> list[Record]:
    """A batch, the one that it undoes, the one that that undoes, down to the edit."""
    chain = [record]
    while (below := chain[-1].undoes) is not None and below in records:
        chain.append(records[below])
    return chain


def _inverse(change: Change) -> Change:
    return Change(change.path, change.after, change.before)


def _write(changes: Sequence[Change], failed: dict[int, str], progress: Progress | None) -> None:
    """Writes the changes; `failed` gets index -> why for those that were not, also when an exception passes through."""
    settled = 0
    try:
        with closing(write_changes(changes)) as results:
            for index, reason in results:
                if reason is not None:
                    failed[index] = reason
                settled = index + 1
                if progress is not None:
                    progress(settled, len(changes))
    except BaseException:
        for index in range(settled, len(changes)):
            disk = None
            with suppress(OSError):
                disk = read_caption_bytes(changes[index].path)
            if disk != changes[index].after:
                failed[index] = _INTERRUPTED
        raise
