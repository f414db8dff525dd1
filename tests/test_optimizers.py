"""Optimizers: rates per part, the step size adaptive ones find, and states that go on exactly."""

import io
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from loratory.config.schema import OptimizerSettings
from loratory.errors import LoratoryError
from loratory.training.optimizer_types import ADAPTIVE, OPTIMIZER_TYPES, optimizer_class, optimizer_type
from loratory.training.optimizers import (
    Optimizers,
    TrainedPart,
    refuse_wrong_arguments,
    state_tensors,
    trained_parts,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
]

PRODIGY = {"optimizer_type": "Prodigy", "optimizer_args": "decouple=True weight_decay=0.1 betas=0.9,0.99"}
CONSTANT = {"lr_scheduler": "constant"}
BITSANDBYTES = [name for name, kind in OPTIMIZER_TYPES.items() if kind.extra == "bitsandbytes"]


def settings_of(name: str, **more: object) -> dict:
    """Settings under which the optimizer `name` can be used."""
    if name == "AdaFactor":
        return {"optimizer_type": name, "lr_scheduler": "adafactor", **more}
    return {"optimizer_type": name, **(CONSTANT if name.lower().endswith("schedulefree") else {}), **more}


EVERY = [
    *(pytest.param(settings_of(name), id=name) for name in OPTIMIZER_TYPES),
    pytest.param(settings_of("AdaFactor", lr_scheduler="cosine", optimizer_args="relative_step=False"), id="rated"),
    pytest.param(settings_of("RMSprop"), id="RMSprop"),
    pytest.param(settings_of("torch.optim.NAdam"), id="torch.optim.NAdam"),
    pytest.param({**PRODIGY, "lr_scheduler": "cosine"}, id="guide"),
    pytest.param(
        settings_of("ProdigyPlusScheduleFree", lr_scheduler="cosine", optimizer_args="use_schedulefree=False"),
        id="ProdigyPlus-scheduled",
    ),
]


@pytest.fixture(autouse=True)
def skip_without_bitsandbytes(request: pytest.FixtureRequest) -> None:
    settings = getattr(request.node, "callspec", None) and request.node.callspec.params.get("settings")
    if isinstance(settings, dict) and settings["optimizer_type"] in BITSANDBYTES:
        pytest.importorskip("bitsandbytes")


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


