"""Renaming folders of a dataset: all or nothing, undoable, and followed by everything that names their pictures."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loratory.config.schema import CaptionSettings, DatasetSettings
from loratory.dataset.renaming import recover_renaming, rename_folders, renamings, undo_renaming
from loratory.dataset.scan import scan_dataset
from loratory.editing.session import Session
from loratory.editing.settings import read_marks
from loratory.errors import LoratoryError
from loratory.imaging.recipe import Recipe
from loratory.imaging.recipe_toml import Book, read_recipes, render
from loratory.preparation.build import preparing
from loratory.preparation.desk import Desk
from loratory.tags import journal_lock
from loratory.tags.journal import Change, Journal
from loratory.tags.rename_log import RenameLog, follow

MEMORY = Path("/dev/shm")
SWAP = [("10_a", "12_a"), ("12_a", "10_a"), ("5_b", "7_b")]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a disk: what a kill leaves does not depend on the disk, a hundred fsyncs do."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


def make_set(root: Path, *names: str) -> None:
    """Concept folders, each with a picture, its caption and a file that tells which folder it was."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "p.png").write_bytes(b"x")
        (root / name / "p.txt").write_text("fox")
        (root / name / "was").write_bytes(os.fsencode(name))


def remember(root: Path, *names: str) -> None:
    """State files that name the picture of each folder, and its original."""
    state = root / ".loratory"
    (state / "originals" / ".loratory").mkdir(parents=True)
    for name in names:
        (state / "originals" / name).mkdir()
        (state / "originals" / name / "p.png").write_text(name)
    marks = {"v": 1, "reviewed": [f"{n}/p.png" for n in names], "answers": {"hat": {f"{n}/p.png": True for n in names}}}
    (state / "marks.json").write_text(json.dumps(marks))
    lines = [
        {
            "v": 1,
            "folder": ".loratory/originals",
            "name": f"{name}/p.png",
            "done": {"text": f"{name}/p.png"},
            "outputs": [[f"{name}/p.png", "digest", [1, 2, 3], []]],
            "captions": {f"{name}/p.txt": [f"{name}/p.png", None, False]},
        }
        for name in names
    ]
    lines.append({**lines[0], "folder": "Raw", "name": f"{names[0]}/p.png"})
    carried = {f"{names[0]}/p.txt": ["fox", None, False]}
    expected = {
        "label": "prepare",
        "later_than": 3,
        "carried": [[[".loratory/originals", f"{names[0]}/p.png"], carried], [["Raw", "a/p.png"], carried]],
        "after": {f"{name}/p.txt": name for name in names},
    }
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"expects": None}, {"expects": expected}])
    (state / "prepared.jsonl").write_text(text + "torn {\n")
    book = Book(recipes={f"{name}/p.png": Recipe(tags=(name,)) for name in names})
    (state / "originals" / "recipes.toml").write_text(render(book))
    history = {"v": 1, "id": "x", "time": 1, "label": "", "changes": {f"{name}/p.png": [{}, {}] for name in names}}
    (state / "originals" / ".loratory" / "recipes-history.jsonl").write_text(json.dumps(history) + "\n")


def told(root: Path) -> dict[str, Any]:
    """What the state files name, and where the folders are: each "new name: name that it had"."""
    state = root / ".loratory"
    marks = json.loads((state / "marks.json").read_text())
    lines = [json.loads(line) for line in (state / "prepared.jsonl").read_text().splitlines() if "torn" not in line]
    (expected,) = (line["expects"] for line in lines if line.get("expects"))
    lines = [line for line in lines if "expects" not in line]
    history = json.loads((state / "originals" / ".loratory" / "recipes-history.jsonl").read_text())
    recipes = read_recipes(state / "originals" / "recipes.toml").recipes
    return {
        "folders": {folder.name: (folder / "was").read_text() for folder in root.iterdir() if folder.name[0] != "."},
        "originals": {
            folder.name: (folder / "p.png").read_text()
            for folder in (state / "originals").iterdir()
            if folder.is_dir() and folder.name[0] != "."
        },
        "recipes": {name.partition("/")[0]: recipe.tags[0] for name, recipe in recipes.items()},
        "reviewed": sorted(marks["reviewed"]),
        "answers": sorted(marks["answers"]["hat"]),
        "names": [line["name"] for line in lines],
        "outputs": [line["outputs"][0][0] for line in lines],
        "captions": [next(iter(line["captions"].items())) for line in lines],
        "history": sorted(history["changes"]),
        "expected": expected["after"],
        "carried": expected["carried"],
    }


