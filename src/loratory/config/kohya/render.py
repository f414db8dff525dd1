"""An imported configuration as the text of a TOML file."""

from typing import Any

import tomli_w

from loratory import __version__
from loratory.config.fields import TABLES
from loratory.config.kohya.importing import Imported
from loratory.config.kohya.translation import MODEL
from loratory.config.schema import Config, changed

_EXAMPLES = {
    MODEL: ("the base model: a .safetensors file, a diffusers folder or a hub id", "/path/to/model.safetensors"),
    "dataset.train_data_dir": ("the folder that holds the concept folders, named like 10_fox", "/path/to/set"),
}


def render(imported: Imported, source: str) -> str:
    """The TOML of an import: what was named and differs from the defaults, and what is left to fill in.

    source: the name of the file it came from. `load_config` reads the text once nothing is missing.
    """
    lost = [entry for entry in imported.entries if entry.important]
    lines = [f"# Imported by Loratory {__version__} from {_plain(source)}, {imported.kind}."]
    if imported.missing:
        lines.append(f"# Still to fill in: {', '.join(imported.missing)}.")
    lines += [f"# NOT HONOURED: {_plain(entry.sentence())}" for entry in lost]
    lines += [f"# {_plain(hint)}" for hint in imported.hints]
    for table, values in document(imported).items():
        missing = [name for name in imported.missing if name.startswith(f"{table}.")]
        subsets = values.pop("subsets", [])
        if not values and not missing and not subsets:
            continue
        lines += ["", f"[{table}]"]
        for name in missing:
            what, example = _EXAMPLES[name]
            lines += [f"# Fill in {what}:", f"# {name.rpartition('.')[2]} = {tomli_w.dumps({'x': example})[4:-1]}"]
        # Not splitlines(): it takes more for an end of line than TOML does.
        lines += [tomli_w.dumps(values).rstrip("\n")] if values else []
        if subsets:
            lines += ["", tomli_w.dumps({table: {"subsets": subsets}}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def document(imported: Imported) -> dict[str, dict[str, Any]]:
    """The settings of an import by table, as TOML has them, without those that have our default."""
    incomplete = {name.partition(".")[0] for name in imported.missing}
    tables = {table: _differing(imported.config, imported.settings, table) for table in TABLES}
    return {table: values for table, values in tables.items() if values or table in incomplete}


def _differing(config: Config, settings: dict[str, Any], table: str) -> dict[str, Any]:
    chosen = getattr(config, table)
    values = chosen.model_dump(mode="json", exclude_none=True)
    return {
        key: settings[f"{table}.{key}"] if _is_text(settings[f"{table}.{key}"]) else value
        for key, value in values.items()
        if f"{table}.{key}" in settings and changed(chosen, key)
    }


def _is_text(value: object) -> bool:
    # Paths stay as they were written; a dump would have lost "./" and the like.
    return isinstance(value, str)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
