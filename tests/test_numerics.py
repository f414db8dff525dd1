"""Noise, loss and learning rates against figures of sd-scripts 48d368f (tests/data/loss_and_noise.json says how)."""

import json
import random
from pathlib import Path

import pytest
import torch

from loratory.config.schema import LossSettings, NoiseSettings, OptimizerSettings
from loratory.training.loss import huber_threshold, loss_weights, min_snr_weight, per_sample_loss, target_of
from loratory.training.noise import (
    add_noise,
    draw_latents,
    draw_noise,
    draw_visit_noise,
    make_schedule,
    multires_noise,
    multires_sizes,
    offset_noise,
    velocity,
)
from loratory.training.schedule import lr_multiplier
from loratory.training.timesteps import draw_timestep, timestep_at, timestep_density, validation_timesteps

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


def weighting(name: str) -> tuple[LossSettings, bool]:
    """Our settings for the name of a figure, and whether it is for a v-prediction model."""
    match name.split("/")[1:]:
        case ["apply_snr_weight", gamma, v]:
            return LossSettings(min_snr_gamma=float(gamma.removeprefix("gamma="))), v == "v=True"
        case ["apply_debiased_estimation", v]:
            return LossSettings(debiased_estimation_loss=True), v == "v=True"
        case ["scale_v_prediction_loss_like_noise_prediction"]:
            return LossSettings(scale_v_pred_loss_like_noise_pred=True), True
        case ["add_v_prediction_like_loss", share]:
            return LossSettings(v_pred_like_loss=float(share)), False
        case ["combined min_snr5 + scale_v_pred (v)"]:
            return LossSettings(min_snr_gamma=5.0, scale_v_pred_loss_like_noise_pred=True), True
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("name", FIGURES["weights"])
def test_weights_of_timesteps(name: str) -> None:
    settings, v_prediction = weighting(name)
    # "ztsnr_as_run": the weights sd-scripts really uses there, from the SNR before the rescale.
    schedule = make_schedule(zero_terminal_snr=name.startswith("ztsnr"), kohya_compatible=True)
    weights = loss_weights(TIMESTEPS, schedule, settings, v_prediction=v_prediction)
    expected = tensor(FIGURES["weights"][name])
    torch.testing.assert_close(weights * tensor(FIGURES["loss_in"]), expected, rtol=5e-7, atol=0)


def test_all_weights_multiply() -> None:
    schedule = make_schedule()
    each = (
        LossSettings(min_snr_gamma=5.0),
        LossSettings(v_pred_like_loss=0.5),
        LossSettings(debiased_estimation_loss=True),
    )
    product = torch.ones(len(TIMESTEPS))
    for settings in each:
        product *= loss_weights(TIMESTEPS, schedule, settings, v_prediction=False)
    together = LossSettings(min_snr_gamma=5.0, v_pred_like_loss=0.5, debiased_estimation_loss=True)
    found = loss_weights(TIMESTEPS, schedule, together, v_prediction=False)
    torch.testing.assert_close(found, product)


@pytest.mark.parametrize("v_prediction", [False, True])
def test_no_weight_is_infinite_where_there_is_no_signal(v_prediction: bool) -> None:
    schedule = make_schedule(zero_terminal_snr=True)
    everything = LossSettings(
        min_snr_gamma=5.0, v_pred_like_loss=1.0, debiased_estimation_loss=True, loss_type="huber", huber_schedule="snr"
    )
    steps = torch.arange(1000)
    weights = loss_weights(steps, schedule, everything, v_prediction=v_prediction)
    assert weights.isfinite().all() and (weights >= 0).all()
    threshold = huber_threshold(steps, schedule, everything)
    assert threshold.isfinite().all() and threshold[999] == pytest.approx(everything.huber_c)


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


def test_weights_are_one_without_weighting() -> None:
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


LOSS_INPUTS = (
    tensor(FIGURES["loss_inputs"]["pred"]),
    tensor(FIGURES["loss_inputs"]["target"]),
    torch.tensor(FIGURES["loss_inputs"]["timesteps"]),
)


@pytest.mark.parametrize("row", FIGURES["loss_types"], ids=lambda row: f"{row['loss_type']}-{row['huber_schedule']}")
def test_per_sample_loss(row: dict) -> None:
    settings = LossSettings(loss_type=row["loss_type"])
    if row["threshold"]:
        settings = LossSettings(
            loss_type=row["loss_type"], huber_schedule=row["huber_schedule"], huber_c=row["huber_c"]
        )
        threshold = huber_threshold(LOSS_INPUTS[2], make_schedule(), settings)
        torch.testing.assert_close(threshold, tensor(row["threshold"]), rtol=1e-6, atol=0)
    found = per_sample_loss(*LOSS_INPUTS, make_schedule(), settings)
    torch.testing.assert_close(found, tensor(row["per_sample_mean"]), rtol=3e-6, atol=0)


def test_l1_and_the_scale_of_huber() -> None:
    prediction, target, timesteps = LOSS_INPUTS
    found = per_sample_loss(prediction, target, timesteps, make_schedule(), LossSettings(loss_type="l1"))
    torch.testing.assert_close(found, (prediction - target).abs().mean([1, 2, 3]))
    for schedule, factor in (("constant", 3.0), ("exponential", 3.0), ("snr", 1.0)):
        plain, scaled = (
            huber_threshold(
                timesteps,
                make_schedule(),
                LossSettings(loss_type="huber", huber_schedule=schedule, huber_scale=huber_scale),
            )
            for huber_scale in (1.0, 3.0)
        )
        torch.testing.assert_close(scaled, plain * factor)


