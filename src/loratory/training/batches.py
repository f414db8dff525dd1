"""Batches: what one forward pass needs, made on the CPU ahead of time."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from loratory.config.schema import Config
from loratory.dataset.buckets import Placement, kohya_crop_top_left
from loratory.dataset.captions import draw_caption
from loratory.dataset.epochs import Visit
from loratory.dataset.scan import TrainImage
from loratory.models.text import sdxl_time_ids
from loratory.randomness import stream
from loratory.training.cache import LatentCache, Picture
from loratory.training.noise import draw_latents, draw_noise, draw_timestep

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Pictures of one bucket, ready for the network.

    latents, noise: float32 (B, 4, h, w), latents scaled. timesteps: int64 (B,). weights: float32 (B,), the factor on
    each sample's loss that does not depend on its timestep. time_ids: (B, 6) for SDXL. images: paths for the events.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    weights: Tensor
    captions: list[str]
    images: list[str]
    time_ids: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        """Moves the tensors; from pinned memory this does not wait for the device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            move(self.latents),
            move(self.noise),
            move(self.timesteps),
            move(self.weights),
            self.captions,
            self.images,
            None if self.time_ids is None else move(self.time_ids),
        )

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory."""
        time_ids = None if self.time_ids is None else self.time_ids.pin_memory()
        return Batch(
            self.latents.pin_memory(),
            self.noise.pin_memory(),
            self.timesteps.pin_memory(),
            self.weights.pin_memory(),
            self.captions,
            self.images,
            time_ids,
        )


@dataclass(frozen=True)
class BatchMaker:
    """Turns visits into batches. Every random choice is a function of the seed, the epoch and the visit alone."""

    config: Config
    images: Sequence[TrainImage]
    placements: Sequence[Placement]
    latents: LatentCache
    vae_scale: float
    is_sdxl: bool
    max_steps: int

    def make(self, visits: Sequence[Visit], epoch: int, step: int) -> Batch:
        """The batch for `visits` (one bucket) in `epoch` (from 1) at optimizer step `step` (from 0)."""
        samples = [self._sample(visit, epoch, step) for visit in visits]
        return Batch(
            latents=torch.stack([sample.latents for sample in samples]),
            noise=torch.stack([sample.noise for sample in samples]),
            timesteps=torch.tensor([sample.timestep for sample in samples]),
            weights=torch.ones(len(samples)),
            captions=[sample.caption for sample in samples],
            images=[sample.name for sample in samples],
            time_ids=torch.stack([sample.time_ids for sample in samples]) if self.is_sdxl else None,
        )

    def _sample(self, visit: Visit, epoch: int, step: int) -> "_Sample":
        image, placement = self.images[visit.image], self.placements[visit.image]
        seed, noise = self.config.training.seed, self.config.noise
        counters = (epoch, visit.image, visit.repeat)
        flipped = self.config.dataset.flip_aug and stream(seed, "flip", *counters).random() < 0.5
        posterior = self.latents.get(Picture(image, placement, flipped))
        # sd-scripts freezes one draw of the posterior in its cache; compatibility keeps the draw of the first epoch.
        draw = (0, visit.image, 0) if self.config.compatibility == "kohya" else counters
        latents = draw_latents(posterior.mean, posterior.log_variance, seed, *draw) * self.vae_scale
        return _Sample(
            latents=latents,
            noise=draw_noise(latents.shape, seed, *counters),
            timestep=draw_timestep(noise.min_timestep, noise.max_timestep, seed, *counters),
            caption=draw_caption(
                image.caption,
                self.config.caption,
                seed=seed,
                epoch=epoch,
                visit=(visit.image, visit.repeat),
                step=step,
                max_steps=self.max_steps,
            ),
            name=f"{image.folder}/{image.path.name}",
            time_ids=self._time_ids(image, placement, flipped),
        )

    def _time_ids(self, image: TrainImage, placement: Placement, flipped: bool) -> Tensor:
        left, top = placement.crop_left_top
        if self.config.compatibility == "kohya":
            # Its crop is centred in both axes, so that mirroring moves it by a pixel at most.
            top, left = kohya_crop_top_left(image.size, placement.bucket)
        elif flipped:
            # What is cut off on the right of the original is cut off on the left of the mirrored picture.
            left = placement.resized[0] - placement.bucket[0] - left
        return sdxl_time_ids(image.size, (left, top), placement.bucket)


@dataclass(frozen=True)
class _Sample:
    latents: Tensor
    noise: Tensor
    timestep: int
    caption: str
    name: str
    time_ids: Tensor


def prefetched(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields `items`, made up to `depth` ahead on a thread; an exception is raised where its item would have come.

    Leaving the loop early stops the thread after the item it is making.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
            put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer, whatever it is
            put(None, error)

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stopped.set()
