"""Learning-rate schedules as pure functions of the step, so that a resumed run needs to restore nothing.

The step counts optimizer updates from 0; the value is the one used *at* that step. Formulas as in transformers'
`optimization.py`, whose schedules sd-scripts uses, with the arguments that sd-scripts gives them.
"""

import functools
import importlib
import inspect
import math
import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from loratory.config.schema import OptimizerSettings
from loratory.config.schema.optimizer import POLYNOMIAL_END
from loratory.errors import LoratoryError


def lr_multiplier(settings: OptimizerSettings, step: int, total_steps: int) -> float:
    """The factor on the base learning rate at `step` of `total_steps`, at least 0.

    At most 1, but for "piecewise_constant" and `lr_scheduler_type`, which may say otherwise. Raises LoratoryError when
    the class of `lr_scheduler_type` cannot be used.
    """
    if settings.lr_scheduler_type:
        return _class_multipliers(settings.model_dump_json(), total_steps)[step]
    if settings.lr_scheduler in ("constant", "adafactor"):  # with "adafactor" the optimizer has a rate of its own
        return 1.0
    if settings.lr_scheduler == "piecewise_constant":
        rules, last = settings.step_rules
        return next((factor for before, factor in rules if step < before), last)

    warmup = settings.warmup_steps(total_steps)
    lowest = settings.lr_scheduler_min_lr_ratio or 0.0
    if step < warmup:
        rising = step / warmup
        # The warm-up of this one starts at the lowest rate; that of all others at 0.
        return _above(lowest, rising) if settings.lr_scheduler == "warmup_stable_decay" else rising
    # The remaining part runs from 0 to 1 (exclusive) between the end of the warm-up and the end of the run.
    progress = (step - warmup) / max(1, total_steps - warmup)
    cycles = settings.lr_scheduler_num_cycles
    match settings.lr_scheduler:
        case "constant_with_warmup":
            return 1.0
        case "linear":
            return max(0.0, (total_steps - step) / max(1, total_steps - warmup))
        case "cosine":
            return max(0.0, _half_wave(progress))
        case "cosine_with_restarts":
            return max(0.0, _half_wave((cycles * progress) % 1.0)) if progress < 1.0 else 0.0
        case "cosine_with_min_lr":
            return _above(lowest, _half_wave(cycles * progress))
        case "polynomial":
            # The end is an absolute rate, so the course depends on the rate it starts from. As in sd-scripts that is
            # learning_rate for every part.
            start = settings.learning_rate
            remaining = max(0.0, 1.0 - progress) ** settings.lr_scheduler_power
            return ((start - POLYNOMIAL_END) * remaining + POLYNOMIAL_END) / start
        case "inverse_sqrt":
            timescale = settings.lr_scheduler_timescale or warmup or 10_000
            return 1.0 / math.sqrt((step - warmup + timescale) / timescale)
        case "warmup_stable_decay":
            decay = settings.decay_steps(total_steps)
            begin = max(warmup, total_steps - decay)
            if step < begin:
                return 1.0
            decayed = (step - (total_steps - decay)) / max(1, decay)
            return _above(lowest, _half_wave(cycles * decayed)) if step < total_steps else lowest


def _half_wave(progress: float) -> float:
    """From 1 to 0 while `progress` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _above(lowest: float, share: float) -> float:
    return lowest + (1.0 - lowest) * share


@functools.lru_cache(maxsize=4)
def _class_multipliers(settings_json: str, total_steps: int) -> list[float]:
    """The multipliers of steps 0 to `total_steps` of `lr_scheduler_type`, found by running it beside a dummy optimizer.

    It starts from learning_rate, as in sd-scripts, which matters to classes with absolute rates (eta_min, max_lr).
    """
    settings = OptimizerSettings.model_validate_json(settings_json)
    name, arguments = settings.lr_scheduler_type, settings.parsed_lr_scheduler_args
    kind = _scheduler_class(name)
    start = settings.learning_rate or max(settings.effective_unet_lr, settings.effective_text_encoder_lr)
    # One without momentum: a class that moves it too (OneCycleLR) then says so, instead of moving that of a dummy.
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=start)
    rates: list[float] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on the order of calls, for those who write the loop
            scheduler = kind(optimizer, **arguments)
            for _ in range(total_steps + 1):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                scheduler.step()
    except Exception as error:  # any class may be named, so anything may be raised
        signature = ", ".join(list(inspect.signature(kind).parameters)[1:])
        raise LoratoryError(
            f"optimizer.lr_scheduler_type: {name} cannot be run for {total_steps} steps: {error}.",
            hint=f"lr_scheduler_args can be: {signature}. Given were {arguments}.",
        ) from error
    return [rate / start for rate in rates]


def _scheduler_class(name: str) -> type[Any]:
    module_name, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name or "torch.optim.lr_scheduler"), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise LoratoryError(
            f"optimizer.lr_scheduler_type: there is no class {name}: {error}.",
            hint='Name a class of torch.optim.lr_scheduler, such as "CosineAnnealingLR", or a whole path.',
        ) from error
    if not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        raise LoratoryError(f"optimizer.lr_scheduler_type: {name} is not a learning-rate scheduler of torch.")
    if issubclass(kind, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise LoratoryError(
            f"optimizer.lr_scheduler_type: {name} follows the loss, which says little about a diffusion model.",
            hint='Use one that follows the step, such as lr_scheduler = "cosine".',
        )
    return kind
