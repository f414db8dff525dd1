"""Safetensors files of any size, read and written tensor by tensor.

The safetensors library maps files into memory: every page that is read counts as memory of the process, 6 GB for a file
of 6 GB. Here a tensor is in memory while it is worked on, and no longer.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from loratory.adapters.container import (
    StoredTensor,
    check_container,
    content_hashes,
    header_bytes,
    stored_tensors,
)
from loratory.atomic import replacing
from loratory.errors import FAILED, LoratoryError
from loratory.models.header import Header, read_header

STORED_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}

HASHES = {"sshs_model_hash": 64, "sshs_legacy_hash": 8, "modelspec.hash_sha256": 66}
"""The names in the metadata of hashes of a file's content, and how long each is."""

# Few enough bytes to be nothing beside one layer, enough that the calls cost nothing.
CHUNK_BYTES = 16 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def no_progress(_done: int, _total: int) -> None:
    """A `Progress` that tells nobody."""


class Closing(ABC):
    """What is closed when the `with` around it ends."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TensorFile(Closing):
    """A safetensors file open for reading; a context manager.

    tensors: in the order of their data. Raises LoratoryError, as `read_header` does, for a file that is none.
    """

    def __init__(self, path: Path) -> None:
        self.header: Header = read_header(path)
        listed, self._data_start = stored_tensors(path)
        self.tensors: dict[str, StoredTensor] = {tensor.name: tensor for tensor in listed}
        self._file = path.open("rb")

    @property
    def path(self) -> Path:
        return self.header.path

    def read(self, name: str) -> Tensor:
        """The tensor in its own format, in memory of its own. Raises LoratoryError for a format torch has no name for,
        or a size that is not that of its shape."""
        stored = self.tensors[name]
        dtype = STORED_DTYPES.get(stored.dtype)
        if dtype is None:
            raise LoratoryError(f"{self.path}: {name} is stored as {stored.dtype}, which cannot be computed with.")
        size_bytes = stored.end - stored.start
        if size_bytes != prod(stored.shape) * dtype.itemsize:
            raise LoratoryError(
                f"{self.path} is damaged: {name} has {size_bytes} bytes for the shape {list(stored.shape)}.",
                hint="Download or copy it again.",
            )
        if not size_bytes:
            return torch.empty(stored.shape, dtype=dtype)
        flat = torch.empty(size_bytes, dtype=torch.uint8)
        try:
            self._file.seek(self._data_start + stored.start)
            read_bytes = self._file.readinto(flat.numpy().data)
        except OSError as error:
            raise LoratoryError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if read_bytes != size_bytes:
            raise _changed(self.path)
        return flat.view(dtype).reshape(stored.shape)

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor as `read` gives it, by name. Raises LoratoryError also as `check_container` does."""
        check_container(self.path)
        return {name: self.read(name) for name in self.tensors}

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of the tensor as they are, at most `CHUNK_BYTES` at a time."""
        stored = self.tensors[name]
        position = stored.start
        while position < stored.end:
            self._file.seek(self._data_start + position)
            chunk = self._file.read(min(CHUNK_BYTES, stored.end - position))
            if not chunk:
                raise _changed(self.path)
            position += len(chunk)
            yield chunk

    def converted(self, name: str, dtype: torch.dtype) -> Iterator[memoryview]:
        """The bytes of the tensor in another format, a piece at a time; LoratoryError for values it cannot hold."""
        source = STORED_DTYPES[self.tensors[name].dtype]
        rest = b""
        for chunk in self.chunks(name):
            chunk = rest + chunk
            whole = len(chunk) - len(chunk) % source.itemsize
            rest = chunk[whole:]
            if whole:
                values = torch.frombuffer(bytearray(chunk[:whole]), dtype=source)
                yield tensor_bytes(rounded(values, dtype, f"{self.path}: {name}"))

    def close(self) -> None:
        self._file.close()


def _changed(path: Path) -> LoratoryError:
    return LoratoryError(f"{path} became shorter while it was read.", hint="Try again when nothing writes to it.")


def rounded(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """`values` in another format. Raises LoratoryError, naming `what`, where a finite value would become infinite."""
    result = values.to(dtype)
    if not all_finite(result) and all_finite(values):
        low, high = torch.aminmax(values)
        largest = max(-float(low), float(high))
        raise LoratoryError(
            f"{what} has values up to {largest:.3g}, which {DTYPE_NAMES[dtype]} cannot hold.",
            hint="Write it with --precision bf16 or float.",
        )
    return result


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or missing; without the temporary tensors that `isfinite` makes of large ones."""
    if not tensor.numel():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # there is no order among 8-bit floats
    return all(bool(end.isfinite()) for end in torch.aminmax(wide))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU as files hold them."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


