"""Every optimizer, schedule, loss, noise, precision and family trains, and goes on exactly where it was stopped.

Each case is a short run on a small model that is taken back to its state in the middle: what is trained from there
must be the same bytes. Except where it says otherwise, each must also end in other weights than a run without the
setting: none may be accepted and ignored.
"""

import importlib
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.models import components
from loratory.runs.control import Command, Control, send
from loratory.runs.events import Finished, Started, Step
from loratory.runs.store import RunDirectory
from loratory.training.optimizer_types import OPTIMIZER_TYPES
from material import make_set
from training_runs import go_on_from, of_kind, same_bytes, saved, small_config, small_model, train

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
HALFWAY = 2


def config_in(folder: Path, family: Any = "sd1", **tables: Any) -> Config:
    """A run of four steps that keeps its state in the middle and at the end."""
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_fox": 3, "1_cat": 1})
    output = {"state_every_n_steps": HALFWAY} | tables.pop("output", {})
    optimizer = {"learning_rate": 1e-3, "text_encoder_lr": 5e-4} | tables.pop("optimizer", {})
    return small_config(folder, family, optimizer=optimizer, output=output, **tables)


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer() -> Iterator[None]:
    """Built once instead of twice a run, which is a quarter of the time of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "build_tokenizer", cache(components.build_tokenizer))
        yield


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the settings of `config_in` alone give."""
    config = config_in(tmp_path_factory.mktemp("plain"))
    train(config)
    return saved(config)


def trained_and_resumed(config: Config) -> tuple[dict[str, torch.Tensor], list[Step]]:
    """Weights and steps of a run, after checking that it learns and that it ends alike from its state in the middle."""
    finished, run, events = train(config)
    assert (finished.status, finished.step) == ("done", STEPS)
    steps = of_kind(events, Step)
    assert all(math.isfinite(step.loss) and step.loss > 0 for step in steps)
    endings = ["", "-ema"] if config.training.ema_decay else [""]
    whole = [saved(config, ending) for ending in endings]
    for weights in whole:
        assert all(value.isfinite().all() for value in weights.values())
        assert any(value.any() for name, value in weights.items() if name.endswith("lora_up.weight"))
    again = go_on_from(config, run, HALFWAY)
    assert of_kind(again, Started)[-1].from_step == HALFWAY
    assert [step.loss for step in of_kind(again, Step)[STEPS:]] == [step.loss for step in steps[HALFWAY:]]
    for ending, weights in zip(endings, whole, strict=True):
        assert same_bytes(weights, saved(config, ending)), ending
    return whole[0], steps


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[key], other[key]) for key in one if key in other)


# -- optimizers

_OWN_RATE = {"learning_rate": 1.0, "text_encoder_lr": 0.5}
_CONSTANT = {"lr_scheduler": "constant"}
_SETTINGS: dict[str, dict[str, Any]] = {
    "AdaFactor": {"lr_scheduler": "adafactor"},
    "SGDScheduleFree": _CONSTANT | {"learning_rate": 1.0, "text_encoder_lr": 1.0},
    # Without it, its first steps are none.
    "RAdamScheduleFree": _CONSTANT | {"optimizer_args": "silent_sgd_phase=False"},
    "AdamWScheduleFree": _CONSTANT,
    "ProdigyPlusScheduleFree": _CONSTANT | {"learning_rate": 1.0, "text_encoder_lr": 1.0},
    "SGDNesterov": {"learning_rate": 0.1},
    "SGDNesterov8bit": {"learning_rate": 0.1},
    "DAdaptAdaGrad": _OWN_RATE | {"optimizer_args": "d0=1e-3"},
    "DAdaptSGD": _OWN_RATE | {"optimizer_args": "d0=1e-3"},
    "Prodigy": _OWN_RATE | {"optimizer_args": "decouple=True weight_decay=0.1 betas=0.9,0.99 d0=1e-4"},
}


