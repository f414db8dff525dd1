"""LoRA, LoCon and DoRA, injected through peft."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import Parameter

from loratory.adapters import dora
from loratory.adapters.dropout import add_dropouts
from loratory.adapters.keys import Component, Family
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_UP
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError
from loratory.randomness import derive_seed

PEFT_NAME = "default"


@dataclass(frozen=True)
class PeftLayer(AdapterLayer):
    """A layer whose network peft computes.

    down: (r, in) or (r, in, k, k). up: (out, r) or (out, r, 1, 1). magnitude: (out,) or (1, out, 1, 1), only DoRA.
    """

    target: Target
    peft_layer: Any  # peft's lora.Linear or lora.Conv2d, whose annotations do not say what the attributes hold
    file_as_convolution: bool

    @property
    def base(self) -> nn.Linear | nn.Conv2d:
        return self.peft_layer.get_base_layer()

    @property
    def down(self) -> Parameter:
        return self.peft_layer.lora_A[PEFT_NAME].weight

    @property
    def up(self) -> Parameter:
        return self.peft_layer.lora_B[PEFT_NAME].weight

    @property
    def magnitude(self) -> Parameter | None:
        vectors = self.peft_layer.lora_magnitude_vector
        return vectors[PEFT_NAME].weight if PEFT_NAME in vectors else None

    def tensors(self) -> dict[str, Parameter]:
        """The trained tensors; their names are their roles in files."""
        found = {LORA_DOWN: self.down, LORA_UP: self.up}
        if self.magnitude is not None:
            found[DORA_SCALE] = self.magnitude
        return found

    def to_file(self) -> dict[str, Tensor]:
        stored = {ALPHA: torch.tensor(self.target.alpha, dtype=torch.float32)}
        for role, parameter in self.tensors().items():
            stored[role] = parameter.detach().reshape(self.file_shape(role, parameter))
        return stored

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An alpha that differs from this network's: up is multiplied by the ratio of the scales."""
        values: dict[str, Tensor] = {}
        for role, parameter in self.tensors().items():
            value = state[role]
            if value.shape != parameter.shape and tuple(value.shape) != self.file_shape(role, parameter):
                raise LoratoryError(
                    f"{role} has the shape {list(value.shape)}; this network needs "
                    f"{list(self.file_shape(role, parameter))}.",
                    hint="network_dim and conv_dim must be those of the file; `loratory lora inspect` shows them.",
                )
            if role == LORA_UP:
                rank = self.target.rank
                file_scale = (float(state[ALPHA]) or rank if ALPHA in state else rank) / rank
                if file_scale != self.target.scale:
                    value = value * (file_scale / self.target.scale)
            values[role] = value.reshape(parameter.shape)
        return values

    def file_shape(self, role: str, tensor: Tensor) -> tuple[int, ...]:
        """The shape that a tensor has in files: 1x1 convolutions for SD2's projections, (out, 1, ...) for DoRA."""
        if role == DORA_SCALE:
            return (tensor.numel(), *[1] * (self.base.weight.dim() - 1))
        if self.file_as_convolution and tensor.dim() == 2:
            return (*tensor.shape, 1, 1)
        return tuple(tensor.shape)

    def set_strength(self, value: float) -> None:
        if self.magnitude is None:
            self.peft_layer.scaling[PEFT_NAME] = self.target.scale * value
        else:
            dora.set_strength(self.peft_layer.lora_magnitude_vector[PEFT_NAME], value)

    def set_disabled(self, disabled: bool) -> None:
        # Not `enable_adapters`: that also turns requires_grad on and off, which belongs to the training loop.
        self.peft_layer._disable_adapters = disabled


