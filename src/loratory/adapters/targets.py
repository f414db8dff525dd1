"""Which modules of a base model get a network, of which rank and alpha.

`lora`, `dora` and `locon` adapt what sd-scripts' networks.lora adapts; the other types what LyCORIS means, by lists of
our own: of LyCORIS' presets, some name modules twice and others none at all in models of diffusers and transformers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from loratory.adapters.blocks import BlockSizes, Size, block_factors, block_of, block_sizes, has_block_sizes, size_of
from loratory.adapters.keys import Component, Family, diffusers_module_key, module_key
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

# Names of classes: the modules inside them are adapted.
_TRANSFORMERS = frozenset({"Transformer2DModel"})
_CONVOLUTION_BLOCKS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
_UNET_ATTENTION = frozenset({"Attention"})
_ENCODER_ATTENTION = frozenset({"CLIPAttention", "CLIPSdpaAttention"})
_ENCODER_LAYERS = _ENCODER_ATTENTION | {"CLIPMLP"}

# Paths in the UNet, outside its blocks.
_OUTSIDE_BLOCKS = frozenset(
    {
        "conv_in",
        "conv_out",
        *(f"{kind}_embedding.linear_{number}" for kind in ("time", "add") for number in (1, 2)),
    }
)

# What iA3 rescales: keys and values of every attention, and what goes into the last layer of every feed-forward.
_IA3 = {
    "unet": (".to_k", ".to_v", ".ff.net.2"),
    "text_encoder": (".k_proj", ".v_proj", ".mlp.fc2"),
}

_AS_SD_SCRIPTS = frozenset({"lora", "dora", "locon"})
_WITHOUT_RANK = frozenset({"ia3", "full"})


@dataclass(frozen=True)
class _Selection:
    """What is adapted: modules inside classes of these names, and those at the paths `alone`. No names: none.

    encoder_norms: whether the layers of text encoders are taken whole, so that their normalisation may be trained.
    """

    unet: frozenset[str]
    alone: frozenset[str]
    encoders: frozenset[str]
    encoder_norms: bool


_PRESETS: dict[str, _Selection] = {
    "full": _Selection(_TRANSFORMERS | _CONVOLUTION_BLOCKS, _OUTSIDE_BLOCKS, _ENCODER_LAYERS, encoder_norms=True),
    "attn-mlp": _Selection(_TRANSFORMERS, frozenset(), _ENCODER_LAYERS, encoder_norms=True),
    "attn-only": _Selection(_UNET_ATTENTION, frozenset(), _ENCODER_ATTENTION, encoder_norms=False),
    "unet-only": _Selection(_TRANSFORMERS | _CONVOLUTION_BLOCKS, _OUTSIDE_BLOCKS, frozenset(), encoder_norms=False),
    "transformer-only": _Selection(_TRANSFORMERS, frozenset(), frozenset(), encoder_norms=False),
}


@dataclass(frozen=True)
class Target:
    """One module to adapt.

    path: dotted name in the diffusers or transformers model. key: name in files, without suffix. alpha: what the
    file says, so that every loader computes the scale alpha / rank. is_conv: kernel larger than 1x1. is_norm: a
    GroupNorm or LayerNorm, which is trained whole: its rank and alpha are 1.
    """

    component: Component
    path: str
    key: str
    rank: int
    alpha: float
    is_conv: bool
    is_norm: bool = False

    @property
    def scale(self) -> float:
        """The factor on up @ down."""
        return self.alpha / self.rank


Sizes = Mapping[str, tuple[int, float]]
"""Rank and alpha by the key of a module in files."""


def _has_convolutions(network: NetworkSettings) -> bool:
    """Whether kernels larger than 1x1 are trained.

    Never by `lora`; by `dora` when it is given a rank for them; by all others, as in LyCORIS: without conv_dim they
    have network_dim and network_alpha, and conv_alpha is not read.
    """
    if network.network_type == "dora":
        return network.conv_dim is not None or bool(network.conv_block_dims)
    return network.network_type != "lora"


def _selection(network: NetworkSettings, *, convolutions: bool) -> _Selection:
    chosen = _PRESETS[network.lycoris_preset]
    if network.network_type in _AS_SD_SCRIPTS:
        chosen = replace(chosen, alone=frozenset())
    return chosen if convolutions else replace(chosen, unet=chosen.unet - _CONVOLUTION_BLOCKS)


def _inside(model: nn.Module, classes: frozenset[str], alone: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules below one whose class is named in `classes`, and those at `alone`, in the model's own order."""
    outer = ""
    for path, module in model.named_modules():
        is_inside = bool(outer) and path.startswith(outer)
        if is_inside or path in alone:
            yield path, module
        if not is_inside and type(module).__name__ in classes:
            outer = f"{path}."


