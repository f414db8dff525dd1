"""Prompts drawn from the captions of a training set, so that a person sees what the set itself says."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from loratory.config.schema import Config
from loratory.dataset.captions import draw_caption, plain_caption
from loratory.dataset.scan import TrainImage
from loratory.randomness import stream
from loratory.sampling.prompts import Prompt, default_prompt


def prompts_from_captions(config: Config, images: Iterable[TrainImage], count: int) -> list[Prompt]:
    """At most `count` captions of `images` as prompts, by `caption_prompts`, with the defaults of `[sample]`."""
    defaults = default_prompt(config)
    return [replace(defaults, text=text) for text in caption_prompts(images, count, config.training.seed)]


def caption_prompts(images: Iterable[TrainImage], count: int, seed: int) -> list[str]:
    """At most `count` different captions of `images`, one line each, as a visit without dropout and shuffling reads it.

    The concepts take turns, in the order of their folders' names, so that each gets its share; which captions of a
    concept are taken is chosen by the seed, the folder's name and the names of its files alone. Regularization pictures
    and empty captions give none. The text is a prompt as it stands: a "--w" in it is no flag.
    """
    by_folder: defaultdict[str, list[TrainImage]] = defaultdict(list)
    for image in images:
        if not image.is_reg:
            by_folder[image.folder].append(image)
    waiting = [_shuffled(by_folder[folder], seed) for folder in sorted(by_folder)]
    chosen: dict[str, None] = {}
    while waiting and len(chosen) < count:
        waiting = [captions for captions in waiting if captions]
        for captions in waiting:
            text = next((text for text in _taken(captions) if text not in chosen), None)
            if text is not None and len(chosen) < count:
                chosen[text] = None
    return list(chosen)


def _shuffled(images: list[TrainImage], seed: int) -> list[str]:
    """The captions of one folder's pictures that are not empty, in an order of chance."""
    ordered = sorted(images, key=lambda image: image.path.name)
    stream(seed, "caption prompts", ordered[0].folder).shuffle(ordered)
    return [text for image in ordered if (text := _read(image, seed))]


def _taken(captions: list[str]) -> Iterator[str]:
    while captions:
        yield captions.pop(0)


def _read(image: TrainImage, seed: int) -> str:
    settings = image.treatment.caption
    text = draw_caption(
        image.caption,
        plain_caption(settings),
        seed=seed,
        epoch=1,
        visit=("caption prompt", image.folder, image.path.name),
        step=0,
        max_steps=1,
    )
    if settings.keep_tokens_separator:  # it goes where tags are shuffled
        text = re.sub(rf"\s*{re.escape(settings.keep_tokens_separator)}\s*", f"{settings.caption_separator} ", text)
    return " ".join(text.split())
