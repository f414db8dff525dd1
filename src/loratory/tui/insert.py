"""INSERT mode: what is typed into the prompt, what it suggests, and what becomes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from loratory.editing.items import Item
from loratory.errors import LoratoryError
from loratory.tags.edits import Add, Rename
from loratory.tags.query import parse_query
from loratory.tags.text import key, split_tags
from loratory.tui.editor import Editor
from loratory.tui.text import Glyphs
from loratory.tui.told import Told
from loratory.tui.widgets.prompt import Prompt, Row, Suggestions

if TYPE_CHECKING:
    from loratory.tags.completion.completer import Completer, Suggestion

Kind = Literal["add", "change", "filter", "command"]

# Bands that a person means when they press Enter; what only resembles the typed text is taken by Tab alone.
_MEANT = frozenset({"exact", "alias", "word", "prefix", "pinned", "recent", "used"})
_OFFERED = 8
# What is read from pictures or counted anew: too slow to be found at each key press.
SLOW_FACTS = frozenset({"size", "dup", "tokens"})


@dataclass(frozen=True)
class Purpose:
    """What the prompt is open for.

    front: add at the front. wide: on many pictures, so what is typed is collected and done at once. old: the tag to
    change.
    """

    kind: Kind
    label: str
    front: bool = False
    wide: bool = False
    old: str = ""


class Insert:
    """Drives the prompt. `run_command` and `search` do what is not an edit of tags."""

    def __init__(
        self,
        editor: Editor,
        prompt: Prompt,
        suggestions: Suggestions,
        glyphs: Glyphs,
        *,
        run_command: Callable[[str], None],
        search: Callable[[str], None],
        closed: Callable[[], None],
        command_rows: Callable[[str], tuple[Row, ...]],
    ) -> None:
        self._editor = editor
        self._prompt = prompt
        self._suggestions = suggestions
        self._glyphs = glyphs
        self._run_command = run_command
        self._search = search
        self._closed = closed
        self._command_rows = command_rows
        self.completer: Completer | None = None
        self.purpose: Purpose | None = None
        self._offered: Sequence[Suggestion] = ()
        self._marked = 0
        self._moved = False
        self._placed = 0
        self._targets: list[Item] = []
        self._added: tuple[str, ...] = ()

    def open(self, purpose: Purpose, text: str = "") -> None:
        self.purpose = purpose
        # What is typed goes to what was there when typing began, wherever the cursor is by then.
        current = self._editor.current
        self._targets = self._editor.selection.wide if purpose.wide else [] if current is None else [current]
        self._added = ()
        self._placed = 0
        self._prompt.open(f"{purpose.label} {self._glyphs.prompt} ", text, takes_comma=self._at_once)
        self._suggestions.display = True
        self.changed(text)

    def legal_keys(self) -> str:
        """What the keys do while the prompt is open; "" where it is not."""
        if self.purpose is None:
            return ""
        if self.purpose.kind == "filter":
            return "Enter shows what is found   Esc leaves   empty: all pictures"
        if self.purpose.kind == "command":
            return "Enter does it   Esc leaves"
        takes = "Tab takes the marked one   Up Down mark another"
        return f"{takes}   {', adds what is typed   Esc done' if self._at_once else 'Enter does it   Esc leaves'}"

    def close(self) -> None:
        self.purpose = None
        self._suggestions.display = False
        self._prompt.close()
        self._closed()

    def use(self, completer: "Completer") -> None:
        """Suggests by this vocabulary from now on, also for what is typed already."""
        self.completer = completer
        self.changed(self._prompt.line.value)

    @property
    def _at_once(self) -> bool:
        """Whether each tag is added as it is typed, rather than the whole list at the end."""
        return self.purpose is not None and self.purpose.kind == "add" and not self.purpose.wide

    def changed(self, text: str) -> None:
        """Looks for suggestions; called on each key."""
        self._marked, self._moved = 0, False
        self._offered = ()
        purpose = self.purpose
        if purpose is None:
            return
        if purpose.kind == "filter":
            self._suggestions.show((), 0, self._filter_note(text))
        elif purpose.kind == "command":
            self._suggestions.show(self._command_rows(text), -1, "Enter does it · Esc leaves")
        else:
            piece = _last_piece(text)
            if self.completer is not None and not piece.startswith("="):
                offered = self.completer.complete(
                    piece,
                    uses=self._editor.uses,
                    recent=self._editor.recent,
                    pinned=[tag for tag in self._editor.palette if tag],
                    limit=_OFFERED if piece else 4 * _OFFERED,
                )
                # Before anything is typed, what the picture has already is no suggestion.
                here = self._targets[0].keys if not piece and len(self._targets) == 1 else ()
                self._offered = [each for each in offered if key(each.name) not in here][:_OFFERED]
            self._draw(text)

    def key(self, name: str) -> None:
        """A key that the line does not keep."""
        purpose, text = self.purpose, self._prompt.line.value
        if purpose is None:
            return
        if name == "escape":
            self._leave(text)
        elif name in ("up", "down"):
            if self._offered:
                self._marked = (self._marked + (1 if name == "down" else -1)) % len(self._offered)
                self._moved = True
                self._draw(text)
        elif purpose.kind == "filter":
            if name == "enter":
                self._search(text)
        elif purpose.kind == "command":
            if name == "enter":
                self.close()
                self._run_command(text)
        elif name == "tab":
            self._take(text)
        elif name == "comma":
            self._commit(text)
        elif name == "enter":
            self._enter(text)

    def _enter(self, text: str) -> None:
        purpose = self.purpose
        assert purpose is not None
        if not text.strip():
            self.close()
        elif self._moved or (not purpose.wide and self._meant is not None):
            self._take(text, and_done=purpose.kind == "change")
        else:
            self._commit(text)

    @property
    def _meant(self) -> "Suggestion | None":
        """The suggestion that Enter takes."""
        if not self._offered or not _last_piece(self._prompt.line.value):
            return None
        first = self._offered[self._marked]
        return first if self._moved or first.band in _MEANT else None

    def _take(self, text: str, *, and_done: bool = False) -> None:
        """Puts the marked suggestion in place of what is typed."""
        if self.completer is None:
            # The letters typed so far are hardly the tag that was meant.
            self._editor.tell(Told("the vocabulary is still being read; Tab completes in a moment", wrong=True))
            return
        if not self._offered or _last_piece(text).startswith("="):
            if self._at_once and text.strip():
                self._commit(text)
            return
        name = self._editor.written(self._offered[self._marked].name)
        whole = text[: len(text) - len(_last_piece(text))] + name
        if self._at_once or and_done:
            self._commit(whole)
        else:
            self._set(f"{whole}, ")

    def _commit(self, text: str) -> None:
        """Does what the prompt is open for with the tags as they are written."""
        purpose = self.purpose
        assert purpose is not None
        tags = split_tags(", ".join(piece.strip().removeprefix("=") for piece in text.split(",")))
        if not tags:
            if not self._at_once:
                self.close()
            self._set("")
            return
        try:
            if purpose.kind == "change":
                edit = Rename(purpose.old, tags)
            elif purpose.front:
                # What is there already moves along: the tags stand in front in the order they were given.
                edit = Add(tags, position=self._placed + 1, existing="move")
            else:
                edit = Add(tags)
        except LoratoryError as error:
            self._editor.tell(Told(error.message, wrong=True))
            return
        plan = self._editor.apply(edit, self._targets)
        if self._at_once:
            self._placed += len(tags) if plan is not None and plan.changes else 0
            self._added += tags
            # Repeating and carrying forward take all that one visit of the prompt added.
            self._editor.remember_added(self._added, front=purpose.front)
            self._set("")
        else:
            self.close()

    def _leave(self, text: str) -> None:
        if self._at_once and text.strip():
            self._editor.tell(Told(f"“{text.strip()}” was not added: a comma or Enter adds it", wrong=True))
        elif self.purpose is not None and self.purpose.kind in ("add", "change") and text.strip():
            self._editor.tell(Told("left without changing anything"))
        self.close()

    def _set(self, text: str) -> None:
        line = self._prompt.line
        line.value = text
        line.cursor_position = len(text)
        self.changed(text)

    def _draw(self, text: str) -> None:
        rows = tuple(
            replace(self._row(suggestion), note=self._note(suggestion) if index == self._marked else "")
            for index, suggestion in enumerate(self._offered)
        )
        self._suggestions.show(rows, self._marked if rows else -1, self._hint(text))

    def _row(self, suggestion: "Suggestion") -> Row:
        name = self._editor.written(suggestion.name)
        if suggestion.alias is not None:
            name = f"{self._editor.written(suggestion.alias)} {self._glyphs.arrow} {name}"
        used = f"used {suggestion.uses}" if suggestion.uses else suggestion.category
        return Row(name, suggestion.count, suggestion.category if suggestion.count else used)

    def _note(self, suggestion: "Suggestion") -> str:
        """What the marked suggestion has to do with other tags."""
        current = self._editor.current
        vocabulary = self._editor.session.vocabulary
        mine = key(suggestion.name)
        here = current.keys if current is not None else ()
        if mine in here:
            return "stands here already"
        for tag in here:
            if mine in vocabulary.implications(tag):
                return f"already implied by {tag}"
        implied = vocabulary.implications(suggestion.name)
        if implied:
            names = [self._editor.written(way.path[-1]) for way in implied.values()]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"implies {', '.join(names[:3])}{more}"
        return f"in {suggestion.uses} pictures here" if suggestion.uses else ""

    def _hint(self, text: str) -> str:
        if self.completer is None and text.strip():
            return "reading the vocabulary · Enter as typed"
        if not text.strip():
            return "Esc done" if self._at_once else "commas between tags · Esc leaves"
        if self._at_once:
            meant = "Tab Enter take" if self._meant is not None else "Tab takes, Enter not"
            return f"{meant} · , as typed · Esc" if self._offered else "Enter as typed · Esc done"
        if self._offered and self.purpose is not None and self.purpose.wide:
            return "Tab completes · Enter does it"
        return "Tab completes · Enter takes" if self._meant is not None else "Enter does it · Esc leaves"

    def _filter_note(self, text: str) -> str:
        if not text.strip():
            return "fox  tag:blue*  tags>20  issue:implied  untagged  NOT … OR …"
        try:
            query = parse_query(text)
        except LoratoryError as error:
            return error.message.splitlines()[0].removeprefix("query, ")
        if query.needs & SLOW_FACTS:
            return "Enter searches"
        count = len(self._editor.session.find(query))
        return f"{count} of {len(self._editor.session.items)} pictures"


def _last_piece(text: str) -> str:
    """What is being typed: the text after the last comma."""
    return text.rsplit(",", 1)[-1].lstrip()
