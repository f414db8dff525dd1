"""Writes docs/settings.md from the schema. `--check` only says whether the file is current (exit code 1 if not)."""

import sys
from collections.abc import Mapping

from generated import DOCS, write_or_check
from pydantic.fields import FieldInfo

from loratory.config.describe import describe_field, show
from loratory.config.fields import FIELDS, TABLES
from loratory.config.schema import SubsetSettings

HEADER = """\
# Settings

<!-- Written by scripts/settings_doc.py from the schema; edit the docstrings in src/loratory/config/schema. -->

A configuration is a TOML file with the tables below. Names, meanings and units are those of kohya's sd-scripts (for
LyCORIS networks, of LyCORIS) where it has the setting; what differs is said. A relative path belongs to the folder of
the configuration file (on the command line to the current one), `~` is the home folder. For optional numbers 0 means
"not set", which also switches off what a preset sets. `--set table.key=value` on the command line goes above the file,
the file above its preset.
"""


SUBSETS = """\
One table for each folder with settings of its own. A setting that is left out is that of `[dataset]` or `[caption]`.
"""


def render() -> str:
    sections = [HEADER, "## Outside the tables\n", _rows({name: FIELDS[name] for name in FIELDS if "." not in name})]
    for table, model in TABLES.items():
        description = (model.__doc__ or "").partition(": ")[2].strip()
        sections += [f"## [{table}]\n", description[0].upper() + description[1:] + "\n"]
        sections.append(_rows({name: FIELDS[name] for name in FIELDS if name.startswith(f"{table}.")}))
        if table == "dataset":
            sections += ["## [[dataset.subsets]]\n", SUBSETS, _rows(SubsetSettings.model_fields)]
    return "\n".join(sections)


def _rows(fields: Mapping[str, FieldInfo]) -> str:
    rows = ["| setting | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        key = name.rpartition(".")[2]
        rows.append(f"| `{key}` | {describe_field(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "computed"
    if field.default is None or field.default == ():
        return "not set" if field.default is None else "empty"
    return f"`{show(field.default)}`"


if __name__ == "__main__":
    sys.exit(write_or_check(DOCS / "settings.md", render()))
