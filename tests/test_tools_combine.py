"""Adapters merged into each other: the file that is written changes a model as all of them do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratory.adapters.files import save_adapter
from loratory.adapters.keys import diffusers_module_key
from loratory.adapters.summary import inspect_file
from loratory.adapters.tools.combine import merge_adapters
from loratory.adapters.tools.merge import merge_into_base
from loratory.adapters.tools.sources import Ingredient
from loratory.errors import LoratoryError
from loratory.models.header import read_header
from merge_cases import (
    KINDS,
    WITHOUT_BASE,
    Weights,
    adapter,
    base_models,
    base_weights,
    compare,
    compare_changes,
    dense,
    expected,
    layers,
    random,
    weights,
)
from tiny_models import Family


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return base_models(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_loras_are_joined_by_their_ranks(tmp_path: Path, family: Family) -> None:
    strengths = {"lora": (0.8, -0.5), "tucker": (1.2, 0.3)}
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", family, kind), *strengths[kind]) for kind in strengths]
    combined = merge_adapters(given, tmp_path / "m.safetensors")
    compare_changes(tmp_path / "m.safetensors", family, strengths, 1e-6)
    assert set(combined.ranks) == {6} and set(combined.forms) == {"pair"}
    assert read_header(tmp_path / "m.safetensors").metadata["ss_network_dim"] == "6"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_other_kinds_become_whole_differences(tmp_path: Path, family: Family) -> None:
    strengths = dict.fromkeys(WITHOUT_BASE, (0.8, -0.5))
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", family, kind), *strengths[kind]) for kind in strengths]
    combined = merge_adapters(given, tmp_path / "m.safetensors")
    compare_changes(tmp_path / "m.safetensors", family, strengths, 1e-6)
    assert set(combined.forms) == {"diff"}


def test_kinds_that_depend_on_the_model_need_it(tmp_path: Path, bases: Any) -> None:
    strengths = dict.fromkeys(KINDS, (0.5, 0.25))
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", "sdxl", kind), *strengths[kind]) for kind in KINDS]
    with pytest.raises(LoratoryError, match="depends on the weights of the base model") as caught:
        merge_adapters(given, tmp_path / "m.safetensors")
    assert "--base" in caught.value.hint
    merge_adapters(given, tmp_path / "m.safetensors", base=bases["sdxl", "file"])
    compare_changes(tmp_path / "m.safetensors", "sdxl", strengths, 1e-6)
    merged = merge_into_base(bases["sdxl", "file"], [Ingredient(tmp_path / "m.safetensors")], tmp_path / "n.st")
    assert merged.layers == len(layers("sdxl"))
    compare(weights_of_file(tmp_path / "n.st"), "sdxl", expected("sdxl", strengths), 2e-6)
    assert "loratory.merged_for" in read_header(tmp_path / "m.safetensors").metadata


def weights_of_file(path: Path) -> Weights:
    return weights(path.rename(path.with_suffix(".safetensors")))


def test_a_rank_cuts_and_says_what_it_costs(tmp_path: Path) -> None:
    strengths = {"lora": (1.0, 1.0), "loha": (0.5, 0.5)}
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", "sd1", kind), *strengths[kind]) for kind in strengths]
    merge_adapters(given, tmp_path / "all.safetensors", rank=7)
    compare_changes(tmp_path / "all.safetensors", "sd1", strengths, 1e-5)  # 3 + 2 * 2 ranks: nothing is lost
    combined = merge_adapters(given, tmp_path / "few.safetensors", rank=2)
    exact = {p: t - base_weights("sd1")[p].double() for p, t in expected("sd1", strengths).items()}
    kept = dense(tmp_path / "few.safetensors", "sd1")
    lost = sum(float((kept[place] - exact[place]).square().sum()) for place in exact) ** 0.5
    whole = sum(float(change.square().sum()) for change in exact.values()) ** 0.5
    best = sum(float(torch.linalg.svdvals(c.flatten(1))[2:].square().sum()) for c in exact.values()) ** 0.5
    assert combined.relative_error == pytest.approx(lost / whole, rel=1e-3)
    assert lost == pytest.approx(best, rel=1e-3)
    assert set(combined.ranks) == {2}


def test_a_rank_beyond_that_of_the_layer_is_that_of_the_layer(tmp_path: Path) -> None:
    key = "lora_unet_conv_out"
    states = [
        {f"{key}.lora_down.weight": random(8, 32, 3, 3, seed=n), f"{key}.lora_up.weight": random(4, 8, 1, 1, seed=n)}
        for n in range(2)
    ]
    for n, state in enumerate(states):
        save_file(state, tmp_path / f"{n}.st")
    combined = merge_adapters([Ingredient(tmp_path / f"{n}.st") for n in range(2)], tmp_path / "m.safetensors", rank=8)
    assert set(combined.ranks) == {4}
    found = load_file(tmp_path / "m.safetensors")
    parts = [found, *states]
    change, *exact = [t[f"{key}.lora_up.weight"].flatten(1) @ t[f"{key}.lora_down.weight"].flatten(1) for t in parts]
    torch.testing.assert_close(change, exact[0] + exact[1])


def test_magnitudes_in_float32_do_not_widen_a_file_in_half_precision(tmp_path: Path, bases: Any) -> None:
    state = load_file(adapter(tmp_path / "x.st", "sd1", "dora"))
    save_adapter(tmp_path / "dora.st", state, {}, "fp16")
    merge_adapters([Ingredient(tmp_path / "dora.st")], tmp_path / "m.safetensors", rank=2, base=bases["sd1", "file"])
    tensors = load_file(tmp_path / "m.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if not name.endswith("alpha")} == {torch.float16}


def test_norms_stay_norms(tmp_path: Path) -> None:
    key = "lora_te_text_model_final_layer_norm"
    for name in ("one", "two"):
        save_file({f"{key}.w_norm": torch.ones(32), f"{key}.b_norm": torch.ones(32)}, tmp_path / f"{name}.st")
    given = [Ingredient(tmp_path / "one.st", 9.0, 0.5), Ingredient(tmp_path / "two.st", 9.0, 0.25)]
    merge_adapters(given, tmp_path / "m.safetensors", rank=4)
    state = load_file(tmp_path / "m.safetensors")
    assert set(state) == {f"{key}.w_norm", f"{key}.b_norm"}
    assert all(tensor.tolist() == [0.75] * 32 for tensor in state.values())


def test_one_layer_under_two_names_is_one_module(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one.st", "sdxl", "lora")
    other = adapter(tmp_path / "other.st", "sdxl", "lora", naming=diffusers_module_key)
    merge_adapters([Ingredient(one), Ingredient(other)], tmp_path / "m.safetensors")
    compare_changes(tmp_path / "m.safetensors", "sdxl", {"lora": (2.0, 2.0)}, 1e-6)
    assert len(load_file(tmp_path / "m.safetensors")) == 3 * len(layers("sdxl"))


def test_an_adapter_for_models_of_another_kind_is_not_joined(tmp_path: Path) -> None:
    ours, other = adapter(tmp_path / "a.safetensors", "sd1", "lora"), tmp_path / "flux.safetensors"
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(8, 2)}, other)
    with pytest.raises(LoratoryError, match=f"no SD 1.x, SD 2.x or SDXL model has: {key}"):
        merge_adapters([Ingredient(ours), Ingredient(other)], tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_families_are_not_mixed(tmp_path: Path) -> None:
    given = [Ingredient(adapter(tmp_path / f"{family}.st", family, "lora")) for family in ("sd1", "sdxl")]
    save_file(load_file(given[0].path), given[0].path, {"ss_base_model_version": "sd_v1"})
    with pytest.raises(LoratoryError, match=r"is for SD 1\.x models and .* for SDXL models .* cannot be merged"):
        merge_adapters(given, tmp_path / "m.safetensors")


def test_metadata_keeps_what_agrees_and_tells_what_was_merged(tmp_path: Path) -> None:
    state = load_file(adapter(tmp_path / "x.st", "sd1", "lora"))
    common = {"ss_sd_model_name": "base.safetensors", "ss_network_dim": "3", "sshs_model_hash": "old"}
    halves = {name: tensor.half() for name, tensor in state.items()}
    save_file(halves, tmp_path / "one.st", {**common, "ss_steps": "10"})
    save_file(halves, tmp_path / "two.st", {**common, "ss_steps": "20"})
    given = [Ingredient(tmp_path / "one.st", 0.5, 0.25), Ingredient(tmp_path / "two.st")]
    merge_adapters(given, tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    assert header.metadata["ss_sd_model_name"] == "base.safetensors"
    assert header.metadata["ss_network_dim"] == "6"
    assert "ss_steps" not in header.metadata
    recipe = json.loads(header.metadata["loratory.merged"])
    assert [(item["name"], item["unet"], item["text_encoder"]) for item in recipe] == [
        ("one.st", 0.5, 0.25),
        ("two.st", 1.0, 1.0),
    ]
    assert inspect_file(tmp_path / "m.safetensors").hashes == "ok"
    assert {entry.dtype for name, entry in header.tensors.items() if not name.endswith("alpha")} == {"F16"}
