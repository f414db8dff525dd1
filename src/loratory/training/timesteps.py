"""Which timesteps are trained, and how often each."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from loratory.config.schema import NoiseSettings
from loratory.randomness import stream
from loratory.training.noise import TRAIN_TIMESTEPS

_QUANTILES = 50_000


def draw_timestep(settings: NoiseSettings, seed: int, *counters: int | str) -> int:
    """A timestep of one visit, from `min_timestep` up to but without `max_timestep`."""
    chance = stream(seed, "timestep", *counters)
    if settings.timestep_sampling == "uniform":
        return chance.randrange(settings.min_timestep, settings.max_timestep)
    return timestep_at(chance.random(), settings)


def timestep_at(quantile: float, settings: NoiseSettings) -> int:
    """The timestep below which a share `quantile` (0 to 1) of the drawn ones lies, for "mode" and "cosmap" up to order.

    Densities over 0 to 1 as in Esser et al. 2024 (arXiv 2403.03206, section 3.1), 1 being pure noise, stretched over
    the range of timesteps.
    """
    match settings.timestep_sampling:
        case "uniform":
            place = quantile
        case "logit_normal":
            inside = min(max(quantile, 1e-12), 1 - 1e-12)
            normal = settings.logit_mean + settings.logit_std * NormalDist().inv_cdf(inside)
            place = 1 / (1 + math.exp(-normal)) if normal > -700 else 0.0
        case "mode":
            place = 1 - quantile - settings.mode_scale * (math.cos(math.pi / 2 * quantile) ** 2 - 1 + quantile)
        case "cosmap":
            place = 1 - 1 / (math.tan(math.pi / 2 * quantile) + 1)
    span = settings.max_timestep - settings.min_timestep
    return settings.min_timestep + min(max(int(place * span), 0), span - 1)


def timestep_density(settings: NoiseSettings) -> Tensor:
    """How often each timestep is trained, relative to drawing all 1000 evenly: float32 (1000,), mean 1."""
    drawn = torch.tensor([timestep_at((i + 0.5) / _QUANTILES, settings) for i in range(_QUANTILES)])
    return torch.bincount(drawn, minlength=TRAIN_TIMESTEPS).float() * (TRAIN_TIMESTEPS / _QUANTILES)


def validation_timesteps(settings: NoiseSettings, count: int = 4) -> list[int]:
    """Fixed timesteps that divide the trained range evenly: 200, 400, 600 and 800 of 1000, as in sd-scripts."""
    low, high = settings.min_timestep, settings.max_timestep
    return [low + (high - low) * (index + 1) // (count + 1) for index in range(count)]
