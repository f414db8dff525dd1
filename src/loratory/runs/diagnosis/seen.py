"""What a rule is shown: an event, and for a step how unusual the loss of each of its pictures was."""

from typing import NamedTuple

from loratory.runs.events import Event


class Look(NamedTuple):
    """One picture in one step. excess: logarithm of its loss relative to the usual one at its timestep; finite."""

    image: str
    excess: float


class Seen(NamedTuple):
    """An event; of a step the pictures whose loss is a number, and the standard deviation of an excess.

    level: at a validation, mean logarithm of the usual training loss over all timesteps, as it is by now.
    """

    event: Event
    looks: tuple[Look, ...] = ()
    deviation: float = 0.0
    level: float = 0.0
