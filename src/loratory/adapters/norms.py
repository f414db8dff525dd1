"""How much an adapter file changes each block of the model, and how far that is known without the base model."""

import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import hypot, inf, isfinite
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from loratory.adapters.deltas import delta, needs_base
from loratory.adapters.keys import Component
from loratory.adapters.max_norm import change_norms
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_MID, LORA_UP
from loratory.adapters.shapes import ModuleForm
from loratory.adapters.summary import read_modules
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.stream import Progress, TensorFile, no_progress
from loratory.errors import LoratoryError

Measure = Literal["change", "part", "relative"]
MEASURES: dict[Measure, str] = {
    "change": "Frobenius norm of the change of the weights",
    "part": "Frobenius norm of the part of the change that does not depend on the base model",
    "relative": "change relative to the weights of the base model, root of the mean square, about",
}

_MEASURES = tuple(MEASURES)
_COMPONENTS: tuple[Component, ...] = ("unet", "te1", "te2")
_STAGES = ("input_blocks", "down", "middle_block", "mid", "output_blocks", "up", "layer", "other")
_BLOCK = re.compile(
    r"lora_unet_(?:(?P<down>down)_blocks_(?P<d>\d+)|(?P<mid>mid)_block|(?P<up>up)_blocks_(?P<u>\d+)"
    r"|(?P<original>input_blocks|middle_block|output_blocks)(?:_(?P<o>\d+))?)_.*"
    r"|lora_te\d?_text_model_encoder_layers_(?P<layer>\d+)_.*"
)
# Random inputs that stand for a base weight: the measured share is off by less than 1 % of itself for 1000 of them.
_PROBES = 64
_GROUPED_LAYERS = 4


@dataclass(frozen=True)
class BlockNorm:
    """One block of the model, by the names that the file uses: `down_0`, `mid`, `input_blocks_4`, `layer_7`, `other`.

    measure: what `norm` is, see `MEASURES`; a block with modules of several kinds may have an entry for each. modules:
    how many were measured. norm: over all of them together; infinite where values are not finite. base_norm: of the
    base model's weights in these modules, where a base model was given.
    """

    component: Component
    block: str
    measure: Measure
    modules: int
    norm: float
    base_norm: float | None


@dataclass(frozen=True)
class Norms:
    """blocks: in the order of the model. left_out: modules that could not be measured, with the reason."""

    blocks: tuple[BlockNorm, ...]
    left_out: dict[str, str]


def block_of(key: str) -> str:
    """The block of the model that a module belongs to, by its key; `other` for what lies outside the blocks."""
    found = _BLOCK.fullmatch(key)
    if found is None:
        return "other"
    if found["layer"]:
        return f"layer_{found['layer']}"
    if found["mid"]:
        return "mid"
    if found["down"]:
        return f"down_{found['d']}"
    if found["up"]:
        return f"up_{found['u']}"
    return found["original"] if found["original"] == "middle_block" else f"{found['original']}_{found['o']}"


def block_norms(path: Path, base: Path | str | None = None, on_progress: Progress = no_progress) -> Norms:
    """The norm of what an adapter file at strength 1 changes in each block.

    base: a base model; with it every kind is measured exactly. Without it DoRA, GLoRA, iA3 and rotations, whose change
    depends on the base weights, are measured as far as that is possible: see `MEASURES`. Reads one module at a time.
    on_progress: bytes of the file done, and in all. Raises LoratoryError as `read_adapter` and `Checkpoint` do, and
    where the base fits less than half of the modules.
    """
    measured: dict[tuple[Component, str, Measure], list[Measured]] = {}
    left_out: dict[str, str] = {}
    modules = read_modules(path)
    total_bytes, done_bytes = path.stat().st_size, 0
    with ExitStack() as stack:
        file = stack.enter_context(TensorFile(path))
        checkpoint = None if base is None else stack.enter_context(Checkpoint(base))
        layers = {} if checkpoint is None else checkpoint.by_key()
        for module in modules:
            tensors = {role: file.read(f"{module.key}.{role}" if role else module.key) for role in module.shapes}
            done_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            on_progress(done_bytes, total_bytes)
            if module.component is None:
                continue
            try:
                weight = None
                if checkpoint is not None:
                    if module.key not in layers:
                        raise LoratoryError("The base model has no such module.")
                    weight = checkpoint.read(layers[module.key].weight)
                found = measure(module.form, tensors, weight)
            except LoratoryError as error:
                left_out[module.key] = error.message
            else:
                measured.setdefault((module.component, block_of(module.key), found.measure), []).append(found)
    if base is not None and 2 * len(left_out) > len(modules):
        key, reason = next(iter(left_out.items()))
        fitting = sum(len(each) for each in measured.values())
        raise LoratoryError(
            f"{base} is no base model for {path.name}: it fits {fitting} of {len(modules)} modules. {key}: {reason}",
            hint="Give the model it was trained on, or one of the same family.",
        )
    blocks = [_block_norm(*place, each) for place, each in measured.items()]
    return Norms(tuple(sorted(blocks, key=_place)), left_out)


