"""Whether a saved file gives the network it was saved from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.adapters.adapter import Adapter
from loratory.adapters.deltas import delta
from loratory.adapters.files import read_adapter
from loratory.adapters.forms.base import AddedForm, product
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.lora import PeftLayer
from loratory.adapters.lycoris import FormLayer
from loratory.adapters.precision import widest
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_UP, split_name

_PROBES = 8


def compare_with_live(path: Path, adapter: Adapter) -> float:
    """How far the weight changes that a file describes are from those of the network in memory.

    Both are applied to the same random inputs, and the largest difference is taken relative to the largest output; the
    answer is that of the worst module: 0 when nothing was rounded, about 5e-4 for fp16, 4e-3 for bf16. Numbers too
    small for the file's format count as one rounding, or the file of a barely trained adapter would seem wrong. DoRA
    magnitudes are compared directly. Infinite when tensors are missing, unknown, of another shape, or not finite.
    Computed from the file's own alphas, so it shares nothing with the forward pass. Raises LoratoryError as
    `read_adapter`.
    """
    by_key: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_adapter(path).state_dict.items():
        key, role = split_name(name)
        by_key.setdefault(key, {})[role] = tensor
    if by_key.keys() != {layer.target.key for layer in adapter.layers}:
        return math.inf
    differences = [_difference(layer, by_key[layer.target.key]) for layer in adapter.layers]
    return _worst(differences)


def _worst(differences: Sequence[float]) -> float:
    """The largest, or infinity where one is not finite: max() passes over NaN."""
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def _difference(layer: AdapterLayer, stored: Mapping[str, Tensor]) -> float:
    meant = layer.to_file()
    if stored.keys() != meant.keys() or any(stored[role].shape != meant[role].shape for role in meant):
        return math.inf
    if isinstance(layer, PeftLayer):
        return _pair_difference(layer, stored)
    assert isinstance(layer, FormLayer)
    return _form_difference(layer, meant, stored)


def _pair_difference(layer: PeftLayer, stored: Mapping[str, Tensor]) -> float:
    down, up = _matrix(layer.down), _matrix(layer.up)
    stored_down, stored_up = _matrix(stored[LORA_DOWN]), _matrix(stored[LORA_UP])
    generator = torch.Generator().manual_seed(down.shape[1])
    probes = torch.randn((down.shape[1], _PROBES), dtype=torch.float64, generator=generator)
    ranks = down @ probes
    live = layer.target.scale * (up @ ranks)
    read = float(stored[ALPHA]) / stored_down.shape[0] * (stored_up @ (stored_down @ probes))
    # Below its normal range a format rounds by half its smallest step, whatever the number: this much in the output,
    # in units of the relative rounding of the normal range.
    tiny = torch.finfo(stored[LORA_UP].dtype).smallest_normal
    reach = ranks.abs().sum(0).max() + up.abs().sum(1).max() * probes.abs().sum(0).max()
    differences = [_relative_difference(live, read, tiny * layer.target.scale * float(reach))]
    if layer.magnitude is not None:
        magnitude = layer.magnitude.detach().to("cpu", torch.float64).flatten()
        differences.append(_relative_difference(magnitude, stored[DORA_SCALE].double().flatten(), 0.0))
    return _worst(differences)


@torch.no_grad()
def _form_difference(layer: FormLayer, meant: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> float:
    """The larger of two: what rounding did to each tensor, and what the layer adds to its output, as it is trained,
    against what the change of the weight that a file of it means would add.

    On the layer's device: the matrices of some types are as large as the base model's. In float64, where the device has
    it: after a few steps at a rate of 1e-6 the change of a weight is no larger than float32's rounding of what the
    weight gives.
    """
    differences = [
        _relative_difference(
            tensor.cpu().double(), stored[role].double(), torch.finfo(stored[role].dtype).smallest_normal
        )
        for role, tensor in meant.items()
        if stored[role].is_floating_point()
    ]
    base, form = layer.base, layer.module.form
    weight: Tensor = base.weight  # pyright: ignore[reportAssignmentType] # untyped on Module
    bias: Tensor | None = base.bias  # pyright: ignore[reportAssignmentType] # as above
    dtype = widest(weight.device)
    trained = {name: tensor.to(dtype) for name, tensor in layer.tensors().items()}
    x = _probe(base, weight).to(dtype)
    meaning = delta({role: tensor.to(dtype) for role, tensor in meant.items()}, weight)
    with torch.autocast(x.device.type, enabled=False):
        base_output = _output(base, x, weight.to(dtype), None if bias is None else bias.to(dtype))
        if isinstance(form, AddedForm):
            live = form.change(trained, x, base_output, is_training=False)
        else:
            live = form.forward(trained, x, 1.0, is_training=False) - base_output
        read = _output(base, x, meaning.weight, meaning.bias)
    # A small change of a large output is rounded as the output is.
    noise = 10 * torch.finfo(torch.float32).eps * float(base_output.abs().max())
    is_same = float((live - read).abs().max()) <= noise
    differences.append(0.0 if is_same else _relative_difference(live, read, 0.0))
    return _worst(differences)


def _probe(layer: nn.Module, weight: Tensor) -> Tensor:
    """A random input of the layer, the same each time."""
    generator = torch.Generator().manual_seed(weight.shape[0])
    channels = weight.shape[1] if weight.dim() > 1 else weight.shape[0]
    is_image = isinstance(layer, nn.Conv2d | nn.GroupNorm)
    shape = (1, channels, _PROBES, _PROBES) if is_image else (1, _PROBES, channels)
    return torch.randn(shape, generator=generator).to(weight.device)


def _output(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer of this kind gives with another weight and bias, in which it is linear."""
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return product(layer, x, weight, bias)


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten(1).to("cpu", torch.float64)


def _relative_difference(expected: Tensor, found: Tensor, allowance: float) -> float:
    if found.shape != expected.shape:
        return math.inf
    difference = float((found - expected).abs().max())
    whole = float(expected.abs().max()) + allowance
    return 0.0 if not difference else difference / whole if whole else math.inf
