"""Learning-rate schedules: the figures of sd-scripts, transformers' and diffusers' own schedules, and any class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.optimization as of_diffusers
import pytest
import torch
import transformers.optimization as of_transformers
from pydantic import ValidationError

from loratory.config.schema import OptimizerSettings
from loratory.errors import LoratoryError
from loratory.training.schedule import lr_multiplier

FIGURES = json.loads((Path(__file__).parent / "data" / "lr_schedules.json").read_text())
STEPS = 50


def dummy(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def course(scheduler: Callable[[torch.optim.Optimizer], Any], lr: float, steps: int = STEPS) -> list[float]:
    """The rates at which a scheduler of torch would train."""
    optimizer = dummy(lr)
    made, rates = scheduler(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return rates


def ours(settings: OptimizerSettings, steps: int = STEPS) -> list[float]:
    return [settings.learning_rate * lr_multiplier(settings, step, steps) for step in range(steps)]


@pytest.mark.parametrize("row", FIGURES["lr_schedules"], ids=lambda row: row["name"])
def test_the_rates_of_sd_scripts(row: dict[str, Any]) -> None:
    settings = OptimizerSettings(lr_scheduler=row["name"], learning_rate=row["base_lr"], **row["args"])
    assert ours(settings, row["max_train_steps"]) == pytest.approx(row["lr_used_at_step"], rel=1e-12, abs=1e-18)


# What sd-scripts gives transformers' functions: half the cycles where theirs are whole waves, learning_rate as the rate
# the polynomial starts from, and the stable steps as what warm-up and decay leave.
COURSES: list[tuple[dict[str, Any], Callable[[torch.optim.Optimizer], Any]]] = [
    (
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 7},
        lambda o: of_transformers.get_constant_schedule_with_warmup(o, 7),
    ),
    (
        {"lr_scheduler": "linear", "lr_warmup_steps": 0.1},
        lambda o: of_transformers.get_linear_schedule_with_warmup(o, 5, STEPS),
    ),
    (
        {"lr_scheduler": "cosine", "lr_warmup_steps": "20%"},
        lambda o: of_transformers.get_cosine_schedule_with_warmup(o, 10, STEPS),
    ),
    (
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 4},
        lambda o: of_transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, 0, STEPS, num_cycles=4),
    ),
    ({"lr_scheduler": "polynomial"}, lambda o: of_transformers.get_polynomial_decay_schedule_with_warmup(o, 0, STEPS)),
    (
        {"lr_scheduler": "polynomial", "lr_warmup_steps": 5, "lr_scheduler_power": 2.5, "learning_rate": 1e-6},
        lambda o: of_transformers.get_polynomial_decay_schedule_with_warmup(o, 5, STEPS, power=2.5),
    ),
    ({"lr_scheduler": "inverse_sqrt"}, lambda o: of_transformers.get_inverse_sqrt_schedule(o, 0)),
    (
        {"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 6},
        lambda o: of_transformers.get_inverse_sqrt_schedule(o, 6),
    ),
    (
        {"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 6, "lr_scheduler_timescale": 20},
        lambda o: of_transformers.get_inverse_sqrt_schedule(o, 6, timescale=20),
    ),
    (
        {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.2, "lr_scheduler_num_cycles": 3},
        lambda o: of_transformers.get_cosine_with_min_lr_schedule_with_warmup(
            o, 0, STEPS, num_cycles=1.5, min_lr_rate=0.2
        ),
    ),
    (
        {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 5, "lr_decay_steps": 10},
        lambda o: of_transformers.get_wsd_schedule(o, 5, 10, num_stable_steps=35),
    ),
    (
        {
            "lr_scheduler": "warmup_stable_decay",
            "lr_warmup_steps": 5,
            "lr_decay_steps": 0.4,
            "lr_scheduler_min_lr_ratio": 0.1,
            "lr_scheduler_num_cycles": 3,
        },
        lambda o: of_transformers.get_wsd_schedule(o, 5, 20, num_stable_steps=25, min_lr_ratio=0.1, num_cycles=1.5),
    ),
    (
        {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 30, "lr_decay_steps": 40},
        lambda o: of_transformers.get_wsd_schedule(o, 30, 40, num_stable_steps=-20),
    ),
    (
        {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": "step_rules='1:10,0.1:20,0.01:30,0.005'"},
        lambda o: of_diffusers.get_piecewise_constant_schedule(o, "1:10,0.1:20,0.01:30,0.005"),
    ),
    (
        {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": {"step_rules": "0.1:20, 2:10, 1"}},
        lambda o: of_diffusers.get_piecewise_constant_schedule(o, "0.1:20, 2:10, 1"),
    ),
]


@pytest.mark.parametrize(
    ("settings", "theirs"), COURSES, ids=[f"{i}-{s['lr_scheduler']}" for i, (s, _) in enumerate(COURSES)]
)
def test_the_rates_of_transformers(settings: dict[str, Any], theirs: Callable[[torch.optim.Optimizer], Any]) -> None:
    made = OptimizerSettings(**{"learning_rate": 1e-3, **settings})
    assert ours(made) == pytest.approx(course(theirs, made.learning_rate), rel=1e-9, abs=1e-15)


def test_the_polynomial_ends_at_an_absolute_rate() -> None:
    settings = OptimizerSettings(lr_scheduler="polynomial", learning_rate=1e-5, unet_lr=3e-4)
    assert lr_multiplier(settings, STEPS, STEPS) == pytest.approx(1e-7 / 1e-5)
    unlike = OptimizerSettings(lr_scheduler="polynomial", learning_rate=1.0)
    assert lr_multiplier(unlike, STEPS, STEPS) == pytest.approx(1e-7)


def test_the_stable_decay_ends_at_its_lowest_rate() -> None:
    settings = OptimizerSettings(
        lr_scheduler="warmup_stable_decay", lr_decay_steps=10, lr_scheduler_min_lr_ratio=0.25, lr_scheduler_num_cycles=2
    )
    assert [lr_multiplier(settings, step, STEPS) for step in (40, 45, 50)] == pytest.approx([1.0, 0.25, 0.25])


def test_adafactor_has_a_rate_of_its_own() -> None:
    settings = OptimizerSettings(optimizer_type="AdaFactor", lr_scheduler="adafactor")
    assert {lr_multiplier(settings, step, STEPS) for step in range(STEPS)} == {1.0}


# -- any class


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CosineAnnealingLR", {"T_max": STEPS, "eta_min": 1e-4}),
        ("torch.optim.lr_scheduler.MultiStepLR", {"milestones": [10, 30], "gamma": 0.5}),
        ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 2e-3, "total_steps": STEPS + 2, "cycle_momentum": False}),
        ("ExponentialLR", {"gamma": 0.95}),
    ],
)
def test_any_scheduler_of_torch(name: str, arguments: dict[str, Any]) -> None:
    settings = OptimizerSettings(learning_rate=1e-3, lr_scheduler_type=name, lr_scheduler_args=arguments)
    kind = getattr(torch.optim.lr_scheduler, name.rpartition(".")[2])
    assert ours(settings) == pytest.approx(course(lambda o: kind(o, **arguments), 1e-3), rel=1e-12)
    # A resumed run asks for a late step first.
    assert lr_multiplier(settings, 40, STEPS) == pytest.approx(ours(settings)[40] / 1e-3)


def test_two_class_schedules_are_not_mixed_up() -> None:
    slow, fast = (
        OptimizerSettings(lr_scheduler_type="ExponentialLR", lr_scheduler_args=f"gamma={gamma}") for gamma in (0.9, 0.5)
    )
    found = [lr_multiplier(settings, 2, STEPS) for settings in (slow, fast, slow)]
    assert found == pytest.approx([0.81, 0.25, 0.81])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("CosineLR", "", "no class CosineLR"),
        ("no_such_package.Scheduler", "", "no class no_such_package.Scheduler"),
        ("torch.optim.AdamW", "", "not a learning-rate scheduler"),
        ("ReduceLROnPlateau", "", "follows the loss"),
        ("CosineAnnealingLR", "", "T_max"),
        ("OneCycleLR", "max_lr=1e-3 total_steps=100", "momentum"),
        ("OneCycleLR", "max_lr=1e-3 total_steps=10 cycle_momentum=False", "cannot be run for 50 steps"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(name: str, arguments: str, said: str) -> None:
    settings = OptimizerSettings(lr_scheduler_type=name, lr_scheduler_args=arguments)
    with pytest.raises(LoratoryError, match=said):
        lr_multiplier(settings, 0, STEPS)


# -- settings that disagree


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer_type": "AdamWScheduleFree"}, "averages its weights instead"),
        ({"optimizer_type": "prodigyplus.ProdigyPlusScheduleFree", "lr_scheduler": "linear"}, "averages its weights"),
        ({"optimizer_type": "SGDScheduleFree", "lr_scheduler_type": "ExponentialLR"}, "averages its weights instead"),
        ({"optimizer_type": "AdaFactor"}, "relative_step=False"),
        ({"optimizer_type": "adafactor", "lr_scheduler_type": "ExponentialLR"}, "relative_step=False"),
        ({"lr_scheduler": "adafactor"}, "belongs to optimizer_type"),
        (
            {"optimizer_type": "AdaFactor", "optimizer_args": "relative_step=False", "lr_scheduler": "adafactor"},
            "belongs to optimizer_type",
        ),
        ({"optimizer_type": "AdaFactor", "lr_scheduler": "adafactor", "lr_warmup_steps": 5}, "does nothing with"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "needs lr_scheduler_min_lr_ratio"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-7}, "learning_rate is not above"),
        ({"lr_scheduler": "piecewise_constant"}, "needs step_rules"),
        ({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": "step_rules='1:x,2'"}, "is not of the form"),
        (
            {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": "step_rules='1:5,2'", "lr_warmup_steps": 0.1},
            "does nothing with",
        ),
        ({"lr_scheduler": "linear", "lr_scheduler_args": "step_rules='1:5,2'"}, "lr_scheduler_args: does nothing"),
        ({"lr_scheduler_type": "ExponentialLR", "lr_warmup_steps": 5}, 'lr_scheduler_type = "ExponentialLR"'),
        ({"lr_scheduler_type": "ExponentialLR", "lr_scheduler_num_cycles": 2}, "lr_scheduler_num_cycles: does nothing"),
        ({"optimizer_type": "DAdaptSGD", "lr_warmup_steps": 5}, "cannot begin at a rate of 0"),
    ],
)
def test_settings_that_disagree_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OptimizerSettings(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 0.1},
        {"optimizer_type": "ProdigyPlusScheduleFree", "optimizer_args": "use_schedulefree=False"},
        {"optimizer_type": "AdaFactor", "optimizer_args": "relative_step=False scale_parameter=False"},
        {"optimizer_type": "AdaFactor", "lr_scheduler": "adafactor"},
        {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_num_cycles": 3},
    ],
)
def test_settings_that_agree_are_taken(settings: dict[str, Any]) -> None:
    assert OptimizerSettings(**settings).optimizer_type
