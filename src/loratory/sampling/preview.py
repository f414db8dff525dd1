"""Pictures drawn from the base model, with or without the adapter.

Every picture has its own seed and its own CPU generator, so drawing disturbs nothing and can be repeated anywhere.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.models.load import BaseModel
from loratory.models.text import TextConditioning, encode_text


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. Sizes in pixels."""

    text: str
    negative: str
    width: int
    height: int
    seed: int
    steps: int
    guidance_scale: float


_FLAGS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance_scale"}


def parse_prompt(line: str, defaults: Prompt) -> Prompt:
    """A prompt with kohya's flags: `fox, snow --n blurry --w 512 --h 768 --d 7 --s 30 --l 7.5`.

    Raises LoratoryError for an unknown flag or a value that is not a number where one is needed.
    """
    text, *flags = re.split(r"\s--(?=[a-z])", " " + line)
    changes: dict[str, Any] = {"text": text.strip()}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        if name not in _FLAGS:
            raise LoratoryError(f"sample prompt “{line}”: the flag --{name} is not known.", hint=f"Known: {_known()}.")
        field = _FLAGS[name]
        kind = type(getattr(defaults, field))
        try:
            changes[field] = kind(value.strip())
        except ValueError:
            raise LoratoryError(f"sample prompt “{line}”: --{name} needs a number, got “{value}”.") from None
    prompt = replace(defaults, **changes)
    sizes_fit = all(64 <= side <= 4096 and side % 8 == 0 for side in (prompt.width, prompt.height))
    rest_fits = 1 <= prompt.steps <= 1000 and 0 <= prompt.guidance_scale <= 100 and 0 <= prompt.seed < 2**63
    if not (sizes_fit and rest_fits):
        raise LoratoryError(
            f"sample prompt “{line}”: --w and --h must be multiples of 8 from 64 to 4096, --s from 1 to 1000, --l from "
            "0 to 100, --d from 0 up."
        )
    return prompt


def _known() -> str:
    return ", ".join(f"--{flag}" for flag in _FLAGS)


def prompts_of(config: Config) -> list[Prompt]:
    """The prompts of `[sample]`, inline and from the prompt file, with their defaults filled in."""
    sample = config.sample
    width, height = config.dataset.resolution_wh
    defaults = Prompt(
        text="",
        negative=sample.negative_prompt,
        width=sample.width or width,
        height=sample.height or height,
        seed=sample.seed,
        steps=sample.steps,
        guidance_scale=sample.guidance_scale,
    )
    lines = list(sample.prompts)
    if sample.sample_prompts is not None:
        try:
            lines += sample.sample_prompts.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LoratoryError(f"sample.sample_prompts: cannot read {sample.sample_prompts}: {error}.") from error
    return [parse_prompt(line, defaults) for line in lines if line.strip() and not line.lstrip().startswith("#")]


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
    """Draws one RGB picture per prompt with DDIM; prompts of equal size, steps and guidance share a batch.

    A zero-terminal-SNR model is sampled with the rescaled schedule, trailing timesteps and guidance rescale 0.7, as
    Lin et al. 2023 (arXiv 2305.08891) prescribe. The modules keep their device, dtype and mode.
    weighted_captions: brackets in prompts, negative ones too, are read as in captions (`loratory.models.emphasis`).
    """
    pictures: dict[int, Image.Image] = {}
    groups: dict[tuple[int, int, int, float], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((prompt.width, prompt.height, prompt.steps, prompt.guidance_scale), []).append(index)
    pipeline = _pipeline(base)
    with _borrowed(base, device):
        for (width, height, steps, guidance_scale), indices in groups.items():
            # Four at a time bounds the memory of the decoder.
            for start in range(0, len(indices), 4):
                chunk = indices[start : start + 4]
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    positive, negative = (
                        encode_text(
                            base,
                            texts,
                            clip_skip=clip_skip,
                            max_token_length=max_token_length,
                            weighted_captions=weighted_captions,
                        )
                        for texts in ([prompts[i].text for i in chunk], [prompts[i].negative for i in chunk])
                    )
                    latents = pipeline(
                        **_embeddings(positive, negative),
                        width=width,
                        height=height,
                        num_inference_steps=steps,
                        guidance_scale=guidance_scale,
                        # float32 from the CPU whatever the model computes in: the same start everywhere.
                        latents=torch.stack([_start(prompts[i]) for i in chunk]).to(device),
                        output_type="latent",
                        **({"guidance_rescale": 0.7} if base.info.zero_terminal_snr else {}),
                    ).images
                images = [_decode(base, latent, device, dtype) for latent in latents]
                pictures.update(zip(chunk, images, strict=True))
    return [pictures[index] for index in range(len(prompts))]


def _start(prompt: Prompt) -> torch.Tensor:
    generator = torch.Generator().manual_seed(prompt.seed)
    return torch.randn(4, prompt.height // 8, prompt.width // 8, generator=generator)


def _decode(base: BaseModel, latent: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Image.Image:
    vae: Any = base.vae
    # SDXL's VAE overflows in float16; bfloat16 has the range.
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        decoded = vae.decode((latent[None].float() / base.vae_scale).to(vae.dtype)).sample[0]
    pixels = (decoded.float() / 2 + 0.5).clamp(0, 1).nan_to_num(0).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy(), "RGB")


def _embeddings(positive: TextConditioning, negative: TextConditioning) -> dict[str, torch.Tensor]:
    embeddings = {"prompt_embeds": positive.hidden, "negative_prompt_embeds": negative.hidden}
    if positive.pooled is not None and negative.pooled is not None:
        embeddings |= {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    return embeddings


def _pipeline(base: BaseModel) -> Any:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=base.info.prediction_type,
        rescale_betas_zero_snr=base.info.zero_terminal_snr,
        timestep_spacing="trailing" if base.info.zero_terminal_snr else "leading",
    )
    shared: dict[str, Any] = {
        "vae": base.vae,
        "unet": base.unet,
        "scheduler": scheduler,
        "text_encoder": base.text_encoders[0],
    }
    if base.info.family == "sdxl":
        pipeline = StableDiffusionXLPipeline(
            **shared,
            text_encoder_2=base.text_encoders[1],  # pyright: ignore[reportArgumentType]
            tokenizer=base.tokenizers[0],
            tokenizer_2=base.tokenizers[1],
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            **shared,
            tokenizer=base.tokenizers[0],
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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