def settings_of(name: str) -> dict[str, Any]:
    own_rate = _OWN_RATE | {"optimizer_args": "d0=1e-4"} if OPTIMIZER_TYPES[name].one_rate else {}
    return {"optimizer_type": name} | _SETTINGS.get(name, own_rate)


def skip_without(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZER_TYPES if "." not in name])
def test_every_optimizer(tmp_path: Path, plain_weights: dict[str, torch.Tensor], name: str) -> None:
    skip_without(OPTIMIZER_TYPES[name].path.partition(".")[0])
    weights, steps = trained_and_resumed(config_in(tmp_path, optimizer=settings_of(name)))
    assert differs(weights, plain_weights) is (name != "AdamW")
    assert all(step.lr.keys() == {"unet", "text_encoder"} for step in steps)
    for part in ("lora_unet", "lora_te"):
        assert any(v.any() for n, v in weights.items() if n.startswith(part) and n.endswith("lora_up.weight")), part


OTHER_OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer_type": "AdaFactor", "optimizer_args": "relative_step=False scale_parameter=False"},
    {"optimizer_type": "RAdam"},
    {"optimizer_type": "torch.optim.NAdam"},
    {"optimizer_type": "AdamW", "optimizer_args": "weight_decay=0.5 betas=0.8,0.9"},
    {"loraplus_lr_ratio": 16.0},
    {"loraplus_unet_lr_ratio": 4.0},
    {"loraplus_text_encoder_lr_ratio": 4.0},
    {"optimizer_type": "Prodigy", "loraplus_lr_ratio": 4.0, "optimizer_args": "d0=1e-4"} | _OWN_RATE,
    {"max_grad_norm": 0.001, "optimizer_type": "SGDNesterov"},
]


@pytest.mark.parametrize("optimizer", OTHER_OPTIMIZERS, ids=str)
def test_other_ways_to_optimize(
    tmp_path: Path, plain_weights: dict[str, torch.Tensor], optimizer: dict[str, Any]
) -> None:
    weights, _ = trained_and_resumed(config_in(tmp_path, optimizer=optimizer))
    assert differs(weights, plain_weights)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("lion_pytorch", "Lion"),
        ("dadaptation", "DAdaptAdam"),
        ("dadaptation", "DAdaptation"),
        ("schedulefree", "AdamWScheduleFree"),
        ("prodigyplus", "ProdigyPlusScheduleFree"),
        ("bitsandbytes", "PagedAdamW8bit"),
    ],
)
def test_a_run_without_the_package_of_its_optimizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    config = config_in(tmp_path, optimizer=settings_of(name))
    with pytest.raises(LoratoryError, match=f"optimizer_type: {name} cannot be loaded from {package}") as caught:
        train(config)
    extra = "bitsandbytes" if package == "bitsandbytes" else "optimizers"
    assert caught.value.hint == f"pip install '.[{extra}]'"
    (run,) = (tmp_path / "runs").iterdir()
    record = RunDirectory(run).read_record()
    assert record is not None and record.status == "failed"
    assert not list((tmp_path / "output").glob("*.safetensors"))


