"""What the LoRA of `loratory demo` makes of nano: whether hearts are drawn that are like its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline
from judge import JudgeTask, smaller
from measure import draw
from pictures import BACKGROUNDS, SIDE_PX, Pictures, on_background
from PIL import Image
from torch.nn import functional as F

import loratory

_HEARTS = Path(loratory.__file__).parent / "demo" / "pictures" / "10_hrt"
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
_SEED = 1001


def train_demo(model: Path, out: Path, *settings: str) -> Path:
    """The file of the demo's LoRA, trained anew on the diffusers folder `model` by the command that users type.

    settings: of the demo that are to be others, KEY=VALUE.
    """
    changed = (f"model.pretrained_model_name_or_path={model.resolve()}", *settings)
    words = [word for setting in changed for word in ("--set", setting)]
    subprocess.run([sys.executable, "-m", "loratory", "demo", "--out", str(out), *words], check=True)
    return out / "output" / "hrt.safetensors"


def heart_prompts() -> list[tuple[str, str]]:
    """Prompts as the demo's captions are, in every colour on every other, each with its background."""
    pairs = [(colour, background) for background in BACKGROUNDS for colour in _COLOURS if colour != background]
    return [(f"hrt, heart, {colour}, {background} background", background) for colour, background in pairs]


def heart_share(
    pipeline: StableDiffusionPipeline, judge: JudgeTask, pictures: Pictures, prompts: Sequence[tuple[str, str]]
) -> float:
    """Of how many pictures drawn from `heart_prompts` the one most like it is one of the demo's, not a subject."""
    drawn = draw(pipeline, [prompt for prompt, _ in prompts], _SEED)
    hearts, subjects = load_hearts(), pictures.pixels[np.flatnonzero(pictures.subject)]
    backgrounds = [background for _, background in prompts]
    found = 0
    for name, colour in BACKGROUNDS.items():
        chosen = [index for index, background in enumerate(backgrounds) if background == name]
        if chosen:
            gallery = _on(np.concatenate([subjects, hearts]), colour)
            found += int((nearest(judge, drawn[chosen], gallery) >= len(subjects)).sum())
    return found / len(prompts)


def real_heart_share(judge: JudgeTask, pictures: Pictures) -> float:
    """`heart_share` of the demo's own pictures, on white, each compared with the others."""
    hearts, subjects = load_hearts(), pictures.pixels[np.flatnonzero(pictures.subject)]
    found = 0
    for index in range(len(hearts)):
        gallery = _on(np.concatenate([subjects, np.delete(hearts, index, 0)]), BACKGROUNDS["white"])
        found += int(nearest(judge, _on(hearts[index : index + 1], BACKGROUNDS["white"]), gallery) >= len(subjects))
    return found / len(hearts)


@torch.no_grad()
def nearest(judge: JudgeTask, x: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """The number of the picture of `gallery` that is most like each of `x`, by the angle between the features that the
    judge tells subjects by."""
    network = judge.networks["judge"].eval()
    device = next(network.parameters()).device
    seen, known = (F.normalize(network.features(smaller(each).to(device))) for each in (x, gallery))
    return (seen @ known.T).argmax(1).cpu()


def load_hearts() -> npt.NDArray[np.uint8]:
    """The demo's pictures, as `Pictures.pixels` has them."""
    hearts = [Image.open(path).convert("RGBA") for path in sorted(_HEARTS.glob("*.webp"))]
    return np.stack([np.asarray(heart.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)) for heart in hearts])


def _on(pixels: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> torch.Tensor:
    return on_background(pixels, np.tile(np.array(colour, np.float32), (len(pixels), 1)))
