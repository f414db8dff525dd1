"""Puts the network of a run into its base model."""

from collections.abc import Sequence

from torch import nn

from loratory.adapters.adapter import Adapter
from loratory.adapters.keys import Component, Family
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.lora import inject_lora
from loratory.adapters.lycoris import inject_forms
from loratory.adapters.sizes import runs_on_peft
from loratory.adapters.targets import Sizes, find_targets
from loratory.config.schema import NetworkSettings


def inject(
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    family: Family,
    network: NetworkSettings,
    *,
    seed: int,
    train_unet: bool,
    train_text_encoder: bool | Sequence[bool],
    sizes: Sizes | None = None,
) -> Adapter:
    """Adds the network to the models, in place, and freezes everything else in them.

    Trained tensors are float32 on the device of the layer they adapt, and depend on the seed and the layer's name
    alone; the models compute what they did before. sizes: see `find_targets`. Raises LoratoryError for networks that
    the models cannot have.
    """
    targets = find_targets(
        unet,
        text_encoders,
        family,
        network,
        train_unet=train_unet,
        train_text_encoder=train_text_encoder,
        sizes=sizes,
    )
    models: dict[Component, nn.Module] = {"unet": unet}
    components: tuple[Component, ...] = ("te1", "te2")
    models.update(zip(components, text_encoders, strict=False))
    for model in models.values():
        model.requires_grad_(False)
    layers: Sequence[AdapterLayer]
    if runs_on_peft(network):
        layers = inject_lora(models, targets, family, network, seed)
    else:
        layers = inject_forms(models, targets, network, seed)
    order = {target.key: position for position, target in enumerate(targets)}
    return Adapter(sorted(layers, key=lambda layer: order[layer.target.key]), family)
