"""Adapter modules by component and dotted path, whatever naming their file has, and back to a naming.

Three namings: `kohya` (sd-scripts, LyCORIS and every front end; SDXL's UNet under the block names of its release),
`kohya-diffusers` (the same, with diffusers' block names for SDXL) and `diffusers` (peft's and diffusers' own).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from loratory.adapters.keys import (
    UNET_PREFIX,
    Component,
    Family,
    key_component,
    module_key,
    sdxl_original_path,
    text_encoder_prefix,
)
from loratory.adapters.layout import family_of, guess_family
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_UP, refuse_other_files, split_name
from loratory.adapters.tools.stream import TensorFile
from loratory.errors import LoratoryError

Naming = Literal["kohya", "kohya-diffusers", "diffusers"]

# Where diffusers' loaders look for a LoraConfig in the metadata: JSON, keys prefixed with the component.
_PEFT_METADATA = "lora_adapter_metadata"
_DIFFUSERS_PREFIXES: dict[Component, str] = {"unet": "unet.", "te1": "text_encoder.", "te2": "text_encoder_2."}

_RESNET = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
_TRANSFORMER = (
    *(f"attn{number}.{layer}" for number in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
)
_EMBEDDINGS = ("time_embedding.linear_1", "time_embedding.linear_2", "add_embedding.linear_1", "add_embedding.linear_2")
_CLIP_LAYER = (
    *(f"self_attn.{layer}_proj" for layer in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
)
# More than any published model has (SDXL: 10 and 32).
_MOST_TRANSFORMERS = 16
_MOST_CLIP_LAYERS = 40


class ModuleName(NamedTuple):
    """A layer of a base model. path: dotted, as in diffusers and transformers, text encoders without `text_model.`."""

    component: Component
    path: str


Modules = dict[ModuleName, dict[str, Tensor]]
"""The tensors of an adapter by module, and by role within it."""


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter file in memory.

    naming: that of the file; kohya-diffusers where both namings of kohya would be the same. family: of base models,
    None where nothing tells.
    """

    path: Path
    modules: Modules
    metadata: dict[str, str]
    naming: Naming
    family: Family | None


def _unet_paths(levels: int) -> Iterator[str]:
    yield from ("conv_in", *_EMBEDDINGS)
    blocks = [f"{side}_blocks.{level}" for side in ("down", "up") for level in range(levels)]
    for block in (*blocks, "mid_block"):
        for index in range(3):
            yield from (f"{block}.resnets.{index}.{layer}" for layer in _RESNET)
            attention = f"{block}.attentions.{index}"
            yield from (f"{attention}.{layer}" for layer in ("norm", "proj_in", "proj_out"))
            for depth in range(_MOST_TRANSFORMERS):
                yield from (f"{attention}.transformer_blocks.{depth}.{layer}" for layer in _TRANSFORMER)
        if block != "mid_block":
            yield f"{block}.{'downsamplers' if block.startswith('down') else 'upsamplers'}.0.conv"
    yield from ("conv_norm_out", "conv_out")


def _text_encoder_paths() -> Iterator[str]:
    for number in range(_MOST_CLIP_LAYERS):
        yield from (f"encoder.layers.{number}.{layer}" for layer in _CLIP_LAYER)
    yield from ("final_layer_norm", "embeddings.token_embedding", "embeddings.position_embedding", "text_projection")


@cache
def _unet_names() -> dict[str, str]:
    """Dotted paths of the UNet by the underscored names of files, diffusers' and SDXL's own."""
    names = {path.replace(".", "_"): path for path in _unet_paths(levels=4)}
    for path in _unet_paths(levels=3):
        try:
            names[sdxl_original_path(path).replace(".", "_")] = path
        except ValueError:  # a third layer in the middle block, which no UNet has
            continue
    return names


@cache
def _text_encoder_names() -> dict[str, str]:
    """As `_unet_names`; with and without `text_model_`, which some programs leave out under transformers 5.6."""
    names: dict[str, str] = {}
    for path in _text_encoder_paths():
        name = path.replace(".", "_")
        names |= {name: path, f"text_model_{name}": path}
    return names


