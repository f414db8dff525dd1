"""Which base model a setting names: its family, what it predicts, and whether its schedule ends in noise.

Nothing here imports torch: everything is read from names, configs and safetensors headers.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loratory.config.schema import EMBEDDED_MODEL
from loratory.errors import LoratoryError
from loratory.models.components import ASSETS, component_names, read_json, weight_files
from loratory.models.header import Header, read_header
from loratory.models.hub import fetch_from_hub, is_hub_id
from loratory.models.recognize import (
    FAMILY_NAMES,
    NOT_SUPPORTED,
    VAE_PREFIX,
    Family,
    check_input_channels,
    recognize_checkpoint,
)

if TYPE_CHECKING:
    from loratory.config.schema import ModelSettings, NoiseSettings

PredictionType = Literal["epsilon", "v_prediction"]

_PIPELINES: dict[str, str] = {
    "StableDiffusion3Pipeline": "a Stable Diffusion 3 model",
    "FluxPipeline": "a Flux model",
    "Flux2Pipeline": "a Flux 2 model",
    "StableCascadeCombinedPipeline": "a Stable Cascade model",
    "PixArtAlphaPipeline": "a PixArt model",
    "PixArtSigmaPipeline": "a PixArt model",
    "QwenImagePipeline": "a Qwen-Image model",
    "ZImagePipeline": "a Z-Image model",
}


@dataclass(frozen=True)
class ModelInfo:
    """A base model that was found and understood.

    source: the setting as written. path: the file, or the folder in diffusers layout. reasons: one sentence
    for each thing that was detected, assumed or set by the configuration. declared_prediction_type: what the files
    themselves say; None where they say nothing.
    """

    source: str
    path: Path
    layout: Literal["single_file", "diffusers"]
    family: Family
    prediction_type: PredictionType
    zero_terminal_snr: bool
    reasons: tuple[str, ...]
    declared_prediction_type: PredictionType | None = None


@dataclass(frozen=True)
class _Evidence:
    """What a file or folder says about itself; None where it says nothing."""

    family: Family
    family_reason: str
    prediction_type: PredictionType | None
    prediction_reason: str
    zero_terminal_snr: bool
    schedule_reason: str


def detect_model(settings: "ModelSettings", noise: "NoiseSettings") -> ModelInfo:
    """Finds the base model of `model.pretrained_model_name_or_path` and says what it is.

    Resolves "nano" (the embedded model), a .safetensors checkpoint, a diffusers folder, or a Hugging Face id.
    `model.v_parameterization` and `noise.zero_terminal_snr` overrule what the files say; a `model.family`
    that contradicts them is an error. Raises LoratoryError with the reason when there is no model, it is
    damaged or incomplete, or it is not a Stable Diffusion 1.x, 2.x or SDXL base model.
    """
    source = str(settings.pretrained_model_name_or_path)
    path = _resolve(source)
    if path.is_dir():
        layout = "diffusers"
        evidence = _read_folder(path)
    else:
        layout = "single_file"
        evidence = _read_single_file(path, has_vae_setting=settings.vae is not None)

    if settings.family not in ("auto", evidence.family):
        raise LoratoryError(
            f"model.family is {settings.family}, but {path} is {evidence.family_reason}",
            hint=f'Remove model.family, or set it to "{evidence.family}".',
        )
    prediction, prediction_reason = _prediction_type(evidence, settings.v_parameterization)
    zero_snr, schedule_reason = _zero_terminal_snr(evidence, noise.zero_terminal_snr)
    reasons = (evidence.family_reason, prediction_reason, schedule_reason)
    return ModelInfo(source, path, layout, evidence.family, prediction, zero_snr, reasons, evidence.prediction_type)


def _resolve(source: str) -> Path:
    if source == EMBEDDED_MODEL:
        return ASSETS / EMBEDDED_MODEL
    path = Path(source).expanduser().absolute()
    if path.exists():
        return path
    if is_hub_id(source):
        return fetch_from_hub(source)
    raise _missing(path)


def _missing(path: Path) -> LoratoryError:
    parent = path.parent
    if not parent.is_dir():
        existing = next((ancestor for ancestor in parent.parents if ancestor.is_dir()), Path("/"))
        return LoratoryError(
            f"There is no model {path}: the folder {parent} does not exist ({existing} does).",
            hint="Correct model.pretrained_model_name_or_path.",
        )
    models = [entry.name for entry in parent.iterdir() if entry.suffix == ".safetensors" or (entry / "unet").is_dir()]
    near = difflib.get_close_matches(path.name, sorted(models), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Correct model.pretrained_model_name_or_path."
    return LoratoryError(f"There is no model {path.name} in {parent}.", hint=hint)


def _prediction_type(evidence: _Evidence, v_parameterization: bool | None) -> tuple[PredictionType, str]:
    if v_parameterization is not None:
        chosen: PredictionType = "v_prediction" if v_parameterization else "epsilon"
        contrary = evidence.prediction_type not in (None, chosen)
        note = (
            f", although {evidence.prediction_reason[0].lower()}{evidence.prediction_reason[1:]}" if contrary else "."
        )
        said = "true" if v_parameterization else "false"
        return chosen, f"Predicts {_spoken(chosen)}: model.v_parameterization is {said}{note}"
    if evidence.prediction_type is not None:
        return evidence.prediction_type, evidence.prediction_reason
    if evidence.family == "sd2":
        return "v_prediction", (
            "Predicts v: assumed, as for the 768-pixel SD 2.x models; the file does not say. "
            "Set model.v_parameterization = false for a 512-pixel base."
        )
    return (
        "epsilon",
        f"Predicts noise: assumed, as most {FAMILY_NAMES[evidence.family]} models do; the file does not say.",
    )


def _zero_terminal_snr(evidence: _Evidence, setting: bool | None) -> tuple[bool, str]:
    if setting is None:
        return evidence.zero_terminal_snr, evidence.schedule_reason
    kind = "Zero terminal SNR" if setting else "Standard noise schedule"
    contrary = setting != evidence.zero_terminal_snr
    note = f", although the model says otherwise ({evidence.schedule_reason})" if contrary else ""
    return setting, f"{kind}: noise.zero_terminal_snr is {'true' if setting else 'false'}{note}."


def _spoken(prediction: PredictionType) -> str:
    return "v" if prediction == "v_prediction" else "noise"


# ---------------------------------------------------------------------------------------------- single files


def _read_single_file(path: Path, *, has_vae_setting: bool) -> _Evidence:
    header = read_header(path)
    family, family_reason = recognize_checkpoint(header)
    if not has_vae_setting and not any(name.startswith(VAE_PREFIX) for name in header.tensors):
        raise LoratoryError(
            f"{path} has no VAE: none of its tensors is under {VAE_PREFIX.rstrip('.')}.",
            hint="Name a VAE of the same family in model.vae.",
        )
    prediction, prediction_reason = _file_prediction(header)
    zero_snr = "ztsnr" in header.tensors
    schedule_reason = (
        "Zero terminal SNR: the file carries the key ztsnr."
        if zero_snr
        else "Standard noise schedule: the file has no ztsnr key."
    )
    return _Evidence(family, family_reason, prediction, prediction_reason, zero_snr, schedule_reason)


def _file_prediction(header: Header) -> tuple[PredictionType | None, str]:
    if "v_pred" in header.tensors:
        return "v_prediction", "Predicts v: the file carries the key v_pred."
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if stated in ("v", "v_prediction", "v-prediction", "vpred"):
        return "v_prediction", f"Predicts v: modelspec.prediction_type of the file is {stated}."
    if stated in ("epsilon", "eps"):
        return "epsilon", f"Predicts noise: modelspec.prediction_type of the file is {stated}."
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    if architecture.startswith("stable-diffusion-v2-768-v"):
        return "v_prediction", f"Predicts v: modelspec.architecture of the file is {architecture}."
    if architecture.startswith("stable-diffusion-v2-512"):
        return "epsilon", f"Predicts noise: modelspec.architecture of the file is {architecture}."
    return None, ""


# --------------------------------------------------------------------------------------- diffusers folders


def _read_folder(folder: Path) -> _Evidence:
    index_path = folder / "model_index.json"
    pipeline = str(read_json(index_path).get("_class_name", "")) if index_path.is_file() else ""
    if pipeline in _PIPELINES:
        raise LoratoryError(f"{folder} is {_PIPELINES[pipeline]}, {NOT_SUPPORTED}.")
    if not (folder / "unet").is_dir():
        raise _not_a_model_folder(folder, pipeline)
    unet = read_json(folder / "unet" / "config.json")
    check_input_channels(unet.get("in_channels"), str(folder))
    if not (folder / "text_encoder").is_dir() and (folder / "text_encoder_2").is_dir():
        raise LoratoryError(
            f"{folder} is an SDXL refiner: it has one text encoder and only finishes pictures.",
            hint="Train on the SDXL base model.",
        )
    family, family_reason = _folder_family(folder, unet)
    for component in component_names(family):
        if not (folder / component).is_dir():
            raise LoratoryError(
                f"{folder} is an {FAMILY_NAMES[family]} model without its subfolder {component}.",
                hint="Download or export the whole folder again.",
            )
        for file in weight_files(folder / component):
            read_header(file)
    prediction, prediction_reason, zero_snr, schedule_reason = _folder_schedule(folder)
    return _Evidence(family, family_reason, prediction, prediction_reason, zero_snr, schedule_reason)


def _not_a_model_folder(folder: Path, pipeline: str) -> LoratoryError:
    if pipeline:
        return LoratoryError(f"{folder} is a {pipeline} without a UNet, {NOT_SUPPORTED}.")
    checkpoints = sorted(entry.name for entry in folder.glob("*.safetensors"))
    inner = sorted(entry.name for entry in folder.iterdir() if (entry / "unet").is_dir())
    if checkpoints or inner:
        names = ", ".join([*checkpoints, *inner][:5])
        return LoratoryError(
            f"{folder} is a folder of models, not a model in diffusers layout.", hint=f"Name one of: {names}."
        )
    return LoratoryError(
        f"{folder} is not a model: a diffusers folder has the subfolders unet, vae and text_encoder.",
        hint="Name a .safetensors checkpoint, a diffusers folder, or a Hugging Face id.",
    )


def _folder_family(folder: Path, unet: dict[str, Any]) -> tuple[Family, str]:
    kind = unet.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        raise LoratoryError(f"{folder} has a {kind}, so it is {NOT_SUPPORTED}.")
    if unet.get("class_embed_type") is not None or unet.get("encoder_hid_dim_type") is not None:
        raise LoratoryError(f"{folder} has a UNet with other inputs than text and time, so it is {NOT_SUPPORTED}.")
    addition = unet.get("addition_embed_type")
    if addition == "text_time":
        return (
            "sdxl",
            "SDXL: the UNet takes the picture size and a pooled text embedding (addition_embed_type).",
        )
    if addition is not None:
        raise LoratoryError(f"{folder} has a UNet with {addition} conditioning, so it is {NOT_SUPPORTED}.")
    width = unet.get("cross_attention_dim")
    if width == 1024:
        return "sd2", "SD 2.x: the UNet reads a text encoder 1024 wide."
    if width == 768:
        return "sd1", "SD 1.x: the UNet reads a text encoder 768 wide."
    # A model with widths of its own: SD 2.x differs from SD 1.x in linear projections and its text encoder.
    activation = read_json(folder / "text_encoder" / "config.json").get("hidden_act")
    if unet.get("use_linear_projection") and activation == "gelu":
        return "sd2", "SD 2.x: linear projections in the UNet and an OpenCLIP text encoder."
    return "sd1", "SD 1.x: convolutional projections in the UNet and a CLIP text encoder."


def _folder_schedule(folder: Path) -> tuple[PredictionType | None, str, bool, str]:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return None, "", False, "Standard noise schedule: the folder has no scheduler config."
    config = read_json(path)
    if str(config.get("_class_name", "")).startswith("EDM"):
        raise LoratoryError(f"{path}: EDM noise schedules (such as Playground 2.5) cannot be trained here.")
    stated = config.get("prediction_type")
    if stated not in (None, "epsilon", "v_prediction"):
        raise LoratoryError(f"{path}: prediction_type {stated} is not one of epsilon and v_prediction.")
    if stated is None:
        reason = ""
    else:
        reason = f"Predicts {_spoken(stated)}: the scheduler config of the folder says {stated}."
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    schedule_reason = (
        "Zero terminal SNR: the scheduler config sets rescale_betas_zero_snr."
        if zero_snr
        else "Standard noise schedule: the scheduler config does not rescale it."
    )
    return stated, reason, zero_snr, schedule_reason