def adapter(settings: dict, dtype: torch.dtype = torch.float32) -> tuple[Optimizers, list[Parameter]]:
    """Two parts of one pair of an adapter each, large enough (4096 values) for the 8-bit states of bitsandbytes."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(8, 640), (640, 8), (8, 64, 3, 3), (640, 8)]
    tensors = [torch.randn(s, generator=generator) / 10 if i % 2 == 0 else torch.zeros(s) for i, s in enumerate(shapes)]
    parameters = [Parameter(tensor.to(dtype)) for tensor in tensors]
    name = settings["optimizer_type"].lower()
    rate = 1.0 if name in ADAPTIVE else 1e-3
    parts = [TrainedPart("unet", parameters[:2], rate), TrainedPart("text_encoder", parameters[2:], rate / 2)]
    return Optimizers(parts, OptimizerSettings(**settings)), parameters


def train(optimizers: Optimizers, parameters: list[Parameter], steps: range) -> None:
    """Steps from a warm-up of two on, with gradients that depend on the step and on the parameters."""
    for step in steps:
        torch.manual_seed(step)  # as the loop does; stochastic rounding draws from it
        # The library divides by the rate, so a warm-up is refused; see tests/test_schedule.py.
        no_zero = type(optimizers.all[0]).__name__ == "DAdaptSGD"
        optimizers.set_multiplier(1.0 if no_zero else min(1.0, step / 2))
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            parameter.grad = (0.1 * parameter.detach() + 0.01 * noise + 0.02).to(parameter.dtype)
        for optimizer in optimizers.all:
            optimizer.step()
        optimizers.zero_grad()


def through_a_file(state: list[dict]) -> list[dict]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("settings", EVERY)
def test_a_run_that_is_resumed_ends_as_one_that_is_not(settings: dict, dtype: torch.dtype) -> None:
    whole, expected = adapter(settings, dtype)
    before = [parameter.detach().clone() for parameter in expected]
    train(whole, expected, range(6))
    assert not any(torch.equal(a, b) for a, b in zip(before, expected, strict=True)), "it does not learn"
    assert all(bool(torch.isfinite(parameter).all()) for parameter in expected)

    first, parameters = adapter(settings, dtype)
    train(first, parameters, range(3))
    state = through_a_file(first.state_dict())
    second, resumed = adapter(settings, dtype)
    for new, old in zip(resumed, parameters, strict=True):
        new.data.copy_(old.data)
    second.load_state_dict(state)
    train(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))
    assert second.rates() == whole.rates() and second.effective_rates() == whole.effective_rates()


@pytest.mark.parametrize("settings", EVERY)
def test_nothing_is_printed(settings: dict, capfd: pytest.CaptureFixture[str]) -> None:
    if settings["optimizer_type"] == "Prodigy" or "Adan" in settings["optimizer_type"]:
        settings = {**settings, "optimizer_args": "weight_decay=0.1"}
    elif settings["optimizer_type"].startswith("DAdaptAdam"):
        settings = {**settings, "optimizer_args": "weight_decay=0.1 decouple=True"}
    elif "optimizer_args" not in settings and optimizer_type(settings["optimizer_type"]).path.startswith(
        "prodigyplus."
    ):
        settings = {**settings, "optimizer_args": "prodigy_steps=2"}  # it prints when these are over
    optimizers, parameters = adapter(settings)
    train(optimizers, parameters, range(4))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("settings", EVERY)
def test_float16_parameters_are_trained_or_refused(settings: dict) -> None:
    if not optimizer_type(settings["optimizer_type"]).float16:
        with pytest.raises(LoratoryError, match="float16"):
            refuse_wrong_arguments(OptimizerSettings(**settings), torch.float16)
        return
    refuse_wrong_arguments(OptimizerSettings(**settings), torch.float16)
    optimizers, parameters = adapter(settings, torch.float16)
    for _ in range(4):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-5)  # its square is 0 in float16
        for optimizer in optimizers.all:
            optimizer.step()
    assert all(p.dtype == torch.float16 and bool(torch.isfinite(p).all()) for p in parameters)


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


@pytest.mark.parametrize("name", [name for name, kind in OPTIMIZER_TYPES.items() if kind.one_rate])
def test_adaptive_ones_share_a_step_size_between_equal_rates_only(name: str) -> None:
    shared, _ = make({"optimizer_type": name.upper()}, 1.0, 1.0)
    assert len(shared.all) == 1
    apart, parameters = make({"optimizer_type": name}, 1.0, 0.5)
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
    assert optimizers.step_sizes() is None


def test_step_sizes_stay_those_of_their_step() -> None:
    optimizers, parameters = make(PRODIGY, 1.0, 0.5)
    descend(optimizers, parameters, range(5))
    sizes, effective, rates = optimizers.step_sizes(), optimizers.effective_rates(), optimizers.rates()
    descend(optimizers, parameters, range(5, 10))
    assert sizes is not None
    late = {name: rate * d for (name, rate), d in zip(rates.items(), sizes.tolist(), strict=True)}
    assert late == pytest.approx(effective) and late != pytest.approx(optimizers.effective_rates(), rel=0.01)


def test_fused_and_plain_adamw_agree() -> None:
    fused, parameters = adapter({"optimizer_type": "AdamW", "optimizer_args": "weight_decay=0.1"})
    plain, others = adapter({"optimizer_type": "AdamW", "optimizer_args": "weight_decay=0.1 fused=False"})
    assert [optimizer.param_groups[0]["fused"] for optimizer in (*fused.all, *plain.all)] == [True, False]
    train(fused, parameters, range(20))
    train(plain, others, range(20))
    assert max(float((a - b).detach().abs().max()) for a, b in zip(parameters, others, strict=True)) < 1e-6


def test_adafactor_sets_its_own_rate_or_follows_ours() -> None:
    own, parameters = adapter(settings_of("AdaFactor"))
    assert own.rates() == {"unet": 1e-2, "text_encoder": 1e-2}  # min(0.01, 1 / sqrt(step))
    train(own, parameters, range(4))
    assert all(group["lr"] is None for group in own.all[0].param_groups)
    warmed, parameters = adapter(settings_of("AdaFactor", optimizer_args="warmup_init=True"))
    train(warmed, parameters, range(4))
    assert warmed.rates()["unet"] == pytest.approx(4e-6)
    ours, _ = adapter(settings_of("AdaFactor", lr_scheduler="linear", optimizer_args="relative_step=False"))
    ours.set_multiplier(0.5)
    assert ours.rates() == {"unet": 5e-4, "text_encoder": 2.5e-4}


def test_sgd_has_the_momentum_of_sd_scripts() -> None:
    (optimizer,) = adapter({"optimizer_type": "sgdnesterov"})[0].all
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (True, 0.9)
    (optimizer,) = adapter({"optimizer_type": "SGDNesterov", "optimizer_args": "momentum=0.5"})[0].all
    assert optimizer.defaults["momentum"] == 0.5


# -- averaged weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZER_TYPES if name.endswith("ScheduleFree")])
def test_looking_at_averaged_weights_leaves_no_trace(name: str, dtype: torch.dtype) -> None:
    calm, expected = adapter(settings_of(name), dtype)
    train(calm, expected, range(6))
    watched, parameters = adapter(settings_of(name), dtype)
    for step in range(6):
        train(watched, parameters, range(step, step + 1))
        trained = [parameter.detach().clone() for parameter in parameters]
        watched.eval_mode()
        watched.eval_mode()
        averaged = [parameter.detach().clone() for parameter in parameters]
        with pytest.raises(RuntimeError, match="train_mode"):
            watched.state_dict()
        watched.train_mode()
        watched.train_mode()
        assert all(torch.equal(a, b) for a, b in zip(trained, parameters, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(averaged, parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, parameters, strict=True))


def test_averaged_weights_are_those_of_the_library() -> None:
    optimizers, parameters = adapter(settings_of("AdamWScheduleFree"))
    train(optimizers, parameters, range(5))
    (optimizer,) = optimizers.all
    # x = (y - (1 - beta1) z) / beta1 (arXiv 2405.15682, equation 2)
    expected = [(p.detach() - 0.1 * optimizer.state[p]["z"]) / 0.9 for p in parameters]
    optimizers.eval_mode()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, parameters, strict=True))


def test_other_optimizers_have_one_mode() -> None:
    optimizers, parameters = make(PRODIGY, 1.0, 1.0)
    descend(optimizers, parameters, range(3))
    before = parameters[0].detach().clone()
    optimizers.eval_mode()
    assert torch.equal(parameters[0], before) and optimizers.state_dict()
    optimizers.train_mode()


# -- LoRA+

NAMED = [
    (f"lora_unet_a.{role}", Parameter(torch.zeros(2, 2)))
    for role in ("alpha_like", "lora_down.weight", "lora_up.weight")
]


@pytest.mark.parametrize(
    ("name", "ratios", "expected"),
    [
        ("unet", {}, {"unet": (3, 1e-4)}),
        ("unet", {"loraplus_lr_ratio": 16.0}, {"unet": (2, 1e-4), "unet_up": (1, 16e-4)}),
        ("unet", {"loraplus_lr_ratio": 16.0, "loraplus_unet_lr_ratio": 4.0}, {"unet": (2, 1e-4), "unet_up": (1, 4e-4)}),
        ("unet", {"loraplus_text_encoder_lr_ratio": 4.0}, {"unet": (3, 1e-4)}),
        (
            "text_encoder",
            {"loraplus_lr_ratio": 16.0, "loraplus_text_encoder_lr_ratio": 8.0},
            {"text_encoder": (2, 1e-4), "text_encoder_up": (1, 8e-4)},
        ),
        ("text_encoder2", {"loraplus_unet_lr_ratio": 4.0}, {"text_encoder2": (3, 1e-4)}),
    ],
)
def test_lora_plus(name: str, ratios: dict[str, float], expected: dict[str, tuple[int, float]]) -> None:
    parts = trained_parts(name, NAMED, 1e-4, OptimizerSettings(**ratios))
    assert {part.name: (len(part.parameters), pytest.approx(part.base_lr)) for part in parts} == expected
    if len(parts) == 2:
        assert parts[1].parameters == [NAMED[2][1]]


def test_lora_plus_knows_the_blocks_of_dylora() -> None:
    names = [f"a.lora_{half}.weight.{block}" for half in ("down", "up") for block in (0, 1)]
    named = [(name, Parameter(torch.zeros(2))) for name in names]
    lower, upper = trained_parts("unet", named, 1e-4, OptimizerSettings(loraplus_lr_ratio=2.0))
    assert [id(each) for each in lower.parameters] == [id(each) for _, each in named[:2]]
    assert [id(each) for each in upper.parameters] == [id(each) for _, each in named[2:]]
    assert upper.base_lr == pytest.approx(2e-4)


# -- what is refused


def test_an_argument_the_optimizer_lacks_is_named() -> None:
    with pytest.raises(LoratoryError, match=r"optimizer_args.*warp_speed"):
        make({"optimizer_type": "AdamW", "optimizer_args": "warp_speed=9"}, 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer_type": "Prodgy"}, 'no optimizer "Prodgy"'),
        ({"optimizer_type": "LBFGS"}, "cannot take a step.*closure"),
        ({"optimizer_type": "torch.nn.Linear"}, "not an optimizer"),
        ({"optimizer_type": "torch.optim.Adamm"}, "cannot be loaded.*Adamm"),
        ({"optimizer_type": "no_such_package.Adam"}, "cannot be loaded from no_such_package"),
        ({"optimizer_type": "AdamW", "optimizer_args": "lr=1"}, "lr does nothing there"),
        ({"optimizer_type": "Prodigy", "optimizer_args": "d0=0.0"}, "d0 is above 0"),
        ({"optimizer_type": "DAdaptAdan", "optimizer_args": "log_every=1"}, "log_every of DAdaptAdan is not possible"),
        ({"optimizer_type": "Lion", "optimizer_args": "use_triton=True"}, "use_triton of Lion is not possible"),
        (
            settings_of("ProdigyPlusScheduleFree", optimizer_args="fused_back_pass=True"),
            "fused_back_pass of ProdigyPlusScheduleFree is not possible",
        ),
    ],
)
def test_what_cannot_train_is_refused_before_a_run(settings: dict, said: str) -> None:
    with pytest.raises(LoratoryError, match=said):
        refuse_wrong_arguments(OptimizerSettings(**settings))


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(LoratoryError) as raised:
        refuse_wrong_arguments(OptimizerSettings(optimizer_type="Prodgy"))
    assert raised.value.hint.startswith("Did you mean Prodigy?")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("AdamW8bit", "bitsandbytes", "bitsandbytes"),
        ("Lion", "lion_pytorch", "optimizers"),
        ("DAdaptation", "dadaptation", "optimizers"),
        ("AdamWScheduleFree", "schedulefree", "optimizers"),
        ("prodigyplus.ProdigyPlusScheduleFree", "prodigyplus", "optimizers"),
    ],
)
def test_a_missing_package_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LoratoryError, match=package) as raised:
        refuse_wrong_arguments(OptimizerSettings(**settings_of(name)))
    assert raised.value.hint == f"pip install '.[{extra}]'"


def test_any_class_of_torch_is_an_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """\
import torch
class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr, scale=1.0):
        super().__init__(params, {"lr": lr, "scale": scale})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"] * group["scale"])
