"""The LyCORIS types, and the forms of LoCon and DoRA that peft does not have, injected as layers of our own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from loratory.adapters.adapted import Adapted
from loratory.adapters.forms import make_form
from loratory.adapters.forms.low_rank import SCALAR
from loratory.adapters.keys import Component
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.randomness import derive_seed


@dataclass(frozen=True)
class FormLayer(AdapterLayer):
    """A layer whose network is a `Form`."""

    target: Target
    module: Adapted

    @property
    def base(self) -> nn.Module:
        return self.module.base_layer

    def tensors(self) -> dict[str, Parameter]:
        return self.module.tensors()

    @torch.no_grad()
    def to_file(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {**self.tensors()}
        if SCALAR in tensors:  # a product that is rounded once, by the format of the file
            tensors = {name: tensor.float() for name, tensor in tensors.items()}
        return self.module.form.to_file(tensors)

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.module.form.from_file(state)

    def shrink(self, limit: float) -> Tensor:
        """Brings the norm of the change to `limit` where it is above, in place; what it was, on the device."""
        return self.module.form.shrink(self.tensors(), limit)

    def set_strength(self, value: float) -> None:
        self.module.strength = value

    def set_disabled(self, disabled: bool) -> None:
        self.module.is_disabled = disabled


def inject_forms(
    models: Mapping[Component, nn.Module],
    targets: Sequence[Target],
    network: NetworkSettings,
    seed: int,
) -> list[FormLayer]:
    """Puts a layer with a network in the place of each target, in the order of the targets.

    Trained tensors are float32 on the device of the layer, drawn by a generator of their own per layer, so that values
    depend on seed and name alone. Raises LoratoryError for a layer that cannot have such a network.
    """
    layers: list[FormLayer] = []
    for target in targets:
        model = models[target.component]
        base = model.get_submodule(target.path)
        if isinstance(base, Adapted):
            raise RuntimeError("the model already has an adapter")
        form = make_form(base, target, network)
        generator = torch.Generator().manual_seed(derive_seed(seed, "network_init", target.key))
        module = Adapted(base, form, form.initial(generator))
        module.train(base.training)  # new modules start in training mode, also in a model in eval mode
        parent, _, name = target.path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)
        layers.append(FormLayer(target, module))
    return layers
