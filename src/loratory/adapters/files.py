"""Adapter files: written atomically with metadata and hashes, and read back with a plain answer to any other file."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from loratory.adapters.container import StoredTensor, content_hashes, header_bytes
from loratory.adapters.roles import ALPHA, DORA_SCALE, RESCALE, refuse_other_files
from loratory.adapters.tools.stream import TensorFile
from loratory.atomic import replacing
from loratory.errors import FAILED, LoratoryError

SavePrecision = Literal["fp16", "bf16", "float"]

DTYPES: dict[SavePrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}
_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# One number per module or per output channel: in half precision they would change the function and save nothing.
ALWAYS_FLOAT = tuple(f".{role}" for role in (ALPHA, DORA_SCALE, RESCALE, "lora_magnitude_vector.weight"))
"""How the names of tensors end that are stored in float32, whatever the precision of a file."""


@dataclass(frozen=True)
class AdapterFile:
    """The content of an adapter file; tensors have the precision they are stored in."""

    state_dict: dict[str, Tensor]
    metadata: dict[str, str]


def stored_dtype(name: str, save_precision: SavePrecision) -> torch.dtype:
    """The format in which a file of that precision holds the tensor with this name."""
    return torch.float32 if name.endswith(ALWAYS_FLOAT) else DTYPES[save_precision]


def save_adapter(
    path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str], save_precision: SavePrecision
) -> None:
    """Writes an adapter, whole or not at all. The same content gives the same bytes.

    Adds `sshs_model_hash` and `sshs_legacy_hash` to the metadata, and `modelspec.hash_sha256` where there is other
    modelspec metadata. alpha, rescale and the magnitudes of DoRA stay float32. Raises LoratoryError (exit code 1) when
    the disk refuses, naming the path; no temporary file is left then.
    """
    tensors = {
        name: tensor.detach().to("cpu", stored_dtype(name, save_precision)).contiguous()
        for name, tensor in state_dict.items()
    }
    # Wider types first, so that each tensor starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    stored: list[StoredTensor] = []
    chunks: list[memoryview] = []
    position = 0
    for name in names:
        tensor = tensors[name]
        chunks.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
        end = position + tensor.numel() * tensor.element_size()
        stored.append(StoredTensor(name, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), position, end))
        position = end
    hashes = content_hashes(stored, metadata, chunks)
    full_metadata = {**metadata, "sshs_model_hash": hashes.model, "sshs_legacy_hash": hashes.legacy}
    if any(name.startswith("modelspec.") for name in metadata):
        full_metadata["modelspec.hash_sha256"] = f"0x{hashes.model}"
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(header_bytes(stored, full_metadata))
            for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> LoratoryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoratoryError(
            f"{path} was not written: disk full.", hint="Make room on that disk, then save again.", exit_code=FAILED
        )
    return LoratoryError(f"{path} was not written: {error.strerror or error}.", exit_code=FAILED)


def read_adapter(path: Path) -> AdapterFile:
    """Reads an adapter file to the CPU.

    Raises LoratoryError when the file is missing, cut short, a pickle, not safetensors, or no adapter in kohya naming
    (a base model, or an adapter in diffusers naming).
    """
    with TensorFile(path) as file:
        refuse_other_files(path, file.header.tensors)
        return AdapterFile(file.read_all(), dict(file.header.metadata))
