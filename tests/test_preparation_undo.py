"""Undo brings a training folder back byte for byte, whatever its pictures and captions are called and share."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import hostile_pictures
from loratory.dataset import renaming
from loratory.imaging.recipe import Recipe
from loratory.preparation.desk import Desk, Options
from loratory.tags.journal import Journal
from preparation_sets import change, contents

ONE = Options(workers=1)
FLIP, PNG, SKIP = Recipe(flip=True), Recipe(format="png"), Recipe(skip=True)
HALVES = Recipe(split=((0, 0, 10, 20), (10, 0, 20, 20)))
LONG = "x" * 250

CASES: tuple[tuple[str, dict[str, Recipe], tuple[str, ...]], ...] = (
    # Pictures whose recipes change, captions that are there, and pictures that lie beside them.
    ("a colour is chosen", {"hidden.png": FLIP}, ()),
    ("two share a caption", {"hidden.png": FLIP, "hidden.webp": FLIP}, ("hidden.txt",)),
    ("one of two gets a name", {"hidden.png": Recipe(background="blue"), "hidden.webp": Recipe(name="other")}, ()),
    ("and a caption", {"hidden.png": Recipe(background="blue"), "hidden.webp": Recipe(name="other")}, ("hidden.txt",)),
    ("two want one name", {"cmyk.jpg": PNG, "cmyk.tif": PNG}, ("cmyk.txt",)),
    ("one wants a name that is taken", {"cmyk.tif": PNG, "+cmyk.png": Recipe()}, ("cmyk.txt",)),
    ("another goes by the caption", {"moving.gif": Recipe(name="other"), "+moving.png": Recipe()}, ("moving.txt",)),
    ("one is left out", {"a.jpg": SKIP, "+a.png": Recipe()}, ("a.txt",)),
    ("both are left out", {"a.jpg": SKIP, "a.png": SKIP}, ("a.txt",)),
    ("a name of what is left out", {"a.png": SKIP, "b.png": Recipe(name="a")}, ("a.txt", "b.txt")),
    ("names change hands", {"a.png": Recipe(name="b"), "b.png": Recipe(name="a")}, ("a.txt", "b.txt")),
    ("a sheet beside another", {"a.png": HALVES, "+a.jpg": Recipe()}, ("a.txt",)),
    ("the longest name", {f"{LONG}.png": FLIP}, (f"{LONG}.txt",)),
    ("the longest name alone", {f"{LONG}.png": FLIP}, ()),
    ("a name nobody should have", {"tab\there.png": FLIP}, ("tab\there.txt",)),
)


def make_set(root: Path, pictures: Mapping[str, object], captions: tuple[str, ...]) -> dict[str, Recipe]:
    """The recipes by the names of their entries."""
    folder = root / "3_x"
    folder.mkdir(parents=True)
    for name in pictures:
        plain = name.removeprefix("+")
        hostile_pictures.GOOD.get(plain, hostile_pictures.jpeg_called)(folder / plain)
    for name in captions:
        (folder / name).write_text(f"fox, {name[0]}")
    return {f"3_x/{name}": recipe for name, recipe in pictures.items() if isinstance(recipe, Recipe) and name[0] != "+"}


def put_aside(root: Path) -> list[str]:
    return [path.name for path in (root / ".loratory" / "originals").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("recipes", "captions"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_change_is_made_once_undone_and_redone(
    tmp_path: Path, recipes: dict[str, Recipe], captions: tuple[str, ...]
) -> None:
    recipes = make_set(tmp_path, recipes, captions)
    before = contents(tmp_path)
    desk = Desk(tmp_path)
    change(desk, "one", recipes)
    report = desk.build(options=ONE)
    assert report.failed == report.left_alone == []
    made = contents(tmp_path)
    again = Desk(tmp_path).build(options=ONE)
    assert again.made == again.removed == []
    assert again.captions is None
    desk = Desk(tmp_path)
    desk.undo()
    desk.build(options=ONE)
    assert contents(tmp_path) == before
    assert set(put_aside(tmp_path)) == {"recipes.toml", "recipes-history.jsonl"}
    desk.redo()
    desk.build(options=ONE)
    assert contents(tmp_path) == made


def test_captions_taken_back_first_end_in_the_same(tmp_path: Path) -> None:
    recipes = make_set(tmp_path, {"hidden.png": Recipe(background="blue"), "hidden.webp": PNG}, ("hidden.txt",))
    before = contents(tmp_path)
    desk = Desk(tmp_path)
    change(desk, "one", recipes)
    desk.build(options=ONE)
    Journal(tmp_path).undo()
    desk = Desk(tmp_path)
    desk.undo()
    desk.build(options=ONE)
    assert contents(tmp_path) == before


def test_what_was_edited_in_a_caption_of_its_own_comes_along_to_the_shared_one(tmp_path: Path) -> None:
    recipes = make_set(tmp_path, {"cmyk.jpg": PNG, "cmyk.tif": PNG}, ("cmyk.txt",))
    desk = Desk(tmp_path)
    change(desk, "one", recipes)
    desk.build(options=ONE)
    (tmp_path / "3_x" / "cmyk-2.txt").write_text("fox, c, sitting")
    desk.undo()
    desk.build(options=ONE)
    assert (tmp_path / "3_x" / "cmyk.txt").read_text() == "fox, c, sitting"
    assert not (tmp_path / "3_x" / "cmyk-2.txt").exists()


def test_undo_gives_back_where_a_resolution_was_set_too(tmp_path: Path) -> None:
    recipes = make_set(tmp_path, {"a.png": FLIP}, ())
    before = contents(tmp_path)
    desk = Desk(tmp_path)
    desk.set_up(desk.book.prepare, replace(desk.defaults, resolution=(64, 64)))
    change(desk, "one", recipes)
    desk.build(options=ONE)
    desk.undo()
    desk.build(options=ONE)
    assert contents(tmp_path) == before


def test_a_picture_whose_original_cannot_be_put_aside_fails_alone(tmp_path: Path) -> None:
    recipes = make_set(tmp_path, {"a.png": FLIP, "b.png": FLIP}, ("a.txt",))
    before = contents(tmp_path)
    other = tmp_path / ".loratory" / "originals" / "3_x" / "a.png"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another time")
    desk = Desk(tmp_path)
    change(desk, "one", recipes)
    report = desk.build(options=ONE)
    assert [(path.name, "original" in why) for path, why in report.failed] == [("a.png", True)]
    assert [path.stem for path in report.made] == ["b"]
    assert (tmp_path / "3_x" / "a.png").read_bytes() == before["3_x/a.png"]
    assert other.read_bytes() == b"of another time"


def test_a_renaming_that_was_cut_short_is_completed_when_the_desk_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = make_set(tmp_path, {"a.png": FLIP}, ())
    before = contents(tmp_path)
    desk = Desk(tmp_path)
    change(desk, "one", recipes)
    desk.build(options=ONE)

    def died(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(renaming, "_replace_state", died)
        with pytest.raises(KeyboardInterrupt):
            renaming.rename_folders(tmp_path, [("3_x", "5_y")], "rename")
    desk = Desk(tmp_path)
    assert [(entry.name, entry.state) for entry in desk.entries] == [("5_y/a.png", "made")]
    desk.undo()
    desk.build(options=ONE)
    assert contents(tmp_path) == {"5_y/a.png": before["3_x/a.png"]}


NAMES = ("hidden.png", "hidden.webp", "moving.gif", "moving.png", "cmyk.jpg", "cmyk.tif", "a.png", "a.jpg", "A.webp")
CHOICES = (
    FLIP,
    PNG,
    SKIP,
    HALVES,
    Recipe(),
    Recipe(format="jpeg", tags=("tag",)),
    Recipe(name="a"),
    Recipe(name="hidden"),
    Recipe(background="blue"),
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_changes_are_undone_one_after_the_other(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = tmp_path / "set"
    names = chance.sample(NAMES, chance.randint(2, 6))
    captions = tuple(f"{name.rpartition('.')[0]}.txt" for name in names if chance.random() < 0.5)
    make_set(root, dict.fromkeys(names), captions)
    before = contents(root)
    for _ in range(chance.randint(1, 4)):
        desk = Desk(root)
        some = chance.sample(desk.entries, chance.randint(1, len(desk.entries)))
        desk.change("some", {entry.name: chance.choice(CHOICES) for entry in some})
        if chance.random() < 0.8:
            assert desk.build(options=ONE).failed == []
    while (desk := Desk(root)).undo() is not None:
        if chance.random() < 0.7:
            desk.build(options=ONE)
    Desk(root).build(options=ONE)
    assert contents(root) == before
