"""What a run will do, worked out before it starts: true steps, exposure, what is trained, what it needs on disk."""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from loratory.adapters.base_weights import refuse_unmergeable
from loratory.adapters.keys import Component
from loratory.adapters.network_weights import refuse_misfit, sizes_from_weights
from loratory.adapters.sizes import parameter_count
from loratory.adapters.targets import Target, find_targets
from loratory.config.lint import Advice, lint
from loratory.config.schema import Config
from loratory.dataset.buckets import Placement, place_image
from loratory.dataset.epochs import EpochOrder, FolderCount, RunLength, resolve_length
from loratory.dataset.scan import Dataset, TrainImage, refuse_errors, scan_dataset
from loratory.dataset.validation import split_validation
from loratory.models.detect import ModelInfo, detect_model
from loratory.models.load import meta_unet_and_text_encoders
from loratory.paths import cache_dir
from loratory.sampling.caption_prompts import prompts_from_captions
from loratory.sampling.prompts import Prompt, prompts_of
from loratory.sampling.samplers import refuse_samplers
from loratory.training.attention import refuse_missing_attention
from loratory.training.compilation import refuse_unknown_compiler
from loratory.training.facts import facts_of
from loratory.training.frozen import refuse_unsuited_storage
from loratory.training.optimizers import refuse_block_rates, refuse_wrong_arguments, state_tensors
from loratory.training.plan_checks import (
    disk_warnings,
    refuse_clip_skip,
    refuse_small_buckets,
    refuse_text_encoder_rates,
    truncated_captions,
)

