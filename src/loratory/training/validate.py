"""The validation loss: on pictures the adapter never trains on, at timesteps and with noise that never change.

The raw loss of training says little, because most of its movement comes from the timesteps that were drawn.
"""

from collections.abc import Iterator

import torch

from loratory.runs.events import Phase, SampleLoss, Validated
from loratory.training.engine import Engine
from loratory.training.timesteps import validation_timesteps


@torch.no_grad()
def validate(engine: Engine, step: int, epoch: int) -> Iterator[Phase | Validated]:
    """Measures the held-back pictures, telling how far it is; the last thing it yields is the result.

    The loss is that of training: its type, and its weights by timestep. Each picture is one batch of four timesteps.
    """
    plan = engine.plan
    timesteps = validation_timesteps(plan.config.noise)
    count = min(len(plan.held_back), plan.config.training.max_validation_steps or len(plan.held_back))
    totals: list[float] = []
    samples: list[SampleLoss] = []
    with engine.judged():
        for index in range(count):
            yield Phase("measuring the validation loss", index, count)
            batch = engine.maker.make_validation(index, timesteps)
            losses = engine.losses(batch.to(engine.device))
            totals.append(losses.total.item())
            samples += [
                SampleLoss(name, timestep, loss)
                for name, timestep, loss in zip(batch.images, timesteps, losses.unweighted.tolist(), strict=True)
            ]
    yield Validated(step, epoch, sum(totals) / count, samples)
