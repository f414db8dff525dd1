"""The diffusion schedule, the noise of a visit, and the noising of latents. Pure functions on tensors.

Stable Diffusion's schedule: T = 1000 steps, sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) ("scaled linear").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loratory.config.schema import NoiseSettings
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


@dataclass(frozen=True)
class VisitNoise:
    """The noise of one visit, (C, H, W). target: what is predicted. added: what the latents get, for all but an input
    perturbation the same tensor."""

    target: Tensor
    added: Tensor


def draw_visit_noise(latents: Tensor, settings: NoiseSettings, seed: int, *counters: int | str) -> VisitNoise:
    """Noise with the offsets, coarser layers and perturbation that are asked for, in sd-scripts' order.

    latents: (C, H, W), scaled. Each kind has a stream of its own, so that switching one on leaves the others as they
    were. sd-scripts normalises the coarser layers over a batch and shares random strengths in it; here each visit
    stands alone, so that it does not depend on what else is in its batch.
    """
    channels, height, width = latents.shape
    noise = draw_noise(latents.shape, seed, *counters)
    if settings.noise_offset:
        offset = settings.noise_offset
        if settings.noise_offset_random_strength:
            offset *= stream(seed, "noise offset strength", *counters).random()
        shifts = torch.randn(channels, 1, 1, generator=_generator(seed, "noise offset", *counters))
        noise = offset_noise(noise, latents, shifts, offset, settings.adaptive_noise_scale)
    if settings.multires_noise_iterations:
        ratio = stream(seed, "multires ratio", *counters)
        ratios = [ratio.random() * 2 + 2 for _ in range(settings.multires_noise_iterations)]
        generator = _generator(seed, "multires", *counters)
        layers = [torch.randn(channels, *size, generator=generator) for size in multires_sizes(height, width, ratios)]
        noise = multires_noise(noise, layers, settings.multires_noise_discount)
    if not settings.ip_noise_gamma:
        return VisitNoise(noise, noise)
    strength = settings.ip_noise_gamma
    if settings.ip_noise_gamma_random_strength:
        strength *= stream(seed, "input perturbation strength", *counters).random()
    perturbation = torch.randn(latents.shape, generator=_generator(seed, "input perturbation", *counters))
    return VisitNoise(noise, noise + strength * perturbation)


def offset_noise(
    noise: Tensor, latents: Tensor, shifts: Tensor, offset: float, adaptive_noise_scale: float | None = None
) -> Tensor:
    """noise + offset * shifts: every channel of `noise` (C, H, W) moved as a whole; shifts: standard normal (C, 1, 1).

    adaptive_noise_scale: added to the offset in proportion to |mean of the channel of `latents`|; the sum is at least
    0. Source: crosslabs.org "Diffusion with Offset Noise", and sd-scripts for the adaptive form.
    """
    if adaptive_noise_scale is None:
        return noise + offset * shifts
    mean = latents.mean(dim=(-2, -1), keepdim=True).abs()
    return noise + (offset + adaptive_noise_scale * mean).clamp(min=0) * shifts


def multires_sizes(height: int, width: int, ratios: Sequence[float]) -> list[tuple[int, int]]:
    """(height, width) of each noise layer: the i-th is ratios[i] ** i times smaller, and 1 pixel wide is the last."""
    sizes: list[tuple[int, int]] = []
    for level, ratio in enumerate(ratios):
        sizes.append((max(1, int(height / ratio**level)), max(1, int(width / ratio**level))))
        if min(sizes[-1]) == 1:
            break
    return sizes


def multires_noise(noise: Tensor, layers: Sequence[Tensor], discount: float) -> Tensor:
    """Pyramid noise: coarser layers (C, h, w), enlarged, added by weights discount ** i; then scaled to a spread of 1.

    Source: wandb.ai/johnowhitaker "Multi-Resolution Noise for Diffusion Model Training".
    """
    size = noise.shape[-2:]
    for level, layer in enumerate(layers):
        enlarged = torch.nn.functional.interpolate(layer[None], size=size, mode="bilinear")[0]
        noise = noise + enlarged * discount**level
    return noise / noise.std()


def _generator(seed: int, purpose: str, *counters: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))