"""
    (tmp_path / "own_optimizer.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"optimizer_type": "own_optimizer.Signs", "optimizer_args": "scale=2.0"}
    refuse_wrong_arguments(OptimizerSettings(**settings))
    optimizers, parameters = make(settings, 0.5, 0.25)
    descend(optimizers, parameters, range(1))
    assert parameters[0].tolist() == [2.0] * 4 and parameters[1].tolist() == [2.5] * 4
    assert state_tensors(OptimizerSettings(**settings)) == 0.0


def test_a_path_to_a_known_class_keeps_what_is_known_of_it() -> None:
    optimizers, _ = make({"optimizer_type": "dadaptation.DAdaptAdam"}, 1.0, 0.5)
    assert len(optimizers.all) == 2 and type(optimizers.all[0]) is optimizer_class("DAdaptAdam")
    plain, _ = make({"optimizer_type": "torch.optim.SGD"}, 1.0, 0.5)
    assert plain.all[0].defaults["momentum"] == 0


# -- memory


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"optimizer_type": "AdamW"}, 2.0, 2.001),
        ({"optimizer_type": "AdamW8bit"}, 0.5, 0.6),
        ({"optimizer_type": "Lion"}, 1.0, 1.0),
        ({"optimizer_type": "Prodigy"}, 3.5, 3.6),  # the start of the lower half only: the upper one starts at zero
        ({"optimizer_type": "SGDNesterov"}, 1.0, 1.0),
        (settings_of("AdaFactor"), 0.01, 0.1),
        (settings_of("AdamWScheduleFree"), 2.0, 2.001),
    ],
)
def test_memory_is_measured(settings: dict, least: float, most: float) -> None:
    assert least <= state_tensors(OptimizerSettings(**settings)) <= most


def test_memory_depends_on_the_type_of_the_parameters() -> None:
    adamw, prodigy = OptimizerSettings(), OptimizerSettings(**PRODIGY)
    assert state_tensors(adamw, torch.bfloat16) == pytest.approx(1.0, rel=1e-3)
    assert state_tensors(prodigy, torch.bfloat16) == state_tensors(prodigy)  # it keeps float32


@pytest.mark.parametrize("settings", EVERY)
def test_every_type_can_be_tried(settings: dict) -> None:
    refuse_wrong_arguments(OptimizerSettings(**settings))
    assert 0.0 < state_tensors(OptimizerSettings(**settings)) <= 6.0
