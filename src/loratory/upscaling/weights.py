"""Tensors out of a model file, without running anything that is in it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from loratory.errors import LoratoryError

# Under which keys training programs put the weights beside other things, the better ones first.
_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "generator")
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")
# What torch.load raises for a file that is not what torch.save wrote.
_DAMAGE = (RuntimeError, ValueError, KeyError, TypeError, EOFError, IndexError, AttributeError, zipfile.BadZipFile)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of one that torch.save wrote, by name, on the CPU, fp32 where they are
    floating-point.

    What the file is, its first bytes tell, not its name. Raises LoratoryError for a missing, damaged or foreign file,
    one that holds more than weights, and values that are not numbers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        found = _torch_weights(path) if start.startswith(_TORCH_STARTS) else _safetensors_weights(path)
    except OSError as error:
        raise LoratoryError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check the path of the upscaler."
        ) from error
    tensors = {name: _plain(tensor) for name, tensor in _without_prefix(found).items()}
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise LoratoryError(
            f"{path} is damaged: {broken[0]} holds values that are not numbers.", hint="Download the file again."
        )
    return tensors


def _safetensors_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load(path.read_bytes())  # load_file refuses names that are not UTF-8
    except SafetensorError as error:
        raise LoratoryError(
            f"{path} is no upscaler: it is neither a .safetensors file nor a .pth file, or it is damaged ({error}).",
            hint="Download the file again, or give the path of another one.",
        ) from error


def _torch_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        body: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "Unsupported global" in str(error) or "Unsupported class" in str(error)
        raise (_more_than_weights(path) if refused else _damaged(path, error)) from error
    except _DAMAGE as error:
        raise (_more_than_weights(path) if "TorchScript" in str(error) else _damaged(path, error)) from error
    for wrapper in _WRAPPERS:
        if isinstance(body, dict) and isinstance(body.get(wrapper), dict):
            body = cast(Any, body[wrapper])
            break
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(body, dict):
        items = cast(dict[Any, Any], body).items()
        tensors = {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise LoratoryError(f"{path} is no upscaler: it holds no weights by name.")
    return tensors


def _more_than_weights(path: Path) -> LoratoryError:
    return LoratoryError(
        f"{path} holds more than weights: opening all of it could run any program hidden in it, so it was refused.",
        hint="Look for a .safetensors version of the same model, or for one that was saved as weights alone.",
    )


def _damaged(path: Path, error: Exception) -> LoratoryError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return LoratoryError(f"{path} is damaged: {reason[:200]}", hint="Download the file again.")


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Networks trained on several devices at once have this before all their names."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.is_floating_point() else tensor
