"""What the network is asked to predict, and how far off it was. Pure functions on tensors."""

import torch
from torch import Tensor

from loratory.config.schema import LossSettings
from loratory.training.noise import Schedule, velocity


def target_of(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule, *, v_prediction: bool) -> Tensor:
    """The prediction target: the noise, or the velocity for v-prediction models. Shape (B, C, H, W)."""
    return velocity(latents, noise, timesteps, schedule) if v_prediction else noise


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, in float32, averaged over everything but the batch: (B, C, H, W) -> (B,)."""
    return torch.nn.functional.mse_loss(prediction.float(), target.float(), reduction="none").mean([1, 2, 3])


def loss_weights(timesteps: Tensor, schedule: Schedule, settings: LossSettings, *, v_prediction: bool) -> Tensor:
    """The factor each sample's loss is multiplied with because of its timestep, shape (B,), >= 0."""
    weights = torch.ones_like(timesteps, dtype=torch.float32)
    if settings.min_snr_gamma:
        weights = weights * min_snr_weight(schedule.snr[timesteps], settings.min_snr_gamma, v_prediction=v_prediction)
    return weights


def min_snr_weight(snr: Tensor, gamma: float, *, v_prediction: bool) -> Tensor:
    """min(snr, gamma) / snr, or / (snr + 1) for v-prediction (Hang et al. 2023, arXiv 2303.09556).

    At snr = 0 (the last timestep of a zero-terminal schedule) the first form takes its limit, 1.
    """
    clipped = torch.clamp(snr, max=gamma)
    if v_prediction:
        return clipped / (snr + 1.0)
    return torch.where(snr > 0, clipped / snr, torch.ones_like(snr))
