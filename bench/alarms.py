"""Counts alarms: on healthy runs of the embedded model, which should give none, and on runs with a planted fault.

    python bench/alarms.py train --out alarms        # about 20 minutes on one core; runs that are there are kept
    python bench/alarms.py judge alarms              # seconds
    python bench/alarms.py slim alarms tests/data/runs --only healthy-00      # what tests/test_diagnosis.py reads

`train` keeps the events of each run as `<name>.jsonl.gz`. `judge` folds them into `loratory.runs.diagnosis` and prints
what it says of each, and how much of the variance of the loss the timestep explains.
"""

import argparse
import dataclasses
import gzip
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from loratory.runs.diagnosis import Diagnosis, TimestepNorm
from loratory.runs.events import Step, Timed, decode

SMALL = 64  # pixels: the least the embedded model can draw with, and four times as fast as its own 128


@dataclass(frozen=True)
class Trial:
    """One run. settings: on top of the demo's. fault: "" for a healthy one. rules: those that should find it."""

    name: str
    settings: dict[str, object]
    steps: int
    fault: str = ""
    rules: tuple[str, ...] = ()


_OPTIMIZERS: tuple[dict[str, object], ...] = (
    {"optimizer.unet_lr": 1e-3, "optimizer.text_encoder_lr": 1e-3},
    {"optimizer.unet_lr": 3e-4, "optimizer.text_encoder_lr": 1e-4, "optimizer.lr_scheduler": "constant_with_warmup"},
    {
        "optimizer.optimizer_type": "Prodigy",
        "optimizer.unet_lr": 1.0,
        "optimizer.text_encoder_lr": 1.0,
        "optimizer.lr_warmup_steps": 0,
    },
    {
        "optimizer.unet_lr": 1e-3,
        "optimizer.text_encoder_lr": 5e-4,
        "optimizer.lr_scheduler": "cosine_with_restarts",
        "optimizer.lr_scheduler_num_cycles": 3,
    },
    {"optimizer.optimizer_type": "Lion", "optimizer.unet_lr": 1e-4, "optimizer.text_encoder_lr": 5e-5},
)


def healthy() -> Iterator[Trial]:
    """Twenty runs in which nothing is wrong, as different from each other as the settings allow."""
    for index in range(20):
        batch = (1, 2, 4)[index % 3]
        settings: dict[str, object] = {
            "training.seed": 100 + index,
            "training.train_batch_size": batch,
            "network.network_dim": (4, 8, 16, 32)[index % 4],
            "network.network_alpha": (4, 8, 16, 32)[index % 4],
            **_OPTIMIZERS[index % 5],
        }
        if index % 4 == 1:
            settings["dataset.validation_split"] = 0.2
        if index % 5 == 3:
            settings["dataset.flip_aug"] = True
        if index % 7 == 3:
            settings["loss.loss_type"] = "huber"
        if index % 10 == 9:
            settings["dataset.resolution"] = 128
        yield Trial(f"healthy-{index:02d}", settings, steps={1: 240, 2: 160, 4: 130}[batch])


