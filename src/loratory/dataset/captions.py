"""Caption files as text, and the caption that one visit of a picture trains on."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loratory.config.schema import CaptionSettings
from loratory.randomness import stream
from loratory.tags.text import decode

CaptionProblem = Literal["empty", "encoding", "nul"]

# Stand-ins for {{ and }} while wildcards are resolved. A caption cannot hold them: NUL is refused when it is
# read.
_OPEN, _CLOSE = "\0(", "\0)"
_WILDCARD = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class CaptionFile:
    """A caption file as read.

    text: its lines without blank ones and without white space around each, joined by newlines. encoding: the
    one it was decoded with. problem: "empty" (no text), "encoding" (not UTF-8, so other trainers stop at it
    or misread it), "nul" (NUL bytes: not a text file).
    """

    text: str
    encoding: str
    problem: CaptionProblem | None


def read_caption(path: Path) -> CaptionFile:
    """Reads a caption file of any usual encoding; the file is never changed.

    UTF-8 with or without byte-order mark, UTF-16 with one, otherwise cp1252, otherwise latin-1 (which takes
    any byte). Raises OSError as the disk does.
    """
    caption = decode(path.read_bytes())
    encoding = "utf-8" if caption.is_utf8 else caption.encoding.removesuffix("-le").removesuffix("-be")
    lines = caption.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    text = "\n".join(stripped for line in lines if (stripped := line.strip()))
    problem: CaptionProblem | None = None
    if "\0" in text:
        problem = "nul"
    elif not text:
        problem = "empty"
    elif encoding != "utf-8":
        problem = "encoding"
    return CaptionFile(text, encoding, problem)


def draw_caption(
    caption: str,
    settings: CaptionSettings,
    *,
    seed: int,
    epoch: int,
    visit: Sequence[int | str],
    step: int,
    max_steps: int,
) -> str:
    """The text that one visit of a picture trains on, in the order of sd-scripts' process_caption.

    epoch: from 1. visit: whatever tells this visit from the others of the epoch (picture, repeat). step:
    optimizer steps done before this one; it and max_steps matter to the token warm-up alone. The same
    counters give the same text. Each kind of chance has a stream of its own, so that switching one on leaves
    the others as they were. With nothing switched on the (first line of the) caption comes back untouched.

    One deliberate difference: the line is chosen before prefix and suffix are added, so every line gets both;
    sd-scripts puts the prefix on the first line only and the suffix on the last.
    """

    def chance(purpose: str):
        return stream(seed, f"caption {purpose}", epoch, *visit)

    if "\n" in caption:
        lines = caption.split("\n")
        caption = chance("line").choice(lines) if settings.enable_wildcard else lines[0]
    if settings.caption_prefix:
        caption = f"{settings.caption_prefix} {caption}"
    if settings.caption_suffix:
        caption = f"{caption} {settings.caption_suffix}"

    every = settings.caption_dropout_every_n_epochs
    if every and epoch % every == 0:
        return ""
    if settings.caption_dropout_rate > 0 and chance("dropout").random() < settings.caption_dropout_rate:
        return ""

    if settings.enable_wildcard:
        pick = chance("wildcard")
        caption = caption.replace("{{", _OPEN).replace("}}", _CLOSE)
        caption = _WILDCARD.sub(lambda found: pick.choice(found[1].split("|")), caption)
        caption = caption.replace(_OPEN, "{").replace(_CLOSE, "}")

    if settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0:
        front, flexible, back = _split(caption, settings)
        flexible = flexible[: _warm_tags(len(flexible), settings, step, max_steps)]
        order = list(range(len(flexible)))
        if settings.shuffle_caption:
            chance("shuffle").shuffle(order)
        if settings.caption_tag_dropout_rate > 0:
            # One draw per tag in the order written: which tags stay does not depend on the shuffle.
            drop = chance("tag dropout")
            kept = {index for index in range(len(flexible)) if drop.random() >= settings.caption_tag_dropout_rate}
            order = [index for index in order if index in kept]
        caption = ", ".join((*front, *(flexible[index] for index in order), *back))

    if settings.secondary_separator:
        caption = caption.replace(settings.secondary_separator, settings.caption_separator)
    return caption


def plain_caption(settings: CaptionSettings) -> CaptionSettings:
    """The same settings without what hides or moves tags: for pictures that measure rather than train.

    Wildcards stay, since their braces are no text to read; they are drawn by the counters as always.
    """
    return settings.model_copy(
        update={
            "shuffle_caption": False,
            "caption_dropout_rate": 0.0,
            "caption_dropout_every_n_epochs": 0,
            "caption_tag_dropout_rate": 0.0,
            "token_warmup_step": 0.0,
        }
    )


def _split(caption: str, settings: CaptionSettings) -> tuple[list[str], list[str], list[str]]:
    """(kept in front, flexible, kept at the end) tags, stripped.

    With `keep_tokens_separator` in the caption: `front ||| flexible ||| end`, empty tags dropped. Otherwise
    the first `keep_tokens` tags are the front, and empty tags stay, as in sd-scripts.
    """
    comma, fence = settings.caption_separator, settings.keep_tokens_separator
    if fence and fence in caption:
        front, _, rest = caption.partition(fence)
        flexible, _, back = rest.partition(fence)
        front, flexible, back = (
            [tag for part in text.split(comma) if (tag := part.strip())] for text in (front, flexible, back)
        )
        return front, flexible, back
    tags = [tag.strip() for tag in caption.strip().split(comma)]
    return tags[: settings.keep_tokens], tags[settings.keep_tokens :], []


def _warm_tags(count: int, settings: CaptionSettings, step: int, max_steps: int) -> int:
    """How many of `count` flexible tags are in use at `step`: from token_warmup_min, rising evenly to all."""
    warmup = settings.token_warmup_step
    if warmup < 1:
        warmup = math.floor(warmup * max_steps)
    if step >= warmup:
        return count
    low = settings.token_warmup_min
    return math.floor(step * ((count - low) / warmup)) + low
