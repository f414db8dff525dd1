"""The resumable state of a run: one file a state, whole or absent, the newest few kept.

Randomness is counter-based and the learning rate a function of the step, so a state is the step, the raw trainable
tensors, the optimizers and the gradient scaler: nothing else has a memory.
"""

import io
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loratory import atomic
from loratory.errors import FAILED, LoratoryError

FORMAT_VERSION = 1
# What torch.load raises for a file that is not what torch.save wrote.
_DAMAGE = (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on after `step` finished optimizer steps.

    average: the moving average of the adapter, where the run keeps one. identity: name -> digest of what the order and
    meaning of the steps depend on (see `training.plan.identity_of`); a resumed run compares it with its own.
    """

    step: int
    adapter: dict[str, torch.Tensor]
    optimizers: list[dict[str, Any]]
    scaler: dict[str, Any]
    identity: dict[str, str]
    average: dict[str, Any] = field(default_factory=dict[str, Any])


def save_state(directory: Path, state: TrainingState, keep: int) -> Path:
    """Writes `state` beside the older ones, then removes all but the newest `keep`. Raises OSError as the disk does."""
    path = directory / f"{state.step:08d}.pt"
    # Through memory: torch.save hides the reason when a file does not take everything.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **vars(state)}, buffer)
    atomic.write_bytes(path, buffer.getbuffer())
    for old in [other for other in _newest_first(directory) if other < path][keep - 1 :]:
        old.unlink(missing_ok=True)
    return path


def load_newest(directory: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest state that can be read, on the CPU, and a sentence for each newer one that is damaged.

    Damaged ones are set aside as `*.damaged`. None when there has never been a state; LoratoryError when there were
    some and none can be read, since starting over would throw the run away.
    """
    problems: list[str] = []
    for path in _newest_first(directory):
        try:
            body = torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            problems.append(f"{path.name} is damaged ({type(error).__name__}); going back to the state before it.")
            path.rename(path.with_suffix(".damaged"))
            continue
        if body.pop("format") != FORMAT_VERSION:
            raise LoratoryError(
                f"{path} was written by another version of Loratory.",
                hint="Resume it with the version named in the run's config.toml.",
                exit_code=FAILED,
            )
        return TrainingState(**body), problems
    if problems:
        raise LoratoryError(
            f"No state in {directory} can be read: {' '.join(problems)}",
            hint="Start a new run; the adapter files that were saved are still there.",
            exit_code=FAILED,
        )
    return None, problems


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9]*.pt"), reverse=True)
