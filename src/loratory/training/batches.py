"""Batches: what one forward pass needs, made on the CPU ahead of time."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loratory.dataset.buckets import Placement, kohya_crop_top_left
from loratory.dataset.captions import draw_caption, plain_caption
from loratory.dataset.scan import TrainImage
from loratory.dataset.visits import Visit
from loratory.imaging.augment import draw_colour_change
from loratory.imaging.pixels import training_mask
from loratory.models.load import BaseModel
from loratory.models.text import TextConditioning, sdxl_time_ids, tokenize, tokenize_weighted
from loratory.randomness import stream
from loratory.training.cache import LatentCache, Picture, TextCache
from loratory.training.noise import draw_latents, draw_noise, draw_visit_noise
from loratory.training.plan import Plan
from loratory.training.timesteps import draw_timestep


@dataclass(frozen=True)
class Batch:
    """Pictures of one bucket, ready for the network.

    latents, noise: float32 (B, 4, h, w), latents scaled; noise is what is predicted. timesteps: int64 (B,). weights:
    float32 (B,), the factor on each sample's loss that does not depend on its timestep. images: paths for the events;
    the first samples are theirs, twins come behind. time_ids: (B, 6) for SDXL. text: what the captions say, where it is
    known already; otherwise ids, the tokens for each text encoder (B, K, 77), and with weighted_captions
    token_weights, float32 of the same shapes.
    added_noise: what the latents get instead of noise, where that differs. masks: (B, 1, h, w), 0 to 1; None counts
    everything. preserved: int64, the samples whose target is the base model's own prediction. total: samples of the
    batch in all processes together; None for those here.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    weights: Tensor
    images: list[str]
    time_ids: Tensor | None
    text: TextConditioning | None
    ids: list[Tensor]
    token_weights: list[Tensor] = field(default_factory=list[Tensor])
    added_noise: Tensor | None = None
    masks: Tensor | None = None
    preserved: Tensor | None = None
    total: int | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` applied to each of its tensors."""

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return dataclasses.replace(
            self,
            latents=change(self.latents),
            noise=change(self.noise),
            timesteps=change(self.timesteps),
            weights=change(self.weights),
            time_ids=optional(self.time_ids),
            text=self.text and TextConditioning(change(self.text.hidden), optional(self.text.pooled)),
            ids=[change(tensor) for tensor in self.ids],
            token_weights=[change(tensor) for tensor in self.token_weights],
            added_noise=optional(self.added_noise),
            masks=optional(self.masks),
            preserved=optional(self.preserved),
        )

    def to(self, device: torch.device) -> "Batch":
        """Moves the tensors; from pinned memory this does not wait for the device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory."""
        return self.map(Tensor.pin_memory)

    def preserved_part(self, rows: Tensor) -> "Batch":
        """The samples in `rows`, for `preserved`: without a list of numbers, which the device would wait for."""
        part = dataclasses.replace(self, preserved=None).map(lambda tensor: tensor.index_select(0, rows))
        return dataclasses.replace(part, images=[])


@dataclass(frozen=True)
class _Sample:
    latents: Tensor
    noise: Tensor
    added_noise: Tensor
    timestep: int
    caption: str
    time_ids: Tensor
    mask: Tensor | None
    weight: float = 1.0
    preserved: bool = False


@dataclass
class BatchMaker:
    """Turns visits into batches. Every random choice is a function of the seed, the epoch and the visit alone."""

    plan: Plan
    base: BaseModel
    latents: LatentCache
    texts: TextCache | None
    _masks: dict[Path, Tensor | None] = field(default_factory=dict[Path, Tensor | None])

    def make(self, visits: Sequence[Visit], epoch: int, step: int, total: int | None = None) -> Batch:
        """The batch for `visits` (one bucket) in `epoch` (from 1) at optimizer step `step` (from 0).

        total: visits of the batch in all processes together, where these are only a part of them.
        """
        samples = [self._sample(visit, epoch, step) for visit in visits]
        loss = self.plan.config.loss
        twins = loss.diff_output_preservation and not self.plan.has_reg
        names = [self.name(visit) for visit in visits]
        if twins:
            samples += [
                dataclasses.replace(
                    sample,
                    caption=loss.diff_output_preservation_class or class_token(self.plan.images[visit.image]),
                    weight=loss.prior_loss_weight,
                    preserved=True,
                )
                for visit, sample in zip(visits, samples, strict=True)
            ]
        return self._batch(samples, names, total and total * (2 if twins else 1))

    def make_validation(self, index: int, timesteps: Sequence[int]) -> Batch:
        """The batch of one held-back picture at fixed timesteps: nothing about it is drawn by chance of the run."""
        image, placement = self.plan.held_back[index], self.plan.held_back_placements[index]
        posterior = self.latents.get(Picture(image, placement, flipped=False))
        latents = posterior.mean * self.base.vae_scale
        caption = draw_caption(
            image.caption,
            plain_caption(image.treatment.caption),
            seed=0,
            epoch=1,
            visit=("validation", image.folder, image.path.name),
            step=1,
            max_steps=1,
        )
        samples = [
            _Sample(
                latents=latents,
                # The seed of the run does not matter here, so that runs can be compared.
                noise=(noise := draw_noise(latents.shape, 0, "validation", image.folder, image.path.name, timestep)),
                added_noise=noise,
                timestep=timestep,
                caption=caption,
                time_ids=self._time_ids(image, placement, flipped=False),
                mask=self._mask(image, placement, flipped=False),
            )
            for timestep in timesteps
        ]
        return self._batch(samples, [f"{image.folder}/{image.path.name}"] * len(samples), None)

    def read_masks(self) -> None:
        """Reads every mask once, so that a damaged one is told before the first step. Raises UnreadablePicture."""
        for image, placement in (
            *zip(self.plan.images, self.plan.placements, strict=True),
            *zip(self.plan.held_back, self.plan.held_back_placements, strict=True),
        ):
            self._mask(image, placement, flipped=False)

    def name(self, visit: Visit) -> str:
        """The picture of a visit as the events name it."""
        image = self.plan.images[visit.image]
        return f"{image.folder}/{image.path.name}"

    def timestep(self, visit: Visit, epoch: int) -> int:
        """The timestep of a visit."""
        return draw_timestep(self.plan.config.noise, self.plan.config.training.seed, epoch, visit.image, visit.repeat)

    def _batch(self, samples: Sequence[_Sample], names: list[str], total: int | None) -> Batch:
        captions = [sample.caption for sample in samples]
        latents = torch.stack([sample.latents for sample in samples])
        perturbed = any(sample.added_noise is not sample.noise for sample in samples)
        masked = any(sample.mask is not None for sample in samples)
        whole = torch.ones(1, *latents.shape[2:])
        preserved = [row for row, sample in enumerate(samples) if sample.preserved]
        ids, token_weights = ([], []) if self.texts else self._tokens(captions)
        return Batch(
            latents=latents,
            noise=torch.stack([sample.noise for sample in samples]),
            timesteps=torch.tensor([sample.timestep for sample in samples]),
            weights=torch.tensor([sample.weight for sample in samples]),
            images=names,
            time_ids=torch.stack([s.time_ids for s in samples]) if self.plan.info.family == "sdxl" else None,
            text=self.texts.get_all(captions) if self.texts else None,
            ids=ids,
            token_weights=token_weights,
            added_noise=torch.stack([sample.added_noise for sample in samples]) if perturbed else None,
            masks=torch.stack([whole if s.mask is None else s.mask[None] for s in samples]) if masked else None,
            preserved=torch.tensor(preserved) if preserved else None,
            total=total,
        )

    def _tokens(self, captions: list[str]) -> tuple[list[Tensor], list[Tensor]]:
        settings = self.plan.config.caption
        if settings.weighted_captions:
            return tokenize_weighted(self.base, captions, settings.max_token_length)
        return tokenize(self.base, captions, settings.max_token_length), []

    def _sample(self, visit: Visit, epoch: int, step: int) -> _Sample:
        config = self.plan.config
        image, placement = self.plan.images[visit.image], self.plan.placements[visit.image]
        treatment, seed = image.treatment, config.training.seed
        counters = (epoch, visit.image, visit.repeat)
        flipped = treatment.flip_aug and stream(seed, "flip", *counters).random() < 0.5
        colour = draw_colour_change(stream(seed, "colour", *counters)) if treatment.color_aug else None
        if treatment.random_crop:
            place = stream(seed, "crop", *counters)
            left, top = (
                place.randint(0, whole - cut) for whole, cut in zip(placement.resized, placement.bucket, strict=True)
            )
            placement = placement._replace(crop_left_top=(left, top))
        posterior = self.latents.get(Picture(image, placement, flipped, colour))
        # sd-scripts freezes one draw of the posterior in its cache; compatibility keeps the draw of the first epoch.
        frozen = config.compatibility == "kohya" and config.dataset.cache_latents and not treatment.varies_pixels
        draw = (0, visit.image, 0) if frozen else counters
        latents = draw_latents(posterior.mean, posterior.log_variance, seed, *draw) * self.base.vae_scale
        noise = draw_visit_noise(latents, config.noise, seed, *counters)
        return _Sample(
            latents=latents,
            noise=noise.target,
            added_noise=noise.added,
            timestep=self.timestep(visit, epoch),
            caption=draw_caption(
                image.caption,
                treatment.caption,
                seed=seed,
                epoch=epoch,
                visit=(visit.image, visit.repeat),
                step=step,
                max_steps=self.plan.length.total_steps,
            ),
            time_ids=self._time_ids(image, placement, flipped),
            mask=self._mask(image, placement, flipped),
            weight=config.loss.prior_loss_weight if image.is_reg else 1.0,
            preserved=image.is_reg and config.loss.diff_output_preservation,
        )

    def _mask(self, image: TrainImage, placement: Placement, flipped: bool) -> Tensor | None:
        """(h, w) in latent pixels; None where the whole picture counts."""
        from_alpha = image.mask_path is None
        if from_alpha and not image.treatment.alpha_mask:
            return None
        path = image.path if image.mask_path is None else image.mask_path
        if image.path in self._masks:
            mask = self._masks[image.path]
        else:
            array = training_mask(path, placement, alpha=from_alpha)
            mask = None if array is None else torch.from_numpy(array)
            if not image.treatment.random_crop:
                self._masks[image.path] = mask
        return mask.flip(1) if mask is not None and flipped else mask

    def _time_ids(self, image: TrainImage, placement: Placement, flipped: bool) -> Tensor:
        left, top = placement.crop_left_top
        if self.plan.config.compatibility == "kohya":
            # Its crop is centred in both axes, so that mirroring moves it by a pixel at most.
            top, left = kohya_crop_top_left(image.size, placement.bucket)
        elif flipped:
            # What is cut off on the right of the original is cut off on the left of the mirrored picture.
            left = placement.resized[0] - placement.bucket[0] - left
        return sdxl_time_ids(image.size, (left, top), placement.bucket)


def class_token(image: TrainImage) -> str:
    """The class in `name class` or `name, class` of a concept folder; "" where it names no class."""
    _, *rest = re.split(r"[ ,]+", image.class_tokens.strip(), maxsplit=1)
    return rest[0] if rest else ""
