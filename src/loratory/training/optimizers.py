"""Optimizers behind one small face: the loop sets rates, steps, and asks for the effective rate."""

import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from loratory.adapters.blocks import block_factors
from loratory.adapters.keys import Family
from loratory.adapters.roles import LORA_UP
from loratory.config.schema import NetworkSettings, OptimizerSettings
from loratory.config.schema.base import changed
from loratory.errors import LoratoryError
from loratory.training.optimizer_types import (
    ADAPTIVE,
    optimizer_arguments,
    optimizer_class,
    optimizer_type,
)

__all__ = [
    "ADAPTIVE",
    "Optimizers",
    "TrainedPart",
    "refuse_block_rates",
    "refuse_wrong_arguments",
    "state_tensors",
    "trained_parts",
]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedPart:
    """Parameters that share a base learning rate (> 0): the UNet's or the text encoders', or some of them.

    is_reported: whether its rate is told; of the parts of a UNet whose blocks learn at different rates, one is.
    """

    name: str
    parameters: list[Parameter]
    base_lr: float
    is_reported: bool = True


def trained_parts(
    name: str,
    named_parameters: Iterable[tuple[str, Parameter]],
    base_lr: float,
    settings: OptimizerSettings,
    factors: Mapping[str, float] | None = None,
) -> list[TrainedPart]:
    """The part `name`, or with LoRA+ (arXiv 2402.12354) two: the upper halves learn apart, as `<name>_up`.

    name: "unet", or one that begins with "text_encoder". named_parameters: `<key>.lora_up.weight` and the like, as
    `Adapter.named_parameters` has them. factors: of the rate, > 0, by module key, 1 where missing: see `_by_factor`.
    """
    own = settings.loraplus_unet_lr_ratio if name == "unet" else settings.loraplus_text_encoder_lr_ratio
    ratio = settings.loraplus_lr_ratio if own is None else own
    named = list(named_parameters)
    if ratio is None:
        return _by_factor(name, named, base_lr, factors or {})
    lower = [each for each in named if not _is_upper(each[0])]
    upper = [each for each in named if _is_upper(each[0])]
    parts = [
        *_by_factor(name, lower, base_lr, factors or {}),
        *_by_factor(f"{name}_up", upper, base_lr * ratio, factors or {}),
    ]
    return [part for part in parts if part.parameters]


def _is_upper(name: str) -> bool:
    return name.partition(".")[2].startswith(LORA_UP)  # DyLoRA has one for each block: lora_up.weight.0


def _by_factor(
    name: str, named: Sequence[tuple[str, Parameter]], base_lr: float, factors: Mapping[str, float]
) -> list[TrainedPart]:
    """Parameters of the same factor together, the largest factor first.

    The part that is reported keeps the name: that of factor 1, or else of the largest. The others have their factor in
    the name ("unet x0.5") and are in the same proportion to it all through the run.
    """
    grouped: dict[float, list[Parameter]] = {}
    for key, parameter in named:
        grouped.setdefault(factors.get(key.partition(".")[0], 1.0), []).append(parameter)
    if len(grouped) < 2:
        factor = next(iter(grouped), 1.0)
        return [TrainedPart(name, [parameter for _, parameter in named], base_lr * factor)]
    shown = 1.0 if 1.0 in grouped else max(grouped)
    return [
        TrainedPart(
            name if factor == shown else f"{name} x{factor!r}",
            parameters,
            base_lr * factor,
            is_reported=factor == shown,
        )
        for factor, parameters in sorted(grouped.items(), reverse=True)
    ]


