"""A layer of the base model with a network of ours in it, in its place in the model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from loratory.adapters.forms.base import Form, Tensors, weight_of


class Adapted(nn.Module):
    """The base layer, frozen, with the trained tensors of its network.

    strength: 1 as trained, 0 the base layer, others on the line between. is_disabled: the base layer alone, exactly.
    Attributes of the base layer (weight, in_features, stride, ...) can be read here, as code of the models does.
    """

    base_layer: nn.Module

    def __init__(self, base_layer: nn.Module, form: Form, tensors: Tensors) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.form = form
        self.strength = 1.0
        self.is_disabled = False
        device = weight_of(base_layer).device
        self._names = tuple(tensors)  # names of files have dots, which those of parameters cannot
        self._values = nn.ParameterList([Parameter(tensor.to(device)) for tensor in tensors.values()])

    def tensors(self) -> dict[str, Parameter]:
        """What is trained, by name."""
        return dict(zip(self._names, self._values, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) or (B, in, H, W), and the same with the layer's outputs."""
        if self.is_disabled:
            return self.base_layer(x)
        strength = self.strength
        probability = self.form.network.module_dropout
        # Drawn on the CPU: deciding on the GPU would make the host wait for it at every layer. The change is not left
        # out but multiplied by 0: a pass that drops every layer must still have a graph to go back.
        if probability > 0 and self.training and float(torch.rand(1)) < probability:
            strength = 0.0
        return self.form.forward(self.tensors(), x, strength, self.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not there yet, while the module is being made or copied
                raise
            return getattr(self.base_layer, name)
