"""Pictures that lie in a training folder already: put aside, changed, undone, and given back byte for byte."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from loratory.errors import LoratoryError
from loratory.imaging.recipe import Recipe
from loratory.preparation.desk import Desk
from loratory.tags.journal import Journal
from preparation_sets import change, contents, draw, make_raw, open_desk, stamps


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number, name in enumerate(("a.png", "b.jpg", "c.webp")):
        draw(root / "10_fox" / name, number + 1, transparent=name == "c.webp")
        (root / "10_fox" / name).with_suffix(".txt").write_text(f"fox, mammal, picture {number}")
    return root


def test_a_dataset_is_shown_as_it_is_and_opening_it_writes_nothing(root: Path) -> None:
    before = stamps(root)
    desk = Desk(root)
    assert [(entry.name, entry.state) for entry in desk.entries] == [
        ("10_fox/a.png", "as it is"),
        ("10_fox/b.jpg", "as it is"),
        ("10_fox/c.webp", "as it is"),
    ]
    assert desk.pending() == []
    assert desk.undo() is None
    assert stamps(root) == before


def test_a_change_puts_the_original_aside_and_undo_brings_it_back(root: Path) -> None:
    before, old = contents(root), stamps(root)
    desk = Desk(root)
    change(desk, "crop", {"10_fox/a.png": Recipe(crop=(0, 0, 40, 50)), "10_fox/c.webp": Recipe(background="blue")})
    # Nothing is built yet, and the folder as it was.
    assert contents(root) == before
    report = desk.build(desk.pending())
    assert sorted(path.name for path in report.made) == ["a.png", "c.webp"]
    assert Image.open(root / "10_fox" / "a.png").size == (40, 50)
    assert Image.open(root / "10_fox" / "c.webp").mode == "RGB"
    assert (root / "10_fox" / "c.txt").read_text() == "fox, mammal, picture 2, blue background"
    assert (root / ".loratory" / "originals" / "10_fox" / "a.png").read_bytes() == before["10_fox/a.png"]
    assert {entry.state for entry in Desk(root).entries} == {"made", "as it is"}
    again = Desk(root)
    assert again.undo() == "crop"
    again.build()
    assert contents(root) == before
    assert {name: stamp for name, stamp in stamps(root).items() if name.endswith((".png", ".webp"))} == {
        name: stamp for name, stamp in old.items() if name.endswith((".png", ".webp"))
    }
    assert not (root / ".loratory" / "originals" / "10_fox").exists()
    assert again.redo() == "crop"
    assert again.pending() != []


def test_captions_that_were_edited_meanwhile_keep_the_edit(root: Path) -> None:
    desk = Desk(root)
    change(desk, "background", {"10_fox/c.webp": Recipe(background="blue")})
    desk.build()
    (root / "10_fox" / "c.txt").write_text("fox, mammal, sitting, blue background")
    desk.undo()
    desk.build()
    assert (root / "10_fox" / "c.txt").read_text() == "fox, mammal, sitting"


def test_a_picture_without_caption_gets_one_that_begins_with_the_tokens(root: Path) -> None:
    (root / "10_fox").rename(root / "10_fox mammal")
    (root / "10_fox mammal" / "c.txt").unlink()
    desk = Desk(root)
    change(desk, "background", {"10_fox mammal/c.webp": Recipe(background="white")})
    desk.build()
    assert (root / "10_fox mammal" / "c.txt").read_text() == "fox, mammal, white background"
    desk.undo()
    desk.build()
    assert not (root / "10_fox mammal" / "c.txt").exists()


def test_a_file_that_cannot_be_read_is_taken_away_and_comes_back(root: Path) -> None:
    broken = root / "10_fox" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    desk = Desk(root)
    change(desk, "leave out", {"10_fox/broken.png": Recipe(skip=True)})
    report = desk.build()
    assert report.removed == [broken]
    assert not broken.exists()
    desk.undo()
    desk.build()
    assert broken.read_bytes() == b"\x89PNG\r\n\x1a\n nothing"


def test_a_wrong_ending_is_put_right(root: Path) -> None:
    picture = root / "10_fox" / "d.png"
    draw(root / "10_fox" / "d.jpg", 4).rename(picture)
    data = picture.read_bytes()
    desk = Desk(root)
    change(desk, "ending", {"10_fox/d.png": Recipe(name="d2")})
    desk.build()
    # The same bytes under the ending that is true.
    assert (root / "10_fox" / "d2.jpg").read_bytes() == data
    assert not picture.exists()


def test_what_took_the_place_of_a_made_picture_is_left_alone(root: Path) -> None:
    desk = Desk(root)
    change(desk, "flip", {"10_fox/a.png": Recipe(flip=True)})
    desk.build()
    mine = draw(root / "10_fox" / "a.png", 60).read_bytes()
    desk.undo()
    report = desk.build()
    assert [path.name for path, _ in report.left_alone] == ["a.png"]
    assert (root / "10_fox" / "a.png").read_bytes() == mine
    assert (root / ".loratory" / "originals" / "10_fox" / "a.png").exists()


def test_pictures_of_originals_elsewhere_are_changed_in_their_own_recipes(tmp_path: Path) -> None:
    raw, train = make_raw(tmp_path / "Raw"), tmp_path / "train"
    open_desk(raw, train).build()
    draw(train / "10_fox" / "own.png", 30)
    desk = Desk(train)
    entry = desk.entry_of(train / "10_fox" / "p00.png")
    own = desk.entry_of(train / "10_fox" / "own.png")
    assert entry is not None
    assert own is not None
    assert entry.source == raw / "p00.png"
    change(desk, "flip both", {entry.name: Recipe(flip=True), own.name: Recipe(flip=True)})
    assert len(desk.build().made) == 2
    assert Desk(raw, train).book.recipe_of("p00.png") == Recipe(flip=True)
    assert not (train / ".loratory" / "originals" / "10_fox" / "p00.png").exists()
    # One step, though it stands in two files.
    assert Desk(train).undo() == "flip both"
    again = Desk(train)
    assert again.undo() is None
    assert len(again.build().made) == 2
    assert (train / "10_fox" / "p00.png").read_bytes() == (raw / "p00.png").read_bytes()


def test_a_folder_renamed_by_balancing_keeps_its_adopted_pictures(root: Path) -> None:
    before = contents(root)
    desk = Desk(root)
    change(desk, "flip", {"10_fox/a.png": Recipe(flip=True)})
    desk.build()
    (root / "10_fox").rename(root / "4_fox")
    desk = Desk(root)
    assert [entry.state for entry in desk.entries if entry.name == "10_fox/a.png"] == ["made"]
    desk.undo()
    desk.build()
    assert contents(root) == {name.replace("10_fox", "4_fox"): data for name, data in before.items()}


def test_a_link_comes_back_as_a_link(root: Path, tmp_path: Path) -> None:
    real = draw(tmp_path / "elsewhere" / "real.png", 5)
    data = real.read_bytes()
    link = root / "10_fox" / "link.png"
    link.symlink_to(os.path.relpath(real, link.parent))
    desk = Desk(root)
    change(desk, "flip", {"10_fox/link.png": Recipe(flip=True)})
    desk.build()
    assert not link.is_symlink()
    assert real.read_bytes() == data
    desk.undo()
    desk.build()
    assert link.is_symlink()
    assert link.read_bytes() == data


def test_a_disk_without_links_gets_copies(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    before = contents(root)
    desk = Desk(root)
    change(desk, "flip", {"10_fox/a.png": Recipe(flip=True)})
    desk.build()
    desk.undo()
    desk.build()
    assert contents(root) == before


def test_a_captions_batch_that_was_cut_short_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(root)
    change(desk, "background", {"10_fox/c.webp": Recipe(background="blue")})

    def died(self: object, *arguments: object, **options: object) -> None:
        raise LoratoryError("A batch of 1 captions was cut short.")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "commit", died)
        with pytest.raises(LoratoryError, match="cut short"):
            desk.build()
    Desk(root).build()
    assert (root / "10_fox" / "c.txt").read_text() == "fox, mammal, picture 2, blue background"
    shutil.rmtree(root / ".loratory" / "originals")  # thrown away by somebody: told, not fatal
    assert any(entry.state == "source gone" for entry in Desk(root).entries)
