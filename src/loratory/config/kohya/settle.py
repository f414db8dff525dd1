"""Settings that exclude each other, settled so that the configuration loads; what gives way is reported."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from loratory.config.fields import FIELDS, TABLES
from loratory.config.kohya.translation import MODEL, Translation
from loratory.config.schema import CONFLICT, EMBEDDED_MODEL, Config
from loratory.errors import LoratoryError

STAND_INS: dict[str, object] = {MODEL: EMBEDDED_MODEL, "dataset.train_data_dir": "."}
"""What holds the place of required settings that the input does not name."""

_MOST_ROUNDS = 60
_RATES = ("optimizer.learning_rate", "optimizer.unet_lr", "optimizer.text_encoder_lr")


def settle(to: Translation, missing: list[str]) -> Config:
    """The configuration that `to.settings` make, with stand-ins for `missing`.

    Of settings that exclude each other, the idle one is taken out of `to.settings`, or changed to the nearest that
    works, and the report says so. Raises LoratoryError when that does not help.
    """
    conflicts: list[tuple[str, str]] = []
    for _ in range(_MOST_ROUNDS):
        try:
            return Config.model_validate(tree({key: STAND_INS[key] for key in missing} | to.settings))
        except ValidationError as error:
            conflicts = list(_conflicts(error))
        for key, reason in conflicts:
            _give_way(key, reason, to)
    raise LoratoryError("The settings contradict each other: " + "; ".join(f"{k}: {r}" for k, r in conflicts))


def tree(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by full name as the tables of a configuration."""
    tables: dict[str, Any] = {table: {} for table in TABLES}
    for name, value in settings.items():
        table, _, key = name.rpartition(".")
        tables[table][key] = value
    return tables


def _conflicts(error: ValidationError) -> Iterator[tuple[str, str]]:
    for detail in error.errors(include_url=False):
        if detail["type"] == CONFLICT:
            table = ".".join(str(part) for part in detail["loc"])
            for key, reason in detail.get("ctx", {})["conflicts"]:
                yield (f"{table}.{key}" if table else key), reason
        elif detail["loc"][:2] == ("dataset", "subsets"):
            place = ".".join(str(part) for part in detail["loc"][3:])
            raise LoratoryError(f"dataset.subsets: {place}: {detail['msg']}.")
        else:
            yield ".".join(str(part) for part in detail["loc"][:2]), detail["msg"]


def _give_way(key: str, reason: str, to: Translation) -> None:
    settings = to.settings
    if key == "dataset.resolution":
        sides = settings[key] if isinstance(settings[key], list) else [settings[key]]
        even = [max(side // 8 * 8, 32) for side in sides]
        to.change(key, even if len(even) > 1 else even[0], "sides are multiples of 8 pixels, as in the latents")
    elif key in ("dataset.max_bucket_reso", "dataset.min_bucket_reso"):
        resolution = settings.get("dataset.resolution", FIELDS["dataset.resolution"].default)
        sides = resolution if isinstance(resolution, list) else [resolution]
        limit = max(sides) if "max" in key else min(sides)
        to.change(key, limit, f"has to be {limit} {'or more' if 'max' in key else 'or less'} at this resolution")
    elif key == "dataset.subsets" or key.startswith("dataset.conditioning") or key == "loss.masked_loss":
        _settle_masks(reason, to)
    elif key == "optimizer.learning_rate":
        for rate in _RATES:
            if rate in settings:
                to.take_back(rate, "a rate of 0 trains nothing", "not honoured")
    elif key == "network.block_size" and settings.get("network.network_type") == "dylora":
        to.change(key, 1, reason)
    elif "averages its weights" in reason or "sets its own rate" in reason:
        if "optimizer.lr_scheduler_type" in settings:
            to.take_back("optimizer.lr_scheduler_type", reason, "not honoured")
        to.change("optimizer.lr_scheduler", "adafactor" if "sets its own rate" in reason else "constant", reason)
    elif key in settings:
        is_idle = "does nothing" in reason or key.startswith("optimizer")
        to.take_back(key, reason, "ignored" if is_idle else "not honoured")


def _settle_masks(reason: str, to: Translation) -> None:
    if to.settings.get("loss.masked_loss"):
        to.take_back("loss.masked_loss", reason, "not honoured")
        return
    if "dataset.conditioning_data_dir" in to.settings:
        to.take_back("dataset.conditioning_data_dir", "masks are used with masked_loss alone", "ignored")
    for subset in to.settings.get("dataset.subsets", []):
        subset.pop("conditioning_data_dir", None)
    to.hints.append("The mask pictures are not used without masked_loss.")