class Optimizers:
    """One torch optimizer, or one per part where the optimizer cannot hold two rates (Prodigy: one d per instance).

    Raises LoratoryError when the settings name no optimizer, or one that does not take the arguments or the parameters.
    """

    def __init__(self, parts: list[TrainedPart], settings: OptimizerSettings) -> None:
        self._parts = parts
        self._reported = {part.name for part in parts if part.is_reported}
        rates = {part.base_lr for part in parts}
        apart = optimizer_type(settings.optimizer_type).one_rate and len(rates) > 1
        bundles = [[part] for part in parts] if apart else [parts]
        self.all = [_make(bundle, settings) for bundle in bundles]
        # What training goes on from while averaged weights stand in its place (schedule-free optimizers).
        self._training_weights: list[Tensor] | None = None
        for optimizer in self._averaging():
            optimizer.train()

    def _averaging(self) -> list[Any]:
        return [optimizer for optimizer in self.all if callable(getattr(optimizer, "eval", None))]

    def _groups(self) -> dict[str, dict[str, Any]]:
        # Asked for anew each time: loading a state gives an optimizer other group objects.
        return {group["name"]: group for optimizer in self.all for group in optimizer.param_groups}

    @torch.no_grad()
    def eval_mode(self) -> None:
        """Puts the weights to be used in place of those trained; they differ for schedule-free optimizers only.

        Before weights are saved, drawn with or validated. Costs a copy of the parameters until `train_mode`.
        """
        if self._training_weights is not None or not self._averaging():
            return
        self._training_weights = [p.detach().clone() for part in self._parts for p in part.parameters]
        for optimizer in self._averaging():
            optimizer.eval()

    @torch.no_grad()
    def train_mode(self) -> None:
        """Undoes `eval_mode`, bit for bit. Optimizers begin in this mode, and step and keep their state in it only."""
        if self._training_weights is None:
            return
        for optimizer in self._averaging():
            optimizer.train()
        # Computing the way back rounds: a run would depend on how often it was saved.
        parameters = [p for part in self._parts for p in part.parameters]
        for parameter, weight in zip(parameters, self._training_weights, strict=True):
            parameter.copy_(weight)
        self._training_weights = None

    def set_multiplier(self, multiplier: float) -> None:
        """Sets every part's rate to its base rate times `multiplier`, unless the optimizer sets its rate itself."""
        groups = self._groups()
        for part in self._parts:
            if groups[part.name]["lr"] is not None:
                groups[part.name]["lr"] = part.base_lr * multiplier

    def rates(self) -> dict[str, float]:
        """The learning rate of each reported part; where AdaFactor sets it, that of the last step without a tensor's
        scale."""
        return {
            group["name"]: _relative_step(optimizer, group) if group["lr"] is None else float(group["lr"])
            for optimizer in self.all
            for group in optimizer.param_groups
            if group["name"] in self._reported
        }

    def step_sizes(self) -> Tensor | None:
        """The d of each reported part in the order of `rates`, shape (parts,), where it lives on the device; else None.

        Later steps leave the tensor alone, so it can be read late.
        """
        sizes = [group.get("d", 1.0) for name, group in self._groups().items() if name in self._reported]
        device = next((size.device for size in sizes if isinstance(size, Tensor)), None)
        if device is None:
            return None
        # Of several instances one may hold a tensor already while another still begins with a number.
        return torch.stack([torch.as_tensor(size, dtype=torch.float32, device=device) for size in sizes])

    def effective_rates(self) -> dict[str, float]:
        """The learning rate times the d an adaptive optimizer has found; waits for the device if `step_sizes` would."""
        groups = self._groups()
        return {name: rate * float(groups[name].get("d", 1.0)) for name, rate in self.rates().items()}

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each optimizer, in the training mode, to be kept with the weights of that mode."""
        if self._training_weights is not None:
            raise RuntimeError("the state of averaged weights is not one to go on from: call train_mode first")
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: Iterable[dict[str, Any]]) -> None:
        """Goes on from `state_dict`, exactly: tensors keep the type they were saved with."""
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)
            _restore_types(optimizer, state)


def _restore_types(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    # torch converts what it loads to the type of the parameter, and would round a float32 state of a bfloat16 one.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            state = optimizer.state[parameter]
            if isinstance(value, Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(state[name].device, copy=True)


def _relative_step(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """AdaFactor's own rate (arXiv 1804.04235, section 9): the inverse root of the step, at most 0.01."""
    step = max(1, optimizer.state.get(group["params"][0], {}).get("step", 0))
    return min(1e-6 * step if group["warmup_init"] else 1e-2, 1.0 / math.sqrt(step))


