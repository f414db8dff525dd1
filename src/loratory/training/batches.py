"""Batches: what one forward pass needs, made on the CPU ahead of time."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from loratory.dataset.buckets import Placement, kohya_crop_top_left
from loratory.dataset.captions import draw_caption
from loratory.dataset.epochs import Visit
from loratory.dataset.scan import TrainImage
from loratory.models.load import BaseModel
from loratory.models.text import TextConditioning, sdxl_time_ids, tokenize
from loratory.randomness import stream
from loratory.training.cache import LatentCache, Picture, TextCache
from loratory.training.noise import draw_latents, draw_noise, draw_timestep
from loratory.training.plan import Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Pictures of one bucket, ready for the network.

    latents, noise: float32 (B, 4, h, w), latents scaled. timesteps: int64 (B,). weights: float32 (B,), the factor on
    each sample's loss that does not depend on its timestep. time_ids: (B, 6) for SDXL. images: paths for the events.
    text: what the captions say, where it is known already; otherwise ids, the tokens for each text encoder (B, K, 77).
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    weights: Tensor
    images: list[str]
    time_ids: Tensor | None
    text: TextConditioning | None
    ids: list[Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` applied to each of its tensors."""

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        text = self.text and TextConditioning(change(self.text.hidden), optional(self.text.pooled))
        ids = [change(tensor) for tensor in self.ids]
        latents, noise, timesteps, weights = map(change, (self.latents, self.noise, self.timesteps, self.weights))
        return Batch(latents, noise, timesteps, weights, self.images, optional(self.time_ids), text, ids)

    def to(self, device: torch.device) -> "Batch":
        """Moves the tensors; from pinned memory this does not wait for the device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory."""
        return self.map(Tensor.pin_memory)


@dataclass(frozen=True)
class BatchMaker:
    """Turns visits into batches. Every random choice is a function of the seed, the epoch and the visit alone."""

    plan: Plan
    base: BaseModel
    latents: LatentCache
    texts: TextCache | None

    def make(self, visits: Sequence[Visit], epoch: int, step: int) -> Batch:
        """The batch for `visits` (one bucket) in `epoch` (from 1) at optimizer step `step` (from 0)."""
        samples = [self._sample(visit, epoch, step) for visit in visits]
        captions = [sample.caption for sample in samples]
        max_length = self.plan.config.caption.max_token_length
        is_sdxl = self.plan.info.family == "sdxl"
        return Batch(
            latents=torch.stack([sample.latents for sample in samples]),
            noise=torch.stack([sample.noise for sample in samples]),
            timesteps=torch.tensor([sample.timestep for sample in samples]),
            weights=torch.ones(len(samples)),
            images=[sample.name for sample in samples],
            time_ids=torch.stack([sample.time_ids for sample in samples]) if is_sdxl else None,
            text=self.texts.get_all(captions) if self.texts else None,
            ids=[] if self.texts else tokenize(self.base, captions, max_length),
        )

    def _sample(self, visit: Visit, epoch: int, step: int) -> "_Sample":
        config = self.plan.config
        image, placement = self.plan.images[visit.image], self.plan.placements[visit.image]
        seed, noise = config.training.seed, config.noise
        counters = (epoch, visit.image, visit.repeat)
        flipped = config.dataset.flip_aug and stream(seed, "flip", *counters).random() < 0.5
        posterior = self.latents.get(Picture(image, placement, flipped))
        # sd-scripts freezes one draw of the posterior in its cache; compatibility keeps the draw of the first epoch.
        draw = (0, visit.image, 0) if config.compatibility == "kohya" else counters
        latents = draw_latents(posterior.mean, posterior.log_variance, seed, *draw) * self.base.vae_scale
        return _Sample(
            latents=latents,
            noise=draw_noise(latents.shape, seed, *counters),
            timestep=draw_timestep(noise.min_timestep, noise.max_timestep, seed, *counters),
            caption=draw_caption(
                image.caption,
                config.caption,
                seed=seed,
                epoch=epoch,
                visit=(visit.image, visit.repeat),
                step=step,
                max_steps=self.plan.length.total_steps,
            ),
            name=f"{image.folder}/{image.path.name}",
            time_ids=self._time_ids(image, placement, flipped),
        )

    def _time_ids(self, image: TrainImage, placement: Placement, flipped: bool) -> Tensor:
        left, top = placement.crop_left_top
        if self.plan.config.compatibility == "kohya":
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

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
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
        thread.join()  # a thread that is inside torch when Python shuts down aborts the process
