"""What became of each key of a foreign configuration."""

from typing import Literal, NamedTuple

from loratory.config.describe import show

Outcome = Literal["mapped", "changed", "not honoured", "ignored"]


_AS_IT_IS = object()


class Given(NamedTuple):
    """A value of the input. key: as the input spells it, "" for a default that the input does not name.

    reason: why `value` means something else than what the input says. written: what the input says, where it spells
    `value` in another way.
    """

    key: str
    value: object
    reason: str = ""
    written: object = _AS_IT_IS

    @property
    def shown(self) -> object:
        """The value as the input has it."""
        return self.value if self.written is _AS_IT_IS else self.written


class Entry(NamedTuple):
    """What became of one key. setting: our full name, "" when there is none; result: its value here.

    important: whether the training would differ from what the input asked for.
    """

    key: str
    value: object
    outcome: Outcome
    setting: str = ""
    result: object = None
    reason: str = ""
    important: bool = False

    def sentence(self) -> str:
        """One line for a person."""
        line = f"{show(self.key)[1:-1]} = {show(self.value)}"
        if self.setting:
            line += f" -> {self.setting}" + ("" if self.result is None else f" = {show(self.result)}")
        return line + (f": {self.reason}" if self.reason else "")
