"""LoKr (KronA, arXiv 2212.10650): the Kronecker product of a small and a large factor, either of them low-rank."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.adapters.deltas import tucker
from loratory.adapters.forms.base import (
    AddedForm,
    Tensors,
    alpha_tensor,
    compute_dtype,
    kaiming,
    keep_outputs,
    product,
    rescaled,
    taken,
)
from loratory.adapters.forms.low_rank import SCALAR
from loratory.adapters.precision import widest
from loratory.adapters.roles import ALPHA
from loratory.adapters.targets import Target
from loratory.config.factors import factors
from loratory.config.schema import NetworkSettings

_W1, _W1A, _W1B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
_W2, _W2A, _W2B, _T2 = "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"


class LoKr(AddedForm):
    """kron(w1, w2) * alpha / rank: w1 (a, c), w2 (b, d, k, k) with out = a * b and in = c * d.

    A factor that a product of the rank would not make smaller by half is trained whole. Where both are, there is no
    rank: the scale is 1 and alpha does not matter. full_matrix keeps both whole; w1 is a product with decompose_both
    alone.
    """

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        outputs, inputs, *kernel = self.shape
        rank = target.rank
        (a, b), (c, d) = factors(outputs, network.factor), factors(inputs, network.factor)
        self._sizes = a, b, c, d
        self._has_w1 = network.full_matrix or not network.decompose_both or 2 * rank >= max(a, c)
        self._has_w2 = network.full_matrix or 2 * rank >= max(b, d)
        self._has_core = network.use_tucker and target.is_conv and not self._has_w2
        self._shapes: dict[str, tuple[int, ...]] = {_W1: (a, c)} if self._has_w1 else {_W1A: (a, rank), _W1B: (rank, c)}
        if self._has_w2:
            self._shapes[_W2] = (b, d, *kernel)
        elif self._has_core:
            self._shapes |= {_T2: (rank, rank, *kernel), _W2A: (rank, b), _W2B: (rank, d)}
        else:
            self._shapes |= {_W2A: (b, rank), _W2B: (rank, d * prod(kernel))}
        if self._has_w1 and self._has_w2:
            self.scale = 1.0

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        values = {role: kaiming(generator, *shape) for role, shape in self._shapes.items()}
        if self.network.use_scalar:
            return values | {SCALAR: torch.zeros(())}
        last = _W2 if self._has_w2 else _W2B
        return values | {last: torch.zeros(self._shapes[last])}

    @property
    def _carrier(self) -> str:
        return _W1 if self._has_w1 else _W1A

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        alpha = self.target.rank if self._has_w1 and self._has_w2 else self.target.alpha
        state = {ALPHA: alpha_tensor(alpha)} | {role: tensors[role] for role in self._shapes}
        if self.network.use_scalar:
            state[self._carrier] = state[self._carrier] * tensors[SCALAR]
        return state

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        values = taken(state, self._shapes)
        if not (self._has_w1 and self._has_w2):
            values = rescaled(values, state, self.target.rank, self.scale, self._carrier)
        return values | {SCALAR: torch.ones(())} if self.network.use_scalar else values

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        factor = tensors[SCALAR] * self.scale if self.network.use_scalar else self.scale
        first = tensors[_W1] if self._has_w1 else tensors[_W1A] @ tensors[_W1B]
        first = (first * factor).to(dtype)
        apply = self._on_images if x.dim() == 4 else self._on_features
        change = apply(tensors, x.to(dtype), first, dtype)
        if is_training and self.network.rank_dropout > 0:
            change = keep_outputs(change, self.layer, self.network)
        return change

    def _on_features(self, tensors: Tensors, x: Tensor, first: Tensor, dtype: torch.dtype) -> Tensor:
        """kron(w1, w2) x = w1 X w2^T, where X is x as (c, d); the factor of rank r comes between, where X is (c, r)."""
        a, b, c, d = self._sizes
        grouped = x.reshape(*x.shape[:-1], c, d)
        if self._has_w2:
            second = tensors[_W2].to(dtype)
            # The cheaper order of the two, in products of numbers.
            if c * d * b + a * c * b <= a * c * d + a * d * b:
                mixed = first @ F.linear(grouped, second)
            else:
                mixed = F.linear(first @ grouped, second)
        else:
            ranks = F.linear(grouped, tensors[_W2B].to(dtype))
            mixed = F.linear(first @ ranks, tensors[_W2A].to(dtype))
        return mixed.reshape(*x.shape[:-1], a * b)

    def _on_images(self, tensors: Tensors, x: Tensor, first: Tensor, dtype: torch.dtype) -> Tensor:
        """The same with w2 as a convolution of each of the c groups of d channels."""
        a, b, c, d = self._sizes
        grouped = x.reshape(-1, d, *x.shape[2:])
        if self._has_w2:
            ranks = product(self.layer, grouped, tensors[_W2].to(dtype))
        elif self._has_core:
            down = tensors[_W2B].to(dtype)[..., None, None]
            ranks = product(self.layer, F.conv2d(grouped, down), tensors[_T2].to(dtype))
        else:
            down = tensors[_W2B].reshape(-1, d, *self.shape[2:]).to(dtype)
            ranks = product(self.layer, grouped, down)
        mixed = first @ ranks.reshape(x.shape[0], c, -1)
        mixed = mixed.reshape(-1, *ranks.shape[1:])
        if not self._has_w2:
            up = tensors[_W2A].T if self._has_core else tensors[_W2A]
            mixed = F.conv2d(mixed, up.to(dtype)[..., None, None])
        return mixed.reshape(x.shape[0], a * b, *ranks.shape[2:])

    def norm(self, tensors: Tensors) -> Tensor:
        """The product of the norms of the two factors."""
        if self._has_w2:
            second = tensors[_W2]
        elif self._has_core:
            second = tucker(tensors[_T2], tensors[_W2A], tensors[_W2B])
        else:
            second = tensors[_W2A] @ tensors[_W2B]
        first = tensors[_W1] if self._has_w1 else tensors[_W1A] @ tensors[_W1B]
        if self.network.use_scalar:
            first = first * tensors[SCALAR]
        norms = [torch.linalg.vector_norm(factor, dtype=widest(factor.device)) for factor in (first, second)]
        return norms[0] * norms[1] * abs(self.scale)

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return list(self._shapes), len(self._shapes)
