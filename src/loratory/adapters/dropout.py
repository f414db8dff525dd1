"""The three dropouts of kohya networks, as forward hooks on the down and up modules of an adapter.

They act only while the hooked module is in training mode, and draw from torch's global generators, so gradient
checkpointing replays them and a caller that seeds those generators per step makes them reproducible.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mask_ranks(down_output: Tensor, probability: float) -> Tensor:
    """Drops ranks of whole samples and scales the others by 1 / (1 - probability).

    down_output: (B, r), (B, ..., r) or, from a convolution, (B, r, H, W). One mask of shape (B, r) per call, so that
    a rank is dropped at every token or pixel of a sample at once, as sd-scripts' rank_dropout does.
    """
    samples = down_output.shape[0]
    is_image = down_output.dim() == 4
    rank = down_output.shape[1 if is_image else -1]
    keep = torch.rand((samples, rank), device=down_output.device) >= probability
    shape = (samples, rank, 1, 1) if is_image else (samples, *[1] * (down_output.dim() - 2), rank)
    return down_output * (keep.view(shape).to(down_output.dtype) / (1.0 - probability))


def add_dropouts(
    down: nn.Module, up: nn.Module, *, network_dropout: float, rank_dropout: float, module_dropout: float
) -> None:
    """Hooks the dropouts with a probability above 0 onto one adapter module.

    network_dropout: elementwise, in rank space, after down. rank_dropout: see `mask_ranks`. module_dropout: the whole
    contribution of the module is left out of this forward pass, and its parameters get gradients of zero from it.
    """
    if network_dropout > 0 or rank_dropout > 0:

        def drop_in_rank_space(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not module.training:
                return output
            if network_dropout > 0:
                output = F.dropout(output, network_dropout)
            if rank_dropout > 0:
                output = mask_ranks(output, rank_dropout)
            return output

        down.register_forward_hook(drop_in_rank_space)

    if module_dropout > 0:

        def drop_module(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # Drawn on the CPU: deciding on the GPU would make the host wait for it at every module.
            if module.training and float(torch.rand(1)) < module_dropout:
                return output * 0  # not zeros: a pass that skips every module must still have a graph to go back
            return output

        up.register_forward_hook(drop_module)
