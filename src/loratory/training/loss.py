"""What the network is asked to predict, and how far off it was. Pure functions on tensors."""

import math

import torch
from torch import Tensor

from loratory.config.schema import LossSettings
from loratory.training.noise import TRAIN_TIMESTEPS, Schedule, velocity

# sd-scripts' ceiling for the SNR of the first timesteps in the weights below.
_LARGEST_SNR = 1000.0


def target_of(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule, *, v_prediction: bool) -> Tensor:
    """The prediction target: the noise, or the velocity for v-prediction models. Shape (B, C, H, W)."""
    return velocity(latents, noise, timesteps, schedule) if v_prediction else noise


def per_sample_loss(
    prediction: Tensor,
    target: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    settings: LossSettings,
    mask: Tensor | None = None,
) -> Tensor:
    """The distance of `loss_type`, in float32, averaged over everything but the batch: (B, C, H, W) -> (B,).

    mask: (B, 1, H, W), 0 to 1, multiplied with each element before the average, as in sd-scripts: a picture with a
    small mask has a small loss.
    """
    prediction, target = prediction.float(), target.float()
    match settings.loss_type:
        case "l2":
            loss = torch.nn.functional.mse_loss(prediction, target, reduction="none")
        case "l1":
            loss = torch.nn.functional.l1_loss(prediction, target, reduction="none")
        case "huber" | "smooth_l1":
            # Charbonnier's smooth form: 2 c (sqrt(d^2 + c^2) - c) tends to d^2 below c and to 2 c |d| above it.
            c = huber_threshold(timesteps, schedule, settings).view(-1, 1, 1, 1)
            distance = torch.sqrt((prediction - target) ** 2 + c**2) - c
            loss = 2 * c * distance if settings.loss_type == "huber" else 2 * distance
    if mask is not None:
        loss = loss * mask
    return loss.mean([1, 2, 3])


def huber_threshold(timesteps: Tensor, schedule: Schedule, settings: LossSettings) -> Tensor:
    """The turning point c of "huber" and "smooth_l1" at each timestep, (B,).

    "constant": huber_c huber_scale. "exponential": from huber_scale at t = 0 down to huber_c huber_scale at the end.
    "snr": huber_c + (1 - huber_c) / (1 + sigma / alpha)^2, which huber_scale does not touch. Source: sd-scripts.
    """
    match settings.huber_schedule:
        case "constant":
            return torch.full(timesteps.shape, settings.huber_c * settings.huber_scale, device=timesteps.device)
        case "exponential":
            decay = -math.log(settings.huber_c) / TRAIN_TIMESTEPS
            return torch.exp(-decay * timesteps) * settings.huber_scale
        case "snr":
            noise_to_signal = schedule.sigma[timesteps] / schedule.alpha[timesteps]
            return (1 - settings.huber_c) / (1 + noise_to_signal) ** 2 + settings.huber_c


def loss_weights(timesteps: Tensor, schedule: Schedule, settings: LossSettings, *, v_prediction: bool) -> Tensor:
    """The factor each sample's loss is multiplied with because of its timestep, shape (B,), >= 0.

    All that are switched on multiply, in sd-scripts' order.
    """
    snr = schedule.snr[timesteps]
    weights = torch.ones_like(snr)
    if settings.min_snr_gamma:
        weights = weights * min_snr_weight(snr, settings.min_snr_gamma, v_prediction=v_prediction)
    if settings.scale_v_pred_loss_like_noise_pred:
        weights = weights * _noise_like(snr)
    if settings.v_pred_like_loss:
        weights = weights * (1 + settings.v_pred_like_loss / _noise_like(_positive(snr, schedule)))
    if settings.debiased_estimation_loss:
        weights = weights * debiased_weight(snr, schedule, v_prediction=v_prediction)
    return weights


def min_snr_weight(snr: Tensor, gamma: float, *, v_prediction: bool) -> Tensor:
    """min(snr, gamma) / snr, or / (snr + 1) for v-prediction (Hang et al. 2023, arXiv 2303.09556).

    At snr = 0 (the last timestep of a zero-terminal schedule) the first form takes its limit, 1.
    """
    clipped = torch.clamp(snr, max=gamma)
    if v_prediction:
        return clipped / (snr + 1.0)
    return torch.where(snr > 0, clipped / snr, torch.ones_like(snr))


def debiased_weight(snr: Tensor, schedule: Schedule, *, v_prediction: bool) -> Tensor:
    """1 / sqrt(snr), or 1 / (snr + 1) for v-prediction, snr at most 1000 (Yu et al. 2023, arXiv 2310.08442).

    Without signal the first form has no limit; it takes the weight of the timestep before.
    """
    if v_prediction:
        return 1 / (snr.clamp(max=_LARGEST_SNR) + 1)
    return 1 / torch.sqrt(_positive(snr, schedule).clamp(max=_LARGEST_SNR))


def _noise_like(snr: Tensor) -> Tensor:
    """snr / (snr + 1): the weight that turns a velocity's error into that of the noise it implies."""
    snr = snr.clamp(max=_LARGEST_SNR)
    return snr / (snr + 1)


def _positive(snr: Tensor, schedule: Schedule) -> Tensor:
    """snr with that of the last timestep of a zero-terminal schedule, 0, replaced by the one before."""
    return torch.where(snr > 0, snr, schedule.snr[-2])
