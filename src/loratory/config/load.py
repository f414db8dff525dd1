"""A configuration from its TOML file, its preset and the command line; and back into a file.

Everything that is wrong is reported at once, each with its origin, key, value and reason.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from loratory import __version__
from loratory.config.describe import show
from loratory.config.fields import FIELDS, TABLES, holds_only_text, holds_path, places_of
from loratory.config.kohya.dataset_toml import read_dataset_config
from loratory.config.presets import inherited_documents
from loratory.config.problems import Setting, complaint, refused, unknown_key, unknown_table
from loratory.config.schema import EMBEDDED_MODEL, LENGTHS, Config, SubsetSettings
from loratory.config.toml_files import expanded, read_toml
from loratory.errors import LoratoryError

COMMAND_LINE = "--set"

FROM_PRESET = "from_preset"
"""The key under which a written-out configuration names its preset for the record, without inheriting again."""

_MODEL = "model.pretrained_model_name_or_path"
_LENGTHS = frozenset(f"training.{key}" for key in LENGTHS)
_MODEL_ENDINGS = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})
_MOST_COMPLAINTS = 40


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file, on top of its preset, below `--set` assignments.

    overrides: `table.key=value`, or `key=value` where the key is unique; values are written as in TOML, and what is no
    TOML value is text. Relative paths belong to the file's folder, those of `overrides` to the current one; every path
    of the result is absolute. Raises LoratoryError with one line for each thing that is wrong.
    """
    path = Path(path)
    return resolve(read_toml(path), path, overrides)


def resolve(document: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()) -> Config:
    """`load_config` for the contents of a file that would be at `path`."""
    folder = path.absolute().parent
    complaints: list[str] = []
    assigned = list(_assignments(overrides, complaints))
    preset = next((setting for setting in reversed(assigned) if setting.key == "preset"), None)
    preset = preset or _preset_of(document, str(path), complaints)

    given: dict[str, Setting] = {}
    if preset is not None:
        if preset.origin == COMMAND_LINE:
            given = _inherited(preset, Path.cwd(), complaints)
        elif FROM_PRESET not in document:
            given = _inherited(preset, folder, complaints)
        given["preset"] = preset
    _put(given, list(_settings(document, str(path), complaints)))
    _put(given, assigned)
    _expand_dataset_config(given, folder, complaints)

    try:
        config = Config.model_validate(_tree(given, folder))
    except ValidationError as error:
        complaints += refused(error, given, str(path))
    else:
        if not complaints:
            return config
    shown = complaints[:_MOST_COMPLAINTS]
    if len(complaints) > len(shown):
        shown.append(f"… and {len(complaints) - len(shown)} more.")
    raise LoratoryError("\n".join(shown))


def dump_config(config: Config) -> str:
    """The configuration as TOML with every setting spelled out, which `load_config` reads back unchanged.

    Settings that are not set (None) are left out, as TOML has no word for them. The preset is named for the record and
    not inherited again, so the file keeps its meaning when the preset changes.
    """
    document = config.model_dump(mode="json", exclude_none=True)
    preset = document.pop("preset", None)
    record = {} if preset is None else {FROM_PRESET: preset}
    header = f"# Written by Loratory {__version__}: every setting, resolved.\n"
    return header + tomli_w.dumps(record | document)


def _preset_of(document: Mapping[str, Any], origin: str, complaints: list[str]) -> Setting | None:
    named = [Setting(key, document[key], origin) for key in ("preset", FROM_PRESET) if key in document]
    if len(named) > 1:
        complaints.append(complaint(named[1], "stands beside preset; remove one of them"))
    if not named:
        return None
    if not isinstance(named[0].value, str):
        complaints.append(complaint(named[0], "must be text: the name of a preset or the path of a TOML file"))
        return None
    return named[0]


def _inherited(preset: Setting, folder: Path, complaints: list[str]) -> dict[str, Setting]:
    given: dict[str, Setting] = {}
    try:
        for origin, document in inherited_documents(preset.value, folder):
            _put(given, list(_settings(document, str(origin), complaints)))
    except LoratoryError as error:
        complaints.append(complaint(preset, error.message))
    return given


def _settings(document: Mapping[str, Any], origin: str, complaints: list[str]) -> Iterator[Setting]:
    """The settings of one file; whatever is none is complained about."""
    for name, content in document.items():
        if name in TABLES:
            if not isinstance(content, dict):
                complaints.append(complaint(Setting(name, content, origin), f"must be a table: [{name}]"))
                continue
            for key, value in cast("dict[str, Any]", content).items():
                setting = Setting(f"{name}.{key}", value, origin)
                if setting.key in FIELDS:
                    yield setting
                else:
                    # Lines that will not be shown are only counted: looking for what was meant takes 0.4 ms each.
                    complaints.append(unknown_key(setting) if len(complaints) < _MOST_COMPLAINTS else "")
        elif name in ("preset", FROM_PRESET):
            continue
        elif name in FIELDS:
            yield Setting(name, content, origin)
        elif isinstance(content, dict):
            complaints.append(unknown_table(name, origin))
        else:
            unknown = Setting(name, content, origin)
            complaints.append(unknown_key(unknown) if len(complaints) < _MOST_COMPLAINTS else "")


