"""The optimizers by the names they have in sd-scripts, and where their classes come from."""

import dataclasses
import difflib
import importlib
import inspect
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch

from loratory.config.schema import OptimizerSettings
from loratory.errors import LoratoryError

_NESTEROV: dict[str, object] = {"nesterov": True, "momentum": 0.9}
_PRINTS = {"log_every": "it writes to the terminal while training"}


@dataclass(frozen=True)
class OptimizerType:
    """An optimizer class.

    path: module and class. extra: the optional dependencies that bring it ("" if none). defaults: arguments unless
    others are given. one_rate: whether an instance has one step size d, and so one learning rate, for all its
    parameters. float16: whether it can train parameters of that type, that is, does not keep squares of gradients in
    it, which would be zero. refused: argument -> why it is not for here.
    """

    path: str
    extra: str = ""
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    one_rate: bool = False
    float16: bool = False
    refused: Mapping[str, str] = field(default_factory=dict[str, str])


def _bitsandbytes(name: str, defaults: Mapping[str, object] | None = None) -> OptimizerType:
    return OptimizerType(f"bitsandbytes.optim.{name}", "bitsandbytes", defaults or {}, float16=True)


def _dadapt(path: str, refused: Mapping[str, str] | None = None) -> OptimizerType:
    return OptimizerType(f"dadaptation.{path}", "optimizers", one_rate=True, refused=refused or {})


_PRODIGY_PLUS = OptimizerType(
    "prodigyplus.ProdigyPlusScheduleFree",
    "optimizers",
    refused={"fused_back_pass": "gradients are clipped together, after the backward pass"},
)

OPTIMIZER_TYPES: Mapping[str, OptimizerType] = {
    "AdamW": OptimizerType("torch.optim.AdamW"),
    "AdamW8bit": _bitsandbytes("AdamW8bit"),
    "PagedAdamW": _bitsandbytes("PagedAdamW"),
    "PagedAdamW8bit": _bitsandbytes("PagedAdamW8bit"),
    "PagedAdamW32bit": _bitsandbytes("PagedAdamW32bit"),
    "Lion": OptimizerType(
        "lion_pytorch.Lion",
        "optimizers",
        float16=True,
        refused={"use_triton": "its kernels do not go with every version of torch"},
    ),
    "Lion8bit": _bitsandbytes("Lion8bit"),
    "PagedLion8bit": _bitsandbytes("PagedLion8bit"),
    "SGDNesterov": OptimizerType("torch.optim.SGD", defaults=_NESTEROV, float16=True),
    "SGDNesterov8bit": _bitsandbytes("SGD8bit", _NESTEROV),
    "Prodigy": OptimizerType("loratory.training.prodigy.Prodigy", one_rate=True, float16=True),
    "ProdigyPlusScheduleFree": _PRODIGY_PLUS,
    "prodigyplus.ProdigyPlusScheduleFree": _PRODIGY_PLUS,
    "DAdaptation": _dadapt("experimental.DAdaptAdamPreprint"),
    "DAdaptAdamPreprint": _dadapt("experimental.DAdaptAdamPreprint"),
    "DAdaptAdaGrad": _dadapt("DAdaptAdaGrad"),
    "DAdaptAdam": _dadapt("DAdaptAdam"),
    "DAdaptAdan": _dadapt("DAdaptAdan", _PRINTS),
    "DAdaptAdanIP": _dadapt("experimental.DAdaptAdanIP", _PRINTS),
    "DAdaptLion": _dadapt("DAdaptLion"),
    "DAdaptSGD": _dadapt("DAdaptSGD"),
    "AdaFactor": OptimizerType("transformers.optimization.Adafactor", float16=True),
    "RAdamScheduleFree": OptimizerType("schedulefree.RAdamScheduleFree", "optimizers"),
    "AdamWScheduleFree": OptimizerType("schedulefree.AdamWScheduleFree", "optimizers"),
    "SGDScheduleFree": OptimizerType("schedulefree.SGDScheduleFree", "optimizers"),
}
"""What `optimizer_type` can be, written in any case; a class path, or a class of torch.optim, is possible besides."""

_BY_LOWER = {name.lower(): kind for name, kind in OPTIMIZER_TYPES.items()}

ADAPTIVE = frozenset(
    {name for name, kind in _BY_LOWER.items() if kind.one_rate}
    | {"prodigyplusschedulefree", "prodigyplus.prodigyplusschedulefree"}
)
"""Names in lower case of those that find their own step size d and multiply it with a learning rate near 1."""


def optimizer_type(name: str) -> OptimizerType:
    """The optimizer called `name` in a configuration. Raises LoratoryError for a name that is none."""
    known = _BY_LOWER.get(name.lower())
    if known is not None:
        return known
    if "." in name:
        # What is known of a class goes for others of its name, such as prodigyopt.Prodigy.
        class_name = name.rpartition(".")[2]
        known = OPTIMIZER_TYPES.values()
        same = [kind for kind in known if kind.path == name]
        like = [kind for kind in known if kind.path.rpartition(".")[2] == class_name]
        if not like:
            return OptimizerType(name)
        extra = same[0].extra if same else ""
        return dataclasses.replace(like[0], path=name, extra=extra, defaults={}, float16=bool(same) and same[0].float16)
    if inspect.isclass(getattr(torch.optim, name, None)):
        return OptimizerType(f"torch.optim.{name}")
    near = difflib.get_close_matches(name.lower(), _BY_LOWER, n=1, cutoff=0.5)
    spelled = next((known for known in OPTIMIZER_TYPES if near and known.lower() == near[0]), None)
    guess = f"Did you mean {spelled}? " if spelled else ""
    raise LoratoryError(
        f'optimizer.optimizer_type: there is no optimizer "{name}".',
        hint=f"{guess}Names are {', '.join(n for n in OPTIMIZER_TYPES if '.' not in n)}, and the path of any class.",
    )


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of the optimizer called `name`.

    Raises LoratoryError when its package is not installed, or when there is no such optimizer.
    """
    kind = optimizer_type(name)
    module_name, _, class_name = kind.path.rpartition(".")
    try:
        with redirect_stdout(io.StringIO()):  # stdout is for data
            found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        missing = getattr(error, "name", None) or module_name
        hint = f"pip install '.[{kind.extra}]'" if kind.extra else "Check the path, or install its package."
        raise LoratoryError(
            f"optimizer.optimizer_type: {name} cannot be loaded from {missing}: {error}.", hint=hint
        ) from error
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        raise LoratoryError(f"optimizer.optimizer_type: {kind.path} is not an optimizer of torch.")
    return found


def optimizer_arguments(settings: OptimizerSettings, base_lr: float) -> dict[str, Any]:
    """The keyword arguments an optimizer is made with, `base_lr` being the rate of its first parameters.

    Raises LoratoryError for an argument that is refused.
    """
    name, given = settings.optimizer_type, settings.parsed_optimizer_args
    kind = optimizer_type(name)
    for argument, why in kind.refused.items():
        if given.get(argument):
            raise LoratoryError(
                f"optimizer.optimizer_args: {argument} of {name} is not possible here: {why}.", hint="Leave it out."
            )
    arguments: dict[str, Any] = {**kind.defaults, **given}
    if kind.path == "torch.optim.AdamW" and not {"foreach", "fused", "differentiable"} & arguments.keys():
        # One kernel for all parameters, and less than half the time on the CPU too.
        arguments["fused"] = True
    if not settings.sets_its_own_rate and "lr" in inspect.signature(optimizer_class(name)).parameters:
        # Each group has its rate; but some classes have no default, and some remember the one they were made with.
        arguments["lr"] = base_lr
    return arguments
