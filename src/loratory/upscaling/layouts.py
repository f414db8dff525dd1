"""Which network a set of weights belongs to, by the names and shapes of its tensors.

Three ways of naming RRDBNet's parameters are in use: that of the first ESRGAN ("model.1.sub.0.RDB1.conv1.0.weight";
4x-UltraSharp and most shared models), that of its second edition ("RRDB_trunk.0.RDB1.conv1.weight") and Real-ESRGAN's.
"""

import math
import re
from collections.abc import Mapping

import torch

from loratory.upscaling.networks import CompactNet, RRDBNet

_SECOND_EDITION = {"trunk_conv": "conv_body", "HRconv": "conv_hr", "conv_first": "conv_first", "conv_last": "conv_last"}
_OF_A_BLOCK = re.compile(r"(?:model\.1\.sub|RRDB_trunk)\.(\d+)\.RDB([123])\.conv([1-5])(?:\.0)?")
_RRDBNET = re.compile(r"conv_(first|body|hr|last|up\d)|body\.\d+\.rdb[123]\.conv[1-5]")
_COMPACT = re.compile(r"body\.\d+")


class Misshapen(ValueError):
    """The names are those of a network that is known, the shapes are not; says what is wrong in a clause."""


def network_of(tensors: Mapping[str, torch.Tensor]) -> tuple[RRDBNet | CompactNet, dict[str, torch.Tensor]] | None:
    """The network that the weights belong to, its parameters without values, and the weights under its names.

    None where the names are of no network that is known here. Raises Misshapen.
    """
    named = _in_own_names(tensors)
    layers = {name.rpartition(".")[0] for name in named}
    with torch.device("meta"):
        if "conv_body" in layers and all(_RRDBNET.fullmatch(layer) for layer in layers):
            return _rrdbnet(named, layers), named
        if "body.0" in layers and all(_COMPACT.fullmatch(layer) for layer in layers):
            return _compact(named, layers), named
    return None


def _in_own_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layers = {name.rpartition(".")[0] for name in tensors}
    renamed = {layer: _own_name(layer) for layer in layers}
    # The first edition numbers the layers: those that repeat px or activate count too, but have no weights.
    tail = sorted(int(layer.removeprefix("model.")) for layer in layers if re.fullmatch(r"model\.[1-9]\d*", layer))
    if "model.0" in layers and len(tail) >= 2:
        *doubling, before_last, last = tail
        renamed |= {"model.0": "conv_first", f"model.{before_last}": "conv_hr", f"model.{last}": "conv_last"}
        renamed |= {f"model.{index}": f"conv_up{number}" for number, index in enumerate(doubling, 1)}
    return {f"{renamed[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor for name, tensor in tensors.items()}


def _own_name(layer: str) -> str:
    if found := _OF_A_BLOCK.fullmatch(layer):
        return "body.{}.rdb{}.conv{}".format(*found.groups())
    if re.fullmatch(r"model\.1\.sub\.\d+", layer):
        return "conv_body"
    if found := re.fullmatch(r"upconv(\d)", layer):
        return f"conv_up{found[1]}"
    return _SECOND_EDITION.get(layer, layer)


def _rrdbnet(named: Mapping[str, torch.Tensor], layers: set[str]) -> RRDBNet:
    features, channels = _channels(named, "conv_first")
    made, _ = _channels(named, "conv_last")
    squares = {3: 1, 12: 2, 48: 4}
    if channels not in squares or made != 3:
        raise _not_in_colour(channels, made)
    return RRDBNet(
        blocks=len({layer.split(".")[1] for layer in layers if layer.startswith("body.")}),
        features=features,
        growth=_channels(named, "body.0.rdb1.conv1")[0],
        doublings=sum(layer.startswith("conv_up") for layer in layers),
        unshuffle=squares[channels],
    )


def _compact(named: Mapping[str, torch.Tensor], layers: set[str]) -> CompactNet:
    features, channels = _channels(named, "body.0")
    last = max(int(layer.removeprefix("body.")) for layer in layers)
    made, _ = _channels(named, f"body.{last}")
    scale = math.isqrt(made // 3)
    if channels != 3 or made != 3 * scale**2:
        raise _not_in_colour(channels, made)
    return CompactNet(convolutions=last // 2 - 1, features=features, scale=scale)


def _channels(named: Mapping[str, torch.Tensor], layer: str) -> tuple[int, int]:
    """How many a convolution makes and reads."""
    kernel = named.get(f"{layer}.weight")
    if kernel is None or kernel.dim() != 4:
        raise Misshapen(f"{layer}.weight is missing or misshapen")
    return kernel.shape[0], kernel.shape[1]


def _not_in_colour(read: int, made: int) -> Misshapen:
    return Misshapen(f"it reads {read} and makes {made} channels, which does not fit pictures in red, green and blue")