def _assignments(overrides: Sequence[str], complaints: list[str]) -> Iterator[Setting]:
    for override in overrides:
        key, equals, text = override.partition("=")
        setting = Setting(key.strip(), _toml_value(text.strip()), COMMAND_LINE)
        places = [setting.key] if setting.key in FIELDS else places_of(setting.key)
        if not _is_utf8(override):
            complaints.append(f"{COMMAND_LINE} {override!a}: is not UTF-8 text")
        elif not equals:
            complaints.append(f"{COMMAND_LINE} {show(override)}: write table.key=value")
        elif not places or ("." in setting.key and setting.key not in FIELDS):
            complaints.append(unknown_key(setting))
        elif len(places) > 1:
            complaints.append(complaint(setting, f"could be {' or '.join(places)}; give the full name"))
        else:
            yield Setting(places[0], _fitting(FIELDS[places[0]], setting.value, text.strip()), COMMAND_LINE)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml_value(text: str) -> Any:
    """`text` as a TOML value, or as itself when it is none."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    # Text with a line break could hold further keys.
    return document["value"] if len(document) == 1 else text


def _fitting(field: FieldInfo, value: Any, text: str) -> Any:
    """A name such as 2024 or true is still a name where nothing but text makes sense."""
    return text if holds_only_text(field) and not isinstance(value, str) else value


def _put(given: dict[str, Setting], layer: Sequence[Setting]) -> None:
    """Lays settings over those below. One way to give the run's length replaces the others, which exclude it."""
    if any(setting.key in _LENGTHS for setting in layer):
        for key in _LENGTHS:
            given.pop(key, None)
    given.update((setting.key, setting) for setting in layer)


def _expand_dataset_config(given: dict[str, Setting], folder: Path, complaints: list[str]) -> None:
    """Puts the contents of an sd-scripts dataset TOML in the place of its name.

    As in sd-scripts they win over the configuration; `--set` wins over both. Beside `dataset.subsets` the name stays,
    which the schema refuses.
    """
    named = given.get("dataset.dataset_config")
    if named is None or "dataset.subsets" in given or not isinstance(named.value, str) or not named.value.strip():
        return
    path = (Path.cwd() if named.origin == COMMAND_LINE else folder) / expanded(named.value)
    try:
        read = read_dataset_config(path)
    except LoratoryError as error:
        complaints.append(complaint(named, error.message))
        return
    del given["dataset.dataset_config"]
    for key, value in (read.settings | {"dataset.subsets": read.subsets}).items():
        if key not in given or given[key].origin != COMMAND_LINE:
            given[key] = Setting(key, value, str(path))


def _tree(given: Mapping[str, Setting], folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {table: {} for table in TABLES}
    for name, field in FIELDS.items():
        table, _, key = name.rpartition(".")
        branch = tree[table] if table else tree
        if name in given:
            base = Path.cwd() if given[name].origin == COMMAND_LINE else folder
            value = given[name].value
            if name == _MODEL and isinstance(value, str):
                value = absolute_model_source(value, base)
            if name == "dataset.subsets" and isinstance(value, list):
                branch[key] = [_absolute_subset(each, base) for each in cast("list[object]", value)]
            else:
                branch[key] = _absolute(value, base) if holds_path(field) else value
        elif isinstance(field.default, Path):
            branch[key] = folder / field.default
    return tree


def _absolute_subset(subset: object, base: Path) -> object:
    if not isinstance(subset, dict):
        return subset
    fields = SubsetSettings.model_fields
    return {
        key: _absolute(value, base) if key in fields and holds_path(fields[key]) else value
        for key, value in cast("dict[str, object]", subset).items()
    }


def _absolute(value: object, base: Path) -> object:
    if isinstance(value, list):
        return [_absolute(each, base) for each in cast("list[object]", value)]
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return base / expanded(value)
    return value


def absolute_model_source(source: str, base: Path) -> str:
    """A base model as an absolute path if it is one seen from `base`; the embedded model's name and hub ids
    ("owner/name") stay as they are."""
    if not source.strip() or "\0" in source or source == EMBEDDED_MODEL:
        return source
    path = base / expanded(source)
    is_path = (
        source.startswith(("~", ".", "/"))
        or source.count("/") > 1
        or Path(source).suffix.lower() in _MODEL_ENDINGS
        or _exists(path)
    )
    return str(path) if is_path else source


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be a file's
        return False
