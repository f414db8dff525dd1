"""Names of adapter modules in files: the naming that every Stable Diffusion front end reads (kohya's).

A module's key is a prefix for its component followed by its dotted path with underscores. Two things make it more
than that: SDXL files use the block names of the original release for the UNet, and text encoder keys always contain
`text_model_`, whether or not the transformers version in use nests a module of that name.
"""

import re
from typing import Literal

Component = Literal["unet", "te1", "te2"]
Family = Literal["sd1", "sd2", "sdxl"]

UNET_PREFIX = "lora_unet_"

_RESNET_CHILDREN = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP_LEVEL = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK_CHILD = re.compile(
    r"(?P<side>down_blocks\.(?P<down>\d+)|up_blocks\.(?P<up>\d+)|mid_block)"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)


def sdxl_original_path(path: str) -> str:
    """The dotted name that the original SDXL release gives to a module of the diffusers UNet.

    Holds for UNets with two resnets per down block, as every SDXL has. Raises ValueError for an unknown path.
    Source: the checkpoint layout of the SDXL release (`input_blocks`, `middle_block`, `output_blocks`).
    """
    if path in _UNET_TOP_LEVEL:
        return _UNET_TOP_LEVEL[path]
    match = _BLOCK_CHILD.fullmatch(path)
    if match is None:
        raise ValueError(f"no original SDXL name is known for the module {path}")
    kind, index, rest = match["kind"], int(match["index"]), match["rest"]
    if kind == "resnets":
        child, _, tail = rest.partition(".")
        rest = _RESNET_CHILDREN[child] + (f".{tail}" if tail else "")
    if match["down"] is not None:
        block = int(match["down"])
        if kind == "downsamplers":
            return f"input_blocks.{3 * (block + 1)}.0.{rest.replace('conv', 'op', 1)}"
        return f"input_blocks.{3 * block + index + 1}.{int(kind == 'attentions')}.{rest}"
    if match["up"] is not None:
        block = int(match["up"])
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.2.{rest}"
        return f"output_blocks.{3 * block + index}.{int(kind == 'attentions')}.{rest}"
    return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"


def text_encoder_prefix(component: Component, family: Family) -> str:
    """`lora_te_` for the families with one text encoder, `lora_te1_` and `lora_te2_` for SDXL."""
    return f"lora_{component}_" if family == "sdxl" else "lora_te_"


def module_key(component: Component, path: str, family: Family) -> str:
    """The key, without suffix, under which files hold the adapter of the module at `path` of a component."""
    if component == "unet":
        name = sdxl_original_path(path) if family == "sdxl" else path
        return UNET_PREFIX + name.replace(".", "_")
    name = "text_model." + path.removeprefix("text_model.")
    return text_encoder_prefix(component, family) + name.replace(".", "_")


def diffusers_module_key(component: Component, path: str, family: Family) -> str:
    """The second name under which files may hold a module: diffusers' block names also for the SDXL UNet."""
    if component == "unet":
        return UNET_PREFIX + path.replace(".", "_")
    return module_key(component, path, family)


def key_component(key: str) -> Component | None:
    """The component that a module key belongs to; None for a key of another kind of file."""
    if key.startswith(UNET_PREFIX):
        return "unet"
    if key.startswith(("lora_te_", "lora_te1_")):
        return "te1"
    if key.startswith("lora_te2_"):
        return "te2"
    return None
