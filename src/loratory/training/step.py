"""One forward pass: from a batch to the loss that is minimised. The same code trains, replays and is measured."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loratory.config.schema import LossSettings
from loratory.models.text import TextConditioning
from loratory.training.batches import Batch
from loratory.training.loss import loss_weights, per_sample_loss, target_of
from loratory.training.noise import Schedule, add_noise


@dataclass(frozen=True)
class Losses:
    """total: mean over the batch of the weighted losses, to be minimised. unweighted: (B,), for the records."""

    total: Tensor
    unweighted: Tensor


def predict(unet: torch.nn.Module, batch: Batch, text: TextConditioning, schedule: Schedule) -> Tensor:
    """The network's prediction for the noised latents of a batch."""
    added = batch.noise if batch.added_noise is None else batch.added_noise
    noisy = add_noise(batch.latents, added, batch.timesteps, schedule)
    conditions: dict[str, Any] = {}
    if text.pooled is not None:
        conditions["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": batch.time_ids}
    return unet(noisy, batch.timesteps, encoder_hidden_states=text.hidden, **conditions).sample


def forward_losses(
    unet: torch.nn.Module,
    batch: Batch,
    text: TextConditioning,
    schedule: Schedule,
    settings: LossSettings,
    *,
    v_prediction: bool,
    preserved: Tensor | None = None,
) -> Losses:
    """Noises the latents, predicts, compares. Everything on one device; call it under autocast for mixed precision.

    preserved: what the base model predicts for `batch.preserved_part`, the target there.
    """
    prediction = predict(unet, batch, text, schedule)
    target = target_of(batch.latents, batch.noise, batch.timesteps, schedule, v_prediction=v_prediction)
    if preserved is not None and batch.preserved is not None:
        target = target.index_copy(0, batch.preserved, preserved.to(target.dtype))
    unweighted = per_sample_loss(prediction, target, batch.timesteps, schedule, settings, batch.masks)
    timestep_weights = loss_weights(batch.timesteps, schedule, settings, v_prediction=v_prediction)
    weighted = unweighted * batch.weights * timestep_weights
    return Losses(weighted.sum() / (batch.total or len(weighted)), unweighted)
