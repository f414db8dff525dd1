"""NORMAL mode: sequences of keys, hints, and the verb that each action is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratory.editing.items import Item
from loratory.tags.edits import Add, Dedupe, Edit, Move, Remove, Several, Sort
from loratory.tags.text import key
from loratory.tui.insert import Purpose
from loratory.tui.keys import Action, hints, shown_keys
from loratory.tui.review import Review
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.tui.screens.tags import TagsScreen

# Actions that a recording holds besides edits: those that go from picture to picture.
_RECORDED = frozenset({"next", "previous", "first", "last", "accept", "next-finding", "next-untagged", "next-hit"})


@dataclass
class _Hint:
    """An action that waits for the letters of a tag. moving: the tag that `move` was given already."""

    action: Action
    typed: str = ""
    moving: str = ""


class Normal:
    """Turns keys into verbs. `typed_hint` and `legal_keys` tell the screen what is being waited for."""

    def __init__(self, screen: "TagsScreen") -> None:
        self._screen = screen
        self._editor = screen.editor
        self._keymap = screen.keymap
        self._typed: list[str] = []
        self._hint: _Hint | None = None
        self.reviewing: Review | None = None
        self._recorded: list[Edit | str] = []

    # --- keys ---

    @property
    def typed_hint(self) -> str | None:
        return None if self._hint is None else self._hint.typed

    @property
    def is_recording(self) -> bool:
        return self._editor.recorded is not None

    @property
    def is_waiting(self) -> bool:
        """Whether a verb is begun, or a tag is being asked about."""
        return self._hint is not None or bool(self._typed) or self.reviewing is not None

    def legal_keys(self) -> str:
        """What can be typed now, where it is not any action."""
        if self.reviewing is not None:
            return "y yes   n no   Space skip   j k move   u undo   Esc done"
        if self._hint is not None:
            verb = self._hint.action.help.partition(":")[0]
            place = "its new place: a letter, ^ first, $ last" if self._hint.moving else f"{verb}: its letter"
            return f"{place}   Esc leaves"
        if self._typed:
            begun = " ".join(self._typed)
            going = [
                f"{shown_keys(keys)} {action.help}"
                for action in self._keymap.actions
                for keys in action.keys
                if keys.startswith(f"{begun} ")
            ]
            return "   ".join(going)
        return ""

    def press(self, pressed: str) -> None:
        """A key in NORMAL mode."""
        if self.reviewing is not None and self._review_key(pressed):
            return
        if self._hint is not None:
            self._hint_key(pressed)
            return
        keys = " ".join([*self._typed, pressed])
        action = self._keymap.find(keys)
        if action is not None:
            # y waits for a hint, and y y is an action of its own: no hint is the letter y.
            self._typed = [*self._typed, pressed] if self._keymap.is_prefix(keys) else []
            self._start(action, pressed)
        elif self._keymap.is_prefix(keys):
            self._typed.append(pressed)
        else:
            begun, self._typed = self._typed, []
            if pressed != "escape" and (begun or len(pressed) == 1):
                self._tell(f"{shown_keys(keys)} is no key here · ? shows all", wrong=True)

    def _start(self, action: Action, pressed: str) -> None:
        if action.takes == "hint":
            item = self._editor.current
            if self._screen.session.known_site == "natural":
                self._typed = []
                self._tell(
                    f"captions are sentences here: {self._keymap.keys_of('edit-text')} edits the text", wrong=True
                )
                return
            if item is None or not item.tags:
                self._typed = []
                self._tell("no tags here", wrong=True)
                return
            self._hint = _Hint(action)
            return
        if self._editor.recorded is not None and action.id in _RECORDED:
            self._editor.recorded.append(action.id)
        self._do(action.id, pressed)

    def _hint_key(self, pressed: str) -> None:
        hint, item = self._hint, self._editor.current
        assert hint is not None
        longer = self._keymap.find(" ".join([*self._typed, pressed])) if self._typed and not hint.typed else None
        if longer is not None or pressed == "escape" or item is None:
            self._hint, self._typed = None, []
            if longer is not None:
                self._start(longer, pressed)
            return
        if hint.moving and pressed in ("^", "$"):
            self._end_hint()
            self.edit(Move(hint.moving, "start" if pressed == "^" else "end"), [item])
            return
        typed = hint.typed + pressed
        letters = hints(len(item.tags))
        if typed in letters:
            self._chosen(hint, item, letters.index(typed))
        elif any(letter.startswith(typed) for letter in letters):
            hint.typed = typed
        else:
            self._end_hint()
            self._tell(f"no tag has the letter {typed}", wrong=True)

    def _end_hint(self) -> None:
        self._hint, self._typed = None, []

    def _chosen(self, hint: _Hint, item: Item, index: int) -> None:
        tag, screen, editor = item.tags[index], self._screen, self._editor
        if hint.action.id == "move" and not hint.moving:
            self._hint = _Hint(hint.action, moving=tag)
            return
        self._end_hint()
        match hint.action.id:
            case "move":
                self.edit(Move(hint.moving, index + 1), [item])
            case "remove":
                self.edit(Remove((tag,)), [item])
            case "remove-wide":
                self.edit(Remove((tag,)), editor.selection.wide)
            case "change":
                screen.insert.open(Purpose("change", f"change “{tag}” to", old=tag))
            case "change-wide":
                label = f"rename “{tag}” in {editor.selection.wide_name} to"
                screen.insert.open(Purpose("change", label, wide=True, old=tag))
            case "keep":
                editor.keep(tag, editor.findings.of(item))
                screen.after_kept()
            case "to-palette":
                editor.to_palette(tag)
            case "select-tag":
                self._select_tag(tag)
            case "review-tag":
                self.reviewing = Review(editor, tag)
                self._tell(f"is “{tag}” on this picture? y or n; every picture is asked")
            case _:
                raise AssertionError(hint.action.id)

    # --- verbs ---

    def edit(self, edit: Edit, targets: list[Item]) -> None:
        """Does an edit."""
        self._editor.apply(edit, targets)

    def _do(self, action_id: str, pressed: str) -> None:
        editor, selection, screen = self._editor, self._editor.selection, self._screen
        item = editor.current
        one = [] if item is None else [item]
        half = max(1, screen.size.height // 2 - 4)
        wide = selection.wide_name
        simple: dict[str, Callable[[], object]] = {
            "next": lambda: selection.move(1),
            "previous": lambda: selection.move(-1),
            "first": lambda: selection.go(0),
            "last": lambda: selection.go(len(selection.shown) - 1),
            "half-page-down": lambda: selection.move(half),
            "half-page-up": lambda: selection.move(-half),
            "accept": self._accept,
            "next-finding": lambda: self._seek(self._has_finding, 1, "findings"),
            "previous-finding": lambda: self._seek(self._has_finding, -1, "findings"),
            "next-untagged": lambda: self._seek(lambda other: not other.tags, 1, "no tags"),
            "previous-untagged": lambda: self._seek(lambda other: not other.tags, -1, "no tags"),
            "next-unreviewed": lambda: self._seek(lambda other: not other.reviewed, 1, "no review yet"),
            "previous-unreviewed": lambda: self._seek(lambda other: not other.reviewed, -1, "no review yet"),
            "next-duplicate": lambda: self._seek_duplicate(1),
            "previous-duplicate": lambda: self._seek_duplicate(-1),
            "next-hit": lambda: self._seek_hit(1),
            "previous-hit": lambda: self._seek_hit(-1),
            "last-edited": self._to_last_edited,
            "add": lambda: self._open(Purpose("add", "add to image")),
            "prepend": lambda: self._open(Purpose("add", "put in front of image", front=True)),
            "add-wide": lambda: self._open(Purpose("add", f"add to {wide}", wide=True)),
            "prepend-wide": lambda: self._open(Purpose("add", f"put in front of {wide}", front=True, wide=True)),
            "edit-text": screen.text_editing.open,
            "fix": lambda: screen.fix(wide=False),
            "fix-wide": lambda: screen.fix(wide=True),
            "repeat": lambda: editor.repeat(one),
            "repeat-wide": lambda: editor.repeat(selection.wide),
            "carry": lambda: (
                self.edit(Add(editor.last_added), one) if editor.last_added else self._nothing("added yet")
            ),
            "copy-caption": self._copy,
            "paste": lambda: self.edit(Add(editor.copied), one) if editor.copied else self._nothing("copied yet"),
            "paste-wide": lambda: (
                self.edit(Add(editor.copied), selection.wide) if editor.copied else self._nothing("copied yet")
            ),
            "sort": lambda: self.edit(Sort(keep_first=2), one),
            "dedupe": lambda: self.edit(Dedupe(), one),
            "palette": lambda: self._toggle_slot(pressed),
            "undo": editor.undo,
            "redo": editor.redo,
            "filter": lambda: self._open(Purpose("filter", "filter"), selection.query_text),
            "select": lambda: (selection.toggle(one), selection.move(1)),
            "select-range": self._range,
            "select-shown": lambda: selection.toggle(selection.shown),
            "select-invert": self._invert,
            "clear": self._clear,
            "zoom": screen.zoom,
            "preview": screen.toggle_preview,
            "tag-table": screen.show_tags,
            "finding-table": screen.show_findings,
            "history": screen.show_history,
            "draws": screen.show_draws,
            "command": lambda: self._open(Purpose("command", f": on {wide}", wide=True)),
            "record": self._record,
            "replay": self._replay,
            "reload": screen.reload,
            "redraw": screen.redraw,
            "help": screen.show_help,
            "quit": screen.leave,
        }
        if action_id.startswith("pane-"):
            screen.show_pane(action_id.removeprefix("pane-"))
        else:
            simple[action_id]()

    def _open(self, purpose: Purpose, text: str = "") -> None:
        if self._editor.current is None and purpose.kind == "add":
            self._tell("no picture here", wrong=True)
            return
        if self._screen.session.known_site == "natural" and purpose.kind == "add" and not purpose.wide:
            self._screen.text_editing.open(at_start=purpose.front)
            return
        self._screen.insert.open(purpose, text)

    def _accept(self) -> None:
        editor, item = self._editor, self._editor.current
        if item is None:
            return
        if not item.reviewed:
            editor.review([item], True)
        if self._move_to(self._has_finding) or self._move_to(lambda other: not other.reviewed):
            return
        self._tell("every picture here is reviewed and has no findings")

    def _move_to(self, wanted: Callable[[Item], bool]) -> bool:
        found = self._editor.selection.seek(lambda other: other is not self._editor.current and wanted(other))
        return found is not None and self._editor.selection.go_to(found)

    def _has_finding(self, item: Item) -> bool:
        return any(found.severity != "note" for found in self._editor.findings.of(item))

    def _seek(self, wanted: Callable[[Item], bool], step: int, what: str) -> None:
        found = self._editor.selection.seek(wanted, step)
        if found is None:
            self._tell(f"no picture here has {what}")
        else:
            self._editor.selection.go_to(found)

    def _seek_duplicate(self, step: int) -> None:
        session, selection = self._screen.session, self._editor.selection

        def found(duplicates: list[Item]) -> None:
            names = {item.name for item in duplicates}
            next_one = selection.seek(lambda item: item.name in names, step)
            if next_one is None:
                self._tell("no picture is in the set twice")
            else:
                selection.go_to(next_one)
            self._screen.look()

        self._screen.background.run(lambda: [item for item in session.items if session.facts.is_duplicate(item)], found)

    def _seek_hit(self, step: int) -> None:
        hits = {item.name for item in self._editor.selection.hits}
        if not hits:
            self._tell("no filter yet: / makes one")
            return
        self._seek(lambda item: item.name in hits, step, "what the filter asked for")

    def _to_last_edited(self) -> None:
        name = self._editor.last_item
        item = next((item for item in self._screen.session.items if item.name == name), None)
        if item is None or not self._editor.selection.go_to(item):
            self._nothing("edited yet")

    def _copy(self) -> None:
        item = self._editor.current
        if item is not None and item.tags:
            self._editor.copied = item.tags
            self._tell(f"copied {len(item.tags)} tags · gp adds them to a picture, gP to many")

    def _toggle_slot(self, pressed: str) -> None:
        item, tag = self._editor.current, self._editor.palette[(int(pressed) - 1) % 10]
        if not tag:
            self._tell(f"no tag on {pressed}: y and a tag's letter puts it on the next free key")
        elif item is not None:
            self.edit(Remove((tag,)) if key(tag) in item.keys else Add((tag,)), [item])

    def _select_tag(self, tag: str) -> None:
        selection = self._editor.selection
        wanted = key(tag)
        found = [item for item in selection.shown if wanted in item.keys]
        selection.selected |= {item.name: item for item in found}
        self._tell(f"{len(found)} pictures with “{tag}” selected · capitals act on them, Esc drops the selection")

    def _range(self) -> None:
        selection = self._editor.selection
        if selection.range_from is None:
            selection.range_from = selection.cursor
            self._tell("move to the other end of the range, then v")
        else:
            selection.selected |= {item.name: item for item in selection.ranged}
            selection.range_from = None

    def _invert(self) -> None:
        selection = self._editor.selection
        selection.selected = {item.name: item for item in selection.shown if not selection.is_selected(item)}

    def _clear(self) -> None:
        """Escape drops one thing at a time."""
        selection = self._editor.selection
        if selection.range_from is not None:
            selection.range_from = None
        elif selection.selected:
            selection.selected = {}
        elif selection.is_filtered:
            selection.clear_filter()

    def _record(self) -> None:
        editor = self._editor
        if editor.recorded is None:
            editor.recorded = []
            self._tell("recording: edits of this picture and moves · q ends it")
        else:
            self._recorded, editor.recorded = editor.recorded, None
            self._tell(f"recorded {len(self._recorded)} steps · @ does them again")

    def _replay(self) -> None:
        if self._editor.recorded is not None or not self._recorded:
            self._nothing("recorded yet: q begins")
            return
        pending: list[Edit] = []
        for step in [*self._recorded, ""]:
            if isinstance(step, str):
                # Edits between two moves become one change, and one to undo.
                item = self._editor.current
                if pending and item is not None:
                    self._editor.apply(pending[0] if len(pending) == 1 else Several(tuple(pending)), [item])
                pending = []
                if step:
                    self._do(step, "")
            else:
                pending.append(step)

    def _review_key(self, pressed: str) -> bool:
        """A key while one tag is asked about everywhere; whether it was one of its own."""
        review = self.reviewing
        assert review is not None
        if pressed in ("y", "n"):
            done = not review.answer(pressed == "y")
        elif pressed in ("space", "j", "k", "down", "up"):
            done = not review.skip(-1 if pressed in ("k", "up") else 1)
        elif pressed == "escape":
            done = True
        else:
            if pressed in ("u", "?", "z", "f1"):
                return False
            self._tell("y, n, Space to skip, or Esc to end the review", wrong=True)
            return True
        if done:
            self._tell(review.summary())
            self.reviewing = None
        return True

    def _nothing(self, what: str) -> None:
        self._tell(f"nothing {what}")

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self._editor.tell(Told(text, wrong))
