"""Small random base models on disk, with the structure of the real ones, for every test that needs a model.

`tiny_model(folder, "sdxl")` writes a diffusers folder in well under a second; `shared_tiny_model("sdxl")`
gives one that is built once per test process and must not be changed. Both are loaded like any model:
`detect_model(ModelSettings(pretrained_model_name_or_path=str(folder)), NoiseSettings())`. They have no
tokenizer folder, so the vocabulary that ships with the program is used. Pictures must have sides in multiples
of 8; 64 x 64 is a good size.
"""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from loratory.models.components import ASSETS, family_config, read_json

Family = Literal["sd1", "sd2", "sdxl"]

_UNET: dict[Family, dict[str, Any]] = {
    "sd1": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 2},
    "sd2": {
        "block_out_channels": [32, 32, 64, 64],
        "cross_attention_dim": 64,
        "attention_head_dim": [1, 1, 2, 2],
    },
    "sdxl": {
        "block_out_channels": [32, 32, 64],
        "cross_attention_dim": 96,
        "attention_head_dim": [1, 1, 2],
        "transformer_layers_per_block": [1, 1, 2],
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 64 + 6 * 32,
    },
}
_VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "sample_size": 32}


def _text_encoder(width: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "projection_dim": width,
    }


def tiny_model(
    folder: Path,
    family: Family = "sd1",
    *,
    seed: int = 0,
    prediction_type: str | None = None,
    zero_terminal_snr: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a small random model of `family` to `folder` (diffusers layout) and returns it.

    Same block types and depth per level as the published model, with 32 to 64 channels; text encoders of 32
    (SD 1.x, SDXL first) or 64 (SD 2.x, SDXL second) channels and 3 layers. prediction_type: as published
    (epsilon; v_prediction for sd2) when None.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(family_config(family, "unet") | _UNET[family])
        vae = AutoencoderKL.from_config(family_config(family, "vae") | _VAE)
        encoders: dict[str, Any] = {}
        width = 64 if family == "sd2" else 32
        config = family_config(family, "text_encoder") | _text_encoder(width, 3)
        encoders["text_encoder"] = CLIPTextModel(CLIPTextConfig.from_dict(config))
        if family == "sdxl":
            config = family_config(family, "text_encoder_2") | _text_encoder(64, 3)
            encoders["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))
    for name, module in {"unet": unet, "vae": vae, **encoders}.items():
        (module if dtype == torch.float32 else module.to(dtype)).save_pretrained(folder / name)
    shutil.copy(ASSETS / family / "model_index.json", folder)
    scheduler = read_json(ASSETS / family / "scheduler" / "scheduler_config.json")
    scheduler["prediction_type"] = prediction_type or scheduler["prediction_type"]
    scheduler["rescale_betas_zero_snr"] = zero_terminal_snr
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@cache
def shared_tiny_model(family: Family = "sd1") -> Path:
    """A `tiny_model` built once for the whole test process; to be read only."""
    folder = Path(tempfile.mkdtemp(prefix="loratory-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny_model(folder / family, family)
