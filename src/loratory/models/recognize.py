"""What a safetensors file is, from the names and shapes of its tensors alone."""

from collections.abc import Mapping
from typing import Literal, NoReturn

from loratory.errors import LoratoryError
from loratory.models.header import Header, TensorEntry

Family = Literal["sd1", "sd2", "sdxl"]

FAMILY_NAMES: dict[Family, str] = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
NOT_SUPPORTED = "not a Stable Diffusion 1.x, 2.x or SDXL checkpoint"

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
# Where each family keeps its text encoders in the original single-file layout.
TEXT_ENCODER_PREFIXES: dict[Family, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}

# Substrings that only one other architecture has, most telling first.
_OTHER_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("double_stream_modulation_img.", "a Flux 2 model"),
    ("distilled_guidance_layer.", "a Chroma model"),
    ("double_blocks.0.img_attn", "a Flux model"),
    ("single_transformer_blocks.", "a Flux model"),
    ("double_layers.0.attn.w1q", "an AuraFlow model"),
    ("noise_refiner.", "a Lumina or Z-Image model"),
    ("txt_in.individual_token_refiner", "a Hunyuan Video model"),
    ("mlp_t5.", "a Hunyuan-DiT model"),
    ("adaln_single.", "a PixArt or LTX model"),
    ("transformer_blocks.0.img_mlp", "a Qwen-Image model"),
    ("head.modulation", "a Wan model"),
    ("effnet_mapper", "a Stable Cascade model"),
    ("clf.1.weight", "a Stable Cascade model"),
)

_LORA_MARKS = (
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora.down.weight",
    ".hada_w1_a",
    ".lokr_w1",
    ".lokr_w1_a",
    ".oft_blocks",
    ".oft_diag",
    ".on_input",
    ".dora_scale",
)


def _width(tensors: Mapping[str, TensorEntry], name: str) -> int | None:
    """Second dimension (inputs) of a weight, None when the tensor is not there."""
    entry = tensors.get(name)
    return entry.shape[1] if entry is not None and len(entry.shape) >= 2 else None


def check_input_channels(channels: int | None, where: str) -> None:
    """Raises LoratoryError unless a UNet with this many input channels takes plain latents (4)."""
    if channels is None or channels == 4:
        return
    kinds = {
        9: "an inpainting model",
        8: "an instruction-editing (InstructPix2Pix) model",
        5: "a depth-to-image model",
        7: "an upscaling model",
    }
    kind = kinds.get(channels, "a model of another kind")
    raise LoratoryError(
        f"{where} is {kind}: its UNet takes {channels} input channels, a text-to-image model takes 4.",
        hint="Train on the text-to-image model it was made from; most adapters then work on both.",
    )


def recognize_checkpoint(header: Header) -> tuple[Family, str]:
    """Family of a single-file checkpoint in the original layout, and the sentence that says what shows it.

    Decided by structure, not by width, so small models of the same architecture are recognised too.
    Raises LoratoryError for everything that is not a complete text-to-image checkpoint, naming what it is.
    """
    path, tensors = header.path, header.tensors
    if not any(name.startswith(UNET_PREFIX) for name in tensors):
        _refuse_without_unet(header)
    for mark, kind in _OTHER_ARCHITECTURES:
        if any(mark in name for name in tensors):
            raise LoratoryError(f"{path} is {kind}, {NOT_SUPPORTED}.")
    if any(name.startswith("control_model.") for name in tensors):
        raise LoratoryError(f"{path} is a ControlNet, {NOT_SUPPORTED}.")
    if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
        raise LoratoryError(
            f"{path} is an EDM model (such as Playground 2.5 or CosXL): its noise schedule is not the one of "
            "Stable Diffusion, so it cannot be trained here."
        )
    check_input_channels(_width(tensors, UNET_PREFIX + "input_blocks.0.0.weight"), str(path))

    has = {
        prefix: any(name.startswith(prefix) for name in tensors)
        for prefixes in TEXT_ENCODER_PREFIXES.values()
        for prefix in (*prefixes, "conditioner.embedders.0.model.")
    }
    if has["conditioner.embedders.0.model."] and not has["conditioner.embedders.1.model."]:
        raise LoratoryError(
            f"{path} is an SDXL refiner: it has one text encoder and only finishes pictures.",
            hint="Train on the SDXL base model.",
        )
    if all(has[prefix] for prefix in TEXT_ENCODER_PREFIXES["sdxl"]):
        return "sdxl", "SDXL: the file has two text encoders under conditioner.embedders."
    if has["cond_stage_model.model."]:
        return "sd2", "SD 2.x: the file has an OpenCLIP text encoder under cond_stage_model.model."
    if has["cond_stage_model.transformer."]:
        return "sd1", "SD 1.x: the file has a CLIP text encoder under cond_stage_model.transformer."
    raise LoratoryError(
        f"{path} has a UNet but not the text encoders of a complete checkpoint.",
        hint="Use the full checkpoint (UNet, VAE and text encoders in one file) or a diffusers folder.",
    )


def _refuse_without_unet(header: Header) -> NoReturn:
    path, names = header.path, list(header.tensors)

    def any_contains(*marks: str) -> bool:
        return any(mark in name for name in names for mark in marks)

    def any_starts(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    needs_base = "model.pretrained_model_name_or_path needs a base model: a complete checkpoint or a folder."
    if not names:
        raise LoratoryError(f"{path} holds no tensors.", hint="Download or export it again.")
    if any_starts("lora_unet_", "lora_te", "lora_transformer_", "lycoris_") or any(
        name.endswith(_LORA_MARKS) for name in names
    ):
        raise LoratoryError(
            f"{path} is a LoRA or LyCORIS file, not a base model.",
            hint=needs_base,
        )
    if any_starts("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "zero_convs."):
        raise LoratoryError(f"{path} is a ControlNet, not a base model.", hint=needs_base)
    if any_contains("motion_modules."):
        raise LoratoryError(f"{path} is an AnimateDiff motion module, not a base model.", hint=needs_base)
    if any_starts("image_proj.", "ip_adapter."):
        raise LoratoryError(f"{path} is an IP-Adapter, not a base model.", hint=needs_base)
    if set(names) <= {"emb_params", "clip_l", "clip_g"} or any_contains("string_to_param"):
        raise LoratoryError(f"{path} is a textual inversion embedding, not a base model.", hint=needs_base)
    for mark, kind in _OTHER_ARCHITECTURES:
        if any_contains(mark):
            raise LoratoryError(f"{path} is {kind}, {NOT_SUPPORTED}.")
    if any_starts("down_blocks.", "input_blocks."):
        raise LoratoryError(
            f"{path} holds only a UNet: the VAE and the text encoders are missing.",
            hint="Name the diffusers folder it belongs to, or a complete checkpoint.",
        )
    vae_marks = (
        "encoder.conv_in.",
        "decoder.conv_in.",
        "first_stage_model.encoder.",
        "first_stage_model.decoder.",
    )
    if any_starts(*vae_marks):
        raise LoratoryError(
            f"{path} is a VAE, not a base model.",
            hint="Name it in model.vae, and a complete checkpoint in model.pretrained_model_name_or_path.",
        )
    if any_starts("text_model.", "transformer.resblocks.", "encoder.block.", "cond_stage_model.", "conditioner."):
        raise LoratoryError(f"{path} is a text encoder, not a base model.", hint=needs_base)
    raise LoratoryError(f"{path} is {NOT_SUPPORTED} (its first tensor is {names[0]}).", hint=needs_base)
