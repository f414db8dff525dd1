"""Base models in memory: diffusers and transformers modules, whichever layout the weights came in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from loratory.errors import LoratoryError
from loratory.models.components import (
    COMPONENTS_KEY,
    Component,
    component_configs,
    component_names,
    described_components,
    family_config,
    load_tokenizers,
    read_json,
    weight_files,
)
from loratory.models.detect import ModelInfo
from loratory.models.header import read_header
from loratory.models.names import Origin, original_name
from loratory.models.recognize import FAMILY_NAMES, TEXT_ENCODER_PREFIXES, UNET_PREFIX, VAE_PREFIX, Family
from loratory.models.weights import Samples, fill, folder_origin, refuse_strays, samples_identity, weights_identity

if TYPE_CHECKING:
    from loratory.config.schema import ModelSettings

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection

VAE_SCALES: dict[Family, float] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


@dataclass
class BaseModel:
    """A base model ready for use: on the CPU, in eval mode, with no parameter requiring gradients.

    The VAE is fp32, and so is the rest unless `load_base_model` was asked for another format.
    text_encoders, tokenizers: one each, two for SDXL. identity: hash of some weights of each component, for keys of
    caches and to tell whether a run goes on with its own model. vae_scale: the UNet's latents are those of the VAE
    times this.
    """

    info: ModelInfo
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[TextEncoder]
    tokenizers: list[CLIPTokenizer]
    identity: dict[str, str]
    vae_scale: float


def build_component(component: Component, config: Mapping[str, Any]) -> Any:
    """A component of that config whose parameters are on the meta device: shapes without memory."""
    with init_empty_weights(include_buffers=False):
        if component == "unet":
            return UNet2DConditionModel.from_config(dict(config))
        if component == "vae":
            return AutoencoderKL.from_config(dict(config))
        text_config = CLIPTextConfig.from_dict(dict(config))
        if component == "text_encoder_2":
            return CLIPTextModelWithProjection(text_config)
        return CLIPTextModel(text_config)


def meta_unet_and_text_encoders(info: ModelInfo) -> tuple[UNet2DConditionModel, list[TextEncoder]]:
    """UNet and text encoders on the meta device, to count and name their layers without loading weights."""
    configs = component_configs(info)
    encoders: list[Component] = [name for name in component_names(info.family) if name not in ("unet", "vae")]
    return build_component("unet", configs["unet"]), [build_component(name, configs[name]) for name in encoders]


def load_base_model(info: ModelInfo, settings: "ModelSettings", *, dtype: torch.dtype | None = None) -> BaseModel:
    """Loads every component of a detected model, with the VAE of `model.vae` where one is set.

    dtype: format of the UNet and the text encoders, each tensor cast as it is read; None for fp32, which the VAE
    has always. The identity does not depend on it. Memory: the model in that format plus one tensor, beside the
    pages of the file, which the system can drop. Raises LoratoryError for missing, left-over or misshapen tensors,
    naming a few.
    """
    configs = component_configs(info)
    if info.layout == "single_file":
        scopes = (UNET_PREFIX, VAE_PREFIX, *TEXT_ENCODER_PREFIXES[info.family])
        refuse_strays(read_header(info.path), scopes)
    loaded: dict[Component, nn.Module] = {}
    identity: dict[str, str] = {}
    for component in component_names(info.family):
        if component == "vae" and settings.vae is not None:
            configs[component], loaded[component] = load_vae(Path(settings.vae), info.family)
            identity[component] = weights_identity(loaded[component], configs[component])
            continue
        if component == "vae":
            _check_vae(info.path, configs[component], info.family)
        form = torch.float32 if component == "vae" or dtype is None else dtype
        loaded[component], samples = _load_component(info, component, configs[component], form)
        identity[component] = samples_identity(samples, configs[component])
    unet: Any = loaded["unet"]
    vae: Any = loaded["vae"]
    encoders: list[Any] = [loaded[name] for name in loaded if name.startswith("text_encoder")]
    return BaseModel(
        info=info,
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=load_tokenizers(info),
        identity=identity,
        vae_scale=VAE_SCALES[info.family],
    )


def _load_component(
    info: ModelInfo, component: Component, config: Mapping[str, Any], dtype: torch.dtype
) -> tuple[nn.Module, Samples]:
    module: nn.Module = build_component(component, config)
    if info.layout == "diffusers":
        paths = weight_files(info.path / component)

        def origin(name: str, present: Mapping[str, Any]) -> Origin:
            return folder_origin(component, name, present)

        samples = fill(module, paths, origin, dtype=dtype)
    else:

        def origin(name: str, present: Mapping[str, Any]) -> Origin:
            source = original_name(info.family, component, name, config)
            # Some merging tools of the SD 1.x days left out one level of the text encoder's names.
            short = source._replace(key=source.key.replace(".text_model.", ".", 1))
            return short if source.key not in present and short.key in present else source

        scope = UNET_PREFIX if component == "unet" else VAE_PREFIX
        if component.startswith("text_encoder"):
            scope = TEXT_ENCODER_PREFIXES[info.family][1 if component == "text_encoder_2" else 0]
        hint = "A model of another depth or width, such as a distilled one, loads from its diffusers folder."
        samples = fill(module, [info.path], origin, dtype=dtype, scope=scope, hint=hint)
    return module.requires_grad_(False).eval(), samples


def load_vae(path: Path, family: Family) -> tuple[dict[str, Any], AutoencoderKL]:
    """A VAE of its own with its config: a diffusers folder, or a file with original or diffusers names.

    A folder may be the VAE itself or a model that has one in its subfolder vae; a file may also be a complete
    checkpoint. Raises LoratoryError when there is no VAE or its tensors do not fit.
    """
    hint = "model.vae needs the VAE of an SD 1.x, 2.x or SDXL model."
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        config, paths, prefix = read_json(folder / "config.json"), weight_files(folder), None
    elif path.is_file():
        config, paths, prefix = _vae_file_config(path, family), [path], _vae_file_prefix(path)
    else:
        raise LoratoryError(f"model.vae: there is no file or folder {path}.", hint=hint)
    _check_vae(path, config, family)
    vae: AutoencoderKL = build_component("vae", config)

    def origin(name: str, present: Mapping[str, Any]) -> Origin:
        if prefix is None:
            return folder_origin("vae", name, present)
        return Origin(prefix + original_name(family, "vae", name, config).key.removeprefix(VAE_PREFIX))

    fill(vae, paths, origin, scope=prefix or "", hint=hint)
    return config, vae.requires_grad_(False).eval()


def _vae_file_prefix(path: Path) -> str | None:
    """What stands before the original VAE names in a file; None when the file has diffusers names."""
    names = read_header(path).tensors
    for prefix in (VAE_PREFIX, ""):
        if prefix + "decoder.mid.block_1.conv1.weight" in names:
            return prefix
    if "decoder.mid_block.resnets.0.conv1.weight" in names:
        return None
    raise LoratoryError(
        f"model.vae: {path} holds no VAE.", hint="model.vae needs the VAE of an SD 1.x, 2.x or SDXL model."
    )


def _vae_file_config(path: Path, family: Family) -> dict[str, Any]:
    described = read_header(path).metadata.get(COMPONENTS_KEY)
    if described is not None:
        return described_components(path, described, ("vae",))["vae"]
    beside = path.parent / "config.json"
    return read_json(beside) if beside.is_file() else family_config(family, "vae")


def _check_vae(path: Path, config: Mapping[str, Any], family: Family) -> None:
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise LoratoryError(f"The VAE of {path} is of the kind {kind}; AutoencoderKL is needed.")
    channels = config.get("latent_channels", 4)
    if channels != 4:
        raise LoratoryError(f"The VAE of {path} makes latents of {channels} channels; the UNet takes 4.")
    scale, expected = config.get("scaling_factor", VAE_SCALES[family]), VAE_SCALES[family]
    if abs(scale - expected) > 1e-6:
        raise LoratoryError(
            f"The VAE of {path} scales latents by {scale}, {FAMILY_NAMES[family]} models by {expected}: "
            "it belongs to another family.",
            hint="Use a VAE made for this base model.",
        )
