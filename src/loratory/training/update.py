"""One optimizer step: from a window of batches to changed weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from loratory.adapters.max_norm import NormReport
from loratory.randomness import derive_seed
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine
from loratory.training.schedule import lr_multiplier
from loratory.training.windows import Window


def take_step(
    engine: Engine, ranks: Ranks, window: Window, done: int, rate: float = 1.0
) -> tuple[Tensor, NormReport | None]:
    """One optimizer step, the one after `done`; rate: a factor on every learning rate.

    Returns the loss, the gradient's norm, then the unweighted loss of each visit, still on the device; and what
    scale_weight_norms did. A window without pictures changes nothing: its loss and gradient are 0.
    """
    config, optimizers, scaler = engine.plan.config, engine.optimizers, engine.scaler
    optimizers.set_multiplier(rate * lr_multiplier(config.optimizer, done, engine.plan.length.total_steps))
    if not window:
        return torch.zeros(2, device=engine.device), None
    totals: list[Tensor] = []
    unweighted: list[Tensor] = []
    scaler.scale(torch.zeros((), device=engine.device))  # it must have seen a loss, also where no picture falls to us
    for micro, share in enumerate(window):
        seed_dropouts(engine, ranks, done, micro)
        of_visits = torch.zeros(len(share.visits), device=engine.device)
        if share.batch is not None:
            losses = engine.losses(share.batch.to(engine.device))
            scaler.scale(losses.total / config.training.gradient_accumulation_steps).backward()
            totals.append(losses.total.detach())
            of_visits[ranks.rank :: ranks.size] = losses.unweighted.detach()[: len(share.batch.images)]
        unweighted.append(of_visits)
    # Sums over the window, then over the processes: the mean loss of a batch is the sum of its shares'.
    loss = torch.stack(totals).sum() if totals else torch.zeros((), device=engine.device)
    summed = ranks.sum_gradients(engine.parameters, torch.cat([loss[None], *unweighted]))
    if scaler.is_enabled() and len(optimizers.all) > 1:
        spread_overflow(engine.parameters)
    for optimizer in optimizers.all:
        scaler.unscale_(optimizer)
    grad_norm = _clip(engine.parameters, config.optimizer.max_grad_norm)
    # Optimizers that round at random draw from the global generators too; in every process alike.
    torch.manual_seed(derive_seed(config.training.seed, "optimizer", done))
    for optimizer in optimizers.all:
        scaler.step(optimizer)
    scaler.update()
    optimizers.zero_grad()
    limit = config.network.scale_weight_norms
    norms = engine.adapter.apply_max_norm(limit) if limit else None
    if engine.average is not None:
        engine.average.update()
    return torch.cat([summed[:1] / len(window), grad_norm[None].float(), summed[1:]]), norms


def seed_dropouts(engine: Engine, ranks: Ranks, done: int, micro: int) -> None:
    """Seeds torch's global generators, which the adapter's dropouts draw from, for one batch of a step."""
    who = (ranks.rank,) if ranks.rank else ()
    torch.manual_seed(derive_seed(engine.plan.config.training.seed, "network_dropout", done, micro, *who))


def spread_overflow(parameters: Sequence[Parameter]) -> None:
    """Makes every gradient NaN if one is infinite or NaN, so that all optimizers leave the step out together.

    The scaler looks at each optimizer's gradients alone, and clipping would carry the overflow of one to another.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    largest = torch.nn.utils.get_total_norm(gradients, float("inf"))
    torch._foreach_mul_(gradients, torch.where(largest.isfinite(), 1.0, float("nan")))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - as optimizers


def _clip(parameters: list[Parameter], max_norm: float) -> Tensor:
    """Clips the gradients to `max_norm` (0: leaves them) and returns their norm before, without waiting for it."""
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
