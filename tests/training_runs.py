"""Runs and engines on a base model that is smaller still than the tiny ones, for tests that need many of them."""

import atexit
import shutil
import tempfile
import threading
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.models.components import family_config
from loratory.runs.events import Finished
from loratory.runs.host import host
from loratory.runs.store import EventReader, RunDirectory
from loratory.training.engine import Engine, assemble
from loratory.training.plan import make_plan
from material import write_config
from tiny_models import Family, tiny_model

_BLOCKS = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 2,
}
_WIDTHS: dict[Family, dict[str, int]] = {
    "sd1": {"cross_attention_dim": 32},
    "sd2": {"cross_attention_dim": 64},
    "sdxl": {
        "cross_attention_dim": 96,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 64 + 6 * 32,
    },
}


@cache
def small_model(family: Family = "sd1", prediction_type: str | None = None, zero_terminal_snr: bool = False) -> Path:
    """A base model of two UNet levels and two text encoder layers, built once for the process; to be read only."""
    root = Path(tempfile.mkdtemp(prefix="loratory-small-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = tiny_model(root / family, family, prediction_type=prediction_type, zero_terminal_snr=zero_terminal_snr)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config(family_config(family, "unet") | _BLOCKS | _WIDTHS[family])
        unet.save_pretrained(folder / "unet")
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        for name, kind in kinds.items():
            if (folder / name).exists():
                config = CLIPTextConfig.from_pretrained(folder / name)
                config.num_hidden_layers = 2
                kind(config).save_pretrained(folder / name)
    return folder


def small_config(folder: Path, family: Family = "sd1", **tables: dict[str, Any]) -> Config:
    """A config in `folder` that trains what is in its `set`, one picture a step, on the small model of `family`."""
    model = {"pretrained_model_name_or_path": str(small_model(family))} | tables.pop("model", {})
    training = {"train_batch_size": 1, "max_train_epochs": 1} | tables.pop("training", {})
    return load_config(write_config(folder, family, model=model, training=training, **tables))


def train(config: Config, run: RunDirectory | None = None) -> tuple[Finished, RunDirectory, list[Any]]:
    """Trains, from the newest state of `run` if one is given: how it ended, the run, and all of its events."""
    run = run or RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
    # What these do to the collector takes a third of a second, as long as such a run; it has a test of its own. None of
    # them alone: what one run of many tells to stay, and none lets go, would stay.
    names = ("training.loop.stay", "runs.loading.stay", "runs.host.let_go")
    with ExitStack() as patched:
        for name in names:
            patched.enter_context(patch(f"loratory.{name}"))
        finished = host(config, run, threading.Event())
    return finished, run, [timed.event for timed in EventReader(run.events).read()]


def of_kind(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def engine_of(config: Config) -> Engine:
    """What a run of `config` would train with."""
    return next(p for p in assemble(make_plan(config), torch.device("cpu")) if isinstance(p, Engine))


def saved(config: Config, ending: str = "") -> dict[str, torch.Tensor]:
    """The tensors of the final adapter file."""
    return load_file(config.output.output_dir / f"{config.output.output_name}{ending}.safetensors")


def same_bytes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether names and tensors are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def go_on_from(config: Config, run: RunDirectory, step: int) -> list[Any]:
    """Takes a finished run back to its state after `step`, as if it had been killed there, and lets it end again."""
    for state in run.state.iterdir():
        if int(state.stem) > step:
            state.unlink()
    (config.output.output_dir / f"{config.output.output_name}.safetensors").unlink()
    return train(config, run)[2]
