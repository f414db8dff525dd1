"""A base model in memory to one file in the original layout, as front ends and other trainers read it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from loratory import atomic
from loratory.models.components import COMPONENTS_KEY, Component
from loratory.models.load import BaseModel
from loratory.models.names import original_name


def export_single_file(base: BaseModel, path: Path) -> None:
    """Writes UNet, VAE and text encoders to `path` in the original single-file layout, in their own dtype.

    The metadata describes the components, so models of any width load again; the prediction type and zero
    terminal SNR are kept (`modelspec.prediction_type`, and the keys `v_pred` and `ztsnr`). Of SD 2.x the last
    layer of the OpenCLIP text encoder is not there, as it is not in the diffusers layout. Written atomically;
    raises OSError as the disk does.
    """
    modules: dict[Component, Any] = {
        "unet": base.unet,
        "vae": base.vae,
        "text_encoder": base.text_encoders[0],
    }
    if len(base.text_encoders) == 2:
        modules["text_encoder_2"] = base.text_encoders[1]
    tensors: dict[str, Tensor] = {}
    configs: dict[str, dict[str, Any]] = {}
    for component, module in modules.items():
        configs[component] = _plain_config(module)
        thirds: dict[str, list[Tensor | None]] = {}
        for name, tensor in module.state_dict().items():
            origin = original_name(base.info.family, component, name, configs[component])
            tensor = tensor.detach().cpu()
            if origin.third is not None:
                thirds.setdefault(origin.key, [None, None, None])[origin.third] = tensor
                continue
            if component == "vae" and ".attn_1." in origin.key and tensor.dim() == 2:
                tensor = tensor[:, :, None, None]  # the original VAE attention is made of 1x1 convolutions
            tensors[origin.key] = (tensor.t() if origin.transposed else tensor).contiguous()
        for key, parts in thirds.items():
            tensors[key] = torch.cat([part for part in parts if part is not None])
    is_v = base.info.prediction_type == "v_prediction"
    if is_v:
        tensors["v_pred"] = torch.zeros(0)
    if base.info.zero_terminal_snr:
        tensors["ztsnr"] = torch.zeros(0)
    metadata = {
        "format": "pt",
        COMPONENTS_KEY: json.dumps(configs),
        "modelspec.prediction_type": "v" if is_v else "epsilon",
    }
    with atomic.replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def _plain_config(module: Any) -> dict[str, Any]:
    # diffusers notes in `_name_or_path` where a model was loaded from, which is nobody's business in a file
    # that is passed on; text encoder configs have a method for their JSON form.
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    return {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}
