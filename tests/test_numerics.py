"""Noise, loss and learning rates against figures of sd-scripts 48d368f (tests/data/loss_and_noise.json says how)."""

import json
from pathlib import Path

import pytest
import torch

from loratory.config.schema import LossSettings, OptimizerSettings
from loratory.training.loss import loss_weights, min_snr_weight, per_sample_loss, target_of
from loratory.training.noise import add_noise, draw_latents, draw_noise, draw_timestep, make_schedule, velocity
from loratory.training.schedule import lr_multiplier

FIGURES = json.loads((Path(__file__).parent / "data" / "loss_and_noise.json").read_text())
TIMESTEPS = torch.tensor(FIGURES["timesteps"])


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_schedule() -> None:
    schedule = make_schedule()
    torch.testing.assert_close(schedule.alphas_cumprod[TIMESTEPS], tensor(FIGURES["alphas_cumprod"]), rtol=0, atol=0)
    torch.testing.assert_close(schedule.snr[TIMESTEPS], tensor(FIGURES["snr"]), rtol=4e-7, atol=0)


def test_zero_terminal_schedule_has_no_signal_at_the_end() -> None:
    schedule = make_schedule(zero_terminal_snr=True)
    expected = tensor(FIGURES["zero_terminal_alphas_cumprod"])
    torch.testing.assert_close(schedule.alphas_cumprod[TIMESTEPS], expected, rtol=4e-6, atol=1e-12)
    torch.testing.assert_close(schedule.snr[TIMESTEPS], tensor(FIGURES["zero_terminal_snr"]), rtol=4e-6, atol=1e-12)
    assert schedule.alphas_cumprod[-1] == 0 and schedule.snr[-1] == 0
    assert schedule.alphas_cumprod[0] == pytest.approx(FIGURES["alphas_cumprod"][0], rel=1e-7)


def test_kohya_compatible_snr_is_that_of_the_plain_schedule() -> None:
    schedule = make_schedule(zero_terminal_snr=True, kohya_compatible=True)
    in_sd_scripts = tensor(FIGURES["zero_terminal_snr_in_sd_scripts"])
    torch.testing.assert_close(schedule.snr[TIMESTEPS], in_sd_scripts, rtol=4e-7, atol=0)
    assert schedule.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("name", FIGURES["min_snr"])
def test_min_snr(name: str) -> None:
    kind, _, gamma, v_prediction = name.split("/")
    settings = LossSettings(min_snr_gamma=float(gamma.removeprefix("gamma=")))
    schedule = make_schedule(zero_terminal_snr=kind != "std", kohya_compatible=True)
    weights = loss_weights(TIMESTEPS, schedule, settings, v_prediction=v_prediction == "v=True")
    expected = tensor(FIGURES["min_snr"][name])
    torch.testing.assert_close(weights * tensor(FIGURES["loss_in"]), expected, rtol=5e-7, atol=0)


@pytest.mark.parametrize("v_prediction", [False, True])
def test_min_snr_of_the_rescaled_schedule(v_prediction: bool) -> None:
    schedule = make_schedule(zero_terminal_snr=True)
    weights = loss_weights(TIMESTEPS, schedule, LossSettings(min_snr_gamma=5), v_prediction=v_prediction)
    found = weights * tensor(FIGURES["loss_in"])
    expected = tensor([float(value) for value in FIGURES["min_snr_after_rescale"][f"gamma=5.0/v={v_prediction}"]])
    finite = expected.isfinite()
    torch.testing.assert_close(found[finite], expected[finite], rtol=5e-6, atol=1e-9)
    # sd-scripts' formula is 0/0 at the last timestep; ours takes the limit.
    assert found.isfinite().all()


def test_min_snr_without_signal_is_its_limit() -> None:
    assert min_snr_weight(torch.zeros(1), 5.0, v_prediction=False).item() == 1.0
    assert min_snr_weight(torch.zeros(1), 5.0, v_prediction=True).item() == 0.0


def test_weights_are_one_without_min_snr() -> None:
    assert loss_weights(TIMESTEPS, make_schedule(), LossSettings(), v_prediction=False).eq(1).all()


@pytest.mark.parametrize("kind", ["std", "ztsnr"])
def test_noisy_latents_and_velocity(kind: str) -> None:
    diffusion = FIGURES["diffusion"]
    latents, noise, timesteps = (
        tensor(diffusion["latents"]),
        tensor(diffusion["noise"]),
        torch.tensor(diffusion["timesteps"]),
    )
    schedule = make_schedule(zero_terminal_snr=kind == "ztsnr")
    noisy = add_noise(latents, noise, timesteps, schedule)
    torch.testing.assert_close(noisy, tensor(diffusion[kind]["noisy"]), rtol=1e-5, atol=1e-6)
    target = target_of(latents, noise, timesteps, schedule, v_prediction=True)
    torch.testing.assert_close(target, tensor(diffusion[kind]["velocity"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(target, velocity(latents, noise, timesteps, schedule))
    assert target_of(latents, noise, timesteps, schedule, v_prediction=False) is noise


def test_per_sample_loss() -> None:
    inputs, (expected,) = FIGURES["loss_inputs"], FIGURES["l2"]
    found = per_sample_loss(tensor(inputs["pred"]), tensor(inputs["target"]))
    torch.testing.assert_close(found, tensor(expected["per_sample_mean"]), rtol=3e-7, atol=0)


@pytest.mark.parametrize("row", FIGURES["lr_schedules"], ids=lambda row: row["name"])
def test_learning_rates(row: dict) -> None:
    name = "constant_with_warmup" if row["name"] == "constant" and row["args"] else row["name"]
    settings = OptimizerSettings(lr_scheduler=name, **row["args"])
    found = [
        row["base_lr"] * lr_multiplier(settings, step, row["max_train_steps"]) for step in range(row["max_train_steps"])
    ]
    assert found == pytest.approx(row["lr_used_at_step"], rel=1e-12, abs=1e-18)


def test_constant_with_warmup_rises_then_stays() -> None:
    settings = OptimizerSettings(lr_scheduler="constant_with_warmup", lr_warmup_steps="10%")
    assert [lr_multiplier(settings, step, 40) for step in (0, 2, 4, 39)] == [0.0, 0.5, 1.0, 1.0]


def test_draws_depend_on_their_counters_alone() -> None:
    first = draw_noise((4, 8, 8), 42, 1, 0, 0)
    draw_noise((4, 8, 8), 42, 1, 1, 0)
    assert torch.equal(first, draw_noise((4, 8, 8), 42, 1, 0, 0))
    for other in ((42, 2, 0, 0), (42, 1, 1, 0), (42, 1, 0, 1), (43, 1, 0, 0)):
        assert not torch.equal(first, draw_noise((4, 8, 8), *other))
    assert abs(draw_noise((4, 64, 64), 1, 2).mean().item()) < 0.03


def test_timesteps_cover_their_range() -> None:
    drawn = [draw_timestep(100, 110, 42, 1, image, 0) for image in range(400)]
    assert set(drawn) == set(range(100, 110))


def test_latents_are_drawn_from_the_posterior() -> None:
    mean, log_variance = torch.full((4, 64, 64), 2.0), torch.full((4, 64, 64), -2.0)
    drawn = draw_latents(mean, log_variance, 42, 1, 0, 0)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(torch.e**-1, rel=0.03)
    assert not torch.equal(drawn, draw_latents(mean, log_variance, 42, 2, 0, 0))
