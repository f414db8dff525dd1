"""What the tables of a configuration have in common: strict types, and checks across several settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

CONFLICT = "settings_conflict"

# Most file systems allow 255; the rest is for "-step00001000.safetensors" and a temporary name.
_LONGEST_NAME_BYTES = 200


class Conflict(NamedTuple):
    """A setting whose value is fine alone and wrong beside the others.

    key: its name in its table ("table.key" for a conflict between tables). reason: one sentence without the value.
    """

    key: str
    reason: str


class SettingsTable(BaseModel):
    """One table of the configuration: immutable, every key known, no silent conversion between types.

    The docstring under each field is its documentation, in errors, in `docs/settings.md` and on screen.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def conflicts(self) -> Iterable[Conflict]:
        """Every disagreement between the settings of this table."""
        return ()

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "SettingsTable":
        found = tuple(self.conflicts())
        if found:
            text = "; ".join(f"{key}: {reason}" for key, reason in found)
            raise PydanticCustomError(CONFLICT, "{text}", {"text": text, "conflicts": found})
        return self


def changed(table: BaseModel, key: str) -> bool:
    """Whether a setting differs from its default."""
    field = type(table).model_fields[key]
    return getattr(table, key) != field.get_default(call_default_factory=True, validated_data=dict(table))


def _path_from_text(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("is empty; leave the key out instead")
    if "\0" in value:
        raise ValueError("contains a NUL character, which no path can")
    return Path(value)


def _tuple_from_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _none_from_zero(value: object) -> object:
    return None if type(value) in (int, float) and value == 0 else value


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("contains a NUL character")
    return value


def _file_name(value: str) -> str:
    if not value.isprintable() or set(value) & set("/\\") or not value.strip(". "):
        raise ValueError("must be a file name: printable characters, no slash, not only dots")
    if len(value.encode()) > _LONGEST_NAME_BYTES:
        raise ValueError(f"must have at most {_LONGEST_NAME_BYTES} bytes, so that endings fit behind it")
    return value


def _file_ending(value: str) -> str:
    if not value.startswith(".") or len(value) < 2 or not value.isprintable() or set(value) & set("/\\ "):
        raise ValueError('must be an ending with its dot, such as ".txt"')
    return value


FilePath = Annotated[Path, BeforeValidator(_path_from_text)]
"""A path; text becomes one, empty text is refused (`Path("")` would mean the current folder)."""

Listed = BeforeValidator(_tuple_from_list)
"""Takes TOML's lists where the schema holds tuples, which keep the settings immutable."""

ZeroIsOff = BeforeValidator(_none_from_zero)
"""0 means "not set", so that a file can switch off what its preset sets (TOML has no null)."""

PlainText = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
FileName = Annotated[str, AfterValidator(_file_name)]
FileEnding = Annotated[str, AfterValidator(_file_ending)]
OptionalCount = Annotated[Annotated[int, Field(ge=1)] | None, ZeroIsOff]
OptionalAmount = Annotated[Annotated[float, Field(gt=0)] | None, ZeroIsOff]
Share = Annotated[float, Field(ge=0, le=1)]
