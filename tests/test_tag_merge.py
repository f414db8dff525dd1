"""Three-way merge of captions, and the diff that other programs take."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loratory.tags.diff import unified
from loratory.tags.merge import Conflict, merge
from loratory.tags.text import CaptionText, key, parse, tags_of

TAG = st.sampled_from(["a", "b", "c", "d", "A", "x_y", "x y", "(m:1.2)", "^_^"])
LINE = st.lists(TAG, max_size=7).map(", ".join)
TEXT = st.lists(LINE, min_size=1, max_size=3).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda newline: newline.join(lines))
)
CAPTION = st.one_of(st.none(), st.builds(CaptionText, TEXT, st.sampled_from(["utf-8", "cp1252"])))


def merged(base: str, ours: str, theirs: str) -> str:
    result = merge(*(CaptionText(text, "utf-8") for text in (base, ours, theirs)))
    assert result is not None
    return result.text


def keys(text: str) -> list[str]:
    return [key(tag) for tag in tags_of(text)]


@given(CAPTION, CAPTION)
def test_where_one_side_changed_nothing_the_other_is_taken(base: CaptionText | None, other: CaptionText | None) -> None:
    assert merge(base, base, other) == other
    assert merge(base, other, base) == other
    assert merge(base, other, other) == other


@given(LINE, LINE, LINE)
@example("a, a, b", "a, b", "a, a, b, c")
def test_of_every_tag_there_are_as_many_as_the_sides_want(base: str, ours: str, theirs: str) -> None:
    result = keys(merged(base, ours, theirs))
    for tag in {*keys(base), *keys(ours), *keys(theirs)}:
        was, one, other = (keys(text).count(tag) for text in (base, ours, theirs))
        wanted = {was: other, other: one}.get(one, one if other == was else None)
        if wanted is None:
            wanted = max(one, other) if max(one, other) > was else min(one, other)
        assert result.count(tag) == wanted
    assert {*result} == {*keys(merged(base, theirs, ours))}


@given(TEXT, TEXT, TEXT)
@example("\n", "a", "\na")
def test_a_merge_is_whole_or_a_conflict(base: str, ours: str, theirs: str) -> None:
    try:
        result = merged(base, ours, theirs)
    except Conflict as conflict:
        assert " side" in conflict.reason
        return
    known = {key(part.body) for text in (base, ours, theirs) for line in parse(text) for part in line.parts}
    assert {key(part.body) for line in parse(result) for part in line.parts} <= known | {""}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result"),
    [
        ("a, b", "a, b, x", "a, b, y", "a, b, y, x"),
        ("a, b", "a, x, b", "a, b, x", "a, x, b"),
        ("a, b", "a, b, X", "a, b, x, y", "a, b, X, y"),
        ("a, b, c", "a, c", "a, b", "a"),
        ("a, dog, c", "a, wolf, c", "a, dog, c, x", "a, wolf, c, x"),
        ("a, b, c", "c, a, b", "a, b, c, x", "c, x, a, b"),
        ("a, b, c", "a, b, c, x", "c, b, a", "c, x, b, a"),
        ("a,b", "a,b,x", "a,b,y", "a,b,y,x"),
        ("blue_eyes, a", "blue_eyes, a, x", "blue eyes, a", "blue eyes, a, x"),
        ("a, b\n", "a, b, x\n", "a, b", "a, b, x"),
        ("", "a", "b", "b, a"),
        ("t, c ||| a", "t, c, x ||| a", "t, c ||| a, y", "t, c, x ||| a, y"),
        ("t ||| a", "t ||| a, z", "t ||| x, a", "t ||| x, a, z"),
        ("a\nb\n", "a, x\nb\n", "a\nb, y\n", "a, x\nb, y\n"),
        ("a\n", "a\nb\n", "a, x\n", "a, x\nb\n"),
        ("a\nb\n", "b\n", "a\nb, x\n", "b, x\n"),
    ],
)
def test_merges(base: str, ours: str, theirs: str, result: str) -> None:
    assert merged(base, ours, theirs) == result


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "reason"),
    [
        ("A fox sits in the snow.", "A fox sits in deep snow.", "A red fox sits in the snow.", "sentence"),
        ("a\nb\n", "a\n", "a\nb\nc\n", "lines"),
        ("a\nb\n", "b\n", "a, x\nb\n", "took out"),
        ("t, a", "t ||| a", "t, a, x", "fences"),
    ],
)
def test_what_cannot_be_merged_is_a_conflict(base: str, ours: str, theirs: str, reason: str) -> None:
    with pytest.raises(Conflict, match=reason):
        merged(base, ours, theirs)


def test_files_and_encodings_merge_too() -> None:
    a, ax, ay = (CaptionText(text, "utf-8") for text in ("a", "a, x", "a, y"))
    assert merge(None, ax, ay) == CaptionText("a, y, x", "utf-8")
    assert merge(a, None, a) is None
    for pair in ((None, ax), (ax, None)):
        with pytest.raises(Conflict, match="removed the file"):
            merge(a, *pair)
    old = CaptionText("fünf", "cp1252")
    assert merge(old, CaptionText("fünf", "utf-8"), CaptionText("fünf, x", "cp1252")) == CaptionText("fünf, x", "utf-8")
    with pytest.raises(Conflict, match="encoding"):
        merge(old, CaptionText("fünf", "utf-8"), CaptionText("fünf", "utf-16-le"))


# Diffs.


def test_a_diff_reads_as_usual() -> None:
    assert unified("a b.txt", "a\nb\n", "a\nc") == (
        "--- a/a b.txt\t\n+++ b/a b.txt\t\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n"
    )
    assert unified("x.txt", None, "a\n") == "--- /dev/null\n+++ b/x.txt\n@@ -0,0 +1 @@\n+a\n"
    assert unified("x.txt", "a", "a") == ""


NAMES = ["x.txt", "10_fox, anthro/a b.txt", 'quo"te.txt', "tab\tnew\nline.txt", "狐.txt", "-R.txt", "a\\b.txt"]
CHANGES = [("a, b\n", "a, c\n"), ("a", "a\r\nb"), ("a\r\nb\r\n", "a\r\nc\r\n"), ("a\u2028b\n", "a\u2028c\x0bd")]


@pytest.mark.parametrize("program", [["git", "apply"], ["patch", "-p1", "-s"]], ids=["git", "patch"])
@pytest.mark.parametrize("name", NAMES)
def test_other_programs_take_our_diffs(tmp_path: Path, program: list[str], name: str) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    if program[0] == "patch" and re.search(r"[\n]", name):
        pytest.skip("patch refuses such names")
    for before, after in [*CHANGES, (None, "new, tags\n")]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before.encode())
        diff = unified(name, before, after)
        done = subprocess.run(program, cwd=tmp_path, input=diff.encode(), capture_output=True, check=False)
        assert done.returncode == 0, (diff, done.stderr, done.stdout)
        assert path.read_bytes() == after.encode()
