"""From a name or a path to an upscaler that runs."""

import importlib
import math
from pathlib import Path
from typing import Any

import torch

from loratory.errors import FAILED, LoratoryError
from loratory.upscaling import names
from loratory.upscaling.layouts import Misshapen, network_of
from loratory.upscaling.networks import CompactNet
from loratory.upscaling.upscaler import Network, Upscaler
from loratory.upscaling.weights import read_weights

_ASSETS = Path(__file__).parent / "assets"

# What a piece has to read around itself so that it comes out as it does within the whole picture. Measured for RRDBNet
# (docs/upscaling.md), which sees further in theory, but hardly; the compact network sees one px for each convolution.
_RRDBNET_MARGIN_PX = 40
_FOREIGN_MARGIN_PX = 32
# Memory goes by the px that are read, above a scale of 4 by those that are made; of networks that are not known here it
# is not known.
_SIDE_PX = 512
_FOREIGN_SIDE_PX = 256
_LARGEST_SCALE = 16


def opened(name: str, device: str) -> Upscaler:
    """See `loratory.upscaling.open_upscaler`."""
    chosen = _device(device)
    if name in names():
        return Upscaler(name, _network(_ASSETS / f"{name}.safetensors"), chosen)
    path = _home(Path(name))
    if not path.exists():
        raise LoratoryError(
            f'There is no upscaler "{name}", and no file of that name.',
            hint=f"Those that come with the program are {' and '.join(names())}; else give the path of a model file.",
        )
    return Upscaler(str(path), _network(path), chosen)


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # "~" and the name of nobody here
        return path


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise LoratoryError(f'"{device}" is no device.', hint="Give auto, cpu, cuda, or cuda:1 for the second card.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise LoratoryError(
            f'The device "{device}" is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices.',
            hint="Give auto, which takes the CPU where there is none.",
        )
    return torch.device(device)


def _network(path: Path) -> Network:
    tensors = read_weights(path)
    try:
        known = network_of(tensors)
        if known is None:
            return _foreign(path, tensors)
        module, named = known
        module.load_state_dict(named, assign=True)
    except (Misshapen, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LoratoryError(f"{path} is no upscaler that can be used: {reason}.") from error
    margin_px = _RRDBNET_MARGIN_PX if not isinstance(module, CompactNet) else len(module.body) // 2 + 1
    scale = _checked(path, module.scale)
    return Network(module.eval().requires_grad_(False), scale, margin_px, _SIDE_PX * 4 // max(scale, 4))


def _foreign(path: Path, tensors: dict[str, torch.Tensor]) -> Network:
    """A network of another kind, through spandrel; only tensors are passed on, so nothing in the file is run."""
    kind = f"{path}: a network of a kind that is not built in (those are ESRGAN, Real-ESRGAN and Compact)"
    try:
        spandrel: Any = importlib.import_module("spandrel")
    except ModuleNotFoundError as error:
        raise LoratoryError(
            f"{kind}, and {error.name}, which is needed for it, is not installed.",
            hint="Install what is missing with: pip install '.[upscalers]'",
            exit_code=FAILED,
        ) from error
    except (ImportError, RuntimeError) as error:
        raise LoratoryError(
            f"{kind}, and spandrel, which knows many more, does not start: {error}.",
            hint="Its torchvision has to be of the same release and build as torch: install both from the same index.",
            exit_code=FAILED,
        ) from error
    try:
        descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(tensors)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise LoratoryError(f"{path} is no upscaler that spandrel knows ({reason}).") from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise LoratoryError(f"{path} holds a network that needs more than a picture, such as a mask.")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise LoratoryError(
            f"{path} is no upscaler that can be used: it reads {descriptor.input_channels} and makes "
            f"{descriptor.output_channels} channels, where pictures in colour have 3."
        )
    module = descriptor.eval().model.requires_grad_(False)
    return Network(
        module,
        _checked(path, descriptor.scale),
        _FOREIGN_MARGIN_PX,
        _FOREIGN_SIDE_PX,
        call=descriptor,
        half=descriptor.supports_half,
        fast_on_cpu=False,
    )


def _checked(path: Path, scale: float) -> int:
    if scale != int(scale) or not 1 <= scale <= _LARGEST_SCALE or not math.isfinite(scale):
        raise LoratoryError(f"{path} is no upscaler that can be used: it enlarges {scale:g} times.")
    return int(scale)
