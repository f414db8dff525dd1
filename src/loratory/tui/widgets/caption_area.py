"""The caption of a picture written as text."""

import re

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from loratory.editing.items import Item

# Python breaks lines at these, captions do not.
_ODD_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


class CaptionArea(TextArea):
    """A text area on one caption. `item` is None while it is closed."""

    class Done(Message):
        """Somebody pressed Escape."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, soft_wrap=True, tab_behavior="focus", compact=True)
        self.item: Item | None = None
        self._before = ""

    @staticmethod
    def can_hold(text: str) -> bool:
        """Whether the area gives a text back as it is: it would break lines where captions do not."""
        return _ODD_LINE_ENDS.search(text) is None

    @property
    def is_changed(self) -> bool:
        # The area has its own idea of line ends: what it makes of the text by itself is no change.
        return self.text != self._before

    def open(self, item: Item, *, at_start: bool = False) -> None:
        """Shows a caption and puts the keyboard into it, with the cursor at its end or start."""
        self.item = item
        self.load_text(item.caption.text)
        self._before = self.text
        # Behind the last word: text behind a newline at the end would be a line of its own.
        last = self.text.rstrip("\r\n").count("\n")
        self.move_cursor((0, 0) if at_start else (last, len(self.document.get_line(last))))
        self.display = True
        self.focus()

    def close(self) -> str | None:
        """Hides the area; the text, or None where it is as it was."""
        self.item = None
        self.display = False
        self.screen.set_focus(None)
        return self.text if self.is_changed else None

    async def _on_key(self, event: events.Key) -> None:
        if event.key in ("escape", "ctrl+s"):
            event.stop()
            event.prevent_default()
            self.post_message(self.Done())
            return
        await super()._on_key(event)
