"""The resumable states of a run: writing them, finding the way back into one, and putting an engine into it."""

import copy
import time
from dataclasses import dataclass, field, replace

from loratory import atomic
from loratory.errors import FAILED, LoratoryError
from loratory.runs.events import Notice, StateSaved
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory
from loratory.training.engine import Engine
from loratory.training.outputs import remove_leftovers
from loratory.training.state import TrainingState, load_newest, save_state


def restore(engine: Engine, state: TrainingState) -> None:
    """Puts `engine` into `state`, bit for bit."""
    engine.adapter.load_raw_state(state.adapter)
    engine.optimizers.load_state_dict(state.optimizers)
    engine.scaler.load_state_dict(state.scaler)
    if engine.average is not None:
        engine.average.load_state_dict(state.average)


@dataclass
class StateKeeper:
    """Writes the resumable state, and finds the way back into it."""

    engine: Engine
    run: RunDirectory
    recorder: Recorder
    identity: dict[str, str]
    saved_at: int | None = None
    _beginning: TrainingState | None = field(default=None, init=False)

    def save(self, step: int) -> None:
        """Keeps the state after `step` steps, unless it is on the disk already. Raises OSError as the disk does."""
        if step == self.saved_at:
            return
        began = time.perf_counter()
        path = save_state(self.run.state, self._current(step), self.engine.plan.config.output.state_keep)
        took_s = time.perf_counter() - began
        self.saved_at = step
        self._beginning = None
        self.recorder.write(StateSaved(step, str(path.relative_to(self.run.path)), took_s))

    def find(self) -> TrainingState | None:
        """The newest state of the run, if there is one. Raises LoratoryError where it cannot be gone on from."""
        atomic.remove_leftovers(self.run.state, "*")
        remove_leftovers(self.engine.plan.config)
        state, problems = load_newest(self.run.state)
        for problem in problems:
            self.recorder.write(Notice("warning", problem))
        if state is None:
            # Optimizers change what they hold in place.
            beginning = self._current(0)
            self._beginning = replace(beginning, optimizers=copy.deepcopy(beginning.optimizers))
            return None
        changed = [name for name, value in self.identity.items() if state.identity.get(name, "") != value]
        if changed:
            raise LoratoryError(
                f"This run cannot go on as if nothing had happened, because {' and '.join(changed)} changed since it "
                f"was stopped at step {state.step}.",
                hint="Put back what was there (pictures, sizes, folder names included), or start a new run.",
                exit_code=FAILED,
            )
        self.saved_at = state.step
        return state

    def last(self) -> TrainingState | None:
        """The newest state, or what the run began with, kept in main memory until there is one (a copy of the
        adapter)."""
        return self._beginning or load_newest(self.run.state)[0]

    def _current(self, step: int) -> TrainingState:
        engine = self.engine
        return TrainingState(
            step,
            engine.adapter.raw_state(),
            engine.optimizers.state_dict(),
            engine.scaler.state_dict(),
            self.identity,
            engine.average.state_dict() if engine.average else {},
        )
