"""How a picture with the adapter looks beside the base model's of the same prompt and seed, in figures and in words.

They are hints: they tell of strong colours and of how far a picture is from the base model's, not whether it is good.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# Nearer than this to the base model's picture, a person sees hardly a difference.
_SAME_DISTANCE = 0.03
# Networks that were trained too long, or are used too strongly, show it in colours first: more of them, and pixels at
# the end of the scale.
_MUCH_COLOUR = 1.4
_LITTLE_COLOUR = 0.6
_BURNT_SHARE = 0.1
# A pixel with all channels so near one end is white or black, as many backgrounds are, and not burnt.
_PLAIN_LEVELS = 24
# Below this there is next to no colour, and a ratio says nothing.
_LEAST_CHROMA = 0.02


@dataclass(frozen=True)
class Look:
    """A picture beside the base model's.

    distance: root mean square difference of their pixels, 0 to 1. chroma: mean over the pixels of the largest channel
    less the smallest, 0 to 1. clipped: share of the pixels, but white and black ones, with a channel at the end of its
    range. Both also of the base model's picture.
    """

    distance: float
    chroma: float
    base_chroma: float
    clipped: float
    base_clipped: float

    @property
    def colour(self) -> float:
        """How many times as colourful as the base model's picture; 1 where that has hardly any colour."""
        return self.chroma / self.base_chroma if self.base_chroma >= _LEAST_CHROMA else 1.0


def look_at(picture: Image.Image, base: Image.Image) -> Look:
    """Compares two RGB pictures of the same size."""
    ours, theirs = (np.asarray(image, dtype=np.float32) for image in (picture, base))
    return Look(
        distance=float(np.sqrt(np.mean((ours - theirs) ** 2)) / 255),
        chroma=_chroma(ours),
        base_chroma=_chroma(theirs),
        clipped=_clipped(ours),
        base_clipped=_clipped(theirs),
    )


def _chroma(pixels: "np.ndarray[Any, Any]") -> float:
    return float(np.mean(pixels.max(axis=2) - pixels.min(axis=2)) / 255)


def _clipped(pixels: "np.ndarray[Any, Any]") -> float:
    at_end = ((pixels <= 0) | (pixels >= 255)).any(axis=2)
    is_plain = (pixels.min(axis=2) >= 255 - _PLAIN_LEVELS) | (pixels.max(axis=2) <= _PLAIN_LEVELS)
    return float(np.mean(at_end & ~is_plain))


def remark(look: Look) -> str:
    """A few words for what stands out, "" for nothing."""
    words: list[str] = []
    if look.distance < _SAME_DISTANCE:
        words.append("as the base")
    if _is_burnt(look):
        words.append("burnt")
    if _is_loud(look):
        words.append("strong colours")
    if look.colour < _LITTLE_COLOUR:
        words.append("pale")
    return ", ".join(words)


def conclusions(rows: Sequence[tuple[str, float, Sequence[Look]]]) -> list[str]:
    """Sentences on what the looks have in common. rows: label and strength of an adapter, and its looks by prompt."""
    sentences: list[str] = []
    strongest = min((strength for _, strength, _ in rows), key=lambda strength: abs(strength - 1), default=1.0)
    at_one = [(label, looks) for label, strength, looks in rows if strength == strongest]
    same = [label for label, looks in at_one if all(look.distance < _SAME_DISTANCE for look in looks)]
    if same:
        sentences.append(
            f"Hardly other than the base model at strength {strongest:g}: {', '.join(same)}. Too little was learned by "
            "then, or the prompts do not name what was trained."
        )
    too_far = [label for label, looks in at_one if _most(map(_is_burnt, looks)) or _most(map(_is_loud, looks))]
    if too_far:
        sentences.append(
            f"Colours stronger or burnt beside the base model at strength {strongest:g}: {', '.join(too_far)}. That is "
            "how overtraining begins to look; it may also be what the training pictures are like."
        )
    return sentences


def _is_burnt(look: Look) -> bool:
    return look.clipped - look.base_clipped > _BURNT_SHARE


def _is_loud(look: Look) -> bool:
    return look.colour > _MUCH_COLOUR


def _most(holding: Iterable[bool]) -> bool:
    held = list(holding)
    return sum(held) * 2 > len(held)
