"""`loratory prepare`: what it says, remembers and refuses, and its exit codes."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from command_line import Call
from hostile_pictures import write_all
from loratory.imaging.recipe import Recipe
from loratory.imaging.recipe_toml import read_recipes
from loratory.preparation import make
from loratory.preparation.desk import Desk
from loratory.tags.journal import Journal
from preparation_sets import contents, draw, make_raw, stamps

SMALL = ("--resolution", "64")


@pytest.fixture
def prepare(loratory: Call) -> Call:
    return partial(loratory, "prepare")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "Raw")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return tmp_path / "train"


def test_it_makes_a_folder_once_and_then_has_nothing_to_do(prepare: Call, raw: Path, train: Path) -> None:
    done = prepare(raw, train, "--token", "fox", "--class", "mammal", "--repeats", "7", *SMALL)
    assert done.code == 0
    assert "6 pictures made" in done.err
    assert "captions written" in done.err
    assert "trainers of today read WebP" in done.err
    assert len(list((train / "7_fox mammal").glob("*.png"))) == 6
    before = stamps(raw) | stamps(train)
    again = prepare(raw)  # where to, and for what, is remembered
    assert again.code == 0
    assert "Nothing had to be made, 6 there already" in again.err
    assert stamps(raw) | stamps(train) == before


def test_a_dry_run_tells_all_and_writes_nothing(prepare: Call, raw: Path, train: Path) -> None:
    before = stamps(raw)
    done = prepare(raw, train, "--token", "fox", "--max-side", "64", "--dry-run", *SMALL)
    assert done.code == 0
    assert "p00.png → 1_fox/p00.png: shrunk to 64 px" in done.out
    assert "p01.png → 1_fox/p01.png: white behind what is transparent, shrunk to 64 px" in done.out
    assert stamps(raw) == before
    assert not train.exists()
    told = json.loads(prepare(raw, train, "--token", "fox", "--dry-run", "--json", *SMALL).out)
    assert told["pictures"][0] == {
        "picture": "p00.png",
        "outputs": ["1_fox/p00.png"],
        "state": "new",
        "done": ["copied as it is"],
    }


def test_options_are_remembered_and_build_anew_what_they_change(prepare: Call, raw: Path, train: Path) -> None:
    prepare(raw, train, "--token", "fox", "--backgrounds", "black,#204060", *SMALL)
    text = (raw / "recipes.toml").read_text()
    assert 'backgrounds = ["black", "#204060"]' in text
    assert read_recipes(raw / "recipes.toml").defaults.resolution == (64, 64)
    told = json.loads(prepare(raw, train, "--format", "jpeg", "--no-upscale", "--json").out)
    assert sorted(told["made"]) == [f"1_fox/p{number:02}.jpg" for number in range(6)]
    assert sorted(told["removed"]) == [f"1_fox/p{number:02}.png" for number in range(6)]
    assert told["captions"]["written"] == []
    assert Image.open(train / "1_fox" / "p01.jpg").format == "JPEG"


@pytest.mark.parametrize(
    ("said", "opening"),
    [
        (("--token", "sks fox"), "sks fox"),
        (("--token", "sks", "--class", "red fox"), "sks, red fox"),
        (("--token", "sks fox", "--class", "mammal"), "sks fox, mammal"),
    ],
)
def test_a_token_of_two_words_stays_one_tag(
    prepare: Call, raw: Path, train: Path, said: tuple[str, ...], opening: str
) -> None:
    (raw / "p01.txt").unlink(missing_ok=True)
    prepare(raw, train, *said, *SMALL)
    (caption,) = train.rglob("p01.txt")
    assert caption.read_text() == f"{opening}, white background"


def test_failures_are_told_one_by_one_and_make_the_exit_code_1(prepare: Call, raw: Path, train: Path) -> None:
    (raw / "[b]\x1b[2J.png").write_bytes(b"nothing")
    done = prepare(raw, train, "--token", "fox", *SMALL)
    assert done.code == 1
    assert "6 pictures made, 1 failed" in done.err
    assert "failed: [b]\\x1b[2J.png: not a PNG" in done.err
    assert "\x1b[2J" not in done.err


@pytest.mark.slow
def test_a_folder_of_hostile_pictures_breaks_nothing(prepare: Call, tmp_path: Path, train: Path) -> None:
    raw = tmp_path / "Raw"
    raw.mkdir()
    write_all(raw)
    before = contents(raw)
    first = prepare(raw, train, "--token", "fox", "--no-upscale")
    assert first.code == 1
    assert "defect" not in first.err
    now = contents(raw)
    assert {name: now[name] for name in before if name != "recipes.toml"} == {
        name: data for name, data in before.items() if name != "recipes.toml"
    }
    for path in (train / "1_fox").iterdir():
        path.name.encode("utf-8")
        if path.suffix == ".png":
            assert Image.open(path).mode in ("RGB", "L", "P", "1")
    made = contents(train)
    assert json.loads(prepare(raw, train, "--json").out)["made"] == []
    assert contents(train) == made


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "has no name yet"),
        (("--token", "a, b"), "more than one tag"),
        (("--token", "fox", "--resolution", "12"), "is no resolution"),
        (("--token", "fox", "--backgrounds", "whit"), "Did you mean 'white'"),
        (("--token", "fox", "--upscaler", "nothing"), "There is no upscaler 'nothing'"),
        (("--token", "fox", "--repeats", "0"), "0 is not in the range"),
    ],
)
def test_wrong_use_is_told(prepare: Call, raw: Path, train: Path, arguments: tuple[str, ...], reason: str) -> None:
    done = prepare(raw, train, *arguments)
    assert done.code == 2
    assert reason in done.err
    assert not (train / "1_fox").exists()


def test_a_mistake_in_the_recipes_is_told_with_its_place(prepare: Call, raw: Path, train: Path) -> None:
    (raw / "recipes.toml").write_text('["p00.png"]\nflipp = true\n')
    done = prepare(raw, train, "--token", "fox")
    assert done.code == 2
    assert "recipes.toml" in done.err
    assert "p00.png" in done.err
    assert "Did you mean `flip`?" in done.err
    assert (raw / "recipes.toml").read_text() == '["p00.png"]\nflipp = true\n'


def test_history_and_undo(prepare: Call, raw: Path, train: Path) -> None:
    prepare(raw, train, "--token", "fox", *SMALL)
    assert "No recipe" in prepare(raw, "--history").err
    assert prepare(raw, "--undo").code == 2
    double = raw / "p00 again.png"
    double.write_bytes((raw / "p00.png").read_bytes())
    assert "p00.png is left out: the same as p00 again.png" in prepare(raw, "--dedupe").err
    assert "leave out 1 picture" in prepare(raw, "--history").out
    undone = prepare(train.parent / "Raw", "--undo")
    assert "taken back: leave out 1 picture" in undone.err
    assert (train / "1_fox" / "p00.png").exists()
    assert prepare(raw, "--history").out == ""


def test_a_training_folder_alone_builds_what_its_recipes_say(prepare: Call, raw: Path, train: Path) -> None:
    prepare(raw, train, "--token", "fox", *SMALL)
    draw(train / "1_fox" / "own.png", 20)
    aside = train / ".loratory" / "originals"
    aside.mkdir()
    (aside / "recipes.toml").write_text(
        '[defaults]\nmax_side_px = 0\nupscale = "never"\nformat = "keep"\n["1_fox/own.png"]\nflip = true\n'
    )
    done = prepare(train)
    assert "1 picture made" in done.err
    assert prepare(train, "--format", "jpeg").code == 2


def test_a_batch_of_captions_can_be_taken_back(prepare: Call, raw: Path, train: Path) -> None:
    prepare(raw, train, "--token", "fox", *SMALL)
    assert [batch.label for batch in Journal(train).batches()] == ["prepare 6 pictures"]
    Journal(train).undo()
    assert not list((train / "1_fox").glob("*.txt"))


def test_a_dry_run_of_a_dataset_tells_first_recipes_and_what_is_put_back(prepare: Call, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a.png", "b.png", "c.png"):
        draw(root / "1_fox" / name, 4)
    desk = Desk(root)
    desk.change("some", {"1_fox/a.png": Recipe(flip=True), "1_fox/b.png": Recipe(skip=True)})
    before = stamps(root)
    done = prepare(root, "--dry-run")
    assert "a.png → 1_fox/a.png: flipped" in done.out
    assert "b.png → nothing: left out" in done.out
    assert "c.png" not in done.out
    assert stamps(root) == before
    assert prepare(root).code == 0
    Desk(root).undo()
    assert "a.png → 1_fox/a.png: put back as it was" in prepare(root, "--dry-run").out
    assert prepare(root, "--dry-run", "--undo").code == 2


def test_options_that_name_a_folder_which_has_its_name_are_told(prepare: Call, raw: Path, train: Path) -> None:
    assert "keeps" not in prepare(raw, train, "--token", "fox", "--repeats", "5", *SMALL).err
    done = prepare(raw, train, "--repeats", "7")
    assert "5_fox is there already and keeps its repeats" in done.err
    assert not (train / "7_fox").exists()
    done = prepare(raw, train / "3_lynx", "--token", "lynx", "--repeats", "7")
    assert "--token, --repeats have no part in this: the pictures go to 3_lynx itself." in done.err


def test_another_token_takes_pictures_and_captions_along(prepare: Call, raw: Path, train: Path) -> None:
    prepare(raw, train, "--token", "fox", *SMALL)
    made = contents(train)
    prepare(raw, train, "--token", "wolf")
    now = contents(train)
    assert sorted(now) == sorted(name.replace("fox", "wolf") for name in made)


def test_a_full_disk_loses_nothing_and_the_next_run_goes_on(
    prepare: Call, raw: Path, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def write(target: Path, data: bytes) -> make.Written:
        nonlocal writes
        writes += 1
        if writes > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(target, data)

    written = make._write  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as patched:
        patched.setattr(make, "_write", write)
        done = prepare(raw, train, "--token", "fox", "--jobs", "1", *SMALL)
    assert done.code == 1
    assert "The disk is full: made 3 pictures, 3 still to do." in done.err
    assert len(list((train / "1_fox").glob("*.png"))) == 3
    assert not list((train / "1_fox").glob(".*"))
    done = prepare(raw, train)
    assert done.code == 0
    assert "3 pictures made, 3 there already" in done.err


def test_what_the_upscaler_could_not_do_as_asked_is_told(
    prepare: Call, raw: Path, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tired:
        def __init__(self, name: str) -> None:
            self.notes: list[str] = []

        def enlarge(self, picture: Image.Image, size: tuple[int, int], **options: object) -> Image.Image:
            if not self.notes:
                self.notes.append("It goes on on the CPU.")
            return picture.resize(size)

    monkeypatch.setattr("loratory.upscaling.open_upscaler", Tired)
    done = prepare(raw, train, "--token", "fox", "--resolution", "128", "--json")
    assert done.code == 0
    assert "It goes on on the CPU." in json.loads(done.out)["notes"]


def run_limited(size_bytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, in which no file may grow beyond `size_bytes`."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))

    command = [sys.executable, "-m", "loratory", "prepare", *map(str, arguments)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, env=os.environ, check=False)


@pytest.mark.slow
def test_a_file_that_does_not_fit_fails_alone_and_leaves_no_part_of_itself(raw: Path, train: Path) -> None:
    draw(raw / "large.bmp", 5, size=(900, 900))  # half a megabyte as it is, little as a PNG
    Image.effect_noise((400, 400), 90).save(raw / "noise.png")
    done = run_limited(100_000, raw, train, "--token", "fox", "--no-upscale")
    assert done.returncode == 1
    assert "noise.png: File too large" in done.stderr
    assert "7 pictures made, 1 failed" in done.stderr
    assert not list((train / "1_fox").glob(".*"))
    done = run_limited(10_000_000, raw)
    assert done.returncode == 0
    assert "1 picture made" in done.stderr


@pytest.mark.slow
def test_ctrl_c_stops_after_the_picture_in_hand(tmp_path: Path, train: Path) -> None:
    raw = tmp_path / "Raw"
    for number in range(12):
        draw(raw / f"{number:02}.bmp", number + 1, size=(1400, 1400))
    command = [sys.executable, "-m", "loratory", "prepare", raw, train, "--token", "fox", "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = train / "1_fox"
    while process.poll() is None and not (folder.is_dir() and any(folder.glob("[0-9]*.png"))):
        pass
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before it could be stopped")
    assert process.returncode == 130, told
    assert "Stopped before the end" in told
    assert not list(folder.glob(".*"))
    assert 0 < len(list(folder.glob("*.png"))) < 12


def test_a_jpeg_to_which_nothing_is_done_stays_one_and_any_other_becomes_png(tmp_path: Path, prepare: Call) -> None:
    raw, train = tmp_path / "Raw", tmp_path / "set"
    raw.mkdir()
    for name, size in (("plain.jpg", (100, 80)), ("huge.jpg", (3100, 600))):
        Image.effect_noise(size, 60).convert("RGB").save(raw / name, quality=90)
    assert prepare(raw, train, "--token", "x", *SMALL).code == 0
    made = sorted(path.name for path in (train / "1_x").iterdir())
    assert made == ["huge.png", "plain.jpg"]
    assert (train / "1_x" / "plain.jpg").read_bytes() == (raw / "plain.jpg").read_bytes()
    assert prepare(raw, train, "--format", "png").code == 0
    assert sorted(path.name for path in (train / "1_x").iterdir()) == ["huge.png", "plain.png"]
