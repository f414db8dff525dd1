"""What a half typed value may become: paths, presets and choices."""

import os
from collections.abc import Iterable
from pathlib import Path

from loratory.config.draft_values import choices
from loratory.config.fields import FIELDS, holds_path
from loratory.config.presets import list_presets
from loratory.config.toml_files import expanded

_MOST_ENTRIES = 2000
_MODEL = "model.pretrained_model_name_or_path"


def completed(key: str, text: str, folder: Path) -> tuple[str, list[str]]:
    """`text` with what all that it could become has in common, and those.

    key: the setting that is typed, "" for a path. folder: what relative paths are seen from.
    """
    if key == "preset" and "/" not in text:
        return _among(text, [preset.name for preset in list_presets()])
    if key and choices(key):
        return _among(text, [_word(choice) for choice in choices(key) if choice is not None])
    if not key or key in (_MODEL, "preset") or holds_path(FIELDS[key]):
        return _path(text, folder)
    return text, []


def _word(choice: object) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _among(text: str, names: Iterable[str]) -> tuple[str, list[str]]:
    found = [name for name in names if name.startswith(text)]
    return (_shared(found) if found else text), found


def _path(text: str, folder: Path) -> tuple[str, list[str]]:
    """As a shell completes: a folder ends in a slash, hidden names need their dot."""
    if text == "~":
        return "~/", []
    head, slash, begun = text.rpartition("/")
    place = folder / expanded(f"{head}{slash}") if slash else folder
    names: list[str] = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(begun) and (begun or not entry.name.startswith(".")):
                    names.append(f"{entry.name}/" if entry.is_dir() else entry.name)
                if len(names) == _MOST_ENTRIES:
                    break
    except (OSError, ValueError):
        return text, []
    names.sort()
    return (f"{head}{slash}{_shared(names)}" if names else text), names


def _shared(names: list[str]) -> str:
    """What all of them begin with."""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]