def test_a_mask_leaves_out_what_it_hides() -> None:
    prediction, target, timesteps = LOSS_INPUTS
    mask = torch.zeros(4, 1, *prediction.shape[2:])
    mask[:, :, 0] = 1.0
    found = per_sample_loss(prediction, target, timesteps, make_schedule(), LossSettings(), mask)
    shown = (prediction - target)[:, :, 0].square().sum([1, 2]) / prediction[0].numel()
    torch.testing.assert_close(found, shown)


@pytest.mark.parametrize("row", FIGURES["noise_offset"])
def test_noise_offset(row: dict) -> None:
    latents, noise, shifts = tensor(row["latents"]), tensor(row["noise"]), tensor(row["rnd"])
    for sample in range(len(latents)):
        found = offset_noise(
            noise[sample], latents[sample], shifts[sample], row["noise_offset"], row["adaptive_noise_scale"]
        )
        torch.testing.assert_close(found, tensor(row["out"][sample]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("row", FIGURES["pyramid_noise"], ids=lambda row: f"{row['iterations']}-{row['discount']}")
def test_multires_noise(row: dict) -> None:
    torch.manual_seed(7)
    noise = torch.randn(1, 4, 16, 24)
    torch.manual_seed(8)
    random.seed(8)
    ratios = [random.random() * 2 + 2 for _ in range(row["iterations"])]
    layers = [torch.randn(1, 4, *size)[0] for size in multires_sizes(16, 24, ratios)]
    found = multires_noise(noise[0], layers, row["discount"])
    torch.testing.assert_close(found[0], tensor(row["first_channel"]), rtol=1e-4, atol=1e-5)


def test_each_kind_of_noise_has_a_stream_of_its_own() -> None:
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    plain = draw_visit_noise(latents, NoiseSettings(), 42, 1, 0, 0)
    assert plain.target is plain.added
    offset = draw_visit_noise(latents, NoiseSettings(noise_offset=0.1), 42, 1, 0, 0)
    shift = offset.target - plain.target
    torch.testing.assert_close(shift, shift[:, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    assert 0 < shift.abs().max() < 0.5
    random_strength = NoiseSettings(noise_offset=0.1, noise_offset_random_strength=True)
    share = ((draw_visit_noise(latents, random_strength, 42, 1, 0, 0).target - plain.target) / shift).mean()
    assert 0 < share < 1
    perturbed = draw_visit_noise(latents, NoiseSettings(noise_offset=0.1, ip_noise_gamma=0.2), 42, 1, 0, 0)
    assert torch.equal(perturbed.target, offset.target)
    assert (perturbed.added - perturbed.target).std().item() == pytest.approx(0.2, rel=0.1)
    coarse = draw_visit_noise(latents, NoiseSettings(multires_noise_iterations=6), 42, 1, 0, 0)
    assert coarse.target.std().item() == pytest.approx(1.0)
    assert not torch.equal(coarse.target, plain.target)


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


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode", "cosmap"])
def test_timesteps_cover_their_range(sampling: str) -> None:
    settings = NoiseSettings(min_timestep=100, max_timestep=110, timestep_sampling=sampling)
    drawn = [draw_timestep(settings, 42, 1, image, 0) for image in range(1000)]
    assert set(drawn) == set(range(100, 110))
    assert {timestep_at(quantile, settings) for quantile in (0.0, 1.0)} <= {100, 109}


def test_densities_of_timesteps() -> None:
    assert timestep_density(NoiseSettings()).unique().tolist() == pytest.approx([1.0])
    # The published densities at the middle: logit-normal 4 / sqrt(2 pi), cosmap 4 / pi.
    for sampling, peak in (("logit_normal", 1.5958), ("cosmap", 1.2732)):
        density = timestep_density(NoiseSettings(timestep_sampling=sampling))
        assert density.mean().item() == pytest.approx(1.0)
        assert density[495:505].mean().item() == pytest.approx(peak, rel=0.03)
    middle = timestep_density(NoiseSettings(timestep_sampling="mode"))
    assert middle[400:600].mean() > 1.2 > middle[:50].mean()
    ends = timestep_density(NoiseSettings(timestep_sampling="mode", mode_scale=-0.9))
    assert ends[400:600].mean() < 0.8 < ends[:50].mean()
    noisier = timestep_density(NoiseSettings(timestep_sampling="logit_normal", logit_mean=1.0))
    assert noisier[500:].sum() > 3 * noisier[:500].sum()


def test_validation_timesteps() -> None:
    assert validation_timesteps(NoiseSettings()) == [200, 400, 600, 800]
    assert validation_timesteps(NoiseSettings(min_timestep=500, max_timestep=510)) == [502, 504, 506, 508]


def test_latents_are_drawn_from_the_posterior() -> None:
    mean, log_variance = torch.full((4, 64, 64), 2.0), torch.full((4, 64, 64), -2.0)
    drawn = draw_latents(mean, log_variance, 42, 1, 0, 0)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(torch.e**-1, rel=0.03)
    assert not torch.equal(drawn, draw_latents(mean, log_variance, 42, 2, 0, 0))
