"""Drafts from presets and files, and into files."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from loratory.atomic import write_text
from loratory.config.draft import Document, Draft
from loratory.config.draft_text import dumped
from loratory.config.draft_values import plain, same
from loratory.config.fields import FIELDS, holds_path
from loratory.config.load import FROM_PRESET, absolute_model_source, resolve
from loratory.config.presets import own_folder
from loratory.config.schema import Config, SubsetSettings
from loratory.config.toml_files import expanded, parse_toml, read_text
from loratory.errors import FAILED, LoratoryError

_MODEL = "model.pretrained_model_name_or_path"

OF_ONE_RUN = (
    "dataset.train_data_dir",
    "dataset.reg_data_dir",
    "dataset.conditioning_data_dir",
    "dataset.dataset_config",
    "dataset.subsets",
    "output.output_dir",
    "output.output_name",
    "output.runs_dir",
)
"""Settings that belong to one set of pictures and one run: a preset is saved without them."""


class Occupied(LoratoryError):
    """The file that a draft would be written to holds something else."""


def new_draft(preset: str | None, folder: Path, given: Mapping[str, Any]) -> Draft:
    """A draft without a file. given: values by full name. Raises LoratoryError for a preset or value that cannot be."""
    draft = Draft(folder.absolute(), {})
    if preset is not None:
        draft = draft.put("preset", preset)
    for key, value in given.items():
        draft = draft.put(key, value)
    return replace(draft, past=())


def open_draft(path: Path) -> Draft:
    """The draft that a TOML file is; of a run's own record it names the preset and what differs from it.

    Raises LoratoryError for what is no TOML. What is wrong in it otherwise is among the draft's problems.
    """
    path = path.absolute()
    text = read_text(path)
    document = parse_toml(text, path)
    if "preset" not in document and (FROM_PRESET in document or _is_of_a_run(path)):
        return _from_record(document, path)
    return Draft(path.parent, document, path, text)


def _is_of_a_run(path: Path) -> bool:
    return path.name == "config.toml" and (path.parent / "events.jsonl").exists()


def _from_record(document: dict[str, Any], path: Path) -> Draft:
    """A run's record is never written over: its draft has no file."""
    config = resolve(document, path)
    preset = document.get(FROM_PRESET)
    start: dict[str, Any] = {"preset": preset} if preset else {}
    short = dict(start)
    draft = Draft(path.parent, start)
    values = flat_config(config)
    for key, value in values.items():
        if key != "preset" and not same(value, draft.base(key)):
            table, _, name = key.rpartition(".")
            (short.setdefault(table, {}) if table else short)[name] = 0 if value is None else _writable(value)
    draft = Draft(path.parent, short)
    if draft.config is not None and flat_config(draft.config) == values:
        return draft
    remark = f"The preset {preset} says other things now, so every setting is written out." if preset else ""
    return Draft(path.parent, document, remark=remark)


def flat_config(config: Config) -> dict[str, Any]:
    """The values of a configuration by full name, as a file would hold them."""
    tree = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for key in FIELDS:
        table, _, name = key.rpartition(".")
        found[key] = plain(key, tree[table][name] if table else tree[name])
    return {key: value for key, value in found.items() if key != "preset"}


