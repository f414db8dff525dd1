"""What the plan pane begins with, and what can be opened in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loratory.config.draft import Draft
from loratory.config.draft_files import new_draft, open_draft
from loratory.config.presets import list_presets
from loratory.errors import LoratoryError
from loratory.tui.project import Project

_PRESET = "character-prodigy"
"""The guide's own starting point: the optimizer finds its rate."""

_MOST_FILES = 200


def first_draft(project: Project) -> Draft:
    """The configuration that the program was opened on, else a new one for its pictures. Raises LoratoryError."""
    if project.config is not None:
        return open_draft(project.config)
    given: dict[str, Any] = {}
    if project.dataset is not None:
        path = project.dataset.absolute()
        folder = project.directory.absolute()
        given["dataset.train_data_dir"] = f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)
    if project.runs_dir.absolute() != project.directory.absolute() / "runs":
        given["output.runs_dir"] = str(project.runs_dir.absolute())
    preset = _PRESET if any(each.name == _PRESET for each in list_presets()) else None
    draft = new_draft(preset, project.directory, given)
    if project.dataset is not None:
        try:
            return new_draft(preset, project.directory, {**given, "output.output_name": project.dataset.resolve().name})
        except LoratoryError:  # the folder has a name that files cannot have
            return draft
    return draft


def configurations(project: Project) -> Iterator[Path]:
    """The TOML files of the project's folder, then the records of its runs, the newest first."""
    try:
        yield from sorted(project.directory.glob("*.toml"))[:_MOST_FILES]
        records = project.runs_dir.glob("*/config.toml")
        yield from sorted(records, key=lambda path: path.parent.name, reverse=True)[:_MOST_FILES]
    except OSError:
        return
