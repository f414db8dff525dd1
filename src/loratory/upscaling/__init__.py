"""Pictures made larger by a network: embedded ones that need no download, and model files of the user's own.

Importing this package is cheap; torch is loaded by `open_upscaler`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loratory.upscaling.upscaler import Upscaler

# What lies in assets/.
_EMBEDDED = ("default", "sharp")


class Stopped(Exception):
    """`Upscaler.enlarge` was told to stop; nothing was made."""


def names() -> tuple[str, ...]:
    """The upscalers that come with the program: any of them, or the path of a model file, opens an upscaler."""
    return _EMBEDDED


def open_upscaler(name: str = "default", device: str = "auto") -> "Upscaler":
    """An embedded upscaler by its name, or one from a model file (.safetensors, .pth) by its path.

    device: "auto" (a CUDA device where there is one), "cpu", "cuda" or "cuda:1". Files in torch's format are read as
    plain weights; whatever else is in them is refused. Raises LoratoryError where there is no such name, file or
    device, or where the file holds no network that this program can run.
    """
    from loratory.upscaling.opening import opened

    return opened(name, device)