def _writable(value: Any) -> Any:
    """A value without its Nones, for which TOML has no word."""
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {name: _writable(each) for name, each in table.items() if each is not None}
    return [_writable(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value


def saved(draft: Draft, path: Path, *, replacing: bool = False) -> Draft:
    """Writes a draft to `path`, whole or not at all; the result is the draft with that file.

    Relative paths keep their meaning: in another folder they become absolute, or stay relative below it. Raises
    Occupied, without `replacing`, if the file holds what the draft did not come from; LoratoryError if it cannot be
    written.
    """
    path = path.absolute()
    written = replace(draft, folder=path.parent, path=path)
    if path.parent != draft.folder:
        document, *past = (moved(each, draft.folder, path.parent) for each in (draft.document, *draft.past))
        written = replace(written, document=document, past=tuple(past), future=())
    content = written.toml()
    try:
        if not replacing and os.path.lexists(path):
            _refuse_other(path, draft.text if path == draft.path else "", content)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, content)
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds text that UTF-8 cannot write"
        raise LoratoryError(f"Cannot write {path}: {reason}.", exit_code=FAILED) from error
    return replace(written, text=content)


def _refuse_other(path: Path, text: str, content: str) -> None:
    there = read_text(path)
    if there == content:
        return
    if not text:
        raise Occupied(f"{path} exists already.")
    if there != text:
        raise Occupied(f"{path} was changed by another program since it was opened.")


def moved(document: Document, old: Path, new: Path) -> Document:
    """A document whose relative paths, seen from the folder `new`, mean what they meant in `old`."""
    result: dict[str, Any] = {}
    for name, content in document.items():
        if name == "preset" and isinstance(content, str) and ("/" in content or content.endswith(".toml")):
            result[name] = _seen_from(new, old / expanded(content))
        elif isinstance(content, Mapping):
            table = cast("Document", content)
            result[name] = {key: _moved_value(f"{name}.{key}", value, old, new) for key, value in table.items()}
        else:
            result[name] = content
    return result


def _moved_value(key: str, value: Any, old: Path, new: Path) -> Any:
    if key == _MODEL and isinstance(value, str):
        source = absolute_model_source(value, old)
        return _seen_from(new, Path(source)) if Path(source).is_absolute() else value
    if key == "dataset.subsets" and isinstance(value, list):
        return [_moved_subset(each, old, new) for each in cast("list[Any]", value)]
    return _moved_paths(value, old, new) if key in FIELDS and holds_path(FIELDS[key]) else value


def _moved_subset(subset: Any, old: Path, new: Path) -> Any:
    if not isinstance(subset, Mapping):
        return subset
    fields = SubsetSettings.model_fields
    return {
        key: _moved_paths(value, old, new) if key in fields and holds_path(fields[key]) else value
        for key, value in cast("Document", subset).items()
    }


def _moved_paths(value: Any, old: Path, new: Path) -> Any:
    if isinstance(value, list):
        return [_moved_paths(each, old, new) for each in cast("list[Any]", value)]
    return _seen_from(new, old / expanded(value)) if isinstance(value, str) and value.strip() else value


def _seen_from(folder: Path, path: Path) -> str:
    """Relative to `folder` inside it, so that the folder can be moved; absolute elsewhere."""
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) and path != folder else str(path)


def saved_preset(draft: Draft, name: str, *, replacing: bool = False) -> Path:
    """Saves the settings as an own preset, all that differ from the defaults, without those of `OF_ONE_RUN`.

    It stands on its own, so that no other preset can change it. Raises Occupied, without `replacing`, if there is one
    of that name; LoratoryError for a name that no file can have.
    """
    name = name.strip().removesuffix(".toml")
    if not name or not name.isprintable() or set(name) & set("/\\") or name.startswith("."):
        raise LoratoryError("A preset's name is that of a file: without slashes, not beginning with a dot.")
    path = own_folder() / f"{name}.toml"
    if not replacing and os.path.lexists(path):
        raise Occupied(f"There is a preset of yours named {name} already.")
    bare = Draft(draft.folder, {})
    document: dict[str, Any] = {}
    for key in FIELDS:
        if key == "preset" or key in OF_ONE_RUN or same(draft.value(key), bare.base(key)):
            continue
        value = _moved_value(key, draft.value(key), draft.folder, path.parent)
        table, _, field = key.rpartition(".")
        (document.setdefault(table, {}) if table else document)[field] = value
    origin = f", from {draft.preset}" if draft.preset else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"# {name}{origin}\n\n{dumped(document)}")
    except (OSError, UnicodeEncodeError) as error:
        raise LoratoryError(f"Cannot write {path}: {error}.", exit_code=FAILED) from error
    return path
