"""Adapters merged into base models and into each other: what is written is the sum, in every layout and kind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.keys import Component, diffusers_module_key, module_key
from loratory.adapters.summary import inspect_file
from loratory.adapters.tools import stream
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.combine import merge_adapters
from loratory.adapters.tools.merge import merge_into_base
from loratory.adapters.tools.sources import Ingredient
from loratory.cli.main import main
from loratory.config.schema import ModelSettings, NetworkSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.models.export import export_single_file
from loratory.models.header import read_header
from loratory.models.load import BaseModel, load_base_model
from tiny_models import Family, shared_tiny_model, tiny_model

FAMILIES: list[Family] = ["sd1", "sd2", "sdxl"]
Weights = dict[tuple[Component, str], Tensor]
"""Tensors of the diffusers and transformers modules, by component and name in its state dict."""


def load(path: Path, dtype: torch.dtype = torch.float32) -> BaseModel:
    settings = ModelSettings(pretrained_model_name_or_path=str(path))
    return load_base_model(detect_model(settings, NoiseSettings()), settings, dtype=dtype)


def weights(path: Path) -> Weights:
    base = load(path)
    components: tuple[Component, ...] = ("unet", "te1", "te2")
    return {
        (component, name.removeprefix("text_model.")): tensor
        for component, model in zip(components, (base.unet, *base.text_encoders), strict=False)
        for name, tensor in model.state_dict().items()
    }


@cache
def base_weights(family: Family) -> Weights:
    return weights(shared_tiny_model(family))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The small models of each family as a folder and as a file in the original layout; to be read only."""
    found: dict[tuple[str, str], Path] = {}
    for family in FAMILIES:
        folder = shared_tiny_model(family)
        file = tmp_path_factory.mktemp("base") / f"{family}.safetensors"
        export_single_file(load(folder), file)
        found |= {(family, "folder"): folder, (family, "file"): file}
    return found


def random(*shape: int, seed: int = 0, size: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator) * size


# ------------------------------------------------- every kind: tensors of a module, and what they add, in float64


def lora(w: Tensor) -> dict[str, Tensor]:
    out, inner, *kernel = w.shape
    ones = [1] * len(kernel)
    return {
        "lora_down.weight": random(3, inner, *kernel),
        "lora_up.weight": random(out, 3, *ones, seed=1),
        "alpha": torch.tensor(1.5),
    }


def lora_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    up, down = t["lora_up.weight"].flatten(1), t["lora_down.weight"].flatten(1)
    return (up @ down).reshape(w.shape) * 0.5


def tucker(w: Tensor) -> dict[str, Tensor]:
    out, inner, *kernel = w.shape
    if not kernel:
        return lora(w)
    return {
        "lora_down.weight": random(3, inner, 1, 1),
        "lora_mid.weight": random(3, 3, *kernel, seed=2),
        "lora_up.weight": random(out, 3, 1, 1, seed=1),
        "alpha": torch.tensor(1.5),
    }


def tucker_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    if "lora_mid.weight" not in t:
        return lora_change(t, w)
    change = torch.zeros_like(w)
    up, mid, down = t["lora_up.weight"], t["lora_mid.weight"], t["lora_down.weight"]
    for a in range(3):
        for b in range(3):
            change += up[:, a].reshape(-1, 1, 1, 1) * mid[a, b] * down[b].reshape(1, -1, 1, 1)
    return change * 0.5


def loha(w: Tensor) -> dict[str, Tensor]:
    out, inner = w.shape[0], w[0].numel()
    parts = {f"hada_w{n}_{s}": random(*((out, 2) if s == "a" else (2, inner)), seed=n) for n in (1, 2) for s in "ab"}
    return parts | {"alpha": torch.tensor(4.0)}


def loha_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    return ((t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])).reshape(w.shape) * 2


