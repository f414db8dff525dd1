"""Kills processes that change captions, at random instants or at chosen calls, and looks at what they leave.

    python journal_driver.py FOLDER SEED KILLS
    python journal_driver.py FOLDER every

Each try forks a child from this warm process, which commits a batch over all captions or undoes the last one, and kills
it with SIGKILL after a random part of the time the whole takes, as the tries before tell it; in some tries the process
that recovers is killed as well. Goes on until KILLS children died at work. The child is forked rather than started so
that a hundred tries take seconds. Any broken promise raises. Prints a JSON object that counts what the kills hit.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from loratory.tags.files import read_caption_bytes
from loratory.tags.journal import Batch, Change, Journal

CAPTIONS = 1000
BYTES: tuple[bytes, ...] = (b"solo, fox\n", b"solo, fox, white background\n", b"\xff not UTF-8, \xe4\n")


def killed_after(delay_s: float, work: Callable[[], object]) -> bool:
    """Runs `work` in a child and kills it `delay_s` after it has begun; whether it was still at work then."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(tell, b"r")
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return False


class Tries:
    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.paths = [root / f"{number:04}.txt" for number in range(CAPTIONS)]
        self.names = {path.name for path in self.paths} | {".loratory"}
        for path in self.paths:
            path.write_bytes(BYTES[0])
        self.now = BYTES[0]
        self.counts: Counter[str] = Counter()
        begun_s = time.monotonic()
        self.commit(BYTES[1])()
        self.whole_s = time.monotonic() - begun_s
        self.now = BYTES[1]

    def commit(self, after: bytes) -> Callable[[], object]:
        changes = [Change(path, self.now, after) for path in self.paths]
        return lambda: Journal(self.root).commit("change all", changes)

    def states(self) -> Counter[bytes]:
        return Counter(path.read_bytes() for path in self.paths)

    def leftovers(self) -> set[str]:
        return {path.name for path in self.root.iterdir()} - self.names

    def once(self, number: int) -> None:
        old = self.now
        history = Journal(self.root).batches()
        edits = [batch for batch in history if batch.undoes is None and batch.state == "done" and not batch.undone]
        if edits and self.random.random() < 0.3:
            (before,) = {change.before for change in Journal(self.root).changes(edits[-1].id)}
            assert before is not None
            new, work, what = before, lambda: Journal(self.root).undo(), "undo"
        else:
            new = self.random.choice([data for data in BYTES if data != old])
            work, what = self.commit(new), "commit"
        was_killed = killed_after(self.random.uniform(0, self.whole_s * 1.1), work)
        self.counts["killed at work" if was_killed else "killed too late"] += 1
        if not was_killed:
            self.whole_s *= 0.8

        self.now = self.look(history, old, new, what)
        pending = Journal(self.root).pending()
        if pending is not None:
            self.recover(pending, old, new, forward=number % 2 == 0)
        assert not self.leftovers()
        assert Journal(self.root).pending() is None
        assert self.states() == {self.now: CAPTIONS}

    def look(self, history: list[Batch], old: bytes, new: bytes, what: str) -> bytes:
        """Every file is old or new, and the journal says which; what they hold where the batch is not pending."""
        journal, states = Journal(self.root), self.states()
        assert set(states) <= {old, new}, states
        assert journal.damaged_lines() == 0
        added = [batch for batch in journal.batches() if batch.id not in {known.id for known in history}]
        assert len(added) <= 1
        if not added:
            self.counts["before the batch began"] += 1
            self.whole_s *= 1.2  # the machine has become slower: without this no kill would come later
            assert journal.pending() is None
            assert states == {old: CAPTIONS}
            return old
        (batch,) = added
        assert (batch.count, batch.undoes is not None) == (CAPTIONS, what == "undo")
        assert {(change.before, change.after) for change in journal.changes(batch.id)} == {(old, new)}
        if batch.state == "done":
            self.counts["after its end"] += 1
            assert journal.pending() is None
            assert states == {new: CAPTIONS}
            return new
        pending = journal.pending()
        assert pending is not None
        assert pending.id == batch.id
        self.counts[f"{what} half way" if len(states) == 2 else f"{what} with all files old or all new"] += 1
        self.counts["temporary files left"] += len(self.leftovers()) > 0
        return old

    def recover(self, pending: Batch, old: bytes, new: bytes, *, forward: bool) -> None:
        def work() -> object:
            journal = Journal(self.root)
            return journal.finish() if forward else journal.roll_back()

        while self.random.random() < 0.4:
            if not killed_after(self.random.uniform(0, self.whole_s), work):
                break
            assert set(self.states()) <= {old, new}
            self.counts["recovery killed"] += 1
            if Journal(self.root).pending() is None:  # killed when all was done
                break
        if Journal(self.root).pending() is not None:
            work()
        self.now = new if forward else old
        (batch,) = [batch for batch in Journal(self.root).batches() if batch.id == pending.id]
        assert batch.state == ("done" if forward else "rolled back")
        assert len(Journal(self.root).changes(batch.id)) == (CAPTIONS if forward else 0)
        self.counts["finished" if forward else "rolled back"] += 1


CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "replace", "unlink", "chmod", "posix_fallocate")
# name -> (old, new): a file changed, one made, one removed.
SMALL: dict[str, tuple[bytes | None, bytes | None]] = {
    "changed.txt": (b"solo, fox", b"solo, fox, white background"),
    "made.txt": (None, b"\xe9t\xe9"),
    "removed.txt": (b"fox\r\n", None),
}


def died_in_call(number: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that dies in its `number`-th call that touches the disk (from 1), half of the data written
    where it writes; false where there are not so many calls."""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def dying(original: Callable[..., object], writes: bool) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls == number:
                    if writes:
                        descriptor, data, *offset = args
                        assert isinstance(data, bytes | memoryview)
                        original(descriptor, data[: len(data) // 2], *offset)
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return call

        for name in filter(lambda name: hasattr(os, name), CALLS):
            setattr(os, name, dying(getattr(os, name), name in ("write", "pwrite")))
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status)


def every_call(folder: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()

    def fresh() -> Path:
        root = folder / "small"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, (old, _) in SMALL.items():
            if old is not None:
                (root / name).write_bytes(old)
        return root

    def check(root: Path) -> bool:
        """Whether a batch is pending; every file is old or new."""
        states = {name: read_caption_bytes(root / name) for name in SMALL}
        assert all(states[name] in SMALL[name] for name in SMALL), states
        journal = Journal(root)
        assert journal.damaged_lines() == 0
        batches = journal.batches()
        assert len(batches) <= 1
        if not batches:
            assert states == {name: old for name, (old, _) in SMALL.items()}
        elif batches[0].state == "done":
            assert states == {name: new for name, (_, new) in SMALL.items()}
        elif batches[0].state == "rolled back":
            assert states == {name: old for name, (old, _) in SMALL.items()}
        pending = journal.pending()
        assert (pending is not None) == (bool(batches) and batches[0].state == "begun")
        return pending is not None

    def commit(root: Path) -> object:
        changes = [Change(root / name, old, new) for name, (old, new) in SMALL.items()]
        return Journal(root).commit("small", changes)

    def recover(root: Path, forward: bool) -> object:
        return Journal(root).finish() if forward else Journal(root).roll_back()

    def merging(number: int, forward: bool) -> int:
        """The same where somebody else has written a file before the recovery, which dies in each of its calls."""
        theirs = b"theirs, solo, fox"
        for second in range(1, 1000):
            root = fresh()
            assert died_in_call(number, lambda root=root: commit(root))
            (root / "changed.txt").write_bytes(theirs)
            died = died_in_call(second, lambda root=root: recover(root, forward))
            if Journal(root).pending() is not None:
                recover(root, forward)
            states = {name: read_caption_bytes(root / name) for name in SMALL}
            expected = {name: new if forward else old for name, (old, new) in SMALL.items()}
            assert states == {**expected, "changed.txt": theirs + b", white background" if forward else theirs}
            if forward:
                assert Journal(root).undo().merged == ()
                states = {name: read_caption_bytes(root / name) for name in SMALL}
                assert states == {**{name: old for name, (old, _) in SMALL.items()}, "changed.txt": theirs}
            if not died:
                return second - 1
        raise AssertionError

    for number in range(1, 1000):
        root = fresh()
        if not died_in_call(number, lambda root=root: commit(root)):
            break
        counts["commit"] += 1
        if not check(root):
            continue
        for forward in (True, False):
            for second in range(1, 1000):
                root = fresh()
                assert died_in_call(number, lambda root=root: commit(root))
                died = died_in_call(second, lambda root=root, forward=forward: recover(root, forward))
                if check(root):
                    assert died
                    recover(root, forward)
                    assert not check(root)
                (batch,) = Journal(root).batches()
                assert batch.state == ("done" if forward else "rolled back")
                assert {path.name for path in root.iterdir()} - set(SMALL) == {".loratory"}
                if not died:
                    break
                counts["finish" if forward else "roll back"] += 1
            if number % 6 == 0:
                counts["merging"] += merging(number, forward)
    return counts


def main() -> None:
    if sys.argv[2] == "every":
        print(json.dumps(every_call(Path(sys.argv[1]))))
        return
    root, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    runs = Tries(root, seed)
    for number in range(10 * kills):
        if runs.counts["killed at work"] == kills:
            break
        if number % 10 == 9:  # a short journal again, or reading it would be most of the work
            shutil.rmtree(root / ".loratory")
        runs.once(number)
    print(json.dumps(runs.counts))


if __name__ == "__main__":
    main()
