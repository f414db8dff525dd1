"""The trained networks as files: a diffusers folder without a tokenizer, and one file in the original layout."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.models.detect import detect_model
from loratory.models.export import export_single_file
from loratory.models.load import load_base_model


def write_folder(out: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """Half precision; the tokenizer is CLIP's, which lies in `assets/clip` once for all models."""
    parts: dict[str, nn.Module] = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    for name, module in parts.items():
        module.to(torch.float16).save_pretrained(out / name, safe_serialization=True)
        module.to(torch.float32)
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(out / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def write_single_file(folder: Path, path: Path) -> None:
    """The model of `folder` in half precision, in the layout of Stable Diffusion's first release."""
    # Absolute: a bare "nano" would be the model that is embedded now.
    settings = ModelSettings(pretrained_model_name_or_path=str(folder.resolve()))
    base = load_base_model(detect_model(settings, NoiseSettings()), settings, dtype=torch.float16)
    base.vae.half()
    export_single_file(base, path)
