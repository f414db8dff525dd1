"""The caption of a picture written as text, in place of its tags."""

from loratory.tags.edits import SetText
from loratory.tui.editor import Editor
from loratory.tui.told import Told
from loratory.tui.widgets.caption_area import CaptionArea
from loratory.tui.widgets.tag_panel import TagPanel


class TextEditing:
    """panel: shows the tags, and makes room for `area` meanwhile."""

    def __init__(self, editor: Editor, area: CaptionArea, panel: TagPanel) -> None:
        self._editor = editor
        self._area = area
        self._panel = panel

    @property
    def is_open(self) -> bool:
        """Whether a caption is being written."""
        return self._area.item is not None

    def open(self, *, at_start: bool = False, text: str | None = None) -> None:
        """Opens the caption of the current picture, with the cursor at its end or start.

        text: what to begin with instead of the caption: it was typed before.
        """
        item = self._editor.current
        if item is None or item.problem:
            problem = "no caption here" if item is None else f"{item.caption_name}: {item.problem}"
            self._editor.tell(Told(problem, wrong=True))
        elif not CaptionArea.can_hold(item.caption.text):
            sentence = "this caption has line ends that only a text editor keeps: edit its tags, or the file"
            self._editor.tell(Told(sentence, wrong=True))
        else:
            self._area.open(item, at_start=at_start)
            if text is not None:
                self._area.load_text(text)
            self._panel.display = False
            self._editor.tell(Told("Esc saves the text and leaves"))

    def finish(self) -> None:
        """Saves the text and closes; stays open, once, where somebody else changed the caption meanwhile."""
        if self.is_open and not self._changed_meanwhile():
            self._close()

    def save(self) -> None:
        """Saves the text and closes, whatever happened meanwhile; what somebody else wrote can be had back by undo."""
        self._changed_meanwhile()
        self._close()

    def _close(self) -> None:
        item, text = self._area.item, self._area.close()
        self._panel.display = True
        if item is not None and text is not None:
            self._editor.apply(SetText(text), [item])
        else:
            self._editor.tell(Told("the caption stays as it was"))

    def _changed_meanwhile(self) -> bool:
        """Whether somebody else changed the caption that is being written as text; theirs is then taken over, so that
        writing ours comes after it and can be undone."""
        item = self._area.item
        assert item is not None
        before = item.data
        self._editor.take_over([item])
        if item.data == before or not self._area.is_changed:
            return False
        sentence = (
            f"{item.caption_name} was changed on disk meanwhile · Esc again writes yours; u then brings theirs back"
        )
        self._editor.tell(Told(sentence, wrong=True))
        return True
