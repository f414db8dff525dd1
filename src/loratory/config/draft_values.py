"""Settings as a person types them: text into a TOML value, a value back into text, and what there is to choose from."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import tomli_w
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from loratory.config.fields import FIELDS, TABLES, holds_only_text
from loratory.config.problems import Setting, refused
from loratory.config.schema import CONFLICT, Config
from loratory.config.schema.base import ZeroIsOff

_TYPED = "typed"


def parse_text(key: str, text: str) -> Any:
    """What `text` means as the value of the setting `key`: a TOML value, or itself where it is none.

    A name such as 2024 stays text where nothing else makes sense, and a list may be typed without its brackets.
    """
    text = text.strip()
    field = FIELDS[key]
    value = toml_value(text)
    if holds_only_text(field):
        return value if isinstance(value, str) else text
    if not isinstance(value, list) and _is_list(field) and refusal(key, value):
        listed = toml_value(f"[{text}]")
        return listed if isinstance(listed, list) else [value]
    return value


def toml_value(text: str) -> Any:
    """`text` as a TOML value, or as itself when it is none."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text  # text with a line break could hold further keys


def typed(key: str, value: Any) -> str:
    """The text that `parse_text` reads back as `value`; None is ""."""
    if value is None:
        return ""
    if isinstance(value, str) and value and value == value.strip() and parse_text(key, value) == value:
        return value
    return inline(value)


def inline(value: Any) -> str:
    """A value as TOML on one line, nested lists and tables included."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(inline(each) for each in cast('list[Any]', value))}]"
    if isinstance(value, Mapping):
        pairs = [f"{_key(key)} = {inline(each)}" for key, each in cast("Mapping[str, Any]", value).items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def refusal(key: str, value: Any) -> str:
    """Why `value` cannot be the value of `key`, whatever the others are, as in a file; "" when it can."""
    table, _, name = key.rpartition(".")
    place = (table, name) if table else (name,)
    try:
        Config.model_validate({table: {name: value}} if table else {name: value})
    except ValidationError as error:
        wrong = any(
            detail["loc"][: len(place)] == place and detail["type"] not in (CONFLICT, "missing")
            for detail in error.errors(include_url=False)
        )
        if wrong:
            begin = f"{_TYPED}: {key}"
            lines = refused(error, {key: Setting(key, value, _TYPED)}, _TYPED)
            return next(line for line in lines if line.startswith(begin)).removeprefix(f"{_TYPED}: ")
    return ""


def choices(key: str) -> tuple[Any, ...]:
    """The values among which a setting is chosen, None for "left out" first; () where it is typed."""
    members = list(_union(FIELDS[key].annotation))
    optional = (None,) if NoneType in members else ()
    kinds = [member for member in members if member is not NoneType]
    if kinds == [bool]:
        return (*optional, False, True)
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return (*optional, *get_args(kinds[0]))
    return ()


def may_be_left_out(key: str) -> bool:
    """Whether a setting can have no value at all."""
    return NoneType in _union(FIELDS[key].annotation)


def zero_is_off(key: str) -> bool:
    """Whether 0 says that a setting has no value."""
    return any(each is ZeroIsOff for each in FIELDS[key].metadata)


def plain(key: str, value: Any) -> Any:
    """A value as a file would hold it, whether it comes from one or from the schema; None for "left out"."""
    if zero_is_off(key) and type(value) in (int, float) and value == 0:
        return None
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in cast("list[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are the same; true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def default(key: str, table: Mapping[str, Any]) -> Any:
    """The default of a setting as a plain value; table: the values of its table, which some follow."""
    field = FIELDS[key]
    if field.default_factory is None:
        return _fixed_default(key)
    prefix = key.rpartition(".")[0]
    others = TABLES[prefix].model_fields
    settled = {name: other.get_default() for name, other in others.items() if other.default_factory is None}
    settled |= {name: value for name, value in table.items() if not refusal(f"{prefix}.{name}", value)}
    return plain(key, field.get_default(call_default_factory=True, validated_data=settled))


@cache
def _fixed_default(key: str) -> Any:
    return None if FIELDS[key].is_required() else plain(key, FIELDS[key].get_default())


def _is_list(field: FieldInfo) -> bool:
    return any(get_origin(member) is tuple for member in _union(field.annotation))


def _union(annotation: Any) -> list[Any]:
    """The members of a type that may be one of several, without what else is said of them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _union(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _union(each)]
    return [annotation]


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else inline(name)


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file by their full names; what is none is left out, the preset too."""
    found: dict[str, Any] = {}
    for name, content in document.items():
        if name in TABLES and isinstance(content, Mapping):
            table = cast("Mapping[str, Any]", content)
            found.update({f"{name}.{key}": value for key, value in table.items() if f"{name}.{key}" in FIELDS})
        elif name in FIELDS and name != "preset":
            found[name] = content
    return found
