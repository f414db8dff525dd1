"""The tag editor's screen: where things stand, which key does what, and when to look again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
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
from loratory.editing.items import Item, file_stamp
from loratory.editing.session import Session
from loratory.errors import LoratoryError
from loratory.tags.completion.completer import Completer
from loratory.tags.edits import SetText
from loratory.tags.journal import Batch
from loratory.tags.query import Query, parse_query
from loratory.tags.text import key
from loratory.terminal.modes import Graphics
from loratory.tui import panes
from loratory.tui.commands import Commands
from loratory.tui.editor import Editor, Told
from loratory.tui.finding_index import FindingIndex
from loratory.tui.insert import Insert
from loratory.tui.keys import Keymap, written_key
from loratory.tui.normal import Normal
from loratory.tui.screens.overlays import ZoomScreen
from loratory.tui.text import Glyphs, fitted
from loratory.tui.views import panel_view, status_line, title_line
from loratory.tui.widgets.image_list import ImageList
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.prompt import Prompt, PromptLine, Row, Suggestions
from loratory.tui.widgets.tag_panel import TagPanel
from loratory.tui.writer import Writer

if TYPE_CHECKING:
    from loratory.editing.checks.context import CheckContext

# How long the screen works at a time on what is not asked for yet: so short that no key waits for it noticeably, and
# longer while nobody types.
_SLICE_S = 0.006
_IDLE_SLICE_S = 0.03
_IDLE_AFTER_S = 0.6
_SLICES_EVERY_S = 0.01
_LOOK_EVERY_S = 0.25
_LOOK_AT_DISK_EVERY_S = 3.0
_SURVEY_EVERY_S = 2.0


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
        self._check_context: CheckContext | None = None
        self._surveyed_s = self._looked_s = self._pressed_s = 0.0
        self._writer: Writer | None = None

    def compose(self) -> ComposeResult:
        yield Static("", id="title", markup=False)
        yield Static("", id="status", markup=False)
        self.findings = FindingIndex(lambda item: ())
        self.writer = self._writer = Writer(self._deliver)
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
        self.commands = Commands(self.editor, quit_app=self.leave, after_settings=self.after_settings)
        self.normal = Normal(self)
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
        self._background = self.set_interval(_SLICES_EVERY_S, self._work)
        self.look()
        self.writer.put(self.session.journal.pending, self._found_unfinished)
        threading.Thread(target=self._watch_disk, name="caption watcher", daemon=True).start()
        threading.Thread(target=self._find_facts, name="caption facts", daemon=True).start()

    def on_unmount(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; every change that was shown is on disk when this returns."""
        self.stopping.set()
        self._wants_facts.set()
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
        if preview.display:
            preview.show(None if item is None else item.image)
            selection = editor.selection
            if selection.cursor + 1 < len(selection.shown):
                preview.prefetch(selection.shown[selection.cursor + 1].image)
        facts = self.session.facts
        if item is not None and (facts.known_size(item) is None or facts.known_tokens(item) is None):
            self._wants_facts.set()
        self._draw_palette()
        self.query_one("#footer", Static).update(self._footer(), layout=False)

    def tell(self, told: Told) -> None:
        """Shows a sentence until the next."""
        self._message = told
        self._message_time = time.strftime("%H:%M") if told.text else ""
        self._draw_message()
        self.call_later(self.look)
        self._background.resume()

    def _draw_message(self) -> None:
        line = f"{self._message_time} {self._message.text}" if self._message.text else ""
        style = "$text-warning" if self._message.wrong else ""
        lead = f"{self.glyphs.finding} " if self._message.wrong else " "
        text = Content(fitted(lead + line, self.size.width, self.glyphs.ellipsis))
        self.query_one("#message", Static).update(text.stylize(style) if style else text, layout=False)

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
                keys = self.keymap.keys_of(action.id).replace("space", "Space")
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
        self.editor.selection.go(event.index)
        self.look()

    def on_mouse_scroll_down(self) -> None:
        self.editor.selection.move(1)
        self.look()

    def on_mouse_scroll_up(self) -> None:
        self.editor.selection.move(-1)
        self.look()

    def on_resize(self) -> None:
        self.call_later(self.look)
        self.call_later(self._draw_message)

    # --- the text area ---

    def edit_text(self, at_start: bool = False) -> None:
        """Opens the caption of the current picture as text, with the cursor at its end or start."""
        item = self.editor.current
        if item is None or item.problem:
            self.tell(Told("no caption here" if item is None else f"{item.caption_name}: {item.problem}", wrong=True))
            return
        area = self.query_one("#text", TextArea)
        self._text_item = item
        area.load_text(item.caption.text)
        # The area has its own idea of line ends: what it makes of the text by itself is no change.
        self._text_before = area.text
        area.move_cursor((0, 0) if at_start else area.document.end)
        area.display = True
        self.query_one(TagPanel).display = False
        area.focus()
        self.tell(Told("Esc saves the text and leaves"))

    @on(events.Key)
    def _text_key(self, event: events.Key) -> None:
        if self._text_item is not None and event.key in ("escape", "ctrl+s"):
            event.stop()
            event.prevent_default()
            self._close_text()

    def leave(self) -> None:
        """Ends the program; a caption that is being written as text is saved first."""
        if self.is_editing_text:
            self._close_text()
        self.app.exit()

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
    def is_editing_text(self) -> bool:
        return self._text_item is not None

    # --- what keys and commands ask for ---

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
        self.insert.close()
        if query.needs & {"size", "dup"}:
            self.tell(Told(f"searching {len(self.session.items)} pictures{self.glyphs.ellipsis}"))
            self.in_background(lambda: self.session.find(query), lambda found: self._found(query, text, found))
        else:
            self._found(query, text, self.session.find(query))

    def _found(self, query: Query, text: str, found: list[Item]) -> None:
        if not found:
            self.tell(Told(f"no picture is {text}", wrong=True))
            return
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
        threading.Thread(target=self._load_knowledge, name="vocabulary", daemon=True).start()

    def _load_knowledge(self) -> None:
        """Loads what takes its time, on a thread: vocabulary, tokenizer, the index of the completion."""
        from loratory.editing.checks.context import session_context
        from loratory.editing.checks.near import known_names

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
            self.app.push_screen(ZoomScreen(self.graphics, item.image))

    def toggle_preview(self) -> None:
        preview = self.query_one(Preview)
        preview.display = not preview.display
        self.query_one("#side").set_class(not preview.display, "-alone")

    def redraw(self) -> None:
        """Draws everything anew: for a terminal that lost something, as when tmux is shown on another one."""
        self.query_one(Preview).reload()
        self.refresh(layout=True)

    def show_help(self) -> None:
        panes.show_help(self)

    def show_tags(self) -> None:
        panes.show_tags(self)

    def show_findings(self) -> None:
        panes.show_findings(self)

    def show_history(self) -> None:
        panes.show_history(self)

    def show_draws(self) -> None:
        panes.show_draws(self)

    def reload(self) -> None:
        """Looks for pictures that came or went, and reads every caption again."""
        self.session.rescan()
        items = self.session.items
        query = self.editor.selection.query
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
        targets = self.editor.selection.wide if wide else [item]
        if finding.automatic_fix is not None:
            self.editor.apply_fix(finding.automatic_fix, targets)
        else:
            panes.choose_fix(self, finding, targets)

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
            self.tell(Told("nothing can be changed until that batch is finished or rolled back: start again for it"))

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
            if time.monotonic() - self._surveyed_s > _SURVEY_EVERY_S:
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
            changed = [item for item in self.session.items if file_stamp(item.caption_path) != item.stamp]
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

    def _run_delivered(self, work: Callable[[], None]) -> None:
        if self.is_mounted and not self.stopping.is_set():
            work()
