"""Batches of captions: undoable, mergeable, and never over what somebody else wrote."""

import json
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory import atomic
from loratory.errors import LoratoryError
from loratory.tags import journal_lock
from loratory.tags.files import DISK_FULL, read_caption_bytes, write_changes
from loratory.tags.journal import Change, Journal, Outcome
from loratory.tags.journal_log import encode_line
from loratory.tags.text import decode, tags_of

# Hypothesis tries many folders: in memory, where there is such a disk, none of them waits for an fsync.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
TAGS = [f"tag{number}" for number in range(6)]
contents = st.none() | st.binary(max_size=12) | st.text(max_size=12).map(lambda text: text.encode("utf-8"))
captions = st.lists(st.sampled_from(TAGS), unique=True).map(lambda tags: ", ".join(tags).encode())
names = st.lists(
    st.sampled_from(
        ["a", "b.txt", "new\nline.txt", "[bold]x[].txt", "\udcff\udc80.txt", "日本 🦊.txt", "-rf", "q\"'\\.txt"]
    ),
    unique=True,
    min_size=1,
)


def put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)


def state(root: Path, below: list[str]) -> dict[str, bytes | None]:
    return {name: read_caption_bytes(root / name) for name in below}


def made(root: Path, name: str, data: bytes, after: bytes) -> Change:
    (root / name).write_bytes(data)
    return Change(root / name, data, after)


def interrupted(root: Path, changes: list[Change], written: int) -> Journal:
    """A journal whose last batch was cut short by a kill when that many files were written."""
    pid = os.fork()
    if pid == 0:
        Journal(root).commit("cut short", changes, progress=lambda done, _: os._exit(0) if done == written else None)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    return Journal(root)


def as_ordinary_user(work: Callable[[], None]) -> None:
    """Runs `work` without the rights of root, which no permission stops."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


# What the history promises


@settings(deadline=None, max_examples=60)
@given(names, st.data())
def test_undo_is_the_identity_on_bytes_and_so_is_redo(below: list[str], data: st.DataObject) -> None:
    with TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        before = {name: data.draw(contents) for name in below}
        after = {name: data.draw(contents) for name in below}
        for name in below:
            put(root / name, before[name])
        outcome = Journal(root).commit("all", [Change(root / name, before[name], after[name]) for name in below])
        assert state(root, below) == after
        assert outcome.skipped == outcome.merged == ()
        if outcome.batch is None:
            assert before == after
            return
        # Each by a journal of its own, as if the program was started anew.
        assert {c.path.relative_to(root).as_posix() for c in Journal(root).changes(outcome.batch.id)} == {
            name for name in below if before[name] != after[name]
        }
        for expected, move in ((before, Journal.undo), (after, Journal.redo), (before, Journal.undo)):
            assert move(Journal(root)).skipped == ()
            assert state(root, below) == expected


@settings(deadline=None, max_examples=40)
@given(st.lists(captions, min_size=2, max_size=6))
def test_undo_goes_all_the_way_back_and_redo_all_the_way_forth(steps: list[bytes]) -> None:
    with TemporaryDirectory(dir=MEMORY) as directory:
        path, journal = Path(directory) / "a.txt", Journal(Path(directory))
        path.write_bytes(steps[0])
        texts = [steps[0]]
        for text in steps[1:]:
            if journal.commit("step", [Change(path, texts[-1], text)]).batch:
                texts.append(text)
        for text in texts[-2::-1]:
            journal.undo()
            assert path.read_bytes() == text
        with pytest.raises(LoratoryError, match="nothing to undo"):
            journal.undo()
        for text in texts[1:]:
            journal.redo()
            assert path.read_bytes() == text
        with pytest.raises(LoratoryError, match="nothing to redo"):
            journal.redo()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(contents, contents, contents, contents), min_size=1, max_size=4))
def test_no_bytes_of_somebody_else_are_ever_lost(rows: list[tuple[bytes | None, ...]]) -> None:
    """Whatever a batch replaces stands in the journal as it was at that moment, or was left alone."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        below = [str(number) for number in range(len(rows))]
        journal = Journal(root)
        changes = [Change(root / name, row[0], row[1]) for name, row in zip(below, rows, strict=True)]

        def check(move: Callable[[], Outcome], theirs: int) -> None:
            for name, row in zip(below, rows, strict=True):
                put(root / name, row[theirs])
            outcome = move()
            seen = {change.path.name: change for change in outcome.written}
            for name, row in zip(below, rows, strict=True):
                now = read_caption_bytes(root / name)
                if name in seen:
                    assert (seen[name].before, seen[name].after) == (row[theirs], now)
                else:
                    assert now == row[theirs]
            if outcome.batch is not None:
                assert set(journal.changes(outcome.batch.id)) == set(outcome.written)

        check(lambda: journal.commit("ours", changes), 2)
        if any(batch.count for batch in journal.batches()):
            check(journal.undo, 3)


