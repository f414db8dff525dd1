"""Base models on disk, layer by layer: which part of which stored tensor is the weight that an adapter names."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from loratory.adapters.keys import Component, Family, diffusers_module_key, module_key
from loratory.adapters.tools.stream import Closing, TensorFile
from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.components import Component as ModelComponent
from loratory.models.components import component_configs, component_names, weight_files
from loratory.models.detect import ModelInfo, detect_model
from loratory.models.names import Origin, original_name
from loratory.models.weights import folder_origin

_BASE_MODEL = "A base model is a whole .safetensors checkpoint, a diffusers folder, or a Hugging Face id."
_COMPONENTS: dict[Component, ModelComponent] = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}


class Part(NamedTuple):
    """A tensor of a layer as a checkpoint has it: all of a stored tensor, or a third of one.

    third: 0, 1 or 2 when it is that third (of the first dimension) of a joined q, k, v tensor. transposed: the file
    holds the transposed matrix. shape: the layer's own.
    """

    file: Path
    name: str
    third: int | None
    transposed: bool
    shape: tuple[int, ...]

    def of(self, stored: Tensor) -> Tensor:
        """This part, as the layer has it, of the stored tensor: a view of it."""
        piece = stored if self.third is None else stored.chunk(3)[self.third]
        return piece.t() if self.transposed else piece


class Layer(NamedTuple):
    """A layer of a base model that adapters may change. path: its dotted name in the diffusers component.

    key: of its module in adapter files, in the naming that front ends know. bias: None where the layer has none.
    """

    component: Component
    path: str
    key: str
    kind: Literal["linear", "convolution", "norm"]
    weight: Part
    bias: Part | None


def find_model(base: Path | str) -> ModelInfo:
    """What the base model at `base` is: a .safetensors checkpoint, a diffusers folder, or anything a config may name.

    Raises LoratoryError as `detect_model` does, and for a name that no config may hold; a checkpoint without a VAE is
    accepted.
    """
    try:
        str(base).encode()
    except UnicodeEncodeError as error:
        raise LoratoryError(f"{base}: this name is not valid UTF-8.", hint="Rename the model.") from error
    # The VAE setting is what allows a file to have none. Adapters do not touch the VAE.
    settings = ModelSettings(pretrained_model_name_or_path=str(base), vae=Path(base))
    try:
        return detect_model(settings, NoiseSettings())
    except LoratoryError as error:
        if "model." not in error.hint:
            raise
        # It names the setting of a config to change; here there is none.
        raise LoratoryError(error.message, hint=_BASE_MODEL, exit_code=error.exit_code) from error


class Checkpoint(Closing):
    """A base model open for reading, tensor by tensor; a context manager.

    files: those with its weights, by path, in order. layers: in the order of the model. Memory: names and shapes alone.
    Raises LoratoryError when a file is damaged, or has tensors of other shapes than a layer can have.
    """

    def __init__(self, base: Path | str) -> None:
        self.info: ModelInfo = find_model(base)
        self._stack = ExitStack()
        self.files: dict[Path, TensorFile] = {}
        try:
            for path in _weight_paths(self.info):
                self.files[path] = self._stack.enter_context(TensorFile(path))
            self.layers: list[Layer] = list(self._find_layers())
        except BaseException:
            self._stack.close()
            raise

    @property
    def family(self) -> Family:
        return self.info.family

    def by_key(self) -> dict[str, Layer]:
        """The layers by every key that files may name them with: SDXL's UNet has two for each."""
        found: dict[str, Layer] = {}
        for layer in self.layers:
            for key in layer_keys(layer.component, layer.path, self.family):
                found[key] = layer
        return found

    def read(self, part: Part) -> Tensor:
        """The tensor of a layer in the format it is stored in."""
        return part.of(self.files[part.file].read(part.name))

    def _find_layers(self) -> Iterator[Layer]:
        from loratory.models.load import meta_unet_and_text_encoders  # imports diffusers, which takes seconds

        unet, encoders = meta_unet_and_text_encoders(self.info)
        components: tuple[Component, ...] = ("unet", "te1", "te2")
        configs = component_configs(self.info)
        for component, model in zip(components, (unet, *encoders), strict=False):
            name = _COMPONENTS[component]
            here = {
                tensor: file.path
                for file in self.files.values()
                if self.info.layout == "single_file" or file.path.parent.name == name
                for tensor in file.tensors
            }
            for path, kind, has_bias in model_layers(model):
                weight = self._part(name, f"{path}.weight", here, configs[name])
                if weight is None:
                    continue  # an adapter that names it will be told that the model does not have it
                bias = self._part(name, f"{path}.bias", here, configs[name]) if has_bias else None
                yield Layer(component, path, module_key(component, path, self.family), kind, weight, bias)

    def _part(
        self, component: ModelComponent, name: str, here: Mapping[str, Path], config: Mapping[str, Any]
    ) -> Part | None:
        origin = _origin(self.info, component, name, here, config)
        if origin.key not in here:
            return None
        path = here[origin.key]
        shape = self.files[path].tensors[origin.key].shape
        if origin.third is not None:
            if not shape or shape[0] % 3:
                raise LoratoryError(f"{path}: {origin.key} of the shape {list(shape)} is no joined q, k and v.")
            shape = (shape[0] // 3, *shape[1:])
        if origin.transposed:
            shape = shape[::-1]
        return Part(path, origin.key, origin.third, origin.transposed, shape)

    def close(self) -> None:
        self._stack.close()


def layer_keys(component: Component, path: str, family: Family) -> set[str]:
    """Every key that adapter files may name a module by."""
    keys = {module_key(component, path, family), diffusers_module_key(component, path, family)}
    if path == "text_projection":
        # Files have it beside the text model, as CLIP has, and not in it.
        keys.add(module_key(component, path, family).replace("text_model_", ""))
    return keys


def model_layers(
    model: nn.Module,
) -> Iterator[tuple[str, Literal["linear", "convolution", "norm"], bool]]:
    """Path, kind and whether there is a bias, of each layer that adapters may change."""
    for path, module in model.named_modules():
        match module:
            case nn.Linear():
                yield path, "linear", module.bias is not None  # pyright: ignore[reportUnnecessaryComparison] - may be None
            case nn.Conv2d():
                yield path, "convolution", module.bias is not None
            case nn.LayerNorm() | nn.GroupNorm():
                yield path, "norm", module.bias is not None  # pyright: ignore[reportUnnecessaryComparison] - may be None
            case _:
                pass


def _weight_paths(info: ModelInfo) -> list[Path]:
    if info.layout == "single_file":
        return [info.path]
    return [path for name in _adapted(info.family) for path in weight_files(info.path / name)]


def _adapted(family: Family) -> list[ModelComponent]:
    """The components that adapters change: all but the VAE, the UNet first."""
    return [name for name in component_names(family) if name != "vae"]


def _origin(
    info: ModelInfo, component: ModelComponent, name: str, present: Mapping[str, Any], config: Mapping[str, Any]
) -> Origin:
    if info.layout == "diffusers":
        return folder_origin(component, name, present)
    source = original_name(info.family, component, name, config)
    # Some merging tools of the SD 1.x days left out one level of the text encoder's names.
    short = source._replace(key=source.key.replace(".text_model.", ".", 1))
    return short if source.key not in present and short.key in present else source
