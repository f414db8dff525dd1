"""What the program was opened on, where there is more than pictures: runs, and a configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.errors import LoratoryError
from loratory.preparation.places import find_pictures, has_concepts

if TYPE_CHECKING:
    from loratory.runs.store import RunDirectory

_RUNS = "runs"


@dataclass(frozen=True)
class Project:
    """directory: where relative paths that a person types begin. runs_dir: where runs are looked for. config: a TOML
    file to plan with. dataset: the folder that is tagged, None where there is none. run: to be looked at first."""

    directory: Path
    runs_dir: Path
    config: Path | None = None
    dataset: Path | None = None
    run: Path | None = None

    def newest_run(self) -> "RunDirectory | None":
        """The run to look at first: the one that was asked for, else the newest; None where there is none."""
        from loratory.runs.store import RunDirectory, find_runs

        if self.run is not None:
            return RunDirectory(self.run)
        try:
            return next(find_runs(self.runs_dir), None)
        except OSError:
            return None


def open_project(path: Path) -> Project:
    """What lies at `path`: a run, a TOML file, a folder of runs, or else a folder of pictures.

    The folder we are in may be none of these: then there is nothing yet but what is to be planned.

    Raises LoratoryError where nothing lies there.
    """
    here = Path.cwd()
    if path.is_file() and path.suffix == ".toml":
        folder = path.resolve().parent
        return Project(folder, folder / _RUNS, config=path.resolve())
    if (path / "config.toml").is_file() and (path / "state").is_dir():
        run = path.resolve()
        return Project(here, run.parent, run=run)
    if not path.exists():
        raise LoratoryError(f"{path} does not exist.", hint="Give a folder of pictures, a run, or a config.")
    for folder, runs_dir in ((here, path), (path.resolve(), path / _RUNS)):
        if _holds_runs(runs_dir) and not has_concepts(path):
            return Project(folder, runs_dir.resolve())
    is_empty_here = path.resolve() == here and not has_concepts(path) and not any(find_pictures(path))
    return Project(here, here / _RUNS, dataset=None if is_empty_here else path)


def _holds_runs(path: Path) -> bool:
    return path.is_dir() and any((entry / "events.jsonl").exists() for entry in path.iterdir())
