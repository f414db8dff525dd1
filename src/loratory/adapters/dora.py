"""DoRA (arXiv 2402.09353): weight norms in float32, and strength as loaders apply it.

peft computes the norm of base + change in the precision of the activations. Rounded to bfloat16 it is off by up to
0.2 % per output channel, so the model would change before anything is learned. Here it is always float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def output_norms(weight: Tensor) -> Tensor:
    """The norm of each output channel's weights: (out, in) -> (out,); (out, in, k, k) -> (1, out, 1, 1). float32."""
    norms = torch.linalg.vector_norm(weight.float().flatten(1), dim=1)
    return norms if weight.dim() == 2 else norms.view(1, -1, *[1] * (weight.dim() - 2))


def _change(lora_A: Any, lora_B: Any, adapter_name: str | None = None) -> Tensor:
    """up @ down, flat, (out, in * k * k), without gradient: the paper treats the norm as a constant."""
    with torch.no_grad(), torch.autocast(lora_A.weight.device.type, enabled=False):
        return lora_B.weight.flatten(1).float() @ lora_A.weight.flatten(1).float()


def _norm_of_changed(weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None) -> Tensor:
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        return output_norms(weight.float() + scaling * lora_weight.float())


def prepare(layer: Any, base_weight: Tensor) -> None:
    """Sets the magnitude to the norms of the base weight, and has norms computed in float32 from here on.

    layer: peft's DoraLinearLayer or DoraConv2dLayer. base_weight: of the adapted module.
    """
    layer.weight = Parameter(output_norms(base_weight.detach()))
    layer.get_lora_weight = _change
    layer.get_weight_norm = _norm_of_changed
    layer.register_forward_hook(_apply_strength)
    set_strength(layer, 1.0)


def set_strength(layer: Any, value: float) -> None:
    """0 gives the base output, 1 the trained one, others lie on the line through both."""
    layer.strength = value


def _apply_strength(layer: Any, _: Any, extra_output: Tensor) -> Tensor:
    strength = layer.strength
    return extra_output if strength == 1.0 else extra_output * strength
