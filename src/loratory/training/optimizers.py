"""Optimizers behind one small face: the loop sets rates, steps, and asks for the effective rate."""

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter

from loratory.config.schema import OptimizerSettings
from loratory.errors import LoratoryError

# These find their own step size d and multiply it with the learning rate, which stays near 1.
ADAPTIVE = frozenset({"prodigy"})


@dataclass(frozen=True)
class TrainedPart:
    """Parameters that share a base learning rate (> 0): the UNet's or the text encoders'."""

    name: str
    parameters: list[Parameter]
    base_lr: float


class Optimizers:
    """One torch optimizer, or one per part where the optimizer cannot hold two rates (Prodigy: one d per instance)."""

    def __init__(self, parts: list[TrainedPart], settings: OptimizerSettings) -> None:
        self._parts = parts
        rates = {part.base_lr for part in parts}
        adaptive = settings.optimizer_type.lower() in ADAPTIVE
        bundles = [[part] for part in parts] if adaptive and len(rates) > 1 else [parts]
        self.all = [_make(bundle, settings) for bundle in bundles]

    def _groups(self) -> dict[str, dict[str, Any]]:
        # Asked for anew each time: loading a state gives an optimizer other group objects.
        return {group["name"]: group for optimizer in self.all for group in optimizer.param_groups}

    def set_multiplier(self, multiplier: float) -> None:
        """Sets every part's rate to its base rate times `multiplier`."""
        groups = self._groups()
        for part in self._parts:
            groups[part.name]["lr"] = part.base_lr * multiplier

    def rates(self) -> dict[str, float]:
        """The learning rate of each part."""
        return {name: float(group["lr"]) for name, group in self._groups().items()}

    def effective_rates(self) -> dict[str, float]:
        """The learning rate times the d an adaptive optimizer has found so far."""
        return {name: float(group["lr"]) * float(group.get("d", 1.0)) for name, group in self._groups().items()}

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: Iterable[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def _make(parts: list[TrainedPart], settings: OptimizerSettings) -> torch.optim.Optimizer:
    groups = [{"name": part.name, "params": part.parameters, "lr": part.base_lr} for part in parts]
    arguments: dict[str, Any] = settings.parsed_optimizer_args
    try:
        match settings.optimizer_type.lower():
            case "adamw":
                on_gpu = all(p.is_cuda for part in parts for p in part.parameters)
                # One kernel for all parameters; the arithmetic is that of the plain loop.
                fused: dict[str, Any] = {"fused": True} if on_gpu else {}
                return torch.optim.AdamW(groups, **fused | arguments)
            case "prodigy":
                from prodigyopt import Prodigy  # pyright: ignore[reportMissingTypeStubs]

                with redirect_stdout(io.StringIO()):  # it prints a line, and stdout is for data
                    return Prodigy(groups, **arguments)
            case other:
                raise AssertionError(f"{other} is refused by config.unbuilt before a run starts")
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoratoryError(
            f"optimizer.optimizer_args: {settings.optimizer_type} does not take them: {error}.",
            hint=f"Given were {arguments}.",
        ) from error


def refuse_wrong_arguments(settings: OptimizerSettings) -> None:
    """Raises LoratoryError for arguments that the optimizer does not take, or that would do nothing."""
    if "lr" in settings.parsed_optimizer_args:
        raise LoratoryError(
            "optimizer.optimizer_args: lr does nothing there.",
            hint="Set optimizer.learning_rate, unet_lr or text_encoder_lr.",
        )
    _make([TrainedPart("trial", [Parameter(torch.zeros(1))], 1.0)], settings)
