"""`loratory stats`: its sections, as text and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from loratory.cli.stats import SECTIONS, stats
from loratory.errors import LoratoryError


def draw(path: Path, size: tuple[int, int], number: int) -> None:
    picture = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(picture)
    for at in range(5):
        x, y = size[0] * (at + 1) // 8, size[1] * ((at * number) % 5 + 1) // 8
        drawing.ellipse([x, y, x + size[0] // 5, y + size[1] // (4 + number)], fill=(number * 40, 90, at * 50))
    picture.save(path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    captions = ["foxlora, hat, coat", "foxlora, hat, coat, sketch", "foxlora, sitting", ""]
    for name, sizes in (("4_foxlora", [(512, 512), (640, 384), (200, 200), (512, 512)]), ("2_[b]x", [(300, 700)])):
        (root / name).mkdir(parents=True)
        for number, (size, caption) in enumerate(zip(sizes, captions, strict=False)):
            draw(root / name / f"{number}.png", size, number)
            (root / name / f"{number}.txt").write_text(caption)
    (root / "4_foxlora/copy.png").write_bytes((root / "4_foxlora/1.png").read_bytes())
    (root / "4_foxlora/broken.png").write_bytes(b"no picture")
    (root / "reg/1_fox").mkdir(parents=True)
    (root / "reg/1_fox/r.png").write_bytes(b"never looked at")
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(stats, [str(argument) for argument in arguments], standalone_mode=False)


def found(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


def test_everything_as_json(dataset: Path) -> None:
    told = found(dataset, "--batch-size", 3)
    assert (told["pictures"], told["captioned"], told["regularization_pictures"]) == (7, 4, 1)
    assert told["unreadable"] == ["4_foxlora/broken.png"]
    assert [(each["folder"], each["standing"]) for each in told["counts"]] == [
        ("2_[b]x", "too few"),
        ("4_foxlora", "too few"),
    ]
    assert told["tags"]["everywhere"] == ["foxlora"]
    assert {row["tag"]: row["pictures"] for row in told["tags"]["counts"]} == {
        "foxlora": 4,
        "hat": 3,
        "coat": 3,
        "sketch": 1,
        "sitting": 1,
    }
    assert told["pairs"]["always_together"] == [{"tags": ["coat", "hat"], "pictures": 3}]
    assert told["exposure"]["visits_per_epoch"] == 6 * 4 + 2
    assert told["exposure"]["epochs"] == 25
    assert told["exposure"]["folders"][1]["exposure"] == 100
    assert told["exposure"]["regularization"]["images"] == 1
    buckets = {(row["bucket"][0], row["bucket"][1]): row for row in told["buckets"]["buckets"]}
    assert buckets[512, 512]["pictures"] == 3
    assert (buckets[512, 512]["batches"], buckets[512, 512]["enlarged"]) == (4, 1)
    assert sum(row["pictures"] for row in told["buckets"]["buckets"]) == 6
    assert told["sizes"][0]["least"] == 200
    assert {"kind": "shape", "what": "square"}.items() <= next(
        lean for lean in told["bias"] if lean["what"] == "square"
    ).items()
    assert {"kind": "same", "members": ["4_foxlora/1.png", "4_foxlora/copy.png"], "distance": 0} in told["similar"]


def test_everything_as_text(dataset: Path) -> None:
    done = run(dataset)
    assert done.exception is None
    assert "7 pictures, 4 with a caption · 1 for regularization · goal: character" in done.stdout
    assert "1 picture cannot be read (4_foxlora/broken.png)" in done.stdout
    assert "On every caption: foxlora." in done.stdout
    assert "always together, on 3 pictures: coat, hat" in done.stdout
    assert "2_[b]x" in done.stdout
    assert "█" in done.stdout
    tables = [line for line in done.stdout.splitlines() if "  " in line]
    assert max(map(len, tables)) <= 80


def test_ascii_where_there_is_nothing_else(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.cli.output.is_unicode", lambda: False)
    done = run(dataset, "--section", "tags")
    assert "█" not in done.stdout and "####" in done.stdout


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_alone(dataset: Path, section: str) -> None:
    told = found(dataset, "--section", section)
    assert [name for name in SECTIONS if name in told] == [section]
    assert run(dataset, "--section", section).exception is None


def test_a_section_has_all_its_rows(tmp_path: Path) -> None:
    (tmp_path / "1_fox").mkdir()
    (tmp_path / "1_fox/a.png").touch()
    (tmp_path / "1_fox/a.txt").write_text(", ".join(f"tag {number}" for number in range(30)))
    short, long = run(tmp_path, "--no-pictures").stdout, run(tmp_path, "--section", "tags").stdout
    assert "and 20 more: --section tags shows all" in short
    assert "more" not in long
    assert all(f"tag {number} " in long for number in range(30))


def test_captions_alone_open_no_picture(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def surveyed(*_: object) -> None:
        raise AssertionError("looked at a picture")

    monkeypatch.setattr("loratory.imaging.survey.survey", surveyed)
    told = found(dataset, "--no-pictures")
    assert [name for name in SECTIONS if name in told] == ["tags", "pairs", "exposure"]
    assert found(dataset, "--section", "pairs")["pairs"]
    assert "were not looked at" in run(dataset, "--no-pictures").stderr
    assert "about pictures" in str(run(dataset, "--no-pictures", "--section", "sizes").exception)


def test_the_goal_of_a_style_judges_the_whole_set(dataset: Path) -> None:
    told = found(dataset, "--goal", "style", "--no-pictures")
    assert [(each["folder"], each["pictures"]) for each in told["counts"]] == [(None, 7)]
    assert told["exposure"]["epochs"] == 9  # 35 / 4


@pytest.mark.parametrize("resolution", [64, 512, 1024, 8192])
def test_buckets_of_any_resolution(dataset: Path, resolution: int) -> None:
    buckets = found(dataset, "--section", "buckets", "--resolution", resolution)["buckets"]
    assert buckets["resolution"] == resolution
    assert (resolution, resolution) in [tuple(row["bucket"]) for row in buckets["buckets"]]


def test_a_set_of_regularization_pictures_alone(tmp_path: Path) -> None:
    (tmp_path / "reg/1_fox").mkdir(parents=True)
    (tmp_path / "reg/1_fox/a.png").touch()
    (tmp_path / ".loratory").mkdir()
    error = run(tmp_path).exception
    assert isinstance(error, LoratoryError) and "regularization" in error.message


def test_pictures_that_lie_in_no_concept_folder(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (512, 512), 1)
    told = found(tmp_path)
    assert told["exposure"]["folders"][0]["repeats"] == 1
    assert told["pictures"] == 1
