"""Whether what an event says is of the kind it should be: a viewer reads files that anything may have written. Pure."""

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def is_sound(event: Any) -> bool:
    """Whether every value of a dataclass has the type its field declares; whole numbers stand for any."""
    return all(_fits(getattr(event, name), kind) for name, kind in _kinds(type(event)))


@cache
def _kinds(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, get_args(kind)[0]) for each in value)  # pyright: ignore[reportUnknownVariableType]
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, get_args(kind)[1]) for each in value.values())  # pyright: ignore[reportUnknownVariableType]
    if is_dataclass(kind):
        return isinstance(value, kind) and is_sound(value)  # pyright: ignore[reportArgumentType]
    return isinstance(value, (int, float) if kind is float else kind)
