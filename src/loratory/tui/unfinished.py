"""A batch of changes that a killed process left half done: asked about before anything else is changed."""

from loratory.errors import LoratoryError
from loratory.tags.journal import Batch
from loratory.tui.editor import Editor
from loratory.tui.told import Told


class Unfinished:
    LEGAL_KEYS = "f finish it   r roll it back   Esc later"

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self.is_asked = False

    def found(self, result: Batch | LoratoryError | None) -> None:
        """Asks about the batch that the journal has open, if it has one."""
        if isinstance(result, LoratoryError):
            self._editor.tell(Told.of(result))
        elif result is not None:
            self.is_asked = True
            self._editor.tell(Told(f"“{result.label}” ({result.count} captions) was interrupted", wrong=True))

    def answer(self, pressed: str) -> None:
        """Takes the key that answers; others are passed over."""
        if pressed in ("f", "r"):
            self.is_asked = False
            self._editor.recover(finish=pressed == "f")
        elif pressed == "escape":
            self.is_asked = False
            self._editor.tell(
                Told("nothing can be changed before that: `:recover finish` or `:recover roll-back` when you are ready")
            )