# -- schedules

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"lr_scheduler": "constant"},
    "constant_with_warmup": {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2},
    "linear": {"lr_scheduler": "linear", "lr_warmup_steps": "25%"},
    "cosine": {"lr_scheduler": "cosine", "lr_warmup_steps": 0.25},
    "cosine_with_restarts": {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2},
    "polynomial": {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0},
    "cosine_with_min_lr": {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.3},
    "inverse_sqrt": {"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 1, "lr_scheduler_timescale": 2},
    "warmup_stable_decay": {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 1, "lr_decay_steps": 1},
    "piecewise_constant": {
        "lr_scheduler": "piecewise_constant",
        "lr_scheduler_args": "step_rules='1:1,0.5:3,0.1'",
    },
    "class of torch": {"lr_scheduler_type": "StepLR", "lr_scheduler_args": "step_size=1 gamma=0.5"},
    "path of a class": {
        "lr_scheduler_type": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "lr_scheduler_args": "T_max=2",
    },
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(tmp_path: Path, plain_weights: dict[str, torch.Tensor], name: str) -> None:
    weights, steps = trained_and_resumed(config_in(tmp_path, optimizer=SCHEDULES[name]))
    assert differs(weights, plain_weights)
    for step in steps:  # one multiplier for every part
        assert step.lr["text_encoder"] == pytest.approx(step.lr["unet"] / 2)
        assert 0 <= step.lr["unet"] <= 1e-3
    assert len({step.lr["unet"] for step in steps}) > 1 or name == "constant"


# -- losses and noises

LOSSES: list[dict[str, Any]] = [
    {"loss_type": "l1"},
    *(
        {"loss_type": loss_type, "huber_schedule": schedule}
        for loss_type in ("huber", "smooth_l1")
        for schedule in ("snr", "exponential", "constant")
    ),
    {"loss_type": "huber", "huber_schedule": "constant", "huber_c": 0.5, "huber_scale": 2.0},
    {"min_snr_gamma": 0.05},
    {"debiased_estimation_loss": True},
    {"min_snr_gamma": 1, "debiased_estimation_loss": True, "loss_type": "l1"},
    {"v_pred_like_loss": 0.5},
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_every_loss(tmp_path: Path, plain_weights: dict[str, torch.Tensor], loss: dict[str, Any]) -> None:
    weights, _ = trained_and_resumed(config_in(tmp_path, loss=loss))
    assert differs(weights, plain_weights)


NOISES: list[dict[str, Any]] = [
    {"noise_offset": 0.1},
    {"noise_offset": 0.1, "noise_offset_random_strength": True},
    {"noise_offset": 0.1, "adaptive_noise_scale": 0.05},
    {"multires_noise_iterations": 6},
    {"multires_noise_iterations": 6, "multires_noise_discount": 0.5, "noise_offset": 0.05},
    {"ip_noise_gamma": 0.1},
    {"ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True},
    {"timestep_sampling": "logit_normal", "logit_mean": 0.5, "logit_std": 0.8},
    {"timestep_sampling": "mode"},
    {"timestep_sampling": "mode", "mode_scale": -0.5},
    {"timestep_sampling": "cosmap"},
    {"min_timestep": 300, "max_timestep": 600},
    {"zero_terminal_snr": True},
]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_every_noise(tmp_path: Path, plain_weights: dict[str, torch.Tensor], noise: dict[str, Any]) -> None:
    config = config_in(tmp_path, noise=noise)
    weights, steps = trained_and_resumed(config)
    assert differs(weights, plain_weights)
    low, high = config.noise.min_timestep, config.noise.max_timestep
    assert all(low <= sample.timestep < high for step in steps for sample in step.samples)


# -- precision and memory

_FULL_BF16 = {"mixed_precision": "bf16", "full_bf16": True}
_FULL_FP16 = {"mixed_precision": "fp16", "full_fp16": True}
PRECISIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"mixed_precision": "bf16"}, {}),
    ({"mixed_precision": "fp16"}, {}),
    (_FULL_BF16, {}),
    (_FULL_BF16, {"optimizer_type": "AdaFactor", "lr_scheduler": "adafactor"}),
    (_FULL_BF16, {"optimizer_type": "Prodigy", "optimizer_args": "d0=1e-4"} | _OWN_RATE),
    (_FULL_BF16 | {"ema_decay": 0.9}, {}),
    (_FULL_FP16, {"optimizer_type": "Lion"}),
    (_FULL_FP16, {"optimizer_type": "AdamW8bit"}),
    ({"mixed_precision": "bf16", "fp8_base": True}, {}),
    ({"mixed_precision": "bf16", "fp8_base_unet": True}, {}),
    ({"mixed_precision": "no", "fp8_base": True}, {}),
    ({"mixed_precision": "bf16", "int8_base": True}, {}),
    ({"mixed_precision": "no", "int8_base": True, "gradient_checkpointing": True}, {}),
    ({"mixed_precision": "bf16", "blocks_to_swap": 3}, {}),
    ({"mixed_precision": "bf16", "blocks_to_swap": 3, "int8_base": True, "gradient_checkpointing": True}, {}),
    ({"mixed_precision": "fp16", "blocks_to_swap": 2, "fp8_base": True}, {}),
]