def test_folders_get_their_new_names(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a", "10_b")
    done = rename_folders(tmp_path, [("10_a", "12_a"), ("10_b", "10_b")], "balance")
    assert done is not None and done.state == "done" and done.moves == (("10_a", "12_a"),)
    assert (tmp_path / "12_a/was").read_text() == "10_a"
    assert not (tmp_path / "10_a").exists()
    assert [(each.label, each.state) for each in renamings(tmp_path)] == [("balance", "done")]


def test_nothing_to_rename_writes_nothing(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    assert rename_folders(tmp_path, [("10_a", "10_a")], "x") is None
    assert not (tmp_path / ".loratory").exists()
    assert recover_renaming(tmp_path) is None
    with pytest.raises(LoratoryError, match="nothing to undo"):
        undo_renaming(tmp_path)
    assert not (tmp_path / ".loratory").exists()


def test_folders_swap_their_names_and_everything_follows(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a", "12_a", "5_b")
    remember(tmp_path, "10_a", "12_a", "5_b")
    before = told(tmp_path)
    rename_folders(tmp_path, SWAP, "swap")
    after = told(tmp_path)
    assert after["folders"] == after["originals"] == after["recipes"] == {"12_a": "10_a", "10_a": "12_a", "7_b": "5_b"}
    assert after["reviewed"] == after["answers"] == after["history"] == ["10_a/p.png", "12_a/p.png", "7_b/p.png"]
    # Originals elsewhere keep their names; what was made of them does not.
    assert after["names"] == ["12_a/p.png", "10_a/p.png", "7_b/p.png", "10_a/p.png"]
    assert after["outputs"] == ["12_a/p.png", "10_a/p.png", "7_b/p.png", "12_a/p.png"]
    # The text of a caption is nobody's path.
    assert after["captions"][2] == ("7_b/p.txt", ["5_b/p.png", None, False])
    # What a process that died was about to do is found out by the names that there are now.
    assert after["expected"] == {"12_a/p.txt": "10_a", "10_a/p.txt": "12_a", "7_b/p.txt": "5_b"}
    carried = {"12_a/p.txt": ["fox", None, False]}
    assert after["carried"] == [[[".loratory/originals", "12_a/p.png"], carried], [["Raw", "a/p.png"], carried]]
    assert b"torn {\n" in (tmp_path / ".loratory/prepared.jsonl").read_bytes()
    undo_renaming(tmp_path)
    assert told(tmp_path) == before
    with pytest.raises(LoratoryError, match="left to undo"):
        undo_renaming(tmp_path)


def test_a_chain_of_names(tmp_path: Path) -> None:
    make_set(tmp_path, "1_a", "2_a", "3_a")
    rename_folders(tmp_path, [("1_a", "2_a"), ("2_a", "3_a"), ("3_a", "4_a")], "up")
    assert [(tmp_path / name / "was").read_text() for name in ("2_a", "3_a", "4_a")] == ["1_a", "2_a", "3_a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".loratory", "2_a", "3_a", "4_a"]


@pytest.mark.parametrize(
    ("moves", "why"),
    [
        ([("10_a", "12_a"), ("10_b", "11_taken")], "exists already"),
        ([("10_a", "12_a"), ("10_b", "12_a")], "Two folders would be called 12_a"),
        ([("10_a", "12_a"), ("gone", "1_gone")], "is not a folder"),
        ([("10_a", "deeper/12_a")], "cannot be moved"),
        ([("10_a", "../12_a")], "cannot be moved"),
        ([("10_a", "12_a"), ("10_b", "13_originals")], "exists already"),
    ],
)
def test_what_cannot_be_renamed_is_refused_before_anything_is_touched(
    tmp_path: Path, moves: list[tuple[str, str]], why: str
) -> None:
    make_set(tmp_path, "10_a", "10_b", "11_taken")
    (tmp_path / ".loratory/originals/13_originals").mkdir(parents=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(LoratoryError, match=why):
        rename_folders(tmp_path, moves, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert renamings(tmp_path) == []


def test_recipes_that_cannot_be_read_keep_folders_as_they_are(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    (tmp_path / ".loratory/originals").mkdir(parents=True)
    (tmp_path / ".loratory/originals/recipes.toml").write_text("not [toml")
    with pytest.raises(LoratoryError, match=r"recipes\.toml"):
        rename_folders(tmp_path, [("10_a", "12_a")], "x")
    assert (tmp_path / "10_a").is_dir() and renamings(tmp_path) == []


def test_a_disk_that_refuses_takes_everything_back(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a", "12_a", "1_b")
    with pytest.raises(LoratoryError, match="cannot be renamed"):
        rename_folders(tmp_path, [("10_a", "12_a"), ("12_a", "10_a"), ("1_b", "2_" + "b" * 300)], "x")
    assert {path.name: (path / "was").read_text() for path in tmp_path.iterdir() if path.name[0] != "."} == {
        name: name for name in ("10_a", "12_a", "1_b")
    }
    assert [each.state for each in renamings(tmp_path)] == ["rolled back"]
    assert rename_folders(tmp_path, [("1_b", "2_b")], "y") is not None


def test_a_batch_of_captions_that_was_cut_short_comes_first(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    pid = os.fork()
    if pid == 0:
        change = Change(tmp_path / "10_a/p.txt", b"fox", b"dog")
        Journal(tmp_path).commit("cut", [change], progress=lambda _done, _all: os._exit(0))
        os._exit(1)
    os.waitpid(pid, 0)
    with pytest.raises(LoratoryError, match="cut short"):
        rename_folders(tmp_path, [("10_a", "12_a")], "x")
    Journal(tmp_path).finish()
    assert rename_folders(tmp_path, [("10_a", "12_a")], "x") is not None


def test_whoever_changes_captions_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path, "10_a")
    (tmp_path / ".loratory").mkdir()
    monkeypatch.setattr(journal_lock, "WAIT_S", 0.0)
    with (
        journal_lock.holding(tmp_path / ".loratory/lock"),
        pytest.raises(LoratoryError, match="has been changing captions"),
    ):
        rename_folders(tmp_path, [("10_a", "12_a")], "x")
    assert (tmp_path / "10_a").is_dir()


def edit(root: Path, folder: str, after: str) -> int:
    path = root / folder / "p.txt"
    outcome = Journal(root).commit(f"{folder}: {after}", [Change(path, path.read_bytes(), after.encode())])
    assert outcome.batch is not None
    return outcome.batch.id


def test_older_edits_of_captions_are_undone_where_the_folders_are_now(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a", "12_a")
    first = edit(tmp_path, "10_a", "fox, one")
    rename_folders(tmp_path, [("10_a", "12_a"), ("12_a", "10_a")], "swap")
    second = edit(tmp_path, "10_a", "fox, two")  # the other folder
    rename_folders(tmp_path, [("12_a", "3_a")], "on")
    journal = Journal(tmp_path)
    assert [change.path for change in journal.changes(first)] == [tmp_path / "3_a/p.txt"]
    assert [change.path for change in journal.changes(second)] == [tmp_path / "10_a/p.txt"]
    assert journal.undo(first).skipped == ()
    assert (tmp_path / "3_a/p.txt").read_text() == "fox"
    assert (tmp_path / "10_a/p.txt").read_text() == "fox, two"
    undo_renaming(tmp_path)
    journal.redo()
    assert (tmp_path / "12_a/p.txt").read_text() == "fox, one"
    journal.undo(second)
    assert (tmp_path / "10_a/p.txt").read_text() == "fox"


def test_a_session_sees_its_marks_in_the_renamed_folder(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    session = Session(tmp_path)
    session.review(session.items, reviewed=True)
    session.save_marks()
    rename_folders(session.root, [("10_a", "12_a")], "x")
    assert read_marks(tmp_path).reviewed == {"12_a/p.png"}
    assert [item.reviewed for item in Session(tmp_path).items] == [True]


def test_marks_of_an_open_session_follow(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a", "12_a", "5_b")
    session = Session(tmp_path)
    session.review([item for item in session.items if item.folder == "10_a"], reviewed=True)
    session.marks.answers["hat"] = {"5_b/p.png": True}
    session.save_marks()
    session.review([item for item in session.items if item.folder == "5_b"], reviewed=True)
    rename_folders(session.root, SWAP, "by another process, or by this one")
    session.save_marks()  # before this session has looked
    assert read_marks(tmp_path).reviewed == {"12_a/p.png", "7_b/p.png"}
    session.rescan()
    assert [(item.name, item.reviewed) for item in session.items] == [
        ("10_a/p.png", False),
        ("12_a/p.png", True),
        ("7_b/p.png", True),
    ]
    assert session.marks.answers == {"hat": {"7_b/p.png": True}}
    undo_renaming(session.root)
    session.rescan()
    session.save_marks()
    assert read_marks(tmp_path).reviewed == {"10_a/p.png", "5_b/p.png"}
    assert read_marks(tmp_path).answers == {"hat": {"5_b/p.png": True}}


def test_pictures_that_are_being_prepared_are_not_renamed_away(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    with preparing(tmp_path), pytest.raises(LoratoryError, match="being prepared"):
        rename_folders(tmp_path, [("10_a", "12_a")], "x")
    assert (tmp_path / "10_a").is_dir()
    assert rename_folders(tmp_path, [("10_a", "12_a")], "x") is not None


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    old, new = os.fsdecode(b"10_\xff[b]\n"), os.fsdecode(b"12_\xff[b]\n")
    try:
        make_set(tmp_path, old)
    except OSError:
        pytest.skip("this disk refuses such names")
    rename_folders(tmp_path, [(old, new)], "x")
    undo_renaming(tmp_path)
    assert (tmp_path / old / "was").exists()


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that dies before its `call`-th change of the disk; whether it died."""
    pid = os.fork()
    if pid == 0:
        left = [call]

        def dying(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in ("os.rename", "os.remove") or writes:
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        sys.addaudithook(dying)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 9


def failing_at(call: int, *, on: bool) -> Callable[[], int]:
    """Has the `call`-th change of the disk fail, and with `on` every later one; returns how to end that, which tells
    the number of calls."""
    names = ("rename", "replace", "unlink", "open", "write", "fsync", "ftruncate", "chmod")
    real = {name: getattr(os, name) for name in names}
    count = [0]

    def counted(name: str) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == call or (on and count[0] > call):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real[name](*arguments, **options)

        return instead

    def end() -> int:
        for name in names:
            setattr(os, name, real[name])
        return count[0]

    for name in names:
        setattr(os, name, counted(name))
    return end


def fresh(root: Path, number: int) -> Path:
    folder = root / str(number)
    make_set(folder, "10_a", "12_a", "5_b")
    remember(folder, "10_a", "12_a", "5_b")
    return folder


def test_a_process_may_die_at_any_instant(memory: Path) -> None:
    before = told(fresh(memory, 0))
    rename_folders(memory / "0", SWAP, "swap")
    after = told(memory / "0")
    completed, call, died = 0, 0, True
    while died:
        call += 1
        root = fresh(memory, call)
        died = killed_at(call, lambda root=root: rename_folders(root, SWAP, "swap"))
        recovered = recover_renaming(root)
        completed += recovered is not None
        found = told(root)
        assert found == (after if recovered or not died else before)
        assert not [path for path in root.rglob("*") if "renamed" in path.name or "loratory-" in path.name]
        assert recover_renaming(root) is None
    assert completed >= 10


@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
def test_the_disk_may_fail_at_any_instant(memory: Path, on: bool) -> None:
    before = told(fresh(memory, 0))
    rename_folders(memory / "0", SWAP, "swap")
    after = told(memory / "0")
    number, calls, said = 0, 0, set[str]()
    while calls >= number:
        number += 1
        root, error = fresh(memory, number), None
        end = failing_at(number, on=on)
        try:
            rename_folders(root, SWAP, "swap")
        except LoratoryError as caught:
            error = caught
        finally:
            calls = end()
        # What was said is what is found, at once or when the folder is next opened.
        promised = before if error is not None and "no folder was renamed" in error.message else after
        said.add("" if error is None else error.message.rpartition("; ")[2])
        recover_renaming(root)
        assert told(root) == promised, (number, error)
        assert not [path for path in root.rglob("*") if "renamed" in path.name or "loratory-" in path.name]
    assert said >= {"no folder was renamed.", "it is completed when the folder is next opened."}


@pytest.mark.slow
def test_so_may_the_process_that_completes_it(memory: Path) -> None:
    rename_folders(fresh(memory, 0), SWAP, "swap")
    after, number, twice = told(memory / "0"), 0, 0
    for call in range(1, 60):
        for second in (1, 2, 4, 7, 11, 16, 60):
            number += 1
            root = fresh(memory, number)
            if not killed_at(call, lambda root=root: rename_folders(root, SWAP, "swap")):
                assert twice > 30
                return
            if RenameLog(root / ".loratory/renames.jsonl").pending() is None:
                break
            died = killed_at(second, lambda root=root: recover_renaming(root))
            twice += died
            recover_renaming(root)
            assert told(root) == after
            if not died:
                break


def test_opening_a_set_completes_what_was_cut_short(memory: Path) -> None:
    root = fresh(memory, 0)
    call = 1
    while RenameLog(root / ".loratory/renames.jsonl").pending() is None:
        assert killed_at(call, lambda: rename_folders(root, SWAP, "swap"))
        call += 1
    with pytest.raises(LoratoryError, match="cut short"):
        Journal(root).commit("x", [Change(root / "5_b/p.txt", b"fox", b"dog")])
    session = Session(root)
    assert session.completed_renaming is not None and session.completed_renaming.state == "done"
    assert (root / "7_b").is_dir()
    assert Session(root).completed_renaming is None


def test_training_completes_what_was_cut_short(memory: Path) -> None:
    root = fresh(memory, 0)
    call = 1
    while not [path for path in root.iterdir() if path.name.startswith(".") and path.name != ".loratory"]:
        assert killed_at(call, lambda: rename_folders(root, SWAP, "swap"))
        call += 1
    for picture in root.rglob("p.png"):
        Image.new("RGB", (64, 64)).save(picture)
    dataset = DatasetSettings.model_validate({"train_data_dir": root})
    scanned = scan_dataset(dataset, CaptionSettings())
    assert {folder.path.name for folder in scanned.folders} >= {new for _, new in SWAP}


def test_a_torn_line_is_no_line(tmp_path: Path) -> None:
    make_set(tmp_path, "10_a")
    rename_folders(tmp_path, [("10_a", "12_a")], "x")
    log = tmp_path / ".loratory/renames.jsonl"
    log.write_bytes(log.read_bytes() + b'{"v":1,"crc":"00000000","kind":"begun"')
    assert recover_renaming(tmp_path) is None
    undo_renaming(tmp_path)
    assert [each.state for each in renamings(tmp_path)] == ["done", "done"]
    assert renamings(tmp_path)[0].undone


parts = st.sampled_from(["a", "b", "c"])
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


@given(paths, st.sets(parts).map(lambda olds: {old: f"new {old}" for old in olds}))
def test_following_renames_the_first_part_only_and_can_be_turned_round(path: str, moves: dict[str, str]) -> None:
    there = follow(path, moves)
    head, _, rest = path.partition("/")
    assert there.partition("/")[2] == rest
    assert there.partition("/")[0] == moves.get(head, head)
    assert follow(there, {new: old for old, new in moves.items()}) == path


def test_what_was_made_of_adopted_pictures_stays_made_and_can_be_taken_back(tmp_path: Path) -> None:
    for name, colour in (("10_a", "red"), ("12_a", "blue")):
        (tmp_path / name).mkdir()
        picture = Image.new("RGB", (48, 32), colour)
        picture.putpixel((0, 0), (9, 9, 9))
        picture.save(tmp_path / name / "p.png")

    def pictures() -> list[bytes]:
        return [(tmp_path / name / "p.png").read_bytes() for name in ("10_a", "12_a")]

    originals = pictures()
    desk = Desk(tmp_path)
    desk.change("flip", {entry.name: Recipe(flip=True) for entry in desk.entries})
    desk.build(None, progress=lambda _done, _all, _name: None, stop=Event())
    made = pictures()
    assert made != originals
    rename_folders(tmp_path, [("10_a", "12_a"), ("12_a", "10_a")], "swap")
    desk = Desk(tmp_path)
    assert [entry.state for entry in desk.entries] == ["made", "made"]
    assert desk.build(None, progress=lambda _done, _all, _name: None, stop=Event()).made == []
    assert pictures() == made[::-1]
    desk.undo()
    desk.build(None, progress=lambda _done, _all, _name: None, stop=Event())
    assert pictures() == originals[::-1]
