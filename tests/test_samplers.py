"""The samplers: each draws what diffusers' own pipeline draws with it, again and again, or says why it cannot."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import schedulers as diffusers_schedulers
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler

from loratory.config.schema import ModelSettings, NoiseSettings, SampleSettings
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import encode_text
from loratory.sampling.preview import draw
from loratory.sampling.prompts import SAMPLER_TITLES, Prompt, sampler_of
from loratory.sampling.samplers import lms_coefficient, make_sampler, refuse_samplers
from tiny_models import Family
from training_runs import small_model

CPU = torch.device("cpu")
# What sd-scripts hands to diffusers for each name; what it leaves to diffusers' defaults is left to them here too.
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OFFSET = {"steps_offset": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, **OFFSET}),
    "pndm": ("PNDMScheduler", OFFSET),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}
RESCALED = ("ddim", "euler", "euler_a", "dpmsolver", "dpmsolver++")


def load(family: Family, *, v_prediction: bool = False, zero_snr: bool = False) -> BaseModel:
    model = small_model(family)
    settings = ModelSettings(pretrained_model_name_or_path=str(model), v_parameterization=v_prediction)
    return load_base_model(detect_model(settings, NoiseSettings(zero_terminal_snr=zero_snr)), settings)


def drawn(base: BaseModel, *prompts: Prompt, dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    pictures = draw(base, prompts, clip_skip=None, max_token_length=75, device=CPU, dtype=dtype)
    return [np.asarray(picture).astype(int) for picture in pictures]


def by_pipeline(base: BaseModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The picture of diffusers' own pipeline and scheduler, from the same latents and the same further noise."""
    name, settings = KINDS[prompt.sampler]
    rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if base.info.zero_terminal_snr else {}
    # diffusers offers it at the top only where scipy is installed.
    kind: Any = LMSDiscreteScheduler if prompt.sampler == "lms" else getattr(diffusers_schedulers, name)
    scheduler = kind(**SCHEDULE, **settings, **rescaled, prediction_type=base.info.prediction_type)
    if prompt.sampler == "lms":  # scipy integrates; here a fine sum does

        def coefficient(order: int, step: int, which: int) -> float:
            return by_sum(scheduler.sigmas.double(), order, step, which)

        monkeypatch.setattr(scheduler, "get_lms_coefficient", coefficient)
    shared: dict[str, Any] = {"vae": base.vae, "unet": base.unet, "scheduler": scheduler}
    if base.info.family == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(
            **shared,
            text_encoder=base.text_encoders[0],  # pyright: ignore[reportArgumentType]
            text_encoder_2=base.text_encoders[1],  # pyright: ignore[reportArgumentType]
            tokenizer=base.tokenizers[0],
            tokenizer_2=base.tokenizers[1],
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            **shared,
            text_encoder=base.text_encoders[0],  # pyright: ignore[reportArgumentType]
            tokenizer=base.tokenizers[0],
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
    pipeline.scheduler = scheduler  # as given: the constructor changes what it finds outdated
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        texts = [
            encode_text(base, [text], clip_skip=None, max_token_length=75) for text in (prompt.text, prompt.negative)
        ]
    embeddings = {"prompt_embeds": texts[0].hidden, "negative_prompt_embeds": texts[1].hidden}
    if texts[0].pooled is not None:
        embeddings |= {"pooled_prompt_embeds": texts[0].pooled, "negative_pooled_prompt_embeds": texts[1].pooled}
    generator = torch.Generator().manual_seed(prompt.seed)
    latents = torch.randn(1, 4, prompt.height // 8, prompt.width // 8, generator=generator)
    latent = pipeline(
        **embeddings,
        width=prompt.width,
        height=prompt.height,
        num_inference_steps=prompt.steps,
        guidance_scale=prompt.guidance_scale,
        guidance_rescale=0.7 if base.info.zero_terminal_snr else 0.0,
        latents=latents,
        generator=generator,
        output_type="latent",
    ).images
    vae: Any = base.vae
    with torch.no_grad():
        pixels = (vae.decode(latent / base.vae_scale).sample[0] / 2 + 0.5).clamp(0, 1).mul(255).round()
    return pixels.permute(1, 2, 0).numpy().astype(int)


def by_sum(sigmas: torch.Tensor, order: int, step: int, which: int) -> float:
    """The multistep's coefficient by the midpoint rule with many points."""
    ends = torch.linspace(float(sigmas[step]), float(sigmas[step + 1]), 20001, dtype=torch.float64)
    at, values = (ends[1:] + ends[:-1]) / 2, torch.ones(20000, dtype=torch.float64)
    for k in range(order):
        if k != which:
            values = values * (at - sigmas[step - k]) / (sigmas[step - which] - sigmas[step - k])
    return float((values * ends.diff()).sum())


# Few steps: models of chance enlarge the rounding of each step many times over.
PROMPT = Prompt("a fox", "blurry", 64, 64, 7, 5, 5.0)


@pytest.mark.parametrize("sampler", KINDS)
@pytest.mark.parametrize(("family", "v_prediction"), [("sd1", False), ("sd2", True), ("sdxl", False)])
def test_every_sampler_draws_what_the_pipeline_of_diffusers_draws(
    sampler: str, family: Family, v_prediction: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load(family, v_prediction=v_prediction)
    prompt = replace(PROMPT, sampler=sampler)
    (ours,) = drawn(base, prompt)
    assert np.abs(ours - by_pipeline(base, prompt, monkeypatch)).max() <= 1
    assert ours.std() > 1  # a picture, and not the grey of values that are no numbers


@pytest.mark.parametrize("sampler", RESCALED)
def test_zero_terminal_snr_is_drawn_with_its_own_schedule(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("sd2", v_prediction=True, zero_snr=True)
    prompt = replace(PROMPT, sampler=sampler, steps=4)
    (ours,) = drawn(base, prompt)
    assert np.abs(ours - by_pipeline(base, prompt, monkeypatch)).max() <= 1
    (plain,) = drawn(load("sd2", v_prediction=True), prompt)
    assert not np.array_equal(ours, plain)


def test_what_cannot_draw_is_refused_with_a_sentence() -> None:
    rescaled, plain = load("sd2", v_prediction=True, zero_snr=True).info, load("sd1").info
    for sampler in SAMPLER_TITLES:
        prompts = [replace(PROMPT, sampler=sampler)]
        if sampler in RESCALED:
            refuse_samplers(prompts, rescaled)
        else:
            with pytest.raises(LoratoryError, match=f"{sampler} cannot draw.*zero-terminal-SNR") as caught:
                refuse_samplers(prompts, rescaled)
            assert "dpmsolver++" in caught.value.hint
        refuse_samplers(prompts, plain)
    with pytest.raises(LoratoryError, match="pndm works with 4 to 1000 steps, not with 3"):
        refuse_samplers([PROMPT, replace(PROMPT, sampler="pndm", steps=3)], plain)
    with pytest.raises(LoratoryError, match="1 to 999 steps"):
        draw(
            load("sd1"),
            [replace(PROMPT, sampler="dpmsolver", steps=1000)],
            clip_skip=None,
            max_token_length=75,
            device=CPU,
            dtype=torch.float32,
        )


def test_a_zero_terminal_schedule_of_a_model_that_predicts_noise_is_not_used_to_draw() -> None:
    odd, plain = load("sd1", zero_snr=True), load("sd1")
    assert odd.info.zero_terminal_snr and not plain.info.zero_terminal_snr
    assert np.array_equal(drawn(odd, PROMPT)[0], drawn(plain, PROMPT)[0])


@pytest.mark.parametrize("sampler", SAMPLER_TITLES)
@pytest.mark.parametrize("steps", [1, 2, 4, 1000])
def test_no_count_of_steps_that_is_allowed_fails(sampler: str, steps: int) -> None:
    info = load("sd1").info
    try:
        refuse_samplers([replace(PROMPT, sampler=sampler, steps=steps)], info)
    except LoratoryError:
        return
    scheduler = make_sampler(sampler, steps, info)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(given * 0.5, timestep, latents).prev_sample
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("sampler", ["euler_a", "dpm_2_a"])
def test_ancestral_samplers_repeat_and_know_nothing_of_who_is_beside(sampler: str) -> None:
    base = load("sd1")
    prompt = replace(PROMPT, sampler=sampler)
    torch.manual_seed(1)
    (alone,) = drawn(base, prompt)
    torch.manual_seed(2)
    together = drawn(base, replace(prompt, seed=8), prompt)
    assert np.abs(together[1] - alone).max() <= 1
    assert not np.array_equal(together[0], together[1])
    # In half precision too the noise is drawn in float32: much the same picture, not another.
    (half,) = drawn(base, prompt, dtype=torch.bfloat16)
    assert np.abs(half - alone).mean() < 0.5 * np.abs(together[0] - alone).mean()


def test_samplers_share_no_batch() -> None:
    base = load("sd1")
    mixed = drawn(base, PROMPT, replace(PROMPT, sampler="euler"), PROMPT)
    assert np.array_equal(mixed[0], mixed[2])
    assert np.abs(mixed[1] - drawn(base, replace(PROMPT, sampler="euler"))[0]).max() <= 1


def test_the_coefficients_of_the_linear_multistep_are_exact() -> None:
    sigmas = np.array([14.6, 9.1, 5.0, 2.2, 0.9, 0.3, 0.0])
    for order in range(1, 5):
        for step in range(order - 1, 6):
            found = [lms_coefficient(sigmas, order, step, which) for which in range(order)]
            expected = [by_sum(torch.from_numpy(sigmas), order, step, which) for which in range(order)]
            assert np.allclose(found, expected, rtol=1e-6, atol=1e-7)
            assert np.isclose(sum(found), sigmas[step + 1] - sigmas[step])


def test_every_name_of_the_setting_is_a_sampler() -> None:
    names: tuple[str, ...] = SampleSettings.model_fields["sample_sampler"].annotation.__args__  # pyright: ignore
    assert {sampler_of(name) for name in names} == set(SAMPLER_TITLES) == set(KINDS)
    assert sampler_of("K_Euler_a") == "euler_a" and sampler_of("plms") is None