@pytest.mark.parametrize(("training", "optimizer"), PRECISIONS, ids=str)
def test_every_precision(
    tmp_path: Path, plain_weights: dict[str, torch.Tensor], training: dict[str, Any], optimizer: dict[str, Any]
) -> None:
    package = OPTIMIZER_TYPES[optimizer.get("optimizer_type", "AdamW")].path.partition(".")[0]
    skip_without(package)
    model = {"no_half_vae": True}  # which is slow on the CPU, and no part of the question
    weights, steps = trained_and_resumed(config_in(tmp_path, model=model, training=training, optimizer=optimizer))
    assert differs(weights, plain_weights)
    if training.get("full_bf16") or training.get("full_fp16"):
        form = torch.bfloat16 if training.get("full_bf16") else torch.float16
        assert all(torch.equal(value, value.to(form).float()) for value in weights.values())
    assert steps[0].loss < 10


def test_swapped_blocks_change_nothing(tmp_path: Path, plain_weights: dict[str, torch.Tensor]) -> None:
    weights, _ = trained_and_resumed(config_in(tmp_path, training={"mixed_precision": "no", "blocks_to_swap": 3}))
    assert same_bytes(weights, plain_weights)


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoratoryError, match="AdamW cannot train an adapter in float16"):
        train(config_in(tmp_path, training=_FULL_FP16))


def test_a_moving_average_stands_beside_the_adapter_it_does_not_touch(
    tmp_path: Path, plain_weights: dict[str, torch.Tensor]
) -> None:
    config = config_in(tmp_path, training={"ema_decay": 0.9}, output={"save_every_n_steps": 2})
    weights, _ = trained_and_resumed(config)
    assert same_bytes(weights, plain_weights)
    assert differs(saved(config, "-ema"), weights)
    names = sorted(path.name for path in config.output.output_dir.iterdir())
    steps = ["fox-step00000002-ema.safetensors", "fox-step00000002.safetensors"]
    assert names == ["fox-ema.safetensors", *steps, "fox.safetensors"]


# -- families and networks


