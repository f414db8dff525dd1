"""Times the training loop against a bare one: what does everything around the arithmetic cost?

    python bench/step_time.py                                          # the embedded model, on whatever is there
    python bench/step_time.py --model sdxl --resolution 1024 --unet-only

The real loop is `loratory.runs.host.host` on a configuration, timed by its own events. The bare loop has the same
model, adapter and batches, and finds the batches ready as tensors: forward, backward, clipping, AdamW, and nothing
else. Both run in turn in one process, on a CPU step by step, so that a slow second of the machine slows both; the ratio
is the median of those of neighbours.

`sd1` and `sdxl` are the real architectures with random weights (2 and 7 GB in a temporary folder): time and memory do
not depend on the values. `tiny` is for trying this script.
"""

import argparse
import math
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import tomli_w
import torch
from real_architectures import RANDOM_MODELS, write_model, write_pictures
from torch.utils.flop_counter import FlopCounterMode

import loratory.runs.host
from loratory.config.load import dump_config, load_config
from loratory.config.schema import EMBEDDED_MODEL, Config
from loratory.models.text import encode_ids
from loratory.runs.control import Command, Control
from loratory.runs.events import Step
from loratory.runs.store import EventReader, RunDirectory
from loratory.training import engine
from loratory.training.device import compute_dtype, device_name, pick_device

RESOLUTIONS = {EMBEDDED_MODEL: 128, "tiny": 64, "sdxl": 1024}
PICTURES = 8  # all are seen, and their captions encoded, while the loops warm up


@dataclass(frozen=True)
class Turns:
    """How the loops take turns: `length` steps each, of which the first `settling` are not counted.

    On a CPU a step is over before the next begins, so they alternate. On a GPU the loop runs ahead of the device: the
    first step of a turn holds the turn of the other loop, and during the next two the queue of work fills.
    """

    length: int
    settling: int
    warm_up: int  # turns that are not counted at all
    counted: int

    @property
    def steps(self) -> int:
        """Steps of the real loop: one more than its turns hold, since the bare loop's last turn is before a step."""
        return (self.warm_up + self.counted) * self.length + 1


def turns_for(device: torch.device, steps: int) -> Turns:
    """Turns in which each loop has at least `steps` counted steps."""
    if device.type == "cuda":
        return Turns(length=13, settling=3, warm_up=1, counted=max(2, math.ceil(steps / 10)))
    return Turns(length=1, settling=0, warm_up=PICTURES, counted=steps)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device()
    turns = turns_for(device, options.steps)
    with tempfile.TemporaryDirectory(prefix="loratory-bench-", dir=options.temporary) as folder:
        config = make_config(Path(folder), options, turns.steps)
        bare = BareLoop(config, turns, device)
        real = run_real_loop(config, bare)
    report(options, config, real, bare)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="PATH|nano|sd1|sdxl|tiny")
    parser.add_argument("--resolution", type=int, help="pixels; left out, 128 for nano, 1024 for sdxl, else 512")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="steps of each loop that are counted")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--network-type", choices=["lora", "locon", "dora"], default="lora")
    parser.add_argument("--dim", type=int, default=16, help="rank of the network")
    parser.add_argument("--unet-only", action="store_true", help="no network for the text encoder")
    parser.add_argument("--threads", type=int, help="CPU threads; left out, torch's choice")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    parser.add_argument("--temporary", type=Path, metavar="FOLDER", help="where to write, for the time it takes")
    options = parser.parse_args(arguments)
    options.resolution = options.resolution or RESOLUTIONS.get(options.model, 512)
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    return options


