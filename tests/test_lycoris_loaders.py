"""What this program saves is loaded by LyCORIS' own loader, module by module, and gives the same output there."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_models import tiny_models, token_ids, unet_inputs
from loratory.adapters.adapter import Adapter
from loratory.adapters.inject import inject
from loratory.config.schema import NetworkSettings
from test_lycoris_training import CASES, difference, network_of

# What its loader cannot make from a file of its own: iA3's class takes other arguments than it gives, and it takes all
# magnitudes for those of outputs.
NOT_IN_LYCORIS = {"ia3", "dora-inputs"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """LyCORIS tells about every module."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    yield
    logging.disable(before)


def models_with(name: str, family: Any, *, conv: bool) -> tuple[Any, list[Any], Adapter]:
    unet, encoders = tiny_models(family)
    settings = {"network_dim": 4, "network_alpha": 2} | network_of(name, conv=conv)
    network = NetworkSettings.model_validate({key: value for key, value in settings.items() if value is not None})
    adapter = inject(unet, encoders, family, network, seed=1, train_unet=True, train_text_encoder=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for component in ("unet", "te1", "te2"):
            for key, parameter in adapter.named_parameters(component):
                noise = torch.randn(parameter.shape, generator=generator)
                if key.endswith(("dora_scale", "rescale")):
                    parameter.mul_(1 + 0.2 * noise)
                elif key.endswith("scalar"):
                    parameter.fill_(0.7)
                else:
                    parameter.copy_(0.2 * noise)
    return unet, encoders, adapter


@torch.no_grad()
def outputs(unet: Any, encoders: list[Any], family: Any) -> list[Tensor]:
    found = [unet(**unet_inputs(family)).sample]
    return found + [encoder(token_ids(), output_hidden_states=True).hidden_states[-1] for encoder in encoders]


@torch.no_grad()
def loaded_by_lycoris(adapter: Adapter, family: Any) -> tuple[Any, list[Any]]:
    """Fresh models with the adapter's file put in by LyCORIS."""
    from lycoris.modules import get_module, make_module

    unet, encoders = tiny_models(family)
    models = dict(zip(("unet", "te1", "te2"), (unet, *encoders), strict=False))
    state = adapter.kohya_state_dict()
    for target in adapter.targets:
        layer = models[target.component].get_submodule(target.path)
        kind, tensors = get_module(state, target.key)
        module = make_module(kind, tensors, target.key, layer)
        module.eval()
        module.apply_to()
        layer._lycoris = [module]  # it holds nothing that would keep it
    return unet, encoders


@pytest.mark.parametrize(
    ("name", "family", "conv"), sorted({case[:3] for case in CASES if case[0] not in NOT_IN_LYCORIS})
)
def test_lycoris_loads_what_was_saved(name: str, family: Any, conv: bool) -> None:
    unet, encoders, adapter = models_with(name, family, conv=conv)
    ours = outputs(unet, encoders, family)
    with adapter.disabled():
        assert difference(ours, outputs(unet, encoders, family)) > 1e-3
    theirs = outputs(*loaded_by_lycoris(adapter, family), family)
    assert difference(theirs, ours) < 2e-5
