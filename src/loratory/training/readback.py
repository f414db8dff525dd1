"""Reading a step's numbers one step late.

To read a number from a GPU is to wait for all the work before it. The numbers of a step are therefore copied while the
next step is already queued, and recorded then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from loratory.errors import FAILED, LoratoryError
from loratory.runs.events import NotANumber, Phase, SampleLoss, Step, Weights
from loratory.runs.recorder import Recorder

# In float16 a step may overflow; the gradient scaler leaves it out and lowers its scale. It does not take many.
SKIPPED_STEPS_ALLOWED = 10


@dataclass(frozen=True)
class Numbers:
    """Values on their way from the device."""

    values: torch.Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def fetch(cls, values: torch.Tensor) -> "Numbers":
        """Starts copying `values` to the CPU; waiting for this copy does not wait for work queued after it."""
        if values.device.type != "cuda":
            return cls(values.cpu(), None)
        landing = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        landing.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)
        arrived.record()
        return cls(landing, arrived)

    def read(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


@dataclass(frozen=True)
class PendingWeights:
    """How far the parts have come, not read yet: the norm of each, in the order of `parts`."""

    parts: Sequence[str]
    norms: Numbers


@dataclass(frozen=True)
class PendingStep:
    """A step whose numbers (loss, gradient norm, then the loss of each sample) have not been read yet.

    step_sizes: the d of each part of lr, where an optimizer finds it on the device; effective_lr is empty then.
    weights: after this step, where they were measured.
    """

    numbers: Numbers
    step: int
    epoch: int
    images: list[str]
    timesteps: list[int]
    lr: dict[str, float]
    effective_lr: dict[str, float]
    step_sizes: Numbers | None
    step_s: float
    data_s: float
    keys_scaled: int | None
    mean_weight_norm: float | None
    max_weight_norm: float | None
    weights: PendingWeights | None


@dataclass
class StepLog:
    """Records steps, the newest one when the next has come or `settle` is called.

    scaled: whether a gradient scaler leaves out steps that overflow. A loss or gradient that is not a number ends the
    run otherwise, before anything of it is saved: what follows is worthless. first_layer: finds the layer that gave no
    number in a step, once one has ended the run.
    """

    recorder: Recorder
    scaled: bool
    first_layer: Callable[[int], str]
    _pending: PendingStep | None = None
    _skipped: int = 0

    def push(self, step: PendingStep) -> None:
        """Takes a step whose work has just been queued and records the one before it."""
        self.settle()
        self._pending = step

    def settle(self) -> None:
        """Waits for the newest step and records it. Raises LoratoryError when it went wrong."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        loss, grad_norm, *sample_losses = pending.numbers.read()
        effective = pending.effective_lr
        if pending.step_sizes is not None:
            sizes = pending.step_sizes.read()
            effective = {name: lr * d for (name, lr), d in zip(pending.lr.items(), sizes, strict=True)}
        self.recorder.write(
            Step(
                step=pending.step,
                epoch=pending.epoch,
                loss=loss,
                lr=pending.lr,
                effective_lr=effective,
                grad_norm=grad_norm,
                step_s=pending.step_s,
                data_s=pending.data_s,
                samples=[
                    SampleLoss(image, timestep, value)
                    for image, timestep, value in zip(pending.images, pending.timesteps, sample_losses, strict=True)
                ],
                keys_scaled=pending.keys_scaled,
                mean_weight_norm=pending.mean_weight_norm,
                max_weight_norm=pending.max_weight_norm,
            )
        )
        is_broken = loss - loss != 0.0 or grad_norm - grad_norm != 0.0  # NaN or infinite
        if not is_broken:
            self._skipped = 0
            if pending.weights is not None:
                norms = dict(zip(pending.weights.parts, pending.weights.norms.read(), strict=True))
                self.recorder.write(Weights(pending.step, norms))
            return
        self._skipped += 1
        if not self.scaled or self._skipped >= SKIPPED_STEPS_ALLOWED:
            self._end(pending, f"The loss became {loss}" if loss - loss != 0.0 else f"The gradient became {grad_norm}")

    def _end(self, broken: PendingStep, what: str) -> NoReturn:
        images = list(dict.fromkeys(broken.images))
        self.recorder.write(Phase("looking for the layer that gave no number", 0, 1))
        layer = self.first_layer(broken.step)
        self.recorder.write(NotANumber(broken.step, what, layer, images))
        where = f" The first layer that gave no number is {layer}." if layer else ""
        raise LoratoryError(
            f"{what} at step {broken.step} (pictures: {', '.join(images)}).{where}",
            hint=("Train in bf16 instead of fp16, or lower" if self.scaled else "Lower")
            + " the learning rate; the newest state from before, where one was written, is kept.",
            exit_code=FAILED,
        )
