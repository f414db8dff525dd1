"""The survey of pictures: what one look tells, and what is kept of it."""

import os
import re
import sqlite3
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from loratory.imaging import survey as survey_module
from loratory.imaging import survey_cache
from loratory.imaging.facts import PictureFacts
from loratory.imaging.quality import detail, residual
from loratory.imaging.survey import facts_of, survey
from loratory.imaging.survey_cache import SurveyCache, stamp_of
from loratory.paths import cache_dir


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture of soft random shapes."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(paths):
        scene(number).save(path)
    return paths


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that were really looked at, by surveys with one worker."""
    seen: list[Path] = []

    def counted(path: Path) -> PictureFacts:
        seen.append(path)
        return facts_of(path)

    monkeypatch.setattr(survey_module, "facts_of", counted)
    return seen


def found(paths: list[Path]) -> dict[Path, PictureFacts]:
    return dict(survey(paths, workers=1))


def test_facts_of_a_figure_on_a_plain_ground(tmp_path: Path) -> None:
    picture = Image.new("RGB", (600, 400), (255, 255, 255))
    picture.paste(scene(1, 150, 200), (300, 100))
    picture.save(tmp_path / "a.png")

    facts = facts_of(tmp_path / "a.png")

    assert facts.problem == ""
    assert (facts.format, facts.mode, facts.size, facts.frames) == ("PNG", "RGB", (600, 400), 1)
    assert facts.size_bytes == (tmp_path / "a.png").stat().st_size
    assert facts.ground is not None
    assert facts.ground.name == "white"
    assert np.allclose(facts.ground.box, (300, 100, 450, 300), atol=6)
    assert not facts.is_grey
    assert len(facts.thumbnail) == 64 * 64
    assert facts.hash != facts.mirrored_hash
    assert all(0 <= value <= 1 for value in facts.style)


def test_transparency_is_told_with_what_hides_behind_it(tmp_path: Path) -> None:
    picture = scene(1).convert("RGBA")
    picture.paste((255, 255, 255, 0), (0, 0, 40, 120))
    picture.save(tmp_path / "white.png")
    picture.paste((200, 0, 0, 0), (0, 0, 40, 120))
    picture.save(tmp_path / "red.png")

    white, red = facts_of(tmp_path / "white.png"), facts_of(tmp_path / "red.png")

    assert white.transparent_share == red.transparent_share == 0.25
    assert (white.hides_colours, red.hides_colours) == (False, True)
    assert white.hash == red.hash
    assert white.digest != red.digest


def test_a_turned_picture_has_the_facts_of_the_upright_one(tmp_path: Path) -> None:
    scene(2).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(2).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)

    upright, turned = facts_of(tmp_path / "a.png"), facts_of(tmp_path / "b.png")

    assert turned.orientation == 6
    assert turned.size == upright.size == (160, 120)
    assert turned.hash == upright.hash


def test_a_long_thin_picture_and_a_single_px(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 1), (9, 9, 9)).save(tmp_path / "thin.png")
    Image.new("L", (1, 1), 9).save(tmp_path / "px.png")

    assert facts_of(tmp_path / "thin.png").size == (20_000, 1)
    assert facts_of(tmp_path / "px.png").problem == ""


def test_the_quality_of_a_large_picture_is_measured_at_its_own_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(4).normal(128, 6, (900, 1100)).round().astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    facts = facts_of(tmp_path / "a.png")
    assert facts.residual == residual(noise) > 5  # shrunk to the working copy, little of it is left
    assert facts.detail == detail(noise) == 1


def test_what_is_no_picture_is_a_problem_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    scene(1).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["empty", "text", "cut", "folder", "pipe", "loop", "missing"]
    facts = {name: facts_of(tmp_path / f"{name}.png") for name in names}

    assert {name: each.problem for name, each in facts.items()} == {
        "empty": "empty",
        "text": "not-a-picture",
        "cut": "truncated",
        "folder": "unreadable",
        "pipe": "unreadable",
        "loop": "unreadable",
        "missing": "unreadable",
    }
    assert all(each.reason for each in facts.values())
    assert facts["cut"].size == (160, 120)
    assert facts["cut"].size_bytes == len(whole) // 2
    assert facts["cut"].digest != ""
    assert facts_of(Path("nul\0.png")).problem


def test_each_path_comes_once_and_the_second_time_from_the_cache(pictures: list[Path], looks: list[Path]) -> None:
    first = found(pictures)
    assert sorted(first) == pictures
    assert sorted(looks) == pictures

    looks.clear()
    assert found(pictures) == first
    assert looks == []


def test_several_processes_find_the_same(pictures: list[Path]) -> None:
    by_processes = dict(survey(pictures, workers=2))

    assert by_processes == {path: facts_of(path) for path in pictures}


def test_only_changed_pictures_are_looked_at_again(pictures: list[Path], looks: list[Path]) -> None:
    found(pictures)
    looks.clear()
    scene(99).save(pictures[3])
    os.utime(pictures[5], ns=(1, 1))

    assert found(pictures)[pictures[3]] == facts_of(pictures[3])
    assert set(looks) == {pictures[3], pictures[5]}


def test_other_code_looks_again(pictures: list[Path], looks: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found(pictures)
    looks.clear()
    monkeypatch.setattr(survey_cache, "_version", lambda: "another")

    found(pictures)
    assert sorted(looks) == pictures


def test_all_code_that_facts_come_from_counts() -> None:
    needed, waiting = set[str](), ["survey"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            text = Path(survey_cache.__file__).with_name(f"{name}.py").read_text()
            waiting += re.findall(r"^from loratory\.imaging\.(\w+) import", text, re.MULTILINE)
    # What runs and keeps the looks, a type, and groups of looks that were taken.
    assert needed - {"survey_cache", "workers", "recipe", "stars"} == set(survey_cache.ALGORITHM)


def test_a_picture_replaced_at_once_by_one_of_its_size_and_date_is_looked_at_again(
    tmp_path: Path, looks: list[Path]
) -> None:
    path, other = tmp_path / "a.bmp", tmp_path / "b.bmp"
    scene(1).save(path)
    scene(2).save(other)
    status = path.stat()
    assert status.st_size == other.stat().st_size
    before = found([path])[path]
    with path.open("r+b") as file:  # in place: the same inode
        file.write(other.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_ino == status.st_ino
    assert found([path])[path] == facts_of(path) != before
    assert len(looks) == 2


def test_a_file_of_terabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    scene(1).save(path)
    os.truncate(path, 1 << 40)

    facts = facts_of(path)

    assert (facts.problem, facts.size_bytes, facts.digest) == ("bomb", 1 << 40, "")


def test_problems_are_not_kept(tmp_path: Path, looks: list[Path]) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    found([tmp_path / "a.png"])
    found([tmp_path / "a.png"])

    assert len(looks) == 2


def test_undecodable_names(tmp_path: Path, looks: list[Path]) -> None:
    path = tmp_path / os.fsdecode(b"\xff\n.png")
    scene(1).save(path)

    assert found([path]) == found([path])
    assert len(looks) == 1


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_damaged_cache_is_begun_anew(pictures: list[Path], looks: list[Path], content: bytes) -> None:
    cache_dir().mkdir(parents=True)
    file = cache_dir() / survey_cache.FILE_NAME
    file.write_bytes(content)
    found(pictures)
    looks.clear()

    assert len(found(pictures)) == len(pictures)
    assert looks == []
    if content:
        assert file.with_name(f"{file.name}.damaged").read_bytes() == content


def test_a_cache_damaged_inside_is_survived(pictures: list[Path]) -> None:
    whole = found(pictures)
    file = cache_dir() / survey_cache.FILE_NAME
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xaa" * (len(data) - 4096)
    file.write_bytes(data)

    assert found(pictures) == whole
    assert found(pictures) == whole


def test_facts_that_cannot_be_read_are_found_anew(pictures: list[Path], looks: list[Path]) -> None:
    whole = found(pictures)
    looks.clear()
    with sqlite3.connect(cache_dir() / survey_cache.FILE_NAME) as connection:
        connection.execute("UPDATE pictures SET facts = '{}'")
    connection.close()

    assert found(pictures) == whole
    assert sorted(looks) == pictures


def test_no_place_for_a_cache_is_no_trouble(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = pictures[0]
    monkeypatch.setenv("LORATORY_HOME", str(occupied))

    assert sorted(found(pictures)) == pictures


def test_a_cache_that_another_process_holds_is_no_trouble(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_cache, "_PATIENCE_S", 0.05)
    whole = found(pictures)
    scene(99).save(pictures[3])
    holder = sqlite3.connect(cache_dir() / survey_cache.FILE_NAME, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    held = found(pictures)
    holder.close()

    assert {path: facts for path, facts in held.items() if path != pictures[3]} == {
        path: facts for path, facts in whole.items() if path != pictures[3]
    }


def test_the_cache_forgets_those_not_seen_for_longest(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_cache, "MOST_PICTURES", 8)
    found(pictures[:6])
    with sqlite3.connect(cache_dir() / survey_cache.FILE_NAME) as connection:
        connection.execute("UPDATE pictures SET seen_day = 5")
    connection.close()
    found(pictures[6:])

    cache = SurveyCache()
    kept = [path for path in pictures if (stamp := stamp_of(path)) and cache.find(path, stamp)]
    cache.close()
    assert len(kept) == 8
    assert set(pictures[6:]) <= set(kept)


def test_stop_ends_a_survey_early_and_keeps_what_was_found(pictures: list[Path], looks: list[Path]) -> None:
    stop = Event()
    for _ in survey(pictures, workers=1, stop=stop):
        stop.set()
    assert len(looks) == 1

    looks.clear()
    found(pictures)
    assert len(looks) == len(pictures) - 1
