"""Adapter files in another naming: kohya's, with either block names of SDXL, and diffusers'."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.files import SavePrecision
from loratory.adapters.keys import Family
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_UP
from loratory.adapters.tools.low_rank import CutModule, Halves, halves
from loratory.adapters.tools.naming import (
    ModuleName,
    Modules,
    NamedAdapter,
    Naming,
    kernel_of,
    key_of_module,
    read_named_adapter,
)
from loratory.adapters.tools.results import BASE_VERSIONS, commented, precision_of, save_result, sizes_metadata
from loratory.errors import LoratoryError

_LORA_ROLES = {LORA_DOWN, LORA_UP, ALPHA, DORA_SCALE}


@dataclass(frozen=True)
class Converted:
    """What was written. naming: that of the file read. folded: modules whose scale was multiplied into their tensors.

    cuts: one for each module that was baked to a LoRA. lost_norms, lost_biases: how many changes of norm layers and
    biases a LoRA could not hold.
    """

    family: Family
    naming: Naming
    modules: int
    cuts: tuple[CutModule, ...] = ()
    lost_norms: int = 0
    lost_biases: int = 0
    folded: int = 0


def open_adapter(path: Path, family: Family | None) -> tuple[NamedAdapter, Family]:
    """An adapter file and its family, which `family` decides where it is given.

    Raises LoratoryError where the file cannot be read, or nothing tells its family.
    """
    adapter = read_named_adapter(path)
    found = family or adapter.family
    if found is None:
        raise LoratoryError(
            f"{path}: neither names, shapes nor metadata tell which family of base models it is for.",
            hint="Say it with --family sd1, sd2 or sdxl.",
        )
    return adapter, found


@torch.no_grad()
def rename(
    path: Path, output: Path, to: Naming, *, family: Family | None = None, precision: SavePrecision | None = None
) -> Converted:
    """Writes the adapter at `path` in another naming; precision: None keeps that of the file.

    Between the namings of kohya tensors stay as they are, of any kind of network. diffusers' naming holds LoRA, LoCon
    and DoRA with magnitudes per output alone, and has no alpha: where alpha differs from the rank, the scale is folded
    into both halves, by powers of two where it is one, so that nothing is rounded. Raises LoratoryError for what the
    naming cannot hold.
    """
    adapter, known = open_adapter(path, family)
    return write_named(adapter, adapter.modules, known, output, to, precision, adapter.metadata)


def write_named(
    adapter: NamedAdapter,
    modules: Modules,
    family: Family,
    output: Path,
    to: Naming,
    precision: SavePrecision | None,
    metadata: Mapping[str, str],
) -> Converted:
    """Writes modules, whose tensors have the shapes of `adapter`'s naming, to a file in the naming `to`."""
    try:
        state, folded = named_tensors(modules, family, adapter.naming, to)
    except LoratoryError as error:
        raise LoratoryError(f"{adapter.path}: {error.message}", hint=error.hint) from error
    if (adapter.naming == "diffusers") != (to == "diffusers"):
        metadata = commented(metadata, f"converted from {adapter.naming} to {to} naming")
    if adapter.naming == "diffusers" and to != "diffusers":
        # What front ends look for, and files of diffusers do not have.
        metadata = {
            "ss_base_model_version": BASE_VERSIONS[family],
            "ss_v2": str(family == "sd2"),
            "ss_network_module": "networks.lora",
            **metadata,
            **sizes_metadata(modules.values(), metadata.get("ss_network_args", "")),
        }
    save_result(
        output, state, metadata, precision or precision_of((name, tensor.dtype) for name, tensor in state.items())
    )
    return Converted(family, adapter.naming, len(modules), folded=folded)


def named_tensors(modules: Modules, family: Family, source: Naming, to: Naming) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file in the naming `to`, and how many modules had their scale folded; see `rename`."""
    state: dict[str, Tensor] = {}
    folded = 0
    for module, own in modules.items():
        key = key_of_module(module, family, to)
        if to == "diffusers":
            own, is_folded = _for_diffusers(module, own, family, key)
            folded += is_folded
        elif source == "diffusers":
            own = _for_kohya(module, own, family)
        state |= {f"{key}.{role}" if role else key: tensor for role, tensor in own.items()}
    return state, folded


def _for_diffusers(
    module: ModuleName, own: Mapping[str, Tensor], family: Family, key: str
) -> tuple[dict[str, Tensor], bool]:
    if own.keys() - _LORA_ROLES:
        raise LoratoryError(
            f"{key} has {', '.join(sorted(own))}; diffusers' naming holds LoRA, LoCon and DoRA alone.",
            hint="--bake lora --rank N makes a LoRA of any other kind; --to kohya keeps what it is.",
        )
    stored = halves(own, key)
    kernel = _kernel_in_file(stored.down, kernel_of(module, family))
    up, down = _folded(stored)
    rank = down.shape[0]
    found = {
        "lora_A.weight": down.reshape(rank, -1, *kernel),
        "lora_B.weight": up.reshape(-1, rank, *[1] * len(kernel)),
    }
    if DORA_SCALE in own:
        # With ".weight", which diffusers itself leaves out: transformers does not find text encoders' without it.
        found["lora_magnitude_vector.weight"] = _magnitudes(own[DORA_SCALE], up.shape[0], key).reshape(
            (-1,) if not kernel else (1, -1, *[1] * len(kernel))
        )
    return found, stored.scale != 1.0


def _kernel_in_file(down: Tensor, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """That of the tensor where it is larger than 1x1, else that of the layer: 1x1 and linear are the same weights."""
    own = tuple(down.shape[2:])
    return own if prod(own) > 1 else kernel if prod(kernel) == 1 else own


def _folded(stored: Halves) -> tuple[Tensor, Tensor]:
    """up and down times the scale in all, of about equal size: a factor on up alone could leave the range of fp16."""
    up, down, scale = stored
    if scale == 1.0:
        return up, down
    sizes = [float(tensor.float().square().mean()) ** 0.5 for tensor in (up, down)]
    share = 1.0
    if scale and all(sizes) and all(map(math.isfinite, sizes)):
        share = 2.0 ** round(math.log2(sizes[1] / (sizes[0] * abs(scale))) / 2)
    return (up.float() * (scale * share)).to(up.dtype), (down.float() / share).to(down.dtype)


def _magnitudes(dora_scale: Tensor, outputs: int, key: str) -> Tensor:
    per_output = dora_scale.dim() < 2 or dora_scale.shape[0] == outputs
    if dora_scale.numel() != outputs or not per_output:
        raise LoratoryError(
            f"{key} has magnitudes per input, {list(dora_scale.shape)}; diffusers knows DoRA per output alone.",
            hint="--bake lora --rank N --base MODEL makes a LoRA of it; --to kohya keeps what it is.",
        )
    return dora_scale


def _for_kohya(module: ModuleName, own: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    up, down, _ = halves(own, module.path)
    rank = down.shape[0]
    kernel = tuple(down.shape[2:])
    if not kernel and family == "sd2" and module.component == "unet" and module.path.endswith(("proj_in", "proj_out")):
        kernel = (1, 1)  # linear layers in diffusers, 1x1 convolutions in sd-scripts and so in files
    found = {
        LORA_DOWN: down.reshape(rank, -1, *kernel),
        LORA_UP: up.reshape(-1, rank, *[1] * len(kernel)),
        ALPHA: own.get(ALPHA, torch.tensor(float(rank))),
    }
    if DORA_SCALE in own:
        found[DORA_SCALE] = own[DORA_SCALE].reshape(-1, 1, *[1] * len(kernel_of(module, family)))
    return found
