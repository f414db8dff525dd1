"""Compiling the blocks of the UNet (`training.torch_compile`)."""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from loratory.config.schema import TrainingSettings
from loratory.errors import LoratoryError

# A kind of block is compiled anew for each combination of what it has to know: size of the bucket (later ones share
# one), training or not, adapter on or off, gradients or not. Beyond the limit it runs uncompiled.
_VARIANTS = 64


def refuse_unknown_compiler(training: TrainingSettings) -> None:
    """Raises LoratoryError for a `dynamo_backend` that this PyTorch does not have."""
    if not training.torch_compile:
        return
    known: list[str] = torch._dynamo.list_backends(None)  # pyright: ignore[reportPrivateUsage] - PyTorch has no public name for it
    if training.dynamo_backend not in known:
        raise LoratoryError(
            f'training.dynamo_backend = "{training.dynamo_backend}" is not a compiler of this PyTorch.',
            hint=f"It has {', '.join(sorted(known))}.",
        )


def compile_blocks(unet: nn.Module, backend: str) -> int:
    """Has the repeated blocks of the UNet compiled when they first run, in place; returns how many there are.

    Blocks one by one rather than the whole: alike ones share a result, and what lies between them (checkpointing,
    bucket sizes) stays as it is. The adapter must be in its place.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)  # pyright: ignore[reportPrivateUsage] - as above
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock | ResnetBlock2D)]
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)
