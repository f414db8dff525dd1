"""iA3 (arXiv 2205.05638): a number for every output or input of a layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loratory.adapters.forms.base import AddedForm, Tensors, compute_dtype, on_channels, product, taken
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

_WEIGHT, _ON_INPUT = "weight", "on_input"
# The last layers of feed-forward blocks are scaled where values come in, as in the paper.
_INPUT_SCALED = (".ff.net.2", ".mlp.fc2")


class IA3(AddedForm):
    """W scaled by 1 + weight: its rows, or its columns where it is on the input. The bias stays as it is."""

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        self._on_input = target.path.endswith(_INPUT_SCALED)
        channels = self.shape[1 if self._on_input else 0]
        self._shapes = {_WEIGHT: (1, channels, 1, 1) if isinstance(layer, nn.Conv2d) else (channels,)}

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {_WEIGHT: torch.zeros(self._shapes[_WEIGHT])}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        return {_WEIGHT: tensors[_WEIGHT], _ON_INPUT: torch.tensor(float(self._on_input))}

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        if _ON_INPUT in state and bool(state[_ON_INPUT].reshape(-1)[0] != 0) != self._on_input:
            here, there = ("inputs", "outputs") if self._on_input else ("outputs", "inputs")
            raise LoratoryError(f"The file scales the {there} of this layer; this network scales its {here}.")
        values = taken(state, self._shapes | {_ON_INPUT: ()})
        return {_WEIGHT: values[_WEIGHT]}

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        numbers = on_channels(self.layer, tensors[_WEIGHT].flatten()).to(dtype)
        if self._on_input:
            return product(self.layer, x.to(dtype) * numbers, self.weight.to(dtype))
        return self.without_bias(base_output) * numbers

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return [_WEIGHT], 1