def module_of_key(key: str) -> ModuleName | None:
    """The module that a key of a kohya file means; None for a key that no Stable Diffusion model has."""
    component = key_component(key)
    if component == "unet":
        path = _unet_names().get(key.removeprefix(UNET_PREFIX))
    else:
        path = _text_encoder_names().get(re.sub(r"^lora_te[12]?_", "", key))
    return None if component is None or path is None else ModuleName(component, path)


def key_of_module(module: ModuleName, family: Family, naming: Naming) -> str:
    """The key of a module in a file of that naming; for diffusers its dotted prefix."""
    component, path = module
    if naming == "diffusers":
        level = "" if component == "unet" or path == "text_projection" else "text_model."
        return f"{_DIFFUSERS_PREFIXES[component]}{level}{path}"
    if component == "unet" and naming == "kohya-diffusers":
        return UNET_PREFIX + path.replace(".", "_")
    if path == "text_projection":  # the only layer of a text encoder that is not below text_model
        return text_encoder_prefix(component, family) + path
    return module_key(component, path, family)


# ------------------------------------------------------------------------------------------------- reading


# Every way in which diffusers and peft have named the two halves; the oldest joined the layer's name to "_lora".
_PEFT_NAME = re.compile(
    r"(?P<path>.+?)"
    r"(?:\.(?:lora_(?P<letter>[AB])(?:\.default)?|(?:lora|lora_linear_layer)\.(?P<half>down|up))\.weight"
    r"|_lora\.(?P<old>down|up)\.weight"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|\.(?P<alpha>alpha))"
)


def is_diffusers_naming(names: Iterable[str]) -> bool:
    """Whether these are the tensors of an adapter as diffusers or peft name them."""
    return any(
        (match := _PEFT_NAME.fullmatch(name)) is not None and not match["alpha"] and not name.startswith("lora_")
        for name in names
    )


def _diffusers_place(name: str) -> tuple[ModuleName, str] | None:
    match = _PEFT_NAME.fullmatch(name.removeprefix("base_model.model."))
    if match is None:
        return None
    path = match["path"].replace(".processor.", ".")
    if match["old"] and path.endswith(".to_out"):
        path += ".0"
    component: Component = "unet"
    for candidate, prefix in _DIFFUSERS_PREFIXES.items():
        if path.startswith(prefix):
            component, path = candidate, path.removeprefix(prefix)
            break
    path = path.removeprefix("text_model.")
    known = _unet_names() if component == "unet" else _text_encoder_names()
    if known.get(path.replace(".", "_")) != path:
        return None
    if match["magnitude"]:
        return ModuleName(component, path), DORA_SCALE
    if match["alpha"]:
        return ModuleName(component, path), ALPHA
    is_down = match["letter"] == "A" or "down" in (match["half"], match["old"])
    return ModuleName(component, path), LORA_DOWN if is_down else LORA_UP


