"""How large a network is, and what its files hold, told without making it: for plans, and for files to go on from."""

import math

import torch
from torch import Tensor, nn

from loratory.adapters.forms import Form, make_form
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings


def runs_on_peft(network: NetworkSettings) -> bool:
    """Whether peft computes a network: LoRA, LoCon and DoRA in their plain forms."""
    special = network.use_tucker or network.use_scalar or network.train_norm or not network.wd_on_output
    return network.network_type in ("lora", "locon", "dora") and not special


def parameter_count(base: nn.Module, target: Target, network: NetworkSettings) -> int:
    """How many numbers are trained for a layer, which may be on "meta"."""
    if runs_on_peft(network):
        weight = base.get_parameter("weight").shape
        outputs, inputs, *kernel = weight
        magnitudes = outputs if network.decomposes else 0
        return target.rank * (inputs * math.prod(kernel) + outputs) + magnitudes
    return sum(tensor.numel() for tensor in _shapes(make_form(base, target, network)).values())


def file_shapes(base: nn.Module, target: Target, network: NetworkSettings) -> dict[str, tuple[int, ...]]:
    """The shapes of what a file holds of a network that is not peft's, by role."""
    form = make_form(base, target, network)
    return {role: tuple(tensor.shape) for role, tensor in form.to_file(_shapes(form)).items()}


def _shapes(form: Form) -> dict[str, Tensor]:
    """The trained tensors by name, on "meta": full fine-tuning of SDXL would take 10 GB."""
    with torch.device("meta"):
        return form.initial(torch.Generator())
