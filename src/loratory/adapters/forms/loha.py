"""LoHa (FedPara, arXiv 2108.06098): the elementwise product of two low-rank matrices."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loratory.adapters.deltas import tucker
from loratory.adapters.forms.base import (
    AddedForm,
    Tensors,
    alpha_tensor,
    compute_dtype,
    keep_outputs,
    narrow,
    product,
    rescaled,
    taken,
)
from loratory.adapters.forms.low_rank import SCALAR
from loratory.adapters.roles import ALPHA
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings

_W1A, _W1B, _W2A, _W2B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
_T1, _T2 = "hada_t1", "hada_t2"


class LoHa(AddedForm):
    """(w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank, or each half by a Tucker decomposition of the kernel."""

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        outputs, inputs, *kernel = self.shape
        rank, columns = target.rank, inputs * prod(kernel)
        self._has_core = network.use_tucker and target.is_conv
        if self._has_core:
            left, right = (rank, outputs), (rank, inputs)
            self._shapes: dict[str, tuple[int, ...]] = {_T1: (rank, rank, *kernel), _T2: (rank, rank, *kernel)}
        else:
            left, right = (outputs, rank), (rank, columns)
            self._shapes = {}
        self._shapes |= {_W1A: left, _W1B: right, _W2A: left, _W2B: right}
        # The change has the rank r^2 at most. While that is small, two narrow products cost less than building it.
        self._is_narrow = not self._has_core and 2 * rank**2 * (outputs + columns) <= outputs * columns

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        def normal(shape: Sequence[int], deviation: float) -> Tensor:
            return torch.empty(*shape).normal_(0.0, deviation, generator=generator)

        deviations = {_W1B: 1.0, _W2B: 1.0}
        values = {role: normal(shape, deviations.get(role, 0.1)) for role, shape in self._shapes.items()}
        if self.network.use_scalar:
            return values | {SCALAR: torch.zeros(())}
        return values | {_W2A: torch.zeros(self._shapes[_W2A])}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        state = {ALPHA: alpha_tensor(self.target.alpha)} | {role: tensors[role] for role in self._shapes}
        if self.network.use_scalar:
            state[_W1A] = state[_W1A] * tensors[SCALAR]
        return state

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        values = rescaled(taken(state, self._shapes), state, self.target.rank, self.scale, _W1A)
        return values | {SCALAR: torch.ones(())} if self.network.use_scalar else values

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        factor = tensors[SCALAR] * self.scale if self.network.use_scalar else self.scale
        w1a, w1b, w2a, w2b = tensors[_W1A] * factor, tensors[_W1B], tensors[_W2A], tensors[_W2B]
        if self._is_narrow:
            outer, inner = self._pairs(w1a, w1b, w2a, w2b)
            change = narrow(product(self.layer, x.to(dtype), inner.to(dtype)), outer.to(dtype))
        else:
            if self._has_core:
                first = tucker(tensors[_T1].to(dtype), w1a.to(dtype), w1b.to(dtype))
                weight = first * tucker(tensors[_T2].to(dtype), w2a.to(dtype), w2b.to(dtype))
            else:
                weight = _hadamard(w1a.to(dtype), w1b.to(dtype), w2a.to(dtype), w2b.to(dtype)).reshape(self.shape)
            change = product(self.layer, x.to(dtype), weight)
        if is_training and self.network.rank_dropout > 0:
            change = keep_outputs(change, self.layer, self.network)
        return change

    def _pairs(self, w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor) -> tuple[Tensor, Tensor]:
        """The change as a product of (out, r^2) and (r^2, in, ...): a pair of ranks, one of each half, is one rank."""
        outer = (w1a[:, :, None] * w2a[:, None, :]).flatten(1)
        inner = (w1b[:, None] * w2b[None]).flatten(0, 1)
        return outer, inner.reshape(inner.shape[0], *self.shape[1:])

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return list(self._shapes), len(self._shapes)


def _hadamard(w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
    change: Any = _Hadamard.apply(w1a, w1b, w2a, w2b)
    return change


class _Hadamard(torch.autograd.Function):
    """(w1a @ w1b) * (w2a @ w2b). Both halves are as large as the weight: they are computed again for the gradients
    rather than kept until then."""

    @staticmethod
    def forward(ctx: Any, w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
        ctx.save_for_backward(w1a, w1b, w2a, w2b)
        return (w1a @ w1b).mul_(w2a @ w2b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] # torch types it for any number
        w1a, w1b, w2a, w2b = ctx.saved_tensors
        first = (w2a @ w2b).mul_(grad)
        second = (w1a @ w1b).mul_(grad)
        return first @ w1b.T, w1a.T @ first, second @ w2b.T, w2a.T @ second
