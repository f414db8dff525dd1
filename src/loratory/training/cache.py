"""Latents and text-encoder outputs that are computed once.

Both are keyed by everything they depend on, content included, so an entry can be missing but never stale: editing a
picture or a caption, or changing the resolution, the crop, the VAE or the text encoder, makes another key.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from loratory import atomic
from loratory.dataset.buckets import Placement
from loratory.dataset.scan import TrainImage
from loratory.errors import FAILED, LoratoryError
from loratory.imaging.augment import ColourChange, change_colour
from loratory.imaging.pixels import training_pixels
from loratory.models.text import TextConditioning

FORMAT = "1"  # part of every key: raise it when the meaning of an entry changes
TEXT_BYTES_IN_MEMORY = 2_000_000_000  # some 10,000 captions of SD 1.x, 6,000 of SDXL, at 75 tokens in half precision


@dataclass(frozen=True)
class Picture:
    """One picture as it is encoded: where it lies, how it is placed in its bucket, mirrored or not, and what
    `color_aug` does to it."""

    image: TrainImage
    placement: Placement
    flipped: bool
    colour: ColourChange | None = None

    def pixels(self, background: tuple[int, int, int], interpolation: str | None, *, kohya_compatible: bool) -> Tensor:
        """float32 (3, h, w) in [-1, 1]."""
        array = training_pixels(self.image.path, self.placement, background, interpolation)
        if self.colour is not None:
            array = change_colour(array, self.colour, kohya_compatible=kohya_compatible)
        if self.flipped:
            array = array[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class Posterior:
    """What the VAE says of a picture: mean and log-variance of its latents, float32 (4, h / 8, w / 8), unscaled."""

    mean: Tensor
    log_variance: Tensor


@dataclass
class LatentEncoder:
    """Runs the VAE. `identity` names its weights (see `BaseModel.identity`)."""

    vae: nn.Module
    identity: str
    device: torch.device
    dtype: torch.dtype
    background: tuple[int, int, int]
    interpolation: str | None
    kohya_compatible: bool = False
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[Posterior]:
        """Encodes pictures of one bucket in one batch."""
        pixels = torch.stack(
            [p.pixels(self.background, self.interpolation, kohya_compatible=self.kohya_compatible) for p in pictures]
        )
        with self._turn:  # one at a time: each takes the memory of all the VAE's layers
            moments = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist  # pyright: ignore[reportCallIssue] - a decorator of diffusers
            mean, log_variance = moments.mean.float().cpu(), moments.logvar.float().cpu()
        for picture, latents in zip(pictures, mean, strict=True):
            if not latents.isfinite().all():
                raise LoratoryError(
                    f"The VAE gives no numbers for {picture.image.path}: it overflows in {self.dtype}.",
                    hint="Set model.no_half_vae = true.",
                    exit_code=FAILED,
                )
        return [Posterior(m.clone(), v.clone()) for m, v in zip(mean, log_variance, strict=True)]

    def key(self, picture: Picture) -> str:
        """Digest of the file's bytes and of everything that shapes the latents."""
        with picture.image.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        parts = (content, picture.placement, picture.flipped, self.identity, self.dtype, self.background)
        return hashlib.sha256(repr((FORMAT, *parts, self.interpolation)).encode()).hexdigest()


@dataclass
class LatentCache:
    """Posteriors by picture: in memory, on disk (`directory`), or encoded anew at every visit (`keep=False`).

    Pictures that look different at each visit are never kept.
    """

    encoder: LatentEncoder
    batch_size: int
    keep: bool
    directory: Path | None
    _memory: dict[tuple[Path, bool], Posterior] = field(default_factory=dict[tuple[Path, bool], Posterior])
    _files: dict[tuple[Path, bool], Path] = field(default_factory=dict[tuple[Path, bool], Path])

    def fill(self, pictures: Sequence[Picture]) -> Iterator[int]:
        """Encodes what is not cached yet; yields how many pictures are ready, for a progress bar.

        Batches are cut from `pictures` in order, cached or not: the composition of a batch moves the last bits of
        its latents, and a resumed run must see the same ones.
        """
        if not self.keep:
            return
        ready = 0
        for batch in _same_bucket_batches(
            [p for p in pictures if not p.image.treatment.varies_pixels], self.batch_size
        ):
            if self.directory is None:
                posteriors = self.encoder.encode(batch)
                self._memory.update(zip(map(_place, batch), posteriors, strict=True))
            else:
                paths = [self._file(self.directory, picture) for picture in batch]
                missing = [path for path in paths if _read_posterior(path) is None]
                if missing:
                    for path, posterior in zip(paths, self.encoder.encode(batch), strict=True):
                        if path in missing:
                            _write_tensors(path, vars(posterior))
                self._files.update(zip(map(_place, batch), paths, strict=True))
            ready += len(batch)
            yield ready

    def get(self, picture: Picture) -> Posterior:
        """The posterior of one visit. Raises LoratoryError when a cached file has gone since `fill`."""
        place = _place(picture)
        if not self.keep or picture.image.treatment.varies_pixels:
            return self.encoder.encode([picture])[0]
        if self.directory is None:
            return self._memory[place]
        posterior = _read_posterior(self._files[place])
        if posterior is None:
            # The VAE has left the device by now; a resumed run fills the cache first.
            raise LoratoryError(
                f"The cached latents {self._files[place]} were removed during the run.",
                hint="Go on with --resume: they are made again.",
                exit_code=FAILED,
            )
        return posterior

    def _file(self, directory: Path, picture: Picture) -> Path:
        key = self.encoder.key(picture)
        return directory / key[:2] / f"{key}.safetensors"


