"""Adapters in half precision (full_fp16, full_bf16), and loss scaling that goes with them.

What that costs in float16: gradients are rounded to steps of 6e-8 after they are scaled back, and so is whatever an
optimizer keeps in the format of its parameters.
"""

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from loratory.adapters.adapter import Adapter
from loratory.adapters.forms.low_rank import SCALAR
from loratory.adapters.roles import DORA_SCALE, RESCALE

_ALWAYS_FLOAT = (DORA_SCALE, RESCALE, SCALAR)


class HalfGradScaler(GradScaler):
    """A GradScaler for float16 parameters, whose gradients torch's own refuses to scale back.

    It refuses because the result may be too small for the format. That is what full_fp16 asks for.
    """

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16=True)


def make_scaler(device_type: str, *, enabled: bool, half_parameters: bool) -> GradScaler:
    """The scaler of a run: `enabled` for a float16 computation, else it passes everything through."""
    return (HalfGradScaler if half_parameters else GradScaler)(device_type, enabled=enabled)


def cast_adapter(adapter: Adapter, dtype: torch.dtype) -> None:
    """Puts the trained tensors of an adapter in `dtype`, in place: the Parameters stay the same objects.

    Single numbers and those that lie about 1 stay float32 (scalars, the magnitudes of DoRA, the factors of rotations):
    half precision saves nothing there, and a step of training would be lost in its rounding. Before optimizers are
    made, which take the format of their state from the parameters. Alpha, strength and the norms of DoRA are computed
    as before.
    """
    for layer in adapter.layers:
        for role, parameter in layer.tensors().items():
            if role not in _ALWAYS_FLOAT:
                parameter.data = parameter.data.to(dtype)
