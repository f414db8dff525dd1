"""Times the training loop against a bare one: what does everything around the arithmetic cost?

    python bench/step_time.py                                          # the embedded model, on whatever is there
    python bench/step_time.py --model sdxl --resolution 1024 --unet-only

The real loop is `loratory.runs.host.host` on a configuration, timed by its own events. The bare loop has the same
model, adapter and batches, and finds the batches ready as tensors: forward, backward, clipping, AdamW, and nothing
else. It runs in the same process, a block of steps between two blocks of the real one, so that a slow minute of the
machine slows both. The ratio is the median of those of neighbouring blocks.

`sd1` and `sdxl` are the real architectures with random weights (2 and 7 GB in a temporary folder): time and memory do
not depend on the values. `tiny` is for trying this script.
"""

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import tomli_w
import torch
from real_architectures import RANDOM_MODELS, write_model, write_pictures
from torch.utils.flop_counter import FlopCounterMode

import loratory.runs.host
from loratory.config.load import dump_config, load_config
from loratory.config.schema import EMBEDDED_MODEL, Config
from loratory.models.text import encode_ids, tokenize
from loratory.runs.control import Command, Control
from loratory.runs.events import Step
from loratory.runs.store import EventReader, RunDirectory
from loratory.training import loop
from loratory.training.device import compute_dtype, device_name, pick_device

# The first steps of a block are not counted. The very first holds the other loop's block, and on a GPU the queue of
# work fills during the next two.
SETTLING_STEPS = 3
RESOLUTIONS = {EMBEDDED_MODEL: 128, "tiny": 64, "sdxl": 1024}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="loratory-bench-", dir=options.temporary) as folder:
        config = make_config(Path(folder), options)
        bare = BareLoop(config, options.block)
        real = run_real_loop(config, bare)
    report(options, config, real, bare)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="PATH|nano|sd1|sdxl|tiny")
    parser.add_argument("--resolution", type=int, help="pixels; left out, 128 for nano, 1024 for sdxl, else 512")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=45, help="steps of each loop that are counted")
    parser.add_argument("--block", type=int, default=9, help=f"counted steps in a block; {SETTLING_STEPS} go before")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--network-type", choices=["lora", "locon", "dora"], default="lora")
    parser.add_argument("--dim", type=int, default=16, help="rank of the network")
    parser.add_argument("--unet-only", action="store_true", help="no network for the text encoder")
    parser.add_argument("--threads", type=int, help="CPU threads; left out, torch's choice")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    parser.add_argument("--temporary", type=Path, metavar="FOLDER", help="where to write, for the time it takes")
    options = parser.parse_args(arguments)
    options.resolution = options.resolution or RESOLUTIONS.get(options.model, 512)
    if not 1 <= options.block <= options.steps:
        parser.error("--block must be from 1 to --steps")
    return options


def make_config(folder: Path, options: argparse.Namespace) -> Config:
    """A configuration for as many steps as the blocks need, on pictures of noise below `folder`."""
    model = options.model
    if model in RANDOM_MODELS:
        model = str(write_model(folder / f"{model}.safetensors", model))
    elif model != EMBEDDED_MODEL:
        model = str(Path(model).absolute())
    write_pictures(folder / "set", 8, options.resolution)
    blocks = 1 + options.steps // options.block  # one to warm up
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
            # One more, because what is asked before it is the last chance of the bare loop.
            "max_train_steps": blocks * (SETTLING_STEPS + options.block) + 1,
            "mixed_precision": options.precision,
        },
        "output": {"state_every_n_steps": 1_000_000},
    }
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(tables), "utf-8")
    return load_config(path, options.set)


