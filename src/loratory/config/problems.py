"""What is wrong with a configuration, one line each: origin, key, value, reason, and what may have been meant."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from loratory.config.describe import describe_field, show
from loratory.config.fields import FIELDS, TABLES, nearest, nearest_table, places_of
from loratory.config.schema import CONFLICT, SubsetSettings

SUBSETS = ("dataset", "subsets")

_LIMITS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_unicode": "leads through a name that is not valid UTF-8: rename that folder",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}


class Setting(NamedTuple):
    """One value as somebody wrote it. key: "table.key". origin: the file, or "--set"."""

    key: str
    value: Any
    origin: str


def complaint(setting: Setting, reason: str) -> str:
    """`origin: table.key = value: reason`."""
    return f"{setting.origin}: {show(setting.key)[1:-1]} = {show(setting.value)}: {reason}"


def unknown_key(setting: Setting) -> str:
    """The complaint about a key that is in no table, or in another one."""
    table, _, key = setting.key.rpartition(".")
    places = places_of(key)
    if places:
        where = " or ".join(f"[{place.rpartition('.')[0]}]" if "." in place else "the top" for place in places)
        return complaint(setting, f"belongs in {where}, not in [{table}]" if table else f"belongs in {where}")
    meant = nearest(setting.key)
    return complaint(setting, "no such setting" + (f" (did you mean {meant}?)" if meant else ""))


def unknown_table(name: str, origin: str) -> str:
    """The complaint about a table that does not exist."""
    if places_of(name):
        return unknown_key(Setting(name, {}, origin))
    meant = nearest_table(name)
    tables = f"did you mean [{meant}]?" if meant else "the tables are " + ", ".join(TABLES)
    return f"{origin}: [{show(name)[1:-1]}]: no such table ({tables})"


def refused(error: ValidationError, given: Mapping[str, Setting], origin: str) -> list[str]:
    """The complaints in a schema error. given: the values by full name; origin: the file for what is missing."""
    by_key: dict[str, list[ErrorDetails]] = defaultdict(list)
    lines: list[str] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == CONFLICT:
            lines += _conflicts(detail, given, origin)
        elif detail["loc"][:2] == SUBSETS and len(detail["loc"]) > 3:
            lines.append(_subset_complaint(detail, given["dataset.subsets"]))
        elif detail["type"] != "default_factory_not_called":
            by_key[".".join(str(part) for part in detail["loc"][: _depth(detail)])].append(detail)
    for key, details in by_key.items():
        if details[0]["type"] == "missing":
            lines.append(f"{origin}: {key}: is required")
        else:
            lines.append(complaint(given[key], _reason(key, given[key].value, details)))
    return lines


def _subset_complaint(detail: ErrorDetails, given: Setting) -> str:
    """The complaint about one key of one of the tables `[[dataset.subsets]]`, which are counted from 1."""
    key = str(detail["loc"][3])
    setting = Setting(f"dataset.subsets[{int(detail['loc'][2]) + 1}].{key}", detail["input"], given.origin)
    if detail["type"] == "missing":
        return f"{given.origin}: {setting.key}: is required"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, SubsetSettings.model_fields, n=1)
        elsewhere = " or ".join(places_of(key))
        meant = (
            f"it is set for all folders, in {elsewhere}" if elsewhere else f"did you mean {near[0]}?" if near else ""
        )
        return complaint(setting, "no such setting of a subset" + (f" ({meant})" if meant else ""))
    return complaint(setting, _reason_of(SubsetSettings.model_fields[key], detail["input"], [detail]))


def _depth(detail: ErrorDetails) -> int:
    return 2 if detail["loc"][0] in TABLES else 1


def _conflicts(detail: ErrorDetails, given: Mapping[str, Setting], origin: str) -> Iterable[str]:
    table = ".".join(str(part) for part in detail["loc"])
    for key, reason in detail.get("ctx", {})["conflicts"]:
        name = f"{table}.{key}" if table else key
        if name in given:
            yield complaint(given[name], reason)
        else:
            default = FIELDS[name].get_default()
            shown = "" if default is None else f" = {show(default)} (the default)"
            yield f"{origin}: {name}{shown}: {reason}"


def _reason(key: str, value: object, details: list[ErrorDetails]) -> str:
    """Why a value is refused; a value that has the right type in one branch of a union gets that branch's reason."""
    return _reason_of(FIELDS[key], value, details)


def _reason_of(field: FieldInfo, value: object, details: list[ErrorDetails]) -> str:
    for detail in details:
        if detail["type"] in _LIMITS:
            limits = {name: _short(limit) for name, limit in detail.get("ctx", {}).items()}
            return _LIMITS[detail["type"]].format(**limits)
    for detail in details:
        if detail["type"] == "value_error":
            return detail["msg"].removeprefix("Value error, ")
    reason = f"must be {describe_field(field)}"
    if isinstance(value, str):
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        near = difflib.get_close_matches(value[:64].lower(), choices, n=1)
        if near:
            return f'{reason} (did you mean "{near[0]}"?)'
        if _is_quoted_value(value):
            return f"{reason}; write it without quotes: {value.strip().lower()}"
    return reason


def _short(limit: object) -> object:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _is_quoted_value(text: str) -> bool:
    if text.strip().lower() in ("true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
