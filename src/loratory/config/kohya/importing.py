"""A file of sd-scripts or of the kohya_ss GUI as a configuration of Loratory, with an account of every key."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loratory.config.fields import FIELDS
from loratory.config.kohya.arguments import translate
from loratory.config.kohya.command_line import Command, network_items, read_command
from loratory.config.kohya.dataset_toml import read_dataset_config
from loratory.config.kohya.gui_json import KNOWN_KEYS, Arguments, gui_arguments
from loratory.config.kohya.metadata import metadata_arguments, read_metadata
from loratory.config.kohya.report import Entry, Given
from loratory.config.kohya.settings import CONVERTED, IGNORED, REFUSED, SETTING_OF
from loratory.config.kohya.settle import settle
from loratory.config.kohya.translation import MODEL, Translation
from loratory.config.schema import Config
from loratory.config.toml_files import expanded, parse_toml, read_text, read_toml
from loratory.errors import LoratoryError

_KNOWN_ARGUMENTS = frozenset(SETTING_OF) | set(CONVERTED) | set(IGNORED) | set(REFUSED)
_FEWEST_KEYS = 5  # of the GUI's in a file of its: other programs have a "seed" or a "vae" too
_NOTHING_KNOWN = (
    "It reads JSON files of the kohya_ss GUI, TOML files and command lines of sd-scripts, and adapter files."
)


@dataclass(frozen=True)
class Imported:
    """What an import found.

    kind: what the file is, in words. settings: by full name, those of `config` that were asked for. entries: one for
    each key of the input. missing: required settings that the input does not name; `config` holds stand-ins for them.
    """

    kind: str
    config: Config
    settings: dict[str, Any]
    entries: list[Entry]
    defaults: dict[str, object]
    missing: list[str]
    hints: list[str]

    @property
    def is_faithful(self) -> bool:
        """Whether nothing important was lost."""
        return not any(entry.important for entry in self.entries)


def import_file(path: Path) -> Imported:
    """The configuration in a file of sd-scripts or the kohya_ss GUI, recognised by its contents.

    Raises LoratoryError for a file that cannot be read or is none of these.
    """
    to = Translation(path.absolute().parent)
    if _is_safetensors(path):
        given = metadata_arguments(read_metadata(path), to)
        translate(given.arguments, given.network, to, with_defaults=False)
        return _finished("an adapter's metadata", to)
    text = read_text(path)
    if text.lstrip().startswith("{"):
        given = gui_arguments(_gui_document(text, path), to)
        translate(given.arguments, given.network, to)
        return _finished("a configuration of the kohya_ss GUI", to)
    document = _toml_document(text, path)
    if document is None:
        given = _with_config_file(_command(text, path), to)
        translate(given.arguments, given.network, to)
        return _finished("a command line of sd-scripts", to)
    if "datasets" in document:
        read = read_dataset_config(path)
        to.settings |= read.settings | {"dataset.subsets": read.subsets}
        for key in document:
            to.note(Given(key, document[key]), "mapped", "dataset.subsets", f"{len(read.subsets)} folders")
        return _finished("a dataset TOML of sd-scripts", to)
    given = _toml_arguments(document)
    if not _KNOWN_ARGUMENTS & given.arguments.keys():
        raise LoratoryError(f"{path} holds no argument of sd-scripts.", hint=_NOTHING_KNOWN)
    if document.keys() & {"network", "model"} and "network_module" not in given.arguments and _is_ours(document):
        raise LoratoryError(
            f"{path} is a configuration of Loratory already.", hint="`loratory plan` shows what it does."
        )
    translate(given.arguments, given.network, to)
    return _finished("a configuration of sd-scripts", to)


def _finished(kind: str, to: Translation) -> Imported:
    missing = [MODEL] if MODEL not in to.settings else []
    if "dataset.train_data_dir" not in to.settings and not to.settings.get("dataset.subsets"):
        missing.append("dataset.train_data_dir")
    config = settle(to, missing)
    entries = list(to.entries.values())
    return Imported(kind, config, to.settings, entries, to.defaults, missing, to.hints)


def _is_safetensors(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error
    return len(start) == 9 and start[8:] == b"{" and 0 < int.from_bytes(start[:8], "little") < 1 << 40


def _gui_document(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise LoratoryError(f"{path} is no JSON: {problem}.", hint=_NOTHING_KNOWN) from None
    known = KNOWN_KEYS & cast("dict[str, Any]", document).keys() if isinstance(document, dict) else set[str]()
    if "LoRA_type" not in known and len(known) < _FEWEST_KEYS:
        raise LoratoryError(f"{path} is no configuration of the kohya_ss GUI: it has none of its keys.")
    return cast("dict[str, Any]", document)


def _toml_document(text: str, path: Path) -> dict[str, Any] | None:
    """The TOML in `text`; None when it is rather a command line."""
    try:
        return parse_toml(text, path)
    except LoratoryError as error:
        first = error
    try:
        read_command(text)
    except LoratoryError as second:
        has_option = any(word.startswith("--") for word in text.split())
        problem = second.message if has_option else first.message
        raise LoratoryError(f"{path}: {problem}" if has_option else problem, hint=_NOTHING_KNOWN) from None
    return None


def _command(text: str, path: Path) -> Command:
    command = read_command(text)
    if not _KNOWN_ARGUMENTS & command.arguments.keys() and "config_file" not in command.arguments:
        raise LoratoryError(f"{path} holds no argument of sd-scripts.", hint=_NOTHING_KNOWN)
    return command


def _with_config_file(command: Command, to: Translation) -> Arguments:
    """The arguments of a command line on top of those of its `--config_file`."""
    arguments, network = dict(command.arguments), dict(command.network)
    for each in command.launcher.values():
        to.drop(each._replace(key=f"accelerate {each.key}"), "an option of accelerate; the script has its own")
    named = arguments.pop("config_file", None)
    if named is not None:
        path = to.folder / expanded(str(named.value))
        path = path if path.suffix == ".toml" else path.with_name(path.name + ".toml")
        try:
            below = _toml_arguments(read_toml(path))
        except (LoratoryError, ValueError, OSError) as error:
            to.refuse(named, error.message if isinstance(error, LoratoryError) else f"cannot be read: {path}")
        else:
            for name, each in below.arguments.items():
                if name in arguments:
                    to.drop(each, "the command line decides")
            arguments = below.arguments | arguments
            network = network or below.network
            to.note(named, "mapped", reason="its arguments are taken over")
    if command.script == "sdxl_train_network":
        arguments["sdxl"] = Given("sdxl_train_network.py", True, "the script for SDXL", True)
    return Arguments(arguments, network)


def _toml_arguments(document: Mapping[str, Any]) -> Arguments:
    """The arguments in an sd-scripts configuration; sections have no meaning there."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= cast("dict[str, Any]", value)
        else:
            flat[key] = value
    network = network_items(flat.get("network_args", []), "network_args")
    if network:
        del flat["network_args"]
    return Arguments({key: Given(key, _finite(value)) for key, value in flat.items()}, network)


def _finite(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_ours(document: Mapping[str, Any]) -> bool:
    return all(
        isinstance(table, dict) and f"{name}.{key}" in FIELDS
        for name, table in document.items()
        for key in (cast("dict[str, Any]", table) if isinstance(table, dict) else {"": 0})
    )
