"""Linear layers and convolutions whose frozen weight is kept small, or away from the device, between its uses.

Autograd would keep each weight that was fetched for the forward pass until the backward pass, which is all of them at
once: the two functions here keep none and fetch it again. The storage is our own rather than torchao's because it has
to work on every device, the CPU included, with every torch that the program runs on.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

Storage = Literal["fp8", "int8", "cpu"]
"""fp8: float8_e4m3fn; int8: symmetric; both with a float32 scale per output channel. cpu: whole, in main memory."""

_FORMATS = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}


@dataclass(frozen=True)
class StoredWeight:
    """The weight of a frozen layer, at rest. It is no parameter, so `Module.to` neither moves nor casts it.

    values: the shape of the weight, in main memory (pinned for CUDA) or on the device. scale: float32, (out, 1, ...),
    on the device; None where the values are the weight itself.
    """

    values: Tensor
    scale: Tensor | None

    def fetch(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The weight for one use. It may be the stored tensor itself, so it must not be changed.

        A scaled weight is rounded to `dtype` once, as a float32 weight would be.
        """
        # In two calls: one call would convert on the host first and then copy from memory that is not pinned. The copy
        # is ordered on the current stream, as its use is, and its source never changes, so nothing has to wait for it.
        weight = self.values.to(device, non_blocking=True).to(dtype)
        # A stored format with a scale is never the dtype asked for, so this is a fresh tensor.
        return weight if self.scale is None else weight.mul_(self.scale.to(device))

    def in_main_memory(self, device: torch.device) -> "StoredWeight":
        """The same weight with its values in main memory, ready to be copied to `device`."""
        values = self.values.to("cpu")
        return replace(self, values=values.pin_memory() if device.type == "cuda" else values)

    def bytes_on(self, device: torch.device) -> int:
        """Memory it takes there."""
        tensors = [tensor for tensor in (self.values, self.scale) if tensor is not None and _same(tensor, device)]
        return sum(tensor.nbytes for tensor in tensors)


def _same(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)


@torch.no_grad()
def stored(weight: Tensor, kind: Storage, device: torch.device, dtype: torch.dtype) -> StoredWeight:
    """`weight` (out, in, ...) in the form `kind`, to be computed with on `device` in `dtype`.

    The 8-bit forms divide each output channel by its largest magnitude over that of the format (448 or 127), and
    round to the nearest, ties to even: the same weight gives the same bytes every time. Relative error of a normally
    distributed weight (root mean square): fp8 2.7 %, int8 about 1 %.
    """
    if kind == "cpu":
        return StoredWeight(weight.detach().to("cpu", dtype), None).in_main_memory(device)
    form, largest = _FORMATS[kind]
    exact = weight.detach().to(device).float()
    scale = exact.abs().amax(dim=tuple(range(1, exact.dim())), keepdim=True) / largest
    # Channels of zeros have the scale 1; so has one so small that its scale would be 0 or lose digits.
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    values = (exact / scale).clamp_(-largest, largest)
    return StoredWeight((values.round_() if kind == "int8" else values).to(form), scale)


class _Linear(torch.autograd.Function):
    """F.linear with a frozen weight and bias; x is in the compute dtype already.

    That cast happens outside, where autograd undoes it. So autocast finds nothing left to cast in forward; in backward
    it does what it would do to the plain layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.fetch(x.device, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] # torch types it for any number
        weight = ctx.weight.fetch(grad.device, grad.dtype)
        # One flat product, as autograd has it for the plain layer: the same roundings.
        flat = grad.reshape(-1, weight.shape[0]) @ weight
        return flat.reshape(*grad.shape[:-1], weight.shape[1]), None, None


class _Geometry(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class _Conv2d(torch.autograd.Function):
    """F.conv2d with a frozen weight and bias; see `_Linear`. Of the input it keeps the shape alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: StoredWeight, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.weight, ctx.geometry, ctx.shape = weight, geometry, x.shape
        return F.conv2d(x, weight.fetch(x.device, x.dtype), bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] # torch types it for any number
        weight = ctx.weight.fetch(grad.device, grad.dtype)
        gradient = conv2d_input(ctx.shape, weight, grad, *ctx.geometry)
        return gradient, None, None, None


def _in_compute_dtype(x: Tensor) -> Tensor:
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _like(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


class _Stored:
    stored: StoredWeight
    home: tuple[torch.device, torch.dtype]

    @property
    def weight(self) -> Tensor:
        """The weight in the compute dtype, for reading (peft asks for its dtype): what is written to it may be lost."""
        return self.stored.fetch(*self.home)


class FrozenLinear(_Stored, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride] # the weight is read only
    """An nn.Linear whose weight is stored. Made from a plain one by `freeze`."""

    def forward(self, input: Tensor) -> Tensor:
        x = _in_compute_dtype(input)
        return _Linear.apply(x, self.stored, _like(self.bias, x))


class FrozenConv2d(_Stored, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride] # the weight is read only
    """An nn.Conv2d whose weight is stored. Made from a plain one by `freeze`."""

    def forward(self, input: Tensor) -> Tensor:
        x = _in_compute_dtype(input)
        assert not isinstance(self.padding, str)
        geometry = _Geometry(self.stride, self.padding, self.dilation, self.groups)
        return _Conv2d.apply(x, self.stored, _like(self.bias, x), geometry)


def can_freeze(layer: nn.Module) -> bool:
    """Whether `freeze` knows how: plain linear layers, and convolutions that pad with a number of zeros."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def freeze(layer: nn.Linear | nn.Conv2d, kind: Storage, device: torch.device, dtype: torch.dtype) -> StoredWeight:
    """Stores the weight of a plain layer for which `can_freeze`, and returns it at rest.

    In place, by a change of class: whoever holds or has hooked the layer keeps doing so.
    """
    weight = stored(layer.weight, kind, device, dtype)
    del layer.weight
    frozen: Any = layer
    frozen.__class__ = FrozenLinear if isinstance(layer, nn.Linear) else FrozenConv2d
    frozen.stored, frozen.home = weight, (device, dtype)
    return weight
