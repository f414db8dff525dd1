"""Which formats a device computes in."""

import torch


def widest(device: torch.device) -> torch.dtype:
    """The widest floats of a device: float64, which Apple's GPUs do not have, or float32."""
    return torch.float32 if device.type == "mps" else torch.float64
