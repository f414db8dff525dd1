"""Makes what the plans tell: files first, each whole or not at all, then the captions as one batch.

Nothing here decides what is done to a picture. A process may be killed at any instant: run again, the same bytes come
out. That holds since each output is a function of its original and its plan, since it is written aside and renamed,
and since the manifest tells of it before it takes its place.
"""

import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Literal

from loratory.atomic import leftovers_of
from loratory.dataset.listing import pictures
from loratory.errors import FAILED, LoratoryError
from loratory.imaging.workers import Failure, mapped
from loratory.preparation.make import DISK_FULL, Made, Maker, make
from loratory.preparation.manifest import Manifest
from loratory.preparation.paths import Paths
from loratory.preparation.places import STATE, Original
from loratory.preparation.plan import Plan
from loratory.preparation.planner import Looks, Plans
from loratory.preparation.record import Key, Output, Record, digest_if_readable, stamp_of
from loratory.tags.journal import Outcome
from loratory.tags.journal_lock import holding_if_free

Progress = Callable[[int, int, str], None]
State = Literal["new", "made", "stale", "changed by hand", "source gone", "as it is"]

BY_HAND = "was changed by hand since it was made"
FOREIGN = "is there already and was not made from this original"


@dataclass
class Report:
    """What became of a build.

    made, removed: files. unchanged: originals of which everything was there already. left_alone, failed: path and why.
    captions: None where none changed. gone: files whose original is gone, which were kept. notes: what is worth
    knowing, a sentence each. stopped: whether it was stopped before the end.
    """

    made: Paths = field(default_factory=Paths)
    unchanged: int = 0
    removed: list[Path] = field(default_factory=list[Path])
    left_alone: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])
    failed: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])
    captions: Outcome | None = None
    gone: list[Path] = field(default_factory=list[Path])
    notes: list[str] = field(default_factory=list[str])
    stopped: bool = False


@contextmanager
def preparing(root: Path) -> Generator[None]:
    """Keeps other processes from preparing into `root`.

    Raises LoratoryError where one does, or where the folder cannot be written.
    """
    lock = root / STATE / "prepare.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if not lock.exists():
            lock.touch()
    except OSError as error:
        raise LoratoryError(
            f"{root} cannot be written ({error.strerror}); nothing was changed.",
            hint="Check the permissions of the folder and the space on the disk.",
            exit_code=FAILED,
        ) from error
    with holding_if_free(lock) as free:
        if not free:
            raise LoratoryError(
                f"Another process prepares pictures into {root} at this moment; nothing was changed.",
                hint="Try again when it is done.",
                exit_code=FAILED,
            )
        yield


def state_of(root: Path, record: Record | None, plan: Plan) -> State:
    """How things stand with one original: by the stamps of its outputs, and their bytes where a stamp has changed."""
    if record is None:
        return "new" if plan.targets else "made"
    if _changed_outputs(root, record):
        return "changed by hand"
    targets = {root / output.path for output in record.outputs}
    intact = all(_is_intact(root, output) for output in record.outputs)
    same = record.look.digest == plan.look.digest and dict(record.done) == dict(plan.done)
    return "made" if same and intact and targets == set(plan.targets) else "stale"


def _changed_outputs(root: Path, record: Record) -> list[Output]:
    """The outputs that somebody changed since they were made."""
    return [output for output in record.outputs if not _is_ours(root, output) and (root / output.path).exists()]


def _is_intact(root: Path, output: Output) -> bool:
    """Whether an output is there as it was made."""
    return stamp_of(root / output.path) == output.stamp or digest_if_readable(root / output.path) == output.digest


def _is_ours(root: Path, output: Output) -> bool:
    """Whether what stands in the place of an output was made by us: it, or what a process that died left there."""
    if stamp_of(root / output.path) == output.stamp:
        return True
    return digest_if_readable(root / output.path) in (output.digest, *output.earlier)


