"""The prepare pane: keys become recipes, recipes become pictures, and nothing waits for either."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from hostile import file_names
from loratory.imaging.recipe import Recipe
from loratory.tui.text import ASCII
from loratory.tui.widgets.preview import Preview
from prepare_app import RECIPES, dataset, open_pane, originals, recipes_of, subject


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_it_shows_picture_facts_findings_and_recipe(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            assert hand.shows("1280x960 → bucket")
            assert hand.shows("plain ground, white")
            assert hand.shows("to be built") and hand.shows("4 to be built")
            assert hand.shows("f crop to")
            assert sum("▀" in line for line in hand.shown()) > 3, "the picture"
            await hand.type("j", "j")
            assert hand.shows("transparent")
            assert hand.shows("flatten on")

    run(scenario())


def test_crop_by_keys_makes_the_recipe_it_shows(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("c", "1", "0", "l", "j", "2", "l", "tab", "4", "0", "h", "k")
            assert hand.shows("CROP") and hand.shows("1228x910 px") and hand.shows("at 12,10 to 1240,920")
            assert hand.shows("wins") and hand.shows("bucket 64x")
            await hand.type("u", "u", "H")
            box = hand.state.boxes
            assert box is not None and box.box == (52, 10, 1240, 960)
            await hand.type("enter")
            assert hand.recipe == Recipe(crop=(52, 10, 1240, 960))
            await hand.ready()
            assert recipes_of(folder) == {"a.png": Recipe(crop=(52, 10, 1240, 960))}
            assert hand.shows("crop 1280x960 to 1188x950")
            await hand.type("c", "escape")
            assert hand.recipe == Recipe(crop=(52, 10, 1240, 960))
            await hand.type("c", "w", "enter")
            assert hand.recipe == Recipe()

    run(scenario())


def test_the_crop_is_seen_in_the_picture_while_it_is_made(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("c")
            await hand.until(lambda: hand.screen.query_one(Preview).drawn)
            before = _colours(hand.screen.query_one(Preview))
            await hand.type("3", "0", "0", "l")
            await hand.until(lambda: hand.screen.query_one(Preview).drawn)
            assert _colours(hand.screen.query_one(Preview)) != before

    run(scenario())


def _colours(preview: Preview) -> list[object]:
    return [[segment.style for segment in preview.render_line(row)] for row in range(preview.size.height)]


def test_ratio_suggestion_mask_and_split(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("c", "r")
            boxes = hand.state.boxes
            assert boxes is not None and boxes.box == (160, 0, 1120, 960) and hand.shows("1:1")
            await hand.type("a")
            boxes = hand.state.boxes
            assert boxes is not None
            left, top, right, bottom = boxes.box
            assert left <= 480 and top <= 320 and right >= 720 and bottom >= 600
            assert (right - left) * (bottom - top) < 1280 * 960 / 4
            await hand.type("enter", "m", "1", "h", "enter")
            assert len(hand.recipe.erase) == 1 and hand.recipe.crop == boxes.box
            await hand.type("m")
            boxes = hand.state.boxes
            assert boxes is not None and len(boxes.boxes) == 2 and boxes.index == 1
            await hand.type("d", "d", "enter")
            assert hand.recipe.erase == ()
            await hand.type("s")
            assert hand.state.boxes is None and "no separate figures" in hand.message
            await hand.type("G", "s")
            assert hand.shows("box 1 of 3")
            await hand.type("enter")
            assert len(hand.recipe.split) == 3
            assert [box[0] for box in hand.recipe.split] == sorted(box[0] for box in hand.recipe.split)
            assert hand.shows("split into 3 pictures")

    run(scenario())


def test_a_fix_here_and_everywhere(tmp_path: Path) -> None:
    folder = dataset(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            finding = hand.state.fix_of(hand.state.shown[0])
            assert finding is not None and finding.rule == "empty-ground"
            await hand.type("f")
            assert hand.recipe.crop is not None and "crop to" in hand.message
            assert hand.state.fix_of(hand.state.shown[0]) is None or hand.state.fix_of(hand.state.shown[0]) != finding
            await hand.ready()
            assert not hand.state.recipe(hand.state.shown[1]).crop
            await hand.type("j", "F")
            assert all(hand.state.recipe(entry).crop for entry in hand.state.shown)
            await hand.ready()
            await hand.type("u")
            await hand.ready()
            assert [bool(hand.state.recipe(entry).crop) for entry in hand.state.shown] == [True, False, False]
            assert hand.message.startswith("undone: crop to")

    run(scenario())


def test_undo_works_after_a_restart(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def change() -> None:
        async with open_pane(folder) as hand:
            await hand.type("x", "j", "d")

    async def undo() -> None:
        async with open_pane(folder) as hand:
            await hand.type("u", "u")
            await hand.ready()
            assert recipes_of(folder) == {}
            await hand.type("U")
            await hand.ready()
            assert recipes_of(folder) == {"a.png": Recipe(flip=True)}
            await hand.type("u", "u")
            await hand.ready()
            assert "no recipe was changed yet" in hand.message

    run(change())
    assert recipes_of(folder) == {"a.png": Recipe(flip=True), "b.png": Recipe(skip=True)}, "written at the end"
    run(undo())


def test_every_verb_of_one_picture(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("b", "j", "j", "j", "enter")
            assert hand.recipe == Recipe(background="blue")
            await hand.type("v", "w", "w", "w")
            assert hand.recipe.clean == "adverse" and hand.shows("smooth against noise")
            await hand.type("w", "z", "f", "t")
            await hand.answer("river, [b] x")
            assert hand.recipe.tags == ("river", "[b] x") and hand.recipe.format == "keep"
            await hand.type("n")
            await hand.answer("a/b")
            assert hand.recipe.name == "" and "no /" in hand.message
            await hand.type("n")
            await hand.answer("fox-1")
            assert hand.recipe.name == "fox-1"
            await hand.type("z", "u")
            assert hand.recipe.upscale == "auto"
            await hand.type("d")
            assert hand.shows("left out")
            await hand.type("d", "D")
            assert hand.recipe == Recipe()
            await hand.ready()
            assert recipes_of(folder) == {}

    run(scenario())


def test_views_of_original_result_and_difference(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("v")
            assert hand.shows("the original")
            await hand.type("v")
            await hand.until(lambda: hand.shows("nothing is changed"))
            await hand.type("m", "enter")
            await hand.until(lambda: hand.shows("PSNR"))
            await hand.type("v")
            assert hand.shows("as it would be built")

    run(scenario())


def test_a_run_goes_on_while_keys_work(tmp_path: Path) -> None:
    folder = originals(tmp_path)
    going, go_on = threading.Event(), threading.Event()

    async def scenario() -> None:
        from loratory.preparation.desk import Desk

        build = Desk.build

        def slow(self: Desk, *args: Any, **kwargs: Any) -> object:
            progress = kwargs["progress"]

            def wait_in_the_middle(done: int, total: int, name: str) -> None:
                progress(done, total, name)
                going.set()
                go_on.wait(20)

            return build(self, *args, **{**kwargs, "progress": wait_in_the_middle})

        with mock.patch.object(Desk, "build", slow):
            async with open_pane(folder) as hand:
                await hand.type("r")
                await hand.until(going.is_set)
                await hand.until(lambda: hand.shows("1/4") and hand.shows("pictures/s"))
                await hand.type("j", "j", "v", "v", "v", "x")
                assert hand.state.cursor == 2 and hand.recipe.flip and hand.shows("being saved")
                await hand.type("r")
                assert "already" in hand.message
                go_on.set()
                await hand.ready()
        assert (tmp_path / "train" / "3_fox" / "c.png").exists()
        # Built by the recipe as it was when its turn came again.
        with Image.open(tmp_path / "train" / "3_fox" / "c.png") as picture:
            assert picture.mode == "RGB" and picture.size == (256, 256)
        assert recipes_of(folder)["c.png"].flip

    run(scenario())
    assert len(list((tmp_path / "train" / "3_fox").glob("*.png"))) == 4


def test_a_run_is_stopped_and_goes_on(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("r", "R")
            await hand.until(lambda: not hand.screen.work.is_building)
            await hand.ready()
            assert not hand.shows("pictures/s")
            await hand.type("r")
            await hand.ready()
            assert all(entry.state == "made" for entry in hand.state.entries)
            assert hand.shows("as built") and hand.shows("3_fox/a.png")
            await hand.type("r")
            assert hand.message == "nothing is to be built"

    run(scenario())


def test_leaving_during_a_run_loses_nothing(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def leave() -> None:
        async with open_pane(folder) as hand:
            await hand.type("x", "r", "j", "x")

    async def go_on() -> None:
        async with open_pane(folder) as hand:
            assert [hand.state.recipe(entry).flip for entry in hand.state.entries] == [True, True, False, False]
            await hand.type("r")
            await hand.ready()
            assert all(entry.state == "made" for entry in hand.state.entries)

    run(leave())
    run(go_on())
    made = tmp_path / "train" / "3_fox"
    assert sorted(path.name for path in made.iterdir() if path.suffix != ".txt") == ["a.png", "b.png", "c.png", "d.png"]


def test_a_run_goes_on_behind_another_pane(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("r", "1")
            await hand.until(lambda: hand.app.screen is hand.app.editor_screen)
            await hand.until(lambda: not hand.screen.work.is_building)
            hand.app.show_pane("prepare")
            await hand.ready()
            assert "4 pictures built" in hand.message

    run(scenario())


@pytest.mark.parametrize("resolution", [64, 1024])
def test_buckets_and_checks_go_by_the_resolution_of_the_recipes(tmp_path: Path, resolution: int) -> None:
    folder = originals(tmp_path, RECIPES.replace("resolution = 64", f"resolution = {resolution}"))

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("j")
            assert hand.shows({64: "bucket 64x64", 1024: "bucket 896x1152"}[resolution])
            assert hand.shows("enlarged 3.7") == (resolution == 1024)
            rules = {finding.rule for finding in hand.state.findings["b.png"]}
            assert ("low-resolution" in rules) == (resolution == 1024)

    run(scenario())


def test_leaving_a_question_or_beginning_to_mark_ends_what_was_told(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("P")
            assert hand.shows("1 of 5")
            await hand.type("escape")
            assert not hand.shows("1 of 5")
            await hand.type("x", "c")
            assert hand.shows("CROP") and not hand.shows("u undoes it")

    run(scenario())


def test_the_picture_at_the_cursor_is_looked_at_before_all_others(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        # The look at all of them gets nowhere.
        with mock.patch("loratory.imaging.survey.survey", return_value=()):
            async with open_pane(folder) as hand:
                await hand.type("G")
                await hand.until(lambda: hand.shows("600x240 → bucket"))
                await hand.type("c")
                assert hand.shows("CROP")
                assert len(hand.state.facts) < 4

    run(scenario())


def test_where_it_goes_is_asked_once(tmp_path: Path) -> None:
    folder = originals(tmp_path, RECIPES.partition("[defaults]")[2].join(["[defaults]", ""]))

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("r")
            assert hand.shows("training folder")
            await hand.answer("../train")
            await hand.answer("wolf")
            await hand.answer("animal")
            await hand.answer("x")
            assert hand.shows("4 of 5: repeats are a whole number"), "it asks again, and keeps the other answers"
            await hand.answer("7")
            assert hand.shows("5 of 5") and hand.shows("resolution")
            await hand.answer("96 px")
            assert hand.shows("5 of 5: a resolution is 1024")
            await hand.answer("96")
            await hand.until(lambda: "4 pictures built" in hand.message)
        assert sorted(path.name for path in (tmp_path / "train" / "7_wolf animal").glob("*.png")) == [
            "a.png",
            "b.png",
            "c.png",
            "d.png",
        ]

    run(scenario())
    assert 'destination = "../train"' in (folder / "recipes.toml").read_text()
    assert "resolution = 96" in (folder / "recipes.toml").read_text()


def test_a_training_folder_is_changed_and_changed_back(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    before = (folder / "10_fox" / "p0.png").read_bytes()

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("f")
            await hand.ready()
            await hand.type("r")
            await hand.ready()
            with Image.open(folder / "10_fox" / "p0.png") as picture:
                assert picture.size != (1280, 960)
            await hand.type("u", "r")
            await hand.ready()

    run(scenario())
    assert (folder / "10_fox" / "p0.png").read_bytes() == before


def test_filter_order_and_the_way_to_the_tag_editor(tmp_path: Path) -> None:
    folder = dataset(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            await hand.type("/")
            await hand.answer("p1")
            await hand.until(lambda: len(hand.state.shown) == 1)
            await hand.type("escape")
            assert len(hand.state.shown) == 3
            await hand.type("o", "o")
            assert hand.state.order == "to be built" and not hand.state.shown
            assert hand.shows("No picture is to be built")
            await hand.type("escape", "G", "e")
            await hand.until(lambda: hand.app.screen is hand.app.editor_screen)
            assert hand.app.editor_screen.place() == "10_fox/p2.png"
            hand.app.show_pane("prepare", "10_fox/p1.png")
            await hand.until(lambda: hand.app.screen is hand.screen)
            assert hand.state.cursor == 1

    run(scenario())


def test_all_keys_are_in_the_help(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_pane(originals(tmp_path), (100, 120)) as hand:
            assert set(hand.screen.commands.table) == {
                action.id
                for action in hand.screen.keymap.actions
                if action.id not in ("help", "quit") and not action.id.startswith("pane-")
            }
            await hand.type("?")
            await hand.pilot.pause()
            for action in (*hand.screen.keymap.actions, *hand.screen.marking.keymap.actions):
                assert hand.shows(action.help[:40]), action.id

    run(scenario())


def test_a_recipe_that_cannot_be_written_is_told_and_taken_back(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            with mock.patch(
                "loratory.preparation.book.write_text", side_effect=PermissionError(13, "Permission denied")
            ):
                await hand.type("x")
                await hand.until(lambda: "cannot be written" in hand.message)
                await hand.until(lambda: not hand.recipe.flip)
            await hand.ready()

    run(scenario())


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((80, 24), id="80x24"),
        pytest.param((160, 48), id="160x48", marks=pytest.mark.slow),
        pytest.param((60, 16), id="60x16", marks=pytest.mark.slow),
    ],
)
def test_hostile_names_are_shown_and_obeyed_by_none(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = tmp_path / "raw [b]"
    folder.mkdir()
    picture = folder / "plain.png"
    subject((64, 48), (10, 10, 40, 40)).save(picture)
    for name in file_names()[:: 1 if size == (80, 24) else 4]:
        (folder / f"{name}.png").write_bytes(picture.read_bytes())
    (folder / "recipes.toml").write_text(RECIPES)

    async def scenario() -> None:
        async with open_pane(folder, size) as hand:
            for _ in hand.state.shown:
                hand.screen.commands.table["next"]()
                hand.screen.look()
                await asyncio.sleep(0)
                for line in hand.shown():
                    assert "\x1b" not in line and "\x07" not in line
            for keys in (("I", "escape"), ("c", "?", "escape", "escape"), ("t", "escape"), ("n", "escape"), ("/", "[")):
                await hand.type(*keys)
            await hand.type("escape")
            assert hand.app.is_running

    run(scenario())


def test_unreadable_pictures_alone(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("[/b] no picture")
    subject((64, 64), (8, 8, 40, 40)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:60])
    (folder / "recipes.toml").write_text(RECIPES)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            for _ in range(3):
                await hand.type("c")
                assert hand.state.boxes is None and "nothing to mark" in hand.message
                await hand.type("v", "s", "x", "x", "j")
            await hand.type("r")
            await hand.ready()
            assert "3 failed" in hand.message
            await hand.type("g", "g", "f")
            assert hand.recipe.skip

    run(scenario())


@pytest.mark.slow
def test_no_pictures_any_more(tmp_path: Path) -> None:
    folder = originals(tmp_path)

    async def scenario() -> None:
        async with open_pane(folder) as hand:
            for path in folder.glob("*.png"):
                path.unlink()
            await hand.type("g", "r")
            await hand.until(lambda: not hand.state.entries)
            assert hand.shows("No pictures here.")
            for action in hand.screen.keymap.actions:
                if action.id in hand.screen.commands.table and action.id not in ("set-up", "filter"):
                    hand.screen.commands.table[action.id]()
                    await hand.pilot.pause()
                    await hand.type("escape")

    run(scenario())


def test_without_colours_and_in_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = originals(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    async def scenario() -> None:
        async with open_pane(folder, glyphs=ASCII, mode="ascii") as hand:
            await hand.type("x")
            assert all(line.isascii() for line in hand.shown()), hand.shown()
            await hand.type("c", "l")
            await hand.until(lambda: hand.screen.query_one(Preview).drawn)
            assert all(line.isascii() for line in hand.shown()), hand.shown()
            await hand.type("escape", "r")
            await hand.ready()
            assert all(line.isascii() for line in hand.shown()), hand.shown()

    run(scenario())
