"""Runs of the embedded model for tests of what surrounds them: some seconds each, and what became of them."""

import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from loratory.config.load import dump_config, load_config
from loratory.runs.events import Finished, Step, Timed
from loratory.runs.store import EventReader, RunDirectory, liveness
from material import make_set, write_config
from terminal import ENVIRONMENT, PROGRAM


def nano_config(folder: Path, steps: int, **output: object) -> Path:
    """A config of so many steps, with dropout: a step that draws other numbers ends in other weights."""
    make_set(folder / "set", {"2_fox": 4, "1_wolf": 3}, (64, 64))
    return write_config(
        folder,
        model={"pretrained_model_name_or_path": "nano"},
        training={"max_train_epochs": None, "max_train_steps": steps, "train_batch_size": 2},
        output={"save_every_n_steps": max(1, steps // 2), **output},
        network={"network_dropout": 0.1},
    )


def new_run(folder: Path, steps: int, **output: object) -> RunDirectory:
    """The folder of a run that nobody trains yet."""
    config = load_config(nano_config(folder, steps, **output))
    return RunDirectory.create(config.output.runs_dir, "fox", dump_config(config))


def the_run(folder: Path) -> RunDirectory:
    """The one run that was started in `folder`."""
    (path,) = (folder / "runs").iterdir()
    return RunDirectory(path)


def headless_weights(folder: Path, steps: int) -> dict[str, torch.Tensor]:
    """What a run of so many steps ends in without any screen."""
    home = {"LORATORY_HOME": str(folder / "home")}
    command = [*PROGRAM, "train", str(nano_config(folder, steps))]
    subprocess.run(command, env=os.environ | ENVIRONMENT | home, check=True, capture_output=True, timeout=300)
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "output" / "fox.safetensors")


def same_bytes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one
    )


def timed_steps(run: RunDirectory) -> list[Timed]:
    return [timed for timed in EventReader(run.events).read() if isinstance(timed.event, Step)]


def steps_of(run: RunDirectory) -> list[int]:
    return [timed.event.step for timed in timed_steps(run) if isinstance(timed.event, Step)]


def last_of(run: RunDirectory) -> Finished:
    last = EventReader(run.events).read()[-1].event
    assert isinstance(last, Finished), last
    return last


def is_done(run: RunDirectory) -> bool:
    """Whether it is done; fails where it has ended in any other way."""
    state = liveness(run.read_record())
    assert state in ("starting", "running", "done"), state
    return state == "done"