def inject_lora(
    models: Mapping[Component, nn.Module],
    targets: Sequence[Target],
    family: Family,
    network: NetworkSettings,
    seed: int,
) -> list[PeftLayer]:
    """Adds a LoRA, LoCon or DoRA to the models, in place: one layer for each target, in the order of the models.

    Trained tensors are float32 on the device of the module they adapt. Down is drawn from the kaiming uniform
    distribution (a = sqrt 5) by a generator of its own per module, so that values depend on seed and name alone; up is
    zero, so the models compute what they did before.
    """
    layers: list[PeftLayer] = []
    for component, model in models.items():
        chosen = [target for target in targets if target.component == component]
        if chosen:
            layers += _inject_component(model, chosen, family, is_dora=network.decomposes)
    for layer in layers:
        _initialise(layer, seed)
        add_dropouts(
            layer.peft_layer.lora_A[PEFT_NAME],
            layer.peft_layer.lora_B[PEFT_NAME],
            network_dropout=network.network_dropout,
            rank_dropout=network.rank_dropout,
            module_dropout=network.module_dropout,
        )
    return layers


def _one_of(paths: Sequence[str]) -> str:
    return "^(?:" + "|".join(map(re.escape, paths)) + ")"


def _inject_component(model: nn.Module, targets: Sequence[Target], family: Family, *, is_dora: bool) -> list[PeftLayer]:
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise RuntimeError("the model already has an adapter")
    # One alternation of whole names per size: peft tries every pattern on every module, and matches suffixes unless
    # the pattern is anchored. 700 patterns of one name each would overflow re's cache and be compiled for every module.
    by_rank: dict[int, list[str]] = {}
    by_alpha: dict[float, list[str]] = {}
    for target in targets:
        by_rank.setdefault(target.rank, []).append(target.path)
        by_alpha.setdefault(target.alpha, []).append(target.path)
    common_rank = Counter(target.rank for target in targets).most_common(1)[0][0]
    config = LoraConfig(
        r=common_rank,
        lora_alpha=common_rank,
        target_modules=_one_of([target.path for target in targets]),
        rank_pattern={_one_of(paths): rank for rank, paths in by_rank.items()},
        alpha_pattern={_one_of(paths): alpha for alpha, paths in by_alpha.items()},  # floats are used as they are
        lora_dropout=0.0,
        bias="none",
        use_dora=is_dora,
        use_rslora=False,
        init_lora_weights=False,
    )
    # Tensors are made on the meta device here and given their values by `_initialise`.
    inject_adapter_in_model(config, model, PEFT_NAME, low_cpu_mem_usage=True)
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if found.keys() != {target.path for target in targets}:
        raise RuntimeError(f"peft adapted {len(found)} modules of {len(targets)}: the names did not match exactly")
    layers: list[PeftLayer] = []
    for target in targets:
        peft_layer = found[target.path]
        if peft_layer.r[PEFT_NAME] != target.rank or peft_layer.scaling[PEFT_NAME] != target.scale:
            raise RuntimeError(f"peft gave {target.path} another rank or scale than {target.rank}, {target.scale}")
        # SD2's UNet has linear projections in diffusers and 1x1 convolutions in the files of sd-scripts.
        projection = target.component == "unet" and target.path.endswith(("proj_in", "proj_out"))
        layers.append(PeftLayer(target, peft_layer, file_as_convolution=family == "sd2" and projection))
    return layers


def _initialise(layer: PeftLayer, seed: int) -> None:
    device = layer.base.weight.device
    generator = torch.Generator().manual_seed(derive_seed(seed, "network_init", layer.target.key))
    down = torch.empty(layer.down.shape, dtype=torch.float32)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
    layer.peft_layer.lora_A[PEFT_NAME].weight = Parameter(down.to(device))
    layer.peft_layer.lora_B[PEFT_NAME].weight = Parameter(torch.zeros(layer.up.shape, device=device))
    layer.peft_layer.train(layer.base.training)  # new modules start in training mode, also in a model in eval mode
    if layer.magnitude is not None:
        dora.prepare(layer.peft_layer.lora_magnitude_vector[PEFT_NAME], layer.base.weight)
    else:
        layer.peft_layer._cast_input_dtype = _cast_unless_autocast


def _cast_unless_autocast(x: Any, dtype: torch.dtype) -> Any:
    """peft turns every input into the adapter's float32 first. Under autocast the matrix products turn it back at
    once, so the copy costs memory traffic at each module and changes nothing."""
    if x is None or x.dtype == dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(dtype)
