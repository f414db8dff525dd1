"""Pictures drawn from the base model, with or without the adapter.

Every picture has its own seed and its own CPU generator, so drawing disturbs nothing and can be repeated anywhere.
"""

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from loratory.models.load import BaseModel
from loratory.models.text import TextConditioning, encode_text
from loratory.sampling.prompts import Prompt
from loratory.sampling.samplers import make_sampler, refuse_samplers, uses_rescaled_schedule

# More pictures at once would only cost memory: the decoder's above all.
_BATCH = 4

# Lin et al. 2023 (arXiv 2305.08891), for models with zero terminal SNR.
_GUIDANCE_RESCALE = 0.7


@torch.no_grad()
def draw(
    base: BaseModel,
    prompts: Sequence[Prompt],
    *,
    clip_skip: int | None,
    max_token_length: int,
    weighted_captions: bool = False,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Image.Image]:
    """Draws one RGB picture per prompt; those of equal size, steps, guidance and sampler share a batch.

    A zero-terminal-SNR model that predicts v is sampled with the rescaled schedule, trailing timesteps and guidance
    rescale 0.7, as Lin et al. 2023 (arXiv 2305.08891) prescribe. The modules keep their device, dtype and mode.
    weighted_captions: brackets in prompts, negative ones too, are read as in captions (`loratory.models.emphasis`).
    Raises LoratoryError for a sampler that cannot draw with this model.
    """
    refuse_samplers(prompts, base.info)
    pictures: dict[int, Image.Image] = {}
    groups: dict[tuple[int, int, int, float, str], list[int]] = {}
    for index, prompt in enumerate(prompts):
        kind = (prompt.width, prompt.height, prompt.steps, prompt.guidance_scale, prompt.sampler)
        groups.setdefault(kind, []).append(index)
    with _borrowed(base, device):
        for indices in groups.values():
            for start in range(0, len(indices), _BATCH):
                chunk = indices[start : start + _BATCH]
                together = [prompts[index] for index in chunk]
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    positive, negative = (
                        encode_text(
                            base,
                            texts,
                            clip_skip=clip_skip,
                            max_token_length=max_token_length,
                            weighted_captions=weighted_captions,
                        )
                        for texts in ([each.text for each in together], [each.negative for each in together])
                    )
                    latents = _denoise(base, together, positive, negative, device)
                images = [_decode(base, latent, device, dtype) for latent in latents]
                pictures.update(zip(chunk, images, strict=True))
    return [pictures[index] for index in range(len(prompts))]


def _denoise(
    base: BaseModel,
    prompts: Sequence[Prompt],
    positive: TextConditioning,
    negative: TextConditioning,
    device: torch.device,
) -> torch.Tensor:
    """Latents (pictures, 4, height / 8, width / 8) in float32, of prompts of one kind.

    Start and whatever noise the sampler adds come in float32 from each picture's own generator on the CPU, and the
    sampler computes in float32 whatever the model computes in: the same picture everywhere.
    """
    kind = prompts[0]
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    shape = (4, kind.height // 8, kind.width // 8)
    start = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
    sampler = make_sampler(kind.sampler, kind.steps, base.info)
    sampler.set_timesteps(kind.steps, device=device)
    takes_noise = "generator" in inspect.signature(sampler.step).parameters
    noise: dict[str, Any] = {"generator": generators} if takes_noise else {}
    # 1 is the prediction for the prompt alone.
    guided = kind.guidance_scale > 1
    conditions = _conditions(base, positive, negative if guided else None, kind, len(prompts), device)
    rescale = _GUIDANCE_RESCALE if uses_rescaled_schedule(base.info) else 0.0
    unet: Any = base.unet
    latents = start * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        # Both predictions in one pass, as each waits for the memory more than for the arithmetic.
        given = sampler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        predicted = unet(given, timestep, **conditions).sample.float()
        if guided:
            without, towards = predicted.chunk(2)
            predicted = without + kind.guidance_scale * (towards - without)
            if rescale:
                spread = towards.std((1, 2, 3), keepdim=True) / predicted.std((1, 2, 3), keepdim=True)
                predicted = predicted * (1 + rescale * (spread - 1))
        latents = sampler.step(predicted, timestep, latents, **noise).prev_sample
    return latents


def _conditions(
    base: BaseModel,
    positive: TextConditioning,
    negative: TextConditioning | None,
    kind: Prompt,
    pictures: int,
    device: torch.device,
) -> dict[str, Any]:
    """What the UNet takes beside latents and timestep; where there is a negative prompt, that of it first."""
    both = [positive] if negative is None else [negative, positive]
    conditions: dict[str, Any] = {"encoder_hidden_states": torch.cat([each.hidden for each in both])}
    pooled = [each.pooled for each in both if each.pooled is not None]
    if pooled:
        # SDXL is told the size of the picture, where it was cropped (nowhere), and the size to draw.
        size = torch.tensor([[kind.height, kind.width, 0, 0, kind.height, kind.width]], device=device)
        conditions["added_cond_kwargs"] = {
            "text_embeds": torch.cat(pooled),
            "time_ids": size.to(pooled[0].dtype).repeat(pictures * len(both), 1),
        }
    return conditions


def _decode(base: BaseModel, latent: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Image.Image:
    vae: Any = base.vae
    # SDXL's VAE overflows in float16; bfloat16 has the range.
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        decoded = vae.decode((latent[None].float() / base.vae_scale).to(vae.dtype)).sample[0]
    pixels = (decoded.float() / 2 + 0.5).clamp(0, 1).nan_to_num(0).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy(), "RGB")


@contextmanager
def _borrowed(base: BaseModel, device: torch.device) -> Generator[None]:
    """All modules on `device` in evaluation mode, and back as they were afterwards."""
    modules: list[torch.nn.Module] = [base.unet, base.vae, *base.text_encoders]
    before = [(module, next(module.parameters()).device, module.training) for module in modules]
    try:
        for module in modules:
            module.to(device).eval()
        yield
    finally:
        for module, home, training in before:
            module.to(home).train(training)
