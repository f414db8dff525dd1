"""What every form of network has in common: how it is trained in one layer, and what files hold of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.adapters.deltas import Delta, delta, needs_base
from loratory.adapters.precision import widest
from loratory.adapters.roles import ALPHA
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

Tensors = Mapping[str, Tensor]


class Form(ABC):
    """The network of one layer, without its tensors: those are passed to every call, by name.

    layer: the base layer, frozen and not changed. shape: of its weight. scale: on the change, alpha / rank.
    """

    def __init__(self, layer: nn.Module, target: Target, network: NetworkSettings) -> None:
        self.layer = layer
        self.target = target
        self.network = network
        self.shape: tuple[int, ...] = tuple(self.weight.shape)
        self.scale = target.scale

    @property
    def weight(self) -> Tensor:
        """Of the base layer; one that is stored elsewhere is fetched for each use."""
        return weight_of(self.layer)

    @property
    def bias(self) -> Tensor | None:
        """Of the base layer."""
        bias: Any = self.layer.bias
        return bias

    # -- files

    @abstractmethod
    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """What is trained, by name, float32 on the CPU; with it the layer computes what it did before."""

    @abstractmethod
    def to_file(self, tensors: Tensors) -> dict[str, Tensor]:
        """What a file holds, by role, alpha included where the kind has one; differentiable.

        It means what training computes at strength 1, outside of training mode.
        """

    @abstractmethod
    def from_file(self, state: Tensors) -> dict[str, Tensor]:
        """Tensors by name, float32, with which the layer computes what `state`, by role, means, whatever its alpha.

        Raises LoratoryError for other roles or shapes than this network has.
        """

    def meaning(self, tensors: Tensors) -> Delta:
        """What a file of these tensors changes in the layer; differentiable."""
        state = self.to_file(tensors)
        # A base weight that is stored elsewhere takes long to fetch, and often its shape is all that is asked for.
        return delta(state, self.weight if needs_base(state) else torch.empty(self.shape, device="meta"))

    # -- training

    @abstractmethod
    def forward(self, tensors: Tensors, x: Tensor, strength: float, is_training: bool) -> Tensor:
        """The layer's output with the network in it; 1: as trained, 0: the base layer, others on the line between."""

    def without_bias(self, output: Tensor) -> Tensor:
        """An output of the base layer less its bias: what its weight alone gives."""
        return output if self.bias is None else output - on_channels(self.layer, self.bias.to(output.dtype))

    # -- scale_weight_norms

    @torch.no_grad()
    def shrink(self, tensors: Tensors, limit: float) -> Tensor:
        """Brings the norm of the change to `limit` where it is above, in place; what it was, on the device.

        The tensors that the change is a product of share the ratio evenly; nothing waits for the device.
        """
        norm = self.norm(tensors)
        ratio = (limit / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
        names, degree = self.factors(tensors)
        share = ratio.pow(1.0 / degree)
        for name in names:
            tensors[name].mul_(share.to(tensors[name].dtype))
        return norm

    def norm(self, tensors: Tensors) -> Tensor:
        """The Frobenius norm of the change of the weight, 0-dimensional, as wide as floats of the device are."""
        change = self.meaning(tensors).weight
        return torch.linalg.vector_norm(change, dtype=widest(change.device))

    @abstractmethod
    def factors(self, tensors: Tensors) -> tuple[Sequence[str], int]:
        """The tensors to scale so that the change is scaled, and its degree in them: all times c, change times c^n."""


class AddedForm(Form):
    """A network whose change is a product of its own, added to the base output.

    In a weight of 16 bits a small change would be lost in the rounding.
    """

    def forward(self, tensors: Tensors, x: Tensor, strength: float, is_training: bool) -> Tensor:
        base_output = self.layer(x)
        change = self.change(tensors, x, base_output, is_training)
        return base_output + (change if strength == 1.0 else change * strength)

    @abstractmethod
    def change(self, tensors: Tensors, x: Tensor, base_output: Tensor, is_training: bool) -> Tensor:
        """What is added to the base output at strength 1; with dropouts in training mode."""


# -- what the forms use


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a base layer: not always a parameter."""
    weight: Any = layer.weight
    return weight


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that products with x are computed in: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def product(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's own product or convolution with another weight of its shape, without its bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight, bias)


def narrow(x: Tensor, weight: Tensor) -> Tensor:
    """weight (p, q) on the q channels of x: the last axis, or the second of images."""
    return F.conv2d(x, weight[..., None, None]) if x.dim() == 4 else F.linear(x, weight)


def on_channels(layer: nn.Module, values: Tensor) -> Tensor:
    """(channels,) in a shape that spreads over the outputs or inputs of the layer."""
    return values.reshape(-1, 1, 1) if isinstance(layer, nn.Conv2d) else values


def keep_outputs(change: Tensor, layer: nn.Module, network: NetworkSettings) -> Tensor:
    """rank_dropout of the kinds that have no ranks to drop: whole output channels of the change, one draw a call."""
    probability = network.rank_dropout
    channels = change.shape[1 if change.dim() == 4 else -1]
    keep = (torch.rand(channels, device=change.device) >= probability).to(change.dtype)
    if network.rank_dropout_scale:
        keep = keep / (1.0 - probability)
    return change * on_channels(layer, keep)


def kaiming(generator: torch.Generator, *shape: int) -> Tensor:
    """Kaiming uniform with a = sqrt 5, as torch initialises linear layers and convolutions."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def alpha_tensor(alpha: float) -> Tensor:
    """Alpha as files hold it."""
    return torch.tensor(alpha, dtype=torch.float32)


def taken(state: Tensors, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of a file by role, float32, in these shapes; alpha is left out.

    Sizes of 1 do not matter: (r, in, 1, 1) and (r, in) are the same weights. Raises LoratoryError for roles that are
    missing or not among these, and for other shapes.
    """
    differing = (state.keys() - {ALPHA}) ^ shapes.keys()
    if differing:
        role = min(differing)
        what = "is no part of this network" if role in state else "is missing"
        raise LoratoryError(
            f"{role} {what}.", hint="The settings in [network] must be those the file was trained with."
        )
    for role, shape in shapes.items():
        if not is_alike(state[role].shape, shape):
            raise LoratoryError(
                f"{role} has the shape {list(state[role].shape)}; this network needs {list(shape)}.",
                hint="network_dim and conv_dim must be those of the file; `loratory lora inspect` shows them.",
            )
    return {role: state[role].to(torch.float32).reshape(tuple(shape)) for role, shape in shapes.items()}


def is_alike(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are the same but for sizes of 1."""
    return [size for size in shape if size != 1] == [size for size in other if size != 1]


def rescaled(values: dict[str, Tensor], state: Tensors, rank: int, scale: float, *roles: str) -> dict[str, Tensor]:
    """Values with `roles` multiplied by the ratio of the scales, where the alpha of the file is another than ours."""
    file_scale = (float(state[ALPHA]) or rank) / rank if ALPHA in state else 1.0
    if file_scale == scale:
        return values
    return values | {role: values[role] * (file_scale / scale) for role in roles}
