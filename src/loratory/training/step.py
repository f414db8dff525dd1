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


def forward_losses(
    unet: torch.nn.Module,
    batch: Batch,
    text: TextConditioning,
    schedule: Schedule,
    settings: LossSettings,
    *,
    v_prediction: bool,
) -> Losses:
    """Noises the latents, predicts, compares. Everything on one device; call it under autocast for mixed precision."""
    noisy = add_noise(batch.latents, batch.noise, batch.timesteps, schedule)
    conditions: dict[str, Any] = {}
    if text.pooled is not None:
        conditions["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": batch.time_ids}
    prediction = unet(noisy, batch.timesteps, encoder_hidden_states=text.hidden, **conditions).sample
    target = target_of(batch.latents, batch.noise, batch.timesteps, schedule, v_prediction=v_prediction)
    unweighted = per_sample_loss(prediction, target)
    timestep_weights = loss_weights(batch.timesteps, schedule, settings, v_prediction=v_prediction)
    return Losses((unweighted * batch.weights * timestep_weights).mean(), unweighted)