def _place(picture: Picture) -> tuple[Path, bool]:
    return picture.image.path, picture.flipped


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through memory: safetensors' own writer turns a full disk into an error of its own kind.
    with atomic.replacing(path, durable=False) as temporary:
        temporary.write_bytes(save(tensors))


def _same_bucket_batches(pictures: Sequence[Picture], batch_size: int) -> Iterator[list[Picture]]:
    by_bucket: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        by_bucket.setdefault(picture.placement.bucket, []).append(picture)
    for members in by_bucket.values():
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def _tensors_of(path: Path) -> dict[str, Tensor]:
    return load(path.read_bytes())  # load_file refuses paths that are not UTF-8


def _read_posterior(path: Path) -> Posterior | None:
    try:
        return Posterior(**_tensors_of(path))
    except (OSError, SafetensorError, TypeError):
        return None  # missing, or damaged: made again


@dataclass(frozen=True)
class EncodedText:
    """Text-encoder output of one caption: hidden (T, C), pooled (P,) for SDXL. On the CPU, in the compute dtype."""

    hidden: Tensor
    pooled: Tensor | None

    @property
    def size_bytes(self) -> int:
        return self.hidden.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass
class TextCache:
    """Encoded captions, most recently used first to stay. Used only while the text encoders are not trained.

    Threads may share it: each caption is encoded once, one at a time. encode takes one caption, so that its result
    does not depend on what else is in the batch. `prefix` is a digest of the encoders and of the settings that shape
    their output.
    """

    encode: Callable[[str], EncodedText]
    prefix: str
    directory: Path | None
    capacity_bytes: int = TEXT_BYTES_IN_MEMORY
    _memory: OrderedDict[str, EncodedText] = field(default_factory=OrderedDict[str, EncodedText])
    _bytes: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def get(self, caption: str) -> EncodedText:
        with self._turn:
            return self._get(caption)

    def _get(self, caption: str) -> EncodedText:
        if caption in self._memory:
            self._memory.move_to_end(caption)
            return self._memory[caption]
        entry = self._from_disk(caption) or self._encode(caption)
        self._memory[caption] = entry
        self._bytes += entry.size_bytes
        while self._bytes > self.capacity_bytes and len(self._memory) > 1:
            self._bytes -= self._memory.popitem(last=False)[1].size_bytes
        return entry

    def holds(self, captions: Sequence[str]) -> bool:
        """Whether none of these captions will have to be encoded again."""
        return self.directory is not None or all(caption in self._memory for caption in captions)

    def get_all(self, captions: Sequence[str]) -> TextConditioning:
        """The captions of a batch, stacked."""
        entries = [self.get(caption) for caption in captions]
        pooled = [entry.pooled for entry in entries if entry.pooled is not None]
        return TextConditioning(
            torch.stack([entry.hidden for entry in entries]), torch.stack(pooled) if pooled else None
        )

    def _path(self, directory: Path, caption: str) -> Path:
        key = hashlib.sha256(repr((FORMAT, self.prefix, caption)).encode()).hexdigest()
        return directory / key[:2] / f"{key}.safetensors"

    def _from_disk(self, caption: str) -> EncodedText | None:
        if self.directory is None:
            return None
        try:
            tensors = _tensors_of(self._path(self.directory, caption))
            return EncodedText(tensors["hidden"], tensors.get("pooled"))
        except (OSError, SafetensorError, KeyError):
            return None

    def _encode(self, caption: str) -> EncodedText:
        entry = self.encode(caption)
        if self.directory is not None:
            tensors = {name: t.contiguous() for name, t in vars(entry).items() if t is not None}
            _write_tensors(self._path(self.directory, caption), tensors)
        return entry
