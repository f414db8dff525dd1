"""What the tensors of one module in an adapter file mean: the change of the base weight, for every kind of network.

This is the one definition. Training computes the same change in faster ways, and is tested against this; merging,
baking and measuring use it as it is. Formulas: LyCORIS 4.1 (its papers and modules) and sd-scripts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_MID, LORA_UP, NetworkKind, parts_of
from loratory.errors import LoratoryError

Tensors = Mapping[str, Tensor]
_NUMBERS = (ALPHA, "on_input")


class Delta(NamedTuple):
    """What is added: to the weight, in its shape; to the bias, or None where that stays."""

    weight: Tensor
    bias: Tensor | None


def delta(tensors: Tensors, weight: Tensor) -> Delta:
    """The change that one module of a file makes at strength 1.

    tensors: by role, the part of their name after the module's key. weight: of the base layer, (out, in), (out, in, k,
    k) or, of a norm, (channels,); where `needs_base` is false its shape alone is read, so it may be on the meta device.
    Computed where the tensors are, in float32, or in float64 where one of them is; differentiable, but for alpha.
    Without alpha the scale is 1. Raises LoratoryError, naming the role, for roles of no known kind and shapes that do
    not fit the weight.
    """
    kind = complete_kind(tensors)
    for role in _NUMBERS:
        if role in tensors and tensors[role].numel() != 1:
            raise LoratoryError(f"{role} has the shape {list(tensors[role].shape)}; it must be one number.")
    values = [tensor for role, tensor in tensors.items() if role not in _NUMBERS]
    device = values[0].device
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in values) else torch.float32
    # Numbers stay where they are: read from main memory they cost nothing, and nobody waits for a GPU.
    given = {role: tensor if role in _NUMBERS else tensor.to(device, dtype) for role, tensor in tensors.items()}
    base = weight.to(device, dtype) if needs_base(tensors) else weight
    with torch.autocast(device.type, enabled=False):
        change = _CHANGES[kind.name](given, base)
        if DORA_SCALE in given:
            change = Delta(_decomposed(change.weight, given[DORA_SCALE], base), change.bias)
    return change


def needs_base(roles: Collection[str]) -> bool:
    """Whether the change depends on the values of the base weight: DoRA, GLoRA, iA3 and rotations."""
    return not {DORA_SCALE, "a1.weight", "on_input", "oft_blocks"}.isdisjoint(roles)


def complete_kind(roles: Collection[str]) -> NetworkKind:
    """The kind of network of one module; raises LoratoryError where it is of no kind, incomplete, or has more."""
    kind, missing, unknown = parts_of(roles)
    if kind is None:
        raise LoratoryError(f"Tensors of no known kind of network: {', '.join(unknown) or 'none at all'}.")
    if missing:
        raise LoratoryError(f"A module of the kind {kind.name} has no {', no '.join(missing)}.")
    if unknown:
        raise LoratoryError(f"A module of the kind {kind.name} has the unknown tensor {unknown[0]}.")
    return kind


# -- shapes


def _shaped(tensors: Tensors, role: str, *shapes: Sequence[int]) -> Tensor:
    """The tensor of a role in the first of `shapes`, which it must have but for sizes of 1 at the end."""
    tensor = tensors[role]
    for shape in shapes:
        if _bare(tensor.shape) == _bare(shape):
            return tensor.reshape(*shape)
    expected = " or ".join(str(list(shape)) for shape in shapes)
    raise LoratoryError(f"{role} has the shape {list(tensor.shape)}; it must be {expected} to fit the base weight.")


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    while sizes and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _size(tensors: Tensors, role: str, axis: int) -> int:
    """A size that the tensor itself decides, such as its rank."""
    tensor = tensors[role]
    if tensor.dim() <= axis:
        raise LoratoryError(f"{role} has the shape {list(tensor.shape)}; it must have {axis + 1} dimensions or more.")
    if not tensor.shape[axis]:
        raise LoratoryError(f"{role} has the shape {list(tensor.shape)}: it is empty.")
    return tensor.shape[axis]


def _layer_shape(weight: Tensor, what: str) -> tuple[int, int, tuple[int, ...]]:
    """Outputs, inputs and kernel of a linear layer or convolution."""
    if weight.dim() < 2:
        raise LoratoryError(f"{what} fits linear layers and convolutions, not a weight of shape {list(weight.shape)}.")
    return weight.shape[0], weight.shape[1], tuple(weight.shape[2:])


def _scale(tensors: Tensors, rank: int) -> float:
    return float(tensors[ALPHA]) / rank if ALPHA in tensors else 1.0


# -- the kinds


def tucker(core: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """core (p, q, k, ...) with its first axis led through outputs (p, out), its second through inputs (q, in)."""
    return torch.einsum("pq...,po,qi->oi...", core, outputs, inputs)


def _product(tensors: Tensors, up_role: str, down_role: str, core_role: str, shape: Sequence[int]) -> Tensor:
    """up @ down of low rank in the shape of a weight; where there is a core between them, with the kernel in it."""
    outputs, inputs, *kernel = shape
    rank = _size(tensors, down_role, 0)
    if core_role in tensors:
        inner = _size(tensors, up_role, 1)
        core = _shaped(tensors, core_role, (inner, rank, *kernel))
        up = _shaped(tensors, up_role, (outputs, inner))
        return tucker(core, up.T, _shaped(tensors, down_role, (rank, inputs)))
    up, down = _shaped(tensors, up_role, (outputs, rank)), _shaped(tensors, down_role, (rank, inputs, *kernel))
    return (up @ down.flatten(1)).reshape(*shape)


def _low_rank(tensors: Tensors, weight: Tensor) -> Delta:
    _layer_shape(weight, "A LoRA")
    change = _product(tensors, LORA_UP, LORA_DOWN, LORA_MID, weight.shape)
    return Delta(change * _scale(tensors, _size(tensors, LORA_DOWN, 0)), None)


def _hadamard(tensors: Tensors, weight: Tensor) -> Delta:
    outputs, inputs, kernel = _layer_shape(weight, "A LoHa")
    rank = _size(tensors, "hada_w1_b", 0)

    def half(number: int) -> Tensor:
        left, right, core = f"hada_w{number}_a", f"hada_w{number}_b", f"hada_t{number}"
        own = _size(tensors, right, 0)
        if core in tensors:
            middle = _shaped(tensors, core, (_size(tensors, left, 0), own, *kernel))
            return tucker(
                middle, _shaped(tensors, left, (middle.shape[0], outputs)), _shaped(tensors, right, (own, inputs))
            )
        flat = _shaped(tensors, left, (outputs, own)) @ _shaped(tensors, right, (own, inputs * prod(kernel)))
        return flat.reshape(weight.shape)

    return Delta(half(1) * half(2) * _scale(tensors, rank), None)


def _kronecker(tensors: Tensors, weight: Tensor) -> Delta:
    """kron(w1, w2): w1 is (a, c), w2 is (out / a, in / c, *kernel); each whole or the product of two."""
    outputs, inputs, kernel = _layer_shape(weight, "A LoKr")
    scale = 1.0
    if "lokr_w1" in tensors:
        first_role = "lokr_w1"
        rows, columns = _size(tensors, "lokr_w1", 0), _size(tensors, "lokr_w1", 1)
        first = _shaped(tensors, "lokr_w1", (rows, columns))
    else:
        first_role = "lokr_w1_a"
        rank, columns = _size(tensors, "lokr_w1_b", 0), _size(tensors, "lokr_w1_b", 1)
        rows = _size(tensors, "lokr_w1_a", 0)
        first = _shaped(tensors, "lokr_w1_a", (rows, rank)) @ _shaped(tensors, "lokr_w1_b", (rank, columns))
        scale = _scale(tensors, rank)
    if outputs % rows or inputs % columns:
        raise LoratoryError(
            f"{first_role} makes {rows} x {columns} blocks, which do not divide a weight of shape {list(weight.shape)}."
        )
    left, right = outputs // rows, inputs // columns
    if "lokr_w2" in tensors:
        second = _shaped(tensors, "lokr_w2", (left, right, *kernel))
    else:
        rank = _size(tensors, "lokr_w2_b", 0)
        scale = _scale(tensors, rank)
        if "lokr_t2" in tensors:
            core = _shaped(tensors, "lokr_t2", (_size(tensors, "lokr_w2_a", 0), rank, *kernel))
            second = tucker(
                core,
                _shaped(tensors, "lokr_w2_a", (core.shape[0], left)),
                _shaped(tensors, "lokr_w2_b", (rank, right)),
            )
        else:
            wide = _shaped(tensors, "lokr_w2_b", (rank, right * prod(kernel)), (rank, right, *kernel)).flatten(1)
            second = (_shaped(tensors, "lokr_w2_a", (left, rank)) @ wide).reshape(left, right, *kernel)
    spread = first.reshape(rows, columns, *[1] * len(kernel))
    return Delta(torch.kron(spread, second.contiguous()) * scale, None)


def _generalized(tensors: Tensors, weight: Tensor) -> Delta:
    """GLoRA: W a1 a2 + b1 b2, where a1 and a2 are 1x1 and act on the inputs of every place of the kernel."""
    _, inputs, _ = _layer_shape(weight, "A GLoRA")
    rank = _size(tensors, "a2.weight", 0)
    first, second = _shaped(tensors, "a1.weight", (inputs, rank)), _shaped(tensors, "a2.weight", (rank, inputs))
    through = torch.einsum("oi...,ir,rj->oj...", weight, first, second)
    beside = _product(tensors, "b1.weight", "b2.weight", "bm.weight", weight.shape)
    return Delta((through + beside) * _scale(tensors, rank), None)


def _full(tensors: Tensors, weight: Tensor) -> Delta:
    bias = _shaped(tensors, "diff_b", weight.shape[:1]) if "diff_b" in tensors else None
    return Delta(_shaped(tensors, "diff", weight.shape), bias)


def _norm(tensors: Tensors, weight: Tensor) -> Delta:
    bias = _shaped(tensors, "b_norm", weight.shape) if "b_norm" in tensors else None
    return Delta(_shaped(tensors, "w_norm", weight.shape), bias)


def _scaled_channels(tensors: Tensors, weight: Tensor) -> Delta:
    """iA3: every row of W, or where on_input is set every column, times a number. The bias stays as it is."""
    outputs, inputs, kernel = _layer_shape(weight, "An iA3")
    on_input = bool(tensors["on_input"].reshape(-1)[0] != 0)
    channels = inputs if on_input else outputs
    numbers = _shaped(tensors, "weight", (channels,), (1, channels)).reshape(channels)
    shape = (1, inputs) if on_input else (outputs, 1)
    return Delta(weight * numbers.reshape(*shape, *[1] * len(kernel)), None)


# -- rotations


def turns(blocks: Tensor, limit: float) -> Tensor:
    """R - I of the rotations that blocks (..., n, n) stand for, by the Cayley transform of Q = blocks - blocks^T.

    R = (I + Q)(I - Q)^-1, so R - I = 2 (I - Q)^-1 Q: computed so, it is exactly 0 for Q = 0 and loses no digits near
    it. limit: Q is scaled down where its norm over all blocks is larger; 0 for no limit. I - Q can always be inverted,
    which is why nobody waits for the device to report whether it could.
    """
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        skew = skew * (limit / (torch.linalg.vector_norm(skew) + 1e-8)).clamp(max=1.0)
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve_ex(identity - skew, 2.0 * skew)[0]


def turned(turn: Tensor, rows: Tensor) -> Tensor:
    """What rotations add to rows (out, ...): turn (n, b, b) block by block, or (stages, n, b, b) as a butterfly.

    Blocks: R^T on each. Butterfly: R of one stage after the other, on rows that lie further apart from stage to stage.
    """
    flat = rows.reshape(rows.shape[0], -1)
    if turn.dim() == 3:
        change = turn.transpose(1, 2) @ flat.reshape(turn.shape[0], turn.shape[1], -1)
        return change.reshape(rows.shape)
    change = torch.zeros_like(flat)
    for stage, blocks in enumerate(turn):
        change = change + butterfly(blocks, flat + change, stage)
    return change.reshape(rows.shape)


def butterfly(blocks: Tensor, rows: Tensor, stage: int) -> Tensor:
    """blocks (n, b, b) on the groups of b rows of (out, m) that this stage brings together."""
    count, size, _ = blocks.shape
    apart = (size // 2) << stage
    grouped = rows.reshape(-1, 2, apart, rows.shape[1]).transpose(1, 2).reshape(count, size, -1)
    return (blocks @ grouped).reshape(-1, apart, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _rotated(tensors: Tensors, weight: Tensor) -> Delta:
    """Diag-OFT (3-dimensional blocks) and BOFT (4-dimensional): rescale * (R W) - W."""
    outputs, _, kernel = _layer_shape(weight, "A rotation")
    blocks = tensors["oft_blocks"]
    count, size = _size(tensors, "oft_blocks", -3 % max(blocks.dim(), 3)), blocks.shape[-1]
    stages = blocks.shape[0] if blocks.dim() == 4 else 0
    # The last stage turns groups of as many rows as this; a butterfly takes its rows in pairs.
    reach = size << max(stages - 1, 0)
    fits = blocks.dim() in (3, 4) and blocks.shape[-2] == size and count * size == outputs
    if not fits or (stages and (size % 2 or outputs % reach)):
        raise LoratoryError(
            f"oft_blocks has the shape {list(blocks.shape)}, which makes no rotation of {outputs} outputs."
        )
    limit = float(tensors[ALPHA]) * outputs if ALPHA in tensors else 0.0
    change = turned(turns(blocks, limit), weight)
    if "rescale" in tensors:
        factor = _shaped(tensors, "rescale", (outputs,)).reshape(outputs, 1, *[1] * len(kernel))
        change = factor * change + (factor - 1) * weight
    return Delta(change, None)


# -- DoRA


def magnitudes(weight: Tensor, per_output: bool) -> Tensor:
    """Norms of the rows of (out, in, ...), as (out, 1, ...), or of what belongs to each input, as (1, in, ...)."""
    axes = [axis for axis in range(weight.dim()) if axis != (0 if per_output else 1)]
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True)


def stretch(magnitude: Tensor, norms: Tensor) -> Tensor:
    """magnitude / norms, where a norm of 0 (nothing there, so the magnitude is 0 too) gives 0."""
    return magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def _decomposed(change: Tensor, magnitude: Tensor, weight: Tensor) -> Tensor:
    """magnitude * (W + D) / |W + D| - W: norms per output where the magnitude is (out, 1, ...), else per input."""
    ones = [1] * (weight.dim() - 2)
    rows, columns = (weight.shape[0], 1, *ones), (1, weight.shape[1], *ones)
    per_output = magnitude.dim() < 2 or magnitude.shape[0] == weight.shape[0]
    shape = rows if per_output else columns
    if magnitude.numel() != prod(shape):
        raise LoratoryError(
            f"{DORA_SCALE} has the shape {list(magnitude.shape)}; it must be {list(rows)} or {list(columns)}."
        )
    factor = stretch(magnitude.reshape(shape), magnitudes(weight + change, per_output))
    return (factor - 1) * weight + factor * change


_CHANGES: dict[str, Callable[[Tensors, Tensor], Delta]] = {
    "lora": _low_rank,
    "loha": _hadamard,
    "lokr": _kronecker,
    "glora": _generalized,
    "oft": _rotated,
    "full": _full,
    "norm": _norm,
    "ia3": _scaled_channels,
}
