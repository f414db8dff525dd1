"""The events a run is told in: one frozen dataclass a kind, one JSON object a line.

`encode` and `decode` are inverse; numbers that JSON lacks (a NaN loss is news, not noise) travel as strings.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Started:
    """The engine is about to train, from `from_step` (0 for a new run) to `total_steps`.

    Steps a reader has seen beyond `from_step` were lost with the process that made them: forget them.
    """

    from_step: int
    total_steps: int
    epochs: int
    steps_per_epoch: int
    device: str
    version: str
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class Phase:
    """Progress of the work before, between and after the steps, e.g. `caching latents`, 12 of 24."""

    name: str
    done: int
    total: int
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True)
class SampleLoss:
    """Loss of one picture in one step, unweighted: `image` is its path below the training folder."""

    image: str
    timestep: int
    loss: float


@dataclass(frozen=True)
class Step:
    """One optimizer step. Times in seconds: `step_s` whole, `data_s` of it waiting for the batch.

    loss: what was minimised (weights included). lr: per trained component; effective_lr: the same times the
    factor an adaptive optimizer found (d), equal to lr for the others. grad_norm: before clipping.
    """

    step: int
    epoch: int
    loss: float
    lr: dict[str, float]
    effective_lr: dict[str, float]
    grad_norm: float
    step_s: float
    data_s: float
    samples: list[SampleLoss] = field(default_factory=list[SampleLoss])
    keys_scaled: int | None = None
    mean_weight_norm: float | None = None
    max_weight_norm: float | None = None
    kind: Literal["step"] = "step"

    @property
    def is_empty(self) -> bool:
        """Whether it trained nothing, because all pictures of its batch are left out: then its loss says nothing."""
        return not self.samples and self.loss == 0.0


@dataclass(frozen=True)
class Validated:
    """The loss of the held-back pictures, always measured in the same way. samples: unweighted."""

    step: int
    epoch: int
    loss: float
    samples: list[SampleLoss] = field(default_factory=list[SampleLoss])
    kind: Literal["validated"] = "validated"


@dataclass(frozen=True)
class Weights:
    """How far the adapter has come: for each trained part, the norm of what it adds to the model's weights.

    norms: Frobenius norm of the part's whole delta, 0 before anything was learned.
    """

    step: int
    norms: dict[str, float]
    kind: Literal["weights"] = "weights"


@dataclass(frozen=True)
class Saving:
    """An adapter file is about to be written: from here on it belongs to this run, should the process die."""

    path: str
    kind: Literal["saving"] = "saving"


@dataclass(frozen=True)
class Saved:
    """An adapter file was written, read back and compared with the live network, which took `took_s` seconds."""

    step: int
    epoch: int
    path: str
    size_bytes: int
    max_difference: float
    took_s: float = 0.0
    kind: Literal["saved"] = "saved"


@dataclass(frozen=True)
class StateSaved:
    """From here the run can be resumed exactly. took_s: seconds it took to write."""

    step: int
    path: str
    took_s: float = 0.0
    kind: Literal["state_saved"] = "state_saved"


@dataclass(frozen=True)
class Sampled:
    """A preview picture was drawn.

    path: below the run's folder. index: of the prompt among those of the config, from 0; -1 for one that was asked for
    while the run went on. took_s: seconds it took.
    """

    step: int
    epoch: int
    path: str
    prompt: str
    index: int = 0
    seed: int = 0
    took_s: float = 0.0
    kind: Literal["sampled"] = "sampled"


@dataclass(frozen=True)
class Notice:
    """Something a person should know: one plain sentence."""

    level: Literal["note", "warning"]
    message: str
    kind: Literal["notice"] = "notice"


@dataclass(frozen=True)
class Obeyed:
    """A command from the control folder or the keyboard was carried out after `step` steps.

    value: what it was given, as `runs.control.Command.value`.
    """

    command: str
    step: int
    value: str = ""
    kind: Literal["obeyed"] = "obeyed"


@dataclass(frozen=True)
class Paused:
    """The run waits after `step` steps: because it was told to, or because the disk is full. reason: a sentence."""

    step: int
    reason: str
    kind: Literal["paused"] = "paused"


@dataclass(frozen=True)
class Continued:
    """The run goes on after a pause of `waited_s` seconds."""

    step: int
    waited_s: float
    kind: Literal["continued"] = "continued"


@dataclass(frozen=True)
class Card:
    """One graphics card at one moment; None for what its driver does not tell. Load in per cent, power in watts."""

    name: str
    load: float | None
    memory_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None


@dataclass(frozen=True)
class Hardware:
    """The machine that trains, at one moment.

    cpu: load of all cores together in per cent. ram_bytes: in use on the machine; process_bytes: of it by the run's
    process.
    """

    cpu: float
    ram_bytes: int
    ram_total_bytes: int
    process_bytes: int
    cards: list[Card] = field(default_factory=list[Card])
    kind: Literal["hardware"] = "hardware"


@dataclass(frozen=True)
class NotANumber:
    """A step went wrong: a loss or gradient that is no number, and the first layer that gave one, "" if none was found.

    images: those of the step.
    """

    step: int
    what: str
    layer: str
    images: list[str] = field(default_factory=list[str])
    kind: Literal["nan"] = "nan"


@dataclass(frozen=True)
class Finished:
    """The last event of a process: done, stopped on request (resumable), or failed (message and hint say why)."""

    status: Literal["done", "stopped", "failed"]
    step: int
    message: str = ""
    hint: str = ""
    kind: Literal["finished"] = "finished"


Event = (
    Started
    | Phase
    | Step
    | Validated
    | Weights
    | Saving
    | Saved
    | StateSaved
    | Sampled
    | Notice
    | Obeyed
    | Paused
    | Continued
    | Hardware
    | NotANumber
    | Finished
)
_KINDS: dict[str, type[Any]] = {kind.__dataclass_fields__["kind"].default: kind for kind in get_args(Event)}
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_FLOAT_FIELDS = {
    "loss",
    "lr",
    "effective_lr",
    "grad_norm",
    "step_s",
    "data_s",
    "mean_weight_norm",
    "max_weight_norm",
    "max_difference",
    "norms",
}


@dataclass(frozen=True)
class Timed:
    """An event and when it was written, in seconds since the epoch."""

    time_s: float
    event: Event


def encode(event: Event, time_s: float | None = None) -> str:
    """One line of JSON without its newline; `time_s` defaults to now."""
    body = {"v": FORMAT_VERSION, "t": round(time.time() if time_s is None else time_s, 3), "kind": event.kind}
    body.update(dataclasses.asdict(event))
    return json.dumps(_spell(body), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(line: str) -> Timed | None:
    """The event of a line; None for a torn line, a foreign one, one whose values are none, or an unknown kind.

    Unknown keys are dropped, so that an older viewer can follow a newer run.
    """
    try:
        body = json.loads(line)
        if body.get("kind") == "step" and (timed := _plain_step(body)) is not None:
            return timed
        kind = _KINDS[body.pop("kind")]
        time_s = body.pop("t")
        known = {name: _read(name, value) for name, value in body.items() if name in kind.__dataclass_fields__}
        if kind in (Step, Validated):
            known["samples"] = [_made(SampleLoss, _read("samples", sample)) for sample in known.get("samples", [])]
        if kind is Hardware:
            known["cards"] = [_made(Card, card) for card in known.get("cards", [])]
        if not (_is_number(time_s) and math.isfinite(time_s)):
            return None
        return Timed(float(time_s), _made(kind, known))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _plain_step(body: dict[str, Any]) -> Timed | None:
    """A step as nearly all of them are, in a fifth of the time; None for one that has to be looked at more closely."""
    time_s, samples = body["t"], body.get("samples", "")
    whole = body["step"], body["epoch"]
    numbers = body["loss"], body["grad_norm"], body["step_s"], body["data_s"]
    rates, effective_rates = body["lr"], body["effective_lr"]
    scaled, mean_norm, max_norm = map(body.get, ("keys_scaled", "mean_weight_norm", "max_weight_norm"))
    made: list[SampleLoss] = []
    for sample in samples:
        image, timestep, loss = sample["image"], sample["timestep"], sample["loss"]
        if type(image) is not str or type(timestep) is not int or type(loss) is not float or len(sample) != 3:
            return None
        made.append(SampleLoss(image, timestep, loss))
    is_plain = (
        type(samples) is list
        and type(time_s) is float
        and math.isfinite(time_s)
        and set(map(type, whole)) == {int}
        and set(map(type, (*numbers, *rates.values(), *effective_rates.values()))) == {float}
        and (scaled is None or type(scaled) is int)
        and (mean_norm is None or type(mean_norm) is float)
        and (max_norm is None or type(max_norm) is float)
    )
    if not is_plain:
        return None
    loss, grad_norm, step_s, data_s = numbers
    step = Step(*(*whole, loss, rates, effective_rates, grad_norm, step_s, data_s, made, scaled, mean_norm, max_norm))
    return Timed(time_s, step)


def _made(kind: type[Any], values: dict[str, Any]) -> Any:
    """An instance of one of the dataclasses above. Raises TypeError where a value is not what its field says."""
    checks = _CHECKS[kind]
    for name, value in values.items():
        if not checks[name](value):
            raise TypeError(f"{name} of {kind.__name__}: {value!r}")
    return kind(**values)


def _is_number(value: Any) -> bool:
    return type(value) in (float, int)


def _check(wanted: Any) -> Callable[[Any], bool]:
    """Whether a value read from JSON is of a field's type."""
    items = get_args(wanted)
    if get_origin(wanted) is Literal:
        return lambda value: value in items
    if get_origin(wanted) is dict:
        of_item = _check(items[1])
        return lambda value: type(value) is dict and all(map(of_item, value.values()))
    if get_origin(wanted) is list:
        of_item = _check(items[0])
        return lambda value: type(value) is list and all(map(of_item, value))
    if items:  # a union
        of_either = [_check(item) for item in items]
        return lambda value: any(check(value) for check in of_either)
    return _is_number if wanted is float else lambda value: type(value) is wanted


_CHECKS: dict[type[Any], dict[str, Callable[[Any], bool]]] = {
    kind: {each.name: _check(each.type) for each in dataclasses.fields(kind)}
    for kind in (*_KINDS.values(), SampleLoss, Card)
}


def _spell(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _spell(item) for key, item in value.items()}
        case list():
            return [_spell(item) for item in value]
        case _:
            return value


def _read(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _read(name if name in _FLOAT_FIELDS else key, item) for key, item in value.items()}
    if name in _FLOAT_FIELDS and isinstance(value, str):
        return _SPECIAL[value]
    return value