@settings(deadline=None, max_examples=40)
@given(captions, st.sampled_from(TAGS))
def test_a_tag_added_outside_survives_commit_and_undo(text: bytes, other: str) -> None:
    with TemporaryDirectory(dir=MEMORY) as directory:
        path, journal = Path(directory) / "a.txt", Journal(Path(directory))
        ours = b", ".join(filter(None, [text, b"white background"]))
        theirs = b", ".join(filter(None, [b"from outside", text]))
        path.write_bytes(theirs)
        outcome = journal.commit("add", [Change(path, text, ours)])
        assert outcome.merged == (path,)
        assert {"white background", "from outside"} <= set(tags_of(decode(path.read_bytes()).text))
        path.write_bytes(path.read_bytes() + b", later")
        journal.undo()
        tags = tags_of(decode(path.read_bytes()).text)
        assert set(tags) == {*tags_of(text.decode()), "from outside", "later"}


@settings(deadline=None, max_examples=40)
@given(captions)
def test_undoing_an_older_batch_keeps_the_newer_ones(text: bytes) -> None:
    with TemporaryDirectory(dir=MEMORY) as directory:
        path, journal = Path(directory) / "a.txt", Journal(Path(directory))
        first = b", ".join(filter(None, [text, b"first"]))
        second = b", ".join([first, b"second"])
        path.write_bytes(text)
        older = journal.commit("first", [Change(path, text, first)]).batch
        newer = journal.commit("second", [Change(path, first, second)]).batch
        assert older is not None
        assert newer is not None
        outcome = journal.undo(older.id)
        assert set(tags_of(path.read_bytes().decode())) == {*tags_of(text.decode()), "second"}
        assert [(batch.id, batch.undone) for batch in journal.batches()] == [
            (older.id, True),
            (newer.id, False),
            (outcome.batch.id if outcome.batch else None, False),
        ]
        with pytest.raises(LoratoryError, match="undone already"):
            journal.undo(older.id)
        journal.redo()
        assert {"first", "second"} <= set(tags_of(path.read_bytes().decode()))


def test_a_commit_ends_what_can_be_redone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit("a", [made(tmp_path, "a", b"1", b"2")])
    journal.undo()
    journal.commit("b", [made(tmp_path, "b", b"1", b"2")])
    with pytest.raises(LoratoryError, match="nothing to redo"):
        journal.redo()
    assert [(batch.label, batch.undone) for batch in journal.batches()] == [
        ("a", True),
        ("undo: a", False),
        ("b", False),
    ]


