"""Values as other tools write them, in the type a setting wants: "0.0001", "True", "768,768", 64.0."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from loratory.config.describe import describe_field
from loratory.config.fields import FIELDS

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def fitted(setting: str, value: object) -> Any:
    """`value` in the type that `setting` (its full name) takes, as a TOML file would have it.

    Numbers and truth values may be text, whole numbers may have a decimal point, lists may be text with commas.
    Raises ValueError with what the setting must be.
    """
    # The spaces around a separator or a prefix may matter; those around a path or a name do not.
    literal = [value] if isinstance(value, str) and setting.startswith("caption.") and writable(value) else []
    for reading in (*literal, *_readings(value)):
        try:
            checked = _adapter(setting).validate_python(reading)
        except (ValidationError, OverflowError):
            continue
        return checked if isinstance(checked, float) else reading
    raise ValueError(f"must be {describe_field(FIELDS[setting])}")


def number(value: object) -> float:
    """A finite number, from text too. Raises ValueError."""
    try:
        result = float(cast("Any", value))
    except (TypeError, OverflowError, ValueError):
        raise ValueError("must be a number") from None
    if not math.isfinite(result) or isinstance(value, bool):
        raise ValueError("must be a finite number")
    return result


def whole(value: object) -> int:
    """A whole number, from text and from 64.0 too. Raises ValueError."""
    result = number(value)
    if result != int(result):
        raise ValueError("must be a whole number")
    return int(result)


def flag(value: object) -> bool:
    """A truth value, from text and from 0 and 1 too. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _WORDS | {"1": True, "0": False}:
        return (_WORDS | {"1": True, "0": False})[value.strip().lower()]
    raise ValueError("must be true or false")


def is_off(value: object) -> bool:
    """Whether a value switches something off: false or 0, as text too."""
    return str(value).strip().lower() in ("false", "0", "0.0")


def is_empty(value: object) -> bool:
    """Whether a value says nothing: none, empty text, an empty list."""
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() == "none"
    return value is None or value == []


def writable(value: object) -> bool:
    """Whether a value can stand in a UTF-8 file (JSON allows half characters)."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    if isinstance(value, list | tuple):
        return all(writable(each) for each in cast("list[object]", value))
    return True


@cache
def _adapter(setting: str) -> TypeAdapter[Any]:
    field = FIELDS[setting]
    config = ConfigDict(strict=True, allow_inf_nan=False)
    annotation = cast("Any", field.annotation)
    # As a value: to a type checker the items of an annotation have to be written out.
    constrained = cast("Any", Annotated)[annotation, *field.metadata] if field.metadata else annotation
    return TypeAdapter(constrained, config=config)


def _readings(value: object) -> Iterator[object]:
    """What a value may mean, the most literal first."""
    if not writable(value):
        return
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _WORDS:
            yield _WORDS[text.lower()]
        for read in (int, float):
            try:
                yield read(text)
            except ValueError:
                continue
        parts = [part.strip() for part in text.strip("()[]").split(",")]
        if len(parts) > 1 or text[:1] in "([":
            yield from _lists([part for part in parts if part])
        yield text
    elif isinstance(value, float):
        if value.is_integer():
            yield int(value)
        yield value
        yield f"{value:g}"
    elif isinstance(value, int):
        yield value
        if value in (0, 1):
            yield bool(value)
        yield float(value) if abs(value) < 2**53 else value
        yield str(value) if abs(value) < 2**64 else ""
    elif isinstance(value, list | tuple):
        items = list(cast("list[object]", value))
        yield items
        if all(isinstance(item, str) for item in items):
            yield from _lists([str(item) for item in items])
        if len(items) == 1:
            yield from _readings(items[0])
    else:
        yield value


def _lists(parts: list[str]) -> Iterator[list[object]]:
    for read in (int, float):
        try:
            yield [read(part) for part in parts]
        except ValueError:
            continue
    yield list(parts)
