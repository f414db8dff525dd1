"""The resumable state of a run: one file a state, whole or absent, the newest few kept.

Randomness is counter-based and the learning rate a function of the step, so a state is the step, the raw trainable
tensors, the optimizers and the gradient scaler: nothing else has a memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loratory import atomic
from loratory.errors import FAILED, LoratoryError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on after `step` finished optimizer steps.

    dataset: digest of what was trained (see `training.plan.dataset_digest`); a resumed run compares it with its own.
    """

    step: int
    adapter: dict[str, torch.Tensor]
    optimizers: list[dict[str, Any]]
    scaler: dict[str, Any]
    dataset: str


def save_state(directory: Path, state: TrainingState, keep: int) -> Path:
    """Writes `state` beside the older ones, then removes all but the newest `keep`. Raises OSError as the disk does."""
    path = directory / f"{state.step:08d}.pt"
    with atomic.replacing(path) as temporary:
        torch.save({"format": FORMAT_VERSION, **vars(state)}, temporary)
    for old in _newest_first(directory)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(directory: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest state that can be read, on the CPU, and a sentence for each newer one that cannot."""
    problems: list[str] = []
    for path in _newest_first(directory):
        try:
            # mmap would keep the file open while `save_state` removes it.
            body = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file; all mean the same here
            problems.append(f"{path.name} cannot be read ({type(error).__name__}); going back to the state before it.")
            continue
        if body.pop("format") != FORMAT_VERSION:
            raise LoratoryError(
                f"{path} was written by another version of Loratory.",
                hint="Resume it with the version named in the run's config.toml.",
                exit_code=FAILED,
            )
        return TrainingState(**body), problems
    return None, problems


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9]*.pt"), reverse=True)
