"""GLoRA (arXiv 2306.07967) as in LyCORIS: a low-rank change, and another that goes through the base weight."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loratory.adapters.forms.base import (
    AddedForm,
    Tensors,
    alpha_tensor,
    compute_dtype,
    kaiming,
    narrow,
    product,
    rescaled,
    taken,
)
from loratory.adapters.forms.low_rank import drop_in_rank_space, up_shape
from loratory.adapters.roles import ALPHA
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings

_A1, _A2, _B1, _B2 = "a1.weight", "a2.weight", "b1.weight", "b2.weight"


class GLora(AddedForm):
    """(W a1 a2 + b1 b2) * alpha / rank; in a convolution a1 and a2 are 1x1."""

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        outputs, inputs, *kernel = self.shape
        rank, ones = target.rank, [1] * len(kernel)
        self._shapes = {
            _A1: up_shape(layer, inputs, rank),
            _A2: (rank, inputs, *ones),
            _B1: up_shape(layer, outputs, rank),
            _B2: (rank, inputs, *kernel),
        }

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            role: torch.zeros(shape) if role in (_A2, _B2) else kaiming(generator, *shape)
            for role, shape in self._shapes.items()
        }

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        return {ALPHA: alpha_tensor(self.target.alpha)} | {role: tensors[role] for role in self._shapes}

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        return rescaled(taken(state, self._shapes), state, self.target.rank, self.scale, _A2, _B2)

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        x = x.to(dtype)
        a1 = (tensors[_A1].flatten(1) * self.scale).to(dtype)
        b1 = (tensors[_B1].flatten(1) * self.scale).to(dtype)
        a2, b2 = tensors[_A2].to(dtype), tensors[_B2].to(dtype)
        # W a1 is one product with as many columns as ranks; W (a1 a2 x) would be a second pass through the layer.
        if x.dim() == 4:
            through = torch.einsum("oikl,ir->orkl", self.weight.to(dtype), a1)
            first = self._dropped(narrow(x, a2.flatten(1)), is_training)
            second = self._dropped(product(self.layer, x, b2), is_training)
            return product(self.layer, first, through) + narrow(second, b1)
        ranks = narrow(x, torch.cat([a2, b2]))
        ups = torch.cat([self.weight.to(dtype) @ a1, b1], dim=1)
        return narrow(self._dropped(ranks, is_training), ups)

    def _dropped(self, ranks: Tensor, is_training: bool) -> Tensor:
        if not is_training:
            return ranks
        return drop_in_rank_space(ranks, self.network, is_scaled=self.network.rank_dropout_scale)

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return list(self._shapes), 2
