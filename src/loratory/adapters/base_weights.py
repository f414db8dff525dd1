"""Adapter files merged into a base model before training (`model.base_weights`)."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from loratory.adapters.keys import Family
from loratory.adapters.modules import FileModule, Place, alphas, places, read_modules, refuse_other_family
from loratory.adapters.roles import LORA_DOWN, LORA_MID, LORA_UP
from loratory.errors import LoratoryError

_SETTING = "model.base_weights"


def refuse_unmergeable(
    paths: Sequence[Path], unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family
) -> None:
    """Raises LoratoryError unless every file is a LoRA or LoCon that fits these models, which may be on "meta".

    Reads headers alone.
    """
    known = places(unet, text_encoders, family) if paths else {}
    for path in paths:
        _modules_that_fit(path, known, family)


def _modules_that_fit(path: Path, known: dict[str, Place], family: Family) -> dict[str, FileModule]:
    header, modules = read_modules(path, _SETTING)
    refuse_other_family(header, family, _SETTING)
    for key, module in modules.items():
        if module.dora is not None:
            raise LoratoryError(
                f"{_SETTING}: {path} is a DoRA, which does not add to the weights but replaces their norms.",
                hint="Merge it with the program that made it, and name the result as the base model.",
            )
        if key not in known:
            raise LoratoryError(
                f"{_SETTING}: {path} has a module that the base model has no layer for: {key}.",
                hint="An adapter works with models of its own family alone.",
            )
        weight = known[key].layer.weight.shape
        if not module.fits(weight):
            raise LoratoryError(
                f"{_SETTING}: {path} was trained on a base model of other sizes: {key} does not fit a layer of "
                f"{list(weight)}."
            )
    return modules


@torch.no_grad()
def merge_base_weights(
    paths: Sequence[Path],
    multipliers: Sequence[float],
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    family: Family,
) -> str:
    """Adds multiplier * alpha / rank * up @ down of every file to the weights, in place; returns a digest of it all.

    multipliers: one for each file; none mean 1. All files of a layer are added up in float32 and rounded once, to the
    format of its weight. Memory: one layer in float32. Raises LoratoryError as `refuse_unmergeable` does, before
    anything is changed.
    """
    known = places(unet, text_encoders, family)
    strengths = multipliers or [1.0] * len(paths)
    fitting = [_modules_that_fit(path, known, family) for path in paths]
    sources: dict[Place, list[tuple[Path, float, FileModule]]] = {}
    digest = hashlib.sha256()
    for path, strength, modules in zip(paths, strengths, fitting, strict=True):
        with path.open("rb") as file:
            digest.update(f"{strength!r} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        alpha = alphas(path, modules)
        for key, module in modules.items():
            scale = strength * alpha[key] / module.rank
            sources.setdefault(known[key], []).append((path, scale, module))
    with ExitStack() as stack:
        files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        for place, found in sources.items():
            weight = place.layer.weight
            total = weight.float()
            for path, scale, module in found:
                total = total + scale * _change(files[path].get_tensor, module).reshape(weight.shape).to(weight.device)
            weight.copy_(total)
    return digest.hexdigest()


def _change(get_tensor: Callable[[str], Tensor], module: FileModule) -> Tensor:
    """up @ down in float32, (out, in), (out, in * k * k) or (out, in, k, k)."""
    down = get_tensor(f"{module.key}.{LORA_DOWN}").float().flatten(1)
    up = get_tensor(f"{module.key}.{LORA_UP}").float().flatten(1)
    if module.mid is None:
        return up @ down
    # down is a 1x1 convolution, mid the one with the kernel, up again 1x1.
    return torch.einsum("or,rskl,si->oikl", up, get_tensor(f"{module.key}.{LORA_MID}").float(), down)
