"""Layers that are trained whole: their weight and bias, and those of normalisations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.adapters.forms.base import Form, Tensors, compute_dtype, product, taken
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings


class Whole(Form):
    """A change of the whole weight, and of the bias where there is one. Files hold the differences."""

    roles: tuple[str, str]

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        weight, bias = self.roles
        self._shapes = {weight: self.shape}
        if self.bias is not None:
            self._shapes[bias] = self.shape[:1]

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {role: torch.zeros(shape) for role, shape in self._shapes.items()}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        return dict(tensors)

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        return taken(state, self._shapes)

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return list(self._shapes), 1

    def changed(self, tensors: Tensors, strength: float) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with their changes, summed in float32 at least."""
        weight, bias = self.roles
        new = _sum(self.weight, tensors[weight], strength)
        return new, None if self.bias is None else _sum(self.bias, tensors[bias], strength)


def _sum(base: Tensor, change: Tensor, strength: float) -> Tensor:
    dtype = torch.promote_types(torch.float32, torch.promote_types(base.dtype, change.dtype))
    return torch.add(base.to(dtype), change.to(dtype), alpha=strength)


class Full(Whole):
    """One product with the changed weight instead of two: a sum in float32, rounded as the base weight would be."""

    roles = ("diff", "diff_b")

    def forward(self, tensors: Tensors, x: Tensor, strength: float, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        weight, bias = self.changed(tensors, strength)
        return product(self.layer, x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class Norm(Whole):
    """GroupNorm and LayerNorm."""

    roles = ("w_norm", "b_norm")

    def forward(self, tensors: Tensors, x: Tensor, strength: float, is_training: bool) -> Tensor:
        weight, bias = self.changed(tensors, strength)
        if not torch.is_autocast_enabled(x.device.type):
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        layer = self.layer
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
        assert isinstance(layer, nn.LayerNorm)
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
