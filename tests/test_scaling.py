from typing import Any

import pytest
import torch
from torch.nn import Parameter

from adapter_models import fill, tiny_models, unet_inputs
from loratory.adapters.adapter import Adapter
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.self_check import compare_with_live
from loratory.config.schema import NetworkSettings, OptimizerSettings
from loratory.errors import LoratoryError
from loratory.training.optimizers import Optimizers, TrainedPart
from loratory.training.scaling import cast_adapter, make_scaler

HALVES = [torch.float16, torch.bfloat16]


def adapted(network_type: str = "locon") -> tuple[Any, Adapter]:
    unet, encoders = tiny_models()
    network = NetworkSettings.model_validate(
        {"network_type": network_type, "network_dim": 4, "network_alpha": 2, "conv_dim": 4}
    )
    adapter = inject(unet, encoders, "sd1", network, seed=1, train_unet=True, train_text_encoder=False)
    fill(adapter)
    return unet, adapter


def half_parameter(gradient: list[float], scale: float) -> Parameter:
    parameter = Parameter(torch.ones(len(gradient), dtype=torch.float16))
    parameter.grad = torch.tensor(gradient, dtype=torch.float16) * scale
    return parameter


class TestScaler:
    def test_torchs_own_refuses_what_ours_allows(self) -> None:
        for half, refused in ((False, True), (True, False)):
            scaler = make_scaler("cpu", enabled=True, half_parameters=half)
            scaler.scale(torch.zeros(1))
            parameter = half_parameter([0.25, -0.5], 2.0**16)
            parameter.grad = torch.tensor([0.25, -0.5], dtype=torch.float16) * 2**10
            optimizer = torch.optim.SGD([parameter], lr=1.0)
            if refused:
                with pytest.raises(ValueError, match="FP16"):
                    scaler.unscale_(optimizer)
            else:
                scaler.unscale_(optimizer)
                assert parameter.grad.tolist() == [0.25 / 64, -0.5 / 64]
                assert parameter.grad.dtype == torch.float16

    def test_a_step_is_taken(self) -> None:
        scaler = make_scaler("cpu", enabled=True, half_parameters=True)
        scaler.load_state_dict(scaler.state_dict() | {"scale": 1024.0})
        parameter = Parameter(torch.ones(3, dtype=torch.float16))
        optimizer = torch.optim.SGD([parameter], lr=0.5)
        scaler.scale((parameter * torch.tensor([1.0, 2.0, -4.0], dtype=torch.float16)).sum()).backward()
        assert parameter.grad is not None and parameter.grad.tolist() == [1024, 2048, -4096]
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert parameter.tolist() == [0.5, 0.0, 3.0]
        assert scaler.get_scale() == 1024

    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_an_overflow_skips_the_step_and_halves_the_scale(self, bad: float) -> None:
        scaler = make_scaler("cpu", enabled=True, half_parameters=True)
        scaler.scale(torch.zeros(1))
        good, spoiled = half_parameter([1.0], 1.0), half_parameter([1.0, bad], 1.0)
        optimizer = torch.optim.SGD([good, spoiled], lr=0.5)
        before = scaler.get_scale()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert good.tolist() == [1] and spoiled.tolist() == [1, 1]
        assert scaler.get_scale() == before / 2

    def test_float32_parameters_and_a_disabled_scaler_are_as_torchs(self) -> None:
        for half in (False, True):
            scaler = make_scaler("cpu", enabled=False, half_parameters=half)
            parameter = Parameter(torch.ones(1))
            optimizer = torch.optim.SGD([parameter], lr=0.5)
            scaler.scale(parameter.sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            assert parameter.tolist() == [0.5] and scaler.state_dict() == {}


class TestHalfAdapter:
    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("network_type", ["locon", "dora"])
    def test_the_same_parameters_in_another_format(self, dtype: torch.dtype, network_type: str) -> None:
        unet, adapter = adapted(network_type)
        before = {name: (parameter, parameter.detach().clone()) for name, parameter in adapter.named_parameters("unet")}
        scales = [(layer.target.alpha, layer.peft_layer.scaling["default"]) for layer in adapter.layers]
        cast_adapter(adapter, dtype)
        after = dict(adapter.named_parameters("unet"))
        trained = {id(parameter) for parameter in unet.parameters() if parameter.requires_grad}
        assert trained == {id(parameter) for parameter in after.values()}
        for name, (parameter, value) in before.items():
            assert after[name] is parameter
            assert parameter.requires_grad
            form = torch.float32 if name.endswith("dora_scale") else dtype
            assert parameter.dtype == form and torch.equal(parameter.detach(), value.to(form))
        assert scales == [(layer.target.alpha, layer.peft_layer.scaling["default"]) for layer in adapter.layers]

    @pytest.mark.parametrize(
        ("network", "kept"),
        [
            ({"network_type": "diag-oft", "rescaled": True}, "rescale"),
            ({"network_type": "lokr", "use_scalar": True}, "scalar"),
        ],
    )
    def test_what_a_step_could_not_change_stays_float32(self, network: dict[str, Any], kept: str) -> None:
        unet, encoders = tiny_models()
        settings = NetworkSettings.model_validate({"network_dim": 4} | network)
        adapter = inject(unet, encoders, "sd1", settings, seed=1, train_unet=True, train_text_encoder=False)
        cast_adapter(adapter, torch.bfloat16)
        for name, parameter in adapter.named_parameters("unet"):
            assert parameter.dtype == (torch.float32 if name.endswith(f".{kept}") else torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            unet(**unet_inputs()).sample.float().sum().backward()
        assert all(parameter.grad is not None for parameter in adapter.parameters("unet"))

    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("network_type", ["locon", "dora"])
    @pytest.mark.parametrize("autocast", [True, False])
    def test_it_computes_nearly_what_it_did(self, dtype: torch.dtype, network_type: str, autocast: bool) -> None:
        unet, adapter = adapted(network_type)
        inputs = unet_inputs()
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=autocast):
            expected = unet(**inputs).sample.float()
            cast_adapter(adapter, dtype)
            found = unet(**inputs).sample
        assert torch.isfinite(found).all()
        tolerance = 0.03 if dtype == torch.bfloat16 else 0.005
        assert float((found.float() - expected).norm() / expected.norm()) < tolerance
        assert found.dtype == (dtype if autocast else torch.float32)

    @pytest.mark.parametrize("network_type", ["locon", "dora"])
    def test_it_trains_under_autocast(self, network_type: str) -> None:
        unet, adapter = adapted(network_type)
        cast_adapter(adapter, torch.float16)
        parameters = adapter.parameters("unet")
        before = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.SGD(parameters, lr=0.05)
        scaler = make_scaler("cpu", enabled=True, half_parameters=True)
        scaler.load_state_dict(scaler.state_dict() | {"scale": 256.0})
        losses = []
        for _ in range(3):
            with torch.autocast("cpu", torch.float16):
                loss = (unet(**unet_inputs()).sample.float() - 1).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        assert scaler.get_scale() == 256
        assert losses[2] < losses[0]
        magnitudes = {torch.float32} if network_type == "dora" else set()
        assert {parameter.dtype for parameter in parameters} == {torch.float16} | magnitudes
        assert not all(map(torch.equal, before, parameters))

    @pytest.mark.parametrize("dtype", HALVES)
    def test_state_and_files(self, dtype: torch.dtype, tmp_path: Any) -> None:
        _, adapter = adapted()
        cast_adapter(adapter, dtype)
        state = adapter.raw_state()
        assert {tensor.dtype for tensor in state.values()} == {dtype}
        fill(adapter, seed=9)
        adapter.load_raw_state(state)
        assert all(torch.equal(tensor, state[name]) for name, tensor in adapter.raw_state().items())
        path = tmp_path / "adapter.safetensors"
        save_adapter(path, adapter.kohya_state_dict(), {}, "bf16" if dtype == torch.bfloat16 else "fp16")
        assert compare_with_live(path, adapter) == 0
        adapter.load_kohya_state_dict(adapter.kohya_state_dict())
        assert {parameter.dtype for parameter in adapter.parameters("unet")} == {dtype}

    @pytest.mark.parametrize("dtype", HALVES)
    def test_max_norm(self, dtype: torch.dtype) -> None:
        _, adapter = adapted()
        fill(adapter, size=2.0)
        cast_adapter(adapter, dtype)
        report = adapter.apply_max_norm(1.0)
        assert report.keys_scaled > 0
        norms = [
            float((layer.up.double().flatten(1) @ layer.down.double().flatten(1)).detach().norm() * layer.target.scale)
            for layer in adapter.layers
        ]
        # Scaled in float32 at least and rounded once: half a step of the format per tensor at most.
        assert max(norms) == pytest.approx(1.0, rel=torch.finfo(dtype).eps)
        assert report.max_norm == 1.0


STEPS, GRADIENTS = 10, (0.0, 1e-5, 1e-4, 1e-2)  # 0: the down tensors of a new adapter have no gradient


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["Prodigy", "Lion", "AdaFactor", "SGDNesterov", "AdamW"])
def test_optimizers_step_in_half_as_in_float32_or_are_refused(name: str, dtype: torch.dtype) -> None:
    settings = OptimizerSettings(
        optimizer_type=name, lr_scheduler="adafactor" if name == "AdaFactor" else "constant", learning_rate=1e-3
    )
    moved: list[torch.Tensor] = []
    for form in (torch.float32, dtype):
        parameter = Parameter(torch.zeros(len(GRADIENTS), dtype=form))
        if name == "AdamW" and form == torch.float16:
            # Its eps of 1e-8 is 0 there, and the squares of small gradients vanish.
            with pytest.raises(LoratoryError, match="float16"):
                Optimizers([TrainedPart("unet", [parameter], 1e-3)], settings)
            return
        optimizers = Optimizers([TrainedPart("unet", [parameter], 1.0 if name == "Prodigy" else 1e-3)], settings)
        for _ in range(STEPS):
            parameter.grad = torch.tensor(GRADIENTS, dtype=form)
            optimizers.all[0].step()
        moved.append(parameter.detach().float())
    expected, found = moved
    assert ((found - expected).abs() <= 0.1 * expected.abs()).all()