PartName = Literal["unet", "text_encoder", "text_encoder_1", "text_encoder_2"]
_BYTES = {"fp16": 2, "bf16": 2, "float": 4}


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
    """Everything that is known of a run before its first step.

    images: those that are trained, regularization sets included; placements: one per image; held_back: those that
    measure the validation loss. processes: how many train together. warnings: what will not work as meant. advice: what
    the rules say about the settings.
    """

    config: Config
    info: ModelInfo
    dataset: Dataset
    images: tuple[TrainImage, ...]
    placements: tuple[Placement, ...]
    held_back: tuple[TrainImage, ...]
    held_back_placements: tuple[Placement, ...]
    order: EpochOrder
    length: RunLength
    targets: tuple[Target, ...]
    parts: tuple[Part, ...]
    prompts: tuple[Prompt, ...]
    processes: int
    saves: int
    save_bytes: int
    state_bytes: int
    warnings: tuple[str, ...]
    advice: tuple[Advice, ...] = ()

    @property
    def images_per_epoch(self) -> int:
        """Visits of an epoch, without those of regularization pictures."""
        return self.order.train_visits

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the first epoch; where regularization pictures take turns, others may have one more or less."""
        return self.order.batch_count(1)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch, see `batches_per_epoch`."""
        return self.length.epoch_ends[0]

    @property
    def has_reg(self) -> bool:
        """Whether there are regularization pictures."""
        return any(image.is_reg for image in self.images)

    @property
    def buckets(self) -> list[tuple[tuple[int, int], int]]:
        """(width, height) of each bucket and how many visits it gets in the first epoch."""
        visits = Counter(self.order.buckets[v.image] for batch in self.order.batches(1) for v in batch)
        return sorted(visits.items())

    @property
    def disk_needs(self) -> dict[Path, int]:
        """Folder -> the most bytes the run will have there at once: adapter files, states, latents."""
        output, dataset = self.config.output, self.config.dataset
        kept = self.saves
        if output.save_last_n_epochs and output.save_every_n_epochs and not output.save_every_n_steps:
            kept = min(kept, math.ceil(output.save_last_n_epochs / output.save_every_n_epochs) + 1)
        if output.save_last_n_steps and output.save_every_n_steps and not output.save_every_n_epochs:
            kept = min(kept, math.ceil(output.save_last_n_steps / output.save_every_n_steps) + 1)
        twice = 2 if self.config.training.ema_decay else 1
        needs = {
            output.output_dir: kept * twice * self.save_bytes,
            output.runs_dir: (output.state_keep + 1) * self.state_bytes,  # one more while it is written
        }
        if dataset.cache_latents_to_disk:
            # Mean and log-variance in float32, of both sides where pictures are mirrored.
            needs[cache_dir()] = sum(
                2 * 4 * 4 * (p.bucket[0] // 8) * (p.bucket[1] // 8) * (2 if image.treatment.flip_aug else 1)
                for image, p in zip(self.images, self.placements, strict=True)
                if not image.treatment.varies_pixels
            )
        return needs

    @property
    def disk_bytes(self) -> int:
        """The sum of `disk_needs`."""
        return sum(self.disk_needs.values())

    @property
    def trained(self) -> list[Part]:
        """The parts that have a network."""
        return [part for part in self.parts if part.modules]

    def validates_after(self, step: int) -> bool:
        """Whether the validation loss is measured after `step` steps."""
        training = self.config.training
        if not self.held_back or step == 0:
            return False
        if step == self.length.total_steps:
            return True
        if training.validate_every_n_steps and step % training.validate_every_n_steps == 0:
            return True
        every = training.validate_every_n_epochs or (0 if training.validate_every_n_steps else 1)
        return bool(every) and self.length.ends_epoch(step) and self.length.epoch_of(step) % every == 0


def make_plan(config: Config, processes: int = 1) -> Plan:
    """Reads the dataset and the model's header, counts, and refuses what cannot work (LoratoryError).

    processes: how many train together; each takes `train_batch_size` pictures of a batch.
    """
    dataset = scan_dataset(config.dataset, config.caption)
    refuse_errors(dataset)
    info = detect_model(config.model, config.noise)
    # A prompt that cannot be drawn is refused now, not after the last step.
    from_captions = prompts_from_captions(config, dataset.images, config.sample.prompts_from_captions or 0)
    prompts = (*prompts_of(config), *from_captions)
    refuse_samplers(prompts, info)
    training = config.training
    dtype = torch.float16 if training.full_fp16 else torch.bfloat16 if training.full_bf16 else torch.float32
    refuse_wrong_arguments(config.optimizer, dtype)
    seed = training.seed if config.dataset.validation_seed is None else config.dataset.validation_seed
    train, held_back = split_validation(dataset.folders, seed)
    placements = tuple(place_image(image.size, config.dataset) for image in train)
    held_back_placements = tuple(place_image(image.size, config.dataset) for image in held_back)
    refuse_small_buckets([*train, *held_back], [*placements, *held_back_placements])
    order = EpochOrder(
        buckets=tuple(placement.bucket for placement in placements),
        repeats=tuple(image.repeats for image in train),
        is_reg=tuple(image.is_reg for image in train),
        batch_size=training.train_batch_size * processes,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        seed=training.seed,
        kohya=config.compatibility == "kohya",
    )
    counts = Counter(image.path.parent for image in train)
    length = resolve_length(
        [FolderCount(folder.repeats, counts[folder.path]) for folder in dataset.folders if not folder.is_reg],
        order.steps,
        max_train_steps=training.max_train_steps,
        max_train_epochs=training.max_train_epochs,
        exposure=config.target_exposure,
    )

    unet, text_encoders = meta_unet_and_text_encoders(info)
    refuse_text_encoder_rates(config, len(text_encoders))
    refuse_block_rates(config.network, config.optimizer, info.family)
    refuse_unsuited_storage(config, unet)
    refuse_missing_attention(training.cross_attention)
    refuse_unknown_compiler(training)
    refuse_unmergeable(config.model.base_weights, unet, text_encoders, info.family)
    rates = config.text_encoder_rates(len(text_encoders))
    targets = find_targets(
        unet,
        text_encoders,
        info.family,
        config.network,
        train_unet=config.trains_unet,
        train_text_encoder=[rate > 0 for rate in rates],
        sizes=sizes_from_weights(config.network, info.family),
    )
    models = {"unet": unet, **{f"te{i}": encoder for i, encoder in enumerate(text_encoders, start=1)}}
    refuse_misfit(config.network, targets, models, info.family)
    parts = tuple(_parts(config, rates, targets, models))
    refuse_clip_skip(config, info, text_encoders)
    parameters = sum(part.parameters for part in parts)
    per_parameter = dtype.itemsize + 4 * (state_tensors(config.optimizer, dtype) + bool(training.ema_decay))
    plan = Plan(
        config=config,
        info=info,
        dataset=dataset,
        images=tuple(train),
        placements=placements,
        held_back=tuple(held_back),
        held_back_placements=held_back_placements,
        order=order,
        length=length,
        targets=tuple(targets),
        parts=parts,
        prompts=prompts,
        processes=processes,
        saves=_count_saves(config, length),
        save_bytes=parameters * _BYTES[config.output.save_precision],
        state_bytes=int(parameters * per_parameter),
        warnings=tuple(truncated_captions(config, info, train)),
    )
    return dataclasses.replace(
        plan,
        warnings=(*plan.warnings, *disk_warnings(plan.disk_needs)),
        advice=tuple(lint(config, facts_of(plan))),
    )


def identity_of(plan: Plan, model_identity: Mapping[str, str]) -> dict[str, str]:
    """What decides which step trains what, by the name a person knows it by: a resumed run must agree on all of it.

    Captions are left out on purpose: correcting one in the middle of a run is a good thing to do.
    """
    pictures = [
        (image.folder, image.path.name, image.size, _file_bytes(image), image.repeats, image.is_reg, tuple(placement))
        for image, placement in zip(plan.images, plan.placements, strict=True)
    ]
    training = plan.config.training
    weights = sorted((name, digest) for name, digest in model_identity.items() if name != "base_weights")
    return {
        "dataset.train_data_dir": hashlib.sha256(repr(pictures).encode()).hexdigest(),
        "model.pretrained_model_name_or_path": hashlib.sha256(repr(weights).encode()).hexdigest(),
        "model.base_weights": model_identity.get("base_weights", ""),
        "training.seed": str(training.seed),
        # In all processes together: how many share the work changes nothing that matters.
        "training.train_batch_size": str(plan.order.batch_size),
        "training.gradient_accumulation_steps": str(training.gradient_accumulation_steps),
        "the number of steps": f"{plan.steps_per_epoch} an epoch, {plan.length.total_steps} in all",
    }


def _file_bytes(image: TrainImage) -> tuple[int, int]:
    """The sizes of a picture's file and of its mask's: an edited one hardly keeps them, and to read all takes long."""
    mask = image.mask_path
    return image.path.stat().st_size, mask.stat().st_size if mask else 0


def _parts(
    config: Config, rates: tuple[float, ...], targets: list[Target], models: Mapping[str, nn.Module]
) -> list[Part]:
    """The UNet, and the text encoders: together, or each on its own where their rates differ."""
    split = len(set(rates)) > 1
    encoders: list[Component] = ["te1", "te2"]
    named: list[tuple[PartName, float, list[Component]]] = [("unet", config.optimizer.effective_unet_lr, ["unet"])]
    if split:
        named.append(("text_encoder_1", rates[0], encoders[:1]))
        named.append(("text_encoder_2", rates[1], encoders[1:]))
    else:
        named.append(("text_encoder", config.optimizer.effective_text_encoder_lr, encoders))
    parts: list[Part] = []
    for name, lr, components in named:
        mine = [target for target in targets if target.component in components]
        parameters = sum(
            parameter_count(models[target.component].get_submodule(target.path), target, config.network)
            for target in mine
        )
        parts.append(Part(name, lr, len(mine), parameters, tuple(dict.fromkeys(t.component for t in mine))))
    return parts


def _count_saves(config: Config, length: RunLength) -> int:
    """Adapter files of the whole run: those of epochs and steps before its end, and the final one."""
    output, last = config.output, length.total_steps
    every_epochs = output.save_every_n_epochs
    ends = length.epoch_ends[every_epochs - 1 :: every_epochs] if every_epochs else ()
    every_steps = output.save_every_n_steps or last
    return len({end for end in ends if end < last} | {*range(every_steps, last, every_steps)}) + 1
