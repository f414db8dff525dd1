"""Learning rates and their warmup: what is trained at all, and how fast."""

from typing import cast

from loratory.config.kohya.report import Given
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import number

_ONLY = {"unet_lr": "network_train_text_encoder_only", "text_encoder_lr": "network_train_unet_only"}


def translate_rates(arguments: dict[str, Given], to: Translation) -> None:
    """The three rates and the warmup. A part whose rate is 0 is not trained; without a rate it has learning_rate."""
    only = {name: _switch(arguments, name, to) for name in _ONLY.values()}
    has_rate: dict[str, bool] = {}
    for name, switch in _ONLY.items():
        each = arguments.pop(name, None)
        has_rate[name] = each is not None or only[switch]
        if each is None:
            continue
        if only[switch]:
            to.drop(each, f"{switch} leaves that part out")
        elif _is_zero(each.value):
            part = "text encoder" if name == "text_encoder_lr" else "UNet"
            to.put(each, f"network.{switch}", True, f"a rate of 0 does not train the {part}")
        else:
            rates = cast("list[object]", each.value) if isinstance(each.value, list | tuple) else [each.value]
            to.put(each, f"optimizer.{name}", rates[0] if len(rates) == 1 else rates)
    rate = arguments.pop("learning_rate", None)
    if rate is not None and (rate.key or not all(has_rate.values())):
        to.put(rate, "optimizer.learning_rate")
    warmup = arguments.pop("lr_warmup_steps", None)
    if warmup is not None:
        _translate_warmup(warmup, to)


def _switch(arguments: dict[str, Given], name: str, to: Translation) -> bool:
    each = arguments.pop(name, None)
    is_on = to.is_on(each)
    if each is not None:
        to.put(each, f"network.{name}", is_on)
    return is_on


def _is_zero(value: object) -> bool:
    rates = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    try:
        return all(number(rate) == 0 for rate in rates)
    except ValueError:
        return False


def _translate_warmup(each: Given, to: Translation) -> None:
    """Whole steps, a share of the run below 1, or a percentage with its sign."""
    text = str(each.value).strip()
    try:
        amount = number(text.removesuffix("%"))
    except ValueError:
        to.refuse(each, 'must be a number of steps, a share below 1 or a percentage such as "10%"')
        return
    if amount < 0 or (text.endswith("%") and amount > 100):
        to.refuse(each, "is out of range", setting="optimizer.lr_warmup_steps")
        return
    value = f"{amount:g}%" if text.endswith("%") and amount else amount if 0 < amount < 1 else int(amount)
    to.settings["optimizer.lr_warmup_steps"] = value
    outcome = "changed" if each.reason else "mapped"
    to.note(each, outcome, "optimizer.lr_warmup_steps", value, each.reason)
