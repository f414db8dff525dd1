"""Adapter files module by module, before any of their tensors is read: what each is, and where it belongs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import nn

from loratory.adapters.keys import Component, Family, diffusers_module_key, module_key
from loratory.adapters.layout import FAMILY_NAMES, guess_family
from loratory.adapters.roles import (
    ALPHA,
    DORA_SCALE,
    LORA_DOWN,
    LORA_MID,
    LORA_UP,
    kind_of,
    refuse_other_files,
    roles_by_module,
)
from loratory.errors import LoratoryError
from loratory.models.header import Header, read_header

COMPONENT_NAMES: dict[Component, str] = {"unet": "UNet", "te1": "text encoder", "te2": "second text encoder"}


@dataclass(frozen=True)
class Place:
    """A layer of the base model that files may hold a module for. path: its dotted name in the component."""

    component: Component
    path: str
    layer: nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class FileModule:
    """One module of a file that holds lora_down and lora_up.

    down, up: their shapes, without the 1x1 of a convolution. mid: of a Tucker decomposition. dora: of the magnitudes.
    """

    key: str
    down: tuple[int, ...]
    up: tuple[int, ...]
    mid: tuple[int, ...] | None
    dora: tuple[int, ...] | None

    @property
    def rank(self) -> int:
        return self.down[0]

    def fits(self, weight: Sequence[int]) -> bool:
        """Whether up @ down has the shape of `weight`, (out, in) or (out, in, k, k)."""
        outputs, inputs, *kernel = weight
        if self.mid is not None:
            mid = (self.up[1], self.rank, *kernel)
            return self.up == (outputs, mid[0]) and self.down == (self.rank, inputs) and self.mid == mid
        return self.up == (outputs, self.rank) and self.down == without_ones((self.rank, inputs, *kernel))


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """(out, in, 1, 1) as (out, in): 1x1 convolutions and linear layers are the same weights."""
    return tuple(shape[:2]) if all(size == 1 for size in shape[2:]) else tuple(shape)


def places(unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family) -> dict[str, Place]:
    """The linear layers and convolutions of a base model by the keys of files: SDXL's UNet has two for each."""
    return {key: place for place in _layers(unet, text_encoders) for key in _keys(place, family)}


def _layers(unet: nn.Module, text_encoders: Sequence[nn.Module]) -> Iterator[Place]:
    components: tuple[Component, ...] = ("unet", "te1", "te2")
    for component, model in zip(components, (unet, *text_encoders), strict=False):
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                yield Place(component, path, layer)


def _keys(place: Place, family: Family) -> Iterator[str]:
    yield diffusers_module_key(place.component, place.path, family)
    yield module_key(place.component, place.path, family)


def read_modules(path: Path, setting: str) -> tuple[Header, dict[str, FileModule]]:
    """The modules of an adapter file by key, from its header alone.

    setting: the name it is given by, for messages. Raises LoratoryError when the file is missing or no adapter, or
    holds anything but complete pairs of lora_down and lora_up.
    """
    if not path.is_file():
        raise LoratoryError(f"{setting}: there is no file {path}.")
    header = read_header(path)
    refuse_other_files(path, header.tensors)
    modules: dict[str, FileModule] = {}
    for key, roles in roles_by_module(header.tensors).items():
        kind = kind_of(roles)
        if kind is None or kind.name != "lora":
            what = f"a network of the kind {kind.name}" if kind else f"tensors of no known kind ({key})"
            raise LoratoryError(
                f"{setting}: {path} holds {what}; it must be a LoRA, LoCon or DoRA.",
                hint="`loratory lora inspect` shows what is in a file.",
            )
        unknown = roles - kind.optional - kind.required[0]
        if not kind.required[0] <= roles or unknown:
            which = f"the unknown tensor {sorted(unknown)[0]}" if unknown else "no complete pair"
            raise LoratoryError(
                f"{setting}: {path} has {which} in {key}.",
                hint="`loratory lora verify` shows all that is wrong with a file.",
            )
        modules[key] = _module(key, header)
    return header, modules


def _module(key: str, header: Header) -> FileModule:
    def shape(role: str) -> tuple[int, ...] | None:
        entry = header.tensors.get(f"{key}.{role}")
        return None if entry is None else entry.shape

    down, up = shape(LORA_DOWN) or (), shape(LORA_UP) or ()
    if len(down) < 2 or len(up) < 2:
        raise LoratoryError(f"{header.path}: the shapes {list(down)} and {list(up)} in {key} are not those of a LoRA.")
    return FileModule(key, without_ones(down), without_ones(up), shape(LORA_MID), shape(DORA_SCALE))


def alphas(path: Path, modules: Mapping[str, FileModule]) -> dict[str, float]:
    """Alpha by key; the rank where the file has none, as every loader reads it."""
    found: dict[str, float] = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for key, module in modules.items():
            name = f"{key}.{ALPHA}"
            found[key] = float(file.get_tensor(name)) if name in names else float(module.rank)
    return found


def refuse_other_family(header: Header, family: Family, setting: str) -> None:
    """Raises LoratoryError for an adapter of another family than the base model, where names or shapes tell."""
    guess = guess_family(header.tensors, header.metadata)
    if guess.family not in (None, family):
        raise LoratoryError(
            f"{setting}: {header.path} is for {FAMILY_NAMES[guess.family]} models ({guess.reason}); the base model is "
            f"{FAMILY_NAMES[family]}.",
            hint="An adapter works with models of its own family alone.",
        )
