"""Learning-rate schedules as pure functions of the step, so that a resumed run needs to restore nothing.

The step counts optimizer updates from 0; the value is the one used *at* that step. Formulas as in transformers'
`optimization.py`, whose schedules sd-scripts uses.
"""

import math

from loratory.config.schema import OptimizerSettings


def lr_multiplier(settings: OptimizerSettings, step: int, total_steps: int) -> float:
    """The factor on the base learning rate at `step` of `total_steps`, in [0, 1]."""
    warmup = settings.warmup_steps(total_steps)
    if step < warmup and settings.lr_scheduler != "constant":
        return step / max(1, warmup)
    # The remaining part runs from 0 to 1 (exclusive) between the end of the warm-up and the end of the run.
    progress = (step - warmup) / max(1, total_steps - warmup)
    match settings.lr_scheduler:
        case "constant" | "constant_with_warmup":
            return 1.0
        case "linear":
            return max(0.0, (total_steps - step) / max(1, total_steps - warmup))
        case "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "cosine_with_restarts":
            if progress >= 1.0:
                return 0.0
            within_cycle = (settings.lr_scheduler_num_cycles * progress) % 1.0
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * within_cycle)))
        case other:
            raise AssertionError(f"{other} is refused by config.unbuilt before a run starts")
