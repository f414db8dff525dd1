"""What a run will do, worked out before it starts: true steps, exposure, what is trained, what it needs on disk."""

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from loratory.adapters.keys import Component
from loratory.adapters.targets import Target, find_targets
from loratory.config.schema import Config, SettingsTable, changed
from loratory.config.unbuilt import refuse_unbuilt
from loratory.dataset.buckets import Placement, place_image
from loratory.dataset.captions import draw_caption
from loratory.dataset.epochs import (
    FolderCount,
    RunLength,
    batches_per_epoch,
    resolve_length,
    steps_per_epoch,
    visits_by_bucket,
)
from loratory.dataset.scan import Dataset, TrainImage, refuse_errors, scan_dataset
from loratory.errors import LoratoryError
from loratory.models.components import load_tokenizers
from loratory.models.detect import ModelInfo, detect_model
from loratory.models.load import meta_unet_and_text_encoders
from loratory.models.tokens import overflow
from loratory.paths import cache_dir
from loratory.sampling.preview import Prompt, prompts_of
from loratory.training.optimizers import refuse_wrong_arguments
from loratory.training.schedule import lr_multiplier

PartName = Literal["unet", "text_encoder"]
_BYTES = {"fp16": 2, "bf16": 2, "float": 4}
# Tensors an optimizer keeps per parameter, beside the parameter itself, all float32.
_OPTIMIZER_TENSORS = {"adamw": 2, "prodigy": 4}


