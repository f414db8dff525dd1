"""Building a training folder from originals: what comes out, that it is always the same, and that nothing is lost."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from loratory.errors import LoratoryError
from loratory.imaging.recipe import Recipe
from loratory.preparation import captions as captions_module
from loratory.preparation import shelf as shelf_module
from loratory.preparation.build import BY_HAND, FOREIGN
from loratory.preparation.desk import Desk, Options
from loratory.tags.files import read_caption_bytes
from loratory.tags.journal import Journal
from preparation_sets import SIDE, change, contents, draw, make_raw, open_desk, stamps


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "Raw")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return tmp_path / "train"


def test_pictures_become_opaque_files_with_their_captions_and_the_originals_stay(raw: Path, train: Path) -> None:
    before = contents(raw)
    report = open_desk(raw, train).build()
    folder = train / "10_fox"
    assert {path.name for path in folder.glob("*.png")} == {f"p{number:02}.png" for number in range(6)}
    assert all(Image.open(path).mode == "RGB" for path in folder.glob("*.png"))
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == {
        "p00.txt": "fox, mammal, picture 0\n",
        "p01.txt": "fox, white background",
        "p03.txt": "fox, mammal, picture 3, black background\n",
        "p05.txt": "fox, blue background",
    }
    assert len(report.made) == 6
    assert not report.failed
    now = contents(raw)
    assert {name: now[name] for name in before} == before
    # Nothing is to be done to this one.
    assert (folder / "p00.png").read_bytes() == before["p00.png"]


def test_a_second_run_writes_nothing_and_another_folder_gets_the_same_bytes(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    before = stamps(train) | stamps(raw)
    report = Desk(raw, train).build()
    assert (report.made, report.unchanged) == ([], 6)
    assert stamps(train) | stamps(raw) == before
    open_desk(raw, train.with_name("other")).build()
    assert contents(train.with_name("other")) == contents(train)


def test_the_same_bytes_come_out_whatever_the_number_of_processes(raw: Path, train: Path) -> None:
    make_raw(raw, 12)
    open_desk(raw, train).build(options=Options(workers=1))
    other = train.with_name("other")
    open_desk(raw, other).build(options=Options(workers=3))
    assert contents(other) == contents(train)


def test_colours_take_turns_and_pictures_that_come_later_change_none(raw: Path, train: Path) -> None:
    open_desk(raw, train, backgrounds=("white", "black")).build()
    before = contents(train)
    draw(raw / "a.png", 70, transparent=True)
    draw(raw / "p04b.png", 71, transparent=True)
    desk = Desk(raw, train)
    report = desk.build()
    assert {path.name for path in report.made} == {"a.png", "p04b.png"}
    now = contents(train)
    assert {name: now[name] for name in before} == before
    # White was behind two of three, black behind one.
    assert desk.book.recipe_of("a.png").background == "black"
    assert desk.book.recipe_of("p04b.png").background == "white"
    assert Image.open(train / "10_fox" / "a.png").getpixel((SIDE - 1, SIDE - 1)) == (0, 0, 0)


def test_a_changed_recipe_builds_that_picture_anew_and_no_other(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    before = stamps(train / "10_fox")
    desk = Desk(raw, train)
    change(desk, "flip", {"p00.png": Recipe(flip=True)})
    assert [entry.name for entry in desk.pending()] == ["p00.png"]
    report = desk.build()
    assert [path.name for path in report.made] == ["p00.png"]
    now = stamps(train / "10_fox")
    assert {name for name in now if now[name] != before[name]} == {"p00.png"}
    flipped = np.asarray(Image.open(train / "10_fox" / "p00.png"))
    assert (flipped == np.asarray(Image.open(raw / "p00.png"))[:, ::-1]).all()
    assert Desk(raw, train).undo() == "flip"
    assert Desk(raw, train).build().made == report.made
    assert (train / "10_fox" / "p00.png").read_bytes() == (raw / "p00.png").read_bytes()
    assert Desk(raw, train).redo() == "flip"
    assert Desk(raw, train).undo() == "flip"
    assert Desk(raw, train).undo() is None


def test_undo_leaves_what_was_changed_in_another_field_since(raw: Path, train: Path) -> None:
    desk = open_desk(raw, train)
    change(desk, "flip", {"p01.png": Recipe(flip=True)})
    desk.build()  # gives it a background
    assert desk.undo() == "flip"
    assert desk.book.recipe_of("p01.png") == Recipe(background="white")


def test_a_changed_original_is_made_anew(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    draw(raw / "p02.png", 99)
    assert [entry.name for entry in Desk(raw, train).pending()] == ["p02.png"]
    assert [path.name for path in Desk(raw, train).build().made] == ["p02.png"]
    os.utime(raw / "p02.png")  # touched: looked at again, and found the same
    assert Desk(raw, train).build().made == []


def test_what_was_changed_by_hand_is_left_alone_until_it_is_forced(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    made = (train / "10_fox" / "p01.png").read_bytes()
    draw(train / "10_fox" / "p01.png", 50)
    mine = (train / "10_fox" / "p01.png").read_bytes()
    desk = Desk(raw, train)
    assert {entry.name: entry.state for entry in desk.entries}["p01.png"] == "changed by hand"
    assert desk.build().left_alone == [(train / "10_fox" / "p01.png", BY_HAND)]
    change(desk, "flip", {"p01.png": Recipe(background="white", flip=True)})
    assert desk.build().left_alone == [(train / "10_fox" / "p01.png", BY_HAND)]
    assert (train / "10_fox" / "p01.png").read_bytes() == mine
    assert not list((train / "10_fox").glob(".*"))
    desk.undo()
    desk.build(options=Options(force=True))
    assert (train / "10_fox" / "p01.png").read_bytes() == made


def test_a_picture_that_was_there_before_is_never_replaced(raw: Path, train: Path) -> None:
    mine = draw(train / "10_fox" / "p02.png", 77).read_bytes()
    for force in (False, True):
        report = open_desk(raw, train).build(options=Options(force=force))
        assert (train / "10_fox" / "p02.png", FOREIGN) in report.left_alone
        assert (train / "10_fox" / "p02.png").read_bytes() == mine


def test_what_was_made_is_known_again_without_its_manifest(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    before = stamps(train / "10_fox")
    (train / ".loratory" / "prepared.jsonl").unlink()
    report = Desk(raw, train).build()
    assert not report.made
    assert not report.left_alone
    assert stamps(train / "10_fox") == before


def test_edited_captions_keep_the_edit_and_get_what_is_new(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    folder = train / "10_fox"
    (folder / "p03.txt").write_text("fox, mammal, picture 3, sitting, black background\n")
    (folder / "p01.txt").write_text("fox, solo")  # the person took the background's tag out
    (raw / "p03.txt").write_text("fox, mammal, picture three\n")
    desk = Desk(raw, train)
    recipes = desk.book.recipes
    change(
        desk,
        "colours",
        {
            "p03.webp": replace(recipes["p03.webp"], background="red"),
            "p05.png": replace(recipes["p05.png"], tags=("side view",)),
        },
    )
    report = desk.build()
    assert (folder / "p03.txt").read_text() == "fox, mammal, sitting, picture three, red background\n"
    assert (folder / "p01.txt").read_text() == "fox, solo"
    assert (folder / "p05.txt").read_text() == "fox, blue background, side view"
    assert report.captions is not None
    Journal(train).undo()
    assert (folder / "p03.txt").read_text() == "fox, mammal, picture 3, sitting, black background\n"
    # What was undone in the captions is not done again behind the person's back.
    assert Desk(raw, train).build().captions is None


def test_a_sentence_that_both_sides_changed_is_left_alone(raw: Path, train: Path) -> None:
    (raw / "p00.txt").write_text("A fox sits on a stone in the evening sun.")
    open_desk(raw, train).build()
    (train / "10_fox" / "p00.txt").write_text("A fox sleeps on a stone in the evening sun.")
    (raw / "p00.txt").write_text("A red fox sits on a stone in the evening sun.")
    outcome = Desk(raw, train).build().captions
    assert outcome is not None
    assert [path.name for path, _ in outcome.skipped] == ["p00.txt"]
    assert (train / "10_fox" / "p00.txt").read_text() == "A fox sleeps on a stone in the evening sun."


def test_a_sheet_is_split_and_put_together_again(raw: Path, train: Path) -> None:
    draw(raw / "sheet.png", 9, size=(200, 100))
    (raw / "sheet.txt").write_text("fox, multiple views, reference sheet")
    open_desk(raw, train).build()
    folder = train / "10_fox"
    whole = (folder / "sheet.png").read_bytes()
    (folder / "sheet.txt").write_text("fox, mammal, multiple views, reference sheet")
    desk = Desk(raw, train)
    change(desk, "split", {"sheet.png": Recipe(split=((0, 0, 100, 100), (100, 0, 200, 100)))})
    report = desk.build()
    assert [path.name for path in report.removed] == ["sheet.png"]
    assert [Image.open(folder / f"sheet_{number}.png").size for number in (1, 2)] == [(100, 100), (100, 100)]
    assert {path.name: path.read_text() for path in folder.glob("sheet*.txt")} == {
        "sheet_1.txt": "fox, mammal",
        "sheet_2.txt": "fox, mammal",
    }
    (folder / "sheet_1.txt").write_text("fox, mammal, left one")
    desk.undo()
    desk.build()
    assert {path.name for path in folder.glob("sheet*")} == {"sheet.png", "sheet.txt"}
    assert (folder / "sheet.png").read_bytes() == whole
    assert (folder / "sheet.txt").read_text() == "fox, mammal, left one, multiple views, reference sheet"


def test_a_picture_left_out_comes_back_with_what_was_edited_in_its_caption(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    folder = train / "10_fox"
    (folder / "p00.txt").write_text("fox, mammal, picture 0, edited\n")
    desk = Desk(raw, train)
    change(desk, "leave out", {"p00.png": Recipe(skip=True)})
    desk.build()
    assert not list(folder.glob("p00*"))
    assert not Desk(raw, train).pending()
    desk = Desk(raw, train)
    desk.undo()
    desk.build()
    assert (folder / "p00.png").exists()
    assert (folder / "p00.txt").read_text() == "fox, mammal, picture 0, edited\n"


def test_a_new_name_takes_picture_and_edited_caption_along(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    folder = train / "10_fox"
    (folder / "p00.txt").write_text("fox, edited\n")
    desk = Desk(raw, train)
    change(desk, "rename", {"p00.png": Recipe(name="portrait")})
    desk.build()
    assert not list(folder.glob("p00*"))
    assert (folder / "portrait.png").exists()
    assert (folder / "portrait.txt").read_text() == "fox, edited\n"


def test_originals_that_are_gone_are_told_and_pruned_on_request(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    (raw / "p00.png").unlink()
    (raw / "p00.txt").unlink()
    (raw / "p05.png").unlink()
    (train / "10_fox" / "p05.txt").write_text("fox, edited")
    desk = Desk(raw, train)
    assert {entry.name: entry.state for entry in desk.entries}["p00.png"] == "source gone"
    report = desk.build()
    assert sorted(path.name for path in report.gone) == ["p00.png", "p05.png"]
    assert (train / "10_fox" / "p00.png").exists()
    report = Desk(raw, train).build(options=Options(prune=True))
    assert sorted(path.name for path in report.removed) == ["p00.png", "p05.png"]
    assert report.captions is not None
    assert [path.name for path, _ in report.captions.skipped] == ["p05.txt"]
    assert (train / "10_fox" / "p05.txt").read_text() == "fox, edited"
    assert not (train / "10_fox" / "p00.txt").exists()


def test_names_that_clash_get_a_number_for_good(tmp_path: Path, train: Path) -> None:
    raw = tmp_path / "clashing"
    for seed, name in enumerate(("a.png", "A.webp", "a_1.png", "10_wolf/a.png", "10_wolf/deep/a.png")):
        draw(raw / name, seed + 1)
    desk = open_desk(raw, train)
    change(desk, "split", {"a.png": Recipe(split=((0, 0, 50, 96), (40, 0, 96, 96)))})
    report = desk.build()
    names = {path.relative_to(train).as_posix().casefold() for path in report.made}
    assert len(names) == len(report.made) == 6
    assert any("another picture is called" in note for note in report.notes)
    before = contents(train)
    draw(raw / "a.webp", 40)
    Desk(raw, train).build()
    now = contents(train)
    assert {name: now[name] for name in before} == before


@pytest.mark.parametrize("name", ["new\nline.png", "\x1b[2J.png", os.fsdecode(b"caf\xe9.png"), "[b] 🦊.png", " x .png"])
def test_names_become_such_that_every_trainer_reads(tmp_path: Path, train: Path, name: str) -> None:
    raw = tmp_path / "odd"
    draw(tmp_path / "x.png", transparent=True).rename(draw(raw / "plain.png").with_name(name))
    report = open_desk(raw, train).build()
    assert not report.failed
    assert len(report.made) == 2
    for path in report.made:
        path.name.encode("utf-8")
        assert "\n" not in path.name
        assert "\x1b" not in path.name
    assert Desk(raw, train).build().unchanged == 2


def test_folders_of_originals_become_concepts_of_their_own(tmp_path: Path, train: Path) -> None:
    raw = tmp_path / "Raw"
    draw(raw / "wolf" / "a.png")
    draw(raw / "3_lynx" / "summer" / "b.png")
    draw(raw / ".hidden" / "c.png")
    report = Desk(raw, train).build(options=Options(workers=1))
    assert sorted(path.relative_to(train).as_posix() for path in report.made) == ["1_wolf/a.png", "3_lynx/b.png"]
    # Balancing renames folders; what is there is found again.
    (train / "1_wolf").rename(train / "7_wolf")
    report = Desk(raw, train).build()
    assert (report.made, report.unchanged) == ([], 2)
    assert not (train / "1_wolf").exists()


def test_a_concept_folder_as_destination_and_one_inside_the_originals(raw: Path) -> None:
    place = raw / "12_fox"
    first = open_desk(raw, place).build()
    assert len(first.made) == 6
    assert {path.parent for path in first.made} == {place}
    assert Desk(raw, place).build().unchanged == 6
    assert not (raw / "12_fox" / "12_fox").exists()


def test_folders_of_no_use_are_refused_with_a_reason(raw: Path, train: Path) -> None:
    with pytest.raises(LoratoryError, match="does not exist"):
        Desk(raw / "nowhere", train)
    with pytest.raises(LoratoryError, match="is not a folder"):
        Desk(raw / "p00.png", train)
    with pytest.raises(LoratoryError, match="is not a folder"):
        Desk(raw, raw / "p00.png")
    with pytest.raises(LoratoryError, match="cannot lie in the same folder"):
        Desk(raw, raw)
    with pytest.raises(LoratoryError, match="has no name yet"):
        Desk(raw, train).build()
    with pytest.raises(LoratoryError, match="is not known"):
        Desk(raw).build()
    assert not train.exists()


def test_the_destination_is_remembered(raw: Path, train: Path) -> None:
    desk = open_desk(raw, train)
    desk.set_up(replace(desk.book.prepare, destination="../train"), desk.defaults)
    assert len(Desk(raw).build().made) == 6
    assert (train / "10_fox").is_dir()


def test_originals_that_cannot_be_written_have_their_recipes_with_the_dataset(
    raw: Path, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(raw)
    monkeypatch.setattr(shelf_module.os, "access", lambda path, mode: Path(path) != raw)  # pyright: ignore
    desk = open_desk(raw, train)
    change(desk, "flip", {"p00.png": Recipe(flip=True)})
    desk.build()
    assert stamps(raw) == before
    assert "flip = true" in (train / ".loratory" / "recipes.toml").read_text()
    assert Desk(raw, train).undo() == "flip"
    assert {path.name for path in (train / ".loratory").glob("recipes*")} == {"recipes.toml", "recipes-history.jsonl"}


def test_pictures_that_cannot_be_read_stop_no_other(raw: Path, train: Path) -> None:
    (raw / "empty.png").touch()
    (raw / "cut.jpg").write_bytes(draw(raw.parent / "x.jpg").read_bytes()[:-300])
    (raw / "link.png").symlink_to("nowhere.png")
    (raw / "loop").symlink_to(".")
    report = open_desk(raw, train, format="keep").build()
    assert sorted(path.name for path, _ in report.failed) == ["cut.jpg", "empty.png", "link.png"]
    assert len(report.made) == 6
    assert not list((train / "10_fox").glob(".*"))


def test_a_caption_that_cannot_be_read_is_named(raw: Path, train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> bytes | None:
        if path.parent == raw and path.name == "p00.txt":
            raise OSError(5, "Input/output error", str(path))
        return read_caption_bytes(path)

    monkeypatch.setattr(captions_module, "read_caption_bytes", broken)
    report = open_desk(raw, train).build()
    ((path, reason),) = report.failed
    assert path == raw / "p00.txt" and "Input/output error" in reason
    assert (train / "10_fox" / "p03.txt").exists()


@pytest.mark.parametrize(
    "expects",
    [
        1,
        {},
        {"label": "x", "later_than": "0", "carried": [], "after": {}},
        {"label": "x", "later_than": 0, "carried": [1], "after": {}},
        {"label": "x", "later_than": 0, "carried": [], "after": {"a.txt": 1}},
        {"label": "x", "later_than": 0, "carried": []},
    ],
)
def test_a_line_of_the_manifest_that_is_damaged_is_passed_over(raw: Path, train: Path, expects: object) -> None:
    open_desk(raw, train).build()
    before = contents(train)
    with (train / ".loratory" / "prepared.jsonl").open("a") as file:
        file.write(json.dumps({"expects": expects}) + "\n")
    report = Desk(raw, train).build()
    assert (report.made, report.failed, report.unchanged) == ([], [], 6)
    assert contents(train) == before


def test_a_run_that_is_stopped_goes_on_where_it_was(raw: Path, train: Path) -> None:
    stop = Event()

    def after_two(done: int, total: int, name: str) -> None:
        if done == 2:
            stop.set()

    report = open_desk(raw, train).build(progress=after_two, stop=stop, options=Options(workers=1))
    assert report.stopped
    assert len(report.made) == 2
    assert not Desk(raw, train).build().stopped
    open_desk(raw, train.with_name("whole")).build()
    assert contents(train) == contents(train.with_name("whole"))


def test_of_originals_of_the_same_bytes_the_first_is_taken(raw: Path, train: Path) -> None:
    shutil.copy(raw / "p00.png", raw / "p00 copy.png")
    report = open_desk(raw, train).build(options=Options(dedupe=True))
    assert len(report.made) == 6
    desk = Desk(raw, train)
    assert desk.book.recipe_of("p00.png").skip
    assert desk.undo() == "leave out 1 picture that are there twice"


def test_originals_that_moved_are_known_again(raw: Path, train: Path) -> None:
    open_desk(raw, train).build()
    (train / "10_fox" / "p00.txt").write_text("fox, edited\n")
    moved = raw.rename(raw.with_name("Originals"))
    report = Desk(moved, train).build(options=Options(prune=True))
    assert (report.made, report.removed, report.unchanged) == ([], [], 6)
    assert (train / "10_fox" / "p00.txt").read_text() == "fox, edited\n"


def test_a_second_process_waits_for_nobody(raw: Path, train: Path) -> None:
    def intrude(done: int, total: int, name: str) -> None:
        with pytest.raises(LoratoryError, match="Another process prepares"):
            Desk(raw, train).build()

    assert len(open_desk(raw, train).build(progress=intrude).made) == 6


def test_a_preview_shows_before_and_after(raw: Path, train: Path) -> None:
    desk = open_desk(raw, train)
    before, after = desk.preview(desk.entries[0], Recipe(flip=True, crop=(0, 0, 48, 96)), 48)
    assert (before.size, after.size, before.mode, after.mode) == ((48, 48), (43, 48), "RGB", "RGB") or after.size[
        1
    ] == 48
