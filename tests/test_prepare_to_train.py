"""The whole way of a set: originals, prepared, checked, mended, taken back, balanced, trained."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from loratory.cli.main import main
from loratory.imaging.reading import read_picture
from preparation_sets import contents
from training_runs import saved, small_config, train

# What is found after mending, and why it stays.
EXCEPTIONS = {
    "few-tags": "drawings of a test have little to tag",
    "image-count": "and there are few of them",
    "singleton": "a tag of one picture may be meant",
    "caption-missing": "what is to be seen on an opaque picture nobody has written down",
    "background-untagged": "and its background is such a thing",
    "sheet": "whether two figures are a sheet is for a person to say",
    "compressed": "a guess, which flat drawings of so few px mislead",
    "image-ranking": "better pictures are not to be had",
}


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Loratory = Callable[..., Said]


@pytest.fixture
def loratory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Loratory:
    """Calls the program in this process."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["loratory", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Said(int(stopped.value.code or 0), captured.out, captured.err)

    return call


def subject(seed: int, size: tuple[int, int] = (96, 96), ground: tuple[int, ...] = (0, 0, 0, 0)) -> Image.Image:
    """A flat drawing, different for each seed, in the middle of its ground."""
    chance = np.random.default_rng(seed)
    whole = Image.new("RGBA", size, ground)
    pen = ImageDraw.Draw(whole)
    for reach in (1.0, 0.6, 0.3):
        angles = np.sort(chance.uniform(0, 2 * np.pi, 9))
        radii = min(size) * 0.45 * reach * chance.uniform(0.7, 1, 9)
        corners = np.stack([size[0] / 2 + radii * np.cos(angles), size[1] / 2 + radii * np.sin(angles)], axis=1)
        pen.polygon([*map(tuple, corners.tolist())], tuple(chance.integers(0, 256, 3).tolist()))
    return whole


def make_originals(folder: Path) -> None:
    """Twelve transparent pictures, and one each of what goes wrong."""
    folder.mkdir()
    for seed in range(12):
        subject(seed).save(folder / f"{seed:02}.webp", lossless=True)
    (folder / "03.txt").write_text("red fox, badge, transparent background, café\n", "utf-8")
    subject(20, (80, 200), (255, 255, 255, 255)).convert("RGB").save(folder / "tall.png")
    shutil.copy(folder / "tall.png", folder / "tall2.png")
    subject(21, (40, 40), (30, 30, 30, 255)).convert("RGB").save(folder / "tiny.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    subject(22, (104, 96), (90, 200, 240, 255)).convert("RGB").save(folder / "turned.jpg", exif=turned, quality=95)
    frames = [subject(seed, ground=(240, 240, 0, 255)).convert("P") for seed in (23, 24)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])


def rules(said: Said, *severities: str) -> set[str]:
    return {found["rule"] for found in said.json["findings"] if not severities or found["severity"] in severities}


@pytest.mark.slow
def test_from_originals_to_a_trained_adapter(loratory: Loratory, tmp_path: Path) -> None:
    raw, train_dir = tmp_path / "Raw", tmp_path / "set"
    concept = train_dir / "2_fxlora badge"
    make_originals(raw)
    originals = contents(raw)

    # Prepared: everything a trainer can read, upright, opaque, large enough, with what was done in the caption.
    options = ("--token", "fxlora", "--class", "badge", "--repeats", 2, "--resolution", 64)
    assert loratory("prepare", raw, train_dir, *options).code == 0
    assert contents(raw).items() >= originals.items()
    made = {path.stem: path for path in concept.glob("*.png")}
    assert len(made) == 17
    sizes = {name: Image.open(path).size for name, path in made.items()}
    assert (sizes["turned"], sizes["tall"], sizes["tiny"]) == ((96, 104), (80, 200), (64, 64))
    assert {Image.open(path).mode for path in made.values()} == {"RGB"}
    assert (concept / "00.txt").read_text("utf-8") == "fxlora, badge, white background"
    assert "transparent" not in (concept / "03.txt").read_text("utf-8")
    grounds = [read_picture(made[f"{seed:02}"]).pixels.getpixel((0, 0)) for seed in range(5)]
    assert len(set(grounds)) == 5
    before = contents(train_dir)

    # Checked, by the resolution that it was prepared for.
    checked = loratory("check", train_dir, "--json")
    assert checked.code == 1
    assert {"same-picture", "crop-loss", "instance-missing"} <= rules(checked)
    assert "low-resolution" not in rules(checked)
    cut = loratory("tag", "list", train_dir, "--where", "issue:crop-*").out
    assert [line.split("\t")[0] for line in cut.splitlines()] == ["2_fxlora badge/tall.png", "2_fxlora badge/tall2.png"]
    shown = loratory("check", train_dir, "--fix", "all", "--dry-run")
    assert "tall.png: crop = " in shown.out
    assert contents(train_dir) == before

    # Mended: nothing is left but what has its reason.
    assert loratory("check", train_dir, "--fix", "all").code == 0
    mended = contents(train_dir)
    assert Image.open(made["tall"]).size[1] < 120
    assert len(list(concept.glob("*.png"))) == 16
    again = loratory("check", train_dir, "--json")
    assert again.code == 0, again.out
    assert rules(again) <= EXCEPTIONS.keys()
    assert loratory("check", train_dir, "--fix", "all").code == 0
    assert contents(train_dir) == mended
    assert "Nothing had to be made" in loratory("prepare", raw).err

    # Taken back, pictures and captions, and done again.
    assert loratory("prepare", raw, "--undo").code == 0
    assert {name for name in contents(train_dir) if name.endswith(".png")} == {n for n in before if n.endswith(".png")}
    assert (concept / "tall.png").read_bytes() == before["2_fxlora badge/tall.png"]
    assert loratory("check", train_dir, "--fix", "all").code == 0
    assert contents(train_dir) == mended

    # Balanced with another concept, which prepare and check go on with.
    wolves = train_dir / "1_wolf"
    wolves.mkdir()
    for seed in range(8):
        subject(40 + seed, ground=(seed * 30, 120, 60, 255)).convert("RGB").save(wolves / f"{seed}.png")
        (wolves / f"{seed}.txt").write_text("wolf, toy, hat, scarf, stick", "utf-8")
    assert loratory("balance", train_dir, "--apply").code == 0
    assert sorted(path.name for path in train_dir.glob("[0-9]*")) == ["2_fxlora badge", "4_wolf"]
    assert loratory("balance", train_dir, "--undo").code == 0
    assert loratory("balance", train_dir, "--repeats", 1, "--apply").code == 0
    assert "Nothing had to be made" in loratory("prepare", raw).err
    # Eight wolves, all before green that no caption names, which make up for their number by repeats.
    warned = rules(loratory("check", train_dir, "--json"), "warning", "error")
    assert warned == {"small-folder", "background-bias"}

    # Trained on.
    torch.set_num_threads(1)
    config = small_config(tmp_path, training={"max_train_epochs": None, "max_train_steps": 3})
    finished, _, _ = train(config)
    assert finished.status == "done"
    assert saved(config)
