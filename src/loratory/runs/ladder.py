"""What to change when memory runs out, from what costs least to what costs most. Pure."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loratory.config.fields import FIELDS
from loratory.config.schema import Config
from loratory.wording import typed

RESUMABLE = frozenset(
    {
        "dataset.cache_latents",
        "dataset.cache_latents_to_disk",
        "dataset.cache_text_encoder_outputs",
        "dataset.cache_text_encoder_outputs_to_disk",
        "dataset.max_data_loader_n_workers",
        "dataset.vae_batch_size",
        "training.blocks_to_swap",
        "training.cross_attention",
        "training.dynamo_backend",
        "training.fp8_base",
        "training.fp8_base_unet",
        "training.gradient_checkpointing",
        "training.int8_base",
        "training.torch_compile",
    }
)
"""What may change between two processes of a run: how it is computed, not what is trained in which step."""

# Blocks more each time, up to what every family has: the UNet of SD 1 and 2 has 38.
_SWAP_BY, _SWAP_AT_MOST = 12, 36
_LEAST_SIDE_PX = 256
_MOST_ACCUMULATION = 1024


@dataclass(frozen=True)
class Rung:
    """settings: new values by full name, as TOML has them. sentence: what they do, and what they cost."""

    settings: Mapping[str, Any]
    sentence: str

    def command(self, run: Path) -> str:
        """The command line that goes on with `run` in this way."""
        assignments = (shlex.quote(f"{key}={json.dumps(value)}") for key, value in self.settings.items())
        return f"loratory train --resume {typed(run)} " + " ".join(f"--set {each}" for each in assignments)


def ladder(config: Config, trained: bool) -> tuple[Rung, ...]:
    """What to change, first to last: only what is not in force yet and goes with the other settings.

    trained: whether a state of the run exists; then only what may change in the middle of one.
    """
    return tuple(
        rung
        for rung in _rungs(config)
        if not (trained and any(not may_change_on_resume(key) for key in rung.settings))
        and _is_valid(config, rung.settings)
    )


def may_change_on_resume(key: str) -> bool:
    """Whether a run that has trained already can go on with another value of the setting `key` ("table.key")."""
    return key in RESUMABLE


def changed_settings(before: Config, after: Config) -> dict[str, Any]:
    """The settings that differ, by full name, with their values in `after`."""
    pairs = ((name, value_of(before, name), value_of(after, name)) for name in FIELDS)
    return {name: new for name, old, new in pairs if old != new}


def value_of(config: Config, name: str) -> Any:
    """The value of the setting `name` ("table.key")."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _rungs(config: Config) -> Iterator[Rung]:
    training, dataset = config.training, config.dataset
    if not training.gradient_checkpointing:
        yield Rung({"training.gradient_checkpointing": True}, "much less memory, somewhat slower, the same result")
    if dataset.vae_batch_size > 1:
        yield Rung({"dataset.vae_batch_size": 1}, "encodes one picture at a time before the training")
    if not dataset.cache_latents and not dataset.color_aug and not dataset.random_crop:
        yield Rung({"dataset.cache_latents": True}, "encodes the pictures once, so that the VAE leaves the card")
    if not config.caches_text and not config.trains_text_encoder and not config.caption.varies:
        cached = {"dataset.cache_text_encoder_outputs": True}
        yield Rung(cached, "encodes the captions once, so that the text encoders leave the card")
    if training.cross_attention == "none":
        yield Rung({"training.cross_attention": "sdpa"}, "attention that keeps no table of all pairs; faster, too")
    batches = training.train_batch_size * training.gradient_accumulation_steps
    if training.train_batch_size > 1 and batches <= _MOST_ACCUMULATION:
        yield Rung(
            {"training.train_batch_size": 1, "training.gradient_accumulation_steps": batches},
            "as many pictures a step, one after the other: slower",
        )
    if config.network.reads_base is None:
        compiled = {"training.torch_compile": False} if training.torch_compile else {}
        if not (training.int8_base or training.fp8_base or training.fp8_base_unet):
            yield Rung(compiled | {"training.int8_base": True}, "half the memory for the base model, a little coarser")
        if training.blocks_to_swap < _SWAP_AT_MOST:
            swapped = min(training.blocks_to_swap + _SWAP_BY, _SWAP_AT_MOST)
            sentence = f"keeps {swapped} blocks of the UNet in main memory: slower steps, the same result"
            yield Rung(compiled | {"training.blocks_to_swap": swapped}, sentence)
    width, height = (side * 3 // 4 // 64 * 64 for side in dataset.resolution_wh)
    if min(width, height) >= _LEAST_SIDE_PX:
        smaller: dict[str, Any] = {"dataset.resolution": width if width == height else [width, height]}
        if dataset.enable_bucket and dataset.min_bucket_reso > min(width, height):
            smaller["dataset.min_bucket_reso"] = min(width, height)
        yield Rung(smaller, "smaller pictures: much less memory and faster, but fine detail is lost")
    if config.trains_text_encoder and config.trains_unet:
        yield Rung(
            {"network.network_train_unet_only": True}, "trains no text encoder: the trigger is learned less well"
        )


def _is_valid(config: Config, settings: Mapping[str, Any]) -> bool:
    document = config.model_dump(mode="json", exclude_none=True)
    for name, value in settings.items():
        table, _, key = name.rpartition(".")
        document[table][key] = value
    try:
        Config.model_validate(document)
    except ValidationError:
        return False
    return True