def _make(parts: list[TrainedPart], settings: OptimizerSettings) -> torch.optim.Optimizer:
    name = settings.optimizer_type
    kind, made = optimizer_type(name), optimizer_class(name)
    arguments = optimizer_arguments(settings, parts[0].base_lr)
    if not kind.float16 and any(p.dtype == torch.float16 for part in parts for p in part.parameters):
        raise LoratoryError(
            f"optimizer.optimizer_type: {name} cannot train an adapter in float16: its averages of squared gradients "
            "would be too small for that type.",
            hint='Use training.full_bf16, or no training.full_fp16; "AdamW8bit", "Lion" and "Prodigy" can do it.',
        )
    own_rate = settings.sets_its_own_rate
    groups = [
        {"name": part.name, "params": part.parameters, "lr": None if own_rate else part.base_lr} for part in parts
    ]
    try:
        with redirect_stdout(io.StringIO()):  # some print a line, and stdout is for data
            optimizer: Any = made(groups, **arguments)
    except Exception as error:  # whatever a class of another project raises
        raise LoratoryError(
            f"optimizer.optimizer_args: {name} does not take them: {error}.",
            hint=f"Given were {settings.parsed_optimizer_args}.",
        ) from error
    if kind.path.startswith("prodigyplus."):
        optimizer.log = _LOG.info  # it prints while it steps, too
    return optimizer


def refuse_block_rates(network: NetworkSettings, settings: OptimizerSettings, family: Family) -> None:
    """Raises LoratoryError for learning rates by block that do not fit the model, or where the optimizer sets its rate
    itself and would pass over them."""
    factors = block_factors(network, family)
    if settings.sets_its_own_rate and factors is not None and set(factors) - {0.0, 1.0}:
        names = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
        named = ", ".join(f"network.{name}" for name in names if changed(network, name))
        raise LoratoryError(
            f"{named}: {settings.optimizer_type} sets its learning rate itself here, and block factors do nothing.",
            hint="Leave down_lr_weight, mid_lr_weight and up_lr_weight out, or use factors of 0 and 1.",
        )


def refuse_wrong_arguments(settings: OptimizerSettings, dtype: torch.dtype = torch.float32) -> None:
    """Raises LoratoryError for an optimizer that cannot train parameters of `dtype`, or not with its arguments."""
    if "lr" in settings.parsed_optimizer_args:
        raise LoratoryError(
            "optimizer.optimizer_args: lr does nothing there.",
            hint="Set optimizer.learning_rate, unet_lr or text_encoder_lr.",
        )
    _trial(settings, dtype)


def state_tensors(settings: OptimizerSettings, dtype: torch.dtype = torch.float32) -> float:
    """How many float32 tensors the optimizer keeps per parameter, beside it: 2 for AdamW, about 0.5 for AdamW8bit.

    Measured on the two halves of an adapter of rank 32, in parameters of `dtype`. Raises LoratoryError like
    `refuse_wrong_arguments`.
    """
    optimizer = _trial(settings, dtype)
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    return sum(value.numel() * value.element_size() for value in kept) / (4 * parameters)


def _trial(settings: OptimizerSettings, dtype: torch.dtype) -> torch.optim.Optimizer:
    """One step of the optimizer on a small adapter."""
    # bitsandbytes brings other kernels for each device, which may be missing for the one that will train.
    on_gpu = optimizer_type(settings.optimizer_type).extra == "bitsandbytes" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    halves = [
        Parameter(torch.full((32, 1024), 0.01, device=device, dtype=dtype)),
        Parameter(torch.zeros(1024, 32, device=device, dtype=dtype)),
    ]
    (optimizer,) = Optimizers([TrainedPart("trial", halves, 1.0)], settings).all
    for half in halves:
        half.grad = torch.full_like(half, 0.01)
    try:
        with redirect_stdout(io.StringIO()):
            optimizer.step()
    except Exception as error:  # whatever a class of another project raises
        raise LoratoryError(
            f"optimizer.optimizer_type: {settings.optimizer_type} cannot take a step: {error}.",
            hint=f"Its arguments were {settings.parsed_optimizer_args}.",
        ) from error
    return optimizer
