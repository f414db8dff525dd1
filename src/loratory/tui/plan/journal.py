"""Drafts that are kept while they are not written: closing the program loses none."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loratory.atomic import replacing
from loratory.config.draft import Draft
from loratory.config.toml_files import parse_toml
from loratory.errors import LoratoryError
from loratory.paths import data_dir

_MOST_KEPT = 50


@dataclass(frozen=True)
class Kept:
    """A draft that was not written. origin: names what it was begun from, where it has no file. saved_s: when it was
    kept, as the file system's clock says."""

    draft: Draft
    origin: str
    saved_s: float


def journal_folder() -> Path:
    """Where drafts are kept."""
    return data_dir() / "drafts"


def keep(draft: Draft, origin: str) -> None:
    """Keeps a draft; one that its file holds already, or that is as it was begun, is forgotten. Raises OSError."""
    file = _file(draft, origin)
    if draft.is_saved or not draft.past:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "folder": os.fspath(draft.folder),
        "path": None if draft.path is None else os.fspath(draft.path),
        "origin": origin,
        "text": draft.text,
        "toml": draft.toml(),
    }
    # It holds what stands on screen, written with every change: a power cut may take the last of them.
    with replacing(file, durable=False) as temporary:
        temporary.write_text(json.dumps(kept), encoding="ascii")


def forget(draft: Draft, origin: str) -> None:
    """Forgets what was kept of a draft."""
    with suppress(OSError):
        _file(draft, origin).unlink(missing_ok=True)


def kept_of(draft: Draft, origin: str) -> Draft | None:
    """What was kept of a draft; its first step back leads to `draft`. None where it is the same, or nothing was."""
    kept = _read(_file(draft, origin))
    if kept is None or kept.draft.document == draft.document:
        return None
    # With the text that it was made of: a file that changed since is not written over unasked.
    return replace(draft, document=kept.draft.document, text=kept.draft.text, past=(draft.document,))


def all_kept() -> list[Kept]:
    """Every draft that can be taken up again, the newest first."""
    found = [kept for kept in _kept_files() if kept is not None]
    return sorted(found, key=lambda kept: -kept.saved_s)[:_MOST_KEPT]


def _kept_files() -> Iterator[Kept | None]:
    try:
        files = list(journal_folder().glob("*.json"))
    except OSError:
        return
    for file in files:
        yield _read(file)


def _file(draft: Draft, origin: str) -> Path:
    named = f"file {draft.path}" if draft.path is not None else f"new {draft.folder} {origin}"
    return journal_folder() / f"{hashlib.sha256(os.fsencode(named)).hexdigest()[:24]}.json"


def _read(file: Path) -> Kept | None:
    try:
        kept: dict[str, Any] = json.loads(file.read_text(encoding="ascii"))
        path = None if kept["path"] is None else Path(kept["path"])
        document, begun = parse_toml(kept["toml"], file), parse_toml(kept["text"], file)
        draft = Draft(Path(kept["folder"]), document, path, kept["text"], past=(begun,))
        return Kept(draft, kept["origin"], file.stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError, LoratoryError):
        return None  # damaged, or another version's: nothing that could be shown
