"""The model card, with its figures."""

from pathlib import Path
from typing import Any

import numpy as np
from denoiser import BATCH
from measure import GUIDANCE, STEPS
from pictures import BACKGROUNDS, Pictures
from sources import KEYWORDS, STYLES
from torch import nn
from vae import CROP_PX, CROPS, WHOLE

_TEMPLATE = Path(__file__).with_name("card.md")


def model_card(pictures: Pictures, networks: dict[str, Any], steps: dict[str, int], figures: dict[str, Any]) -> str:
    """networks: "vae", "unet", "text_encoder". steps: of "vae", "decoder", "denoiser". figures: those of `report`."""

    def millions(module: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f}"

    def listed(numbers: Any) -> str:
        return ", ".join(map(str, numbers))

    def percentages(shares: dict[str, float]) -> str:
        return " | ".join(
            f"{shares[key]:.0%}" for key in ("hearts", "subject_first", "subject_among_five", "style", "background")
        )

    unet, text, vae = networks["unet"], networks["text_encoder"], networks["vae"]
    subjects = np.flatnonzero(pictures.subject)
    return _TEMPLATE.read_text("utf-8").format(
        unet=millions(unet),
        unet_channels=listed(unet.config.block_out_channels),
        text=millions(text),
        text_layers=text.config.num_hidden_layers,
        text_width=text.config.hidden_size,
        vae=millions(vae),
        vae_channels=listed(vae.config.block_out_channels),
        vae_steps=f"{steps['vae']:,}",
        decoder_steps=f"{steps['decoder']:,}",
        denoiser_steps=f"{steps['denoiser']:,}",
        denoiser_batch=BATCH,
        shown=f"{int((~pictures.held_back).sum()):,}",
        held_back=int(pictures.held_back.sum()),
        subjects=f"{len(subjects):,}",
        names=len({pictures.name[index] for index in subjects}),
        backgrounds=len(BACKGROUNDS),
        background_names=listed(BACKGROUNDS),
        psnr_held_back=figures["psnr_db_held_back"],
        psnr_subjects=figures["psnr_db_subjects"],
        drawn_count=figures["drawn_count"],
        hearts_count=figures["hearts_count"],
        drawn=percentages(figures["drawn"]),
        adapted=percentages(figures["adapted"]),
        real=percentages(figures["real"]),
        sampler_steps=STEPS,
        guidance=GUIDANCE,
        crops=CROPS,
        crop_px=CROP_PX,
        whole=WHOLE,
        packages="\n".join(f"`{package}`," for package in (*STYLES.values(), KEYWORDS)).rstrip(","),
    )
