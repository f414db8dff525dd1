"""A run that nobody trains: its folder, filled event by event as a process would fill it."""

import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from loratory.config.load import dump_config
from loratory.config.schema import Config
from loratory.runs.events import (
    Card,
    Event,
    Hardware,
    NotANumber,
    Phase,
    Sampled,
    SampleLoss,
    Saved,
    Started,
    StateSaved,
    Step,
    Weights,
)
from loratory.runs.store import EventWriter, RunDirectory, Status, new_record

HOUR_S = 3600.0


def make_config(root: Path, **tables: dict[str, object]) -> Config:
    document: dict[str, object] = {
        "model": {"pretrained_model_name_or_path": str(root / "base")},
        "dataset": {"train_data_dir": str(root / "train")},
        "output": {"output_name": "fox", "runs_dir": str(root / "runs")},
        "sample": {"prompts": ["a fox --s 4"], "sample_every_n_epochs": 1},
    }
    for name, values in tables.items():
        document[name] = {**document.get(name, {}), **values}  # pyright: ignore[reportGeneralTypeIssues]
    return Config.model_validate(document)


class FakeRun:
    """Writes into a run's folder. Its record names this process, so that it lives as long as the test."""

    def __init__(self, root: Path, steps: int = 200, epochs: int = 10, config: Config | None = None) -> None:
        toml = dump_config(config or make_config(root))
        self.directory = RunDirectory.create(root / "runs", "fox", toml)
        self._writer = EventWriter(self.directory.events)
        self._record = new_record()
        self.total, self.epochs = steps, epochs
        self.per_epoch = max(1, steps // epochs)
        self.done = 0
        self._random = random.Random(7)
        self.images = [f"10_fox/{index:03d}.png" for index in range(8)]

    def say(self, *events: Event) -> None:
        for event in events:
            self._writer.write(event)

    def stand(self, status: Status, *, alive: bool = True, message: str = "", host: str | None = None) -> None:
        """Writes the record. alive: whether its process is this one, or one that cannot be."""
        record = replace(self._record, status=status, step=self.done, total_steps=self.total, message=message)
        if not alive:
            record = replace(record, pid=2**22 - 1, pid_started_s=1.0)
        if host is not None:
            record = replace(record, host=host)
        self.directory.write_record(record)

    def start(self, from_step: int = 0) -> None:
        self.done = from_step
        self.stand("running")
        self.say(
            Phase("caching latents", 8, 8), Started(from_step, self.total, self.epochs, self.per_epoch, "cpu", "0.1.0")
        )

    def steps(self, count: int, loss: float | None = None, images: Iterable[str] | None = None) -> None:
        names = list(images or self.images)
        for _ in range(count):
            self.done += 1
            self.say(self.step(self.done, loss, names))

    def step(self, number: int, loss: float | None = None, images: list[str] | None = None) -> Step:
        names = images or self.images
        value = self._random.uniform(0.05, 0.15) if loss is None else loss
        return Step(
            step=number,
            epoch=1 + (number - 1) // self.per_epoch,
            loss=value,
            lr={"unet": 1.0, "text encoder": 1.0},
            effective_lr={"unet": 3.1e-5, "text encoder": 3.1e-5},
            grad_norm=1.0 if math.isfinite(value) else math.nan,
            step_s=1.42,
            data_s=0.03,
            samples=[SampleLoss(names[number % len(names)], self._random.randrange(1000), value)],
        )

    def broken_step(self) -> None:
        self.steps(1, math.nan)
        self.say(NotANumber(self.done, "the loss", "unet.down_blocks.0", [self.images[0]]))

    def hardware(self, cards: int = 1) -> None:
        card = Card("Fake 24", 97.0, 16_200_000_000, 24_000_000_000, 71.0, 388.0, 450.0)
        self.say(Hardware(12.5, 8_000_000_000, 32_000_000_000, 3_000_000_000, [card] * cards))

    def save(self) -> None:
        epoch = 1 + (self.done - 1) // self.per_epoch
        path = self.directory.path.parent / "output" / f"fox-{epoch:06d}.safetensors"
        self.say(Saved(self.done, epoch, str(path), 37_000_000, 0.0, 1.5))

    def save_state(self) -> None:
        path = self.directory.state / f"{self.done:08d}.pt"
        path.write_bytes(b"state")
        self.say(StateSaved(self.done, f"state/{path.name}", 0.5), Weights(self.done, {"unet": self.done / 100}))

    def sample(self, prompt: str = "a fox", index: int = 0) -> None:
        path = self.directory.samples / f"{self.done:06d}_{index}.png"
        Image.new("RGB", (32, 32), (200, 100, 40)).save(path)
        self.say(Sampled(self.done, 1, f"samples/{path.name}", prompt, index, 1, 4.0))

    def commands(self) -> list[str]:
        """The names of the commands that were left, in their order."""
        return [path.stem.partition("-")[2] for path in sorted(self.directory.control.glob("*.json"))]