@dataclass(frozen=True)
class Part:
    """The UNet or the text encoders, trained or not: their rate, and the modules and parameters of their network."""

    name: PartName
    lr: float
    modules: int
    parameters: int
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run before its first step. placements: one per image, in the dataset's order."""

    config: Config
    info: ModelInfo
    dataset: Dataset
    images: tuple[TrainImage, ...]
    placements: tuple[Placement, ...]
    length: RunLength
    batches_per_epoch: int
    steps_per_epoch: int
    targets: tuple[Target, ...]
    parts: tuple[Part, ...]
    prompts: tuple[Prompt, ...]
    saves: int
    save_bytes: int
    state_bytes: int
    warnings: tuple[str, ...]

    @property
    def images_per_epoch(self) -> int:
        return sum(image.repeats for image in self.images)

    @property
    def buckets(self) -> list[tuple[tuple[int, int], int]]:
        """(width, height) of each bucket and how many visits an epoch it gets."""
        return list(_visits(self.images, self.placements).items())

    @property
    def disk_needs(self) -> dict[Path, int]:
        """Folder -> the most bytes the run will have there at once: adapter files, states, latents."""
        output, dataset = self.config.output, self.config.dataset
        kept = self.saves
        if output.save_last_n_epochs and output.save_every_n_epochs and not output.save_every_n_steps:
            kept = min(kept, math.ceil(output.save_last_n_epochs / output.save_every_n_epochs) + 1)
        if output.save_last_n_steps and output.save_every_n_steps and not output.save_every_n_epochs:
            kept = min(kept, math.ceil(output.save_last_n_steps / output.save_every_n_steps) + 1)
        needs = {
            output.output_dir: kept * self.save_bytes,
            output.runs_dir: (output.state_keep + 1) * self.state_bytes,  # one more while it is written
        }
        if dataset.cache_latents_to_disk:
            sides = 2 if dataset.flip_aug else 1
            values = sum(4 * (w // 8) * (h // 8) for w, h in (p.bucket for p in self.placements))
            needs[cache_dir()] = 2 * 4 * values * sides  # mean and log-variance in float32
        return needs

    @property
    def disk_bytes(self) -> int:
        """The sum of `disk_needs`."""
        return sum(self.disk_needs.values())

    @property
    def trained(self) -> list[Part]:
        """The parts that have a network."""
        return [part for part in self.parts if part.modules]


def make_plan(config: Config) -> Plan:
    """Reads the dataset and the model's header, counts, and refuses what cannot work (LoratoryError)."""
    refuse_unbuilt(config)
    dataset = scan_dataset(config.dataset, config.caption)
    refuse_errors(dataset)
    info = detect_model(config.model, config.noise)
    prompts = tuple(prompts_of(config))  # one that cannot be drawn is refused now, not after the last step
    refuse_wrong_arguments(config.optimizer)
    images = tuple(image for image in dataset.images if not image.is_reg)
    placements = tuple(place_image(image.size, config.dataset) for image in images)
    _refuse_small_buckets(images, placements)

    training = config.training
    visits = _visits(images, placements)
    steps = steps_per_epoch(visits, training.train_batch_size, training.gradient_accumulation_steps)
    length = resolve_length(
        [FolderCount(folder.repeats, len(folder.images)) for folder in dataset.folders if not folder.is_reg],
        steps,
        max_train_steps=training.max_train_steps,
        max_train_epochs=training.max_train_epochs,
        exposure=config.target_exposure,
    )

    unet, text_encoders = meta_unet_and_text_encoders(info)
    targets = find_targets(
        unet,
        text_encoders,
        info.family,
        config.network,
        train_unet=config.trains_unet,
        train_text_encoder=config.trains_text_encoder,
    )
    models = {"unet": unet, **{f"te{i}": encoder for i, encoder in enumerate(text_encoders, start=1)}}
    rates: dict[PartName, float] = {
        "unet": config.optimizer.effective_unet_lr,
        "text_encoder": config.optimizer.effective_text_encoder_lr,
    }
    parts = tuple(_part(name, lr, targets, models, config) for name, lr in rates.items())
    _refuse_clip_skip(config, info, text_encoders)
    parameters = sum(part.parameters for part in parts)
    saves = _count_saves(config, length, steps)
    optimizer_tensors = _OPTIMIZER_TENSORS[config.optimizer.optimizer_type.lower()]
    plan = Plan(
        config=config,
        info=info,
        dataset=dataset,
        images=images,
        placements=placements,
        length=length,
        batches_per_epoch=batches_per_epoch(visits, training.train_batch_size),
        steps_per_epoch=steps,
        targets=tuple(targets),
        parts=parts,
        prompts=prompts,
        saves=saves,
        save_bytes=parameters * _BYTES[config.output.save_precision],
        state_bytes=parameters * 4 * (1 + optimizer_tensors),
        warnings=(*_truncated_captions(config, info, images), *_setting_warnings(config, info, length)),
    )
    return dataclasses.replace(plan, warnings=(*plan.warnings, *_disk_warnings(plan)))


def identity_of(plan: Plan, model_identity: Mapping[str, str]) -> dict[str, str]:
    """What decides which step trains what, by the name a person knows it by: a resumed run must agree on all of it.

    Captions are left out on purpose: correcting one in the middle of a run is a good thing to do.
    """
    pictures = [
        (image.folder, image.path.name, image.size, image.repeats, tuple(placement))
        for image, placement in zip(plan.images, plan.placements, strict=True)
    ]
    training, weights = plan.config.training, sorted(model_identity.items())
    return {
        "dataset.train_data_dir": hashlib.sha256(repr(pictures).encode()).hexdigest(),
        "model.pretrained_model_name_or_path": hashlib.sha256(repr(weights).encode()).hexdigest(),
        "training.seed": str(training.seed),
        "training.train_batch_size": str(training.train_batch_size),
        "training.gradient_accumulation_steps": str(training.gradient_accumulation_steps),
        "the number of steps": f"{plan.steps_per_epoch} an epoch, {plan.length.total_steps} in all",
    }


def _part(name: PartName, lr: float, targets: list[Target], models: Mapping[str, nn.Module], config: Config) -> Part:
    mine = [target for target in targets if (target.component == "unet") == (name == "unet")]
    parameters = 0
    for target in mine:
        weight = models[target.component].get_parameter(f"{target.path}.weight")
        outputs, inputs, *kernel = weight.shape
        parameters += target.rank * (inputs * math.prod(kernel) + outputs)
        if config.network.network_type == "dora":
            parameters += outputs
    return Part(name, lr, len(mine), parameters, tuple(dict.fromkeys(target.component for target in mine)))


def _visits(images: tuple[TrainImage, ...], placements: tuple[Placement, ...]) -> dict[tuple[int, int], int]:
    return visits_by_bucket((p.bucket for p in placements), (image.repeats for image in images))


def _count_saves(config: Config, length: RunLength, steps_per_epoch: int) -> int:
    """Adapter files of the whole run: those of epochs and steps before its end, and the final one."""
    output, last = config.output, length.total_steps
    epochs = steps_per_epoch * output.save_every_n_epochs if output.save_every_n_epochs else last
    steps = output.save_every_n_steps or last
    return len({*range(epochs, last, epochs), *range(steps, last, steps)}) + 1


def _refuse_small_buckets(images: tuple[TrainImage, ...], placements: tuple[Placement, ...]) -> None:
    # The UNet halves the latents three times; below 64 px nothing is left to halve.
    tiny = [
        i.path.name
        for i, p in zip(images, placements, strict=True)
        if min(p.bucket) < 64 or any(s % 8 for s in p.bucket)
    ]
    if tiny:
        raise LoratoryError(
            f"{len(tiny)} pictures would be trained in a bucket the model cannot take (sides from 64 px up, "
            f"multiples of 8): {', '.join(tiny[:5])}{' …' if len(tiny) > 5 else ''}.",
            hint="Upscale them, or set dataset.bucket_no_upscale = false.",
        )


def _truncated_captions(config: Config, info: ModelInfo, images: tuple[TrainImage, ...]) -> list[str]:
    """A sentence naming the pictures whose caption is longer than the text encoder reads, with what is cut."""
    caption, tokenizers = config.caption, load_tokenizers(info)
    cut: list[tuple[TrainImage, str]] = []
    for index, image in enumerate(images):
        drawn = draw_caption(
            image.caption, caption, seed=config.training.seed, epoch=1, visit=(index, 0), step=0, max_steps=1
        )
        if tail := overflow(tokenizers[0], drawn, caption.max_token_length):
            cut.append((image, tail))
    if not cut:
        return []
    named = "; ".join(f"{image.folder}/{image.path.name} loses “{tail[:60]}”" for image, tail in cut[:5])
    more = f"; and {len(cut) - 5} more" if len(cut) > 5 else ""
    return [
        f"{len(cut)} captions are longer than {caption.max_token_length} tokens and are cut: {named}{more}. "
        "Shorten them, or set caption.max_token_length to 150 or 225."
    ]


def _refuse_clip_skip(config: Config, info: ModelInfo, text_encoders: Sequence[nn.Module]) -> None:
    layers: int = text_encoders[0].config.num_hidden_layers  # pyright: ignore
    if info.family != "sdxl" and (config.model.clip_skip or 1) > layers:
        raise LoratoryError(f"model.clip_skip = {config.model.clip_skip}: the text encoder has {layers} layers only.")


def _disk_warnings(plan: Plan) -> list[str]:
    """Says where a disk has less room than the run may take."""
    needs: dict[int, tuple[Path, int]] = {}
    for needed, count in plan.disk_needs.items():
        folder = next(path for path in (needed, *needed.parents) if path.exists())
        device = folder.stat().st_dev
        needs[device] = (folder, count + needs.get(device, (folder, 0))[1])
    free = {folder: (count, shutil.disk_usage(folder).free) for folder, count in needs.values()}
    return [
        f"The run may write {count / 1e6:,.0f} MB to the disk of {folder}, which has {left / 1e6:,.0f} MB left. "
        "Make room, save less often, or set output.save_last_n_epochs."
        for folder, (count, left) in free.items()
        if left < count
    ]


def _setting_warnings(config: Config, info: ModelInfo, length: RunLength) -> list[str]:
    warnings: list[str] = []
    if info.family == "sdxl" and config.model.clip_skip:
        warnings.append("model.clip_skip does nothing with SDXL, which always reads the layer before the last.")
    caption, dataset, output = config.caption, config.dataset, config.output
    tags_stay = not (caption.shuffle_caption or caption.caption_tag_dropout_rate or caption.token_warmup_step)
    if tags_stay:
        why = "tags are neither shuffled nor dropped"
        warnings += _idle(caption, "caption", ("keep_tokens", "keep_tokens_separator", "secondary_separator"), why)
    if not dataset.enable_bucket:
        keys = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
        warnings += _idle(dataset, "dataset", keys, "dataset.enable_bucket is false")
    if not dataset.cache_latents:
        warnings += _idle(dataset, "dataset", ("vae_batch_size",), "dataset.cache_latents is false")
    if output.no_metadata:
        keys = tuple(key for key in type(output).model_fields if key.startswith("metadata_"))
        warnings += _idle(output, "output", (*keys, "training_comment"), "output.no_metadata is true")
    warmup = config.optimizer.warmup_steps(length.total_steps)
    if warmup >= length.total_steps:
        warnings.append(
            f"The warm-up of {warmup} steps is as long as the run: the learning rate never reaches its value."
        )
    if lr_multiplier(config.optimizer, 0, length.total_steps) == 0.0 and length.total_steps == 1:
        warnings.append("The only step of this run has a learning rate of 0: nothing will be learned.")
    return warnings


def _idle(settings: SettingsTable, table: str, keys: Sequence[str], why: str) -> list[str]:
    return [f"{table}.{key} does nothing: {why}." for key in keys if changed(settings, key)]
