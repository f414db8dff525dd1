"""Names of the same tensor in the diffusers layout and in the original single-file layout.

One table serves both directions: loading asks where a diffusers tensor lies in a file, exporting puts it
there.
The correspondence is that of the published conversion scripts (CompVis, Stability AI and OpenCLIP names).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from loratory.models.components import Component
from loratory.models.recognize import TEXT_ENCODER_PREFIXES, UNET_PREFIX, VAE_PREFIX, Family


class Origin(NamedTuple):
    """Where a diffusers tensor lies in the original layout.

    third: 0, 1 or 2 when it is that third (of the first dimension) of a joined q, k, v tensor.
    transposed: the original holds the transposed matrix.
    """

    key: str
    third: int | None = None
    transposed: bool = False


_UNET_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def original_unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a tensor of the diffusers UNet, below `UNET_PREFIX`.

    config: of the UNet; only layers_per_block and up_block_types are read. Raises KeyError for an unknown name.
    """
    for ours, theirs in _UNET_FIXED.items():
        if name.startswith(ours + "."):
            inner = name.removeprefix(ours + ".")
            return f"{theirs}.{_resnet_name(inner, _UNET_RESNET) if 'resnets' in ours else inner}"
    match = _UNET_BLOCK.fullmatch(name)
    if match is None:
        raise KeyError(name)
    side, block, part, index, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers = int(config["layers_per_block"])
    inner = _resnet_name(inner, _UNET_RESNET) if part == "resnets" else inner
    if side == "down":
        # Each level: its layers, then the downsampler; number 0 is conv_in.
        if part == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.{inner.replace('conv.', 'op.', 1)}"
        return f"input_blocks.{(layers + 1) * block + index + 1}.{0 if part == 'resnets' else 1}.{inner}"
    # Up levels have one layer more, and the upsampler comes in the last of them, after the attention if any.
    if part == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{(layers + 1) * block + layers}.{place}.{inner}"
    return f"output_blocks.{(layers + 1) * block + index}.{0 if part == 'resnets' else 1}.{inner}"


def _resnet_name(inner: str, table: Mapping[str, str]) -> str:
    layer, _, rest = inner.partition(".")
    return f"{table.get(layer, layer)}.{rest}"


_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)\.(weight|bias)")


def _vae_name(name: str, config: Mapping[str, Any]) -> str:
    if match := _VAE_BLOCK.fullmatch(name):
        coder, side, block, part, index, inner = match.groups()
        # The decoder counts its levels from the small end in diffusers, from the large end in the original.
        level = int(block) if side == "down" else len(config["up_block_types"]) - 1 - int(block)
        if part == "resnets":
            return f"{coder}.{side}.{level}.block.{index}.{_resnet_name(inner, _VAE_RESNET)}"
        return f"{coder}.{side}.{level}.{side}sample.{inner}"
    if match := _VAE_MIDDLE.fullmatch(name):
        coder, part, index, layer, kind = match.groups()
        if part == "resnets":
            return f"{coder}.mid.block_{int(index) + 1}.{_VAE_RESNET.get(layer, layer)}.{kind}"
        return f"{coder}.mid.attn_{int(index) + 1}.{_VAE_ATTENTION[layer]}.{kind}"
    return name.replace(".conv_norm_out.", ".norm_out.")


_OPEN_CLIP_FIXED = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def _open_clip_origin(name: str) -> Origin:
    if name == "text_projection.weight":
        return Origin("text_projection", transposed=True)
    if name in _OPEN_CLIP_FIXED:
        return Origin(_OPEN_CLIP_FIXED[name])
    match = _CLIP_LAYER.fullmatch(name)
    if match is None:
        raise KeyError(name)
    layer, part, kind = match.groups()
    block = f"transformer.resblocks.{layer}"
    if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        return Origin(f"{block}.attn.in_proj_{kind}", third="qkv".index(part[-6]))
    return Origin(f"{block}.{_OPEN_CLIP_LAYER[part]}.{kind}")


def canonical_name(name: str) -> str:
    """A text-encoder tensor name without the `text_model.` level.

    CLIPTextModel has that level in older transformers versions and in published files, and lost it in
    transformers 5.6; CLIPTextModelWithProjection keeps it.
    """
    return name.removeprefix("text_model.")


def original_name(family: Family, component: Component, name: str, config: Mapping[str, Any]) -> Origin:
    """Where the tensor `name` of a diffusers component lies in the original single-file layout.

    name: as in the component's state dict. config: the component's config. Raises KeyError for a name that
    the component of that family does not have.
    """
    if component == "unet":
        return Origin(UNET_PREFIX + original_unet_name(name, config))
    if component == "vae":
        return Origin(VAE_PREFIX + _vae_name(name, config))
    prefix = TEXT_ENCODER_PREFIXES[family][1 if component == "text_encoder_2" else 0]
    if family == "sd2" or component == "text_encoder_2":
        origin = _open_clip_origin(canonical_name(name))
        return origin._replace(key=prefix + origin.key)
    return Origin(f"{prefix}text_model.{canonical_name(name)}")
