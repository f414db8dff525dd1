"""Optimizers: rates per part, the step size adaptive ones find, and states that go on exactly."""

import pytest
import torch
from torch.nn import Parameter

from loratory.config.schema import OptimizerSettings
from loratory.errors import LoratoryError
from loratory.training.optimizers import Optimizers, TrainedPart

PRODIGY = {"optimizer_type": "Prodigy", "optimizer_args": "decouple=True weight_decay=0.1 betas=0.9,0.99"}


def make(settings: dict, unet_lr: float, text_encoder_lr: float) -> tuple[Optimizers, list[Parameter]]:
    parameters = [Parameter(torch.full((4,), 3.0)), Parameter(torch.full((4,), 3.0))]
    parts = [
        TrainedPart("unet", parameters[:1], unet_lr),
        TrainedPart("text_encoder", parameters[1:], text_encoder_lr),
    ]
    return Optimizers(parts, OptimizerSettings(**settings)), parameters


def descend(optimizers: Optimizers, parameters: list[Parameter], steps: range) -> None:
    for step in steps:
        optimizers.set_multiplier(1 - step / 100)
        (parameters[0].square().sum() + 1e-3 * parameters[1].square().sum()).backward()
        for optimizer in optimizers.all:
            optimizer.step()
        optimizers.zero_grad()


@pytest.mark.parametrize("settings", [{"optimizer_type": "AdamW"}, PRODIGY], ids=["adamw", "prodigy"])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (1.0, 0.5)])
def test_a_restored_optimizer_goes_on_exactly(settings: dict, rates: tuple[float, float]) -> None:
    whole, expected = make(settings, *rates)
    descend(whole, expected, range(12))
    first, parameters = make(settings, *rates)
    descend(first, parameters, range(7))
    second, restored = make(settings, *rates)
    for new, old in zip(restored, parameters, strict=True):
        new.data.copy_(old.data)
    second.load_state_dict(first.state_dict())
    descend(second, restored, range(7, 12))
    assert all(torch.equal(a, b) for a, b in zip(expected, restored, strict=True))
    assert second.rates() == whole.rates() and second.effective_rates() == whole.effective_rates()


def test_prodigy_shares_a_step_size_between_equal_rates_only() -> None:
    shared, parameters = make(PRODIGY, 1.0, 1.0)
    assert len(shared.all) == 1
    apart, parameters = make(PRODIGY, 1.0, 0.5)
    assert len(apart.all) == 2
    descend(apart, parameters, range(10))
    rates, effective = apart.rates(), apart.effective_rates()
    assert rates["text_encoder"] == pytest.approx(0.5 * rates["unet"])
    found = {name: effective[name] / rates[name] for name in rates}
    assert found["unet"] > 1e-6 and found["text_encoder"] != pytest.approx(found["unet"], rel=0.01)


def test_adamw_keeps_two_rates_in_one_optimizer() -> None:
    optimizers, _ = make({"optimizer_type": "adamw"}, 1e-4, 5e-5)
    optimizers.set_multiplier(0.5)
    assert len(optimizers.all) == 1
    assert optimizers.rates() == optimizers.effective_rates() == {"unet": 5e-5, "text_encoder": 2.5e-5}


def test_an_argument_the_optimizer_lacks_is_named() -> None:
    with pytest.raises(LoratoryError, match=r"optimizer_args.*warp_speed"):
        make({"optimizer_type": "AdamW", "optimizer_args": "warp_speed=9"}, 1e-4, 1e-4)
