import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from adapter_models import fill, tiny_models
from loratory.adapters.inject import inject
from loratory.adapters.max_norm import apply_max_norm, change_norms
from loratory.config.schema import NetworkSettings

FIGURES = json.loads((Path(__file__).parent / "data" / "max_norm.json").read_text())


@pytest.mark.parametrize("case", FIGURES["limits"], ids=lambda case: f"limit {case['limit']}")
def test_scaling_is_that_of_sd_scripts(case):
    before = FIGURES["before"]
    keys = sorted({name.split(".")[0] for name in before})
    downs = [torch.tensor(before[f"{key}.lora_down.weight"]) for key in keys]
    ups = [torch.tensor(before[f"{key}.lora_up.weight"]) for key in keys]
    scales = [before[f"{key}.alpha"] / down.shape[0] for key, down in zip(keys, downs, strict=True)]
    report = apply_max_norm(list(zip(downs, ups, scales, strict=True)), case["limit"])
    for key, down, up in zip(keys, downs, ups, strict=True):
        assert torch.allclose(down, torch.tensor(case["after"][f"{key}.lora_down.weight"]), rtol=1e-5, atol=1e-6)
        assert torch.allclose(up, torch.tensor(case["after"][f"{key}.lora_up.weight"]), rtol=1e-5, atol=1e-6)
    assert report.keys_scaled == case["keys_scaled"]
    assert report.mean_norm == pytest.approx(case["mean_norm"], rel=1e-5)
    assert report.max_norm == pytest.approx(case["max_norm"], rel=1e-5)


@pytest.mark.parametrize("network_type", ["locon", "dora"])
def test_no_module_of_an_adapter_stays_above_the_limit(network_type):
    unet, encoders = tiny_models()
    settings = NetworkSettings(network_type=network_type, network_dim=4, network_alpha=2, conv_dim=4)
    adapter = inject(unet, encoders, "sd1", settings, seed=1, train_unet=True, train_text_encoder=True)
    fill(adapter, size=2.0)
    magnitudes = {name: p.clone() for name, p in adapter.named_parameters("unet") if name.endswith("dora_scale")}
    report = adapter.apply_max_norm(1.0)
    norms = [
        float((layer.up.flatten(1) @ layer.down.flatten(1)).detach().norm() * layer.target.scale)
        for layer in adapter.layers
    ]
    assert max(norms) == pytest.approx(1.0, rel=1e-5)
    assert report.keys_scaled > 0
    assert report.max_norm == pytest.approx(max(norms), rel=1e-5)
    assert report.mean_norm == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert adapter.apply_max_norm(1.0 + 1e-5).keys_scaled == 0
    for name, parameter in adapter.named_parameters("unet"):
        if name in magnitudes:
            assert torch.equal(parameter, magnitudes[name])


def test_an_untrained_adapter_has_norm_zero():
    unet, encoders = tiny_models()
    adapter = inject(unet, encoders, "sd1", NetworkSettings(), seed=1, train_unet=True, train_text_encoder=True)
    assert adapter.apply_max_norm(1.0) == adapter.apply_max_norm(1.0)
    report = adapter.apply_max_norm(1.0)
    assert (report.keys_scaled, report.mean_norm, report.max_norm) == (0, 0.0, 0.0)


def test_norms_on_a_gpu_without_float64():
    with FakeTensorMode():  # tensors of a device that need not be there
        down, up = torch.empty(4, 8, device="mps"), torch.empty(6, 4, device="mps")
        assert change_norms([down], [up], [1.0]).dtype == torch.float32
