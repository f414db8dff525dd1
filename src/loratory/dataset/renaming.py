"""Renames folders of a dataset as one batch that can be undone, and lets what names their files follow.

`.loratory/renames.jsonl` tells of it before anything is touched. Folders that take each other's names are parked under
temporary ones first; then all get their new names, the originals of adopted pictures along with them; then the files
that name pictures are replaced (`renamed_state`). A process may die at any instant: what it began is completed by
`recover_renaming`, which whatever opens a dataset calls. The journal of captions translates its old paths by itself.
"""

import os
import secrets
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from loratory import atomic
from loratory.dataset import renamed_state
from loratory.dataset.findings import shown
from loratory.dataset.root import STATE
from loratory.errors import FAILED, LoratoryError
from loratory.tags import journal_lock
from loratory.tags.journal_log import JournalLog
from loratory.tags.rename_log import RENAMES, RenameLog, Renaming
from loratory.wording import typed

Move = tuple[str, str]

_ORIGINALS = f"{STATE}/originals"


def rename_folders(root: Path, moves: Sequence[Move], label: str) -> Renaming | None:
    """Renames folders below `root`, given as (old, new) paths with "/" between their parts; None for nothing to do.

    All or none are renamed; a folder may take the name of another that is renamed too. Raises LoratoryError, before
    anything is touched, for a folder that is not there, a name that is taken, a batch of captions that was cut short,
    or a folder that cannot be written.
    """
    moves = tuple((old, new) for old, new in moves if old != new)
    if not moves:
        return None
    with _exclusive(root) as log:
        _finish(root, log)
        return _carry_out(root, log, moves, label, None)


def undo_renaming(root: Path) -> Renaming:
    """Takes the last renaming back that is not undone; raises LoratoryError where there is none, else as
    `rename_folders`."""
    if not (root / STATE / RENAMES).exists():
        raise LoratoryError(f"No folder was renamed in {root}: there is nothing to undo.")
    with _exclusive(root) as log:
        _finish(root, log)
        last = next((each for each in reversed(log.read()) if is_in_force(each)), None)
        if last is None:
            raise LoratoryError(f"No renaming of folders is left to undo in {root}.")
        back = tuple((new, old) for old, new in last.moves)
        return _carry_out(root, log, back, f"undo: {last.label}", last.id)


def recover_renaming(root: Path) -> Renaming | None:
    """Completes a renaming that a process began and died in; None where there is none, or while one is at work.

    Raises LoratoryError where it cannot be completed.
    """
    log = RenameLog(root / STATE / RENAMES)
    if log.pending() is None:
        return None
    with journal_lock.holding_if_free(root / STATE / "lock") as free:
        if not free:
            return None
        with _explaining(root):
            return _finish(root, log)


def renamings(root: Path) -> list[Renaming]:
    """Every renaming of the dataset, oldest first."""
    return RenameLog(root / STATE / RENAMES).read()


def is_in_force(renaming: Renaming) -> bool:
    """Whether it is a renaming that `undo_renaming` can take back."""
    return renaming.state == "done" and not renaming.undone and renaming.undoes is None


def _carry_out(root: Path, log: RenameLog, moves: tuple[Move, ...], label: str, undoes: int | None) -> Renaming:
    journal = JournalLog(root / STATE / "journal.jsonl")
    open_batch = journal.open_record()
    if open_batch is not None:
        raise LoratoryError(
            f"A batch of captions in {root} was cut short ({open_batch.label}); no folder was renamed.",
            hint=f"`loratory tag recover {typed(root)} --finish` completes it, `--roll-back` takes it back.",
        )
    _check(root, moves)
    number = max((each.id for each in log.read()), default=0) + 1
    batches, _ = journal.read()
    renaming = Renaming(number, label, time.time(), moves, secrets.token_hex(6), max(batches, default=0), undoes=undoes)
    # Raises for a file that names pictures and cannot be read, while nothing has happened yet.
    renamed_state.rewritten(root, dict(moves))
    with _explaining(root):
        log.begin(renaming)
        try:
            renaming = _move(root, log, renaming)
        except (OSError, LoratoryError):
            _take_back(root, log, renaming)
            raise
        return _replace_state(root, log, renaming)


def _finish(root: Path, log: RenameLog) -> Renaming | None:
    """Completes what is pending; the lock is held."""
    pending = log.pending()
    if pending is None:
        return None
    return _replace_state(root, log, _move(root, log, pending))


