"""A trial run of a few steps, for the time and memory that a run will take: nothing of it is kept."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from loratory.dataset.visits import Visit
from loratory.runs.events import Phase
from loratory.telemetry.memory import peak_resident_bytes
from loratory.training.device import device_name, pick_device
from loratory.training.engine import Engine, assemble
from loratory.training.plan import Plan

_STEPS = 3


@dataclass(frozen=True)
class Measured:
    """What a step of the largest bucket took.

    step_s: the median of a few. peak_bytes: on a GPU, what its tensors took at most; otherwise what the process took.
    load_s: everything before the first step, caching included.
    """

    device: str
    bucket: tuple[int, int]
    load_s: float
    step_s: float
    peak_bytes: int
    free_bytes: int | None


def measure(plan: Plan) -> Iterator[Phase | Measured]:
    """Loads and caches as the run would, then takes a few steps on full batches of the largest bucket.

    The last thing it yields is the result. Cached latents and captions on disk stay and are used by the run. Raises
    what training would raise, out of memory included.
    """
    began = time.perf_counter()
    device = pick_device()
    engine = None
    for progress in assemble(plan, device):
        if isinstance(progress, Engine):
            engine = progress
        else:
            yield progress
    assert engine is not None
    load_s = time.perf_counter() - began
    bucket = max(plan.order.buckets, key=lambda size: size[0] * size[1])
    visits = [Visit(index, 0) for index, size in enumerate(plan.order.buckets) if size == bucket]
    batch = (visits * plan.config.training.train_batch_size)[: plan.config.training.train_batch_size]
    times: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(_STEPS):
        yield Phase("trying a few steps", step, _STEPS)
        began = time.perf_counter()
        for _ in range(plan.config.training.gradient_accumulation_steps):
            losses = engine.losses(engine.maker.make(batch, 1, step).to(device))
            engine.scaler.scale(losses.total).backward()
        for optimizer in engine.optimizers.all:
            engine.scaler.step(optimizer)
        engine.scaler.update()
        engine.optimizers.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    free = None
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
        free = torch.cuda.mem_get_info()[1]
    else:
        peak = peak_resident_bytes()
    yield Measured(device_name(device), bucket, load_s, sorted(times)[len(times) // 2], peak, free)
