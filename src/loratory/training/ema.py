"""A running mean of the adapter (training.ema_decay): often better than the last step, at the cost of a copy of it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from loratory.errors import LoratoryError


def decay_after(updates: int, decay: float) -> float:
    """The decay of the next update: min(decay, (1 + n) / (10 + n)), so that the mean soon forgets the start.

    updates: how many came before. decay: 0 to 1, its limit. The warm-up is that of TensorFlow's moving averages.
    """
    return min(decay, (1 + updates) / (10 + updates))


class MovingAverage:
    """The exponential moving average of named parameters, in float32 on their device.

    It starts at their values; `update` belongs after each optimizer step. It holds on to the parameters, which must
    stay the same objects.
    """

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._means = {name: p.detach().to(torch.float32, copy=True) for name, p in self._parameters.items()}
        self.updates = 0

    @property
    def means(self) -> Mapping[str, Tensor]:
        """Name -> float32 mean. Not copies."""
        return self._means

    @torch.no_grad()
    def update(self) -> None:
        """mean += (1 - decay) * (parameter - mean), for all tensors at once."""
        # The public name would be a loop of three launches a tensor; the optimizers of torch are built on these too.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - optimizers of PyTorch use it
            list(self._means.values()),
            [parameter.detach().float() for parameter in self._parameters.values()],
            1 - decay_after(self.updates, self._decay),
        )
        self.updates += 1

    @contextmanager
    def applied(self) -> Generator[None]:
        """The parameters hold the means inside the `with` block, and afterwards what they held before, bit for bit.

        Memory: one more copy of the parameters, on their device.
        """
        before = [parameter.detach().clone() for parameter in self._parameters.values()]
        try:
            self._fill(list(self._means.values()))
            yield
        finally:
            self._fill(before)

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters.values(), values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on bit for bit: {"updates": int, "means": name -> float32 copy on the CPU}."""
        means = {name: mean.to("cpu", copy=True) for name, mean in self._means.items()}
        return {"updates": self.updates, "means": means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave; raises LoratoryError unless names and shapes are the same."""
        means: Mapping[str, Tensor] = state["means"]
        differing = sorted(self._means.keys() ^ means.keys()) or sorted(
            name for name, mean in self._means.items() if mean.shape != means[name].shape
        )
        if differing:
            raise LoratoryError(
                f"The saved running mean is of another network: {len(differing)} tensors differ, e.g. {differing[0]}.",
                hint="A run can only be resumed with the network settings it was started with.",
            )
        for name, mean in self._means.items():
            mean.copy_(means[name])
        self.updates = state["updates"]
