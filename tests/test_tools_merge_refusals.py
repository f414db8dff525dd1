"""What is not merged, what ends a merge half way, and the command: nothing is lost and nothing is left."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratory.adapters.tools import stream
from loratory.adapters.tools.merge import merge_into_base
from loratory.adapters.tools.sources import Ingredient
from loratory.cli.main import main
from loratory.errors import LoratoryError
from loratory.models.header import read_header
from merge_cases import (
    adapter,
    base_models,
    compare,
    compare_changes,
    expected,
    layers,
    weights,
)
from tiny_models import shared_tiny_model, tiny_model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return base_models(tmp_path_factory.mktemp("base"))


def truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-10])
    return "is cut short"


def poisoned(path: Path) -> str:
    state = load_file(path)
    next(tensor for name, tensor in state.items() if name.endswith("lora_up.weight"))[0, 0] = float("nan")
    save_file(state, path)
    return "holds numbers that are not finite in lora_"


def infinite(path: Path) -> str:
    state = load_file(path)
    save_file({name: tensor * (1e30 if "lora_" in name else 1) for name, tensor in state.items()}, path)
    return "is not finite"


def stranger(path: Path) -> str:
    state = load_file(path)
    state |= {
        f"lora_unet_down_blocks_7_{role}": torch.zeros(1, 1) for role in ("x.lora_up.weight", "x.lora_down.weight")
    }
    save_file(state, path)
    return "has a module that the base model has no layer for: lora_unet_down_blocks_7_x"


def misfit(path: Path) -> str:
    state = load_file(path)
    name = next(name for name in state if name.endswith("lora_down.weight"))
    save_file(state | {name: torch.zeros(3, 5)}, path)
    return "was trained on a base model of other sizes"


def half(path: Path) -> str:
    state = load_file(path)
    state.pop(next(name for name in state if name.endswith("lora_up.weight")))
    save_file(state, path)
    return "has no lora_up.weight in lora_"


def unknown(path: Path) -> str:
    save_file(load_file(path) | {"lora_unet_conv_in.spice": torch.zeros(1)}, path)
    return "has the unknown tensor spice in lora_unet_conv_in"


def twice(path: Path) -> str:
    wrong = {"lokr_w1": (2, 2), "lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2": (2, 2)}
    save_file({f"lora_unet_conv_in.{role}": torch.zeros(shape) for role, shape in wrong.items()}, path)
    return "has the unknown tensor lokr_w1 in lora_unet_conv_in"


def biased(path: Path) -> str:
    state = {"diff": torch.zeros(32, 32), "diff_b": torch.zeros(32)}
    prefix = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{prefix}.{role}": tensor for role, tensor in state.items()}, path)
    return "changes the bias of lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q, which has none"


def other_family(path: Path) -> str:
    adapter(path, "sdxl", "lora")
    return "is for SDXL models"


def base_model(path: Path) -> str:
    save_file({"model.diffusion_model.x.weight": torch.zeros(1)}, path)
    return "is a base model, not an adapter"


def gone(path: Path) -> str:
    path.unlink()
    return "There is no file"


HOSTILE = [
    truncated,
    poisoned,
    infinite,
    stranger,
    misfit,
    half,
    unknown,
    twice,
    biased,
    other_family,
    base_model,
    gone,
]


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_what_cannot_be_merged_is_refused_and_nothing_is_left(
    tmp_path: Path, bases: Any, harm: Callable[[Path], str], layout: str
) -> None:
    path = adapter(tmp_path / "a.safetensors", "sd1", "lora")
    sentence = harm(path)
    (tmp_path / "out").mkdir()
    with pytest.raises(LoratoryError) as caught:
        merge_into_base(bases["sd1", layout], [Ingredient(path)], tmp_path / "out" / "m.safetensors")
    assert sentence in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_base_model_is_told_from_a_damaged_adapter(tmp_path: Path, bases: Any) -> None:
    state = load_file(bases["sd1", "file"])
    metadata = dict(read_header(bases["sd1", "file"]).metadata)
    state["model.diffusion_model.input_blocks.0.0.weight"][0] = float("inf")
    save_file(state, tmp_path / "base.safetensors", metadata)
    path = adapter(tmp_path / "a.safetensors", "sd1", "lora")
    with pytest.raises(LoratoryError, match=r"base\.safetensors holds numbers that are not finite"):
        merge_into_base(tmp_path / "base.safetensors", [Ingredient(path)], tmp_path / "m.safetensors")


def test_a_base_model_with_a_name_that_is_not_utf_8_is_told_so(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    path = adapter(tmp_path / f"{name}.safetensors", "sd1", "lora")
    with pytest.raises(LoratoryError, match="this name is not valid UTF-8") as caught:
        merge_into_base(tiny_model(tmp_path / name, "sd1"), [Ingredient(path)], tmp_path / "m")
    assert caught.value.hint == "Rename the model."
    merge_into_base(shared_tiny_model("sd1"), [Ingredient(path)], tmp_path / f"m{name}")
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.safetensors", f"m{name}"}


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_full_disk_gives_a_sentence_and_leaves_what_was_there(
    tmp_path: Path, bases: Any, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = adapter(tmp_path / "a.safetensors", "sd1", "lora")
    out = tmp_path / "out" / "m.safetensors"
    out.parent.mkdir()
    merge_into_base(bases["sd1", layout], [Ingredient(path, 0.5)], out)
    before = {found: found.read_bytes() for found in out.parent.rglob("*") if found.is_file()}
    chunks, left = stream.TensorFile.chunks, [100]

    def filling(file: stream.TensorFile, name: str) -> Any:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return chunks(file, name)

    monkeypatch.setattr(stream.TensorFile, "chunks", filling)
    with pytest.raises(LoratoryError, match=r"m\.safetensors was not written: disk full") as caught:
        merge_into_base(bases["sd1", layout], [Ingredient(path)], out)
    assert caught.value.exit_code == 1
    assert {found: found.read_bytes() for found in out.parent.rglob("*") if found.is_file()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from loratory.adapters.tools.merge import merge_into_base
from loratory.adapters.tools.sources import Ingredient

def progress(done, total):
    if 2 * done > total:
        os.kill(os.getpid(), signal.SIGKILL)

merge_into_base(sys.argv[1], [Ingredient(Path(sys.argv[2]))], Path(sys.argv[3]), None, progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_killed_merge_leaves_no_half_result(tmp_path: Path, bases: Any, layout: str) -> None:
    path, out = adapter(tmp_path / "a.st", "sd1", "lora"), tmp_path / "out" / "m.safetensors"
    out.parent.mkdir()
    arguments = [str(bases["sd1", layout]), str(path), str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists() and len(list(out.parent.iterdir())) == 1
    merge_into_base(bases["sd1", layout], [Ingredient(path)], out)
    assert list(out.parent.iterdir()) == [out]


# ------------------------------------------------------------------------------------------------- the command


def run(capsys: Any, monkeypatch: Any, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["loratory", "lora", "merge", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(str(stopped.value.code)), captured.out, captured.err


def test_the_command_merges_with_weights(capsys: Any, monkeypatch: Any, tmp_path: Path, bases: Any) -> None:
    one, two = (
        adapter(tmp_path / f"{name}.safetensors", "sd1", kind) for name, kind in (("a:2", "lora"), ("b", "loha"))
    )
    strengths = {"lora": (1.0, 1.0), "loha": (0.5, -0.25)}
    out = tmp_path / "m.safetensors"
    code, said, _ = run(capsys, monkeypatch, one, f"{two}:0.5:-0.25", "-o", out)
    assert code == 0
    assert f"adapter\t{two} at 0.5, text encoders at -0.25" in said.splitlines()
    compare_changes(out, "sd1", strengths, 1e-6)
    model = tmp_path / "model.safetensors"
    code, said, _ = run(capsys, monkeypatch, one, f"{two}:0.5:-0.25", "--into", bases["sd1", "file"], "-o", model)
    assert code == 0
    assert f"changed\t{len(layers('sd1'))} layers" in said.splitlines()
    compare(weights(model), "sd1", expected("sd1", strengths), 1e-6)
    code, said, _ = run(capsys, monkeypatch, one, two, "-o", out, "--rank", 2, "--json", "--force")
    assert code == 0
    assert json.loads(said)["ranks"] == {"2": len(layers("sd1"))}


def test_the_command_never_replaces_what_it_should_not(
    capsys: Any, monkeypatch: Any, tmp_path: Path, bases: Any
) -> None:
    path = adapter(tmp_path / "a.safetensors", "sd1", "lora")
    folder = tiny_model(tmp_path / "base", "sd1")
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "fox.png").write_bytes(b"mine")
    cases = [
        ([path, "-o", path, "--force"], "is what is read"),
        ([path, "-o", tmp_path / "there.safetensors"], "is there already"),
        ([path, "-o", tmp_path / "m.ckpt"], "does not end in .safetensors"),
        ([path, "--into", bases["sd1", "file"], "-o", bases["sd1", "file"], "--force"], "is what is read"),
        ([path, "--into", folder, "-o", folder, "--force"], "is inside the model"),
        ([path, "--into", folder, "-o", tmp_path, "--force"], "holds what is merged"),
        ([path, "--into", folder, "-o", tmp_path / "m.safetensors"], "is the name of a file"),
        ([path, "--into", folder, "-o", tmp_path / "pictures", "--force"], "is no model folder"),
        ([f"{path}:strong", "-o", tmp_path / "m.safetensors"], "'strong' is no weight"),
        ([f"{path}:0", "-o", tmp_path / "m.safetensors"], "nothing to merge"),
        ([path, "--into", folder, "--rank", "4", "-o", tmp_path / "m"], "--into makes a base model"),
    ]
    before = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    for arguments, sentence in cases:
        code, said, talk = run(capsys, monkeypatch, *arguments)
        assert (code, said) == (2, "")
        assert sentence in " ".join(talk.split()), arguments
    assert {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()} == before
