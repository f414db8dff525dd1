"""`loratory demo --tour`: every command that it shows is the one that runs, and what fails ends it."""

import re
from pathlib import Path

import pytest

from command_line import Call


@pytest.mark.slow
def test_the_whole_way(loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("--set", "training.exposure=1", "--set", "training.train_batch_size=12", "--set", "sample.steps=2")
    code, out, err = loratory("demo", "--tour", *short)
    assert code == 0, err
    commands = [line.split()[2] for line in err.splitlines() if line.startswith("$ loratory ")]
    assert commands == ["prepare", "check", "plan", "train", "grid"]
    tour = tmp_path / "demo-tour"
    assert len(list((tour / "originals").glob("*.webp"))) == 24
    assert len(list((tour / "pictures" / "10_hrt heart").glob("*.png"))) == 24
    assert (tour / "output" / "hrt.safetensors").is_file()
    (grid,) = tour.glob("runs/*/grids/*.png")
    assert str(grid.relative_to(tmp_path)) in out
    run = re.findall(r"loratory (demo-tour/runs/\S+)$", err, re.MULTILINE)[-1]
    assert Path(run) == grid.parents[1].relative_to(tmp_path)


def test_what_fails_ends_it(loratory: Call, tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("in the way")
    code, _, err = loratory("demo", "--tour", "--out", tmp_path)
    assert code != 0
    assert "`loratory prepare` ended with" in err and "$ loratory check" not in err
    assert (tmp_path / "pictures").read_text() == "in the way"
    assert "Traceback" not in err


def test_a_wrong_setting_ends_it_before_the_first_command(loratory: Call, tmp_path: Path) -> None:
    code, _, err = loratory("demo", "--tour", "--out", tmp_path, "--set", "training.nosuch=1")
    assert code == 2 and "nosuch" in err
    assert "$ loratory" not in err and not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(("holds", "options"), [("originals", ()), ("pictures/10_hrt", ("--tour",))])
def test_demo_and_tour_have_a_folder_each(loratory: Call, tmp_path: Path, holds: str, options: tuple[str, ...]) -> None:
    (tmp_path / holds).mkdir(parents=True)
    code, _, err = loratory("demo", *options, "--out", tmp_path)
    assert code == 2 and "already" in err
    assert not (tmp_path / "config.toml").exists()