def faulty() -> Iterator[Trial]:
    """Runs with one fault each, twice: with a small and a larger batch."""
    for index, batch in enumerate((1, 4)):
        base: dict[str, object] = {"training.seed": 200 + index, "training.train_batch_size": batch}
        base |= _OPTIMIZERS[index]
        steps = {1: 300, 4: 160}[batch]

        def trial(fault: str, *rules: str, steps: int = steps, base: dict[str, object] = base, batch: int = batch):
            return Trial(f"{fault}-batch{batch}", base, steps, fault, rules)

        yield trial("rate-x30", "sudden-change")
        yield trial("noise-picture", "image-outlier")
        yield trial("foreign-picture", "image-outlier")
        yield trial("nan-weight", "nan")
        yield trial("rate-0", "not-learning", steps=80)
        yield trial("text-encoder-rate-0", "not-learning", steps=80)
        # Foreign captions hardly move the loss of pictures that are learned already: this one is expected to be missed.
        yield trial("captions-swapped", "sudden-change")
        yield trial("pictures-swapped", "sudden-change")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train the runs and keep their events")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--only", default="", help="only runs whose name begins so")
    judging = commands.add_parser("judge", help="say what the diagnosis finds in the events")
    judging.add_argument("folder", type=Path)
    slimming = commands.add_parser("slim", help="copy events without what no rule reads")
    slimming.add_argument("folder", type=Path)
    slimming.add_argument("target", type=Path)
    slimming.add_argument("--only", default="", help="only runs whose name begins so")
    options = parser.parse_args(arguments)
    if options.command == "judge":
        return judge(options.folder)
    if options.command == "slim":
        for source in sorted(options.folder.glob(f"{options.only}*.jsonl.gz")):
            (options.target / source.name).write_bytes(
                gzip.compress(slim(gzip.decompress(source.read_bytes())), mtime=0)
            )
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for trial in (*healthy(), *faulty()):
        target = options.out / f"{trial.name}.jsonl.gz"
        if trial.name.startswith(options.only) and not target.exists():
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                events = train(trial, Path(folder))
            target.write_bytes(gzip.compress(events))
            print(f"{trial.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return 0


def train(trial: Trial, folder: Path) -> bytes:
    """The events of a run in an empty `folder`."""
    import loratory.demo
    from loratory.config.load import dump_config, load_config
    from loratory.runs.host import host
    from loratory.runs.store import RunDirectory

    work = folder / "work"
    shutil.copytree(Path(loratory.demo.__path__[0]), work)
    plant_in_pictures(trial.fault, work / "pictures" / "10_hrt")
    settings = {
        "dataset.resolution": SMALL,
        "training.max_train_steps": trial.steps,
        "sample.prompts": "[]",
        "output.state_every_n_steps": 50,
        **trial.settings,
    }
    settings |= {f"dataset.{side}_bucket_reso": settings["dataset.resolution"] for side in ("min", "max")}
    config = load_config(work / "config.toml", tuple(f"{key}={_toml(value)}" for key, value in settings.items()))
    run = RunDirectory.create(work / "runs", trial.name, dump_config(config))
    with planted(trial, run.control):
        try:
            host(config, run, threading.Event())
        except Exception as error:  # noqa: BLE001 - a run that fails is what some faults do, its events tell
            print(f"{trial.name}: {error}", file=sys.stderr)
            return run.events.read_bytes()
    if trial.fault == "captions-swapped":
        for index, caption in enumerate(sorted((work / "pictures").rglob("*.txt"))):
            caption.write_text(("photo of a street at night", "1girl, long hair, smile")[index % 2])
        host(config, run, threading.Event())
    return run.events.read_bytes()


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def plant_in_pictures(fault: str, folder: Path) -> None:
    """Puts coarse coloured noise, or a chessboard, in the place of one picture.

    Fine noise would not do: at this size the toy's autoencoder makes grey of it, which is easy to learn.
    """
    from PIL import Image

    if fault == "noise-picture":
        cells = np.random.default_rng(1).integers(0, 2, (8, 8, 3)) * 255
    elif fault == "foreign-picture":
        cells = (np.indices((8, 8, 3)).sum(axis=0) - np.indices((8, 8, 3))[2]) % 2 * 255
    else:
        return
    pixels = cells.repeat(32, axis=0).repeat(32, axis=1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "teal.webp", lossless=True)


@contextmanager
def planted(trial: Trial, control: Path) -> Generator[None]:
    """Makes the engine do wrong from the middle of the run on, or from its beginning."""
    from loratory.runs.control import Command, send
    from loratory.training.batches import Batch, BatchMaker
    from loratory.training.optimizers import Optimizers

    middle, taken = trial.steps * 2 // 3, 0
    set_multiplier, make = Optimizers.set_multiplier, BatchMaker.make

    def wrong_rate(optimizers: Optimizers, multiplier: float) -> None:
        nonlocal taken
        taken += 1
        late = taken > middle
        if trial.fault == "captions-swapped" and taken == middle:
            send(control, Command("stop"))
        if trial.fault == "nan-weight" and taken == middle:
            optimizers.all[0].param_groups[0]["params"][0].data[0] = math.nan
        factor = {"rate-x30": 30.0 if late else 1.0, "rate-0": 0.0}.get(trial.fault, 1.0)
        set_multiplier(optimizers, multiplier * factor)
        if trial.fault == "text-encoder-rate-0":
            for optimizer in optimizers.all:
                for group in optimizer.param_groups:
                    group["lr"] *= not group["name"].startswith("text_encoder")

    def other_pictures(maker: BatchMaker, *args: object, **kwargs: object) -> Batch:
        batch = make(maker, *args, **kwargs)  # pyright: ignore[reportArgumentType]
        late = trial.fault == "pictures-swapped" and args[2] >= middle  # pyright: ignore[reportOperatorIssue]
        return dataclasses.replace(batch, latents=batch.latents.flip(1).roll(3, 2)) if late else batch

    with ExitStack() as stack:
        stack.enter_context(patch.object(Optimizers, "set_multiplier", wrong_rate))
        stack.enter_context(patch.object(BatchMaker, "make", other_pictures))
        yield


def slim(events: bytes) -> bytes:
    """Events without the kinds no rule reads, at four digits, with paths that name no folder of this machine."""
    lines: list[str] = []
    for line in events.decode().splitlines():
        body = json.loads(line)
        if body["kind"] not in ("started", "step", "validated", "weights", "saved", "state_saved", "nan"):
            continue
        if body["kind"] == "saved":
            body["path"] = f"output/{Path(body['path']).name}"
        if body["kind"] == "started":
            body["device"] = "cpu"
        body["t"] = round(body["t"], 1)
        lines.append(json.dumps(_rounded(body), separators=(",", ":")) + "\n")
    return "".join(lines).encode()


def _rounded(value: object) -> object:
    match value:
        case float():
            return value if abs(value) > 1e6 else float(f"{value:.4g}")
        case dict():
            return {key: _rounded(item) for key, item in value.items() if item is not None}
        case list():
            return [_rounded(item) for item in value]
        case _:
            return value


def judge(folder: Path) -> int:
    """Prints what the diagnosis says of each run, and whether that is what should have been said."""
    trials = [trial for trial in (*healthy(), *faulty()) if (folder / f"{trial.name}.jsonl.gz").exists()]
    by_rule: Counter[str] = Counter()
    quiet = found = 0
    explained: list[float] = []
    for trial in trials:
        lines = gzip.decompress((folder / f"{trial.name}.jsonl.gz").read_bytes()).decode().splitlines()
        events = [timed for line in lines if (timed := decode(line))]
        diagnosis = Diagnosis()
        alarms = [alarm for timed in events for alarm in diagnosis.add(timed)]
        right = any(alarm.rule in trial.rules for alarm in alarms) if trial.fault else not alarms
        if trial.fault:
            found += right
        else:
            quiet += right
            by_rule.update(alarm.rule for alarm in alarms)
            explained.append(explained_by_timestep(events))
        print(f"{'ok   ' if right else 'WRONG'} {trial.name}")
        for alarm in alarms:
            print(f"        step {alarm.step:4d} {alarm.rule}: {alarm.sentence} [{alarm.last_good}]")
    count = sum(not trial.fault for trial in trials)
    print(f"{quiet} of {count} healthy runs are quiet; alarms on them: {dict(by_rule) or 'none'}")
    print(f"{found} of {len(trials) - count} faults are found")
    if explained:
        print(f"the timestep explains {np.median(explained):.0%} of the variance of the logarithm of the loss (median)")
    return 0


def explained_by_timestep(events: Sequence[Timed]) -> float:
    """The share of the variance of the logarithm of the loss that normalising removes, once 40 values are known."""
    norm = TimestepNorm()
    raw: list[float] = []
    left: list[float] = []
    for sample in (sample for timed in events if isinstance(timed.event, Step) for sample in timed.event.samples):
        normalised = norm.add(sample.timestep, sample.loss)
        if norm.count > 40 and 0.0 < normalised < math.inf:
            raw.append(math.log(sample.loss))
            left.append(math.log(normalised))
    return 1 - float(np.var(left) / np.var(raw)) if raw else math.nan


if __name__ == "__main__":
    sys.exit(main())
