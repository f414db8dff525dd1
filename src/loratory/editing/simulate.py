"""What a caption becomes in training: shuffled, dropped and cut as the settings say, drawn epoch by epoch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratory.config.schema import CaptionSettings
from loratory.dataset.captions import draw_caption
from loratory.models.tokens import LightTokenizer, count_tokens, light_clip, overflow

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_NEWLINE = re.compile(r"\r\n|\r|\n")

# More steps than any warm-up takes.
_AFTER_WARMUP = 1 << 62


@dataclass(frozen=True)
class Draw:
    """The text that one epoch trains on.

    text: "" where the caption is dropped. tokens: of all of it, without begin and end. kept: the tags at its front
    that no epoch moves or drops, with which `text` begins; "" where nothing is moved or dropped at all. cut: the end
    that max_token_length leaves no room for; None when all of it fits.
    """

    text: str
    tokens: int
    kept: str
    cut: str | None


def simulate(
    caption: str,
    settings: CaptionSettings,
    *,
    draws: int = 10,
    seed: int = 0,
    visit: Sequence[int | str] = (0, 0),
    steps: Sequence[int] = (),
    max_steps: int = 0,
    tokenizer: "CLIPTokenizer | LightTokenizer | None" = None,
) -> list[Draw]:
    """The caption as epochs 1 to `draws` train it, drawn by the function that training draws with.

    caption: the text of a caption file. seed, visit: as in a run with that seed for that visit (index of the picture,
    repeat). steps: optimizer steps done before each draw, of max_steps in all; without them token warm-up counts as
    over. tokenizer: CLIP's without transformers where none is given.
    """
    source = light_clip() if tokenizer is None else tokenizer
    lines = [stripped for line in _NEWLINE.split(caption) if (stripped := line.strip())]  # as read_caption reads it
    whole = "\n".join(lines)
    moves = settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0
    # What is left when every tag that may be dropped is. Each kind of chance has a stream of its own, so a line or a
    # wildcard that is picked by chance comes out the same.
    front = "\n".join(_without_end(line, settings.keep_tokens_separator) for line in lines)
    front_alone = settings.model_copy(update={"caption_tag_dropout_rate": 1.0, "caption_suffix": ""})

    def drawn(text: str, with_settings: CaptionSettings, epoch: int) -> str:
        step = steps[epoch - 1] if steps else _AFTER_WARMUP
        return draw_caption(text, with_settings, seed=seed, epoch=epoch, visit=visit, step=step, max_steps=max_steps)

    def draw(epoch: int) -> Draw:
        text = drawn(whole, settings, epoch)
        kept = drawn(front, front_alone, epoch) if moves else ""
        weighted = settings.weighted_captions
        return Draw(
            text,
            count_tokens(source, text, weighted=weighted),
            # A wildcard around a fence can make the two differ: nothing is shown as kept then.
            kept if text.startswith(kept) else "",
            overflow(source, text, settings.max_token_length, weighted=weighted),
        )

    return [draw(epoch) for epoch in range(1, draws + 1)]


def _without_end(line: str, fence: str) -> str:
    """The line without the tags that a second fence keeps at its end."""
    return fence.join(line.split(fence)[:2]) if fence else line