@dataclass
class Build:
    """One build into the dataset at `root`. force: what was changed by hand is made anew too."""

    root: Path
    manifest: Manifest
    folder: str
    force: bool
    report: Report
    _became_other: bool = False
    _moving: int = 0

    def run(self, plans: Plans, progress: Progress, stop: Event, workers: int | None) -> None:
        """Makes what is not there yet."""
        todo: list[Original] = []
        alone: list[Original] = []
        for plan in plans:
            record = self.manifest.records.get((self.folder, plan.original.name))
            state = state_of(self.root, record, plan)
            if state == "made":
                self.report.unchanged += 1
                if record is not None:
                    self._restamp(record, plans.looks.with_stamp(plan.original.name)[1])
            elif state == "changed by hand" and not self.force and record is not None and self._is_same(record, plan):
                for output in _changed_outputs(self.root, record):
                    self.report.left_alone.append((self.root / output.path, BY_HAND))
            else:
                (alone if plan.needs_network else todo).append(plan.original)
        done, total = len(plans) - len(todo) - len(alone), len(plans)
        for folder in {original.folder for original in (*todo, *alone)}:
            self._make_folder(folder)
        try:
            networked = map(plans.of, alone) if alone else None
            making = _in_parallel(networked, map(plans.of, todo), stop, workers, self.report.notes.append)
            with closing(making) as results:
                for plan, made in results:
                    done += 1
                    progress(done, total, plan.original.name)
                    if isinstance(made, Failure):
                        if stop.is_set():
                            continue
                        self.report.failed.append((plan.original.path, made.reason))
                        if made.reason == DISK_FULL:
                            raise LoratoryError(
                                f"The disk is full: made {pictures(len(self.report.made))}, "
                                f"{total - done + 1} still to do.",
                                hint="Make room and run it again: it goes on where it stopped.",
                                exit_code=FAILED,
                            )
                        continue
                    self._take(plan, plans.looks, made)
        finally:
            # Files of pictures that were finished when nobody took them any more.
            remove_leftovers(plans, [*todo, *alone])
        self._note_formats()
        self.report.stopped = self.report.stopped or stop.is_set()

    @cached_property
    def _owners(self) -> dict[str, Key]:
        """Who had made what before this build: of what it makes itself nothing is claimed by two."""
        return self.manifest.owners()

    def remove(self, record: Record) -> bool:
        """Takes away what was made of an original; whether nothing is left of it."""
        own = [output for output in record.outputs if self._owners.get(output.path, record.key) == record.key]
        for output in own:
            self._remove(output)
        return not any((self.root / output.path).exists() for output in own)

    def _is_same(self, record: Record, plan: Plan) -> bool:
        return record.look.digest == plan.look.digest and dict(record.done) == dict(plan.done)

    def _restamp(self, record: Record, stamp: tuple[int, int, int]) -> None:
        """Has the manifest know files again by their stamps, where only those have changed: a copied folder."""
        outputs = tuple(replace(one, stamp=stamp_of(self.root / one.path) or one.stamp) for one in record.outputs)
        if record.stamp != stamp or outputs != record.outputs:
            self.manifest.put(replace(record, stamp=stamp, outputs=outputs))

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoratoryError(
                f"{folder} cannot be made ({error.strerror}).",
                hint="Check the permissions of the folder above it.",
                exit_code=FAILED,
            ) from error

    def _take(self, plan: Plan, looks: Looks, made: Made) -> None:
        """Puts what was made of one original in its place."""
        _, stamp = looks.with_stamp(plan.original.name)
        record = self.manifest.records.get((self.folder, plan.original.name))
        known = {output.path: output for output in record.outputs} if record else {}
        for written in made.files:
            known |= self._inherited(plan, written.target.relative_to(self.root).as_posix())
        outputs: list[Output] = []
        moving: list[tuple[Path, Path]] = []
        is_blocked = False
        for written in made.files:
            path = written.target.relative_to(self.root).as_posix()
            old, disk = known.get(path), digest_if_readable(written.target)
            exists = bool(disk) or written.target.is_symlink() or written.target.exists()
            if disk == written.digest and not written.target.is_symlink():
                with suppress(OSError):
                    written.temporary.unlink()
                outputs.append(Output(path, written.digest, stamp_of(written.target) or written.stamp))
                continue
            if exists and not (old is not None and (self.force or disk in (old.digest, *old.earlier))):
                with suppress(OSError):
                    written.temporary.unlink()
                self.report.left_alone.append((written.target, BY_HAND if old else FOREIGN))
                outputs += [old] if old else []
                is_blocked = is_blocked or old is None
                continue
            outputs.append(Output(path, written.digest, written.stamp, (disk,) if disk else ()))
            moving.append((written.temporary, written.target))
        try:
            for path in known.keys() - {output.path for output in outputs}:
                if is_blocked:
                    outputs.append(known[path])  # better what was made before than nothing
                else:
                    self._remove(known[path])
            for path in self._owners.keys() & {output.path for output in outputs}:
                self._owners[path] = self.folder, plan.original.name
            now = Record(self.folder, plan.original.name, stamp, plan.look, plan.done, tuple(outputs), made.tags)
            self.manifest.put(replace(now, captions=record.captions if record else {}))
            looks.forget(plan.original.name)
            for temporary, target in moving:
                temporary.replace(target)
                self.report.made.append(target)
            if moving:
                self._became_other |= plan.look.format == "WEBP" and plan.format != "WEBP"
                self._moving += plan.look.frames > 1
        except OSError as error:
            for temporary, _ in moving:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.report.failed.append((plan.original.path, f"{error.strerror}: {error.filename}"))

    def _note_formats(self) -> None:
        """Notes what one may want to know of the formats of what was made."""
        if self._became_other:
            self.report.notes.append(
                "WebP became PNG or JPEG; trainers of today read WebP too (--format keep leaves it)."
            )
        if self._moving:
            self.report.notes.append(
                f"Of {pictures(self._moving)} that move, or have several pages, the first frame was taken."
            )

    def _inherited(self, plan: Plan, path: str) -> dict[str, Output]:
        """What another picture of ours had made at `path`, which has no use for it any more: names change hands."""
        key = self._owners.get(path)
        other = self.manifest.records.get(key) if key is not None else None
        if other is None or key == (self.folder, plan.original.name) or key is None or key[0] != self.folder:
            return {}
        found = {output.path: output for output in other.outputs if output.path == path}
        if found:
            self.manifest.put(replace(other, outputs=tuple(one for one in other.outputs if one.path != path)))
        return found

    def _remove(self, output: Output) -> bool:
        path = self.root / output.path
        if not path.exists() and not path.is_symlink():
            return True
        if not _is_ours(self.root, output) and not self.force:
            self.report.left_alone.append((path, BY_HAND))
            return False
        path.unlink()
        self.report.removed.append(path)
        return True


