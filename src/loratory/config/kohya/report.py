"""What became of each key of a foreign configuration."""

from typing import Literal, NamedTuple

from loratory.config.describe import show

Outcome = Literal["mapped", "changed", "not honoured", "ignored"]


class Given(NamedTuple):
    """A value of the input. key: as the input spells it, "" for a default that the input does not name.

    reason: why `value` is not what the input says; "" when it is. written: what the input says then.
    """

    key: str
    value: object
    reason: str = ""
    written: object = None

    @property
    def shown(self) -> object:
        """The value as the input has it."""
        return self.written if self.reason else self.value


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
