"""A run to be drawn: its folder, filled as a process that trains would fill it. No figure in it was measured."""

import math
import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from loratory.config.load import dump_config
from loratory.config.schema import Config
from loratory.runs.events import (
    Card,
    Hardware,
    Sampled,
    SampleLoss,
    Saved,
    Started,
    StateSaved,
    Step,
    Weights,
)
from loratory.runs.store import EventWriter, RunDirectory, new_record

_PER_EPOCH, _EPOCHS, _DONE = 51, 10, 194
_PROMPTS = ("hrt, heart, red, white background", "hrt, heart, blue, white background")
_HARD = "black.webp"


def make_run(parent: Path, pictures: Path) -> Path:
    """Makes `parent`/runs/hearts-20260412-2201, in its fourth epoch on another machine; the samples are made of
    `pictures`."""
    config = Config.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "nano"},
            "dataset": {"train_data_dir": str(parent / "hearts")},
            "sample": {"prompts": list(_PROMPTS), "sample_every_n_epochs": 1},
        }
    )
    made = RunDirectory.create(parent / "runs", "hearts", dump_config(config))
    run = RunDirectory(made.path.rename(parent / "runs" / "hearts-20260412-2201"))
    total = _PER_EPOCH * _EPOCHS
    record = replace(new_record(), pid=4711, host="gpu-server", status="running", step=_DONE, total_steps=total)
    run.write_record(record)
    writer, chance = EventWriter(run.events), random.Random(7)
    names = sorted(path.name for path in pictures.glob("*.webp"))
    writer.write(Started(0, total, _EPOCHS, _PER_EPOCH, "NVIDIA GeForce RTX 4090", "0.1.0"))
    _sample(writer, run, pictures, 0)
    for number in range(1, _DONE + 1):
        writer.write(_step(number, names, chance))
        if number % 25 == 0:
            learned = math.log1p(number / 40)
            writer.write(Weights(number, {"unet": 0.31 * learned, "text_encoder": 0.06 * learned}))
        if number % _PER_EPOCH == 0:
            epoch = number // _PER_EPOCH
            path = parent / "output" / f"hearts-{epoch:06d}.safetensors"
            writer.write(Saved(number, epoch, str(path), 37_000_000, 0.0, 1.5))
            writer.write(StateSaved(number, f"state/{number:08d}.pt", 0.8))
            _sample(writer, run, pictures, number)
        if number % 60 == 0:
            card = Card("NVIDIA GeForce RTX 4090", 97.0, 16_200_000_000, 24_000_000_000, 71.0, 388.0, 450.0)
            writer.write(Hardware(12.5, 9_800_000_000, 64_000_000_000, 6_100_000_000, [card]))
    return parent


def _step(number: int, names: list[str], chance: random.Random) -> Step:
    share = number / (_PER_EPOCH * _EPOCHS)
    samples: list[SampleLoss] = []
    for _ in range(2):
        name, timestep = chance.choice(names), chance.randrange(1000)
        loss = (0.02 + 0.25 * math.exp(-timestep / 160)) * chance.lognormvariate(-0.25 * share, 0.22)
        samples.append(SampleLoss(f"10_hrt/{name}", timestep, loss * (1.7 if name == _HARD else 1.0)))
    found_d = 3.1e-5 * (1 - math.exp(-number / 25))
    return Step(
        step=number,
        epoch=1 + (number - 1) // _PER_EPOCH,
        loss=sum(sample.loss for sample in samples) / len(samples),
        lr={"unet": 1.0, "text_encoder": 1.0},
        effective_lr={"unet": found_d, "text_encoder": found_d},
        grad_norm=0.05 * chance.lognormvariate(0, 0.3),
        step_s=1.42,
        data_s=0.03,
        samples=samples,
    )


def _sample(writer: EventWriter, run: RunDirectory, pictures: Path, step: int) -> None:
    """A picture for each prompt, the nearer to what is trained the later it is."""
    share = min(1.0, step / (3 * _PER_EPOCH))
    epoch = max(1, step // _PER_EPOCH)
    start = _on_white(pictures / "grey.webp").resize((160, 160)).rotate(50, fillcolor="white")
    ground = Image.new("RGB", (256, 256), "white")
    ground.paste(start, (48, 48))
    for index, (prompt, name) in enumerate(zip(_PROMPTS, ("red", "blue"), strict=True)):
        path = run.samples / f"step{step:08d}-{index:02d}-{42 + index}.png"
        Image.blend(ground, _on_white(pictures / f"{name}.webp").resize((256, 256)), share).save(path)
        writer.write(Sampled(step, epoch, f"samples/{path.name}", prompt, index, 42 + index, 4.0))


def _on_white(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        drawn = picture.convert("RGBA")
    ground = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(ground, drawn).convert("RGB")
