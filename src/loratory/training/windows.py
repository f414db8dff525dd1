"""The batches of each optimizer step, made ahead, without the pictures that people left out.

What a step trains on is a function of the step and of the changes people made, and so is its learning rate. A run that
is resumed reads those changes from its events and makes each again at its step; see `adopt`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from loratory.dataset.visits import Visit
from loratory.runs.adjustments import Adjustments, at
from loratory.runs.control import Command
from loratory.training.batches import Batch
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine
from loratory.training.prefetch import prefetched


@dataclass(frozen=True)
class Share:
    """One batch of a window. visits: those of all processes together. batch: this one's part of them, if it has one."""

    visits: Sequence[Visit]
    batch: Batch | None


Window = list[Share]
"""The batches of one optimizer step: as many as are accumulated, fewer at an epoch's end and where all pictures of one
are left out, none where that is so of each."""


@dataclass
class Windows:
    """Gives the window of each step in turn, until it is closed. changes: (steps done by then, command), in order."""

    engine: Engine
    ranks: Ranks
    changes: list[tuple[int, Command]]
    _ahead: Generator[Window] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # At an epoch's end, workers are in two of them.
        self._order_of = lru_cache(maxsize=2)(self.engine.plan.order.batches)

    def adjustments(self, done: int) -> Adjustments:
        """What holds for the step after `done` steps."""
        return at(self.changes, done)

    def adopt(self, done: int, commands: Sequence[Command]) -> None:
        """Makes changes that hold from the step after `done` steps on; what was made ahead is made anew.

        They go behind those that are there, also behind changes of a later step that an earlier process of this run
        obeyed: where the two disagree, what was said last holds.
        """
        self.changes += [(done, command) for command in commands]
        if any(command.name in ("skip", "unskip") for command in commands):
            self.close()

    def take(self, done: int) -> Window:
        """The window of the step after `done` steps; to be called with rising numbers."""
        if self._ahead is None:
            plan = self.engine.plan
            workers = max(1, plan.config.dataset.max_data_loader_n_workers)
            self._ahead = prefetched(self.make, range(done, plan.length.total_steps), workers=workers)
        return next(self._ahead)

    def make(self, done: int) -> Window:
        """The same made here and now. May be called from any thread."""
        plan, maker, pin = self.engine.plan, self.engine.maker, self.engine.device.type == "cuda"
        accumulation = plan.config.training.gradient_accumulation_steps
        epoch = plan.length.epoch_of(done + 1)
        begin = (done - plan.length.epoch_start(epoch)) * accumulation
        skipped = self.adjustments(done).skipped
        window: Window = []
        for visits in self._order_of(epoch)[begin : begin + accumulation]:
            trained = [visit for visit in visits if maker.name(visit) not in skipped] if skipped else visits
            if not trained:
                continue
            mine = self.ranks.share(trained)
            batch = maker.make(mine, epoch, done, len(trained)) if mine else None
            window.append(Share(trained, batch.pinned() if batch and pin else batch))
        return window

    def close(self) -> None:
        """Drops what was made ahead; waits for what is in the workers' hands."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