def lokr(w: Tensor) -> dict[str, Tensor]:
    out, inner, *kernel = w.shape
    second = {"lokr_w2_a": random(out // 2, 2), "lokr_w2_b": random(2, torch.Size((inner // 2, *kernel)).numel())}
    return {"lokr_w1": random(2, 2), **second, "alpha": torch.tensor(1.0)}


def lokr_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    second = (t["lokr_w2_a"] @ t["lokr_w2_b"]).reshape(w.shape[0] // 2, w.shape[1] // 2, *w.shape[2:])
    rows = [torch.cat([t["lokr_w1"][i, j] * second for j in range(2)], 1) for i in range(2)]
    return torch.cat(rows, 0) * 0.5


def glora(w: Tensor) -> dict[str, Tensor]:
    out, inner, *kernel = w.shape
    ones = [1] * len(kernel)
    return {
        "a1.weight": random(inner, 2, *ones),
        "a2.weight": random(2, inner, *ones, seed=1),
        "b1.weight": random(out, 2, *ones, seed=2),
        "b2.weight": random(2, inner, *kernel, seed=3),
        "alpha": torch.tensor(1.0),
    }


def glora_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    through = t["a1.weight"].flatten(1) @ t["a2.weight"].flatten(1)
    beside = (t["b1.weight"].flatten(1) @ t["b2.weight"].flatten(1)).reshape(w.shape)
    return (torch.tensordot(w, through, ([1], [0])).movedim(-1, 1) + beside) * 0.5


def full(w: Tensor) -> dict[str, Tensor]:
    return {"diff": random(*w.shape)}


def full_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    return t["diff"]


def ia3(w: Tensor) -> dict[str, Tensor]:
    return {"weight": random(w.shape[0], *[1] * (w.dim() - 1)), "on_input": torch.tensor(False)}


def ia3_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    return w * t["weight"].reshape(-1, *[1] * (w.dim() - 1))


def oft(w: Tensor) -> dict[str, Tensor]:
    return {"oft_blocks": random(w.shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)}


def oft_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    blocks, eye = t["oft_blocks"], torch.eye(4, dtype=torch.float64)
    turned = torch.empty_like(w)
    for n, block in enumerate(blocks):
        skew = block - block.T
        rotation = (eye + skew) @ torch.linalg.inv(eye - skew)
        rows = slice(4 * n, 4 * n + 4)
        turned[rows] = (rotation.T @ w[rows].flatten(1)).reshape(w[rows].shape)
    return turned - w


def dora(w: Tensor) -> dict[str, Tensor]:
    return lora(w) | {"dora_scale": 1 + random(w.shape[0], *[1] * (w.dim() - 1)).abs()}


def dora_change(t: dict[str, Tensor], w: Tensor) -> Tensor:
    sum_ = w + lora_change(t, w)
    norms = sum_.flatten(1).norm(dim=1).reshape(t["dora_scale"].shape)
    return t["dora_scale"] / norms * sum_ - w


Kind = tuple[Callable[[Tensor], dict[str, Tensor]], Callable[[dict[str, Tensor], Tensor], Tensor]]
KINDS: dict[str, Kind] = {
    "lora": (lora, lora_change),
    "tucker": (tucker, tucker_change),
    "loha": (loha, loha_change),
    "lokr": (lokr, lokr_change),
    "glora": (glora, glora_change),
    "full": (full, full_change),
    "ia3": (ia3, ia3_change),
    "oft": (oft, oft_change),
    "dora": (dora, dora_change),
}
WITHOUT_BASE = ("lora", "tucker", "loha", "lokr", "full")


def layers(family: Family) -> list[tuple[Component, str]]:
    """Layers that between them have every relation of names and shapes there is between the two layouts."""
    block = "down_blocks.1" if family == "sdxl" else "down_blocks.0"
    attention = f"{block}.attentions.0"
    unet = [
        "conv_in",
        "time_embedding.linear_1",
        "down_blocks.0.resnets.0.conv1",
        "up_blocks.1.resnets.0.conv_shortcut",
        "down_blocks.0.downsamplers.0.conv",
        "up_blocks.0.upsamplers.0.conv",
        f"{attention}.proj_in",
        f"{attention}.transformer_blocks.0.attn2.to_k",
        f"{attention}.transformer_blocks.0.ff.net.0.proj",
    ]
    text = ["encoder.layers.0.self_attn.k_proj", "encoder.layers.0.self_attn.v_proj", "encoder.layers.1.mlp.fc1"]
    found: list[tuple[Component, str]] = [("unet", path) for path in unet]
    found += [("te1", path) for path in text]
    return found + [("te2", path) for path in text] if family == "sdxl" else found


def adapter(path: Path, family: Family, kind: str, *, naming: Any = module_key) -> Path:
    make = KINDS[kind][0]
    state: dict[str, Tensor] = {}
    for component, name in layers(family):
        weight = base_weights(family)[component, f"{name}.weight"]
        key = naming(component, name, family)
        state |= {f"{key}.{role}": tensor.clone() for role, tensor in make(weight).items()}
    save_file(state, path)
    return path


def expected(family: Family, kinds: dict[str, tuple[float, float]]) -> dict[tuple[Component, str], Tensor]:
    """W + the sum of strength * change, float64, computed here."""
    found: dict[tuple[Component, str], Tensor] = {}
    for component, name in layers(family):
        weight = base_weights(family)[component, f"{name}.weight"].double()
        total = weight.clone()
        for kind, (unet, text_encoder) in kinds.items():
            make, change = KINDS[kind]
            tensors = {role: tensor.double() for role, tensor in make(weight).items()}
            total += (unet if component == "unet" else text_encoder) * change(tensors, weight)
        found[component, f"{name}.weight"] = total
    return found


def compare(result: Weights, family: Family, changed: dict[tuple[Component, str], Tensor], tolerance: float) -> None:
    before = base_weights(family)
    assert result.keys() == before.keys()
    for place, tensor in result.items():
        if place in changed:
            scale = float(changed[place].abs().max())
            assert float((tensor.double() - changed[place]).abs().max()) <= tolerance * scale, place
            assert float((changed[place] - before[place]).abs().max()) > 1e-3, place
        else:
            assert torch.equal(tensor, before[place]), place


# ------------------------------------------------------------------------------------------------- into a base model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_added_to_the_weights(tmp_path: Path, bases: Any, kind: str) -> None:
    path = adapter(tmp_path / "a.safetensors", "sdxl", kind)
    merged = merge_into_base(bases["sdxl", "file"], [Ingredient(path, 0.7, -0.4)], tmp_path / "m.safetensors")
    compare(weights(tmp_path / "m.safetensors"), "sdxl", expected("sdxl", {kind: (0.7, -0.4)}), 1e-6)
    assert merged.layers == len(layers("sdxl"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_all_kinds_at_once_in_any_order(tmp_path: Path, bases: Any, family: Family, layout: str) -> None:
    strengths = {kind: (0.3 + 0.1 * n, 0.9 - 0.2 * n) for n, kind in enumerate(KINDS)}
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", family, kind), *strengths[kind]) for kind in KINDS]
    changed = expected(family, strengths)
    for name, order in (("one", given), ("other", given[::-1])):
        out = tmp_path / (f"{name}.safetensors" if layout == "file" else name)
        merge_into_base(bases[family, layout], order, out)
        compare(weights(out), family, changed, 2e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_norms_and_biases(tmp_path: Path, bases: Any, family: Family, layout: str) -> None:
    norms: list[tuple[Component, str]] = [
        ("unet", "down_blocks.0.resnets.0.norm1"),
        ("unet", "conv_norm_out"),
        ("te1", "encoder.layers.1.layer_norm2"),
        ("te1", "final_layer_norm"),
    ]
    biased: list[tuple[Component, str]] = [
        ("unet", "mid_block.resnets.0.conv2"),
        ("te1", "encoder.layers.0.self_attn.v_proj"),
        ("te1", "encoder.layers.0.self_attn.q_proj"),
    ]
    if family == "sdxl":
        norms += [("te2", "final_layer_norm"), ("te2", "encoder.layers.0.layer_norm1")]
        biased += [("te2", "encoder.layers.0.self_attn.q_proj"), ("te2", "encoder.layers.0.mlp.fc2")]
    state: dict[str, Tensor] = {}
    changed: dict[tuple[Component, str], Tensor] = {}
    before = base_weights(family)
    for roles, places in ((("w_norm", "b_norm"), norms), (("diff", "diff_b"), biased)):
        for component, path in places:
            for role, part in zip(roles, ("weight", "bias"), strict=True):
                old = before[component, f"{path}.{part}"]
                change = random(*old.shape)
                state[f"{module_key(component, path, family)}.{role}"] = change
                changed[component, f"{path}.{part}"] = old.double() + 0.5 * change.double()
    save_file(state, tmp_path / "a.safetensors")
    out = tmp_path / ("m.safetensors" if layout == "file" else "m")
    merge_into_base(bases[family, layout], [Ingredient(tmp_path / "a.safetensors", 0.5, 0.5)], out)
    compare(weights(out), family, changed, 1e-6)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "half", "sd1", dtype=torch.float16)
    paths = [adapter(tmp_path / f"{kind}.st", "sd1", kind) for kind in ("lora", "loha", "full")]
    merge_into_base(folder, [Ingredient(path, 1e-3, 1e-3) for path in paths], tmp_path / "m")
    before = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    for component, path in layers("sd1")[:9]:
        name = f"{path}.weight"
        weight = before[name].double()
        total = weight.clone()
        for kind in ("lora", "loha", "full"):
            make, change = KINDS[kind]
            total += 1e-3 * change({role: tensor.double() for role, tensor in make(weight).items()}, weight)
        assert component == "unet"
        # The nearest half, or at a tie that float32 sees differently, its neighbour.
        assert ((after[name] == total.half()).double().mean()) > 0.999
        assert (after[name].double() - total).abs().max() <= 0.5001 * 2**-11 * 2 * total.abs().max()


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_the_result_may_have_another_precision(tmp_path: Path, bases: Any, layout: str) -> None:
    path = adapter(tmp_path / "a.safetensors", "sdxl", "lora")
    out = tmp_path / ("m.safetensors" if layout == "file" else "m")
    merge_into_base(bases["sdxl", layout], [Ingredient(path)], out, "bf16")
    files = [out] if layout == "file" else [*(out / "unet").glob("*.safetensors"), *out.glob("text*/*.safetensors")]
    kinds = {entry.dtype for file in files for entry in read_header(file).tensors.values() if entry.shape != (0,)}
    assert kinds <= {"BF16", "I64"}
    changed = expected("sdxl", {"lora": (1.0, 1.0)})
    for place, tensor in weights(out).items():
        exact = changed.get(place, base_weights("sdxl")[place].double())
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=1e-6), place


def test_a_value_too_large_for_the_precision_is_refused(tmp_path: Path, bases: Any) -> None:
    key = "lora_unet_conv_in"
    save_file({f"{key}.diff": torch.full((32, 4, 3, 3), 1e5)}, tmp_path / "a.safetensors")
    with pytest.raises(LoratoryError, match=r"1e\+05, which F16 cannot hold"):
        merge_into_base(bases["sd1", "file"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m.st", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_both_namings_of_sdxl_are_the_same(tmp_path: Path, bases: Any) -> None:
    one = adapter(tmp_path / "one.st", "sdxl", "lokr")
    other = adapter(tmp_path / "other.st", "sdxl", "lokr", naming=diffusers_module_key)
    assert read_header(one).tensors.keys() != read_header(other).tensors.keys()
    for path in (one, other):
        merge_into_base(bases["sdxl", "file"], [Ingredient(path)], path.with_suffix(".safetensors"))
    results = [load_file(path.with_suffix(".safetensors")) for path in (one, other)]
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_a_component_at_0_stays_as_it_is(tmp_path: Path, bases: Any) -> None:
    path = adapter(tmp_path / "a.st", "sd1", "dora")
    merge_into_base(bases["sd1", "file"], [Ingredient(path, 0.0, 1.0)], tmp_path / "m.safetensors")
    changed = {place: t for place, t in expected("sd1", {"dora": (0.0, 1.0)}).items() if place[0] != "unet"}
    compare(weights(tmp_path / "m.safetensors"), "sd1", changed, 1e-6)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("network_type", ["lora", "locon", "dora", "loha", "lokr", "glora", "ia3", "diag-oft", "full"])
def test_the_merged_model_computes_what_base_and_adapter_do(
    tmp_path: Path, bases: Any, family: Family, network_type: str
) -> None:
    base = load(bases[family, "file"])
    rank = {} if network_type in ("ia3", "full") else {"network_dim": 4}
    network = NetworkSettings.model_validate({"network_type": network_type, **rank})
    given = inject(base.unet, base.text_encoders, family, network, seed=1, train_unet=True, train_text_encoder=True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in given.layers:
            for tensor in layer.tensors().values():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    save_adapter(tmp_path / "a.safetensors", given.kohya_state_dict(), {}, "float")
    for model in (base.unet, *base.text_encoders):
        model.eval()
    plain = outputs(load(bases[family, "file"]), family)
    reference = outputs(base, family)
    merge_into_base(bases[family, "file"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m.safetensors")
    for one, other, before in zip(outputs(load(tmp_path / "m.safetensors"), family), reference, plain, strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) <= 1e-4 * scale
        assert float((other - before).abs().max()) > 1e-3 * scale


@torch.no_grad()
def outputs(base: BaseModel, family: Family) -> list[Tensor]:
    width = base.unet.config["cross_attention_dim"]
    added = None
    if family == "sdxl":
        added = {"text_embeds": random(1, 64), "time_ids": torch.full((1, 6), 64.0)}
    picture = base.unet(random(1, 4, 8, 8), 500, random(1, 7, width), added_cond_kwargs=added).sample
    ids = torch.tensor([[49406, 320, 1125, 539, 49407, 49407]])
    return [picture, *(encoder(ids).last_hidden_state for encoder in base.text_encoders)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"network_module": "locon"},
        {"network_module": "locon", "use_tucker": True},
        {"network_module": "locon", "weight_decompose": True},
        {"network_module": "loha"},
        {"network_module": "lokr", "factor": 4},
        {"network_module": "glora"},
        {"network_module": "diag-oft"},
        {"network_module": "boft"},
        {"network_module": "full", "train_norm": True},
    ],
    ids=lambda arguments: " ".join(map(str, arguments.values())),
)
def test_lycoris_merges_its_own_networks_to_the_same_weights(tmp_path: Path, bases: Any, arguments: Any) -> None:
    kohya = pytest.importorskip("lycoris.kohya")
    kohya.LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": True,
            "unet_target_module": ["Transformer2DModel", "ResnetBlock2D"],
            "unet_target_name": ["conv_in"],
            "text_encoder_target_module": [],
            "text_encoder_target_name": [],
            "module_algo_map": {},
            "name_algo_map": {},
            "use_fnmatch": False,
            "exclude_name": [],
        }
    )
    base = load(bases["sd1", "folder"])
    # Its merge applies the scale of LoHa and LoKr twice, its forward pass once: at a scale of 1 that is the same.
    alpha = 4 if arguments["network_module"] in ("loha", "lokr") else 2
    network = kohya.LycorisNetworkKohya(
        [],
        base.unet,
        1.0,
        lora_dim=4,
        alpha=alpha,
        conv_lora_dim=4,
        conv_alpha=alpha,
        warn_on_unmatched=False,
        **arguments,
    )
    network.apply_to([], base.unet, False, True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    network.save_weights(str(tmp_path / "a.safetensors"), torch.float32, {})
    network.restore()
    network.merge_to(None, base.unet, {"lora_unet_": None}, None, None)
    merge_into_base(bases["sd1", "folder"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m")
    ours, before = weights(tmp_path / "m"), base_weights("sd1")
    moved = 0
    for name, theirs in base.unet.state_dict().items():
        scale = float(theirs.abs().max()) or 1.0
        assert float((ours["unet", name] - theirs).abs().max()) <= 2e-6 * scale, name
        moved += not torch.equal(theirs, before["unet", name])
    assert moved > 100


# ------------------------------------------------------------------------------------------------- folders


def test_the_old_folder_outlives_whatever_ends_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out, aside = tiny_model(tmp_path / "base", "sd1"), tmp_path / "m", tmp_path / ".m.replaced"
    ingredient = Ingredient(adapter(tmp_path / "a.safetensors", "sd1", "lora"))
    tiny_model(out, "sd1", seed=5)
    old = (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    def is_old() -> bool:
        left = {path.name for path in tmp_path.iterdir()} - {"base", "a.safetensors"}
        return left == {"m"} and (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == old

    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if target == out and path != aside:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupted)
        merge_into_base(folder, [ingredient], out)
    assert is_old()
    # Killed between the renames, and begun again: at first the old one returns, in the end it is gone.
    out.rename(aside)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("loratory.adapters.tools.merge.shutil.copyfile", lambda *_: interrupted(out, out))
        merge_into_base(folder, [ingredient], out)
    assert is_old()
    shutil.copytree(out, aside)
    merge_into_base(folder, [ingredient], out)
    assert not is_old() and not aside.exists() and {path.name for path in tmp_path.glob("*m*")} == {"m"}


def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    folder, real, out = tiny_model(tmp_path / "base", "sd1"), tmp_path / "models" / "real", tmp_path / "m"
    ingredient = Ingredient(adapter(tmp_path / "a.safetensors", "sd1", "lora"))
    real.parent.mkdir()
    tiny_model(real, "sd1", seed=5)
    out.symlink_to(real)
    for _ in range(2):
        merge_into_base(folder, [ingredient], out)
    assert out.is_symlink() and list(real.parent.iterdir()) == [real]
    assert {path.name for path in tmp_path.iterdir()} == {"base", "models", "m", "a.safetensors"}
    compare(weights(out), "sd1", expected("sd1", {"lora": (1.0, 1.0)}), 1e-6)


def test_a_folder_keeps_its_shards_and_what_belongs_to_it(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "sd1")
    unet = folder / "unet"
    whole = load_file(unet / "diffusion_pytorch_model.safetensors")
    names = sorted(whole)
    shards = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        save_file({name: whole[name] for name in held}, unet / shard, {"format": "pt"})
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {n: shard for shard, held in shards.items() for n in held}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another form of the unchanged model")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"another model")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("a b")
    path = adapter(tmp_path / "a.st", "sd1", "loha")
    merge_into_base(folder, [Ingredient(path)], tmp_path / "m", "bf16")
    made = {str(found.relative_to(tmp_path / "m")) for found in (tmp_path / "m").rglob("*") if found.is_file()}
    kept = {str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file()}
    assert kept - made == {"unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.ckpt"}
    assert made < kept
    written = json.loads((tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert written == {**index, "metadata": {"total_size": sum(tensor.numel() * 2 for tensor in whole.values())}}
    changed = expected("sd1", {"loha": (1.0, 1.0)})
    for place, tensor in weights(tmp_path / "m").items():
        exact = changed.get(place, base_weights("sd1")[place].double())
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=1e-6), place


# ------------------------------------------------------------------------------------------------- refusals


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


def test_an_adapter_for_models_of_another_kind_is_not_joined(tmp_path: Path) -> None:
    ours, other = adapter(tmp_path / "a.safetensors", "sd1", "lora"), tmp_path / "flux.safetensors"
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(8, 2)}, other)
    with pytest.raises(LoratoryError, match=f"no SD 1.x, SD 2.x or SDXL model has: {key}"):
        merge_adapters([Ingredient(ours), Ingredient(other)], tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


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


# ------------------------------------------------------------------------------------------------- into each other


def dense(path: Path, family: Family) -> dict[tuple[Component, str], Tensor]:
    """What a merged file of pairs and differences adds, in float64."""
    state = {name: tensor.double() for name, tensor in load_file(path).items()}
    found: dict[tuple[Component, str], Tensor] = {}
    for component, layer in layers(family):
        key, weight = module_key(component, layer, family), base_weights(family)[component, f"{layer}.weight"]
        if f"{key}.diff" in state:
            found[component, f"{layer}.weight"] = state[f"{key}.diff"]
        else:
            up, down = (state[f"{key}.lora_{side}.weight"].flatten(1) for side in ("up", "down"))
            change = (up @ down) * state[f"{key}.alpha"] / down.shape[0]
            found[component, f"{layer}.weight"] = change.reshape(weight.shape)
    return found


def compare_changes(path: Path, family: Family, strengths: dict[str, tuple[float, float]], tolerance: float) -> None:
    for place, exact in expected(family, strengths).items():
        exact = exact - base_weights(family)[place].double()
        error = (dense(path, family)[place] - exact).norm() / exact.norm()
        assert float(error) <= tolerance, place


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


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_finds_every_layer_in_both_layouts(bases: Any, family: Family) -> None:
    before = base_weights(family)
    for layout in ("file", "folder"):
        with Checkpoint(bases[family, layout]) as checkpoint:
            assert len({layer.key for layer in checkpoint.layers}) == len(checkpoint.layers)
            for layer in checkpoint.layers:
                path = layer.path.removeprefix("text_model.")
                assert torch.equal(checkpoint.read(layer.weight), before[layer.component, f"{path}.weight"])
                assert (layer.bias is None) == ((layer.component, f"{path}.bias") not in before)
                if layer.bias is not None:
                    assert torch.equal(checkpoint.read(layer.bias), before[layer.component, f"{path}.bias"])


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
