"""Settings in words: what a setting may be, and how a wrong value is shown."""

import reprlib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SIMPLE = {bool: "true or false", str: "text", Path: "a path", dict: "a table"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths", dict: "tables"}


def describe_field(field: FieldInfo) -> str:
    """What a setting may be, as in "a whole number from 1 to 12"."""
    return describe_type(field.annotation, field.metadata)


def describe_type(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """What a value of a type with these constraints may be; optional types are described without their None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0], [*constraints, *arguments[1:]])
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return " or ".join(dict.fromkeys(describe_type(member, constraints) for member in members))
    if origin is Literal:
        choices = [show(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_plural(arguments[0])}"
    if annotation is int:
        return "a whole number" + _range(constraints)
    if annotation is float:
        return "a number" + _range(constraints)
    return _SIMPLE.get(origin or annotation, "a value")


def _plural(annotation: Any) -> str:
    constraints: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        constraints += more
    plain = get_origin(annotation) or annotation
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return "tables"
    return _PLURAL.get(plain, "values") + _range(constraints)


def _range(constraints: Sequence[Any]) -> str:
    limits = [
        limit
        for constraint in constraints
        for limit in (constraint.metadata if isinstance(constraint, FieldInfo) else [constraint])
    ]
    low = next((limit for limit in limits if isinstance(limit, Ge | Gt)), None)
    high = next((limit for limit in limits if isinstance(limit, Le | Lt)), None)
    step = next((f", a multiple of {limit.multiple_of}" for limit in limits if isinstance(limit, MultipleOf)), "")
    if isinstance(low, Ge) and isinstance(high, Le):
        return f" from {low.ge} to {high.le}{step}"
    words = ""
    if low is not None:
        words += f", {low.ge} or more" if isinstance(low, Ge) else f", above {low.gt}"
    if high is not None:
        words += f", at most {high.le}" if isinstance(high, Le) else f", below {_short_power(high.lt)}"
    return words + step


def _short_power(limit: Any) -> str:
    is_large_power = isinstance(limit, int) and limit > 2**32 and limit & (limit - 1) == 0
    return f"2^{limit.bit_length() - 1}" if is_large_power else str(limit)


class _TomlLike(reprlib.Repr):
    """Values as a TOML file would have them, cut to one short line, with control characters spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 60, 60, 40

    def repr_str(self, x: str, level: int) -> str:
        cut = x if len(x) <= self.maxstring else x[: self.maxstring - 1] + "…"
        visible = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in cut)
        return f'"{visible}"'

    def repr_bool(self, x: bool, level: int) -> str:
        return str(x).lower()

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        return self.repr_list(list(x), level)

    def repr_PosixPath(self, x: Path, level: int) -> str:
        return self.repr_str(str(x), level)


_toml_like = _TomlLike()


def show(value: object) -> str:
    """A value on one short line, safe to print whatever a file holds."""
    return _toml_like.repr(value)
