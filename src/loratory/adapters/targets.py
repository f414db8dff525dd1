"""Which modules of a base model get a network, of which rank and alpha."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from loratory.adapters.keys import Component, Family, diffusers_module_key, module_key
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

# Class names, as sd-scripts selects them: the modules below such an ancestor are adapted.
_UNET_ATTENTION = frozenset({"Transformer2DModel"})
_UNET_CONVOLUTION = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
_TEXT_ENCODER = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})


@dataclass(frozen=True)
class Target:
    """One module to adapt.

    path: dotted name in the diffusers or transformers model. key: name in files, without suffix. alpha: what the
    file says, so that every loader computes the scale alpha / rank. is_conv: kernel larger than 1x1.
    """

    component: Component
    path: str
    key: str
    rank: int
    alpha: float
    is_conv: bool

    @property
    def scale(self) -> float:
        """The factor on up @ down."""
        return self.alpha / self.rank


Sizes = Mapping[str, tuple[int, float]]
"""Rank and alpha by the key of a module in files."""


@dataclass(frozen=True)
class _Size:
    rank: int
    alpha: float


def _size(rank: int, alpha: float, rs_lora: bool) -> _Size:
    """Rank, and the alpha to write.

    rs_lora: the scale is alpha / sqrt(rank) (arXiv 2312.03732), written as alpha * sqrt(rank) over rank.
    """
    return _Size(rank, alpha * rank**0.5 if rs_lora else alpha)


def _sizes(network: NetworkSettings) -> tuple[_Size, _Size | None]:
    """Sizes for linear and 1x1 modules, and for larger kernels (None: convolution blocks are left alone).

    `lora` never adapts convolution blocks, `dora` does when conv_dim is given, `locon` always: without conv_dim they
    get network_dim and network_alpha, as in LyCORIS, and conv_alpha is not read.
    """
    linear = _size(network.network_dim, network.network_alpha, network.rs_lora)
    if network.network_type == "lora":
        return linear, None
    if network.conv_dim is not None:
        return linear, _size(network.conv_dim, network.conv_alpha, network.rs_lora)
    return linear, linear if network.network_type == "locon" else None


def _adaptable(model: nn.Module, ancestors: frozenset[str]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Linear and Conv2d modules below a module whose class is named in `ancestors`, in the model's own order."""
    seen: set[str] = set()
    for ancestor_path, ancestor in model.named_modules():
        if type(ancestor).__name__ not in ancestors:
            continue
        for path, module in ancestor.named_modules(prefix=ancestor_path):
            if isinstance(module, nn.Linear | nn.Conv2d) and path not in seen:
                seen.add(path)
                yield path, module


def _component_targets(
    model: nn.Module, ancestors: frozenset[str], component: Component, family: Family, linear: _Size, conv: _Size | None
) -> Iterator[Target]:
    for path, module in _adaptable(model, ancestors):
        is_conv = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
        size = conv if is_conv else linear
        if size is not None:
            yield Target(component, path, module_key(component, path, family), size.rank, size.alpha, is_conv)


def _sized(target: Target, sizes: Sizes, family: Family) -> Target | None:
    size = sizes.get(target.key) or sizes.get(diffusers_module_key(target.component, target.path, family))
    return None if size is None else replace(target, rank=size[0], alpha=size[1])


def find_targets(
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    family: Family,
    network: NetworkSettings,
    *,
    train_unet: bool,
    train_text_encoder: bool | Sequence[bool],
    sizes: Sizes | None = None,
) -> list[Target]:
    """The modules that a network of type lora, locon or dora adapts, in the order of the models.

    UNet: every Linear and 1x1 convolution of the transformer blocks; with convolution blocks (see `_sizes`) also the
    3x3 convolutions of resnets, downsamplers and upsamplers at conv_dim, and the Linear and 1x1 modules inside them at
    network_dim. Text encoders: q, k, v, out, fc1, fc2 of every layer. Works on models on the meta device, so counting
    needs no weights. train_text_encoder: for all of them, or for each. Same selection as sd-scripts' networks.lora.
    sizes: where they are given, modules have those and none is adapted that has none; SDXL's UNet may be named either
    way. Raises LoratoryError when nothing is selected.
    """
    linear, conv = _sizes(network)
    if sizes is not None and network.network_type == "dora":
        conv = linear  # conv_dim says nothing here: what has a size is adapted
    targets: list[Target] = []
    components: tuple[Component, ...] = ("te1", "te2")
    chosen = [train_text_encoder] * 2 if isinstance(train_text_encoder, bool) else train_text_encoder
    for component, encoder, is_trained in zip(components, text_encoders, chosen, strict=False):
        if is_trained:
            targets += _component_targets(encoder, _TEXT_ENCODER, component, family, linear, None)
    if train_unet:
        ancestors = _UNET_ATTENTION if conv is None else _UNET_ATTENTION | _UNET_CONVOLUTION
        targets += _component_targets(unet, ancestors, "unet", family, linear, conv)
    if sizes is not None:
        targets = [sized for target in targets if (sized := _sized(target, sizes, family)) is not None]
        if not targets:
            raise LoratoryError(
                "Nothing to train: network.network_weights has no module of what this run trains.",
                hint="`loratory lora inspect` shows what it is for; give that a learning rate above 0.",
            )
    if not targets:
        raise LoratoryError(
            "Nothing to train: neither the UNet nor a text encoder is selected.",
            hint="Give one of them a learning rate above 0; network_train_unet_only excludes the text encoder.",
        )
    keys = {target.key for target in targets}
    if len(keys) != len(targets):
        raise RuntimeError("two modules of the base model have the same name in adapter files")
    return targets
