"""LoRA, LoCon and DoRA adapters, injected through peft: parameters, state, strength."""

import math
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import Parameter

from loratory.adapters import dora, max_norm
from loratory.adapters.dropout import add_dropouts
from loratory.adapters.keys import Component, Family, diffusers_module_key
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_UP
from loratory.adapters.targets import Sizes, Target, find_targets
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError
from loratory.randomness import derive_seed

PEFT_NAME = "default"


@dataclass(frozen=True)
class AdapterLayer:
    """One adapted module: where it is, and the tensors trained for it.

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
        """The trained tensors by role: the suffix they have in files."""
        found = {LORA_DOWN: self.down, LORA_UP: self.up}
        if self.magnitude is not None:
            found[DORA_SCALE] = self.magnitude
        return found

    def file_shape(self, role: str, tensor: Tensor) -> tuple[int, ...]:
        """The shape that a tensor has in files: 1x1 convolutions for SD2's projections, (out, 1, ...) for DoRA."""
        if role == DORA_SCALE:
            return (tensor.numel(), *[1] * (self.base.weight.dim() - 1))
        if self.file_as_convolution and tensor.dim() == 2:
            return (*tensor.shape, 1, 1)
        return tuple(tensor.shape)


class Adapter:
    """The trained network of one run: all its layers in the UNet and the text encoders."""

    def __init__(self, layers: Sequence[AdapterLayer], family: Family) -> None:
        self.layers = tuple(layers)
        self.family: Family = family
        self._multiplier = 1.0

    @property
    def targets(self) -> list[Target]:
        return [layer.target for layer in self.layers]

    def named_parameters(self, component: Component) -> Iterator[tuple[str, Parameter]]:
        """Names as in files (`<key>.lora_down.weight`, ...) with the trained parameters of one component, in order."""
        for layer in self.layers:
            if layer.target.component == component:
                for role, parameter in layer.tensors().items():
                    yield f"{layer.target.key}.{role}", parameter

    def parameters(self, component: Component) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters(component)]

    # -- state

    def kohya_state_dict(self) -> dict[str, Tensor]:
        """The adapter as files hold it: float32 copies on the CPU, alpha as a 0-dimensional tensor."""
        state: dict[str, Tensor] = {}
        for layer in self.layers:
            key = layer.target.key
            state[f"{key}.{ALPHA}"] = torch.tensor(layer.target.alpha, dtype=torch.float32)
            for role, parameter in layer.tensors().items():
                copy = parameter.detach().to("cpu", torch.float32, copy=True)
                state[f"{key}.{role}"] = copy.reshape(layer.file_shape(role, parameter)).contiguous()
        return state

    def load_kohya_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of a file, in any float precision and with either naming of SDXL blocks.

        A module whose alpha differs from this network's keeps the function of the file: its up tensor is multiplied
        by the ratio of the scales. No alpha means alpha = rank, as every loader reads it. Raises LoratoryError when
        modules are missing or unknown, or shapes differ; then nothing has been changed.
        """
        remaining = dict(state)
        values: list[tuple[Parameter, Tensor]] = []
        missing: list[str] = []
        for layer in self.layers:
            key = self._key_in(remaining, layer)
            alpha = remaining.pop(f"{key}.{ALPHA}", None)
            for role, parameter in layer.tensors().items():
                name = f"{key}.{role}"
                if name not in remaining:
                    missing.append(name)
                    continue
                value = remaining.pop(name).to(torch.float32)
                if value.shape != parameter.shape and tuple(value.shape) != layer.file_shape(role, parameter):
                    raise LoratoryError(
                        f"{name} has the shape {list(value.shape)}; this network needs "
                        f"{list(layer.file_shape(role, parameter))}.",
                        hint="network_dim and conv_dim must be those of the file; `loratory lora inspect` shows them.",
                    )
                if role == LORA_UP:
                    rank = layer.target.rank
                    file_scale = (float(alpha) if alpha is not None else rank) / rank
                    if file_scale != layer.target.scale:
                        value = value * (file_scale / layer.target.scale)
                values.append((parameter, value.reshape(parameter.shape)))
        if missing or remaining:
            raise LoratoryError(
                "The file does not hold the same network: "
                + "; ".join(
                    f"{len(names)} tensors {what}, e.g. {', '.join(sorted(names)[:3])}"
                    for what, names in (("are missing", missing), ("are not part of this network", list(remaining)))
                    if names
                )
                + ".",
                hint="network_type, conv_dim and the trained components must be those of the file.",
            )
        with torch.no_grad():
            for parameter, value in values:
                parameter.copy_(value)

    def _key_in(self, state: Mapping[str, Tensor], layer: AdapterLayer) -> str:
        key = layer.target.key
        other = diffusers_module_key(layer.target.component, layer.target.path, self.family)
        return other if f"{key}.{LORA_DOWN}" not in state and f"{other}.{LORA_DOWN}" in state else key

    def raw_state(self) -> dict[str, Tensor]:
        """Everything needed to go on training bit for bit: CPU copies of the tensors as they are in memory.

        Names are those of files, but shapes and precision those of the network. These layers have no buffers.
        """
        return {
            f"{layer.target.key}.{role}": parameter.detach().to("cpu", copy=True)
            for layer in self.layers
            for role, parameter in layer.tensors().items()
        }

    def load_raw_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `raw_state` gave; raises LoratoryError unless names, shapes and dtypes are the same."""
        parameters = {
            f"{layer.target.key}.{role}": parameter
            for layer in self.layers
            for role, parameter in layer.tensors().items()
        }
        differing = sorted(parameters.keys() ^ state.keys()) or sorted(
            name
            for name, parameter in parameters.items()
            if parameter.shape != state[name].shape or parameter.dtype != state[name].dtype
        )
        if differing:
            raise LoratoryError(
                f"The saved state is of another network: {len(differing)} tensors differ, e.g. {differing[0]}.",
                hint="A run can only be resumed with the network settings it was started with.",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def apply_max_norm(self, limit: float) -> max_norm.NormReport:
        """Scales down every module whose weight change has a Frobenius norm above `limit` (scale_weight_norms)."""
        return max_norm.apply_max_norm([(layer.down, layer.up, layer.target.scale) for layer in self.layers], limit)

    # -- strength

    @property
    def multiplier(self) -> float:
        """Strength of the adapter, 1.0 as trained. 0 gives the base model."""
        return self._multiplier

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        self._multiplier = value
        for layer in self.layers:
            if layer.magnitude is None:
                layer.peft_layer.scaling[PEFT_NAME] = layer.target.scale * value
            else:
                dora.set_strength(layer.peft_layer.lora_magnitude_vector[PEFT_NAME], value)

    @contextmanager
    def disabled(self) -> Generator[None]:
        """The base model alone, exactly, inside the `with` block."""
        self._set_disabled(True)
        try:
            yield
        finally:
            self._set_disabled(False)

    def _set_disabled(self, disabled: bool) -> None:
        for layer in self.layers:
            # Not `enable_adapters`: that also turns requires_grad on and off, which belongs to the training loop.
            layer.peft_layer._disable_adapters = disabled


def inject(
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    family: Family,
    network: NetworkSettings,
    *,
    seed: int,
    train_unet: bool,
    train_text_encoder: bool | Sequence[bool],
    sizes: Sizes | None = None,
) -> Adapter:
    """Adds a lora, locon or dora network to the models, in place, and freezes everything else in them.

    Trained tensors are float32 on the device of the module they adapt. Down is drawn from the kaiming uniform
    distribution (a = sqrt 5) by a generator of its own per module, so that values depend on seed and name alone; up is
    zero, so the models compute what they did before. sizes: see `find_targets`. Raises LoratoryError for
    a network of another type.
    """
    if network.network_type not in ("lora", "locon", "dora"):
        raise LoratoryError(f"network_type = {network.network_type} is not a LoRA, LoCon or DoRA network.")
    is_dora = network.network_type == "dora"
    dropouts = {
        "network_dropout": network.network_dropout,
        "rank_dropout": network.rank_dropout,
        "module_dropout": network.module_dropout,
    }
    if is_dora and not network.wd_on_output:
        raise LoratoryError(
            "network_type = dora learns one magnitude per output; wd_on_output = false is not available.",
            hint="Leave wd_on_output at true.",
        )
    targets = find_targets(
        unet,
        text_encoders,
        family,
        network,
        train_unet=train_unet,
        train_text_encoder=train_text_encoder,
        sizes=sizes,
    )
    models: dict[Component, nn.Module] = {"unet": unet}
    components: tuple[Component, ...] = ("te1", "te2")
    models.update(zip(components, text_encoders, strict=False))
    layers: list[AdapterLayer] = []
    for component, model in models.items():
        model.requires_grad_(False)
        chosen = [target for target in targets if target.component == component]
        if chosen:
            layers += _inject_component(model, chosen, family, is_dora=is_dora)
    for layer in layers:
        _initialise(layer, seed)
        add_dropouts(
            layer.peft_layer.lora_A[PEFT_NAME],
            layer.peft_layer.lora_B[PEFT_NAME],
            **dropouts,
        )
    order = {target.key: position for position, target in enumerate(targets)}
    return Adapter(sorted(layers, key=lambda layer: order[layer.target.key]), family)


def _one_of(paths: Sequence[str]) -> str:
    return "^(?:" + "|".join(map(re.escape, paths)) + ")"


def _inject_component(
    model: nn.Module, targets: Sequence[Target], family: Family, *, is_dora: bool
) -> list[AdapterLayer]:
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
        alpha_pattern={_one_of(paths): alpha for alpha, paths in by_alpha.items()},  # pyright: ignore[reportArgumentType] # floats are used as they are
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
    layers: list[AdapterLayer] = []
    for target in targets:
        peft_layer = found[target.path]
        if peft_layer.r[PEFT_NAME] != target.rank or peft_layer.scaling[PEFT_NAME] != target.scale:
            raise RuntimeError(f"peft gave {target.path} another rank or scale than {target.rank}, {target.scale}")
        # SD2's UNet has linear projections in diffusers and 1x1 convolutions in the files of sd-scripts.
        projection = target.component == "unet" and target.path.endswith(("proj_in", "proj_out"))
        layers.append(AdapterLayer(target, peft_layer, file_as_convolution=family == "sd2" and projection))
    return layers


def _initialise(layer: AdapterLayer, seed: int) -> None:
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