def _in_parallel(
    alone: Iterable[Plan] | None,
    others: Iterable[Plan],
    stop: Event,
    workers: int | None,
    tell: Callable[[str], None],
) -> Generator[tuple[Plan, Made | Failure]]:
    """Each plan with what was made of it, as they come.

    alone: what needs a network, which is made on a thread of this process, one at a time, others in other processes
    meanwhile; None for nothing. tell: is given, on that thread, what a network could not do as asked.
    """
    if alone is None:
        yield from mapped(make, others, workers=workers, stop=stop)
        return
    # One more than is being worked on: what waits here has its files written, so its memory is small.
    results: Queue[tuple[Plan, Made | Failure] | Exception | None] = Queue()

    def give(source: Iterable[tuple[Plan, Made | Failure]]) -> None:
        try:
            for result in source:
                results.put(result)
            results.put(None)
        except Exception as error:  # noqa: BLE001 - a defect, which the thread that waits tells
            results.put(error)

    def enlarged() -> Iterator[tuple[Plan, Made | Failure]]:
        maker = Maker(stop, tell)
        for plan in alone:
            if stop.is_set():
                return
            yield plan, maker.make(plan)

    sources = (enlarged(), mapped(make, others, workers=workers, stop=stop))
    threads = [Thread(target=give, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        if running:
            stop.set()
        for thread in threads:
            thread.join()


def remove_leftovers(plans: Plans, originals: Sequence[Original]) -> None:
    """Removes what a killed process left half written of what is to be made of these."""
    for folder in {original.folder for original in originals}:
        with suppress(OSError):  # it may not be there yet
            if any(name.endswith(".tmp") for name in os.listdir(folder)):  # noqa: PTH208 - ten times as fast
                ours = (plans.of(original) for original in originals if original.folder == folder)
                for leftover in leftovers_of(folder, (target.name for plan in ours for target in plan.targets)):
                    leftover.unlink(missing_ok=True)
