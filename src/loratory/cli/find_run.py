"""Which run a person means by a name."""

import re
from pathlib import Path

from loratory.errors import LoratoryError
from loratory.runs.store import RunDirectory, find_runs

HERE = Path("runs")
_MATCHES_SHOWN = 5
# What a run's name has behind that of its output.
_STAMP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")


def find_run(name: str, *, to_look: bool = False) -> RunDirectory:
    """The run at a path, or in ./runs the one whose name, or name of output, is `name`, or begins with it.

    to_look: of several runs of one output the newest is meant, where nothing is done to it.
    """
    path = Path(name)
    if "/" in name or (path / "state").is_dir():
        return RunDirectory.open(path)
    matches = [run for run in find_runs(HERE) if run.name.startswith(name)]
    # `fox` is fox-20260823-101500 rather than fox2-…, whose output has another name.
    nearer = [run for run in matches if run.name == name] or [
        run for run in matches if _STAMP.sub("", run.name) == name
    ]
    if len(nearer or matches) == 1 or (nearer and to_look):
        return (nearer or matches)[0]
    matches = nearer or matches
    if matches:
        newest = ", ".join(run.name for run in matches[:_MATCHES_SHOWN])
        more = f" and {len(matches) - _MATCHES_SHOWN} more" if len(matches) > _MATCHES_SHOWN else ""
        raise LoratoryError(f"“{name}” could be any of {newest}{more}.", hint="Give more of the name, or the folder.")
    if path.exists():
        return RunDirectory.open(path)  # says what it lacks
    raise LoratoryError(f"There is no run “{name}” here.", hint="`loratory runs list` shows the runs in ./runs.")
