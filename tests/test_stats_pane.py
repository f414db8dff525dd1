"""The statistics pane under the pilot: the balance that is tried, renamed and taken back, and where its rows lead."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editor_app import Typist, make_pictures, open_editor
from loratory.tui.stats import figures
from loratory.tui.stats.screen import StatsScreen
from loratory.tui.stats.sections import Figures
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.table import Column, Line, Table, TableView


@asynccontextmanager
async def open_stats(
    root: Path, size: tuple[int, int] = (80, 24), glyphs: Glyphs = UNICODE
) -> AsyncGenerator[tuple[Typist, StatsScreen]]:
    """The pane on `root`, its pictures looked at."""
    async with open_editor(root, size=size, glyphs=glyphs) as typist:
        await typist.type("g", "3")
        pane = typist.app.panes["stats"]
        assert isinstance(pane, StatsScreen)
        await typist.until(lambda: pane.is_mounted and not pane.is_counting)
        assert not pane.message, pane.message
        yield typist, pane


@pytest.fixture
def wardrobe(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name, count in (("plate", 5), ("leather", 4), ("cloth", 3)):
        captions = {f"{name}{i}": f"hunter, {name}" + (", side view" if i == 0 else "") for i in range(count)}
        make_pictures(root / f"10_hunter, {name}", captions, (640, 512))
    return root


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


class TestBalance:
    def test_a_changed_repeat_updates_everything_and_renames_nothing(self, wardrobe: Path) -> None:
        async def scenario() -> None:
            async with open_stats(wardrobe) as (typist, pane):
                assert typist.shows("120 pictures an epoch")
                await typist.type("+")
                assert pane.what_if.repeats == (11, 10, 10)
                assert typist.shows("10 → 11") and typist.shows("123 pictures an epoch")
                await typist.type("-", "-", "j", "e")
                await typist.type("backspace", "backspace", "1", "3", "enter")
                assert pane.what_if.repeats == (9, 13, 10)
                await typist.type("e", "x", "enter")
                assert "whole number" in pane.message and pane.what_if.repeats == (9, 13, 10)
                await typist.type("e", *["backspace"] * 2, "0", "enter")
                assert "1 to 10000" in pane.message and pane.what_if.repeats == (9, 13, 10)
                await typist.type("r")
                assert pane.what_if.repeats == (10, 10, 10)
                assert folders(wardrobe) == ["10_hunter, cloth", "10_hunter, leather", "10_hunter, plate"]

        asyncio.run(scenario())

    def test_apply_renames_the_folders_and_u_takes_it_back(self, wardrobe: Path) -> None:
        async def scenario() -> None:
            async with open_stats(wardrobe) as (typist, pane):
                await typist.type("b", "a")
                renamed = ["10_hunter, plate", "13_hunter, leather", "17_hunter, cloth"]
                await typist.until(lambda: "renamed" in pane.message and not pane.is_counting)
                assert folders(wardrobe) == renamed
                assert [item.folder for item in typist.editor.session.items][:1] == ["10_hunter, plate"]
                await typist.type("1")
                await typist.until(lambda: typist.screen.is_ready)
                await typist.type("a")
                await typist.write("wugwug")
                await typist.type("enter", "escape")
                await typist.written()
                assert (wardrobe / "10_hunter, plate" / "plate0.txt").read_text().endswith(", wugwug")
                await typist.type("g", "3", "u")
                await typist.until(lambda: "old names" in pane.message and not pane.is_counting)
                assert folders(wardrobe) == ["10_hunter, cloth", "10_hunter, leather", "10_hunter, plate"]
                await typist.type("a")
                assert "Nothing to rename" in pane.message

        asyncio.run(scenario())

    def test_a_name_that_is_taken_is_refused_before_anything_moves(self, wardrobe: Path) -> None:
        async def scenario() -> None:
            async with open_stats(wardrobe) as (typist, pane):
                (wardrobe / "17_hunter, cloth").mkdir()
                before = folders(wardrobe)
                await typist.type("b", "a")
                await typist.until(lambda: "17_hunter, cloth" in pane.message)
                assert folders(wardrobe) == before

        asyncio.run(scenario())

    def test_folders_renamed_while_pictures_are_looked_at_are_looked_at_again(
        self, wardrobe: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, gather = threading.Event(), figures.gather

        def waiting(*arguments: Any) -> Figures:
            assert gate.wait(30)
            return gather(*arguments)

        async def scenario() -> None:
            async with open_stats(wardrobe) as (typist, pane):
                monkeypatch.setattr(figures, "gather", waiting)
                await typist.type("g", "r", "b", "a")
                await typist.until(lambda: "renamed" in pane.message)
                assert pane.is_counting
                gate.set()
                await typist.until(lambda: not pane.is_counting)
                await typist.type("tab")
                names = {name for line in pane.view.lines for name in line.pictures}
                assert {name.partition("/")[0] for name in names} == set(folders(wardrobe))

        asyncio.run(scenario())

    def test_more_repeats_than_training_takes_are_not_given(self, tmp_path: Path) -> None:
        make_pictures(tmp_path / "5001_a", {"x": "", "y": ""})
        make_pictures(tmp_path / "1_b", {"z": ""})

        async def scenario() -> None:
            async with open_stats(tmp_path) as (typist, pane):
                await typist.type("b", "a")
                assert "10000 repeats" in pane.message
                assert folders(tmp_path) == ["1_b", "5001_a"]
                await typist.type("j", "e", *["backspace"] * 4, "5", "enter", "b", "a")
                await typist.until(lambda: "renamed" in pane.message)
                assert folders(tmp_path) == ["10_b", "5_a"]

        asyncio.run(scenario())


class TestSections:
    def test_rows_lead_to_their_pictures_and_back(self, wardrobe: Path) -> None:
        async def scenario() -> None:
            async with open_stats(wardrobe) as (typist, pane):
                await typist.type("tab")
                assert pane.section == "Tags" and typist.shows("hunter")
                rows = [line.cells[0] for line in pane.view.lines]
                await typist.type(*["j"] * rows.index("side view"), "enter")
                shown = [item.image_name for item in typist.editor.selection.shown]
                assert shown == ["cloth0.png", "leather0.png", "plate0.png"]
                assert typist.app.current_mode == "tags" and typist.shows("side view")
                await typist.type("escape")
                assert len(typist.editor.selection.shown) == 12
                await typist.type("f3")
                assert typist.app.current_mode == "stats" and pane.section == "Tags"

        asyncio.run(scenario())

    @pytest.mark.parametrize("size", [(80, 24), (160, 48), (40, 12)])
    @pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
    def test_every_section_draws_at_every_size(self, wardrobe: Path, size: tuple[int, int], glyphs: Glyphs) -> None:
        async def scenario() -> None:
            async with open_stats(wardrobe, size, glyphs) as (typist, pane):
                seen = {pane.section}
                for _ in range(7):
                    await typist.type("tab")
                    assert pane.view.lines or pane.view.empty
                    seen.add(pane.section)
                    if glyphs is ASCII:
                        assert all(line.isascii() for line in typist.shown())
                assert len(seen) == 8

        asyncio.run(scenario())

    def test_hostile_names_and_tags_are_shown_as_they_are(self, tmp_path: Path) -> None:
        captions = {"[b]x": "[/b], [@click=app.quit]x", "y": "[/b], \x1b[31mred", "z": "[/, :x:"}
        make_pictures(tmp_path / "3_[b]x", captions)

        async def scenario() -> None:
            async with open_stats(tmp_path) as (typist, _):
                assert typist.shows("3_[b]x")
                for _ in range(7):
                    await typist.type("tab")
                    assert not any("\x1b" in line for line in typist.shown())
                await typist.type("tab", "tab")
                assert typist.shows("[@click=app.quit]x")

        asyncio.run(scenario())

    def test_a_folder_without_concepts_says_what_they_are(self, tmp_path: Path) -> None:
        make_pictures(tmp_path / "loose", {"a": "x"})

        async def scenario() -> None:
            async with open_stats(tmp_path) as (typist, pane):
                assert typist.shows("No concept folder with pictures")
                for key in ("b", "d", "a", "u", "+", "e", "enter"):
                    await typist.type(key)
                    assert pane.message
                await typist.type("G", "g", "g", "ctrl+d", "?")
                assert typist.shows("Balance (what if")
                await typist.type("escape")

        asyncio.run(scenario())


def test_a_key_file_changes_the_keys_of_the_pane(wardrobe: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text('[stats]\nbalance = "B"\n')

    async def scenario() -> None:
        async with open_editor(wardrobe, key_file=tmp_path / "keys.toml") as typist:
            await typist.type("g", "3")
            pane = typist.app.panes["stats"]
            assert isinstance(pane, StatsScreen)
            await typist.until(lambda: pane.is_mounted)
            await typist.type("b")
            assert "does nothing" in pane.message
            await typist.type("B")
            assert pane.what_if.repeats == (17, 13, 10)

    asyncio.run(scenario())


@given(
    st.lists(st.tuples(st.text(max_size=30), st.integers(0, 10**6), st.floats(0, 1)), max_size=20),
    st.integers(1, 120),
    st.integers(1, 30),
)
def test_a_table_never_draws_outside_its_room(rows: list[tuple[str, int, float]], width: int, height: int) -> None:
    from textual.geometry import Size

    class Sized(Table):
        @property
        def size(self) -> Size:
            return Size(width, height)

    lines = tuple(Line((name, str(count), str(share))) for name, count, share in rows)
    table = Sized(UNICODE)
    table.show(TableView((Column("name", "text"), Column("count"), Column("", "bar")), lines, ("a note",), "none"), 0)
    drawn = table.render().split("\n")
    assert len(drawn) <= max(1, height)
    assert all(line.cell_length <= width for line in drawn)
    assert json.dumps([line.plain for line in drawn])
