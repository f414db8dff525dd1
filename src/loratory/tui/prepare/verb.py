"""What the verbs of the prepare pane have in common."""

from typing import TYPE_CHECKING

from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.preparation.desk import Entry
    from loratory.tui.prepare.screen import PrepareScreen


class Verb:
    """Acts on a screen and its state, and says sentences there."""

    def __init__(self, screen: "PrepareScreen") -> None:
        self._screen = screen
        self._state = screen.state

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self._screen.tell(Told(text, wrong=wrong))

    def _current(self) -> "Entry | None":
        entry = self._state.current
        if entry is None:
            self._tell("no picture here")
        return entry

    def _is_open(self) -> bool:
        if not self._screen.work.is_open:
            self._tell("the pictures are still being listed")
        return self._screen.work.is_open
