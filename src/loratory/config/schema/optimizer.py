"""How fast the adapter learns: table `[optimizer]`."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, cast

from pydantic import Field, JsonValue

from loratory.config.schema.base import Conflict, Listed, SettingsTable, changed

Scheduler = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "inverse_sqrt",
    "warmup_stable_decay",
    "piecewise_constant",
    "adafactor",
]
Arguments = str | tuple[str, ...] | dict[str, JsonValue]
Rate = Annotated[float, Field(ge=0)]
OptionalRatio = Annotated[float, Field(gt=0)] | None

_SCHEDULERS_THAT_READ: dict[str, frozenset[str]] = {
    "lr_scheduler_num_cycles": frozenset({"cosine_with_restarts", "cosine_with_min_lr"}),
    "lr_scheduler_power": frozenset({"polynomial"}),
    "lr_scheduler_min_lr_ratio": frozenset({"cosine_with_min_lr", "warmup_stable_decay"}),
    "lr_decay_steps": frozenset({"warmup_stable_decay"}),
    "lr_scheduler_timescale": frozenset({"inverse_sqrt"}),
}


class OptimizerSettings(SettingsTable):
    """`[optimizer]`: the optimizer, its rates and their course over the run."""

    optimizer_type: Annotated[str, Field(min_length=1)] = "AdamW"
    """The optimizer by its sd-scripts name, or a class path. Prodigy is the easiest; AdamW learns well with tuned
    rates."""

    learning_rate: Rate = 1e-4
    """Learning rate of what has no rate of its own. 1 under Prodigy and DAdaptation, which find their own."""

    unet_lr: Annotated[float, Field(ge=0)] | None = None
    """Learning rate of the UNet; left out, `learning_rate`; 0 does not train it. 1e-4 with AdamW."""

    text_encoder_lr: Annotated[Rate | tuple[Rate, ...] | None, Listed] = None
    """Learning rate of the text encoder, or one per encoder for SDXL; left out, `learning_rate`; 0 does not train it.
    5e-5 with AdamW."""

    optimizer_args: Annotated[Arguments, Listed] = ""
    """Further arguments: "decouple=True weight_decay=0.1 betas=0.9,0.99", a list of such, or a table. The guide gives
    Prodigy and DAdaptation the ones above, and AdamW those without `decouple`."""

    lr_scheduler: Scheduler = "cosine"
    """Course of the learning rate. sd-scripts' default is "constant". "cosine" under Prodigy and DAdaptation,
    "cosine_with_restarts" with 3 cycles for AdamW."""

    lr_warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] | str = 0
    """Steps during which the rate rises from 0: a number of steps, a share of the run below 1, or "10%"."""

    lr_scheduler_num_cycles: Annotated[int, Field(ge=1)] = 1
    """Number of cycles of "cosine_with_restarts" and "cosine_with_min_lr"."""

    lr_scheduler_power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of "polynomial"."""

    lr_scheduler_min_lr_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lowest rate of "cosine_with_min_lr" and "warmup_stable_decay", as a share of the highest."""

    lr_decay_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0
    """Steps of the final decay of "warmup_stable_decay", or a share of the run below 1."""

    lr_scheduler_timescale: Annotated[int, Field(ge=1)] | None = None
    """Steps after which "inverse_sqrt" starts to fall off; left out, the warmup steps."""

    lr_scheduler_type: str = ""
    """A scheduler class path to use instead of `lr_scheduler`."""

    lr_scheduler_args: Annotated[Arguments, Listed] = ""
    """Arguments of `lr_scheduler_type` or of "piecewise_constant", written like `optimizer_args`."""

    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients longer than this are shortened to it; 0 is off."""

    loraplus_lr_ratio: OptionalRatio = None
    """LoRA+: factor on the learning rate of the adapter's upper half."""

    loraplus_unet_lr_ratio: OptionalRatio = None
    """LoRA+ factor for the UNet only."""

    loraplus_text_encoder_lr_ratio: OptionalRatio = None
    """LoRA+ factor for the text encoder only."""

    @property
    def effective_unet_lr(self) -> float:
        """The UNet's learning rate; 0 means that it is not trained."""
        return self.learning_rate if self.unet_lr is None else self.unet_lr

    @property
    def effective_text_encoder_lr(self) -> float:
        """The text encoder's learning rate, the largest where one is given per encoder; 0 means not trained."""
        rate = self.text_encoder_lr
        if isinstance(rate, tuple):
            return max(rate, default=0.0)
        return self.learning_rate if rate is None else rate

    @property
    def parsed_optimizer_args(self) -> dict[str, object]:
        """`optimizer_args` as keyword arguments."""
        return parse_arguments(self.optimizer_args)

    def warmup_steps(self, total_steps: int) -> int:
        """`lr_warmup_steps` in steps of a run of `total_steps` steps."""
        warmup = self.lr_warmup_steps
        if isinstance(warmup, str):
            return int(total_steps * float(warmup.rstrip("%")) / 100)
        return warmup if isinstance(warmup, int) else int(total_steps * warmup)

    def conflicts(self) -> Iterator[Conflict]:
        for key in ("optimizer_args", "lr_scheduler_args"):
            try:
                parse_arguments(getattr(self, key))
            except ValueError as problem:
                yield Conflict(key, str(problem))
        warmup = self.lr_warmup_steps
        if isinstance(warmup, str) and not re.fullmatch(r"(100|\d{1,2}(\.\d+)?)%", warmup):
            yield Conflict("lr_warmup_steps", 'as text it is a percentage such as "10%"')
        elif self.lr_scheduler == "constant" and warmup not in (0, "0%"):
            yield Conflict("lr_warmup_steps", 'does nothing with lr_scheduler = "constant"; use "constant_with_warmup"')
        for key, schedulers in _SCHEDULERS_THAT_READ.items():
            if self.lr_scheduler not in schedulers and changed(self, key):
                readers = " and ".join(sorted(schedulers))
                yield Conflict(key, f'does nothing with lr_scheduler = "{self.lr_scheduler}"; it belongs to {readers}')


def parse_arguments(arguments: Arguments | Sequence[str] | Mapping[str, object]) -> dict[str, object]:
    """Keyword arguments from kohya's `"weight_decay=0.1 betas=0.9,0.99"`, from a list of such, or from a table.

    Values are Python literals; `0.9,0.99` is a tuple, and lists become tuples. Raises ValueError with one sentence that
    names the argument.
    """
    if isinstance(arguments, Mapping):
        return {name: _immutable(value) for name, value in arguments.items()}
    if isinstance(arguments, str):
        # A space inside a value, as in `betas=(0.9, 0.99)`, does not start an argument; `name=` does.
        pieces = [piece for piece in re.split(r"\s+(?=[A-Za-z_]\w*\s*=)", arguments.strip()) if piece]
    else:
        pieces = list(arguments)
    parsed: dict[str, object] = {}
    for piece in pieces:
        name, equals, text = (part.strip() for part in piece.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"{piece!r} is not an argument of the form name=value")
        if name in parsed:
            raise ValueError(f"{name} is given twice")
        parsed[name] = _literal(name, text)
    return parsed


def _literal(name: str, text: str) -> object:
    if text.endswith(","):
        raise ValueError(f"{name} ends with a comma; arguments are separated by spaces")
    try:
        return _immutable(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        meant = {"true": " (write True)", "false": " (write False)", "none": " (write None)"}.get(text.lower(), "")
        raise ValueError(f"the value of {name} is not a number, True, False, None or quoted text{meant}") from None


def _immutable(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value
