"""Adapters of every kind for the small models, and what they add, computed in float64 in another way."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratory.adapters.keys import Component, module_key
from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.models.detect import detect_model
from loratory.models.export import export_single_file
from loratory.models.load import BaseModel, load_base_model
from tiny_models import Family, shared_tiny_model

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


def base_models(folder: Path) -> dict[tuple[str, str], Path]:
    """The small models as folders and, in `folder`, as files in the original layout, by family; to be read only."""
    found: dict[tuple[str, str], Path] = {}
    for family in FAMILIES:
        file = folder / f"{family}.safetensors"
        export_single_file(load(shared_tiny_model(family)), file)
        found |= {(family, "folder"): shared_tiny_model(family), (family, "file"): file}
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


# ------------------------------------------------- what merged files hold


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