def test_an_undo_of_what_is_gone_already_is_an_undo(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit("a", [made(tmp_path, "a", b"1", b"2")])
    (tmp_path / "a").write_bytes(b"1")
    outcome = journal.undo()
    assert (outcome.written, outcome.skipped) == ((), ())
    with pytest.raises(LoratoryError, match="nothing to undo"):
        journal.undo()


def test_an_undo_that_conflicts_everywhere_leaves_its_batch_in_force(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    sentence = b"A fox that sits in the snow and looks to the left of the camera."
    journal.commit("a", [made(tmp_path, "a", sentence, sentence + b" It smiles.")])
    (tmp_path / "a").write_bytes(b"Another sentence that somebody has written here in the meantime.")
    outcome = journal.undo()
    assert (outcome.batch, [path.name for path, _ in outcome.skipped]) == (None, ["a"])
    assert (tmp_path / "a").read_bytes().startswith(b"Another")
    assert not journal.batches()[0].undone


def test_nothing_to_write_makes_no_batch(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert journal.commit("a", [Change(tmp_path / "a", b"1", b"2")]) == Outcome(None, (), (), ())
    assert journal.commit("a", []).batch is None
    assert journal.batches() == []


# Recovery


@pytest.mark.parametrize("forward", [True, False])
def test_recovery_respects_what_was_done_since(tmp_path: Path, forward: bool) -> None:
    changes = [made(tmp_path, str(number), b"fox", b"fox, ours") for number in range(4)]
    journal = interrupted(tmp_path, changes, written=2)
    pending = journal.pending()
    assert pending is not None
    assert (pending.count, pending.state, pending.label) == (4, "begun", "cut short")
    with pytest.raises(LoratoryError, match="cut short") as refused:
        journal.commit("next", [Change(tmp_path / "0", b"fox, ours", b"x")])
    assert "recover" in refused.value.hint
    (tmp_path / "1").write_bytes(b"theirs, fox, ours")
    (tmp_path / "3").write_bytes(b"theirs, fox")
    outcome = journal.finish() if forward else journal.roll_back()
    ours = b"fox, ours" if forward else b"fox"
    assert [(tmp_path / str(number)).read_bytes() for number in range(4)] == [ours, b"theirs, " + ours] * 2
    assert journal.pending() is None
    assert outcome.skipped == ()
    assert outcome.batch is not None
    assert outcome.batch.state == ("done" if forward else "rolled back")
    if forward:
        journal.undo()
        texts = [(tmp_path / str(number)).read_bytes() for number in range(4)]
        assert texts == [b"fox", b"theirs, fox", b"fox", b"theirs, fox"]
    with pytest.raises(LoratoryError, match="nothing to"):
        journal.undo()


def test_recovery_removes_our_temporary_files_only(tmp_path: Path) -> None:
    journal = interrupted(
        tmp_path, [made(tmp_path, "a.txt", b"1", b"2"), made(tmp_path, "b.txt", b"1", b"2")], written=1
    )
    foreign = tmp_path / ".other.txt.0123456789ab.tmp"
    for path in (foreign, tmp_path / ".b.txt.ba9876543210.tmp"):
        path.write_bytes(b"half")
    journal.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt", foreign.name, ".loratory"}


def test_nothing_is_pending_while_another_process_is_at_work(tmp_path: Path) -> None:
    seen: list[object] = []
    Journal(tmp_path).commit(
        "a",
        [made(tmp_path, "a", b"1", b"2")],
        progress=lambda done, total: seen.append((Journal(tmp_path).pending(), done, total)),
    )
    assert seen == [(None, 1, 1)]


def test_without_anything_to_recover_that_is_said(tmp_path: Path) -> None:
    for move in (Journal(tmp_path).finish, Journal(tmp_path).roll_back):
        with pytest.raises(LoratoryError, match="nothing to recover"):
            move()


def test_an_exception_on_the_way_keeps_what_is_written_undoable(tmp_path: Path) -> None:
    changes = [made(tmp_path, str(number), b"1", b"2") for number in range(100)]

    def stop(done: int, _: int) -> None:
        if done == 70:
            raise KeyboardInterrupt

    journal = Journal(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        journal.commit("all", changes, progress=stop)
    assert journal.pending() is None
    assert journal.batches()[0].count == 70
    assert {path.name for path in tmp_path.iterdir()} == {*map(str, range(100)), ".loratory"}
    journal.undo()
    assert {change.path.read_bytes() for change in changes} == {b"1"}


@pytest.mark.parametrize("instant", ["os.fsync", "JournalLog._index"])
def test_an_interruption_before_the_first_caption_has_begun_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    journal = Journal(tmp_path)
    journal.commit("first", [made(tmp_path, "0", b"0", b"1")])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    change = made(tmp_path, "a", b"1", b"2")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"loratory.tags.journal_log.{instant}", interrupted)
        journal.commit("second", [change])
    assert journal.pending() is None and change.path.read_bytes() == b"1"
    journal.commit("third", [change])
    for known in (journal, Journal(tmp_path)):
        assert [batch.label for batch in known.batches()] == ["first", "third"]


# The disk


def test_links_modes_and_owners_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "real.txt", tmp_path / "a.txt"
    target.parent.mkdir()
    target.write_bytes(b"1")
    target.chmod(0o640)
    if os.getuid() == 0:
        os.chown(target, 4321, 1234)
    owner = (target.stat().st_uid, target.stat().st_gid)
    link.symlink_to("elsewhere/real.txt")
    journal = Journal(tmp_path)
    journal.commit("a", [Change(link, b"1", b"2")])
    assert (link.is_symlink(), target.read_bytes()) == (True, b"2")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (target.stat().st_uid, target.stat().st_gid) == owner
    journal.undo()
    assert (link.is_symlink(), target.read_bytes()) == (True, b"1")


def test_what_cannot_be_written_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    changes = [
        Change(tmp_path / "gone" / "a.txt", None, b"2"),
        Change(tmp_path / "pipe.txt", b"1", b"2"),
        Change(tmp_path / "folder.txt", b"1", b"2"),
        made(tmp_path, "good.txt", b"1", b"2"),
    ]
    outcome = Journal(tmp_path).commit("all", changes)
    assert [change.path.name for change in outcome.written] == ["good.txt"]
    reasons = {path.name: reason for path, reason in outcome.skipped}
    assert reasons["a.txt"] == "Its folder is gone."
    assert set(reasons) == {"a.txt", "pipe.txt", "folder.txt"}
    assert outcome.batch is not None
    assert Journal(tmp_path).changes(outcome.batch.id) == outcome.written


def test_a_batch_that_wrote_nothing_is_not_what_undo_means(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit("real", [made(tmp_path, "a", b"1", b"2")])
    assert journal.commit("vain", [Change(tmp_path / "gone" / "a", None, b"2")]).batch is None
    journal.undo()
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_read_only_folder_is_skipped_for_an_ordinary_user() -> None:
    with TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o777)
        (root / "locked").mkdir()
        change = made(root / "locked", "a.txt", b"1", b"2")
        (root / "locked").chmod(0o555)

        def work() -> None:
            outcome = Journal(root).commit("all", [change, made(root, "b.txt", b"1", b"2")])
            assert outcome.skipped == ((change.path, "There is no permission to write in its folder."),)
            assert (root / "b.txt").read_bytes() == b"2"

        as_ordinary_user(work)
        (root / "locked").chmod(0o755)
        assert {path.name for path in (root / "locked").iterdir()} == {"a.txt"}


def test_a_dataset_that_is_all_read_only_can_be_read_but_not_changed() -> None:
    with TemporaryDirectory() as directory:
        root = Path(directory)
        change = made(root, "a.txt", b"1", b"2")
        root.chmod(0o555)

        def work() -> None:
            assert Journal(root).batches() == []
            assert Journal(root).pending() is None
            with pytest.raises(LoratoryError, match=r"cannot be written; nothing was changed\. There is no permission"):
                Journal(root).commit("a", [change])

        as_ordinary_user(work)
        root.chmod(0o755)
        Journal(root).commit("a", [change])
        for path in (root / ".loratory", root):
            path.chmod(0o555)

        def with_history() -> None:
            assert [batch.label for batch in Journal(root).batches()] == ["a"]
            with pytest.raises(LoratoryError, match="nothing was changed"):
                Journal(root).undo()

        as_ordinary_user(with_history)
        for path in (root, root / ".loratory"):
            path.chmod(0o755)


def test_a_disk_that_fills_up_stops_the_batch_but_not_its_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [made(tmp_path, f"{number:03}", b"1", b"2") for number in range(200)]
    write, left = os.write, 99

    def filling(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", filling)
    outcome = Journal(tmp_path).commit("all", changes)
    assert left == -1, "a full disk was tried again"
    assert len(outcome.written) == 99
    assert {reason for _, reason in outcome.skipped} == {DISK_FULL}
    assert [change.path.read_bytes() for change in changes] == [b"2"] * 99 + [b"1"] * 101
    assert len(list(tmp_path.iterdir())) == 201
    left = 1000
    Journal(tmp_path).undo()
    assert {change.path.read_bytes() for change in changes} == {b"1"}


def test_a_full_disk_leaves_a_pending_batch_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [made(tmp_path, str(number), b"1", b"2") for number in range(3)]
    journal = interrupted(tmp_path, changes, written=1)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(LoratoryError, match="disk is full"):
            journal.finish()
    assert journal.pending() is not None
    journal.finish()
    assert {change.path.read_bytes() for change in changes} == {b"2"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert journal.undo().batch is None
    assert not journal.batches()[0].undone
    journal.undo()
    assert {change.path.read_bytes() for change in changes} == {b"1"}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room")
def test_the_line_that_ends_a_batch_has_its_room_before_the_batch_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_bytes = 0

    def reserve(descriptor: int, offset: int, length: int) -> None:
        nonlocal room_bytes
        if room_bytes and offset + length > room_bytes:
            raise OSError(28, "No space left on device")
        room_bytes = offset + length

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    outcome = Journal(tmp_path).commit("a", [made(tmp_path, "a", b"1", b"2")])
    assert outcome.batch is not None
    assert outcome.batch.state == "done"
    assert room_bytes > 0


@pytest.mark.slow
def test_a_really_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        root = tmp_path / "set"
        root.mkdir()
        changes = [made(root, str(number), b"1", b"x" * 4096) for number in range(20)]
        ballast = root / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(LoratoryError, match=r"nothing was changed\. The disk is full"):
            Journal(root).commit("none", changes)
        assert Journal(root).batches() == []
        # Room for the journal's own lines and a few of the captions.
        os.truncate(ballast, ballast.stat().st_size - 40 * 4096)
        outcome = Journal(root).commit("some", changes)
        assert 0 < len(outcome.written) < 20
        assert {reason for _, reason in outcome.skipped} == {DISK_FULL}
        assert Journal(root).pending() is None
        assert sum(change.path.read_bytes() == change.after for change in changes) == len(outcome.written)
        os.truncate(ballast, 0)
        Journal(root).undo()
        assert {change.path.read_bytes() for change in changes} == {b"1"}
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_data_is_on_the_disk_before_a_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut asks for, which no test can stage: journal, then data, then names."""
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace
    log = tmp_path / ".loratory" / "journal.jsonl"

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def checking(source: Path, target: Path) -> None:
        assert log.stat().st_ino in synced
        assert source.stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    changes = [made(tmp_path, str(number), b"1", b"2") for number in range(70)]
    assert len(Journal(tmp_path).commit("all", changes).written) == 70
    assert tmp_path.stat().st_ino in synced


def test_a_file_changed_at_the_last_moment_is_left_alone(tmp_path: Path) -> None:
    changes = [made(tmp_path, str(number), b"1", b"2") for number in range(3)]
    for index, reason in write_changes(changes):
        if index == 0:
            (tmp_path / "1").write_bytes(b"theirs")
        assert (reason is None) == (index != 1)
    assert [change.path.read_bytes() for change in changes] == [b"2", b"theirs", b"2"]


def test_a_name_of_many_emoji_has_room_for_its_temporary_file(tmp_path: Path) -> None:
    change = made(tmp_path, "🦊" * 62 + ".txt", b"1", b"2")
    assert Journal(tmp_path).commit("a", [change]).skipped == ()
    temporary = atomic.temporary_beside(change.path)
    temporary.touch()
    assert atomic.leftovers_of(tmp_path, [change.path.name]) == [temporary]


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../x.txt", "{root}", "relative.txt"])
def test_paths_outside_are_refused_before_anything_is_written(tmp_path: Path, path: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    good = made(root, "a", b"1", b"2")
    with pytest.raises(LoratoryError, match="outside"):
        Journal(root).commit("a", [good, Change(Path(path.format(root=root)), None, b"x")])
    assert good.path.read_bytes() == b"1"


def test_a_root_behind_a_link_holds_the_same_captions(tmp_path: Path) -> None:
    root, link = tmp_path / "set", tmp_path / "link"
    root.mkdir()
    link.symlink_to(root)
    Journal(root).commit("a", [Change(link / "a", None, b"1")])
    Journal(link).commit("b", [Change(root / "a", b"1", b"2")])
    assert Journal(root).undo().skipped == ()
    assert (root / "a").read_bytes() == b"1"


# The lock


def test_two_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"start")
    pids: list[int] = []
    for name in ("x", "y"):
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(20):
                    text = (tmp_path / "a").read_bytes()
                    Journal(tmp_path).commit(name, [Change(tmp_path / "a", text, text + f", {name}{number}".encode())])
            except BaseException:
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    tags = tags_of((tmp_path / "a").read_text())
    assert sorted(tags) == sorted(["start", *(f"{name}{number}" for name in "xy" for number in range(20))])
    assert len(Journal(tmp_path).batches()) == 40


def test_threads_of_one_program_take_turns(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    changes = [[made(tmp_path, f"{thread}-{number}", b"1", b"2") for number in range(10)] for thread in range(4)]

    def work(mine: list[Change]) -> None:
        for change in mine:
            journal.commit("one", [change])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in changes]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert journal.pending() is None
    assert [batch.id for batch in journal.batches()] == list(range(1, 41))


def test_waiting_for_a_lock_ends_with_the_name_of_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_lock, "WAIT_S", 0.05)
    (tmp_path / ".loratory").mkdir()
    change = made(tmp_path, "a", b"1", b"2")
    with (
        journal_lock.holding(tmp_path / ".loratory" / "lock"),
        pytest.raises(LoratoryError, match=f"Process {os.getpid()} "),
    ):
        Journal(tmp_path).commit("a", [change])
    assert change.path.read_bytes() == b"1"


# The file


def three_batches(root: Path) -> Path:
    for name in ("a", "b", "c"):
        Journal(root).commit(name, [made(root, name, b"1", "ä2".encode())])
    return root / ".loratory" / "journal.jsonl"


def test_a_last_line_torn_anywhere_is_as_if_it_was_never_begun(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    last_begun = len(whole) - len(lines[-1]) - len(lines[-2])
    for length in range(last_begun, len(whole) - len(lines[-1])):
        for tail in (b"", b"\0" * 50):
            log.write_bytes(whole[:length] + tail)
            journal = Journal(tmp_path)
            assert [batch.label for batch in journal.batches()] == ["a", "b"]
            assert journal.damaged_lines() == 0
            assert journal.pending() is None
    for length in (last_begun + 1, last_begun + 40):
        log.write_bytes(whole[:length] + b"\0" * 9)
        journal = Journal(tmp_path)
        put(tmp_path / "d", b"1")
        batch = journal.commit("d", [Change(tmp_path / "d", b"1", b"2")]).batch
        assert batch is not None
        assert [known.label for known in Journal(tmp_path).batches()] == ["a", "b", "d"]
        assert Journal(tmp_path).damaged_lines() == 0
        journal.undo()


def test_a_line_that_only_lost_its_newline_counts(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    log.write_bytes(log.read_bytes()[:-1])
    Journal(tmp_path).commit("d", [made(tmp_path, "d", b"1", b"2")])
    assert [batch.state for batch in Journal(tmp_path).batches()] == ["done"] * 4


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_damage_in_the_middle_is_counted_and_costs_no_more_than_its_lines(seed: int) -> None:
    rng = random.Random(seed)
    with TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        log = three_batches(root)
        lines = log.read_bytes().splitlines(keepends=True)
        hit = rng.randrange(len(lines) - 1)
        damaged = bytearray(lines[hit][:-1])
        for _ in range(rng.randint(1, 3)):
            # Not the version: what claims to be a newer one is left alone as a whole.
            damaged[rng.randrange(6, len(damaged))] = rng.choice([value for value in range(256) if value != 10])
        if bytes(damaged) == lines[hit][:-1]:
            return
        lines[hit] = bytes(damaged) + b"\n"
        log.write_bytes(b"".join(lines))
        journal = Journal(root)
        ids = {batch.label: batch.id for batch in journal.batches()}
        assert set("abc") - set(ids) == ({"abc"[hit // 2]} if hit % 2 == 0 else set())
        # The line that ended a batch whose beginning is lost cannot be placed either.
        assert journal.damaged_lines() == (2 if hit % 2 == 0 else 1)
        assert journal.pending() is None
        assert {batch.state for batch in journal.batches()} == {"done"}
        batch = journal.commit("d", [made(root, "d", b"1", b"2")]).batch
        assert batch is not None
        assert batch.id > 3
        assert journal.undo(ids["c"]).written if "c" in ids else True


def test_an_id_that_only_damaged_lines_knew_is_not_used_again(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:-2], b"torn\n", b"torn\n"]))
    batch = Journal(tmp_path).commit("d", [made(tmp_path, "d", b"1", b"2")]).batch
    assert batch is not None
    assert batch.id > 3


def test_a_newer_version_is_left_untouched(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    log.write_bytes(log.read_bytes() + b'{"v":2,"kind":"begun","id":4}\n')
    before = log.read_bytes()
    journal = Journal(tmp_path)
    for move in (journal.batches, journal.pending, journal.undo, journal.finish, lambda: journal.commit("x", [])):
        with pytest.raises(LoratoryError, match=r"newer version of Loratory \(format 2\)"):
            move()
    assert log.read_bytes() == before


def test_a_journal_that_names_files_outside_is_not_obeyed(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    body = {"kind": "begun", "id": 4, "time": 0.0, "label": "evil", "undoes": None, "count": 1}
    line = encode_line({**body, "changes": [["../outside", None, "x"]]})
    log.write_bytes(log.read_bytes() + line)
    with pytest.raises(LoratoryError, match="outside"):
        Journal(tmp_path).finish()
    assert not (tmp_path.parent / "outside").exists()


def test_a_journal_with_nonsense_in_it_is_not_obeyed(tmp_path: Path) -> None:
    log = three_batches(tmp_path)
    body = {"kind": "begun", "id": 4, "time": 0.0, "label": "x", "undoes": None, "count": 1, "changes": []}
    strange = ({"undoes": 4}, {"undoes": "x"}, {"id": None}, {"kind": "other"}, {"kind": "done", "id": 9})
    log.write_bytes(log.read_bytes() + b"".join(encode_line({**body, **one}) for one in strange) + b"[]\n{}\n\n")
    assert len(Journal(tmp_path).batches()) == 3
    assert Journal(tmp_path).damaged_lines() == len(strange) + 3
    Journal(tmp_path).undo()
    for number, rows in enumerate(
        ([[1]], [["a", 1, {"b64": 3}]], [["a", {}, None]], [["a\0", None, None]], 5), start=50
    ):
        log.write_bytes(log.read_bytes() + encode_line({**body, "id": number, "changes": rows}))
        with pytest.raises(LoratoryError, match=r"damaged|outside"):
            Journal(tmp_path).changes(number)


def test_an_open_journal_sees_what_others_append_and_a_new_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.batches() == []
    three_batches(tmp_path)
    assert [batch.label for batch in journal.batches()] == ["a", "b", "c"]
    log, other = tmp_path / ".loratory" / "journal.jsonl", tmp_path / "other"
    other.write_bytes(log.read_bytes().replace(b"\n", b"\n\n"))
    other.replace(log)
    assert (journal.damaged_lines(), len(journal.batches())) == (6, 3)
    log.unlink()
    assert journal.batches() == []
    Journal(tmp_path).commit("new", [made(tmp_path, "n", b"1", b"2")])
    assert [batch.label for batch in journal.batches()] == ["new"]


def test_hostile_labels_come_back_exactly(tmp_path: Path) -> None:
    labels = ['x","changes":[', "[/b]\x1b[31m\n\u2028 \udcff", '{"v":9}', ""]
    for number, label in enumerate(labels):
        Journal(tmp_path).commit(label, [made(tmp_path, str(number), b"1", b"2")])
    assert [batch.label for batch in Journal(tmp_path).batches()] == labels


def test_a_long_history_is_listed_without_reading_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of characters of captions are checked, not parsed; what was indexed is not even read again."""
    (tmp_path / ".loratory").mkdir()
    rows = [[f"{number}.txt", "solo, fox, " * 50, "solo, " * 50] for number in range(100)]
    with (tmp_path / ".loratory" / "journal.jsonl").open("wb") as file:
        for number in range(1, 81):
            head = {"kind": "begun", "id": number, "time": 0.0, "label": "x", "undoes": None, "count": 100}
            file.write(encode_line({**head, "changes": rows}))
            file.write(encode_line({"kind": "done", "id": number, "skipped": []}))
    parsed_bytes, loads = 0, json.loads

    def counting(text: bytes) -> object:
        nonlocal parsed_bytes
        parsed_bytes += len(text)
        return loads(text)

    monkeypatch.setattr(json, "loads", counting)
    journal = Journal(tmp_path)
    assert len(journal.batches()) == 80
    assert (tmp_path / ".loratory" / "journal.jsonl").stat().st_size > 6_000_000
    assert 0 < parsed_bytes < 40_000
    parsed_bytes = 0
    assert len(journal.batches()) == 80
    assert parsed_bytes == 0
    assert len(journal.changes(7)) == 100
