"""Names of adapter modules in files: the naming that every Stable Diffusion front end reads (kohya's).

A module's key is a prefix for its component followed by its dotted path with underscores. Two things make it more
than that: SDXL files use the block names of the original release for the UNet, and text encoder keys always contain
`text_model_`, whether or not the transformers version in use nests a module of that name.
"""

from typing import Literal

from loratory.models.names import original_unet_name

Component = Literal["unet", "te1", "te2"]
Family = Literal["sd1", "sd2", "sdxl"]

COMPONENT_NAMES: dict[Component, str] = {"unet": "UNet", "te1": "text encoder", "te2": "second text encoder"}
UNET_PREFIX = "lora_unet_"

# What the names of an SDXL UNet depend on; every SDXL has it so.
_SDXL_UNET = {
    "layers_per_block": 2,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


def sdxl_original_path(path: str) -> str:
    """The dotted name that the original SDXL release gives to a module of the diffusers UNet.

    Raises ValueError for an unknown path.
    """
    try:
        return original_unet_name(f"{path}.weight", _SDXL_UNET).removesuffix(".weight")
    except KeyError:
        raise ValueError(f"no original SDXL name is known for the module {path}") from None


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
