"""LoCon in the forms that peft does not have (Tucker, scalar), and DyLoRA."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.adapters import max_norm
from loratory.adapters.dropout import mask_ranks
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
from loratory.adapters.roles import ALPHA, LORA_DOWN, LORA_MID, LORA_UP
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

SCALAR = "scalar"


def drop_in_rank_space(ranks: Tensor, network: NetworkSettings, *, is_scaled: bool) -> Tensor:
    """network_dropout and rank_dropout between the two halves of a network. is_scaled: the ranks that are left are."""
    if network.network_dropout > 0:
        ranks = F.dropout(ranks, network.network_dropout)
    if network.rank_dropout > 0:
        ranks = mask_ranks(ranks, network.rank_dropout)
        if not is_scaled:
            ranks = ranks * (1.0 - network.rank_dropout)
    return ranks


def up_shape(layer: nn.Module, outputs: int, rank: int) -> tuple[int, ...]:
    """The shape of an up tensor in files."""
    return (outputs, rank, 1, 1) if isinstance(layer, nn.Conv2d) else (outputs, rank)


class LowRank(AddedForm):
    """up @ down * alpha / rank; a Tucker convolution has the kernel in a middle tensor, (rank, rank, k, k)."""

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        outputs, inputs, *kernel = self.shape
        rank = target.rank
        self._has_mid = network.use_tucker and target.is_conv
        ones = [1] * len(kernel)
        self._shapes: dict[str, tuple[int, ...]] = {LORA_DOWN: (rank, inputs, *(ones if self._has_mid else kernel))}
        if self._has_mid:
            self._shapes[LORA_MID] = (rank, rank, *kernel)
        self._shapes[LORA_UP] = up_shape(layer, outputs, rank)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        values = {role: kaiming(generator, *shape) for role, shape in self._shapes.items()}
        if self.network.use_scalar:
            return values | {SCALAR: torch.zeros(())}
        return values | {LORA_UP: torch.zeros(self._shapes[LORA_UP])}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        state = {ALPHA: alpha_tensor(self.target.alpha)} | {role: tensors[role] for role in self._shapes}
        if self.network.use_scalar:
            state[LORA_UP] = state[LORA_UP] * tensors[SCALAR]
        return state

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        values = rescaled(taken(state, self._shapes), state, self.target.rank, self.scale, LORA_UP)
        return values | {SCALAR: torch.ones(())} if self.network.use_scalar else values

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        down = tensors[LORA_DOWN].to(dtype)
        if self._has_mid:
            ranks = product(self.layer, F.conv2d(x.to(dtype), down), tensors[LORA_MID].to(dtype))
        else:
            ranks = product(self.layer, x.to(dtype), down)
        if is_training:
            ranks = drop_in_rank_space(ranks, self.network, is_scaled=True)
        factor = tensors[SCALAR] * self.scale if self.network.use_scalar else self.scale
        return narrow(ranks, (tensors[LORA_UP].flatten(1) * factor).to(dtype))

    def norm(self, tensors: Tensors) -> Tensor:
        if self._has_mid:
            return super().norm(tensors)
        state = self.to_file(tensors)
        return max_norm.change_norms([state[LORA_DOWN]], [state[LORA_UP]], [self.scale])[0]

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return list(self._shapes), len(self._shapes)


class DyLora(AddedForm):
    """DyLoRA (arXiv 2210.07558): every step trains one block of ranks, with those before it as they are.

    A parameter per block, so that optimizers pass over the others. As in sd-scripts the scale is alpha / rank *
    sqrt(rank / ranks in use), which is the file's scale where all are; LyCORIS' own scale is not that of its files.
    """

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        super().__init__(layer, target, network)
        self._size = network.block_size
        if target.rank % self._size:
            raise LoratoryError(
                f"network_type = dylora: {target.path} has the rank {target.rank}, which is no multiple of "
                f"block_size = {self._size}.",
                hint="block_size must divide network_dim and conv_dim.",
            )
        self._blocks = target.rank // self._size
        self._down = (self._size, *self.shape[1:])
        self._up = (self.shape[0], self._size)
        self._downs = [f"{LORA_DOWN}.{block}" for block in range(self._blocks)]
        self._ups = [f"{LORA_UP}.{block}" for block in range(self._blocks)]

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        downs = {name: kaiming(generator, *self._down) for name in self._downs}
        return downs | {name: torch.zeros(self._up) for name in self._ups}

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        up = torch.cat([tensors[name] for name in self._ups], dim=1)
        return {
            ALPHA: alpha_tensor(self.target.alpha),
            LORA_DOWN: torch.cat([tensors[name] for name in self._downs]),
            LORA_UP: up.reshape(up_shape(self.layer, *up.shape)),
        }

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        rank = self.target.rank
        shapes = {LORA_DOWN: (rank, *self.shape[1:]), LORA_UP: (self.shape[0], rank)}
        values = rescaled(taken(state, shapes), state, rank, self.scale, LORA_UP)
        downs = dict(zip(self._downs, values[LORA_DOWN].split(self._size), strict=True))
        return downs | dict(zip(self._ups, values[LORA_UP].split(self._size, dim=1), strict=True))

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        last, factor = self._blocks - 1, self.scale
        if is_training:
            # On the CPU, so that nobody waits for a GPU, and from the global generator: checkpointing replays it.
            last = int(torch.randint(self._blocks, ()))
            factor *= (self._blocks / (last + 1)) ** 0.5
        downs, ups = (
            self._used(tensors, self._downs, last, is_training),
            self._used(tensors, self._ups, last, is_training),
        )
        ranks = product(self.layer, x.to(dtype), torch.cat(downs).to(dtype))
        if is_training:
            ranks = drop_in_rank_space(ranks, self.network, is_scaled=self.network.rank_dropout_scale)
        return narrow(ranks, (torch.cat(ups, dim=1) * factor).to(dtype))

    def _used(self, tensors: Tensors, names: Sequence[str], last: int, is_training: bool) -> list[Tensor]:
        used = [tensors[name] for name in names[: last + 1]]
        return [block.detach() for block in used[:-1]] + used[-1:] if is_training else used

    def norm(self, tensors: Tensors) -> Tensor:
        state = self.to_file(tensors)
        return max_norm.change_norms([state[LORA_DOWN]], [state[LORA_UP]], [self.scale])[0]

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return [*self._downs, *self._ups], 2
