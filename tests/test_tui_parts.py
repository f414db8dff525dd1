"""The parts of the editor that need no screen: keys, hints, the list a person moves through, the panel's lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from editor_app import make_pictures
from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.items import Item
from loratory.editing.session import Session, find_root, guess_site
from loratory.errors import LoratoryError
from loratory.tags.query import parse_query
from loratory.tui.finding_index import FindingIndex
from loratory.tui.keys import ACTIONS, HINT_LETTERS, Keymap, hints, read_keymap
from loratory.tui.selection import Selection
from loratory.tui.text import ASCII, fitted, number, printable
from loratory.tui.widgets.tag_panel import PanelView, TagView, panel_lines


class TestHints:
    @given(st.integers(0, 500))
    def test_no_hint_begins_another(self, count: int) -> None:
        made = hints(count)
        assert len(made) == len(set(made)) == count
        assert not [one for one in made for other in made if one != other and other.startswith(one)]

    def test_a_few_tags_have_one_letter_each_from_the_home_row(self) -> None:
        assert hints(4) == ["a", "s", "d", "f"]

    def test_no_hint_is_the_key_that_copies_the_caption(self) -> None:
        assert "y" not in HINT_LETTERS


class TestKeymap:
    def test_every_action_has_a_key_and_every_key_one_action(self) -> None:
        keys = [keys for action in ACTIONS for keys in action.keys]
        assert len(keys) == len(set(keys))
        assert all(action.keys and action.help for action in ACTIONS)
        assert len({action.id for action in ACTIONS}) == len(ACTIONS)

    def test_sequences_are_found_and_awaited(self) -> None:
        keymap = Keymap()
        assert keymap.is_prefix("g") and keymap.find("g") is None
        found = keymap.find("g g")
        assert found is not None and found.id == "first"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[keys]\nad = "b"', "add"),
            ('[keys]\nadd = "j"', "next"),
            ("[keys]\nadd = 3", "must be a key"),
            ('[key]\nadd = "b"', "[key]"),
            ('[keys]\nadd = "b"\nfilter = "b c"', "never be typed"),
            ("[keys\n", "line 1"),
        ],
    )
    def test_a_wrong_key_file_is_told(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "keys.toml"
        path.write_text(text)
        with pytest.raises(LoratoryError) as told:
            read_keymap(path)
        assert says in told.value.message + told.value.hint

    def test_an_action_may_lose_its_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.toml"
        path.write_text('[keys]\nnext-hit = []\nnext = ["n", "down"]\n')
        keymap = read_keymap(path)
        found = keymap.find("n")
        assert found is not None and found.id == "next" and keymap.find("j") is None


class TestSelection:
    @pytest.fixture
    def selection(self, tmp_path: Path) -> Selection:
        captions = {f"{number:02d}": "fox, tree" if number % 2 else "" for number in range(10)}
        make_pictures(tmp_path / "10_fox", captions)
        return Selection(Session(tmp_path / "10_fox").items)

    def test_the_cursor_stays_in_the_list(self, selection: Selection) -> None:
        assert selection.move(100) and selection.cursor == 9
        assert not selection.move(1)
        assert selection.move(-100) and selection.cursor == 0

    def test_a_filter_keeps_the_picture_or_takes_the_next(self, selection: Selection) -> None:
        selection.go(4)
        odd = [item for item in selection.items if item.tags]
        selection.filter(parse_query("fox"), "fox", odd)
        assert selection.current is odd[2] and selection.wide_name == "5 filtered"
        selection.clear_filter()
        assert selection.current is odd[2] and selection.wide_name == "all 10"

    def test_an_empty_list_has_no_picture(self, selection: Selection) -> None:
        selection.filter(parse_query("wolf"), "wolf", [])
        assert selection.current is None and selection.wide == []
        assert selection.seek(lambda item: True) is None
        assert not selection.move(1)

    def test_the_widest_scope_is_what_is_selected(self, selection: Selection) -> None:
        selection.toggle(selection.items[2:4])
        selection.go(6)
        selection.range_from = 5
        assert [item.image_name for item in selection.wide] == ["02.png", "03.png", "05.png", "06.png"]
        assert selection.wide_name == "4 selected"

    def test_going_to_a_hidden_picture_drops_the_filter(self, selection: Selection) -> None:
        selection.filter(parse_query("fox"), "fox", selection.items[:2])
        assert selection.go_to(selection.items[7])
        assert not selection.is_filtered and selection.cursor == 7

    def test_new_pictures_keep_cursor_and_selection(self, selection: Selection) -> None:
        selection.go(5)
        selection.toggle([selection.items[5], selection.items[0]])
        left = selection.items[3:]
        selection.replace_items(left, left)
        assert selection.current is left[2] and list(selection.selected) == ["10_fox/05.png"]


class TestOpening:
    def test_one_journal_for_the_whole_set(self, tmp_path: Path) -> None:
        make_pictures(tmp_path / "set" / "10_fox", {"a": ""})
        assert find_root(tmp_path / "set" / "10_fox") == tmp_path / "set" == find_root(tmp_path / "set")
        (tmp_path / ".loratory").mkdir()
        assert find_root(tmp_path / "set" / "10_fox") == tmp_path

    def test_folders_below_links_and_hidden_ones(self, tmp_path: Path) -> None:
        make_pictures(tmp_path / "set" / "10_fox", {"a": "", "b": ""})
        make_pictures(tmp_path / "set" / ".trash", {"c": ""})
        make_pictures(tmp_path / "set" / "reg" / "1_animal", {"d": ""})
        (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
        items = Session(tmp_path / "set").items
        assert [(item.name, item.class_tokens, item.is_reg) for item in items] == [
            ("10_fox/a.png", "fox", False),
            ("10_fox/b.png", "fox", False),
            ("reg/1_animal/d.png", "animal", True),
        ]

    def test_pictures_that_share_a_caption_know_each_other(self, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "10_fox", {"a": "fox"})
        (folder / "a.jpg").write_bytes((folder / "a.png").read_bytes())
        items = Session(folder).items
        assert [item.shared_with for item in items] == [("10_fox/a.png",), ("10_fox/a.jpg",)]

    def test_the_vocabulary_is_guessed_from_the_captions(self, tmp_path: Path) -> None:
        sentence = "A brown dog sleeping at night on a very fluffy carpet by the fire."
        for name, text, site in (
            ("e", "mizutsune, feral, three-quarter view, domestic dog, zero pictured", "e621"),
            ("d", "1girl, solo, from side, cowboy shot, looking at viewer", "danbooru"),
            ("n", sentence, "natural"),
        ):
            folder = make_pictures(tmp_path / name, {"a": text})
            assert guess_site(Session(folder).items) == site

    @pytest.mark.parametrize("what", ["nothing", "file"])
    def test_what_is_no_folder_is_told(self, tmp_path: Path, what: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(LoratoryError):
            Session(tmp_path / what)


def test_the_editor_starts_without_what_training_needs() -> None:
    heavy = ["torch", "transformers", "diffusers", "peft", "numpy", "PIL", "pydantic", "rapidfuzz", "tokenizers"]
    code = f"import sys; import loratory.tui.start; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


class TestPanel:
    @given(
        tags=st.lists(st.text(min_size=1, max_size=30), max_size=60),
        finding=st.text(max_size=200),
        width=st.integers(8, 90),
        height=st.integers(1, 50),
        typed=st.sampled_from([None, "", "a", "z"]),
    )
    def test_it_fits_whatever_it_says(
        self, tags: list[str], finding: str, width: int, height: int, typed: str | None
    ) -> None:
        view = PanelView(
            facts=("a.png", "10x10"),
            tags=tuple(
                TagView(tag, index, "typo" * (index % 2), "red" * (index % 2)) for index, tag in enumerate(tags)
            ),
            findings=((finding, "f fixes"),) if finding else (),
            typed=typed,
            empty="no tags: a adds the first",
        )
        lines = panel_lines(view, width, height)
        assert len(lines) <= height
        assert all(cell_len(line.plain) <= width for line in lines)

    def test_every_tag_has_its_hint_and_the_worst_is_told(self) -> None:
        view = PanelView(
            tags=(TagView("dog", 3, "implied", "$text-warning"), TagView("german shepherd", 3)),
            findings=(("dog is implied", "f removes it"),),
        )
        text = "\n".join(line.plain for line in panel_lines(view, 40, 12))
        assert "a dog" in text and "s german shepherd" in text and "! dog is implied" in text and "f removes it" in text

    def test_tags_take_columns_where_rows_are_short(self) -> None:
        view = PanelView(tags=tuple(TagView(f"tag{index}") for index in range(20)))
        lines = panel_lines(view, 60, 8)
        assert all(any(f"tag{index}" in line.plain for line in lines) for index in range(20))

    def test_sentences_are_shown_as_text(self) -> None:
        lines = panel_lines(PanelView(text="A fox.\nA brown one."), 20, 6)
        assert [line.plain.rstrip() for line in lines] == ["A fox.", "A brown one."]


class TestText:
    @given(st.text(max_size=80), st.integers(0, 60))
    def test_fitted_text_has_exactly_its_width(self, text: str, width: int) -> None:
        assert cell_len(fitted(text, width)) == width
        assert cell_len(fitted(text, width, ASCII.ellipsis)) == width

    @given(st.text(max_size=80))
    def test_printable_text_can_be_printed(self, text: str) -> None:
        assert not set(printable(text)) & set("\x1b\x07\x00\n\r\u202e\x9b")

    def test_numbers_are_short(self) -> None:
        assert [number(count) for count in (0, 999, 1200, 64_000, 1_800_000)] == ["0", "999", "1.2k", "64k", "1.8M"]


class TestFindingIndex:
    def test_it_counts_pictures_with_more_than_notes(self, tmp_path: Path) -> None:
        items = Session(make_pictures(tmp_path / "10_fox", {"a": "x", "b": "y", "c": "z"})).items
        severity = {"a.png": "warning", "b.png": "note"}

        def check(item: Item) -> list[CaptionFinding]:
            said = severity.get(item.image_name)
            return [] if said is None else [CaptionFinding("rule", said, None, "")]  # pyright: ignore

        index = FindingIndex(check)
        index.touch(items)
        while index.work(0.001):
            pass
        assert index.pictures_with == 1 and index.is_complete
        assert [index.is_serious(item) for item in items] == [True, False, False]
        severity.clear()
        index.touch(items[:1])
        assert index.of(items[0]) == () and index.pictures_with == 0
