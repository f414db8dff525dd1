"""What people changed while a run trained: pictures left out, rates scaled. Pure; the run's events are its memory.

A run that is resumed from an earlier step makes the same changes at the same steps again, so that it ends in the same
weights.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loratory.runs.control import Command
from loratory.runs.events import Event, Obeyed

# So far a rate may be moved by one command; what goes beyond is a slip of the finger.
SMALLEST_RATE, LARGEST_RATE = 0.001, 1000.0


@dataclass(frozen=True)
class Adjustments:
    """rate: factor on all learning rates. skipped: pictures that are left out, as events name them."""

    rate: float = 1.0
    skipped: frozenset[str] = frozenset()

    def after(self, command: Command) -> "Adjustments":
        """These with a command's change; the same for commands that change none, and for values that are none."""
        match command.name:
            case "skip" if command.value:
                return replace(self, skipped=self.skipped | {command.value})
            case "unskip":
                return replace(self, skipped=self.skipped - {command.value})
            case "rate":
                factor = rate_of(command.value)
                return self if factor is None else replace(self, rate=factor)
            case _:
                return self


def rate_of(text: str) -> float | None:
    """The factor that the value of a rate command gives; None where it is no number within the limits."""
    try:
        factor = float(text)
    except ValueError:
        return None
    return factor if math.isfinite(factor) and SMALLEST_RATE <= factor <= LARGEST_RATE else None


def history(events: Iterable[Event]) -> list[tuple[int, Command]]:
    """The changes that were obeyed, as (steps done by then, command), in the order they were made."""
    known = {"skip", "unskip", "rate"}
    return [
        (event.step, Command(event.command, event.value))  # pyright: ignore[reportArgumentType] - one of `known`
        for event in events
        if isinstance(event, Obeyed) and event.command in known
    ]


def at(changes: Iterable[tuple[int, Command]], done: int) -> Adjustments:
    """What holds for the step after `done` steps."""
    result = Adjustments()
    for step, command in changes:
        if step <= done:
            result = result.after(command)
    return result
