"""Going through all pictures for one tag: is it there or not?"""

from loratory.editing.items import Item
from loratory.tags.edits import Add, Remove
from loratory.tags.text import key
from loratory.tui.editor import Editor


class Review:
    """One question for each picture that capitals act on, from the current one on; answers are kept in the dataset.

    Pictures answered in an earlier review of the tag are passed over, unless all of them were.
    """

    def __init__(self, editor: Editor, tag: str) -> None:
        self.tag = tag
        self._editor = editor
        self._items = editor.selection.wide
        self._answers = editor.session.marks.answers.setdefault(key(tag), {})
        self._changed = 0
        if all(item.name in self._answers for item in self._items):
            self._answers.clear()
        here = editor.current
        self._index = self._items.index(here) if here in self._items else 0
        if self._items and self._items[self._index].name in self._answers:
            self._go(1)
        self._show()

    @property
    def item(self) -> Item | None:
        return self._items[self._index] if self._items else None

    def status(self) -> str:
        """The question, and how far it is."""
        answered = sum(item.name in self._answers for item in self._items)
        item = self.item
        has = "it has it" if item is not None and key(self.tag) in item.keys else "it has not"
        return f"“{self.tag}”? {has} · {answered} of {len(self._items)} answered"

    def summary(self) -> str:
        with_tag = sum(key(self.tag) in item.keys for item in self._items)
        return f"“{self.tag}” is on {with_tag} of {len(self._items)} pictures; {self._changed} changed"

    def answer(self, yes: bool) -> bool:
        """Adds or removes the tag and goes on; False when every picture is answered."""
        item = self.item
        if item is None:
            return False
        if yes != (key(self.tag) in item.keys):
            self._editor.apply(Add((self.tag,)) if yes else Remove((self.tag,)), [item], repeatable=False)
            self._changed += 1
        self._answers[item.name] = yes
        self._editor.save_marks()
        return self._go(1)

    def skip(self, step: int) -> bool:
        """Goes to the next or previous picture without an answer for this one."""
        if self._items:
            self._index = (self._index + step) % len(self._items)
            self._show()
        return bool(self._items)

    def _go(self, step: int) -> bool:
        for distance in range(1, len(self._items) + 1):
            index = (self._index + step * distance) % len(self._items)
            if self._items[index].name not in self._answers:
                self._index = index
                self._show()
                return True
        return False

    def _show(self) -> None:
        if self.item is not None:
            self._editor.selection.go_to(self.item)
