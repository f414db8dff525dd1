"""Several processes that train one adapter together, started by `torchrun` or `accelerate launch`.

Every process holds the whole model and takes its share of each batch; before a step the gradients are summed. So the
order of the data depends on the size of the whole batch alone, and N processes with n pictures each do what one does
with N x n. The first one writes everything; the others write nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from loratory.errors import LoratoryError
from loratory.runs.launch import process_count

T = TypeVar("T")

# The others wait at their next exchange while the first process saves and draws.
_PATIENCE = timedelta(hours=6)


@dataclass
class Ranks:
    """This process among the others; `Ranks()` is one that is alone."""

    rank: int = 0
    size: int = 1
    _words: Any = None  # a group on the CPU, so that words do not wait for the device

    @classmethod
    def join(cls, device: torch.device) -> "Ranks":
        """Meets the other processes. Raises LoratoryError when the launcher's settings are not usable."""
        if process_count() == 1:
            return cls()
        try:
            if not dist.is_initialized():
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
            words = dist.new_group(backend="gloo", timeout=_PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise LoratoryError(
                f"The {process_count()} processes of this run did not meet: {error}",
                hint="Start them with `torchrun --nproc-per-node N -m loratory train …` or `accelerate launch`.",
            ) from error
        return cls(dist.get_rank(), dist.get_world_size(), words)

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What this process takes of the items of a batch; may be nothing."""
        return items[self.rank :: self.size]

    def tell(self, word: T) -> T:
        """The first process's `word`, everywhere. Waits for the first process."""
        if self.size == 1:
            return word
        words = [word]
        dist.broadcast_object_list(words, src=0, group=self._words)
        return words[0]

    def sum_gradients(self, parameters: Sequence[Parameter], numbers: Tensor) -> Tensor:
        """Puts the sum of all processes' gradients into each, and returns the sum of their `numbers` (1-d, float32).

        A parameter without a gradient counts as zeros; one that has none in any process keeps none, so that optimizers
        pass over it as they do in one process (DyLoRA). One exchange, in float32.
        """
        if self.size == 1:
            return numbers
        parts = [
            torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.detach().flatten().float()
            for p in parameters
        ]
        own = [p.grad is not None for p in parameters]
        flat = torch.cat([*parts, torch.tensor(own, dtype=torch.float32, device=numbers.device), numbers.float()])
        dist.all_reduce(flat)
        *gradients, counts, total = flat.split([*(p.numel() for p in parameters), len(parameters), numbers.numel()])
        # Reading them back waits for the device: only where it can make a difference.
        present = own if all(own) else counts.bool().tolist()
        for parameter, gradient, is_present in zip(parameters, gradients, present, strict=True):
            if not is_present:
                continue
            summed = gradient.view_as(parameter).to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = summed.clone()
            else:
                parameter.grad.copy_(summed)
        return total

    def leave(self) -> None:
        """The end: nothing more will be exchanged."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
