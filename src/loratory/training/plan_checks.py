"""What cannot work, or will not work as meant, found before a run starts."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from loratory.config.schema import Config
from loratory.dataset.buckets import Placement
from loratory.dataset.captions import draw_caption
from loratory.dataset.scan import TrainImage
from loratory.errors import LoratoryError
from loratory.models.components import load_tokenizers
from loratory.models.detect import ModelInfo
from loratory.models.tokens import overflow


def refuse_small_buckets(images: Sequence[TrainImage], placements: Sequence[Placement]) -> None:
    """Raises LoratoryError for pictures in buckets that the UNet cannot take."""
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


def truncated_captions(config: Config, info: ModelInfo, images: Sequence[TrainImage]) -> list[str]:
    """A sentence naming the pictures whose caption is longer than the text encoder reads, with what is cut."""
    caption, tokenizers = config.caption, load_tokenizers(info)
    cut: list[tuple[TrainImage, str]] = []
    for index, image in enumerate(images):
        drawn = draw_caption(
            image.caption,
            image.treatment.caption,
            seed=config.training.seed,
            epoch=1,
            visit=(index, 0),
            step=0,
            max_steps=1,
        )
        if tail := overflow(tokenizers[0], drawn, caption.max_token_length, weighted=caption.weighted_captions):
            cut.append((image, tail))
    if not cut:
        return []
    named = "; ".join(f"{image.folder}/{image.path.name} loses “{tail[:60]}”" for image, tail in cut[:5])
    more = f"; and {len(cut) - 5} more" if len(cut) > 5 else ""
    return [
        f"{len(cut)} captions are longer than {caption.max_token_length} tokens and are cut: {named}{more}. "
        "Shorten them, or set caption.max_token_length to 150 or 225."
    ]


def refuse_clip_skip(config: Config, info: ModelInfo, text_encoders: Sequence[nn.Module]) -> None:
    """Raises LoratoryError for a layer that the text encoder does not have."""
    layers: int = text_encoders[0].config.num_hidden_layers  # pyright: ignore[reportAssignmentType, reportAttributeAccessIssue] - untyped on Module
    if info.family != "sdxl" and (config.model.clip_skip or 1) > layers:
        raise LoratoryError(f"model.clip_skip = {config.model.clip_skip}: the text encoder has {layers} layers only.")


def refuse_text_encoder_rates(config: Config, encoders: int) -> None:
    """Raises LoratoryError for more learning rates than there are text encoders."""
    rates = config.optimizer.text_encoder_lr
    if isinstance(rates, tuple) and len(rates) not in (1, encoders):
        which = "one text encoder" if encoders == 1 else f"{encoders} text encoders"
        raise LoratoryError(f"optimizer.text_encoder_lr has {len(rates)} rates; this base model has {which}.")


def disk_warnings(disk_needs: Mapping[Path, int]) -> list[str]:
    """Says where a disk has less room than the run may take (folder -> bytes)."""
    needs: dict[int, tuple[Path, int]] = {}
    for needed, count in disk_needs.items():
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