class Measured(NamedTuple):
    """What `measure` says of one module: norm in the sense of measure, and the norm of the base weight, if given."""

    measure: Measure
    norm: float
    base_norm: float | None


@torch.no_grad()
def measure(form: ModuleForm | None, tensors: Mapping[str, Tensor], weight: Tensor | None) -> Measured:
    """How much one module changes its weight.

    tensors: by role. weight: of the base layer, in any format; None where it is not known. Raises LoratoryError when
    the tensors do not fit each other or the weight.
    """
    if form is None:
        raise LoratoryError("Its tensors do not fit each other.")
    if weight is not None:
        base = weight.float()
        is_pair = _is_pair(tensors) and tuple(weight.shape) == form.weight
        norm = _pair_norm(tensors) if is_pair else _norm(delta(tensors, base).weight)
        return Measured("change", norm, _norm(base))
    if not needs_base(tensors):
        return Measured("change", _known_norm(form, tensors), None)
    match form.name:
        case "ia3":
            return Measured("relative", _norm(tensors["weight"].float()) / form.weight[0] ** 0.5, None)
        case "diag-oft" | "boft":
            probe = torch.randn(form.weight[0], _PROBES, generator=torch.Generator().manual_seed(0))
            return Measured("relative", _norm(delta(tensors, probe).weight) / _norm(probe), None)
        case "glora":  # of W a1 a2 + b1 b2 the second
            return Measured("part", _norm(delta(tensors, torch.zeros(form.weight)).weight), None)
        case _:  # DoRA, before its magnitudes
            own = {role: tensor for role, tensor in tensors.items() if role != DORA_SCALE}
            return Measured("part", _known_norm(form, own), None)


def grouped(blocks: Iterable[BlockNorm], size: int = _GROUPED_LAYERS) -> list[BlockNorm]:
    """The same with the layers of text encoders taken together, `size` at a time: `layers_0-3`."""
    together: dict[tuple[Component, str, Measure], list[BlockNorm]] = {}
    for block in blocks:
        name = block.block
        if name.startswith("layer_"):
            first = int(name.removeprefix("layer_")) // size * size
            name = f"layers_{first}-{first + size - 1}"
        together.setdefault((block.component, name, block.measure), []).append(block)
    return [_combined(*place, each) for place, each in together.items()]


def _known_norm(form: ModuleForm, tensors: Mapping[str, Tensor]) -> float:
    if _is_pair(tensors):
        return _pair_norm(tensors)
    return _norm(delta(tensors, torch.empty(form.weight, device="meta")).weight)


def _is_pair(tensors: Mapping[str, Tensor]) -> bool:
    return LORA_DOWN in tensors and LORA_MID not in tensors and DORA_SCALE not in tensors


def _pair_norm(tensors: Mapping[str, Tensor]) -> float:
    """Of a LoRA without its matrix: for SDXL that is seconds instead of minutes."""
    down, up = tensors[LORA_DOWN], tensors[LORA_UP]
    scale = float(tensors[ALPHA]) / down.shape[0] if ALPHA in tensors else 1.0
    return abs(float(change_norms([down], [up], [scale])))


def _norm(tensor: Tensor) -> float:
    """In float32, where sums of squares may leave its range; only then a copy in float64 is worth its memory."""
    quick = float(torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)))
    return quick if 0 < quick < inf else float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _block_norm(component: Component, block: str, measure: Measure, modules: list[Measured]) -> BlockNorm:
    each = [BlockNorm(component, block, measure, 1, module.norm, module.base_norm) for module in modules]
    return _combined(component, block, measure, each)


def _combined(component: Component, block: str, measure: Measure, parts: list[BlockNorm]) -> BlockNorm:
    """Norms add by their squares; relative ones are averaged by them."""
    modules = sum(part.modules for part in parts)
    weights = [(part.modules / modules) ** 0.5 if measure == "relative" else 1.0 for part in parts]
    norm = hypot(*(weight * part.norm for weight, part in zip(weights, parts, strict=True)))
    bases = [part.base_norm for part in parts if part.base_norm is not None]
    base_norm = hypot(*bases) if len(bases) == len(parts) else None
    return BlockNorm(component, block, measure, modules, norm if isfinite(norm) else inf, base_norm)


def _place(block: BlockNorm) -> tuple[int, int, int, int]:
    """Where a block is in the model: measures apart, components apart, down, middle, up, and what is outside."""
    name, _, number = block.block.rpartition("_") if block.block[-1].isdigit() else (block.block, "", "0")
    return _MEASURES.index(block.measure), _COMPONENTS.index(block.component), _STAGES.index(name), int(number)
