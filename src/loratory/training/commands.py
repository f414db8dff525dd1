"""Obeying what a run is told, between two of its steps.

Changes (skip, unskip, rate) are events before they are anything else: they hold for the step that follows, and a state
that was trained with one can never be older than the line that tells of it.
"""

import time
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from loratory.dataset.visits import Visit
from loratory.runs.adjustments import LARGEST_RATE, SMALLEST_RATE, Adjustments, at, rate_of
from loratory.runs.control import Command, Control
from loratory.runs.events import Continued, Notice, Obeyed, Paused
from loratory.runs.recorder import Recorder
from loratory.training.distributed import Ranks
from loratory.training.keeper import StateKeeper
from loratory.training.outputs import Outputs
from loratory.training.readback import StepLog
from loratory.training.windows import Windows

_LISTEN_EVERY_S = 0.2
# Other processes wait for hours at most for a word from the first one; it may be paused for days.
_REASSURE_EVERY_S = 60.0


class Order(NamedTuple):
    """What the first process tells the others before each step. changes: those to make before it."""

    word: Literal["go on", "wait", "stop"]
    changes: tuple[Command, ...] = ()


@dataclass
class Commands:
    """Takes what `control` has for the run, and carries it out."""

    control: Control
    recorder: Recorder
    log: StepLog
    outputs: Outputs
    keeper: StateKeeper
    windows: Windows

    def obey(self, done: int) -> Literal["go on", "go on later", "stop"]:
        """Carries out what was asked for, after `done` steps, and tells the other processes.

        "go on later" is to go on after time was spent that is no step's. Waits here while the run is paused.
        """
        ranks = self.windows.ranks
        waiting = deque(self.control.poll())
        if not waiting:
            ranks.tell(Order("go on"))
            return "go on"
        self.log.settle()
        changes: list[Command] = []
        paused_s: float | None = None
        reassured_s = time.monotonic()
        while waiting or paused_s is not None:
            if not waiting:
                time.sleep(_LISTEN_EVERY_S)
                waiting += self.control.poll()
                if time.monotonic() - reassured_s >= _REASSURE_EVERY_S:
                    ranks.tell(Order("wait"))
                    reassured_s = time.monotonic()
                continue
            command = waiting.popleft()
            match command.name:
                case "stop":
                    self.keeper.save(done)
                    self._obeyed(command, done)
                    ranks.tell(Order("stop"))
                    for late in waiting:
                        self.control.request(late.name, late.value)
                    return "stop"
                case "pause":
                    self._obeyed(command, done)
                    if paused_s is None:
                        paused_s = time.monotonic()
                        self.recorder.write(Paused(done, "It was told to wait."))
                case "resume":
                    self._obeyed(command, done)
                    if paused_s is not None:
                        self.recorder.write(Continued(done, time.monotonic() - paused_s))
                        paused_s = None
                case "save":
                    name = self.outputs.step_name(done)
                    self.recorder.patiently(lambda name=name: self.outputs.save(name, done), "the adapter")
                    self._obeyed(command, done)
                case "sample":
                    if self.outputs.draw_asked(command.value, done):
                        self._obeyed(command, done)
                case "skip" | "unskip" | "rate":
                    refusal = self._refusal(command)
                    if refusal:
                        self.recorder.write(Notice("warning", refusal))
                        continue
                    self._obeyed(command, done)
                    self.windows.adopt(done, [command])
                    changes.append(command)
        ranks.tell(Order("go on", tuple(changes)))
        return "go on later"

    def _obeyed(self, command: Command, done: int) -> None:
        self.recorder.write(Obeyed(command.name, done, command.value))

    def _refusal(self, command: Command) -> str:
        """Why a change is not made, as a sentence; "" where it is."""
        plan = self.windows.engine.plan
        if command.name == "rate":
            if rate_of(command.value) is None:
                return (
                    f"The learning rates were left as they are: “{command.value}” is no factor from {SMALLEST_RATE:g} "
                    f"to {LARGEST_RATE:g}."
                )
            if plan.config.optimizer.sets_its_own_rate:
                return f"The learning rates were left as they are: {plan.config.optimizer.optimizer_type} sets its own."
            return ""
        if command.value not in self._names["all"]:
            return f"No picture that is trained is called “{command.value}”; nothing was changed."
        # Of the changes yet to come too, which a run that is taken up again makes at their steps.
        after = at([*self.windows.changes, (0, command)], plan.length.total_steps)
        if command.name == "skip" and self._names["to learn"] <= after.skipped:
            return f"“{command.value}” was not left out: it is the last picture that is trained."
        return ""

    @cached_property
    def _names(self) -> dict[Literal["all", "to learn"], set[str]]:
        """The pictures as events name them. to learn: without those of regularization sets."""
        engine = self.windows.engine
        names = [engine.maker.name(Visit(index, 0)) for index in range(len(engine.plan.images))]
        learnt = {name for name, image in zip(names, engine.plan.images, strict=True) if not image.is_reg}
        return {"all": set(names), "to learn": learnt}


def obey_first(ranks: Ranks, windows: Windows, done: int) -> bool:
    """What every process but the first does where that one obeys: waits, makes its changes; whether to go on."""
    order = ranks.tell(Order("wait"))
    while order.word == "wait":
        order = ranks.tell(order)
    windows.adopt(done, order.changes)
    return order.word == "go on"


def spoken_adjustments(adjustments: Adjustments) -> str:
    """A sentence for a run that goes on with changes made before; "" where none holds."""
    parts: list[str] = []
    if adjustments.rate != 1.0:
        parts.append(f"the learning rates times {adjustments.rate:g}")
    if adjustments.skipped:
        count = len(adjustments.skipped)
        parts.append(f"{count} picture{'' if count == 1 else 's'} left out")
    return f"Goes on as it was told before: {' and '.join(parts)}." if parts else ""
