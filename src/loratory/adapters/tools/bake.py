"""Adapters of any kind turned into a LoRA, or into whole weight differences, which every program knows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.deltas import Delta, complete_kind, delta, needs_base
from loratory.adapters.files import DTYPES, SavePrecision
from loratory.adapters.keys import Family
from loratory.adapters.layout import FAMILY_NAMES
from loratory.adapters.roles import DORA_SCALE, LORA_DOWN
from loratory.adapters.shapes import module_form
from loratory.adapters.tools.checkpoints import Checkpoint, Layer
from loratory.adapters.tools.convert import Converted, open_adapter, write_named
from loratory.adapters.tools.low_rank import CutModule, RankRule, approximate, low_rank_module
from loratory.adapters.tools.naming import (
    ModuleName,
    Modules,
    NamedAdapter,
    Naming,
    kernel_of,
    key_of_module,
    read_named_adapter,
)
from loratory.adapters.tools.resize import resize_module
from loratory.adapters.tools.results import BASE_VERSIONS, commented, precision_of, sizes_metadata
from loratory.adapters.tools.stream import (
    Planned,
    Progress,
    all_finite,
    no_progress,
    planned,
    rounded,
    tensor_bytes,
    write_tensors,
)
from loratory.errors import LoratoryError

_HASHES = ("sshs_model_hash", "sshs_legacy_hash")
_VERIFY = "`loratory lora verify` shows all that is wrong with a file."


@torch.no_grad()
def bake_lora(
    path: Path,
    output: Path,
    rule: RankRule,
    conv_rule: RankRule,
    *,
    to: Naming = "kohya",
    base: Path | str | None = None,
    family: Family | None = None,
    precision: SavePrecision | None = None,
    exact: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Converted:
    """Writes a LoRA or LoCon of what an adapter of any kind does to the weights, by the singular values of that.

    base: the base model, needed where the change depends on it (DoRA, GLoRA, iA3, rotations); the result then stands
    for the adapter on that model alone. Norm layers and biases are left out and counted. Plain LoRA modules are only
    resized. progress: in modules. Raises LoratoryError, naming the module, where one does not fit the model.
    """
    adapter, known, layers, checkpoint = _with_base(path, base, family)
    chosen = precision or _precision_of(adapter)
    modules: Modules = {}
    cuts: list[CutModule] = []
    lost_norms = lost_biases = 0
    try:
        for done, (module, own) in enumerate(adapter.modules.items()):
            progress(done, len(adapter.modules))
            if "w_norm" in own:
                lost_norms += 1
                continue
            weight_shape = _weight_shape(path, module, own, known, layers)
            if "diff" in own and len(weight_shape) < 2:  # of a norm too, by another name
                lost_norms += 1
                continue
            suited = conv_rule if prod(weight_shape[2:]) > 1 else rule
            key = key_of_module(module, known, "kohya")
            if LORA_DOWN in own and not needs_base(own):
                try:
                    modules[module], cut_module = resize_module(key, own, suited, DTYPES[chosen])
                except LoratoryError as error:
                    raise LoratoryError(f"{path}: {error.message}", hint=error.hint) from error
            else:
                change = _change(path, module, own, weight_shape, layers, checkpoint)
                lost_biases += change.bias is not None
                matrix = change.weight.flatten(1).to(device)
                pair, cut_module = approximate(key, matrix, suited, DTYPES[chosen], exact=exact)
                modules[module] = low_rank_module(pair, weight_shape[2:], float(cut_module.rank))
            cuts.append(cut_module)
        progress(len(adapter.modules), len(adapter.modules))
    finally:
        if checkpoint is not None:
            checkpoint.close()
    if not modules:
        raise LoratoryError(f"{path} changes norm layers alone, which a LoRA cannot hold.")
    metadata = _baked_metadata(adapter, known, f"baked to LoRA: {rule.spoken()}", base)
    metadata |= {"ss_network_module": "networks.lora", **sizes_metadata(modules.values())}
    written = write_named(adapter, modules, known, output, to, chosen, metadata)
    return replace(written, cuts=tuple(cuts), lost_norms=lost_norms, lost_biases=lost_biases)


@torch.no_grad()
def bake_diff(
    path: Path,
    output: Path,
    *,
    to: Naming = "kohya",
    base: Path | str | None = None,
    family: Family | None = None,
    precision: SavePrecision | None = None,
    progress: Progress = no_progress,
) -> Converted:
    """Writes what an adapter of any kind does to the weights as whole differences (`diff`, LyCORIS' kind "full").

    base, family: as in `bake_lora`. Nothing is lost but digits. Memory: the adapter and one layer; the file is as large
    as the layers it changes. progress: in bytes. Raises LoratoryError as `bake_lora` does.
    """
    if to == "diffusers":
        raise LoratoryError("diffusers' naming holds no whole differences.", hint="Use --to kohya.")
    adapter, known, layers, checkpoint = _with_base(path, base, family)
    dtype = DTYPES[precision or _precision_of(adapter)]
    plans: list[Planned] = []
    sources: dict[str, Callable[[], Tensor]] = {}

    def plan(name: str, shape: tuple[int, ...], source: Callable[[], Tensor]) -> None:
        plans.append(planned(name, dtype, shape))
        sources[name] = source

    try:
        for module, own in adapter.modules.items():
            key = key_of_module(module, known, to)
            _kind(path, module, own)
            for role in ("w_norm", "b_norm", "diff_b"):
                if role in own:
                    plan(f"{key}.{role}", tuple(own[role].shape), lambda tensor=own[role]: tensor)
            if "w_norm" not in own:
                shape = _weight_shape(path, module, own, known, layers)

                def change(module: ModuleName = module, shape: tuple[int, ...] = shape) -> Tensor:
                    return _change(path, module, adapter.modules[module], shape, layers, checkpoint).weight

                plan(f"{key}.diff", shape, change)

        def content(name: str) -> Iterator[memoryview]:
            values = sources[name]()
            if not all_finite(values):
                raise LoratoryError(f"{path}: {name} holds NaN or infinite values.", hint=_VERIFY)
            yield tensor_bytes(rounded(values, dtype, f"{output} was not written: {name}"))

        metadata = _baked_metadata(adapter, known, "baked to whole differences", base)
        metadata |= {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "full"}'}
        plans.sort(key=lambda tensor: tensor.name)
        write_tensors(output, plans, metadata, content, progress, hashes=_HASHES)
    finally:
        if checkpoint is not None:
            checkpoint.close()
    return Converted(known, adapter.naming, len(adapter.modules))


_Layers = dict[ModuleName, Layer]


def _with_base(
    path: Path, base: Path | str | None, family: Family | None
) -> tuple[NamedAdapter, Family, _Layers, Checkpoint | None]:
    """The adapter and, where one is named, the base model by the names of its layers; the caller closes it."""
    if base is None:
        adapter, known = open_adapter(path, family)
        for module, own in adapter.modules.items():
            if needs_base(own):
                kind = "DoRA" if DORA_SCALE in own else _kind(path, module, own)
                raise LoratoryError(
                    f"{path}: what {kind} does to {module.path} depends on the weights of the base model.",
                    hint="Name the model it was trained on with --base.",
                )
        return adapter, known, {}, None
    adapter = read_named_adapter(path)
    checkpoint = Checkpoint(base)
    claimed = family or adapter.family
    if claimed not in (None, checkpoint.family):
        checkpoint.close()
        raise LoratoryError(
            f"{path} is for {FAMILY_NAMES[claimed]} models; the base model is {FAMILY_NAMES[checkpoint.family]}.",
            hint="An adapter works with models of its own family alone.",
        )
    layers = {ModuleName(layer.component, layer.path.removeprefix("text_model.")): layer for layer in checkpoint.layers}
    return adapter, checkpoint.family, layers, checkpoint


def _kind(path: Path, module: ModuleName, own: Mapping[str, Tensor]) -> str:
    """The name of the kind of a module; LoratoryError, naming file and module, where it is incomplete or has more."""
    try:
        return complete_kind(own).name
    except LoratoryError as error:
        raise LoratoryError(f"{path}: {module.path}: {error.message}", hint=_VERIFY) from error


def _weight_shape(
    path: Path, module: ModuleName, own: Mapping[str, Tensor], family: Family, layers: _Layers
) -> tuple[int, ...]:
    """The shape of the layer's weight: of the base model, or as tensors and name tell it."""
    if layers:
        if module not in layers:
            raise LoratoryError(f"{path} has a module that the base model has no layer for: {module.path}.")
        return layers[module].weight.shape
    form = module_form({role: tuple(tensor.shape) for role, tensor in own.items()})
    if form is None:
        raise LoratoryError(
            f"{path}: the tensors of {module.path} do not fit each other.",
            hint=_VERIFY,
        )
    if len(form.weight) < 2:
        return form.weight
    kernel = kernel_of(module, family)
    outputs, inputs, *own_kernel = form.weight
    if prod(own_kernel) > 1:
        return form.weight
    # Some kinds keep the kernel flattened into the inputs.
    return (outputs, inputs // prod(kernel), *kernel)


def _change(
    path: Path,
    module: ModuleName,
    own: Mapping[str, Tensor],
    shape: tuple[int, ...],
    layers: _Layers,
    checkpoint: Checkpoint | None,
) -> Delta:
    if needs_base(own) and checkpoint is not None:
        weight = checkpoint.read(layers[module].weight)
    else:
        weight = torch.empty(shape, device="meta")
    try:
        change = delta(own, weight)
    except LoratoryError as error:
        raise LoratoryError(f"{path}: {module.path}: {error.message}", hint=error.hint) from error
    if not all_finite(change.weight):
        raise LoratoryError(f"{path}: {module.path} holds NaN or infinite values.", hint=_VERIFY)
    return change


def _precision_of(adapter: NamedAdapter) -> SavePrecision:
    return precision_of(
        (f"{module.path}.{role}", tensor.dtype)
        for module, own in adapter.modules.items()
        for role, tensor in own.items()
    )


def _baked_metadata(adapter: NamedAdapter, family: Family, told: str, base: Path | str | None) -> dict[str, str]:
    on = f" on {Path(base).name}" if base is not None else ""
    claimed = {"ss_base_model_version": BASE_VERSIONS[family], "ss_v2": str(family == "sd2")} | adapter.metadata
    return commented(claimed, told + on)