def _check(root: Path, moves: Sequence[Move]) -> None:
    olds, news = {old for old, _ in moves}, [new for _, new in moves]
    twice = next((new for new in news if news.count(new) > 1), "")
    if twice or len(olds) < len(moves):
        raise LoratoryError(
            f"Two folders would be called {shown(twice or moves[0][1])}; no folder was renamed.",
            hint="Give one of them another name behind its number.",
        )
    for old, new in moves:
        if new.rpartition("/")[0] != old.rpartition("/")[0] or any(parent in olds for parent in _parents(old)):
            raise LoratoryError(f"{shown(old)} cannot be moved to {shown(new)}; no folder was renamed.")
        if not (root / old).is_dir():
            raise LoratoryError(f"{root / shown(old)} is not a folder; no folder was renamed.")
        for prefix in ("", f"{_ORIGINALS}/"):
            if os.path.lexists(root / (prefix + new)) and not (new in olds and (root / (prefix + new)).is_dir()):
                raise LoratoryError(
                    f"{root / shown(prefix + new)} exists already; no folder was renamed.",
                    hint="Move it away, or choose other repeats.",
                )


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _steps(root: Path, renaming: Renaming) -> list[tuple[Path, Path | None, Path]]:
    """(old, temporary where it needs one, new) of every folder to be renamed, originals too."""
    olds, news = {old for old, _ in renaming.moves}, {new for _, new in renaming.moves}
    steps: list[tuple[Path, Path | None, Path]] = []
    for prefix in ("", f"{_ORIGINALS}/"):
        for index, (old, new) in enumerate(renaming.moves):
            target = root / (prefix + new)
            parked = target.with_name(f".loratory-{renaming.token}-{index}") if old in news or new in olds else None
            steps.append((root / (prefix + old), parked, target))
    return steps


def _move(root: Path, log: RenameLog, renaming: Renaming) -> Renaming:
    """Gives the folders their new names, from wherever the renaming stands, and writes the files that follow beside
    those that they will replace."""
    steps = _steps(root, renaming)
    if renaming.state == "begun":
        for old, parked, _ in steps:
            if parked is not None and not os.path.lexists(parked) and os.path.lexists(old):
                old.rename(parked)
        _fsync(steps)
        renaming = log.mark(renaming, "parked")
    if renaming.state == "parked":
        for old, parked, new in steps:
            source = parked or old
            if os.path.lexists(source):
                _refuse_taken(source, new)
                source.rename(new)
        _fsync(steps)
        for path, data in renamed_state.rewritten(root, dict(renaming.moves)).items():
            atomic.write_bytes(_staged(path, renaming), data)
        renaming = log.mark(renaming, "moved")
    return renaming


def _refuse_taken(source: Path, new: Path) -> None:
    # os.rename replaces an empty folder without a word.
    if os.path.lexists(new):
        raise LoratoryError(
            f"{source.parent / shown(source.name)} was to become {shown(new.name)}, which somebody has made meanwhile.",
            hint="Remove or rename one of the two, then try again.",
            exit_code=FAILED,
        )


def _replace_state(root: Path, log: RenameLog, renaming: Renaming) -> Renaming:
    for path in renamed_state.files(root):
        with suppress(FileNotFoundError):
            _staged(path, renaming).replace(path)
        # Of a process that died while it wrote one.
        atomic.remove_leftovers(path.parent, f"*{renaming.token}.renamed")
    return log.mark(renaming, "done")


def _take_back(root: Path, log: RenameLog, renaming: Renaming) -> None:
    """Undoes what `_move` has done before it failed; where that fails too, the renaming stays to be completed."""
    steps = _steps(root, renaming)
    # Not by how far `renaming` says it came: a mark that could not be written may be there all the same.
    if any(each.id == renaming.id and each.state != "begun" for each in log.read()):
        for old, parked, new in steps:
            source = parked or old
            if not os.path.lexists(source) and os.path.lexists(new):
                new.rename(source)
    for old, parked, _ in steps:
        if parked is not None and os.path.lexists(parked):
            parked.rename(old)
    for path in renamed_state.files(root):
        _staged(path, renaming).unlink(missing_ok=True)
    _fsync(steps)
    log.mark(renaming, "rolled back")


def _staged(path: Path, renaming: Renaming) -> Path:
    return path.with_name(f".{path.name}.{renaming.token}.renamed")


def _fsync(steps: Sequence[tuple[Path, Path | None, Path]]) -> None:
    for folder in {new.parent for _, _, new in steps}:
        with suppress(OSError):  # some network disks cannot; originals need not be there
            atomic.fsync_directory(folder)


@contextmanager
def _exclusive(root: Path) -> Generator[RenameLog]:
    with _explaining(root):
        (root / STATE).mkdir(exist_ok=True)
        # Whoever prepares pictures takes this one first as well, and the captions' while it holds it.
        (root / STATE / "prepare.lock").touch()
        with journal_lock.holding_if_free(root / STATE / "prepare.lock") as free:
            if not free:
                raise LoratoryError(
                    f"Pictures are being prepared into {root} at this moment; no folder was renamed.",
                    hint="Try again when that is done.",
                    exit_code=FAILED,
                )
            with journal_lock.holding(root / STATE / "lock"):
                yield RenameLog(root / STATE / RENAMES)


@contextmanager
def _explaining(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        left = RenameLog(root / STATE / RENAMES).pending() is not None
        so = "it is completed when the folder is next opened" if left else "no folder was renamed"
        what = f" ({shown(Path(str(error.filename)).name)})" if error.filename else ""
        raise LoratoryError(
            f"The folders in {root} cannot be renamed: {error.strerror}{what}; {so}.",
            hint="Check the permissions of the folder and the space on its disk.",
            exit_code=FAILED,
        ) from error
