"""Which base model an adapter file is for, told by the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from loratory.adapters.keys import UNET_PREFIX, Family
from loratory.adapters.roles import split_name
from loratory.adapters.shapes import Shape, Shapes, module_form
from loratory.models.header import TensorEntry

FAMILY_NAMES: dict[Family, str] = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}

_ATTENTION = (
    r"(?:norm|proj_in|proj_out|transformer_blocks_\d+_"
    r"(?:attn[12]_to_(?:q|k|v|out_0)|ff_net_0_proj|ff_net_2|norm[123]))"
)
_DIFFUSERS_BLOCK = (
    rf"(?:resnets_\d+_(?:conv[12]|conv_shortcut|time_emb_proj|norm[12])|attentions_\d+_{_ATTENTION}"
    r"|downsamplers_0_conv|upsamplers_0_conv)"
)
_DIFFUSERS_UNET = re.compile(
    rf"{UNET_PREFIX}(?:(?:down_blocks_\d|up_blocks_\d|mid_block)_{_DIFFUSERS_BLOCK}"
    r"|(?:time|add)_embedding_linear_[12]|conv_in|conv_out|conv_norm_out)"
)
_ORIGINAL_RESNET = r"(?:in_layers_[02]|emb_layers_1|out_layers_[03]|skip_connection)"
_ORIGINAL_UNET = re.compile(
    rf"{UNET_PREFIX}(?:input_blocks_\d_(?:0_{_ORIGINAL_RESNET}|0_op|1_{_ATTENTION})"
    rf"|middle_block_(?:[02]_{_ORIGINAL_RESNET}|1_{_ATTENTION})"
    rf"|output_blocks_\d_(?:0_{_ORIGINAL_RESNET}|1_{_ATTENTION}|[12]_conv)"
    r"|input_blocks_0_0|time_embed_[02]|label_emb_0_[02]|out_[02])"
)
_TEXT_ENCODER = re.compile(
    r"lora_te[12]?_(?:text_model_(?:encoder_layers_\d+_(?:self_attn_(?:q|k|v|out)_proj|mlp_fc[12]|layer_norm[12])"
    r"|final_layer_norm|embeddings_(?:token|position)_embedding)|text_projection)"
)

# Convolutions with a kernel: those of 1x1 are matrices by another name.
_KERNEL = re.compile(
    rf"{UNET_PREFIX}(?:.*_(?:conv[12]|(?:down|up)samplers_0_conv|in_layers_2|out_layers_3|0_op)|conv_in|conv_out"
    r"|output_blocks_\d_[12]_conv|input_blocks_0_0|out_2)"
)


def is_kernel_module(key: str) -> bool:
    """Whether the module under this key is a convolution with a kernel larger than 1x1."""
    return _KERNEL.fullmatch(key) is not None


def is_known_module(key: str) -> bool:
    """Whether front ends find a module of SD 1.x, SD 2.x or SDXL under this key."""
    return any(pattern.fullmatch(key) for pattern in (_DIFFUSERS_UNET, _ORIGINAL_UNET, _TEXT_ENCODER))


class FamilyGuess(NamedTuple):
    """family is None when nothing tells. reason: what told, to be read after "because"."""

    family: Family | None
    reason: str


# Width of the text the cross attention reads, or of the text encoder itself.
_BY_WIDTH: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}

_BY_CLAIM: tuple[tuple[str, Family], ...] = (("sdxl", "sdxl"), ("sd_v2", "sd2"), ("sd_v1", "sd1"))

# The other families have one transformer block at a place, and embed nothing but the time.
_ONLY_IN_SDXL = re.compile(rf"{UNET_PREFIX}(?:.*_transformer_blocks_[1-9]\d*_|add_embedding_)")


def guess_family(tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> FamilyGuess:
    """The base-model family of an adapter, from the names and shapes in a file in kohya naming; see `family_of`."""
    modules: dict[str, dict[str, Shape]] = {}
    for name, entry in tensors.items():
        key, role = split_name(name)
        modules.setdefault(key, {})[role] = entry.shape
    return family_of(modules, metadata)


def family_of(modules: Mapping[str, Shapes], metadata: Mapping[str, str]) -> FamilyGuess:
    """The family that modules, by their keys in kohya naming, are for.

    What the UNet tells comes before what the metadata claims, and the width of a text encoder last: that of SDXL's
    first one is that of SD 1.x, and in diffusers' naming so is its name.
    """
    for key in modules:
        if key.startswith(("lora_te1_", "lora_te2_")):
            return FamilyGuess("sdxl", "it has keys of two text encoders")
        if _ORIGINAL_UNET.fullmatch(key):
            return FamilyGuess("sdxl", "its UNet keys are those of the SDXL release")
        if _DIFFUSERS_UNET.fullmatch(key) and _ONLY_IN_SDXL.match(key):
            return FamilyGuess("sdxl", "it has modules that only the UNet of SDXL has")
    for key, own in modules.items():
        if key.endswith(("_attn2_to_k", "_attn2_to_v")) and (family := _told_by_width(own, 1)):
            return family
    claimed = metadata.get("ss_base_model_version", "")
    for start, family in _BY_CLAIM:
        if claimed.startswith(start):
            return FamilyGuess(family, "its metadata says so")
    for key, own in modules.items():
        if key.startswith("lora_te_") and "_self_attn_" in key and (family := _told_by_width(own, -1)):
            return family
    return FamilyGuess(None, "neither names, shapes nor metadata tell")


def _told_by_width(shapes: Shapes, axis: int) -> FamilyGuess | None:
    """By the text that a layer reads: axis 1 of its weight, -1 where that is as wide at both ends, which some kinds
    tell one of. None where the width is of no published model."""
    form = module_form(shapes)
    if form is None or len(form.weight) <= axis or form.weight[axis] not in _BY_WIDTH:
        return None
    width = form.weight[axis]
    return FamilyGuess(_BY_WIDTH[width], f"it was trained on text {width} numbers wide")
