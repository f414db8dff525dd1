"""One training loop for all of nano's networks: it can be stopped at any moment, and goes on where it was."""

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from loratory.upscaling.upscaler import cpu_has_bfloat16

SEED = 20
_SAVE_EVERY_S = 120
_SAY_EVERY = 100


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether networks are trained in bfloat16 there; a processor that only imitates it takes three times as long."""
    return device.type != "cpu" or cpu_has_bfloat16()


def mixed(device: torch.device) -> torch.autocast:
    """What a task computes in: bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast_in_bfloat16(device))


class Task(Protocol):
    """What is trained. networks: their parameters, in training mode. origin: tells what it learns from all else."""

    networks: nn.ModuleDict
    origin: str

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        """The loss of one batch. chance: where all that is drawn for the step comes from; it depends on it alone."""
        ...


@dataclass(frozen=True)
class Schedule:
    """rate: of AdamW, reached after `warm_up` steps and held until the last `cool_down` share, where it falls to 0."""

    steps: int
    rate: float
    warm_up: int = 200
    cool_down: float = 0.3
    average: float = 0.999  # of the weights; what is kept in the end

    def cools_down(self, step: int) -> bool:
        """Whether the step depends on how many there are in all."""
        return step >= self.steps * (1 - self.cool_down)

    def rate_at(self, step: int) -> float:
        left = (self.steps - step) / (self.steps * self.cool_down)
        return self.rate * min(1.0, (step + 1) / self.warm_up, left)


def train(task: Task, schedule: Schedule, path: Path, until: float) -> int:
    """Trains until `schedule.steps` or the moment `until` (time.monotonic), keeping the state in the file `path`.

    Returns how many steps were trained in all; `task.networks` then has the average of their weights. Every step draws
    from a generator of its own, so that a run that was interrupted ends in the weights of one that was not.
    """
    networks = task.networks
    average = copy.deepcopy(networks).requires_grad_(False)
    device = next(networks.parameters()).device
    matrices = [parameter for parameter in networks.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in networks.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.99), fused=True)
    step, seconds = _read(path, task, schedule, average, optimizer, device)
    if step >= schedule.steps:
        networks.load_state_dict(average.state_dict())
        return step
    began = saved = time.monotonic()
    running = 0.0
    while step < schedule.steps and time.monotonic() < until:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        torch.manual_seed(SEED * 10**9 + step)  # dropout draws from it
        loss = task.loss(step, torch.Generator().manual_seed(SEED * 10**9 + step))
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"{path.stem}: the loss of step {step} is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        step += 1
        keep = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(networks.parameters()), 1 - keep)
            for kept, latest in zip(average.buffers(), networks.buffers(), strict=True):
                kept.copy_(latest)
        running = loss.item() if running == 0 else 0.98 * running + 0.02 * loss.item()
        now = time.monotonic()
        if step % _SAY_EVERY == 0:
            print(f"{path.stem}: step {step} of {schedule.steps}, loss {running:.4f}", end=", ")
            print(f"{(seconds + now - began) / step:.3f} s a step", flush=True)
        if now - saved > _SAVE_EVERY_S:
            _write(path, task, schedule, average, optimizer, step, seconds + now - began)
            saved = now
    _write(path, task, schedule, average, optimizer, step, seconds + time.monotonic() - began)
    networks.load_state_dict(average.state_dict())
    return step


def _read(
    path: Path,
    task: Task,
    schedule: Schedule,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=device, weights_only=True)
    kept = Schedule(**state["schedule"])
    # Until the rate falls, a run of more steps in all is the same.
    is_same = kept == replace(schedule, steps=kept.steps)
    if kept.steps != schedule.steps and (kept.cools_down(state["step"]) or schedule.cools_down(state["step"])):
        is_same = False
    if state["origin"] != task.origin or not is_same:
        raise RuntimeError(f"{path} was trained with another recipe or other pictures; without it, it begins anew")
    task.networks.load_state_dict(state["networks"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"{path.stem}: goes on after step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def _write(
    path: Path,
    task: Task,
    schedule: Schedule,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "origin": task.origin,
        "schedule": asdict(schedule),
        "networks": task.networks.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    save_whole(state, path)


def save_whole(what: object, path: Path) -> None:
    """`torch.save`, so that a process that is killed leaves the old file or the new one."""
    temporary = path.with_suffix(".new")
    torch.save(what, temporary)
    temporary.replace(path)