def make_config(folder: Path, options: argparse.Namespace, steps: int) -> Config:
    """A configuration for `steps` steps on pictures of noise below `folder`."""
    model = options.model
    if model in RANDOM_MODELS:
        model = str(write_model(folder / f"{model}.safetensors", model))
    elif model != EMBEDDED_MODEL:
        model = str(Path(model).absolute())
    write_pictures(folder / "set", PICTURES, options.resolution)
    network = {
        "network_type": options.network_type,
        "network_dim": options.dim,
        "network_alpha": options.dim,
        "network_train_unet_only": options.unet_only,
    }
    if options.network_type == "locon":
        network["conv_dim"] = options.dim
    tables = {
        "model": {"pretrained_model_name_or_path": model},
        "dataset": {
            "train_data_dir": "set",
            "resolution": options.resolution,
            "min_bucket_reso": min(options.resolution, 256),
            "max_bucket_reso": max(options.resolution, 1024),
        },
        "network": network,
        "training": {
            "train_batch_size": options.batch,
            "max_train_steps": steps,
            "mixed_precision": options.precision,
        },
        "output": {"state_every_n_steps": 1_000_000},
    }
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(tables), "utf-8")
    return load_config(path, options.set)


class BareLoop:
    """The arithmetic of a step and nothing else, on the model, adapter and batches that the real loop made."""

    def __init__(self, config: Config, turns: Turns, device: torch.device) -> None:
        self.config = config
        self.turns = turns
        self.device = device
        self.dtype = compute_dtype(config.training, device)
        self.base: Any = None
        self.adapter: Any = None
        self.calls: list[tuple[Any, ...]] = []  # for each batch what forward_losses was given, without the text
        self.turns_s: list[list[float]] = []  # seconds of the counted steps of each turn
        self.caching_peak_bytes = 0
        self.training_peak_bytes = 0

    def watch(self, stack: ExitStack) -> None:
        """Takes what the real loop makes, as it makes it."""
        load, inject, self._forward = engine.load_base_model, engine.inject, engine.forward_losses

        def watched_load(*arguments: Any, **named: Any) -> Any:
            self.base = load(*arguments, **named)
            return self.base

        def watched_inject(*arguments: Any, **named: Any) -> Any:
            self.adapter = inject(*arguments, **named)
            return self.adapter

        def watched_forward(unet: Any, batch: Any, text: Any, *others: Any, v_prediction: bool, preserved: Any) -> Any:
            if not self.calls and self.device.type == "cuda":
                self.caching_peak_bytes = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            if not self.turns_s:
                self.calls.append((unet, batch, *others))
                self.v_prediction = v_prediction
            return self._forward(unet, batch, text, *others, v_prediction=v_prediction, preserved=preserved)

        stack.enter_context(patch.object(engine, "load_base_model", watched_load))
        stack.enter_context(patch.object(engine, "inject", watched_inject))
        stack.enter_context(patch.object(engine, "forward_losses", watched_forward))

    def prepare(self) -> None:
        """Makes the optimizer; once, when the real loop has had its first turn."""
        self.training_peak_bytes = peak_bytes(self.device)
        components = sorted({target.component for target in self.adapter.targets})
        self.parameters = [p for component in components for p in self.adapter.parameters(component)]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.config.optimizer.learning_rate, fused=True)

    def take_turn(self) -> None:
        if not self.turns_s:
            self.prepare()
        moments = [self._now()]
        for index in range(self.turns.length):
            self.forward_backward(index % len(self.calls))
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            moments.append(self._now())
        self.turns_s.append(self._between(moments)[self.turns.settling :])

    def forward_backward(self, index: int) -> None:
        unet, batch, *others = self.calls[index]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            text = batch.text or encode_ids(self.base, batch.ids, clip_skip=self.config.model.clip_skip)
            loss = self._forward(unet, batch, text, *others, v_prediction=self.v_prediction).total
        loss.backward()

    def _now(self) -> Any:
        """This moment; on a GPU the one in its queue, so that the loop need not wait for it."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, moments: list[Any]) -> list[float]:
        if self.device.type != "cuda":
            return [after - before for before, after in pairwise(moments)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(moments)]


class TakingTurns(Control):
    """Where the loop asks what is wanted of it, once a step: after a turn it waits here for that of the bare loop."""

    def __init__(self, directory: Path, bare: BareLoop, waits_s: dict[int, float]) -> None:
        super().__init__(directory)
        self._bare = bare
        self._done = 0
        self._waits_s = waits_s  # steps done so far -> seconds spent here, which the next step's time includes

    def poll(self) -> list[Command]:
        if self._bare.calls:  # else no step was trained yet
            self._done += 1
            turns = self._bare.turns
            # Asked once more at its end, the loop waits for nothing.
            if self._done % turns.length == 0 and self._done < turns.steps:
                began = time.perf_counter()
                self._bare.take_turn()
                self._waits_s[self._done] = time.perf_counter() - began
        return super().poll()


@dataclass(frozen=True)
class RealStep:
    seconds: float
    waiting_s: float  # of these for the batch


def run_real_loop(config: Config, bare: BareLoop) -> list[list[RealStep]]:
    """Trains, with turns of the bare loop between, and returns the counted steps of each turn."""
    run = RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
    waits_s: dict[int, float] = {}
    with ExitStack() as stack:
        bare.watch(stack)
        stack.enter_context(
            patch.object(loratory.runs.host, "Control", lambda directory: TakingTurns(directory, bare, waits_s))
        )
        loratory.runs.host.host(config, run, threading.Event())
    events = [timed.event for timed in EventReader(run.events).read()]
    steps = [
        RealStep(event.step_s - waits_s.get(event.step - 1, 0.0), event.data_s)
        for event in events
        if isinstance(event, Step)
    ]
    length = bare.turns.length
    return [steps[at + bare.turns.settling : at + length] for at in range(0, len(steps) - length + 1, length)]


def report(options: argparse.Namespace, config: Config, real: list[list[RealStep]], bare: BareLoop) -> None:
    first = bare.turns.warm_up
    pairs = list(zip(real, bare.turns_s, strict=False))[first:]
    ratios = [median(step.seconds for step in ours) / median(theirs) for ours, theirs in pairs]
    low, _, high = quantiles(ratios, n=4)
    steps = [step for turn, _ in pairs for step in turn]
    step_s = median(step.seconds for step in steps)
    bare_s = median(seconds for _, turn in pairs for seconds in turn)
    waiting = median(step.waiting_s / step.seconds for step in steps)
    work = flops_of_a_step(bare)
    peak = matmul_flops_per_s(bare.device, bare.dtype)
    latents = bare.calls[0][1].latents
    batch = config.training.train_batch_size
    parts = "the UNet" if options.unet_only else "the UNet and the text encoder"
    print(f"device        {device_name(bare.device)}, torch {torch.__version__}")
    print(f"model         {options.model}, {options.resolution} px, batch {batch}, mixed_precision {options.precision}")
    print(f"network       {options.network_type} of rank {options.dim} on {parts}, {len(bare.adapter.targets)} modules")
    print(f"real loop     {step_s:.4f} s a step, median of {len(steps)}; {waiting:.1%} of it waiting for the batch")
    print(f"bare loop     {bare_s:.4f} s a step")
    print(f"ratio         {median(ratios):.3f}, half of {len(ratios)} neighbours from {low:.3f} to {high:.3f}")
    print(f"throughput    {batch / step_s:.2f} pictures/s, {latents[:, 0].numel() / step_s:.0f} latent positions/s")
    print(f"arithmetic    {work / 1e12:.3f} TFLOP a step, {work / step_s / 1e12:.3f} TFLOP/s in the real loop")
    print(f"of the peak   {work / step_s / peak:.1%}; a large matmul reaches {peak / 1e12:.2f} TFLOP/s ({bare.dtype})")
    training, caching = bare.training_peak_bytes / 2**30, bare.caching_peak_bytes / 2**30
    if bare.device.type == "cuda":
        print(f"peak memory   {training:.2f} GiB on the device in steps, {caching:.2f} GiB before them")
    else:
        print(f"peak memory   {training:.2f} GiB of the process, up to the first turn of the bare loop")


def flops_of_a_step(bare: BareLoop) -> int:
    """Operations of one forward and backward pass; a multiplication and an addition count as two."""
    with FlopCounterMode(display=False) as counter:
        bare.forward_backward(0)
    return counter.get_total_flops()


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best of several products of two large square matrices, in operations per second."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind()

    def product_s() -> float:
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return 2 * side**3 / min(product_s() for _ in range(12))


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: on a GPU by tensors, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
