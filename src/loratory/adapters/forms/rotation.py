"""Diag-OFT (arXiv 2306.07280) and BOFT (arXiv 2311.06243): rotations of a layer's outputs."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from loratory.adapters.deltas import turned, turns
from loratory.adapters.forms.base import (
    AddedForm,
    Tensors,
    alpha_tensor,
    compute_dtype,
    on_channels,
    product,
    taken,
    weight_of,
)
from loratory.adapters.precision import widest
from loratory.adapters.roles import ALPHA, RESCALE
from loratory.adapters.targets import Target
from loratory.config.factors import butterfly_size, butterfly_sizes, factors
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

_BLOCKS = "oft_blocks"
# From so many outputs per weight on, a butterfly of the weight and a product with it cost less than one of the outputs.
_MANY_OUTPUTS = 2


class Rotation(AddedForm):
    """rescale * (R W), with R orthogonal by the Cayley transform of what is trained.

    R acts on the outputs, less the bias, rather than on W: no base weight is read, and the product is small. limit: on
    the norm of the skew matrices over all blocks, constraint * outputs; 0 for none.
    """

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings, blocks: tuple[int, ...]) -> None:
        super().__init__(layer, target, network)
        self._limit = float(alpha_tensor(network.constraint)) * self.shape[0]  # rounded as files have it
        self._shapes: dict[str, tuple[int, ...]] = {_BLOCKS: blocks}
        if network.rescaled:
            self._shapes[RESCALE] = (self.shape[0], *[1] * (len(self.shape) - 1))

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        values = {_BLOCKS: torch.zeros(self._shapes[_BLOCKS])}
        return values | {RESCALE: torch.ones(self._shapes[RESCALE])} if self.network.rescaled else values

    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        return {ALPHA: alpha_tensor(self.network.constraint)} | {role: tensors[role] for role in self._shapes}

    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        """alpha is the constraint of the file: blocks beyond it are scaled to it here, where ours may be another."""
        values = taken(state, self._shapes)
        blocks = values[_BLOCKS]
        norm = float(torch.linalg.vector_norm(blocks - blocks.transpose(-1, -2)))
        file_limit = float(state[ALPHA]) * self.shape[0] if ALPHA in state else 0.0
        if file_limit == self._limit:
            return values
        if 0 < file_limit < norm:
            values[_BLOCKS], norm = blocks * (file_limit / norm), file_limit
        if 0 < self._limit < norm:
            raise LoratoryError(
                f"The file turns {self.target.key} further than constraint = {self.network.constraint} allows.",
                hint=f"Its norm is {norm:.4g}: network.constraint must be {norm / self.shape[0]:.2g} or more, or 0.",
            )
        return values

    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        dtype = compute_dtype(x)
        output = self.without_bias(base_output)
        with torch.autocast(x.device.type, enabled=False):
            blocks = tensors[_BLOCKS]
            turn = turns(blocks if blocks.dtype == torch.float64 else blocks.float(), self._limit)
        if is_training and self.network.rank_dropout > 0:
            turn = (
                turn * (torch.rand(turn.shape[:-2], device=turn.device) >= self.network.rank_dropout)[..., None, None]
            )
        change = self._turned(turn, x.to(dtype), output)
        if self.network.rescaled:
            factor = on_channels(self.layer, tensors[RESCALE].flatten())
            change = change * factor.to(dtype) + output * (factor - 1).to(dtype)
        return change

    @abstractmethod
    def _turned(self, turn: Tensor, x: Tensor, output: Tensor) -> Tensor:
        """What the rotation adds to the output without bias; turn: R - I, in full precision."""

    @torch.no_grad()
    def norm(self, tensors: Tensors) -> Tensor:
        """Of the blocks themselves, as in LyCORIS: what they do to a weight is bounded by the weight."""
        return torch.linalg.vector_norm(tensors[_BLOCKS], dtype=widest(tensors[_BLOCKS].device))

    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        return [_BLOCKS], 1


class DiagOft(Rotation):
    """One rotation per block of neighbouring outputs; network_dim is the size of the blocks, or the number nearest."""

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        outputs = weight_of(layer).shape[0]
        size, count = factors(outputs, target.rank)
        if size == 1 and target.rank >= outputs:
            # As large as the layer: LyCORIS would make blocks of one output each, which cannot turn.
            size, count = factors(outputs, -1)
        if size == 1:
            raise LoratoryError(
                f"network_type = diag-oft cannot train {target.path}: network_dim = {target.rank} leaves blocks of "
                f"one of its {outputs} outputs, which cannot turn.",
                hint="Set network_dim (and conv_dim) to 2 or more; 4 to 32 are usual.",
            )
        super().__init__(layer, target, network, (count, size, size))

    def _turned(self, turn: Tensor, x: Tensor, output: Tensor) -> Tensor:
        turn = turn.to(output.dtype)
        count, size, _ = turn.shape
        if output.dim() == 4:
            grouped = output.reshape(output.shape[0], count, size, -1)
            return (turn.transpose(1, 2) @ grouped).reshape(output.shape)
        grouped = output.reshape(-1, count, size).transpose(0, 1)
        return (grouped @ turn).transpose(0, 1).reshape(output.shape)


class Boft(Rotation):
    """Rotations of small blocks one after the other, of outputs that lie ever further apart: a butterfly.

    network_dim is the largest size of a block. Blocks are even and their number is a power of two: 320, 640, 1280 and
    2560 outputs need 10 at least, 768 and 3072 need 6, 1024, 2048 and 4096 need 2.
    """

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        outputs = weight_of(layer).shape[0]
        size = butterfly_size(outputs, target.rank)
        if size is None:
            sizes = butterfly_sizes(outputs)
            hint = f"Set network_dim (and conv_dim) to {sizes[0]} or more" if sizes else "Use diag-oft for this model"
            raise LoratoryError(
                f"network_type = boft cannot train {target.path}: its {outputs} outputs do not fall into a power of "
                f"two of even blocks of {target.rank} at most.",
                hint=f"{hint}; the layers of SD 1.5, SD 2 and SDXL need 10.",
            )
        count = outputs // size
        super().__init__(layer, target, network, (count.bit_length(), count, size, size))

    def _turned(self, turn: Tensor, x: Tensor, output: Tensor) -> Tensor:
        # Every stage keeps numbers for the gradients: as many as there are outputs, or as there are weights.
        if output.numel() > _MANY_OUTPUTS * prod(self.shape):
            with torch.autocast(x.device.type, enabled=False):
                weight = turned(turn, self.weight.to(turn.dtype))
            return product(self.layer, x, weight.to(x.dtype))
        turn = turn.to(output.dtype)
        images = output.dim() == 4
        # Places last: every stage then moves whole rows.
        rows = output.flatten(2) if images else output.reshape(1, -1, output.shape[-1]).transpose(1, 2)
        change: Tensor | None = None
        for stage, blocks in enumerate(turn):
            more = _stage(blocks, rows if change is None else rows + change, stage)
            change = more if change is None else change + more
        assert change is not None
        return (change if images else change.transpose(1, 2)).reshape(output.shape)


def _stage(blocks: Tensor, rows: Tensor, stage: int) -> Tensor:
    """blocks (n, b, b) on the groups of b of the channels of rows (B, out, m) that this stage brings together."""
    count, size, _ = blocks.shape
    batch, _, places = rows.shape
    apart = (size // 2) << stage
    grouped = rows.reshape(batch, -1, 2, apart, places).transpose(2, 3).reshape(batch, count, size, places)
    return (blocks @ grouped).reshape(batch, -1, apart, 2, places).transpose(2, 3).reshape(rows.shape)
