"""Which frozen weights are stored small (fp8_base, int8_base) or in main memory (blocks_to_swap), and which not."""

import math
from collections.abc import Iterator

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.training.frozen_layers import FrozenConv2d, FrozenLinear, Storage, can_freeze, freeze

# First and last layers of the UNet, and what tells it time and size: little memory, and errors in them reach every
# layer.
_KEPT = frozenset({"conv_in", "conv_out", "time_embedding", "add_embedding", "class_embedding"})
_LEAST_WEIGHTS = 10_000


def refuse_unsuited_storage(config: Config, unet: nn.Module) -> None:
    """Raises LoratoryError where stored weights do not go with the other settings, or there are too few blocks.

    unet: the network of the run; one on the meta device will do.
    """
    training = config.training
    asked = [name for name in ("fp8_base", "fp8_base_unet", "int8_base", "blocks_to_swap") if getattr(training, name)]
    if not asked:
        return
    keys = " and ".join(f"training.{name}" for name in asked)
    network = config.network
    if network.reads_base is not None:
        kind = "dora_wd = true" if network.dora_wd else f'network_type = "{network.network_type}"'
        other = "dora_wd = false" if network.dora_wd else 'network_type = "locon"'
        raise LoratoryError(
            f"{keys}: a network of {kind} {network.reads_base} of the base model, which must be whole and on the "
            "device for that.",
            hint=f"Leave {keys} out and set gradient_checkpointing = true, or take {other}.",
        )
    if training.torch_compile:
        raise LoratoryError(
            f"{keys}: training.torch_compile compiles layers whose weights stay where they are.",
            hint=f"Leave out training.torch_compile or {keys}.",
        )
    blocks = len(swappable_blocks(unet))
    if training.blocks_to_swap > blocks:
        raise LoratoryError(
            f"training.blocks_to_swap = {training.blocks_to_swap}: the UNet has {blocks} blocks that can be swapped.",
            hint=f"Set it to {blocks} or less.",
        )


def store_weights(model: nn.Module, kind: Storage, device: torch.device, dtype: torch.dtype) -> int:
    """Stores the frozen weights of a whole UNet or text encoder, in place; returns the bytes that `device` is spared.

    Adapted layers (peft's base_layer) are stored as the others are. Trained layers, norms, embeddings, biases, the
    first and last layers of the UNet and weights of fewer than 10 000 numbers stay; so do layers that are stored
    already. The rest of the model must be brought to `device` by the caller. dtype: of the computation. Memory: one
    weight in float32. Raises LoratoryError on a device that has no such format.
    """
    if kind == "fp8" and device.type == "mps":
        raise LoratoryError("training.fp8_base: Apple's GPUs have no 8-bit floats.", hint="Use int8_base.")
    saved = 0
    for path, layer in _large_layers(model):
        if can_freeze(layer) and not layer.weight.requires_grad and path.split(".")[0] not in _KEPT:
            saved += _weights(layer) * dtype.itemsize - freeze(layer, kind, device, dtype).bytes_on(device)
    return saved


def swappable_blocks(unet: nn.Module) -> list[str]:
    """The names of the blocks that `offload_blocks` can move, the largest first, equal ones in the UNet's order.

    A block is a ResnetBlock2D or a BasicTransformerBlock. The Transformer2DModel around those is too large a unit:
    SDXL has six of ten blocks each, which hold four fifths of its UNet. SD 1.x and 2.x have 38 blocks, SDXL 87.
    """
    sizes = {
        path: sum(_weights(layer) for _, layer in _large_layers(block))
        for path, block in unet.named_modules()
        if isinstance(block, ResnetBlock2D | BasicTransformerBlock)
    }
    return sorted(sizes, key=lambda path: -sizes[path])


def offload_blocks(unet: nn.Module, count: int, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Keeps the frozen weights of the `count` largest blocks in main memory, and returns the names of those blocks.

    Each weight is copied to `device` for its forward and for its backward pass. Weights that `store_weights` has made
    8-bit are moved as they are, which halves what is copied. Raises LoratoryError when there are fewer blocks.
    """
    names = swappable_blocks(unet)
    if count > len(names):
        raise LoratoryError(
            f"training.blocks_to_swap = {count}: the UNet has {len(names)} blocks that can be swapped.",
            hint=f"Set it to {len(names)} or less.",
        )
    for name in names[:count]:
        for _, layer in _large_layers(unet.get_submodule(name)):
            if isinstance(layer, FrozenLinear | FrozenConv2d):
                layer.stored = layer.stored.in_main_memory(device)
            elif can_freeze(layer) and not layer.weight.requires_grad:
                freeze(layer, "cpu", device, dtype)
    return names[:count]


def release(model: nn.Module, device: torch.device) -> None:
    """Moves a model to main memory, stored weights included; it still computes, where its inputs are.

    device: where it lay.
    """
    model.to("cpu")
    for layer in model.modules():
        if isinstance(layer, FrozenLinear | FrozenConv2d):
            layer.stored = layer.stored.in_main_memory(device)


def _large_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and _weights(layer) >= _LEAST_WEIGHTS:
            yield path, layer


def _weights(layer: nn.Linear | nn.Conv2d) -> int:
    # From the layer's description: to read a stored weight means to fetch it.
    if isinstance(layer, nn.Linear):
        return layer.out_features * layer.in_features
    return layer.out_channels * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
