"""The tag editor's screen: where things stand, which key does what, and when to look again."""

import time
from collections.abc import Collection, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, Static

from loratory.editing.items import Item
from loratory.editing.session import Session
from loratory.errors import LoratoryError
from loratory.tags.query import Query, parse_query
from loratory.terminal.modes import Graphics
from loratory.tui.background import Background
from loratory.tui.editor import Editor
from loratory.tui.finding_index import FindingIndex
from loratory.tui.frame import footer_line, message_lines
from loratory.tui.insert import SLOW_FACTS, Insert
from loratory.tui.keys import Keymap, written_key
from loratory.tui.normal import Normal
from loratory.tui.text import Glyphs
from loratory.tui.text_editing import TextEditing
from loratory.tui.told import Told
from loratory.tui.unfinished import Unfinished
from loratory.tui.views import palette_line, panel_view, status_line, title_line
from loratory.tui.widgets.caption_area import CaptionArea
from loratory.tui.widgets.image_list import ImageList
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.prompt import Prompt, PromptLine, Row, Suggestions
from loratory.tui.widgets.tag_panel import TagPanel
from loratory.tui.writer import Writer

if TYPE_CHECKING:
    from loratory.tui.commands import Commands
    from loratory.tui.pane import Panes


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

    def __init__(self, panes: "Panes", session: Session, keymap: Keymap, glyphs: Glyphs, graphics: Graphics) -> None:
        super().__init__()
        self.panes = panes
        self.session = session
        self.keymap = keymap
        self.glyphs = glyphs
        self.graphics = graphics
        self.last_words: list[str] = []
        self._message = Told("")
        self._message_time = ""
        self._writer: Writer | None = None

    def compose(self) -> ComposeResult:
        self.background = Background(self)
        self.findings = FindingIndex(lambda item: ())
        self.writer = self._writer = Writer(self.background.deliver_written)
        self.editor = Editor(self.session, self.writer, self.findings, self.tell)
        self.unfinished = Unfinished(self.editor)
        yield Static("", id="title", markup=False)
        yield Static("", id="status", markup=False)
        with Horizontal(id="main"):
            yield ImageList(self.editor.selection, self.findings.is_serious, self.glyphs, id="list")
            yield Preview(self.graphics, id="preview")
            with Vertical(id="side"):
                yield TagPanel(self.glyphs, id="tags")
                yield Suggestions(self.glyphs, id="suggestions")
                yield CaptionArea(id="text")
        yield Prompt(id="prompt")
        yield Static("", id="palette", markup=False)
        yield Static("", id="message", markup=False)
        yield Static("", id="footer", markup=False)

    def on_mount(self) -> None:
        for name in ("#suggestions", "#text", "#prompt"):
            self.query_one(name).display = False
        self.normal = Normal(self)
        self.text_editing = TextEditing(self.editor, self.query_one(CaptionArea), self.query_one(TagPanel))
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
        self.look()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self.background.begin()
        self.look()
        if self.session.marks.problem:
            self.tell(Told(self.session.marks.problem, wrong=True))
        elif self.session.completed_renaming is not None:
            self.tell(
                Told(f"a renaming of folders that was cut short is completed: {self.session.completed_renaming.label}")
            )
        self.writer.put(self.session.journal.pending, self.unfinished.found)

    def on_unmount(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; every change that was shown is on disk when this returns, or told in `last_words`."""
        self.end_writing()
        if self._writer is not None:
            # What went wrong at last has no screen any more: whoever runs the program tells it.
            self.background.take_late()

    def end_writing(self) -> None:
        """Waits until every change that was shown is on disk; from any thread."""
        if self._writer is not None:
            self.background.end()
            self._writer.close()

    # --- looking ---

    def look(self) -> None:
        """Draws everything as it is now."""
        if not (self.is_mounted and self.is_running):  # when it ends its widgets go first
            return
        self.background.note_look()
        editor, item, width, glyphs = self.editor, self.editor.current, self.size.width, self.glyphs
        purpose = self.insert.purpose
        self._draw("#title", title_line(self.session, self.place(), "tags", width, glyphs))
        status = status_line(editor, self.findings, self.normal, purpose, self.is_editing_text, width, glyphs)
        self._draw("#status", status)
        self.query_one(ImageList).refresh()
        view = panel_view(editor, self.findings, self.normal, purpose is not None, glyphs, self.keymap)
        self.query_one(TagPanel).show(view)
        if self.background.has_begun:
            self._look_at_picture(item)
        self._draw("#palette", palette_line(editor, width, glyphs))
        self._draw("#footer", footer_line(self.keymap, self._legal_keys(), width, glyphs))

    def _look_at_picture(self, item: Item | None) -> None:
        preview, selection = self.query_one(Preview), self.editor.selection
        if preview.display:
            preview.show(None if item is None else item.image)
            if selection.cursor + 1 < len(selection.shown):
                preview.prefetch(selection.shown[selection.cursor + 1].image)
        facts = self.session.facts
        if item is not None and (facts.known_size(item) is None or facts.known_tokens(item) is None):
            self.background.want_facts()

    def _draw(self, name: str, content: Content) -> None:
        self.query_one(name, Static).update(content, layout=False)

    def _legal_keys(self) -> str:
        """What can be typed now, where it is not any action."""
        if self.unfinished.is_asked:
            return self.unfinished.LEGAL_KEYS
        if self.is_editing_text:
            return "Esc saves the text and leaves; u undoes it then"
        return self.insert.legal_keys() or self.normal.legal_keys()

    def tell(self, told: Told, instead_of: Told | None = None) -> None:
        """Shows a sentence until the next; given another one, only if that is still the one shown."""
        if self.background.stopping.is_set() or not self.is_running:
            self.last_words += [told.text] if told.wrong else []
            return
        if instead_of is not None and self._message is not instead_of:
            return
        self._message = told
        self._message_time = time.strftime("%H:%M") if told.text else ""
        self._draw_message()
        self.call_later(self.look)
        self.background.note_work()

    def _draw_message(self) -> None:
        """The sentence in full: where it is long it takes the palette's row too, and one of the pictures'."""
        lines = message_lines(self._message, self._message_time, self.size.width, self.glyphs)
        message = self.query_one("#message", Static)
        if message.styles.height is None or message.styles.height.value != len(lines):
            message.styles.height = len(lines)
            self.query_one("#palette").display = len(lines) == 1
        message.update(Content("\n").join(lines))

    # --- keys ---

    def on_key(self, event: events.Key) -> None:
        self.background.note_key()
        if self.insert.purpose is not None or self.is_editing_text:
            return
        key = written_key(event.key, event.character)
        event.stop()
        event.prevent_default()
        if self.unfinished.is_asked:
            self.unfinished.answer(key)
            return
        try:
            self.normal.press(key)
        except LoratoryError as error:
            self.tell(Told.of(error))
        self.look()

    @on(Input.Changed, "#prompt-line")
    def _typed(self, event: Input.Changed) -> None:
        self.background.note_key()
        if self.insert.purpose is not None:
            self.insert.changed(event.value)

    @on(PromptLine.Key)
    def _prompt_key(self, event: PromptLine.Key) -> None:
        self.insert.key(event.key)
        self.look()

    @on(ImageList.Clicked)
    def _clicked(self, event: ImageList.Clicked) -> None:
        self._go_by_mouse(event.index)

    def on_mouse_scroll_down(self) -> None:
        self._go_by_mouse(self.editor.selection.cursor + 1)

    def on_mouse_scroll_up(self) -> None:
        self._go_by_mouse(self.editor.selection.cursor - 1)

    def _go_by_mouse(self, index: int) -> None:
        if not self.is_busy:
            self.editor.selection.go(index)
            self.look()

    def on_resize(self) -> None:
        self.call_later(self.look)
        self.call_later(self._draw_message)

    # --- the caption as text ---

    @property
    def is_editing_text(self) -> bool:
        """Whether keys write the caption of a picture as text."""
        return self.text_editing.is_open

    @on(CaptionArea.Done)
    def _text_done(self) -> None:
        self.text_editing.finish()

    def _hand_back(self, items: Sequence[Item], text: str) -> None:
        """Opens a caption again that was typed and could not be written."""
        if items and not self.is_busy and self.editor.selection.go_to(items[0]):
            self.text_editing.open(text=text)

    def take_over(self, items: Sequence[Item]) -> None:
        """Takes over captions that somebody else changed; not under the hands of who writes one as text."""
        if not self.is_editing_text:
            self.editor.take_over(items)

    # --- to and from other panes ---

    def leave(self) -> None:
        """Ends the program; a caption that is being written as text is saved first."""
        if self.is_mounted and self.is_editing_text:
            self.text_editing.save()
        # What threads still deliver would find a screen whose widgets are going one by one.
        self.background.stopping.set()
        self.app.exit()

    def place(self) -> str | None:
        """The name of the current picture."""
        item = self.editor.current
        return None if item is None else item.name

    def arrive(self, at: str | None) -> None:
        """Another pane led here, from the picture of that name."""
        item = next((item for item in self.session.items if item.name == at), None)
        if item is not None and not self.is_busy and item is not self.editor.current:
            self.editor.selection.go_to(item)
            self.look()

    def show_only(self, label: str, names: Collection[str]) -> None:
        """Filters the list to the pictures of these names; `label` says which they are."""
        if self.is_busy:
            self.tell(Told("end what is begun here first"))
            return
        found = [item for item in self.session.items if item.name in names]
        if found:
            self._found(None, label, found)
        self.look()

    def show_pane(self, name: str) -> None:
        """Brings another pane to the front, at this picture."""
        self.panes.show_pane(name, self.place())

    @property
    def is_ready(self) -> bool:
        """Whether captions, vocabulary and findings are all there."""
        return self.is_mounted and self.background.is_ready

    @property
    def is_busy(self) -> bool:
        """Whether keys go to something that was begun for the current picture, which must not move away then."""
        return self.insert.purpose is not None or self.is_editing_text or self.normal.is_waiting

    # --- what keys and commands ask for ---

    @cached_property
    def commands(self) -> "Commands":
        from loratory.tui.commands import Commands  # with all verbs: not for the first paint

        return Commands(
            self.editor, quit_app=self.leave, after_settings=self.background.learn, after_kept=self.after_kept
        )

    @property
    def _overlays(self) -> ModuleType:
        from loratory.tui import editor_overlays  # with the screens they open: not for the first paint

        return editor_overlays

    def run_command(self, line: str) -> None:
        try:
            self.commands.run(line)
        except LoratoryError as error:
            self.tell(Told.of(error))
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
        if query.needs & SLOW_FACTS:
            self.tell(Told(f"searching {len(self.session.items)} pictures{self.glyphs.ellipsis}"))
            self.background.run(lambda: self.session.find(query), lambda found: self._found(query, text, found))
        else:
            self._found(query, text, self.session.find(query))

    def _found(self, query: Query | None, text: str, found: list[Item]) -> None:
        if not found:  # the prompt stays: capitals must not act on all because a filter found none
            self.tell(Told(f"no picture is {text}", wrong=True))
            return
        if self.insert.purpose is not None and self.insert.purpose.kind == "filter":
            self.insert.close()
        self.editor.selection.filter(query, text, found)
        self.tell(
            Told(f"{len(found)} of {len(self.session.items)} pictures · Esc shows all, n and N go from one to the next")
        )

    def after_kept(self) -> None:
        """Looks at everything again by the tags that are kept now."""
        if self.background.context is not None:
            self.background.check_by(self.background.context.keeping(self.session.settings.kept_keys()))

    def zoom(self) -> None:
        item = self.editor.current
        if item is not None:
            self._overlays.show_zoom(self, item)

    def toggle_preview(self) -> None:
        preview = self.query_one(Preview)
        preview.display = not preview.display
        self.query_one("#side").set_class(not preview.display, "-alone")

    def redraw(self) -> None:
        """Draws everything anew: for a terminal that lost something, as when tmux is shown on another one."""
        self.query_one(Preview).reload()
        self.refresh(layout=True)

    def show_help(self) -> None:
        self._overlays.show_help(self)

    def show_tags(self) -> None:
        self._overlays.show_tags(self)

    def show_findings(self) -> None:
        if not self.background.picture_findings and self.background.look_at_pictures():
            self.tell(Told(f"looking at the pictures{self.glyphs.ellipsis} what is wrong with them joins this list"))
        self._overlays.show_findings(self)

    def show_history(self) -> None:
        self._overlays.show_history(self)

    def show_draws(self) -> None:
        self._overlays.show_draws(self)

    def reload(self) -> None:
        """Looks for pictures that came or went, and reads every caption again, after what is still being written."""
        self.writer.put(lambda: None, lambda nothing: self.look_anew())

    def look_anew(self) -> None:
        """Lists the pictures and reads the captions again; nothing may be waiting to be written."""
        try:
            self.session.rescan()
        except LoratoryError as error:
            self.tell(Told.of(error))
            return
        items, query = self.session.items, self.editor.selection.query
        self.editor.selection.replace_items(items, self.session.find(query) if query is not None else items)
        self.background.read_anew()
        self.tell(Told(f"{len(items)} pictures"))

    def fix(self, *, wide: bool) -> None:
        self._overlays.fix(self, wide=wide)
