"""The trained network of one run: its parameters, its state, its strength."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from loratory.adapters.keys import Component, Family, diffusers_module_key
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.lora import PeftLayer
from loratory.adapters.lycoris import FormLayer
from loratory.adapters.max_norm import NormReport, apply_max_norm, report_of
from loratory.adapters.roles import ALPHA, split_name
from loratory.adapters.targets import Target
from loratory.errors import LoratoryError


class Adapter:
    """All adapted layers of the UNet and the text encoders."""

    def __init__(self, layers: Sequence[AdapterLayer], family: Family) -> None:
        self.layers = tuple(layers)
        self.family: Family = family
        self._multiplier = 1.0

    @property
    def targets(self) -> list[Target]:
        return [layer.target for layer in self.layers]

    def named_parameters(self, component: Component) -> Iterator[tuple[str, Parameter]]:
        """`<key>.<name of the tensor>`, such as `<key>.lora_down.weight`, with the trained parameters of one component,
        in order."""
        for layer in self.layers:
            if layer.target.component == component:
                for name, parameter in layer.tensors().items():
                    yield f"{layer.target.key}.{name}", parameter

    def parameters(self, component: Component) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters(component)]

    # -- state

    def kohya_state_dict(self) -> dict[str, Tensor]:
        """The adapter as files hold it: float32 copies on the CPU, alpha as a 0-dimensional tensor."""
        return {
            f"{layer.target.key}.{role}": tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
            for layer in self.layers
            for role, tensor in layer.to_file().items()
        }

    def load_kohya_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of a file, in any float precision and with either naming of SDXL blocks.

        A module whose alpha differs from this network's keeps the function of the file. No alpha means alpha = rank, as
        every loader reads it, and so does 0, as trainers read it. Raises LoratoryError when modules are missing or
        unknown, or shapes differ; then nothing has been changed.
        """
        by_key: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            key, role = split_name(name)
            by_key.setdefault(key, {})[role] = tensor.to(torch.float32)
        values: list[tuple[Parameter, Tensor]] = []
        missing: list[str] = []
        left_over: list[str] = []
        for layer in self.layers:
            key = self._key_in(by_key, layer)
            found = by_key.pop(key, {})
            roles = layer.to_file().keys()
            absent = [role for role in roles if role not in found and role != ALPHA]
            missing += [f"{key}.{role}" for role in absent]
            left_over += [f"{key}.{role}" for role in found if role not in roles and role != ALPHA]
            if absent or left_over:
                continue
            try:
                taken = layer.from_file(found)
            except LoratoryError as error:
                raise LoratoryError(f"{key}: {error.message}", hint=error.hint) from error
            values += [(parameter, taken[name]) for name, parameter in layer.tensors().items()]
        left_over += [f"{key}.{role}" for key, roles in by_key.items() for role in roles]
        if missing or left_over:
            raise LoratoryError(
                "The file does not hold the same network: "
                + "; ".join(
                    f"{len(names)} tensors {what}, e.g. {', '.join(sorted(names)[:3])}"
                    for what, names in (("are missing", missing), ("are not part of this network", left_over))
                    if names
                )
                + ".",
                hint="network_type, conv_dim and the trained components must be those of the file.",
            )
        with torch.no_grad():
            for parameter, value in values:
                parameter.copy_(value)

    def _key_in(self, by_key: Mapping[str, object], layer: AdapterLayer) -> str:
        key = layer.target.key
        other = diffusers_module_key(layer.target.component, layer.target.path, self.family)
        return other if key not in by_key and other in by_key else key

    def raw_state(self) -> dict[str, Tensor]:
        """Everything needed to go on training bit for bit: CPU copies of the tensors as they are in memory.

        Shapes and precision are those of the network. The layers keep nothing else from step to step.
        """
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._all().items()}

    def load_raw_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `raw_state` gave; raises LoratoryError unless names, shapes and dtypes are the same."""
        parameters = self._all()
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

    def _all(self) -> dict[str, Parameter]:
        return {
            f"{layer.target.key}.{name}": parameter
            for layer in self.layers
            for name, parameter in layer.tensors().items()
        }

    def apply_max_norm(self, limit: float) -> NormReport:
        """Scales down every module that has a norm above `limit` (scale_weight_norms).

        The norm is that of the change of the weight (Frobenius), and of rotations that of their blocks, as in LyCORIS.
        """
        pairs = [layer for layer in self.layers if isinstance(layer, PeftLayer)]
        if pairs:  # a network is of one type
            return apply_max_norm([(layer.down, layer.up, layer.target.scale) for layer in pairs], limit)
        norms = torch.stack([layer.shrink(limit) for layer in self.layers if isinstance(layer, FormLayer)])
        return report_of(norms.tolist(), limit)

    # -- strength

    @property
    def multiplier(self) -> float:
        """Strength of the adapter, 1.0 as trained. 0 gives the base model."""
        return self._multiplier

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        self._multiplier = value
        for layer in self.layers:
            layer.set_strength(value)

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
            layer.set_disabled(disabled)
