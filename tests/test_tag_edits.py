"""Edits as values: what they change, and above all what they leave alone, byte for byte."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.tags.edits import (
    Add,
    Dedupe,
    Edit,
    Move,
    Normalise,
    Position,
    Remove,
    Rename,
    SetTags,
    SetText,
    Several,
    Sort,
    Substitute,
    ToUtf8,
    past,
)
from loratory.tags.text import EMPTY, CaptionText, key, parse, tags_of

TAG = st.sampled_from(
    ["a", "b", "B", "c", "d e", "D_e", r"\(x\)", "(x:1.2)", "photo (medium)", "^_^", ":3", "🦊", "[/b]", "x"]
)
DELIMITERS = st.sampled_from([", ", ",", " , ", ",,", ", ,", " ||| ", "|||", "\n", "\r\n", " \n\n"])
POSITIONS = st.one_of(st.sampled_from(["start", "end"]), st.integers(-5, 5).filter(bool))
TEXTS = st.lists(st.one_of(TAG, DELIMITERS, st.sampled_from([" ", "\t", "\u2028", "\r"])), max_size=24).map("".join)
EDITS = st.one_of(
    st.builds(Add, st.lists(TAG, min_size=1, max_size=3).map(tuple), POSITIONS, st.sampled_from(["skip", "move"])),
    st.builds(Remove, st.lists(TAG, min_size=1, max_size=3).map(tuple)),
    st.builds(Rename, TAG, st.lists(TAG, max_size=3).map(tuple)),
    st.builds(Move, TAG, POSITIONS),
    st.builds(Sort, st.integers(0, 3)),
    st.builds(Sort, st.integers(0, 3), st.just((("x", 1.0), ("b", 2.0)))),
    st.just(Dedupe()),
    st.builds(SetTags, st.lists(TAG, max_size=4).map(tuple)),
    st.builds(SetText, TEXTS),
    st.builds(
        Normalise,
        st.sampled_from(["spaces", "underscores", "keep"]),
        st.sampled_from(["remove", "add", "keep"]),
        st.just(True),
    ),
    st.builds(Substitute, TAG, TAG),
)


def do(edit: Edit, text: str) -> str:
    return edit.apply(CaptionText(text, "utf-8")).text


def all_tags(text: str) -> list[list[str]]:
    return [[part.body for part in line.parts if part.body] for line in parse(text) if line.has_text]


def keys(text: str) -> list[list[str]]:
    return [[key(tag) for tag in tags] for tags in all_tags(text)]


def fences(text: str) -> list[int]:
    return [count for line in parse(text) if (count := sum(part.delimiter == "|||" for part in line.parts))]


# What holds for every edit.


@given(EDITS, TEXTS)
def test_an_edit_that_changes_nothing_gives_the_same_object(edit: Edit, text: str) -> None:
    caption = CaptionText(text, "utf-8")
    changed = edit.apply(caption)
    assert (changed is caption) == (changed.text == text)


@given(st.one_of(EDITS.filter(lambda edit: not isinstance(edit, Substitute | Rename | Move | Add))), TEXTS)
def test_an_edit_made_twice_is_an_edit_made_once(edit: Edit, text: str) -> None:
    once = do(edit, text)
    assert do(edit, once) == once


@given(EDITS.filter(lambda edit: isinstance(edit, Add | Remove | Rename | Move | Sort | Dedupe)), TEXTS)
def test_tags_that_an_edit_is_not_about_keep_their_bytes_order_and_fences(edit: Edit, text: str) -> None:
    named = {key(tag) for name in ("tags", "new") for tag in getattr(edit, name, ())}
    named |= {key(tag) for name in ("tag", "old") if isinstance(tag := getattr(edit, name, None), str)}
    before = [[tag for tag in tags if key(tag) not in named] for tags in all_tags(text)]
    after = [[tag for tag in tags if key(tag) not in named] for tags in all_tags(do(edit, text))]
    if isinstance(edit, Sort):
        before, after = [sorted(tags) for tags in before], [sorted(tags) for tags in after]
    elif isinstance(edit, Dedupe):
        before = [[tag for tag in tags if keys_once(tag, tags)] for tags in before]
        after = [[tag for tag in tags if tag in line] for line, tags in zip(before, after, strict=True)]
    assert [tags for tags in before if tags] == [tags for tags in after if tags]
    assert fences(text) == fences(do(edit, text))


def keys_once(tag: str, tags: list[str]) -> bool:
    return [key(one) for one in tags].count(key(tag)) == 1


@given(EDITS)
def test_labels_are_one_line_and_can_be_told_as_done(edit: Edit) -> None:
    assert edit.label
    assert "\n" not in edit.label
    done, preposition = past(edit.label)
    assert done != edit.label or done.startswith("set")
    assert "done:" not in done
    assert preposition in ("to", "from", "in")


@given(TEXTS, st.sampled_from(["utf-8-sig", "utf-16-le", "cp1252", "latin-1"]), EDITS)
def test_the_encoding_stays(text: str, encoding: str, edit: Edit) -> None:
    assert edit.apply(CaptionText(text, encoding)).encoding == encoding


# Add.


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ("a, b", Add(("x",)), "a, b, x"),
        ("a, b\n", Add(("x", "y")), "a, b, x, y\n"),
        ("a, b\r\n", Add(("x",)), "a, b, x\r\n"),
        ("a,b", Add(("x",)), "a,b,x"),
        ("a ,b  , c", Add(("x",), "start"), "x, a ,b  , c"),
        ("a, b", Add(("x", "y"), "start"), "x, y, a, b"),
        ("  a, b", Add(("x",), "start"), "  x, a, b"),
        ("a, b", Add(("x", "y"), 2), "a, x, y, b"),
        ("a, b", Add(("x",), 99), "a, b, x"),
        ("a, b", Add(("x",), -1), "a, b, x"),
        ("a, b", Add(("x",), -2), "a, x, b"),
        ("a, b", Add(("x",), -99), "x, a, b"),
        ("a, b,", Add(("x",)), "a, b, x,"),
        ("a, b, \n", Add(("x",)), "a, b, x, \n"),
        ("one, two\nthree\n", Add(("x",)), "one, two, x\nthree, x\n"),
        ("\n\na\n", Add(("x",)), "\n\na, x\n"),
        ("", Add(("x", "y")), "x, y"),
        (" \n", Add(("x",)), "x\n"),
        ("\r\n", Add(("x",)), "x\r\n"),
        ("a, b ||| c", Add(("x",), 2), "a, x, b ||| c"),
        ("a ||| b", Add(("x",)), "a ||| b, x"),
        ("a |||", Add(("x",)), "a ||| x"),
        ("||| a", Add(("x",), "start"), "x ||| a"),
        ("A fox in the snow.", Add(("x",)), "A fox in the snow., x"),
        ("a, b", Add(("B",)), "a, b"),
        ("Blue_Eyes,b", Add(("blue eyes",)), "Blue_Eyes,b"),
        ("a, b", Add(("x", "X", "a")), "a, b, x"),
        ("a, B ,c", Add(("c", "b"), "start", "move"), "c, B, a"),
        ("c , B , a", Add(("c", "b"), "start", "move"), "c , B , a"),
        ("a, b", Add(("x", "b"), 1, "move"), "x, b, a"),
    ],
)
def test_add(before: str, edit: Add, after: str) -> None:
    assert do(edit, before) == after


@given(TEXTS, st.lists(TAG, min_size=1, max_size=3), POSITIONS, st.sampled_from(["skip", "move"]))
def test_added_tags_are_there_once_each_and_nothing_else_is_new(
    text: str, tags: list[str], position: Position, existing: Literal["skip", "move"]
) -> None:
    after = keys(do(Add(tuple(tags), position, existing), text))
    before = keys(text) or [[]]
    for old, new in zip(before, after, strict=True):
        added = Counter(new) - Counter(old)
        assert added == Counter({key(tag) for tag in tags} - set(old))
        assert not Counter(old) - Counter(new)


@given(TEXTS.filter(lambda text: tags_of(text) and "|||" not in text), TAG, POSITIONS)
def test_a_moved_tag_is_where_it_was_asked_to_be(text: str, tag: str, position: Position) -> None:
    for tags in keys(do(Move(tag, position), text)):
        if key(tag) in tags:
            number = {"start": 1, "end": -1}[position] if isinstance(position, str) else position
            index = min(number, len(tags)) - 1 if number > 0 else max(len(tags) + number, 0)
            assert tags[index] == key(tag)


@given(
    st.lists(TAG, min_size=1, max_size=6, unique_by=key),
    st.lists(st.sampled_from([", ", " ||| "]), min_size=6, max_size=6),
    POSITIONS,
    st.sampled_from(["", "\n", "\r\n"]),
)
def test_removing_what_was_added_gives_the_caption_back(
    tags: list[str], delimiters: list[str], position: Position, ending: str
) -> None:
    joined = "".join(before + tag for before, tag in zip(["", *delimiters], tags, strict=False))
    added = do(Add(("new tag", "other"), position), joined + ending)
    assert do(Remove(("new tag", "other")), added) == joined + ending


# Remove and dedupe.


@pytest.mark.parametrize(
    ("before", "tags", "after"),
    [
        ("a, b, c", ("b",), "a, c"),
        ("a, b, c", ("a",), "b, c"),
        ("a, b, c", ("c",), "a, b"),
        ("a, b, c\n", ("c",), "a, b\n"),
        ("a ,  b ,c", ("b",), "a ,c"),
        ("  a,b", ("a",), "  b"),
        ("a,,b", ("a",), ",b"),
        ("a, b,", ("b",), "a,"),
        ("a, b ||| c", ("b",), "a ||| c"),
        ("a ||| b, c", ("b",), "a ||| c"),
        ("a ||| b ||| c", ("b",), "a ||| ||| c"),
        ("a ||| b", ("a",), "||| b"),
        ("a ||| b", ("b",), "a |||"),
        ("a\n", ("a",), "\n"),
        ("a", ("a",), ""),
        ("x, b, X, c, x", ("x",), "b, c"),
        ("one\ntwo, x\n", ("one",), "two, x\n"),
        ("one\ntwo\n", ("one", "two"), "\n"),
        (r"a, \(x\), (x:1.2), photo (medium)", ("(x)",), "a, (x:1.2), photo (medium)"),
        ("^_^, b", ("^ ^",), "^_^, b"),
        ("a, b", ("photo",), "a, b"),
    ],
)
def test_remove(before: str, tags: tuple[str, ...], after: str) -> None:
    assert do(Remove(tags), before) == after


@given(TEXTS, st.lists(TAG, min_size=1, max_size=3))
def test_removed_tags_are_gone_and_no_other(text: str, tags: list[str]) -> None:
    unwanted = {key(tag) for tag in tags}
    left = [[tag for tag in line if tag not in unwanted] for line in keys(text)]
    assert [line for line in keys(do(Remove(tuple(tags)), text)) if line] == [line for line in left if line]


def test_repeated_tags_go_and_the_one_before_them_stays() -> None:
    assert do(Dedupe(), "a,b,c,x,x,x") == "a,b,c,x"
    assert do(Dedupe(), "x, a, X, b, x") == "x, a, b"
    assert do(Dedupe(), "Blue_Eyes, a, blue eyes") == "Blue_Eyes, a"
    assert do(Dedupe(), "1girl, (1girl), 1girl") == "1girl, (1girl)"
    assert do(Dedupe(), "a ||| b ||| a") == "a ||| b |||"


@given(TEXTS)
def test_dedupe_never_removes_what_is_no_repeat(text: str) -> None:
    for before, after in zip(all_tags(text), all_tags(do(Dedupe(), text)), strict=True):
        first = {key(tag): tag for tag in reversed(before)}
        assert after == list(dict.fromkeys(first[key(tag)] for tag in before))


# Rename and replace.


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        ("a, dog , c", "dog", ("wolf",), "a, wolf , c"),
        ("a, dog, c, wolf", "dog", ("wolf",), "a, wolf, c"),
        ("a, Wolf, c, dog", "dog", ("wolf",), "a, Wolf, c"),
        ("dog, a, dog", "dog", ("wolf",), "wolf, a"),
        ("a, dog, c", "dog", (), "a, c"),
        ("a, dog, c", "dog", ("wolf", "cat"), "a, wolf, cat, c"),
        ("a,dog|||c", "dog", ("wolf", "cat"), "a,wolf,cat|||c"),
        ("cat, dog, c", "dog", ("wolf", "cat"), "cat, wolf, c"),
        ("dog, c", "dog", ("dog", "cat"), "dog, cat, c"),
        ("a, Blue_Eyes", "blue eyes", ("blue eyes",), "a, Blue_Eyes"),
        ("a, Blue_Eyes", "Blue_Eyes", ("blue eyes",), "a, blue eyes"),
        ("a, c", "dog", ("wolf",), "a, c"),
        ("dog\ndog, wolf\n", "dog", ("wolf",), "wolf\nwolf\n"),
    ],
)
def test_rename(before: str, old: str, new: tuple[str, ...], after: str) -> None:
    assert do(Rename(old, new), before) == after


@given(TEXTS, TAG)
def test_a_tag_renamed_or_replaced_by_itself_stays(text: str, tag: str) -> None:
    assert do(Rename(tag, (tag,)), text) == text
    assert do(Substitute(tag, tag), text) == text
    assert do(Substitute(tag, tag, within="caption"), text) == text
    assert do(Substitute("(.+)", r"\1", regex=True), text) == text


@given(TEXTS, TAG, TAG)
def test_a_rename_keeps_the_order_and_one_copy(text: str, old: str, new: str) -> None:
    if old == new:
        return
    for before, after in zip(keys(text), keys(do(Rename(old, (new,)), text)), strict=True):
        renamed = [key(new) if tag == key(old) else tag for tag in before]
        if key(old) not in before:
            assert after == before
        else:
            first = renamed.index(key(new))
            later = before.index(key(old)) if key(new) not in before[: before.index(key(old))] else len(before)
            assert after[first] == key(new)
            assert [tag for tag in after if tag != key(new)] == [tag for tag in renamed if tag != key(new)]
            assert later == len(before) or after.count(key(new)) == 1


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ("dog, hotdog", Substitute("dog", "cat"), "cat, hotcat"),
        ("Dog, dog", Substitute("dog", "cat", ignore_case=True), "cat, cat"),
        ("a.b, axb", Substitute("a.b", r"\1"), r"\1, axb"),
        ("a , dog,b", Substitute("^dog$", "", regex=True), "a ,b"),
        ("blue eyes, red eyes", Substitute(r"^(\w+) eyes$", r"\g<1>-eyed", regex=True), "blue-eyed, red-eyed"),
        ("blue eyes", Substitute(r"(?P<c>blue)", r"\g<c>ish", regex=True), "blueish eyes"),
        ("a, b", Substitute(", ", ","), "a, b"),
        ("a, b", Substitute(", ", ",", within="caption"), "a,b"),
        ("a\nb", Substitute(r"\s*\n", ", ", regex=True, within="caption"), "a, b"),
        ("a (medium)", Substitute(" (medium)", ""), "a"),
    ],
)
def test_replace(before: str, edit: Substitute, after: str) -> None:
    assert do(edit, before) == after


# Order and writing.


def test_move() -> None:
    assert do(Move("c", 1), "a , b, c") == "c, a , b"
    assert do(Move("A", "end"), "a, b, c\n") == "b, c, a\n"
    assert do(Move("b", 2), "a ,b,  c") == "a ,b,  c"
    assert do(Move("d", 1), "a, b ||| c, d") == "d, a, b ||| c"
    assert do(Move("x", 1), "a, b") == "a, b"


@given(TEXTS, st.integers(0, 4))
def test_sorting_is_stable_and_loses_nothing(text: str, keep_first: int) -> None:
    ranked = (("c", 0.0), ("x", 1.0))
    for edit in (Sort(keep_first), Sort(keep_first, ranked)):
        for before, after in zip(all_tags(text), all_tags(do(edit, text)), strict=True):
            assert after[:keep_first] == before[:keep_first]
            assert Counter(after) == Counter(before)
    if "|||" not in text:
        for before, after in zip(all_tags(text), all_tags(do(Sort(keep_first), text)), strict=True):
            assert after[keep_first:] == sorted(before[keep_first:], key=key)
        for before, after in zip(all_tags(text), all_tags(do(Sort(keep_first, ranked), text)), strict=True):
            order = {"c": 0, "x": 1}
            assert after[keep_first:] == sorted(before[keep_first:], key=lambda tag: order.get(key(tag), 2))


def test_sorting_leaves_white_space_and_fenced_tags_in_place() -> None:
    assert do(Sort(), "c , a,  b") == "a , b,  c"
    assert do(Sort(), "z, y ||| c, b ||| x, a") == "z, y ||| b, c ||| x, a"


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ("blue_eyes, ^_^, o_o", Normalise("spaces"), "blue eyes, ^_^, o_o"),
        ("blue eyes, ^_^ face, :3", Normalise("underscores"), "blue_eyes, ^_^_face, :3"),
        (r"a \(b\), \(o\)_\(o\), (x:1.2)", Normalise(escapes="remove"), "a (b), (o)_(o), (x:1.2)"),
        (r"a (b), (o)_(o), :), (x:1.2), \(y\)", Normalise(escapes="add"), r"a \(b\), (o)_(o), :), (x:1.2), \(y\)"),
        ("a ,b,,c\n", Normalise(spacing=True), "a, b, c\n"),
        (",a b  c,\r\n\r\n d ", Normalise(spacing=True), "a b c\r\n\r\nd"),
        ("a|||b,|||,c", Normalise(spacing=True), "a ||| b ||| c"),
        ("||| a", Normalise(spacing=True), "||| a"),
        ("a ||| ||| b", Normalise(spacing=True), "a ||| ||| b"),
        ("a, ||| , ", Normalise(spacing=True), "a |||"),
        ("_, a", Normalise("spaces"), "_, a"),
    ],
)
def test_normalise(before: str, edit: Normalise, after: str) -> None:
    assert do(edit, before) == after


@given(TEXTS)
def test_even_spacing_keeps_every_tag(text: str) -> None:
    after = do(Normalise(spacing=True), text)
    assert [line for line in keys(after) if line] == [line for line in keys(text) if line]
    assert fences(after) == fences(text)


# Whole captions.


def test_set_text_keeps_line_breaks_as_the_file_has_them() -> None:
    assert do(SetText("a\nb"), "x\r\ny\r\n") == "a\r\nb\r\n"
    assert do(SetText("a"), "x\n") == "a\n"
    assert do(SetText("a"), "x") == "a"
    assert do(SetText(""), "x\n") == ""
    assert do(SetText("a\r\nb\r"), "") == "a\nb\n"


@pytest.mark.parametrize(
    ("before", "tags", "after"),
    [
        ("a , b,c", ("a", "c"), "a ,c"),
        ("a,b", ("b", "x", "y"), "b,x,y"),
        ("a ||| b\nother", ("a", "x", "b"), "a, x ||| b\nother"),
        ("Blue_Eyes", ("blue eyes",), "blue eyes"),
        ("", ("a", "b"), "a, b"),
        ("a, b\n", (), "\n"),
        ("a, b\nc\n", (), "\n"),
        ("", (), ""),
    ],
)
def test_set_tags(before: str, tags: tuple[str, ...], after: str) -> None:
    assert do(SetTags(tags), before) == after


@given(TEXTS, st.lists(TAG, max_size=5))
def test_set_tags_gives_these_tags(text: str, tags: list[str]) -> None:
    after = all_tags(do(SetTags(tuple(tags)), text))
    if tags:
        assert after[0] == tags
    assert after[bool(tags) :] == all_tags(text)[1:] or not tags


def test_utf8() -> None:
    for encoding in ("cp1252", "utf-16-le", "utf-8-sig"):
        assert ToUtf8().apply(CaptionText("fünf", encoding)) == CaptionText("fünf", "utf-8")
    caption = CaptionText("fünf", "utf-8")
    assert ToUtf8().apply(caption) is caption


def test_several_is_one_edit_after_the_other() -> None:
    edit = Several((Remove(("a",)), Add(("x",), "start")))
    assert do(edit, "a, b") == "x, b"
    assert edit.label == "remove “a”, add “x” at the start"
    caption = CaptionText("a", "utf-8")
    assert Several((Add(("x",)), Remove(("x",)))).apply(caption) is caption


def test_an_empty_caption_stays_where_there_is_nothing_to_write() -> None:
    for edit in (Remove(("a",)), Rename("a", ("b",)), Move("a", 1), Sort(), Dedupe(), SetTags(()), SetText("")):
        assert edit.apply(EMPTY) is EMPTY


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Add(()), "No tag"),
        (lambda: Add((" ",)), "empty"),
        (lambda: Add(("a, b",)), "comma"),
        (lambda: Remove(("a\nb",)), "line break"),
        (lambda: Rename("a", ("b ||| c",)), "fence"),
        (lambda: Move("a", 0), "Position 0"),
        (lambda: Sort(-1), "-1"),
        (lambda: Substitute("", "x"), "nothing to search"),
        (lambda: Substitute("a(b", "x", regex=True), "at character 2"),
        (lambda: Substitute("a{99999999999}", "x", regex=True), "does not work"),
        (lambda: Substitute("(a)", r"\2", regex=True), "invalid group reference 2"),
        (lambda: Substitute("(a)", r"\g<name>", regex=True), "name"),
        (lambda: Substitute("(a)", "\\", regex=True), "escape"),
        (lambda: Normalise(), "nothing to normalise"),
    ],
)
def test_wrong_values_are_refused(make: Callable[[], Edit], says: str) -> None:
    with pytest.raises(LoratoryError, match=says):
        make()


@example("a||||b")
@given(TEXTS)
def test_every_position_works_on_every_caption(text: str) -> None:
    for position in (1, 2, -1, -3, "start", "end"):
        assert "new" in tags_of(do(Add(("new",), position), text))