def read_named_adapter(path: Path) -> NamedAdapter:
    """Reads an adapter file of either naming to the CPU.

    Where a file of diffusers has no alpha for a module, its metadata gives it, and if there is none alpha is the rank,
    as diffusers reads it. Raises LoratoryError as `files.read_adapter` does, for a module that no Stable Diffusion
    model has, naming it, and for one that has two names.
    """
    with TensorFile(path) as file:
        header = file.header
        is_diffusers = is_diffusers_naming(header.tensors)
        if not is_diffusers:
            refuse_other_files(path, header.tensors)
        tensors = file.read_all()
    modules: Modules = {}
    names: dict[tuple[ModuleName, str], str] = {}
    is_original = False
    for name, tensor in tensors.items():
        place = _diffusers_place(name) if is_diffusers else _kohya_place(name)
        if place is None:
            raise LoratoryError(
                f"{path} has a tensor that belongs to no layer of SD 1.x, SD 2.x or SDXL: {name}.",
                hint="Adapters of other models, such as Flux or SD 3, are not converted.",
            )
        is_original = is_original or (not is_diffusers and _is_original(split_name(name)[0], place[0]))
        other = names.setdefault(place, name)
        if other != name:
            raise LoratoryError(
                f"{path} has {place[1]} of one layer twice: {other} and {name}.",
                hint="Programs differ in which of them they read; take one out.",
            )
        modules.setdefault(place[0], {})[place[1]] = tensor
    metadata = dict(header.metadata)
    if is_diffusers:
        for own in modules.values():
            if DORA_SCALE in own:  # (out,) or (1, out, 1, 1), and always per output
                own[DORA_SCALE] = own[DORA_SCALE].reshape(
                    -1, 1, *[1] * (own[LORA_DOWN].dim() - 2 if LORA_DOWN in own else 0)
                )
        _add_alphas(modules, metadata.pop(_PEFT_METADATA, ""))
        return NamedAdapter(path, modules, metadata, "diffusers", _family_of(modules, metadata))
    family = guess_family(header.tensors, metadata).family
    return NamedAdapter(path, modules, metadata, "kohya" if is_original else "kohya-diffusers", family)


def _family_of(modules: Modules, metadata: Mapping[str, str]) -> Family | None:
    """That of modules whose names were diffusers', where the first text encoder has one name in all families."""
    keyed = {
        key_of_module(module, "sdxl" if module.component == "te2" else "sd1", "kohya-diffusers"): {
            role: tuple(tensor.shape) for role, tensor in own.items()
        }
        for module, own in modules.items()
    }
    return family_of(keyed, metadata).family


def _kohya_place(name: str) -> tuple[ModuleName, str] | None:
    key, role = split_name(name)
    module = module_of_key(key)
    return None if module is None else (module, role)


def _is_original(key: str, module: ModuleName) -> bool:
    return module.component == "unet" and key != UNET_PREFIX + module.path.replace(".", "_")


def _add_alphas(modules: Modules, described: str) -> None:
    """The alphas that the peft configs in the metadata give to modules, as peft itself applies them."""
    try:
        config: Any = json.loads(described or "{}")
    except (ValueError, RecursionError):
        config = {}
    if not isinstance(config, dict):
        return
    for module, own in modules.items():
        prefix = _DIFFUSERS_PREFIXES[module.component]
        alpha: Any = config.get(f"{prefix}lora_alpha")
        patterns: Any = config.get(f"{prefix}alpha_pattern")
        for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
            if _is_meant(pattern, module.path):
                alpha = value
                break
        if ALPHA in own or LORA_DOWN not in own or not isinstance(alpha, int | float) or not abs(alpha) < 1e9:
            continue
        rank = own[LORA_DOWN].shape[0]
        # rsLoRA divides by the root of the rank where files divide by the rank.
        own[ALPHA] = torch.tensor(float(alpha) * (rank**0.5 if config.get(f"{prefix}use_rslora") else 1.0))


def _is_meant(pattern: str, path: str) -> bool:
    """Whether a pattern of a peft config means the layer: its whole path after "^", else the end of it.

    peft takes patterns for regular expressions; those in files are names, and running an expression of a stranger can
    take for ever.
    """
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return path == name or (not pattern.startswith("^") and path.endswith(f".{name}"))


def kernel_of(module: ModuleName, family: Family) -> tuple[int, ...]:
    """The kernel of the layer in the base model: () for a linear layer, (1, 1) or (3, 3) for a convolution.

    As in diffusers; sd-scripts holds SD 2.x's projections as 1x1 convolutions.
    """
    last = module.path.rpartition(".")[2]
    if module.component != "unet":
        return ()
    if last in ("conv_in", "conv_out", "conv1", "conv2", "conv"):
        return (3, 3)
    if last == "conv_shortcut" or (last in ("proj_in", "proj_out") and family == "sd1"):
        return (1, 1)
    return ()
