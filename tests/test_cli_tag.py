"""`loratory tag`: batches over folders of images, what it says of them, and that a dry run is a true patch."""

import codecs
import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from command_line import Call, Said
from loratory.tags.journal import Journal

EVIL = "[/b][@click=app.quit]x \x1b[2J"


@pytest.fixture
def tag(loratory: Call) -> Call:
    return partial(loratory, "tag")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three captioned images, one without a caption."""
    root = tmp_path / "set"
    captions = {"a": "fox, solo\n", "b": "fox,blue_eyes", "c": "wolf, white background\r\nsecond line\r\n"}
    (root / "1_fox").mkdir(parents=True)
    for name in (*captions, "d"):
        (root / "1_fox" / f"{name}.png").write_bytes(b"not read by this command")
    for name, text in captions.items():
        (root / "1_fox" / f"{name}.txt").write_bytes(text.encode())
    return root


def texts(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.txt"))}


def test_add_says_what_it_did_and_can_be_undone_and_done_again(tag: Call, dataset: Path) -> None:
    before = texts(dataset)
    done = tag("add", dataset, "white background")
    assert done.code == 0
    assert done.out == ""
    assert done.err == (f"added “white background” to all 4 captions · `loratory tag undo {dataset}` undoes it\n")
    after = texts(dataset)
    assert after == {
        "1_fox/a.txt": b"fox, solo, white background\n",
        "1_fox/b.txt": b"fox,blue_eyes,white background",
        "1_fox/c.txt": b"wolf, white background\r\nsecond line, white background\r\n",
        "1_fox/d.txt": b"white background",
    }
    again = tag("add", dataset, "white background")
    assert again == Said(0, "", "nothing to do: 4 had it already\n")
    undone = tag("undo", dataset)
    assert (undone.code, texts(dataset)) == (0, before)
    assert "undone: add “white background” (4 captions)" in undone.err
    assert tag("redo", dataset).code == 0
    assert texts(dataset) == after


def test_where_asks_for_what_is_wrong_with_pictures_and_what_they_look_like(tag: Call, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "1_fox"
    folder.mkdir(parents=True)
    for number in (1, 2, 3):
        blocks = random.Random(number).randbytes(8 * 8 * 4)
        mode = "RGBA" if number == 2 else "RGBX"
        patches = Image.frombytes(mode, (8, 8), blocks).resize((512, 512))
        patches.convert("RGBA" if number == 2 else "RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("fox, solo", "utf-8")
    Image.open(folder / "3.png").save(folder / "4.bmp")

    def names(query: str) -> list[str]:
        return [line.split("\t")[0] for line in tag("list", tmp_path / "set", "--where", query).out.splitlines()]

    assert names("issue:transparent") == ["1_fox/2.png"]
    assert names("dup") == ["1_fox/3.png", "1_fox/4.bmp"]
    assert names("issue:few-tags -issue:transparent") == ["1_fox/1.png", "1_fox/3.png"]
    assert tag("add", tmp_path / "set", "lowres", "--where", "issue:trans*").err.startswith("added “lowres” to 1 ")


def test_where_chooses_and_the_rest_is_left_alone(tag: Call, dataset: Path) -> None:
    before = texts(dataset)
    done = tag("add", dataset, "--prepend", "tok, anthro", "--where", "tag:fox")
    assert "added “tok”, “anthro” at the start to all 2 captions" in done.err
    assert texts(dataset) == before | {
        "1_fox/a.txt": b"tok, anthro, fox, solo\n",
        "1_fox/b.txt": b"tok,anthro,fox,blue_eyes",
    }
    assert tag("remove", dataset, "x", "--where", "tag:nix") == Said(0, "", "no image matches: nothing to do\n")
    wrong = tag("remove", dataset, "x", "--where", "tag:")
    assert wrong.code == 2
    assert "^" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["remove", "SOLO"], b"fox\n"),
        (["rename", "fox", "arctic fox"], b"arctic fox, solo\n"),
        (["replace", "--regex", "^(.)o(.*)", r"\2\1"], b"xf, los\n"),
        (["move", "solo", "1"], b"solo, fox\n"),
        (["move", "fox", "-1"], b"solo, fox\n"),
        (["sort"], b"fox, solo\n"),
        (["set", "a fox."], b"a fox.\n"),
        (["normalise", "--underscores"], b"fox, solo\n"),
        (["dedupe"], b"fox, solo\n"),
        (["utf8"], b"fox, solo\n"),
        (["add", "--at", "-2", "x"], b"fox, x, solo\n"),
        (["add", "--", "-_-"], b"fox, solo, -_-\n"),
    ],
)
def test_every_verb(tag: Call, dataset: Path, arguments: list[str], text: bytes) -> None:
    verb, *rest = arguments
    assert tag(verb, dataset, *rest).code == 0
    assert texts(dataset)["1_fox/a.txt"] == text


def test_a_dry_run_touches_nothing(tag: Call, dataset: Path) -> None:
    before = sorted(dataset.rglob("*")), texts(dataset)
    done = tag("add", dataset, "--dry-run", "x", "--where", "tag:solo or untagged")
    assert done.code == 0
    assert done.out == (
        "--- a/1_fox/a.txt\n+++ b/1_fox/a.txt\n@@ -1 +1 @@\n-fox, solo\n+fox, solo, x\n"
        "--- /dev/null\n+++ b/1_fox/d.txt\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n"
    )
    assert done.err == "would add “x”: all 2 captions change\n"
    assert (sorted(dataset.rglob("*")), texts(dataset)) == before
    report = json.loads(tag("add", dataset, "--dry-run", "--json", "x").out)
    assert report["dry_run"] is True
    assert report["texts"][0] == {"file": "1_fox/a.txt", "before": "fox, solo\n", "after": "fox, solo, x\n"}


@pytest.mark.parametrize("program", [["git", "apply"], ["patch", "-p1", "-s"]], ids=["git", "patch"])
def test_a_dry_run_is_a_patch_of_the_very_bytes(dataset: Path, tmp_path: Path, program: list[str]) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    folder = dataset / "1_fox"
    names = ["with space", 'quo"te', "狐", "tab\tname", os.fsdecode(b"\xff\xfe")]
    for name in names:
        (folder / f"{name}.png").touch()
        (folder / f"{name}.txt").write_bytes("fünf, a\x0bb\u2028\r\n\r\n".encode())
    (folder / "old.png").touch()
    (folder / "old.txt").write_bytes("fünf".encode("cp1252"))
    (folder / "wide.png").touch()
    (folder / "wide.txt").write_bytes(codecs.BOM_UTF16_LE + "fünf\nzwei".encode("utf-16-le"))
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    command = [sys.executable, "-m", "loratory", "tag"]
    for arguments in (["add", ".", "--prepend", "x"], ["utf8", "."]):
        dry, wet = (
            subprocess.run([*command, *arguments, *flag], cwd=dataset, capture_output=True, check=True)
            for flag in (["--dry-run"], [])
        )
        assert wet.stdout == b""
        applied = subprocess.run(program, cwd=copy, input=dry.stdout, capture_output=True, check=False)
        assert applied.returncode == 0, applied.stderr
        assert texts(copy) == texts(dataset)


def test_images_that_share_a_caption_are_edited_once(tag: Call, dataset: Path) -> None:
    (dataset / "1_fox" / "a.jpg").touch()
    assert tag("add", dataset, "x", "--where", "name:a.").err.startswith("added “x” to 1 caption ·")
    assert texts(dataset)["1_fox/a.txt"] == b"fox, solo, x\n"
    rows = tag("list", dataset, "--where", "tag:x").out
    assert rows == "1_fox/a.jpg\tfox, solo, x\n1_fox/a.png\tfox, solo, x\n"


def test_what_cannot_be_edited_is_named_and_the_rest_is_done(tag: Call, dataset: Path) -> None:
    folder = dataset / "1_fox"
    (folder / "old.png").touch()
    (folder / "old.txt").write_bytes("fünf".encode("cp1252"))
    (folder / "e.png").touch()
    (folder / "e.txt").mkdir()
    done = tag("add", dataset, "狐")
    assert done.code == 1
    assert "1_fox/old.txt: left alone: “狐” (U+72D0) does not exist in the caption's encoding" in done.err
    assert "1_fox/e.txt: left alone: cannot be read" in done.err
    assert "added “狐” to 4 of 6 captions" in done.err
    assert (folder / "old.txt").read_bytes() == "fünf".encode("cp1252")
    assert tag("utf8", dataset).code == 1
    (folder / "e.txt").rmdir()
    assert tag("add", dataset, "狐").code == 0
    assert (folder / "old.txt").read_text("utf-8") == "fünf, 狐"
    report = json.loads(tag("add", dataset, "狐", "y", "--json").out)
    assert (len(report["files"]), report["skipped"], report["unchanged"]) == (6, [], 0)
    assert report["batch"] == Journal(dataset).batches()[-1].id


def test_an_edit_of_somebody_else_survives_the_undo(tag: Call, dataset: Path) -> None:
    tag("add", dataset, "x")
    (dataset / "1_fox" / "a.txt").write_bytes(b"fox, solo, x, theirs\n")
    (dataset / "1_fox" / "b.txt").unlink()
    undone = tag("undo", dataset)
    assert undone.code == 1
    assert "1_fox/b.txt: left alone: one side removed the file" in undone.err
    assert "undone: add “x” (3 captions); 1 keeps what was changed there since" in undone.err
    assert texts(dataset)["1_fox/a.txt"] == b"fox, solo, theirs\n"


def test_the_history_names_every_edit_and_shows_it(tag: Call, dataset: Path) -> None:
    assert tag("history", dataset) == Said(0, "", f"Nothing has been edited in {dataset} yet.\n")
    assert not (dataset / ".loratory").exists()
    tag("add", dataset / "1_fox", "x")
    tag("remove", dataset, "fox")
    tag("undo", dataset, "1")
    rows = tag("history", dataset / "1_fox").out.splitlines()
    assert [row.split("  ", 2)[0] for row in rows] == ["1", "2", "3"]
    assert rows[0].endswith("4  add “x”  (undone)")
    assert rows[1].endswith("2  remove “fox”")
    assert rows[2].endswith("4  undo: add “x”")
    assert json.loads(tag("history", dataset, "--json").out)[1]["label"] == "remove “fox”"
    shown = tag("show", dataset, 2)
    assert "-fox, solo, x\n+solo, x\n" in shown.out
    assert tag("show", dataset, 9).code == 2
    assert tag("undo", dataset, 1).code == 2


def test_an_edit_cut_short_can_be_completed_or_taken_back(tag: Call, dataset: Path) -> None:
    before = texts(dataset)
    for choice, wanted in (("--roll-back", before), ("--finish", None)):
        tag("add", dataset, "x")
        after = texts(dataset)
        journal = dataset / ".loratory" / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-1]))  # as if it had died before the end
        (dataset / "1_fox" / "b.txt").write_bytes(before["1_fox/b.txt"])
        refused = tag("add", dataset, "y")
        assert refused.code == 2
        assert "recover" in refused.err
        assert "cut short" in tag("history", dataset).out
        assert tag("recover", dataset).code == 2
        assert tag("recover", dataset, choice).code == 0
        assert texts(dataset) == (after if wanted is None else wanted)
    assert tag("recover", dataset, "--finish").code == 2


def test_lists_and_counts(tag: Call, dataset: Path) -> None:
    (dataset / "1_fox" / "a.txt").write_bytes(f"fox, Blue Eyes, {EVIL}\n".encode())
    (dataset / "1_fox" / "e\x1b[2J\n.png").touch()
    listed = tag("list", dataset)
    assert listed.code == 0
    assert "\x1b" not in listed.out
    assert len(listed.out.splitlines()) == 5
    assert "1_fox/b.png\tfox, blue_eyes" in listed.out.splitlines()
    counted = tag("count", dataset)
    assert counted.out.splitlines()[:2] == ["2  Blue Eyes", "2  fox"]
    assert "\x1b" not in counted.out
    assert counted.err == "5 tags on 5 images.\n"
    rows = json.loads(tag("list", dataset, "--json", "--where", "untagged").out)
    assert (rows[0]["image"], rows[0]["caption_file"], rows[0]["tags"]) == ("1_fox/d.png", None, [])
    assert {"tag": EVIL, "count": 1} in json.loads(tag("count", dataset, "--json").out)


def test_untrusted_words_are_words(tag: Call, dataset: Path) -> None:
    done = tag("add", dataset, EVIL)
    assert done.code == 0
    assert "[/b][@click=app.quit]x" in done.err
    assert "\x1b" not in done.err
    assert texts(dataset)["1_fox/d.txt"] == EVIL.encode()
    assert "\x1b" not in tag("history", dataset).out


def test_wrong_use(tag: Call, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (
        ["add", dataset],
        ["add", dataset, " , "],
        ["add", tmp_path / "nix", "x"],
        ["add", dataset / "1_fox" / "a.txt", "x"],
        ["add", tmp_path / "empty", "x"],
        ["undo", dataset],
        ["redo", dataset],
        ["undo", tmp_path / "nix"],
        ["ad", dataset],
        ["move", dataset, "x", "0"],
        ["replace", dataset, "--regex", "(", "x"],
    ):
        refused = tag(*arguments)
        assert refused.code == 2, arguments
        assert "Traceback" not in refused.err
    assert not (tmp_path / "empty" / ".loratory").exists()


def test_help_is_light() -> None:
    code = (
        "import sys; from loratory.cli import main, tag; "
        "heavy = {'torch', 'textual', 'PIL', 'numpy', 'pydantic', 'rapidfuzz', 'tokenizers'} & sys.modules.keys(); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