def weights_of(family: Any, prediction_type: str | None = None, zero_terminal_snr: bool = False) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": str(small_model(family, prediction_type, zero_terminal_snr))}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd2 v": ("sd2", {}),
    "sd2 v, weighted": ("sd2", {"loss": {"min_snr_gamma": 5, "scale_v_pred_loss_like_noise_pred": True}}),
    "sd2 v, debiased": ("sd2", {"loss": {"debiased_estimation_loss": True}, "model": {"clip_skip": 2}}),
    "sdxl eps": ("sdxl", {}),
    "sdxl eps, two rates": ("sdxl", {"optimizer": {"text_encoder_lr": [1e-3, 2e-4]}}),
    "sdxl eps, first encoder only": ("sdxl", {"optimizer": {"text_encoder_lr": [1e-3, 0.0]}}),
    "sdxl eps, Prodigy with three rates": (
        "sdxl",
        {
            "optimizer": {
                "optimizer_type": "Prodigy",
                "learning_rate": 1.0,
                "text_encoder_lr": [0.5, 0.25],
                "optimizer_args": "d0=1e-4",
            }
        },
    ),
    "sdxl eps, flipped": ("sdxl", {"dataset": {"flip_aug": True}, "caption": {"max_token_length": 150}}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(tmp_path: Path, name: str) -> None:
    family, tables = FAMILIES[name]
    weights, steps = trained_and_resumed(config_in(tmp_path, family, **{k: dict(v) for k, v in tables.items()}))
    prefixes = {name.split("_unet_")[0].split("_text_model")[0] for name in weights}
    expected = {"lora", "lora_te1", "lora_te2"} if family == "sdxl" else {"lora", "lora_te"}
    rates = tables.get("optimizer", {}).get("text_encoder_lr")
    if rates and not rates[1]:
        expected -= {"lora_te2"}
    assert prefixes == expected
    if isinstance(rates, list):
        parts = {"unet", "text_encoder_1"} | ({"text_encoder_2"} if rates[1] else set())
        assert steps[0].lr.keys() == parts
        assert steps[0].lr["text_encoder_1"] == rates[0]


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_v_prediction(tmp_path: Path, family: Any, zero_terminal_snr: bool) -> None:
    model = weights_of(family, "v_prediction", zero_terminal_snr)
    loss = {"min_snr_gamma": 5}
    weights, _ = trained_and_resumed(config_in(tmp_path, family, model=model, loss=loss))
    epsilon = config_in(tmp_path, family, loss=loss, output={"output_name": "epsilon"})
    train(epsilon)
    assert differs(weights, saved(epsilon))
    if zero_terminal_snr:
        told = config_in(
            tmp_path,
            family,
            model=weights_of(family, "v_prediction"),
            loss=loss,
            noise={"zero_terminal_snr": True},
            output={"output_name": "told"},
        )
        train(told)
        assert same_bytes(weights, saved(told))


NETWORKS: list[dict[str, Any]] = [
    {"network_type": "locon", "conv_dim": 2, "conv_alpha": 1},
    {"network_type": "dora"},
    {"network_dropout": 0.3},
    {"rank_dropout": 0.3},
    {"module_dropout": 0.3},
    {"scale_weight_norms": 0.001},
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_every_network(tmp_path: Path, plain_weights: dict[str, torch.Tensor], network: dict[str, Any]) -> None:
    weights, _ = trained_and_resumed(config_in(tmp_path, network=network))
    assert differs(weights, plain_weights) or weights.keys() != plain_weights.keys()


# -- a stop in the middle

STOPPED: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"training": {"ema_decay": 0.9}},
    "schedule-free": {"optimizer": {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant"}},
    "fp16": {
        "model": {"no_half_vae": True},
        "training": {"mixed_precision": "fp16"},
        "network": {"network_dropout": 0.2},
    },
    "accumulated": {"training": {"gradient_accumulation_steps": 2, "max_train_epochs": 2}},
    "validated": {
        "dataset": {"validation_split": 0.3},
        "training": {"validate_every_n_steps": 1, "max_train_epochs": 2},
    },
}


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_and_resumed_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tables = {key: dict(value) for key, value in STOPPED[name].items()}
    if "schedule" in name:
        skip_without("schedulefree")
    config = config_in(tmp_path, output={"state_every_n_steps": 100}, **tables)
    train(config)
    endings = ["", "-ema"] if config.training.ema_decay else [""]
    whole = [saved(config, ending) for ending in endings]
    for ending in endings:
        (config.output.output_dir / f"fox{ending}.safetensors").unlink()
    poll, polls = Control.poll, []

    def stop_before_the_fourth(control: Control) -> list[Any]:
        polls.append(None)
        if len(polls) == 4:
            send(control.directory, Command("stop"))
        return poll(control)

    monkeypatch.setattr(Control, "poll", stop_before_the_fourth)
    stopped, run, _ = train(config)
    assert (stopped.status, stopped.step) == ("stopped", 3)
    finished, _, events = train(config, run)
    assert isinstance(finished, Finished) and finished.status == "done"
    assert [step.step for step in of_kind(events, Step)] == list(range(1, finished.step + 1))
    for ending, weights in zip(endings, whole, strict=True):
        assert same_bytes(weights, saved(config, ending)), ending