class Planned(NamedTuple):
    """A tensor that will be written. dtype: the safetensors name; shape: as in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def planned(name: str, dtype: torch.dtype, shape: Sequence[int]) -> Planned:
    return Planned(name, DTYPE_NAMES[dtype], tuple(shape), prod(shape) * dtype.itemsize)


def write_tensors(
    path: Path,
    tensors: Sequence[Planned],
    metadata: Mapping[str, str],
    content: Callable[[str], Iterable[bytes | memoryview]],
    progress: Progress = no_progress,
    *,
    hashes: Sequence[str] = (),
    shown: Path | None = None,
) -> None:
    """Writes a safetensors file whole or not at all, asking `content` for the bytes of one tensor after the other.

    Wider formats come first, so that each tensor starts at a multiple of its item size; otherwise the order is that of
    `tensors`. hashes: those of `HASHES` to put into the metadata. shown: what messages name, where `path` itself will
    be renamed. Memory: what `content` gives at a time. Raises LoratoryError (exit code 1) when the disk refuses;
    nothing is left behind then, nor after an interruption.
    """
    ordered = sorted(tensors, key=lambda tensor: -_item_bytes(tensor))
    stored: list[StoredTensor] = []
    position = 0
    for tensor in ordered:
        stored.append(StoredTensor(tensor.name, tensor.dtype, tensor.shape, position, position + tensor.size_bytes))
        position += tensor.size_bytes
    total_bytes = position
    kept = {name: value for name, value in metadata.items() if name not in HASHES}
    # The header comes first in the file and holds hashes of what follows: room is left for them.
    blank = header_bytes(stored, kept | {name: "0" * HASHES[name] for name in hashes})

    def pieces() -> Iterator[bytes | memoryview]:
        for tensor in stored:
            written = tensor.start
            for piece in content(tensor.name):
                file.write(piece)
                written += len(piece)
                progress(written, total_bytes)
                yield piece
            if written != tensor.end:
                raise RuntimeError(f"{tensor.name} has {written - tensor.start} bytes, not {tensor.end - tensor.start}")

    with refusals(shown or path), replacing(path) as temporary, temporary.open("wb") as file:
        file.write(blank)
        if hashes:
            found = content_hashes(stored, kept, pieces())
            values = {
                "sshs_model_hash": found.model,
                "sshs_legacy_hash": found.legacy,
                "modelspec.hash_sha256": f"0x{found.model}",
            }
            file.seek(0)
            file.write(header_bytes(stored, kept | {name: values[name] for name in hashes}))
        else:
            for _ in pieces():
                pass


def _item_bytes(tensor: Planned) -> int:
    count = prod(tensor.shape)
    return tensor.size_bytes // count if count else 0


@contextmanager
def refusals(path: Path) -> Generator[None]:
    """What the disk answers while `path` is written, as a LoratoryError with exit code 1."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LoratoryError(
                f"{path} was not written: disk full.", hint="Make room on that disk, then try again.", exit_code=FAILED
            ) from error
        raise LoratoryError(f"{path} was not written: {error.strerror or error}.", exit_code=FAILED) from error
