"""What a person is told, in a line."""

from dataclasses import dataclass
from typing import Protocol

from loratory.errors import LoratoryError


@dataclass(frozen=True)
class Told:
    """A line about what happened. wrong: something was not done."""

    text: str
    wrong: bool = False

    @classmethod
    def of(cls, error: LoratoryError, what: str = "") -> "Told":
        """What an error says, and what to do about it; `what` it is about first."""
        return cls(f"{what}{error.message} {error.hint}".strip(), wrong=True)


class Tell(Protocol):
    def __call__(self, told: Told, instead_of: Told | None = None) -> None:
        """Shows a sentence; given another one, only if that is still the one shown."""
        ...
