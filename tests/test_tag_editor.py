"""The tag editor by its keys: what they do to the captions on disk, and what the screen says of it."""

import asyncio
import threading
from pathlib import Path

import pytest
from textual.widgets import TextArea

from editor_app import make_pictures, open_editor
from loratory.tui.told import Told

SIX = {
    "001_river": "mizutsune, feral, blue eyes, german shepherd, dog",
    "002_claw": "mizutsune, feral, blue eyes",
    "003_jump": None,
    "004_side": "mizutsune, feral, Side_View",
    "005_sketch": "mizutsune, feral, sketch, ",
    "006_lake": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "set" / "10_mizutsune", SIX)


def caption(folder: Path, name: str) -> str:
    return (folder / f"{name}.txt").read_text("utf-8")


class TestEditing:
    def test_tags_are_added_where_they_are_wanted(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("a")
                await typist.write("zzz own token,")
                assert typist.screen.insert.purpose is not None, "a comma commits and stays"
                await typist.type("escape", "p")
                await typist.write("first one,second one,")
                await typist.type("escape")
                await typist.written()

        asyncio.run(scenario())
        assert (
            caption(folder, "001_river")
            == "first one, second one, mizutsune, feral, blue eyes, german shepherd, dog, zzz own token"
        )

    def test_tab_takes_the_suggestion_as_this_set_writes_tags(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("j", "a")
                await typist.write("sideview")
                await typist.until(lambda: typist.screen.insert._offered)
                await typist.type("escape", "a")
                await typist.write("white backg")
                await typist.type("tab", "escape")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "002_claw") == "mizutsune, feral, blue eyes, white background"

    def test_keys_from_before_the_start_have_their_effect(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder, typed_ahead="jaown tag,\x1b") as typist:
                await typist.until(lambda: typist.screen.insert.purpose is None and caption(folder, "002_claw"))
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "002_claw").endswith(", own tag")

    def test_a_comma_never_becomes_the_suggestion(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("j", "a")
                await typist.write("white backg,")
                await typist.type("escape")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "002_claw").endswith(", white backg")

    def test_hints_remove_change_and_move(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("d", "g")
                await typist.type("c", "d")
                await typist.write("=green ey")
                await typist.type("enter")
                await typist.type("m", "f", "a")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "001_river") == "german shepherd, mizutsune, feral, green ey"

    def test_capitals_act_on_all_the_filtered_or_the_selected(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("P")
                await typist.write("tok, anthro")
                await typist.type("enter")
                await typist.type("/")
                await typist.write("tag:sketch")
                await typist.type("enter", "A")
                await typist.write("monochrome")
                await typist.type("enter", "escape", "s", "s", "A")
                assert typist.shows("add to 2 selected")
                await typist.write("picked")
                await typist.type("enter")
                await typist.written()

        asyncio.run(scenario())
        texts = [caption(folder, name) for name in SIX]
        assert all(text.startswith("tok, anthro") for text in texts)
        assert [text.count("monochrome") for text in texts] == [0, 0, 0, 0, 1, 0]
        assert sum("picked" in text for text in texts) == 2

    def test_undo_and_redo_reach_back_over_a_restart(self, folder: Path) -> None:
        before = {path.name: path.read_bytes() for path in folder.glob("*.txt")}

        async def edit() -> None:
            async with open_editor(folder) as typist:
                await typist.type("A")
                await typist.write("everywhere")
                await typist.type("enter", "x", "a")
                await typist.written()

        async def undo() -> None:
            async with open_editor(folder) as typist:
                await typist.type("u", "u", "u")
                await typist.until(lambda: "nothing to undo" in typist.message)
                await typist.written()

        async def redo() -> None:
            async with open_editor(folder) as typist:
                await typist.type("U", "U")
                await typist.written()

        asyncio.run(edit())
        changed = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
        asyncio.run(undo())
        assert {path.name: path.read_bytes() for path in folder.glob("*.txt")} == before
        asyncio.run(redo())
        assert {path.name: path.read_bytes() for path in folder.glob("*.txt")} == changed

    def test_repeat_carry_and_copy(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("c", "d")
                await typist.write("red eyes")
                await typist.type("enter", "j", ".")
                await typist.type("y", "y", "j", "g", "p")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "002_claw") == caption(folder, "003_jump") == "mizutsune, feral, red eyes"

    def test_carrying_forward_takes_all_that_was_added(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("a")
                await typist.write("one,two,three,")
                await typist.type("escape", "j", "j", "Q", "j", ".")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "003_jump") == "one, two, three"
        assert caption(folder, "004_side").endswith(", one, two, three")

    def test_text_left_in_the_prompt_is_told(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("a")
                await typist.write("kept,left")
                await typist.type("escape")
                assert "“left” was not added" in typist.message
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "001_river").endswith(", kept")

    def test_messages_count_what_really_changed(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("x", "f")
                assert "1 of 6" in typist.message
                await typist.written()

        asyncio.run(scenario())

    def test_the_palette_toggles(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("y", "f", "j", "1", "j", "1", "1")
                await typist.written()
                assert typist.shows("1 german shepherd")

        asyncio.run(scenario())
        assert caption(folder, "002_claw").endswith(", german shepherd")
        assert not (folder / "003_jump.txt").exists() or not caption(folder, "003_jump")

    def test_a_recording_is_replayed_elsewhere(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("j", "q", "d", "d", "j", "q")
                await typist.type("g", "g", "@")
                await typist.written()
                assert typist.editor.selection.cursor == 1

        asyncio.run(scenario())
        assert "blue eyes" not in caption(folder, "001_river") + caption(folder, "002_claw")

    def test_a_recording_holds_what_was_typed(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("q", "a")
                await typist.write("typed,")
                await typist.type("escape", "j", "q", "@", "@")
                await typist.written()

        asyncio.run(scenario())
        assert [caption(folder, name).endswith("typed") for name in list(SIX)[:4]] == [True, True, True, False]

    def test_one_tag_is_reviewed_over_all_pictures(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("t", "d")
                assert typist.shows("REVIEW")
                await typist.type("n", "y", "y", "n", "n", "n")
                assert typist.screen.normal.reviewing is None
                await typist.written()

        asyncio.run(scenario())
        has = [
            "blue eyes" in (folder / f"{name}.txt").read_text() if (folder / f"{name}.txt").exists() else False
            for name in SIX
        ]
        assert has == [False, True, True, False, False, False]

    def test_the_caption_can_be_written_as_text(self, folder: Path) -> None:
        (folder / "002_claw.txt").write_bytes(b"one line\r\nanother line\r\n")

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("j", "e")
                await typist.write(", a fox")
                await typist.type("escape")
                await typist.written()

        asyncio.run(scenario())
        assert (folder / "002_claw.txt").read_bytes() == b"one line\r\nanother line, a fox\r\n"


class TestFinding:
    def test_space_goes_from_finding_to_finding_and_counts(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("space")
                assert typist.editor.session.items[0].reviewed
                assert typist.editor.selection.cursor != 0
                assert typist.shows("1/6 reviewed")
                await typist.written()
            async with open_editor(folder) as typist:
                assert typist.editor.session.items[0].reviewed, "remembered"

        asyncio.run(scenario())

    def test_an_implied_tag_is_told_fixed_and_kept(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type(":")
                await typist.write("vocabulary e621")
                await typist.type("enter")
                await typist.until(lambda: typist.editor.session.vocabulary.site == "e621" and typist.screen.is_ready)
                await typist.until(
                    lambda: any(f.rule == "implied" for f in typist.editor.findings.of(typist.editor.session.items[0]))
                )
                assert typist.shows("implied")
                await typist.type("!", "g")
                await typist.until(lambda: "kept" in typist.message)
                await typist.until(
                    lambda: (
                        not any(f.rule == "implied" for f in typist.editor.findings.of(typist.editor.session.items[0]))
                    )
                )
                await typist.written()

        asyncio.run(scenario())
        assert "dog" in (folder.parent / ".loratory" / "dataset.toml").read_text()

    def test_a_fix_in_many_changes_only_those_that_need_it(self, folder: Path) -> None:
        (folder / "002_claw.txt").write_text("mizutsune, feral, dog, sitting")
        (folder.parent / ".loratory").mkdir()
        (folder.parent / ".loratory" / "dataset.toml").write_text('vocabulary = "e621"\n')

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("F")
                await typist.written()

        asyncio.run(scenario())
        assert caption(folder, "001_river") == "mizutsune, feral, blue eyes, german shepherd"
        assert caption(folder, "002_claw") == "mizutsune, feral, dog, sitting"

    def test_a_filter_narrows_and_errors_point(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("/")
                await typist.write("tag:blue* AND (")
                await typist.type("enter")
                assert typist.screen.insert.purpose is not None, "a wrong query stays to be mended"
                await typist.write("NOT untagged)")
                await typist.type("enter")
                assert [item.image_name for item in typist.editor.selection.shown] == ["001_river.png", "002_claw.png"]
                await typist.type("escape", "/", *["backspace"] * 40)
                await typist.write("untagged")
                await typist.type("enter")
                assert [item.image_name for item in typist.editor.selection.shown] == ["003_jump.png", "006_lake.png"]
                await typist.type("escape")
                assert len(typist.editor.selection.shown) == 6

        asyncio.run(scenario())

    def test_a_filter_that_finds_nothing_leaves_the_prompt_open(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("/")
                await typist.write("no such tag")
                await typist.type("enter")
                assert typist.screen.insert.purpose is not None and "no picture" in typist.message
                await typist.type("escape")
                assert not typist.editor.selection.is_filtered

        asyncio.run(scenario())


class TestSaying:
    def test_what_capitals_act_on_is_never_cut(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder, size=(50, 20)) as typist:
                assert typist.shows("CAPITALS all 6")
                await typist.type("s", "s")
                assert typist.shows("CAPITALS 2 selected")

        asyncio.run(scenario())

    def test_a_long_sentence_is_shown_in_full(self, folder: Path) -> None:
        sentence = (
            "word by word this goes on until no single row of eighty cells can hold it and the remedy stands last"
        )

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                typist.screen.tell(Told(sentence, wrong=True))
                await typist.until(lambda: typist.shows("stands last"))
                typist.screen.tell(Told("short"))
                await typist.until(lambda: typist.shows("puts it on a number key"))

        asyncio.run(scenario())


class TestSafety:
    def test_somebody_elses_change_is_kept(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                (folder / "002_claw.txt").write_text("mizutsune, feral, blue eyes, from outside")
                await typist.type("j", "a")
                await typist.write("from inside,")
                await typist.type("escape")
                await typist.written()
                await typist.until(lambda: "from outside" in typist.editor.session.items[1].tags)

        asyncio.run(scenario())
        text = caption(folder, "002_claw")
        assert "from outside" in text and "from inside" in text

    def test_a_change_on_disk_is_noticed(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                (folder / "003_jump.txt").write_text("an auto-tagger was here")
                await typist.until(lambda: typist.editor.session.items[2].tags == ("an auto-tagger was here",))

        asyncio.run(scenario())

    def test_what_is_typed_goes_where_it_was_begun(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("a")
                await typist.write("for the first,")
                await typist.written()
                gate = threading.Event()
                typist.screen.writer.put(lambda: gate.wait(10), lambda result: None)
                await typist.type("escape", "j", "j", "u", "a")
                await typist.write("for the third")
                gate.set()
                await typist.until(lambda: typist.screen.writer.pending == 0)
                await typist.type("enter", "escape")
                await typist.written()
                assert typist.editor.selection.cursor == 2, "an undo elsewhere moves nobody who is typing"

        asyncio.run(scenario())
        assert caption(folder, "003_jump") == "for the third"
        assert "for the" not in caption(folder, "001_river")

    def test_edits_that_cannot_be_written_are_told_after_the_screen_has_gone(self, folder: Path) -> None:
        async def scenario() -> list[str]:
            async with open_editor(folder) as typist:
                await typist.type("d", "a")
                await typist.written()
                typist.screen.writer.put(lambda: open_gate.wait(10), lambda result: None)
                await typist.type("d", "a")
                (folder.parent / ".loratory" / "journal.jsonl").unlink()
                (folder.parent / ".loratory" / "journal.jsonl").mkdir()
                typist.screen.background.stopping.set()
                open_gate.set()
                screen = typist.screen
            return screen.last_words

        open_gate = threading.Event()
        words = asyncio.run(scenario())
        assert len(words) == 1 and "not written" in words[0]

    def test_a_typed_caption_that_meets_another_change_is_handed_back(self, folder: Path) -> None:
        (folder / "002_claw.txt").write_text("A fox sleeps in the snow.")

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                gate = threading.Event()
                await typist.type("j", "e", "end")
                await typist.write(" It is cold.")
                typist.screen.writer.put(lambda: gate.wait(10), lambda result: None)
                await typist.type("escape")
                (folder / "002_claw.txt").write_text("A wolf howls at the moon.")
                gate.set()
                await typist.until(lambda: typist.screen.is_editing_text)
                assert "It is cold." in typist.screen.query_one("#text", TextArea).text

        asyncio.run(scenario())
        assert caption(folder, "002_claw") == "A wolf howls at the moon."


class TestKeymap:
    def test_keys_can_be_changed(self, folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "keys.toml"
        path.write_text('[keys]\nnext = ["n", "down"]\nnext-hit = []\n')

        async def scenario() -> None:
            async with open_editor(folder, key_file=path) as typist:
                await typist.type("n")
                assert typist.editor.selection.cursor == 1

        asyncio.run(scenario())
