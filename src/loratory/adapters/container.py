"""The safetensors container, written byte for byte the same for the same content, and the hashes front ends know.

The safetensors library writes metadata in another order each time; resumed runs are compared by their bytes, so the
header is built here. Nothing in this module needs torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from loratory.errors import LoratoryError

_LEGACY_START = 0x100000
_LEGACY_BYTES = 0x10000
_READ_BYTES = 1 << 20


class StoredTensor(NamedTuple):
    """One tensor of a file. dtype: the safetensors name (F32, F16, BF16, ...). start, end: bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_bytes(tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """The 8-byte length and the JSON header, metadata sorted by name, padded so that the data starts 8-aligned."""
    listing: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for tensor in tensors:
        listing[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.start, tensor.end],
        }
    # A file name that is not UTF-8 may have come into the metadata; a question mark is better than a lost save.
    text = json.dumps(listing, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def stored_tensors(path: Path) -> tuple[list[StoredTensor], int]:
    """The tensors of a file in the order of their data, and where the data starts.

    The file must have been accepted by `models.header.read_header`.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        listing = json.loads(file.read(length))
    listing.pop("__metadata__", None)
    tensors = [
        StoredTensor(name, entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in listing.items()
    ]
    return sorted(tensors, key=lambda tensor: (tensor.start, tensor.name)), 8 + length


def check_container(path: Path) -> None:
    """Raises LoratoryError for a header that the safetensors library would refuse: impossible shapes, places, types."""
    try:
        # Not "pt": for torch the library refuses file names that are not UTF-8.
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise LoratoryError(f"{path} cannot be read: {error}.", hint="Download or copy it again.") from error


class Hashes(NamedTuple):
    """model: SHA-256 of everything after the header. legacy: the 8 digits of the AddNet extension."""

    model: str
    legacy: str


def content_hashes(
    tensors: Sequence[StoredTensor], metadata: Mapping[str, str], chunks: Iterable[bytes | memoryview]
) -> Hashes:
    """Hashes of a file with these tensors, whose data the chunks hold in order.

    The legacy hash is that of 64 KiB at 1 MiB of the file as it would be with only its `ss_` metadata (sd-scripts).
    """
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    header = header_bytes(tensors, training)
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    legacy.update(header[_LEGACY_START : _LEGACY_START + _LEGACY_BYTES])
    position = len(header)
    for chunk in chunks:
        view = memoryview(chunk)
        whole.update(view)
        first = max(_LEGACY_START - position, 0)
        last = max(_LEGACY_START + _LEGACY_BYTES - position, 0)
        legacy.update(view[first:last])
        position += len(view)
    return Hashes(whole.hexdigest(), legacy.hexdigest()[:8])


def file_hashes(path: Path, metadata: Mapping[str, str]) -> Hashes:
    """`content_hashes` of a file on disk, read once."""
    tensors, data_start = stored_tensors(path)
    with path.open("rb") as file:
        file.seek(data_start)
        return content_hashes(tensors, metadata, iter(lambda: file.read(_READ_BYTES), b""))
