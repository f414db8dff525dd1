"""DoRA (arXiv 2402.09353) on LoCon, LoHa and LoKr: magnitude and direction of the weights are learnt apart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loratory.adapters.deltas import delta, magnitudes, stretch
from loratory.adapters.forms.base import AddedForm, Tensors, compute_dtype, on_channels, product, taken
from loratory.adapters.roles import ALPHA, DORA_SCALE


class Decomposed(AddedForm):
    """m * (W + D) / |W + D|, with norms per output, or per input where wd_on_output is off.

    As the paper has it, the norm counts as a constant for gradients; it is that of the change without dropouts, in
    float32. inner: the form of D.
    """

    def __init__(self, inner: AddedForm) -> None:
        super().__init__(inner.layer, inner.target, inner.network)
        self.inner = inner
        self._per_output = inner.network.wd_on_output
        ones = [1] * (len(self.shape) - 2)
        self._magnitude = (self.shape[0], 1, *ones) if self._per_output else (1, self.shape[1], *ones)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        weight = self.weight.detach().float()
        return self.inner.initial(generator) | {DORA_SCALE: magnitudes(weight, self._per_output)}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        return self.inner.to_file(tensors) | {DORA_SCALE: tensors[DORA_SCALE]}

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        magnitude = {role: tensor for role, tensor in state.items() if role == DORA_SCALE}
        rest = {role: tensor for role, tensor in state.items() if role != DORA_SCALE}
        return self.inner.from_file(rest) | taken(magnitude, {DORA_SCALE: self._magnitude})

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        with torch.no_grad():
            weight = self.weight
            # Without the alpha of files, a tensor: read as a number it would break the graphs of torch.compile.
            state = {role: tensor for role, tensor in self.inner.to_file(tensors).items() if role != ALPHA}
            change = self.inner.scale * delta(state, weight).weight
            norms = magnitudes(weight + change, self._per_output)
        factor = on_channels(self.layer, stretch(tensors[DORA_SCALE], norms).flatten())
        # As 1 + (factor - 1), the second in full precision: near the start it is much smaller than 1.
        more, factor = (factor - 1).to(dtype), factor.to(dtype)
        if self._per_output:
            change = self.inner.change(tensors, x, base_output, is_training)
            return change * factor + self.without_bias(base_output) * more
        x = x.to(dtype)
        change = self.inner.change(tensors, x * factor, base_output, is_training)
        return change + product(self.layer, x * more, self.weight.to(dtype))

    def norm(self, tensors: Tensors) -> Tensor:
        """Of D, before the magnitudes."""
        return self.inner.norm(tensors)

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return self.inner.factors(tensors)
