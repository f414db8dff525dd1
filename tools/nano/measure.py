"""What nano can do, in figures and as a sheet of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from judge import JudgeTask, background_of, smaller
from loop import SEED
from pictures import BACKGROUNDS, SIDE_PX, Pictures, on_background
from PIL import Image
from transformers import CLIPTokenizer
from vae import there_and_back

STEPS, GUIDANCE = 20, 4.5
_PROMPTS = (
    "noto style, fox, white background",
    "noto style, cat, blue background",
    "flat style, red apple, white background",
    "noto style, rocket, black background",
    "flat style, mushroom, green background",
    "noto style, octopus, white background",
    "flat style, automobile, yellow background",
    "noto style, rose, white background",
    "noto style, penguin, red background",
    "flat style, strawberry, white background",
    "noto style, dragon, white background",
    "flat style, whale, blue background",
    "noto style, pizza, grey background",
    "flat style, butterfly, pink background",
    "noto style, lion, orange background",
    "flat style, teddy bear, purple background",
)


def load_pipeline(folder: Path, tokenizer: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, tokenizer=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77)
    )
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)


def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int = SEED) -> torch.Tensor:
    """Pictures [n, 3, 128, 128] from -1 to 1; the nth prompt has the seed `seed` + n."""
    parts: list[torch.Tensor] = []
    for at in range(0, len(prompts), 16):
        part = list(prompts[at : at + 16])
        seeds = [torch.Generator().manual_seed(seed + at + index) for index in range(len(part))]
        drawn = pipeline(
            part,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=SIDE_PX,
            width=SIDE_PX,
            generator=seeds,
            output_type="pt",
        ).images
        parts.append(drawn.cpu() * 2 - 1)
    return torch.cat(parts)


@torch.no_grad()
def _verdicts(judge: JudgeTask, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    network = judge.networks["judge"].eval()
    device = next(network.parameters()).device
    subjects, styles = network(x.to(device))
    return subjects.cpu(), styles.cpu()


def wanted_pictures(judge: JudgeTask, count: int) -> list[tuple[str, str, str]]:
    """Style, subject and background of pictures to be drawn: every nth subject, all styles and backgrounds in turn."""
    names = [judge.subjects[index * len(judge.subjects) // count] for index in range(count)]
    styles = [judge.styles[index % len(judge.styles)] for index in range(count)]
    backgrounds = [list(BACKGROUNDS)[index // len(judge.styles) % len(BACKGROUNDS)] for index in range(count)]
    return list(zip(styles, names, backgrounds, strict=True))


def drawn_shares(
    pipeline: StableDiffusionPipeline, judge: JudgeTask, wanted: Sequence[tuple[str, str, str]]
) -> dict[str, float]:
    """What the judge says of pictures drawn from prompts."""
    prompts = [f"{style} style, {name}, {background} background" for style, name, background in wanted]
    return _shares(judge, draw(pipeline, prompts), wanted)


def real_shares(
    pipeline: StableDiffusionPipeline, judge: JudgeTask, pictures: Pictures, wanted: Sequence[tuple[str, str, str]]
) -> dict[str, float]:
    """What it says of the real pictures, through the VAE and back: more cannot be had."""
    places = {pair: index for index, pair in enumerate(zip(pictures.style, pictures.name, strict=True))}
    chosen = np.array([places[style, name] for style, name, _ in wanted])
    colours = np.array([BACKGROUNDS[background] for _, _, background in wanted], np.float32)
    real = there_and_back(pipeline.vae, on_background(pictures.pixels[chosen], colours))
    return _shares(judge, real, wanted)


def _shares(judge: JudgeTask, x: torch.Tensor, wanted: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Of how many pictures the judge says style, subject and background as `wanted`."""
    subjects, styles = _verdicts(judge, smaller(x))
    five = subjects.topk(5, dim=1).indices
    style = torch.tensor([judge.styles.index(name) for name, _, _ in wanted])
    subject = torch.tensor([judge.subjects.index(name) for _, name, _ in wanted])
    found = [one == other for one, (_, _, other) in zip(background_of(x), wanted, strict=True)]
    return {
        "subject_first": (five[:, 0] == subject).float().mean().item(),
        "subject_among_five": (five == subject[:, None]).any(1).float().mean().item(),
        "style": (styles.argmax(1) == style).float().mean().item(),
        "background": sum(found) / len(found),
    }


def contact_sheet(folder: Path, tokenizer: Path) -> Image.Image:
    """All of `_PROMPTS`, each with two seeds, one above the other."""
    pipeline = load_pipeline(folder, tokenizer)
    half = len(_PROMPTS) // 2
    sheet = Image.new("RGB", (half * (SIDE_PX + 2), 4 * (SIDE_PX + 2)), "white")
    for row, seed in enumerate((1, 101)):
        for index, picture in enumerate(draw(pipeline, _PROMPTS, seed)):
            levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            at = ((index % half) * (SIDE_PX + 2), (2 * (index // half) + row) * (SIDE_PX + 2))
            sheet.paste(Image.fromarray(levels), at)
    return sheet
