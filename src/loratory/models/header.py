"""The header of a safetensors file: what it holds, read without torch and without touching the weights."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from loratory.errors import LoratoryError

# The limit of the safetensors library itself; the largest published headers are near 1 MB.
_MAX_HEADER_BYTES = 100_000_000

_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

# (first bytes, what such a file is, what to do about it)
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG", "a PNG picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"RIFF", "a WebP picture or another RIFF file", ""),
    (b"GIF8", "a GIF picture", ""),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights it points to", "Run `git lfs pull`."),
    (b"GGUF", "a quantized GGUF file", "Training needs the .safetensors checkpoint it was made from."),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it first."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
)


class TensorEntry(NamedTuple):
    """One tensor as the header lists it; dtype is the safetensors name (F32, F16, BF16, …)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The tensors of one safetensors file by name, and its free-form metadata."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def refuse_pickle(path: Path) -> NoReturn:
    """Raises LoratoryError: a pickle runs whatever code its author put in it, so it is never opened."""
    raise LoratoryError(
        f"{path} is a pickle checkpoint: opening one runs any program hidden in it, so it is not read.",
        hint="Download the .safetensors version of the same model, or convert it with a tool that you trust "
        "with it (the checkpoint merger of the AUTOMATIC1111 web UI can).",
    )


def _refuse_foreign(path: Path, start: bytes, reason: str) -> NoReturn:
    for signature, kind, hint in _SIGNATURES:
        if start.startswith(signature):
            raise LoratoryError(f"{path} is {kind}, not a safetensors file.", hint=hint)
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        refuse_pickle(path)
    if start.lstrip()[:1] == b"<":
        raise LoratoryError(
            f"{path} is a web page, not a safetensors file: the download saved an error or login page.",
            hint="Download it again, signed in if the site asks for it.",
        )
    raise LoratoryError(f"{path} is not a safetensors file: {reason}.", hint="Download or export it again.")


def read_header(path: Path) -> Header:
    """Reads and checks the header of a safetensors file.

    Raises LoratoryError when the file is missing, empty, unreadable, truncated (with both byte counts),
    a pickle, or anything else than safetensors (naming what it is where the first bytes tell).
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        refuse_pickle(path)
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            header_bytes = int.from_bytes(start[:8], "little")
            if size_bytes == 0:
                raise LoratoryError(f"{path} is empty (0 bytes).", hint="Download or copy it again.")
            if header_bytes > _MAX_HEADER_BYTES or start[8:9] != b"{":
                _refuse_foreign(path, start, "it does not start with a header")
            file.seek(8)
            text = file.read(header_bytes)
    except OSError as error:
        raise LoratoryError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(text) < header_bytes:
        _refuse_truncated(path, 8 + header_bytes, size_bytes)
    try:
        listing: dict[str, Any] = json.loads(text)
        metadata: dict[str, Any] = listing.pop("__metadata__", {})
        tensors = {name: TensorEntry(entry["dtype"], _counts(entry["shape"])) for name, entry in listing.items()}
        offsets = [_counts(entry["data_offsets"]) for entry in listing.values()]
        data_bytes = max((end for _, end in offsets), default=0)
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoratoryError(
            f"{path} is not a safetensors file: its header is damaged ({error}).",
            hint="Download or export it again.",
        ) from error
    expected_bytes = 8 + header_bytes + data_bytes
    if size_bytes < expected_bytes:
        _refuse_truncated(path, expected_bytes, size_bytes)
    if size_bytes > expected_bytes:
        raise LoratoryError(
            f"{path} is damaged: its header describes {expected_bytes:,} bytes, the file has {size_bytes:,}.",
            hint="Download or copy it again.",
        )
    return Header(path, tensors, metadata)


def _counts(values: Iterable[Any]) -> tuple[int, ...]:
    """Whole numbers from 0 up, or ValueError or TypeError for anything else."""
    counts = tuple(map(index, values))
    if min(counts, default=0) < 0:
        raise ValueError("a negative size")
    return counts


def _refuse_truncated(path: Path, expected_bytes: int, size_bytes: int) -> NoReturn:
    raise LoratoryError(
        f"{path} is cut short: its header describes {expected_bytes:,} bytes, the file has {size_bytes:,}.",
        hint="The download or copy did not finish: fetch it again.",
    )
