"""Losses and gradients that are no numbers."""

import math
from collections.abc import Iterator

from loratory.runs.diagnosis.alarm import Told, spoken_pictures
from loratory.runs.diagnosis.seen import Seen
from loratory.runs.events import NotANumber, Started, Step


class Broken:
    """Tells once a row of broken steps; the event that names the layer is told apart, because it comes later."""

    def __init__(self) -> None:
        self._told = False

    def add(self, seen: Seen) -> Iterator[Told]:
        match seen.event:
            case Started():
                self._told = False
            case NotANumber(step=step, what=what, layer=layer, images=images):
                self._told = True
                where = f"first in {layer}" if layer else "in no single layer"
                yield Told(
                    "nan",
                    "error",
                    f"{what.rstrip('. ') or 'A value is no number'} at step {step}, {where}, with "
                    f"{spoken_pictures(images) or 'no pictures'}. Lower the learning rate, or train in bf16 instead "
                    "of fp16; if it is always the same picture, leave that out.",
                    tuple(dict.fromkeys(images)),
                    since=step - 1,
                )
            case Step() as step:
                names = ("loss", "gradient")
                broken = [n for n, v in zip(names, (step.loss, step.grad_norm), strict=True) if not math.isfinite(v)]
                if broken and not self._told:
                    images = tuple(dict.fromkeys(sample.image for sample in step.samples))
                    pictures = f" (pictures: {spoken_pictures(images)})" if images else ""
                    yield Told(
                        "nan",
                        "error",
                        f"The {' and the '.join(broken)} became no number at step {step.step}{pictures}. Lower the "
                        "learning rate, or train in bf16 instead of fp16.",
                        images,
                        since=step.step - 1,
                    )
                self._told = bool(broken)
            case _:
                pass