class BareLoop:
    """The arithmetic of a step and nothing else, on the model, adapter and batches that the real loop made."""

    def __init__(self, config: Config, block: int) -> None:
        self.config = config
        self.block = block
        self.device = pick_device()
        self.dtype = compute_dtype(config.training, self.device)
        self.base: Any = None
        self.adapter: Any = None
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []  # arguments of forward_losses, one per batch
        self.times_s: list[list[float]] = []  # per block, settling steps left out
        self.caching_peak_bytes = 0
        self.training_peak_bytes = 0

    @property
    def steps_in_block(self) -> int:
        return SETTLING_STEPS + self.block

    def watch(self, stack: ExitStack) -> None:
        """Takes what the real loop makes, as it makes it."""
        load, inject, forward = loop.load_base_model, loop.inject, loop.forward_losses

        def watched_load(*arguments: Any) -> Any:
            self.base = load(*arguments)
            return self.base

        def watched_inject(*arguments: Any, **named: Any) -> Any:
            self.adapter = inject(*arguments, **named)
            return self.adapter

        def watched_forward(*arguments: Any, **named: Any) -> Any:
            if not self.calls and self.device.type == "cuda":
                self.caching_peak_bytes = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            if len(self.calls) < self.steps_in_block:
                self.calls.append((arguments, named))
            return forward(*arguments, **named)

        stack.enter_context(patch.object(loop, "load_base_model", watched_load))
        stack.enter_context(patch.object(loop, "inject", watched_inject))
        stack.enter_context(patch.object(loop, "forward_losses", watched_forward))
        self._forward = forward

    def prepare(self) -> None:
        """Makes the optimizer and the inputs; once, after the first block of the real loop."""
        self.training_peak_bytes = peak_bytes(self.device)
        components = {target.component for target in self.adapter.targets}
        self.parameters = [p for component in sorted(components) for p in self.adapter.parameters(component)]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.config.optimizer.learning_rate, fused=fused)
        length = self.config.caption.max_token_length
        self.ids: list[Any] = [None] * len(self.calls)
        if not self.config.caches_text:
            captions = [arguments[1].captions for arguments, _ in self.calls]
            self.ids = [[ids.to(self.device) for ids in tokenize(self.base, texts, length)] for texts in captions]

    def run_block(self) -> None:
        if not self.times_s:
            self.prepare()
        marks = [self._mark()]
        for index in range(self.steps_in_block):
            self.forward_backward(index % len(self.calls))
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            marks.append(self._mark())
        self.times_s.append(self._between(marks)[SETTLING_STEPS:])

    def forward_backward(self, index: int) -> None:
        (unet, batch, text, *others), named = self.calls[index]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if self.ids[index] is not None:
                text = encode_ids(self.base, self.ids[index], clip_skip=self.config.model.clip_skip)
            loss = self._forward(unet, batch, text, *others, **named).total
        loss.backward()

    def _mark(self) -> Any:
        """A moment: on a GPU that of its own queue, so that the loop never waits for it."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, marks: list[Any]) -> list[float]:
        if self.device.type != "cuda":
            return [after - before for before, after in pairwise(marks)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


class Interleaving(Control):
    """Where the loop asks what is wanted of it, once a step: after every block it waits here for the bare loop."""

    def __init__(self, directory: Path, bare: BareLoop) -> None:
        super().__init__(directory)
        self._bare = bare
        self._done = 0

    def poll(self) -> list[Command]:
        if self._bare.calls:  # else the loop has not trained a step: it asks while it fills its caches, too
            self._done += 1
            if self._done % self._bare.steps_in_block == 0:
                self._bare.run_block()
        return super().poll()


def run_real_loop(config: Config, bare: BareLoop) -> list[list[Step]]:
    """Trains, with blocks of the bare loop between; returns the steps of each block, settling steps left out."""
    run = RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
    with ExitStack() as stack:
        bare.watch(stack)
        stack.enter_context(
            patch.object(loratory.runs.host, "Control", lambda directory: Interleaving(directory, bare))
        )
        loratory.runs.host.host(config, run, threading.Event())
    steps = [timed.event for timed in EventReader(run.events).read() if isinstance(timed.event, Step)]
    size = bare.steps_in_block
    return [steps[start + SETTLING_STEPS : start + size] for start in range(0, len(steps) - size + 1, size)]


def report(options: argparse.Namespace, config: Config, real: list[list[Step]], bare: BareLoop) -> None:
    # The first block of each warms up. A real one is followed by its bare neighbour.
    real_s = [[step.step_s for step in block] for block in real[1:]]
    bare_s = bare.times_s[1:]
    ratios = [median(ours) / median(theirs) for ours, theirs in zip(real_s, bare_s, strict=True)]
    all_real, all_bare = [t for block in real_s for t in block], [t for block in bare_s for t in block]
    step_s = median(all_real)
    waiting = median(step.data_s / step.step_s for block in real[1:] for step in block)
    work = flops_of_a_step(bare)
    peak = matmul_flops_per_s(bare.device, bare.dtype)
    what = "UNet" if options.unet_only else "UNet and text encoder"
    batch = config.training.train_batch_size
    print(f"{options.model}, {options.resolution} px, batch {batch}, {options.precision}")
    print(
        f"{options.network_type} of rank {options.dim} on {what}; {device_name(bare.device)}, torch {torch.__version__}"
    )
    print(f"real loop     {step_s:.4f} s a step, median of {len(all_real)} ({waiting:.1%} of it waiting for the batch)")
    print(f"bare loop     {median(all_bare):.4f} s a step, median of {len(all_bare)}")
    print(f"ratio         {median(ratios):.3f}, blocks from {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"throughput    {batch / step_s:.2f} pictures/s, {latent_positions(bare) / step_s:.0f} latent positions/s")
    print(f"arithmetic    {work / 1e12:.3f} TFLOP a step, {work / step_s / 1e12:.2f} TFLOP/s in the real loop")
    print(f"of the peak   {work / step_s / peak:.1%}: a large matmul reaches {peak / 1e12:.2f} TFLOP/s in {bare.dtype}")
    if bare.device.type == "cuda":
        caching, training = bare.caching_peak_bytes / 2**30, bare.training_peak_bytes / 2**30
        print(f"peak memory   {training:.2f} GiB on the device in steps, {caching:.2f} GiB before them")
    else:
        print(f"peak memory   {bare.training_peak_bytes / 2**30:.2f} GiB of the process, before the bare loop began")


def latent_positions(bare: BareLoop) -> int:
    """Positions (8 x 8 pixels) in a batch."""
    latents = bare.calls[0][0][1].latents
    return latents.shape[0] * latents.shape[2] * latents.shape[3]


def flops_of_a_step(bare: BareLoop) -> int:
    """Operations of one forward and backward pass, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        bare.forward_backward(0)
    return counter.get_total_flops()


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best of several products of two large square matrices, in operations per second."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind()
    best_s = float("inf")
    for _ in range(12):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * side**3 / best_s


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: on a GPU by tensors, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
