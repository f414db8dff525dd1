"""The diffusion schedule and the noising of latents. Pure functions on tensors.

Stable Diffusion's schedule: T = 1000 steps, sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) ("scaled linear").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loratory.randomness import derive_seed, stream

TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """Tables over the timesteps, float32, shape (1000,).

    alphas_cumprod: a_t. alpha, sigma: sqrt(a_t) and sqrt(1 - a_t). snr: a_t / (1 - a_t), what loss weights use; it
    belongs to alphas_cumprod except in `compatibility = "kohya"`.
    """

    alphas_cumprod: Tensor
    alpha: Tensor
    sigma: Tensor
    snr: Tensor

    def to(self, device: torch.device) -> "Schedule":
        return Schedule(*(table.to(device) for table in vars(self).values()))


def make_schedule(*, zero_terminal_snr: bool = False, kohya_compatible: bool = False) -> Schedule:
    """The schedule, with a zero terminal SNR on request (Lin et al. 2023, arXiv 2305.08891, algorithm 1).

    sd-scripts takes the SNR for its loss weights before the rescale; kohya_compatible=True does that too.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS, dtype=torch.float32) ** 2
    plain = torch.cumprod(1.0 - betas, dim=0)
    rescaled = torch.cumprod(1.0 - _zero_terminal_betas(betas), dim=0) if zero_terminal_snr else plain
    return Schedule(rescaled, _root(rescaled), _root(1.0 - rescaled), _snr(plain if kohya_compatible else rescaled))


def _zero_terminal_betas(betas: Tensor) -> Tensor:
    root = _root(torch.cumprod(1.0 - betas, dim=0))
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    squared = root**2
    alphas = torch.cat([squared[0:1], squared[1:] / squared[:-1]])
    return 1.0 - alphas


def _snr(alphas_cumprod: Tensor) -> Tensor:
    # Through the square roots, as the published code does: the last bit of a weight depends on it. They are taken in
    # float64 and rounded, because float32 roots of torch differ in the last bit from one CPU to another.
    alpha, sigma = _root(alphas_cumprod), _root(1.0 - alphas_cumprod)
    return (alpha / sigma) ** 2


def _root(values: Tensor) -> Tensor:
    return values.double().sqrt().float()


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, for latents and noise (B, C, H, W) and timesteps (B,)."""
    alpha, sigma = _alpha_sigma(latents, timesteps, schedule)
    return alpha * latents + sigma * noise


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and Ho 2022, arXiv 2202.00512); shapes as `add_noise`."""
    alpha, sigma = _alpha_sigma(latents, timesteps, schedule)
    return alpha * noise - sigma * latents


def _alpha_sigma(latents: Tensor, timesteps: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule.alpha[timesteps], schedule.sigma[timesteps]
    return alpha.view(-1, 1, 1, 1).to(latents.dtype), sigma.view(-1, 1, 1, 1).to(latents.dtype)


def draw_noise(shape: Sequence[int], seed: int, *counters: int | str) -> Tensor:
    """Standard normal noise (C, H, W) of one visit; drawn on the CPU, so the same on every device."""
    return torch.randn(*shape, generator=_generator(seed, "noise", *counters))


def draw_latents(mean: Tensor, log_variance: Tensor, seed: int, *counters: int | str) -> Tensor:
    """A sample of the VAE's posterior for one visit, unscaled, shape as `mean` (C, H, W)."""
    spread = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
    return mean + spread * torch.randn(mean.shape, generator=_generator(seed, "latents", *counters))


def draw_timestep(min_timestep: int, max_timestep: int, seed: int, *counters: int | str) -> int:
    """A timestep of one visit, uniform in [min_timestep, max_timestep)."""
    return stream(seed, "timestep", *counters).randrange(min_timestep, max_timestep)


def _generator(seed: int, purpose: str, *counters: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))
