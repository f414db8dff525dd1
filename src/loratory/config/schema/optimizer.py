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
    "lr_scheduler_num_cycles": frozenset({"cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"}),
    "lr_scheduler_power": frozenset({"polynomial"}),
    "lr_scheduler_min_lr_ratio": frozenset({"cosine_with_min_lr", "warmup_stable_decay"}),
    "lr_decay_steps": frozenset({"warmup_stable_decay"}),
    "lr_scheduler_timescale": frozenset({"inverse_sqrt"}),
}
_SCHEDULERS_WITHOUT_WARMUP = frozenset({"constant", "piecewise_constant", "adafactor"})

POLYNOMIAL_END = 1e-7
"""Learning rate at which "polynomial" ends: an absolute one, as in transformers."""


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
    "cosine_with_restarts" with 3 cycles for AdamW. Schedule-free optimizers take "constant" or
    "constant_with_warmup"; AdaFactor takes "adafactor", or any other with relative_step=False."""

    lr_warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] | str = 0
    """Steps during which the rate rises from 0: a number of steps, a share of the run below 1, or "10%"."""

    lr_scheduler_num_cycles: Annotated[int, Field(ge=1)] = 1
    """Number of cycles of "cosine_with_restarts", and of half waves of "cosine_with_min_lr" and of the decay of
    "warmup_stable_decay"."""

    lr_scheduler_power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of "polynomial"."""

    lr_scheduler_min_lr_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lowest rate of "cosine_with_min_lr" and "warmup_stable_decay", as a share of the highest."""

    lr_decay_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0
    """Steps of the final decay of "warmup_stable_decay", or a share of the run below 1."""

    lr_scheduler_timescale: Annotated[int, Field(ge=1)] | None = None
    """Steps after which "inverse_sqrt" starts to fall off; left out, the warmup steps."""

    lr_scheduler_type: str = ""
    """A scheduler class of torch to use instead of `lr_scheduler`, such as "CosineAnnealingLR", or the path of
    another class. What it does to `learning_rate` is done to every rate in proportion."""

    lr_scheduler_args: Annotated[Arguments, Listed] = ""
    """Arguments of `lr_scheduler_type`, written like `optimizer_args`, or of "piecewise_constant":
    step_rules='1:100,0.1:200,0.01' is a factor of 1 before step 100, of 0.1 before step 200, then of 0.01."""

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

    @property
    def parsed_lr_scheduler_args(self) -> dict[str, object]:
        """`lr_scheduler_args` as keyword arguments."""
        return parse_arguments(self.lr_scheduler_args)

    def warmup_steps(self, total_steps: int) -> int:
        """`lr_warmup_steps` in steps of a run of `total_steps` steps."""
        warmup = self.lr_warmup_steps
        if isinstance(warmup, str):
            return int(total_steps * float(warmup.rstrip("%")) / 100)
        return warmup if isinstance(warmup, int) else int(total_steps * warmup)

    def decay_steps(self, total_steps: int) -> int:
        """`lr_decay_steps` in steps of a run of `total_steps` steps."""
        decay = self.lr_decay_steps
        return decay if isinstance(decay, int) else int(total_steps * decay)

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer averages its weights, which takes the place of a schedule."""
        off = self.parsed_optimizer_args.get("use_schedulefree") is False  # ProdigyPlusScheduleFree has the choice
        return self.optimizer_type.lower().endswith("schedulefree") and not off

    @property
    def sets_its_own_rate(self) -> bool:
        """Whether the optimizer is AdaFactor with relative_step, its default: it reads no learning rate at all."""
        relative = self.parsed_optimizer_args.get("relative_step", True)
        return self.optimizer_type.lower() == "adafactor" and bool(relative)

    @property
    def step_rules(self) -> tuple[tuple[tuple[int, float], ...], float]:
        """The rules of "piecewise_constant": (step, factor before that step), steps rising, and the last factor.

        Raises ValueError with one sentence where they are missing or not of the form "1:10,0.1:20,0.01".
        """
        rules = self.parsed_lr_scheduler_args.get("step_rules")
        if not isinstance(rules, str):
            raise ValueError("\"piecewise_constant\" needs step_rules='1:10,0.1:20,0.01' (quoted)")
        *pairs, last = rules.split(",")
        try:
            split = [pair.split(":") for pair in pairs]
            return tuple(sorted((int(step), float(factor)) for factor, step in split)), float(last)
        except ValueError:
            raise ValueError(f"step_rules={rules!r} is not of the form '1:10,0.1:20,0.01'") from None

    def conflicts(self) -> Iterator[Conflict]:
        unreadable = False
        for key in ("optimizer_args", "lr_scheduler_args"):
            try:
                parse_arguments(getattr(self, key))
            except ValueError as problem:
                unreadable = True
                yield Conflict(key, str(problem))
        warmup, scheduler = self.lr_warmup_steps, self._named_scheduler
        if isinstance(warmup, str) and not re.fullmatch(r"(100|\d{1,2}(\.\d+)?)%", warmup):
            yield Conflict("lr_warmup_steps", 'as text it is a percentage such as "10%"')
        elif warmup not in (0, "0%") and (self.lr_scheduler_type or self.lr_scheduler in _SCHEDULERS_WITHOUT_WARMUP):
            instead = '; use "constant_with_warmup"' if scheduler == 'lr_scheduler = "constant"' else ""
            yield Conflict("lr_warmup_steps", f"does nothing with {scheduler}{instead}")
        for key, schedulers in _SCHEDULERS_THAT_READ.items():
            if (self.lr_scheduler_type or self.lr_scheduler not in schedulers) and changed(self, key):
                readers = " and ".join(sorted(schedulers))
                yield Conflict(key, f"does nothing with {scheduler}; it belongs to {readers}")
        if not unreadable:
            yield from self._schedule_conflicts()

    @property
    def _named_scheduler(self) -> str:
        key = "lr_scheduler_type" if self.lr_scheduler_type else "lr_scheduler"
        return f'{key} = "{getattr(self, key)}"'

    def _schedule_conflicts(self) -> Iterator[Conflict]:
        key = "lr_scheduler_type" if self.lr_scheduler_type else "lr_scheduler"
        own, scheduler = self.sets_its_own_rate, "" if self.lr_scheduler_type else self.lr_scheduler
        if self.is_schedule_free and scheduler not in ("constant", "constant_with_warmup"):
            what = "averages its weights instead of following a schedule"
            yield Conflict(key, f'{self.optimizer_type} {what}; use "constant" or "constant_with_warmup"')
        if self.optimizer_type.lower().endswith("dadaptsgd") and self.lr_warmup_steps not in (0, "0%"):
            yield Conflict(
                "lr_warmup_steps",
                "DAdaptSGD cannot begin at a rate of 0; growth_rate=1.02 in optimizer_args is its own warm-up",
            )
        if own and scheduler != "adafactor":
            yield Conflict(
                key, 'AdaFactor sets its own rate: use "adafactor", or optimizer_args = "relative_step=False"'
            )
        if scheduler == "adafactor" and not own:
            yield Conflict(key, '"adafactor" belongs to optimizer_type = "AdaFactor" with relative_step')
        if scheduler == "cosine_with_min_lr" and self.lr_scheduler_min_lr_ratio is None:
            yield Conflict(key, '"cosine_with_min_lr" needs lr_scheduler_min_lr_ratio')
        if scheduler == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            yield Conflict(key, f'"polynomial" ends at {POLYNOMIAL_END:g}, which learning_rate is not above')
        if scheduler == "piecewise_constant":
            try:
                _ = self.step_rules
            except ValueError as problem:
                yield Conflict("lr_scheduler_args", str(problem))
        elif scheduler and changed(self, "lr_scheduler_args"):
            yield Conflict("lr_scheduler_args", f'does nothing with lr_scheduler = "{scheduler}"')


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
