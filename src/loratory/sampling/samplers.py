"""The samplers of `sample_sampler` and `--ss`: diffusers' schedulers with the settings that sd-scripts gives them.

All take the noise schedule that Stable Diffusion was trained with (betas from 0.00085 to 0.012, their roots evenly
spaced, 1000 timesteps). Two things are other than in sd-scripts: DDIM and Heun do not clip what they predict to -1..1,
which latents exceed, and a zero-terminal-SNR model that predicts v is sampled with its own schedule.
"""

import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loratory.errors import LoratoryError
from loratory.models.detect import ModelInfo
from loratory.sampling.prompts import Prompt

_TIMESTEPS = 1000
_SCHEDULE = {
    "num_train_timesteps": _TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True)
class _Sampler:
    """module: of diffusers.schedulers. has_rescaled: whether it knows the zero-terminal-SNR schedule.

    has_offset: its timesteps are spaced from 0 upwards, and shifted by one so that the last is one that was trained.
    least_steps, most_steps: with which it works; beyond them it fails or gives no numbers.
    """

    module: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    has_rescaled: bool = False
    has_offset: bool = False
    least_steps: int = 1
    most_steps: int = _TIMESTEPS


_SAMPLERS = {
    "ddim": _Sampler(
        "scheduling_ddim",
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False},
        has_rescaled=True,
        has_offset=True,
    ),
    # It begins with Runge-Kutta steps, which need four points.
    "pndm": _Sampler("scheduling_pndm", "PNDMScheduler", has_offset=True, least_steps=4),
    "lms": _Sampler("scheduling_lms_discrete", "LMSDiscreteScheduler"),
    "euler": _Sampler("scheduling_euler_discrete", "EulerDiscreteScheduler", has_rescaled=True),
    "euler_a": _Sampler("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", has_rescaled=True),
    "heun": _Sampler("scheduling_heun_discrete", "HeunDiscreteScheduler"),
    "dpm_2": _Sampler("scheduling_k_dpm_2_discrete", "KDPM2DiscreteScheduler"),
    "dpm_2_a": _Sampler("scheduling_k_dpm_2_ancestral_discrete", "KDPM2AncestralDiscreteScheduler"),
    # Its equations have no end at noise 0: it stops at the smallest noise that was trained.
    "dpmsolver": _Sampler(
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        has_rescaled=True,
        most_steps=_TIMESTEPS - 1,
    ),
    "dpmsolver++": _Sampler(
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++"},
        has_rescaled=True,
        most_steps=_TIMESTEPS - 1,
    ),
    # With noise 0 at the end the last step must be of first order; diffusers sets this itself, with a warning.
    "dpmsingle": _Sampler(
        "scheduling_dpmsolver_singlestep", "DPMSolverSinglestepScheduler", {"lower_order_final": True}
    ),
}


def uses_rescaled_schedule(info: ModelInfo) -> bool:
    """Whether pictures of this model are drawn with the zero-terminal-SNR schedule.

    Not where it predicts noise: at the last timestep all is noise, and knowing it tells nothing of the picture.
    """
    return info.zero_terminal_snr and info.prediction_type == "v_prediction"


def refuse_samplers(prompts: Iterable[Prompt], info: ModelInfo) -> None:
    """Raises LoratoryError for the first prompt whose sampler cannot draw with this model, or with so many steps."""
    for prompt in prompts:
        sampler = _SAMPLERS[prompt.sampler]
        if uses_rescaled_schedule(info) and not sampler.has_rescaled:
            able = ", ".join(name for name, each in _SAMPLERS.items() if each.has_rescaled)
            raise LoratoryError(
                f"The sampler {prompt.sampler} cannot draw with a zero-terminal-SNR model, as {info.source} is: it "
                "does not know that schedule.",
                hint=f"Set sample.sample_sampler, or --ss of the prompt, to one of {able}.",
            )
        if not sampler.least_steps <= prompt.steps <= sampler.most_steps:
            raise LoratoryError(
                f"The sampler {prompt.sampler} works with {sampler.least_steps} to {sampler.most_steps} steps, not "
                f"with {prompt.steps}.",
                hint="Change sample.steps, or --s of the prompt.",
            )


def make_sampler(name: str, steps: int, info: ModelInfo) -> Any:
    """A diffusers scheduler that has its `timesteps` for so many steps, on the CPU.

    name: a key of SAMPLER_TITLES. info: of the model, for what it predicts and its schedule.
    """
    sampler = _SAMPLERS[name]
    kind = getattr(importlib.import_module(f"diffusers.schedulers.{sampler.module}"), sampler.name)
    settings = _SCHEDULE | sampler.settings | {"prediction_type": info.prediction_type}
    if sampler.has_offset and steps < _TIMESTEPS:
        settings["steps_offset"] = 1
    if uses_rescaled_schedule(info):
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with warnings.catch_warnings():
        # That the oldest DPM-Solver will go one day is no news for who draws with it.
        warnings.simplefilter("ignore", FutureWarning)
        scheduler = kind(**settings)
    if name == "lms":

        def coefficient(order: int, step: int, which: int) -> float:
            return lms_coefficient(scheduler.sigmas.double().numpy(), order, step, which)

        scheduler.get_lms_coefficient = coefficient
    scheduler.set_timesteps(steps)
    return scheduler


# The nodes and weights with which two points integrate a polynomial of the third degree exactly.
_GAUSS_NODE = 3**-0.5


def lms_coefficient(sigmas: "np.ndarray[Any, Any]", order: int, step: int, which: int) -> float:
    """The weight of a derivative in a linear multistep: its Lagrange polynomial integrated over the step.

    diffusers integrates it numerically with scipy; of an order up to 4, as here, two points of Gauss give it exactly.
    """
    middle, half = (sigmas[step] + sigmas[step + 1]) / 2, (sigmas[step + 1] - sigmas[step]) / 2
    at = middle + half * np.array([-_GAUSS_NODE, _GAUSS_NODE])
    others = [other for other in range(order) if other != which]
    factors = [(at - sigmas[step - k]) / (sigmas[step - which] - sigmas[step - k]) for k in others]
    return float(half * np.prod(factors, axis=0).sum()) if factors else float(2 * half)
