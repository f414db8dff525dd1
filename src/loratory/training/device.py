"""Which device trains, and in which number format."""

import torch

from loratory.config.schema import TrainingSettings
from loratory.errors import LoratoryError
from loratory.runs.launch import local_rank, process_count

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """A CUDA (or ROCm) device, of several processes on a machine each its own; Apple's GPU; or the CPU."""
    if torch.cuda.is_available():
        if process_count() > 1:
            if local_rank() >= torch.cuda.device_count():
                raise LoratoryError(
                    f"{local_rank() + 1} processes were started for {torch.cuda.device_count()} graphics cards.",
                    hint="Give torchrun --nproc-per-node the number of cards.",
                )
            torch.cuda.set_device(local_rank())
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def compute_dtype(training: TrainingSettings, device: torch.device) -> torch.dtype:
    """The format of activations and of the frozen base; the adapter's own weights stay float32.

    Raises LoratoryError for bf16 on a GPU that has none.
    """
    dtype = _DTYPES[training.mixed_precision]
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise LoratoryError(
            f'training.mixed_precision = "bf16": {torch.cuda.get_device_name(device)} cannot compute in bfloat16.',
            hint='Set it to "fp16".',
        )
    return dtype


def device_name(device: torch.device) -> str:
    """For people: `NVIDIA GeForce RTX 3060`, `CPU, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
