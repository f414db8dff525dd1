"""`loratory lora merge`: which file and which weights an argument means."""

from pathlib import Path

import click
import pytest

from loratory.cli.lora_merge import _ingredient

THERE = ("x.safetensors", "a:b.safetensors", "y.safetensors:0.5")


@pytest.mark.parametrize(
    ("argument", "name", "unet", "text_encoder"),
    [
        ("x.safetensors", "x.safetensors", 1, 1),
        ("x.safetensors:0.7", "x.safetensors", 0.7, 0.7),
        ("x.safetensors:-1:2", "x.safetensors", -1, 2),
        ("a:b.safetensors", "a:b.safetensors", 1, 1),
        ("a:b.safetensors:0.7", "a:b.safetensors", 0.7, 0.7),
        ("a:b.safetensors:0.7:0", "a:b.safetensors", 0.7, 0),
        ("y.safetensors:0.5", "y.safetensors:0.5", 1, 1),
        ("y.safetensors:0.5:2", "y.safetensors:0.5", 2, 2),
        ("gone.safetensors:1:2", "gone.safetensors", 1, 2),
        ("a:folder/gone.safetensors:3", "a:folder/gone.safetensors", 3, 3),
        ("gone", "gone", 1, 1),
    ],
)
def test_a_weight_is_what_follows_the_longest_name_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, name: str, unet: float, text_encoder: float
) -> None:
    monkeypatch.chdir(tmp_path)
    for there in THERE:
        Path(there).touch()
    found = _ingredient(argument)
    assert (found.path, found.unet, found.text_encoder) == (Path(name), unet, text_encoder)


@pytest.mark.parametrize("weight", ["x", "nan", "inf", "", "1:"])
def test_what_is_no_weight_is_named(tmp_path: Path, weight: str) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(click.UsageError, match="is no weight"):
        _ingredient(f"{tmp_path}/x.safetensors:{weight}")