def _candidates(
    component: Component, model: nn.Module, chosen: _Selection, network: NetworkSettings
) -> Iterator[tuple[str, nn.Module]]:
    """What the network type can adapt of a component: Linear and Conv2d modules, and norms where they are trained."""
    is_unet = component == "unet"
    ends = _IA3["unet" if is_unet else "text_encoder"] if network.network_type == "ia3" else ("",)
    alone = chosen.alone if is_unet else frozenset[str]()
    if not is_unet and chosen.encoder_norms:
        # They stand beside the attention and the feed-forward of a layer, not inside them.
        alone = frozenset(path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    for path, module in _inside(model, chosen.unet if is_unet else chosen.encoders, alone):
        is_norm = isinstance(module, nn.GroupNorm | nn.LayerNorm)
        if network.train_norm if is_norm else isinstance(module, nn.Linear | nn.Conv2d) and path.endswith(ends):
            yield path, module


def _component_targets(
    component: Component,
    model: nn.Module,
    chosen: _Selection,
    family: Family,
    network: NetworkSettings,
    sizes: Sequence[BlockSizes],
) -> Iterator[Target]:
    """sizes: of each block of the UNet; of a text encoder there is one."""
    for path, module in _candidates(component, model, chosen, network):
        is_conv = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
        is_norm = isinstance(module, nn.GroupNorm | nn.LayerNorm)
        block = sizes[block_of(path, family) if component == "unet" else 0]
        size = block.conv if is_conv else block.linear
        if size is None:
            continue
        if is_norm or network.network_type in _WITHOUT_RANK:
            size = Size(1, 1.0)
        yield Target(component, path, module_key(component, path, family), *size, is_conv=is_conv, is_norm=is_norm)


def _sized(target: Target, sizes: Sizes, family: Family) -> Target | None:
    size = sizes.get(target.key) or sizes.get(diffusers_module_key(target.component, target.path, family))
    return None if size is None else replace(target, rank=size[0], alpha=size[1])


def rate_factors(targets: Iterable[Target], network: NetworkSettings, family: Family) -> dict[str, float]:
    """What the learning rate of modules is multiplied with, by key; a module that is not named here has 1.

    See `block_factors`; text encoders have no blocks.
    """
    factors = block_factors(network, family)
    if factors is None:
        return {}
    return {target.key: factors[block_of(target.path, family)] for target in targets if target.component == "unet"}


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
    """The modules that a network adapts, in the order of the models; works on models on the meta device.

    UNet, preset "full": every Linear and Conv2d of its transformers (projections included), resnets, downsamplers and
    upsamplers, and conv_in, conv_out and the linear layers of its embeddings; "unet-only" the same; "attn-mlp" and
    "transformer-only" the transformers, with their projections; "attn-only" q, k, v and out of the attentions. `lora`,
    `dora` and `locon` leave out what is outside the blocks, and the first two convolution blocks: see
    `_has_convolutions`. Text encoders: q, k, v, out, fc1, fc2 of every layer; with "attn-only" the first four, and with
    "unet-only" and "transformer-only" nothing. iA3 adapts of all this the keys, values and last feed-forward layers
    alone. train_norm adds the GroupNorm and LayerNorm modules inside what is named here, and all LayerNorms of the
    text encoders whose layers are taken whole. Ranks by block: see `block_sizes`; blocks whose learning rate is 0 are
    left out.

    train_text_encoder: for all of them, or for each. sizes: where they are given, modules have those and none is
    adapted that has none; SDXL's UNet may be named either way. Raises LoratoryError when nothing is selected, and for
    settings by block that do not fit the family or the type.
    """
    if sizes is not None and has_block_sizes(network):
        raise LoratoryError(
            "network.dim_from_weights takes the rank of every module from the file: settings by block cannot be used.",
            hint="Leave out block_dims, block_alphas, conv_block_dims and conv_block_alphas.",
        )
    # With sizes, conv_dim says nothing: what has a size is adapted.
    convolutions = _has_convolutions(network) or (sizes is not None and network.network_type == "dora")
    chosen = _selection(network, convolutions=convolutions)
    targets: list[Target] = []
    components: tuple[Component, ...] = ("te1", "te2")
    trained = [train_text_encoder] * 2 if isinstance(train_text_encoder, bool) else train_text_encoder
    one_size = [BlockSizes(size_of(network.network_dim, network.network_alpha, network.rs_lora), None)]
    for component, encoder, is_trained in zip(components, text_encoders, trained, strict=False):
        if is_trained:
            targets += _component_targets(component, encoder, chosen, family, network, one_size)
    if train_unet:
        by_block = block_sizes(network, family, convolutions=convolutions)
        targets += _component_targets("unet", unet, chosen, family, network, by_block)
    factors = rate_factors(targets, network, family)
    targets = [target for target in targets if factors.get(target.key, 1.0) > 0]
    _refuse_idle_norms(targets, network)
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
            hint="Give one of them a learning rate above 0; network_train_unet_only excludes the text encoder, and "
            "blocks of rank or factor 0 are left out.",
        )
    keys = {target.key for target in targets}
    if len(keys) != len(targets):
        raise RuntimeError("two modules of the base model have the same name in adapter files")
    return targets


def _refuse_idle_norms(targets: Sequence[Target], network: NetworkSettings) -> None:
    if network.train_norm and not any(target.is_norm for target in targets):
        raise LoratoryError(
            "network.train_norm does nothing: there is no normalisation layer in what this run trains "
            f'(lycoris_preset = "{network.lycoris_preset}").',
            hint='Leave it out, or use lycoris_preset = "full" or "attn-mlp".',
        )
