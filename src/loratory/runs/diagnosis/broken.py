"""Losses and gradients that are no numbers."""

import math
from collections.abc import Iterator

from loratory.dataset.findings import shown
from loratory.runs.diagnosis.alarm import Told, spoken_pictures
from loratory.runs.diagnosis.seen import Seen
from loratory.runs.events import NotANumber, Started, Step

# In fp16 a gradient may overflow: such a step is left out and the next ones are scaled down. It does not take many.
_OVERFLOWS = 5
_ADVICE = "Lower the learning rate, or train in bf16 instead of fp16"


class Broken:
    """Tells once a row of broken steps, and the event that names the layer, which comes after its step."""

    def __init__(self) -> None:
        self._overflows = 0
        self._told = False

    def add(self, seen: Seen) -> Iterator[Told]:
        match seen.event:
            case Started():
                self.__init__()
            case NotANumber() as broken:
                self._told = True
                where = f", first in {shown(broken.layer)}" if broken.layer else ""
                yield Told(
                    "nan",
                    "error",
                    f"{shown(broken.what.strip().rstrip('.')) or 'A value is no number'} at step {broken.step}{where}"
                    f"{_pictures(broken.images)}. {_ADVICE}; if it is always the same picture, leave that out.",
                    tuple(dict.fromkeys(broken.images)),
                    since=broken.step - 1,
                )
            case Step() as step:
                yield from self._judge(step)
            case _:
                pass

    def _judge(self, step: Step) -> Iterator[Told]:
        self._overflows = 0 if math.isfinite(step.grad_norm) else self._overflows + 1
        if math.isfinite(step.loss) and self._overflows < _OVERFLOWS:
            self._told = self._told and self._overflows > 0
            return
        if self._told:
            return
        self._told = True
        if math.isfinite(step.loss):
            what, began = (
                f"The gradient was no number for {_OVERFLOWS} steps in a row, the last",
                step.step - _OVERFLOWS,
            )
        else:
            what, began = "The loss became no number", step.step - 1
        images = [sample.image for sample in step.samples]
        sentence = f"{what} at step {step.step}{_pictures(images)}. {_ADVICE}."
        yield Told("nan", "error", sentence, tuple(dict.fromkeys(images)), since=began)


def _pictures(images: list[str]) -> str:
    return f" (pictures: {spoken_pictures(images)})" if images else ""
