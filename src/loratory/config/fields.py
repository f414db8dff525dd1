"""The schema as a flat list of settings, `table.key`, for files, the command line and the documentation."""

import difflib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from loratory.config.schema import Config, SettingsTable

TABLES: dict[str, type[SettingsTable]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsTable)
}
"""The tables of a configuration, in their order."""

FIELDS: dict[str, FieldInfo] = {name: field for name, field in Config.model_fields.items() if name not in TABLES} | {
    f"{table}.{key}": field for table, model in TABLES.items() for key, field in model.model_fields.items()
}
"""Every setting by its full name; the two outside the tables have no dot."""

OTHER_NAMES = {
    "LoRA_type": "network.network_type",
    "LyCORIS_preset": "network.lycoris_preset",
    "algo": "network.network_type",
    "epoch": "training.max_train_epochs",
    "epochs": "training.max_train_epochs",
    "keep_n_tokens": "caption.keep_tokens",
    "lr": "optimizer.learning_rate",
    "lr_warmup": "optimizer.lr_warmup_steps",
    "max_resolution": "dataset.resolution",
    "network_module": "network.network_type",
    "optimizer": "optimizer.optimizer_type",
    "max_epochs": "training.max_train_epochs",
    "pretrained_model": "model.pretrained_model_name_or_path",
    "sample_steps": "sample.steps",
    "sdpa": "training.cross_attention",
    "sdxl": "model.family",
    "steps": "training.max_train_steps",
    "unit": "network.block_size",
    "use_cp": "network.use_tucker",
    "v2": "model.family",
    "xformers": "training.cross_attention",
}
"""What the same setting is called in kohya's tools or in people's memory."""

_LONGEST_NAME = 64


def places_of(key: str) -> list[str]:
    """The full names of the settings called `key`, e.g. two for "seed"."""
    return [name for name in FIELDS if name == key or name.endswith(f".{key}")]


def nearest(name: str) -> str:
    """What a person who wrote the unknown `name` ("table.key" or "key") may have meant; "" when nothing is near."""
    table, _, key = name.rpartition(".")
    if len(key) > _LONGEST_NAME:
        return ""
    elsewhere = places_of(key)
    if elsewhere:
        return " or ".join(elsewhere)
    if key in OTHER_NAMES:
        return OTHER_NAMES[key]
    own = {full.rpartition(".")[2]: full for full in FIELDS if full.startswith(f"{table}.")}
    everywhere = {full.rpartition(".")[2]: full for full in FIELDS}
    for candidates in (own, everywhere):
        found = difflib.get_close_matches(key, candidates, n=1, cutoff=0.75)
        if found:
            return candidates[found[0]]
    return ""


def nearest_table(name: str) -> str:
    """The table a person who wrote the unknown `[name]` may have meant; "" when nothing is near."""
    found = difflib.get_close_matches(name[:_LONGEST_NAME], TABLES, n=1, cutoff=0.6)
    return found[0] if found else ""


def member_types(annotation: Any) -> Iterator[Any]:
    """The plain types a setting's annotation consists of, without None, lists as their element types."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from member_types(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple):
        for member in get_args(annotation):
            yield from member_types(member)
    elif annotation not in (types.NoneType, Ellipsis):
        yield origin or annotation


def holds_path(field: FieldInfo) -> bool:
    """Whether a setting is a path or a list of paths."""
    return Path in member_types(field.annotation)


def holds_only_text(field: FieldInfo) -> bool:
    """Whether nothing but text makes sense for a setting, as for names and paths."""
    is_list = any(get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation)))
    return not is_list and set(member_types(field.annotation)) <= {str, Path}
