"""What pages over the panes have in common: they are drawn once when they are opened."""

from typing import Generic, TypeVar

from textual import events
from textual.screen import ModalScreen

_Result = TypeVar("_Result")


class Page(ModalScreen[_Result], Generic[_Result]):
    """A screen over a pane, which dismisses with a result.

    Textual lays out and draws a screen that comes to the front, and all of it again, with what lies behind, when the
    screen is then told the size it was laid out for. On a page of text that is half of the time until it stands there.
    """

    def _on_resize(self, event: events.Resize) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # it calls both, one after the other
        if self._compositor.size == event.size:
            event.stop()
            event.prevent_default()
