"""The tag editor's screen: where things stand, which key does what, and when to look again."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, Static, TextArea

from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.facts import trained_line
from loratory.editing.items import Item
from loratory.editing.session import Session
from loratory.errors import LoratoryError
from loratory.tags.edits import SetText
from loratory.tags.journal import Batch
from loratory.tags.query import Query, parse_query
from loratory.tags.text import key
from loratory.terminal.modes import Graphics
from loratory.tui.editor import Editor, Told
from loratory.tui.finding_index import FindingIndex
from loratory.tui.insert import Insert
from loratory.tui.keys import Keymap, written_key
from loratory.tui.normal import Normal
from loratory.tui.text import Glyphs, fitted, printable, wrapped
from loratory.tui.views import panel_view, status_line, title_line
from loratory.tui.widgets.image_list import ImageList
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.prompt import Prompt, PromptLine, Row, Suggestions
from loratory.tui.widgets.tag_panel import TagPanel
from loratory.tui.writer import Writer

if TYPE_CHECKING:
    from loratory.editing.checks.context import CheckContext
    from loratory.tui.commands import Commands

# How long the screen works at a time on what is not asked for yet: so short that no key waits for it noticeably, and
# longer while nobody types.
_SLICE_S = 0.006
_IDLE_SLICE_S = 0.03
_IDLE_AFTER_S = 0.6
_SLICES_EVERY_S = 0.01
_LOOK_EVERY_S = 0.25
_LOOK_AT_DISK_EVERY_S = 3.0
_SURVEY_EVERY_S = 2.0
_MESSAGE_ROWS = 3
# Python breaks lines at these, captions do not.
_ODD_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


class TagsScreen(Screen[None]):
    """Key presses go to `Normal` (a verb each), to `Insert` (the prompt) or to the text area; all of them act on the
    Editor, and `look` draws what it says."""

    BINDINGS: ClassVar[list[BindingType]] = []
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - as the base class declares it
        (0, "-narrow"),
        (72, "-normal"),
        (120, "-wide"),
    ]

    def __init__(self, session: Session, keymap: Keymap, glyphs: Glyphs, graphics: Graphics) -> None:
        super().__init__()
        self.session = session
        self.keymap = keymap
        self.glyphs = glyphs
        self.graphics = graphics
        self.stopping = threading.Event()
        self.unfinished: Batch | None = None
        self._message = Told("")
        self._message_time = ""
        self._loaded = 0
        self._text_item: Item | None = None
        self._text_before = ""
        self._wants_facts = threading.Event()
        self._has_begun = False
        self._knowledge = 0
        self._late: list[Callable[[], None]] = []
        self.last_words: list[str] = []
        self._check_context: CheckContext | None = None
        self._surveyed_s = self._looked_s = self._pressed_s = 0.0
        self._writer: Writer | None = None

    def compose(self) -> ComposeResult:
        yield Static("", id="title", markup=False)
        yield Static("", id="status", markup=False)
        self.findings = FindingIndex(lambda item: ())
        self.writer = self._writer = Writer(self._deliver_written)
        self.editor = Editor(self.session, self.writer, self.findings, self.tell)
        with Horizontal(id="main"):
            yield ImageList(self.editor.selection, self.findings.is_serious, self.glyphs, id="list")
            yield Preview(self.graphics, id="preview")
            with Vertical(id="side"):
                yield TagPanel(self.glyphs, id="tags")
                yield Suggestions(self.glyphs, id="suggestions")
                yield TextArea(id="text", soft_wrap=True, tab_behavior="focus", compact=True)
        yield Prompt(id="prompt")
        yield Static("", id="palette", markup=False)
        yield Static("", id="message", markup=False)
        yield Static("", id="footer", markup=False)

    def on_mount(self) -> None:
        self._loop = asyncio.get_running_loop()
        for name in ("#suggestions", "#text", "#prompt"):
            self.query_one(name).display = False
        self.normal = Normal(self)
        self.editor.is_busy = lambda: self.is_busy
        self.editor.hand_back = self._hand_back
        self.insert = Insert(
            self.editor,
            self.query_one(Prompt),
            self.query_one(Suggestions),
            self.glyphs,
            run_command=self.run_command,
            search=self.search,
            closed=self.look,
            command_rows=self._command_rows,
        )
        self._background = self.set_interval(_SLICES_EVERY_S, self._work, pause=True)
        self.look()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """Starts all that the first paint need not wait for."""
        self._has_begun = True
        self._pressed_s = time.monotonic()
        self._background.resume()
        self.look()
        if self.session.marks.problem:
            self.tell(Told(self.session.marks.problem, wrong=True))
        self.writer.put(self.session.journal.pending, self._found_unfinished)
        threading.Thread(target=self._watch_disk, name="caption watcher", daemon=True).start()
        threading.Thread(target=self._find_facts, name="caption facts", daemon=True).start()

    def on_unmount(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; every change that was shown is on disk when this returns."""
        self._wants_facts.set()
        self.end_writing()
        if self._writer is not None:
            # What went wrong at last has no screen any more: whoever runs the program tells it.
            while self._late:
                self._late.pop(0)()

    def end_writing(self) -> None:
        """Waits until every change that was shown is on disk; from any thread."""
        self.stopping.set()
        if self._writer is not None:
            self._writer.close()

    # --- looking ---

    def look(self) -> None:
        """Draws everything as it is now."""
        if not self.is_mounted:
            return
        self._looked_s = time.monotonic()
        editor, item = self.editor, self.editor.current
        width = self.size.width
        self.query_one("#title", Static).update(title_line(self.session, item, width, self.glyphs), layout=False)
        status = status_line(
            editor, self.findings, self.normal, self.insert.purpose, self.is_editing_text, width, self.glyphs
        )
        self.query_one("#status", Static).update(status, layout=False)
        self.query_one(ImageList).refresh()
        is_inserting = self.insert.purpose is not None
        view = panel_view(editor, self.findings, self.normal, is_inserting, self.glyphs, self.keymap)
        self.query_one(TagPanel).show(view)
        preview = self.query_one(Preview)
        if preview.display and self._has_begun:
            preview.show(None if item is None else item.image)
            selection = editor.selection
            if selection.cursor + 1 < len(selection.shown):
                preview.prefetch(selection.shown[selection.cursor + 1].image)
        facts = self.session.facts
        unknown = item is not None and (facts.known_size(item) is None or facts.known_tokens(item) is None)
        if unknown and self._has_begun:
            self._wants_facts.set()
        self._draw_palette()
        self.query_one("#footer", Static).update(self._footer(), layout=False)

    def tell(self, told: Told, instead_of: Told | None = None) -> None:
        """Shows a sentence until the next; given another one, only if that is still the one shown."""
        if self.stopping.is_set():
            self.last_words += [told.text] if told.wrong else []
            return
        if instead_of is not None and self._message is not instead_of:
            return
        self._message = told
        self._message_time = time.strftime("%H:%M") if told.text else ""
        self._draw_message()
        self.call_later(self.look)
        self._background.resume()

    def _draw_message(self) -> None:
        """The sentence in full: where it is long it takes the palette's row too, and one of the pictures'."""
        lead = f"{self.glyphs.finding} " if self._message.wrong else " "
        text = f"{lead}{self._message_time} {self._message.text}" if self._message.text else ""
        width = max(1, self.size.width)
        lines = [fitted(line, width, self.glyphs.ellipsis) for line in wrapped(text, width)][:_MESSAGE_ROWS] or [""]
        content = Content("\n".join(lines))
        message = self.query_one("#message", Static)
        if message.styles.height is None or message.styles.height.value != len(lines):
            message.styles.height = len(lines)
            self.query_one("#palette").display = len(lines) == 1
        message.update(content.stylize("$text-warning") if self._message.wrong else content)

    def _draw_palette(self) -> None:
        item = self.editor.current
        here = item.keys if item is not None else ()
        parts = [
            f"{(slot + 1) % 10}{self.glyphs.reviewed if key(tag) in here else ' '}{tag}"
            for slot, tag in enumerate(self.editor.palette)
            if tag
        ]
        joined = f" {self.glyphs.dot} ".join(parts) if parts else "y and a tag's letter puts it on a number key"
        line = Content(fitted(f" {joined}", self.size.width, self.glyphs.ellipsis))
        self.query_one("#palette", Static).update(line if parts else line.stylize("$foreground-muted"), layout=False)

    def _footer(self) -> Content:
        if self.unfinished is not None:
            return Content(" f finish it   r roll it back   Esc later")
        if self.is_editing_text:
            return Content(" Esc saves the text and leaves; u undoes it then")
        legal = self.insert.legal_keys() or self.normal.legal_keys()
        if legal:
            return Content(fitted(f" {legal}", self.size.width, self.glyphs.ellipsis))
        parts: list[Content] = []
        for action in self.keymap.actions:
            if action.short and action.keys:
                keys = printable(self.keymap.keys_of(action.id).replace("space", "Space"))
                parts.append(Content.assemble((keys, "bold $text-accent"), f" {action.short}"))
        return Content(" ") + Content("  ").join(parts)

    # --- keys ---

    def on_key(self, event: events.Key) -> None:
        self._pressed_s = time.monotonic()
        if self.insert.purpose is not None or self._text_item is not None:
            return
        key = written_key(event.key, event.character)
        event.stop()
        event.prevent_default()
        if self.unfinished is not None:
            self._answer_unfinished(key)
            return
        try:
            self.normal.press(key)
        except LoratoryError as error:
            self.tell(Told(f"{error.message} {error.hint}".strip(), wrong=True))
        self.look()

    @on(Input.Changed, "#prompt-line")
    def _typed(self, event: Input.Changed) -> None:
        self._pressed_s = time.monotonic()
        if self.insert.purpose is not None:
            self.insert.changed(event.value)

    @on(PromptLine.Key)
    def _prompt_key(self, event: PromptLine.Key) -> None:
        self.insert.key(event.key)
        self.look()

    @on(ImageList.Clicked)
    def _clicked(self, event: ImageList.Clicked) -> None:
        if self.is_busy:
            return
        self.editor.selection.go(event.index)
        self.look()

    def on_mouse_scroll_down(self) -> None:
        if self.is_busy:
            return
        self.editor.selection.move(1)
        self.look()

    def on_mouse_scroll_up(self) -> None:
        if self.is_busy:
            return
        self.editor.selection.move(-1)
        self.look()

    def on_resize(self) -> None:
        self.call_later(self.look)
        self.call_later(self._draw_message)

    # --- the text area ---

    def _hand_back(self, items: Sequence[Item], text: str) -> None:
        """Opens a caption again that was typed and could not be written."""
        if items and not self.is_busy and self.editor.selection.go_to(items[0]):
            self.edit_text()
            self.query_one("#text", TextArea).load_text(text)

    def edit_text(self, at_start: bool = False) -> None:
        """Opens the caption of the current picture as text, with the cursor at its end or start."""
        item = self.editor.current
        if item is None or item.problem:
            self.tell(Told("no caption here" if item is None else f"{item.caption_name}: {item.problem}", wrong=True))
            return
        if _ODD_LINE_ENDS.search(item.caption.text):
            self.tell(
                Told("this caption has line ends that only a text editor keeps: edit its tags, or the file", True)
            )
            return
        area = self.query_one("#text", TextArea)
        self._text_item = item
        area.load_text(item.caption.text)
        # The area has its own idea of line ends: what it makes of the text by itself is no change.
        self._text_before = area.text
        # Behind the last word: text behind a newline at the end would be a line of its own.
        last = area.text.rstrip("\r\n").count("\n")
        area.move_cursor((0, 0) if at_start else (last, len(area.document.get_line(last))))
        area.display = True
        self.query_one(TagPanel).display = False
        area.focus()
        self.tell(Told("Esc saves the text and leaves"))

    @on(events.Key)
    def _text_key(self, event: events.Key) -> None:
        if self._text_item is not None and event.key in ("escape", "ctrl+s"):
            event.stop()
            event.prevent_default()
            if not self._changed_meanwhile():
                self._close_text()

    def leave(self) -> None:
        """Ends the program; a caption that is being written as text is saved first."""
        if self.is_editing_text:
            self._changed_meanwhile()
            self._close_text()
        self.app.exit()

    def _changed_meanwhile(self) -> bool:
        """Whether somebody else changed the caption that is being written as text; theirs is then taken over, so that
        writing ours comes after it and can be undone."""
        item = self._text_item
        assert item is not None
        before = item.data
        self.editor.take_over([item])
        if item.data == before or self.query_one("#text", TextArea).text == self._text_before:
            return False
        name = item.caption_name
        self.tell(
            Told(f"{name} was changed on disk meanwhile · Esc again writes yours; u then brings theirs back", True)
        )
        return True

    def _close_text(self) -> None:
        item, area = self._text_item, self.query_one("#text", TextArea)
        assert item is not None
        self._text_item = None
        area.display = False
        self.query_one(TagPanel).display = True
        self.set_focus(None)
        text = area.text
        if text != self._text_before:
            self.normal.edit(SetText(text), [item])
        else:
            self.tell(Told("the caption stays as it was"))

    @property
    def is_ready(self) -> bool:
        """Whether captions, vocabulary and findings are all there."""
        everything = self._loaded == len(self.session.items) and self._check_context is not None
        return self.is_mounted and everything and self.findings.is_complete

    @property
    def is_busy(self) -> bool:
        """Whether keys go to something that was begun for the current picture, which must not move away then."""
        return self.insert.purpose is not None or self.is_editing_text or self.normal.is_waiting

    @property
    def is_editing_text(self) -> bool:
        return self._text_item is not None

    # --- what keys and commands ask for ---

    @cached_property
    def commands(self) -> "Commands":
        from loratory.tui.commands import Commands  # with all verbs: not for the first paint

        return Commands(self.editor, quit_app=self.leave, after_settings=self.after_settings)

    @property
    def _panes(self) -> ModuleType:
        from loratory.tui import panes  # with the screens they open: not for the first paint

        return panes

    def run_command(self, line: str) -> None:
        try:
            self.commands.run(line)
        except LoratoryError as error:
            self.tell(Told(f"{error.message} {error.hint}".strip(), wrong=True))
        self.look()

    def _command_rows(self, typed: str) -> tuple[Row, ...]:
        return tuple(Row(name, 0, "", said) for name, said in self.commands.rows(typed)[:8])

    def search(self, text: str) -> None:
        """Filters the list by a query, in the background where pictures have to be read for it."""
        if not text.strip():
            self.insert.close()
            self.editor.selection.clear_filter()
            self.look()
            return
        try:
            query = parse_query(text)
        except LoratoryError as error:
            self.tell(Told(error.message.splitlines()[0], wrong=True))
            return
        if query.needs & {"size", "dup", "tokens"}:
            self.tell(Told(f"searching {len(self.session.items)} pictures{self.glyphs.ellipsis}"))
            self.in_background(lambda: self.session.find(query), lambda found: self._found(query, text, found))
        else:
            self._found(query, text, self.session.find(query))

    def _found(self, query: Query, text: str, found: list[Item]) -> None:
        if not found:  # the prompt stays: capitals must not act on all because a filter found none
            self.tell(Told(f"no picture is {text}", wrong=True))
            return
        if self.insert.purpose is not None and self.insert.purpose.kind == "filter":
            self.insert.close()
        self.editor.selection.filter(query, text, found)
        self.tell(
            Told(f"{len(found)} of {len(self.session.items)} pictures · Esc shows all, n and N go from one to the next")
        )

    def in_background(self, work: Callable[[], list[Item]], done: Callable[[list[Item]], None]) -> None:
        """Does reading work on a thread that nobody waits for at the end."""
        threading.Thread(target=lambda: self._deliver_result(work, done), daemon=True).start()

    def _deliver_result(self, work: Callable[[], list[Item]], done: Callable[[list[Item]], None]) -> None:
        try:
            result = work()
        except LoratoryError as error:
            message = error.message
            self._deliver(lambda: self.tell(Told(message, wrong=True)))
            return
        self._deliver(lambda: done(result))

    def after_settings(self) -> None:
        """Looks at everything again by the dataset's settings: vocabulary, kept tags, how captions are read."""
        self._knowledge += 1
        number = self._knowledge
        threading.Thread(target=lambda: self._load_knowledge(number), name="vocabulary", daemon=True).start()

    def _load_knowledge(self, number: int) -> None:
        """Loads what takes its time, on a thread: vocabulary, tokenizer, the index of the completion."""
        from loratory.editing.checks.context import session_context
        from loratory.editing.checks.near import known_names
        from loratory.tags.completion.completer import Completer

        try:
            context = session_context(self.session)
            known_names(self.session.vocabulary)
            completer = Completer(self.session.vocabulary)
            # The first call learns the dataset's tags; here it keeps no key press waiting.
            completer.complete("", uses=dict(self.editor.uses))
        except LoratoryError as error:
            message = f"{error.message} {error.hint}".strip()
            self._deliver(lambda: self.tell(Told(message, wrong=True)))
            return

        def install() -> None:
            if number != self._knowledge:  # the settings have changed again
                return
            self.insert.use(completer)
            self._check_by(context)
            self.look()

        self._deliver(install)

    def _check_by(self, context: "CheckContext") -> None:
        from loratory.editing.checks.caption import check_caption

        self._check_context = context
        self.findings.replace_check(lambda item: check_caption(item, context), self.session.items)
        self.session.facts.issues_of = lambda item: frozenset(found.rule for found in self.findings.of(item))
        self._surveyed_s = time.monotonic()
        self._background.resume()

    def zoom(self) -> None:
        item = self.editor.current
        if item is not None:
            self._panes.show_zoom(self, item)

    def toggle_preview(self) -> None:
        preview = self.query_one(Preview)
        preview.display = not preview.display
        self.query_one("#side").set_class(not preview.display, "-alone")

    def redraw(self) -> None:
        """Draws everything anew: for a terminal that lost something, as when tmux is shown on another one."""
        self.query_one(Preview).reload()
        self.refresh(layout=True)

    def show_help(self) -> None:
        self._panes.show_help(self)

    def show_tags(self) -> None:
        self._panes.show_tags(self)

    def show_findings(self) -> None:
        self._panes.show_findings(self)

    def show_history(self) -> None:
        self._panes.show_history(self)

    def show_draws(self) -> None:
        self._panes.show_draws(self)

    def reload(self) -> None:
        """Looks for pictures that came or went, and reads every caption again, after what is still being written."""
        self.writer.put(lambda: None, lambda nothing: self._reload())

    def _reload(self) -> None:
        try:
            self.session.rescan()
        except LoratoryError as error:
            self.tell(Told(f"{error.message} {error.hint}".strip(), wrong=True))
            return
        items, query = self.session.items, self.editor.selection.query
        self._loaded = len(items)
        self.editor.selection.replace_items(items, self.session.find(query) if query is not None else items)
        self.editor.recount()
        self.after_settings()
        self.tell(Told(f"{len(items)} pictures"))

    def fix(self, *, wide: bool) -> None:
        """Mends the first finding of the current picture that can be mended, here or in many; asks where it could be
        done in several ways."""
        item = self.editor.current
        found = self.editor.findings.of(item) if item is not None else ()
        finding = next((finding for finding in found if finding.fixes), None)
        if item is None or finding is None:
            self.tell(Told("nothing here has a fix" if found else "no findings here"))
            return
        if wide and self.session.settings.vocabulary is None:
            site = self.session.site
            self.tell(Told(f"say first whose tags these are: `:vocabulary {site}`, or another one", wrong=True))
            return
        editor = self.editor
        # What is superfluous here may be needed there: only pictures with the same finding are changed.
        targets = [other for other in editor.selection.wide if editor.same_finding(finding, other)] if wide else [item]
        if finding.automatic_fix is not None and wide:
            editor.fix_all(finding, targets)
        elif finding.automatic_fix is not None:
            editor.apply_fix(finding.automatic_fix, targets)
        else:
            self._panes.choose_fix(self, finding, targets)

    def set_findings(self) -> list[CaptionFinding]:
        """What is to be said of the set as a whole."""
        from loratory.editing.checks.dataset_wide import check_set

        return check_set(self.session.items, self._check_context) if self._check_context is not None else []

    # --- a batch that a killed process left ---

    def _found_unfinished(self, result: Batch | LoratoryError | None) -> None:
        if isinstance(result, LoratoryError):
            self.tell(Told(f"{result.message} {result.hint}".strip(), wrong=True))
        elif result is not None:
            self.unfinished = result
            self.tell(Told(f"“{result.label}” ({result.count} captions) was interrupted", wrong=True))

    def _answer_unfinished(self, pressed: str) -> None:
        if pressed in ("f", "r"):
            self.unfinished = None
            self.editor.recover(finish=pressed == "f")
        elif pressed == "escape":
            self.unfinished = None
            self.tell(
                Told("nothing can be changed before that: `:recover finish` or `:recover roll-back` when you are ready")
            )

    # --- in the background ---

    def _work(self) -> None:
        """A slice of reading captions and finding what is wrong with them."""
        items, now = self.session.items, time.monotonic()
        slice_s = _SLICE_S if now - self._pressed_s < _IDLE_AFTER_S else _IDLE_SLICE_S
        if self._loaded < len(items):
            end = now + slice_s
            while self._loaded < len(items) and time.monotonic() < end:
                _ = items[self._loaded].keys
                self._loaded += 1
            if self._loaded == len(items):
                self.editor.count(items)
                self.editor.judge_style()
                self.after_settings()
            self._look_sometimes(self._loaded == len(items))
        elif self.findings.work(slice_s):
            self._look_sometimes(self.findings.is_complete)
        elif self.editor.changed_since_survey and self._check_context is not None:
            # Which tags are rare, and what the first tags of a folder are, hangs on all captions together.
            if now - self._surveyed_s > _SURVEY_EVERY_S and now - self._pressed_s > _IDLE_AFTER_S:
                self.editor.changed_since_survey = False
                self._check_by(self._check_context.surveyed(items))
        else:
            self._background.pause()

    def _look_sometimes(self, at_once: bool) -> None:
        if at_once or time.monotonic() - self._looked_s > _LOOK_EVERY_S:
            self.look()

    def _watch_disk(self) -> None:
        while not self.stopping.wait(_LOOK_AT_DISK_EVERY_S):
            if self._loaded < len(self.session.items):
                continue
            changed = [item for item in self.session.items if self.stopping.is_set() or item.has_changed()]
            if changed:
                self._deliver(lambda changed=changed: self._take_over(changed))

    def _find_facts(self) -> None:
        """Size and token count of whatever picture is current when the last ones are known."""
        while self._wants_facts.wait() and not self.stopping.is_set():
            self._wants_facts.clear()
            item = self.editor.current
            if item is not None:
                self.session.facts.size(item)
                self.session.facts.tokens(trained_line(item))
                self._deliver(self.look)

    def _take_over(self, items: Iterable[Item]) -> None:
        if not self.is_editing_text:
            self.editor.take_over(list(items))

    def _deliver(self, work: Callable[[], None]) -> None:
        """Hands work over to the screen's thread and never waits; dropped when the screen is gone."""
        if self.stopping.is_set():
            return
        try:
            self._loop.call_soon_threadsafe(self._run_delivered, work)
        except RuntimeError:  # the loop was closed meanwhile
            return

    def _deliver_written(self, work: Callable[[], None]) -> None:
        """`_deliver` for what came of writing: kept for `close` when the screen is going."""
        if self.stopping.is_set():
            self._late.append(work)
        else:
            try:
                self._loop.call_soon_threadsafe(lambda: self._late.append(work) if self.stopping.is_set() else work())
            except RuntimeError:  # the loop was closed meanwhile
                self._late.append(work)

    def _run_delivered(self, work: Callable[[], None]) -> None:
        if self.is_mounted and not self.stopping.is_set():
            work()
