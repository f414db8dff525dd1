"""The prepare pane: the originals, what is made of each, and what is wrong with them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from loratory.editing.checks.finding import CaptionFinding
from loratory.imaging.facts import PictureFacts
from loratory.tui.graphics.drawing import Source
from loratory.tui.pane import DatasetPane, key_lines
from loratory.tui.prepare import views
from loratory.tui.prepare.entry_list import EntryList
from loratory.tui.prepare.looks import BoxesLook, DifferenceLook, OriginalLook, ResultLook, Studio
from loratory.tui.prepare.marking import Marking
from loratory.tui.prepare.snapshot import Snapshot
from loratory.tui.prepare.state import PrepareState
from loratory.tui.prepare.verbs import Verbs
from loratory.tui.prepare.work import Work
from loratory.tui.text import plain
from loratory.tui.told import Told
from loratory.tui.widgets.preview import Preview

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.preparation.desk import Entry

_PROGRESS_EVERY_S = 0.25

_HELP = """\
What is done to a picture is its recipe. The original is never touched;
what is shown as pending is built when you say so, and u undoes any change
of a recipe, tomorrow too. Recipes are saved as you make them.
"""


class PrepareScreen(DatasetPane):
    """Keys go to the prompt, to the boxes that are being marked, or to `Verbs`; `draw` shows what the state says."""

    name_of_pane = "prepare"

    def body(self) -> ComposeResult:
        self.state = PrepareState()
        self.work = Work(self)
        self.studio = Studio(lambda: self.work.deliver(self.look))
        self.commands = Verbs(self)
        self.marking = Marking(self.state, self.commands.editing.give, self.tell, self.show_help)
        self.snapshot: Snapshot | None = None
        self._looking = False
        self._items: list[Item] | None = None
        self._names: dict[Path, str] = {}
        with Vertical():
            yield Static("", id="prepare-status", markup=False)
            with Horizontal(id="prepare-main"):
                yield EntryList(self.state, self.glyphs, id="prepare-list")
                with Vertical(id="prepare-picture"):
                    yield Preview(self.graphics, id="prepare-preview")
                    yield Static("", id="prepare-view", markup=False)
                yield Static("", id="prepare-side", markup=False)
            yield Static("", id="prepare-progress", markup=False)

    def begin(self) -> None:
        self.query_one("#prepare-progress").display = False
        self._progress = self.set_interval(_PROGRESS_EVERY_S, self._show_progress, pause=True)
        self.call_after_refresh(self.open)

    def end(self) -> None:
        work: Work | None = getattr(self, "work", None)  # None where it was never shown
        if work is not None:
            work.end()

    # --- what comes from the background ---

    def open(self) -> None:
        """Reads the pictures and their recipes anew."""
        self.work.open(self.session.directory, self._opened)

    def _opened(self, snapshot: Snapshot) -> None:
        is_first = self.snapshot is None
        self.load(snapshot, anew=True)
        if is_first:
            self.arrive(self._at)
        self.look()

    def load(self, snapshot: Snapshot, *, anew: bool = False) -> None:
        """Takes over what is on the desk, and looks at the pictures that are new on it, or at all of them anew."""
        self.snapshot = snapshot
        # What a build came to before is in the snapshot, and may be undone in it by now.
        self.work.built.clear()
        self.state.load(snapshot)
        self.work.survey(snapshot.entries, None if anew else self.state.facts)
        self.look()

    def failed(self, told: Told) -> None:
        """Something in the background went wrong."""
        self.state.is_loaded = True
        self.tell(told)

    def take_facts(self, facts: Mapping[Path, PictureFacts]) -> None:
        """What looks at pictures told."""
        self.state.facts.update(facts)
        self.look()

    def _look_at_current(self) -> None:
        """Looks at the picture at the cursor before all others: of thousands it may be the last."""
        entry = self.state.current
        if entry is None or self._looking or self.state.facts_of(entry) is not None:
            return
        self._looking = True

        def look() -> dict[Path, PictureFacts]:
            from loratory.imaging.survey import facts_of

            return {entry.source: facts_of(entry.source)}

        def done(facts: dict[Path, PictureFacts]) -> None:
            self._looking = False
            self.take_facts(facts)

        self.work.run(look, done)

    def take_findings(self, findings: Mapping[str, tuple[CaptionFinding, ...]], *, complete: bool) -> None:
        """What is wrong with the pictures, as far as they were looked at. complete: all were."""
        self.state.take_findings(findings, complete=complete)
        self.look()

    @property
    def is_ready(self) -> bool:
        """Whether all pictures were looked at, and nothing is being written or built."""
        if not self._has_begun or not self.state.is_loaded:
            return False
        work = self.work
        return self.state.is_surveyed and not (work.is_surveying or work.is_writing or work.is_building)

    def watch_build(self) -> None:
        """Shows how a build goes on, until it ends."""
        self._progress.resume()
        self._show_progress()

    def _show_progress(self) -> None:
        progress, built = self.work.progress, self.work.built
        if built:
            self.state.built([built.popleft() for _ in range(len(built))])
        line = self.query_one("#prepare-progress", Static)
        line.display = progress is not None
        if progress is None:
            self._progress.pause()
        else:
            line.update(views.progress_line(progress, time.monotonic(), self.size.width, self.glyphs), layout=False)
        self.look()

    # --- looking ---

    def draw(self) -> None:
        self._look_at_current()
        state, glyphs = self.state, self.glyphs
        self._put("#prepare-status", views.status_line(state, self.size.width, glyphs))
        marking = state.boxes is not None
        self.set_class(marking, "-marking")
        self.query_one(EntryList).refresh()
        side = self.query_one("#prepare-side", Static)
        width, height = side.content_size
        if width > 8:
            side.update(Content("\n").join(views.side_lines(state, self.keymap, width, height, glyphs)), layout=False)
        preview = self.query_one(Preview)
        source = self._source()
        if preview.display and source != preview.source:
            preview.show(source)
        elif isinstance(source, Path) and not self.work.is_building:
            preview.show(source)  # it may have been built anew
        view = self.query_one("#prepare-view", Static)
        measured = self.studio.measured.get(source, "")
        view.update(views.view_line(state, isinstance(source, Path), measured, view.size.width, glyphs), layout=False)

    def _put(self, name: str, content: Content) -> None:
        self.query_one(name, Static).update(content, layout=False)

    def _source(self) -> Path | Source | None:
        """What the preview shows of the current picture."""
        state = self.state
        entry = state.current
        if entry is None:
            return None
        if state.boxes is not None:
            return BoxesLook(entry.source, state.boxes, self.studio)
        recipe, defaults = state.recipe(entry), state.defaults(entry)
        is_built = state.is_built(entry)
        match state.view:
            case "original":
                return OriginalLook(entry.source, self.studio)
            case "difference":
                built = entry.outputs[0] if is_built and len(entry.outputs) == 1 else None
                return DifferenceLook(entry.source, recipe, defaults, built, self.studio)
            case _ if is_built and len(entry.outputs) == 1:
                return entry.outputs[0]
            case _ if recipe.skip:
                return OriginalLook(entry.source, self.studio)
            case _:
                return ResultLook(entry.source, recipe, defaults, self.studio)

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        return self.commands.table

    def takes_key(self, key: str) -> bool:
        if self.state.boxes is None:
            return False
        self.marking.press(key)
        return True

    def legal_keys(self) -> str:
        if self.state.boxes is not None:
            return views.boxes_keys(self.marking.keymap, self.state.boxes)
        return ""

    @on(EntryList.Clicked)
    def _clicked(self, event: EntryList.Clicked) -> None:
        self._go_by_mouse(event.index)

    def on_mouse_scroll_down(self) -> None:
        self._go_by_mouse(self.state.cursor + 1)

    def on_mouse_scroll_up(self) -> None:
        self._go_by_mouse(self.state.cursor - 1)

    def _go_by_mouse(self, index: int) -> None:
        if not self.is_asking and self.state.boxes is None:
            self.state.go(index)
            self.look()

    # --- other panes ---

    def arrive(self, at: str | None) -> None:
        if at is None or self.is_asking or self.state.boxes is not None:
            return
        for entry in self.state.entries:
            if at in (entry.name, self.item_name(entry)):
                self.state.go_to(entry.name)
                return

    def renamed(self, told: Told) -> None:
        self.open()
        self.tell(told)

    def place(self) -> str | None:
        entry = self.state.current if self._has_begun else None
        if entry is None:
            return None
        return self.item_name(entry) or entry.name

    def item_name(self, entry: "Entry") -> str | None:
        """What the tag editor calls a picture; None where it has none such."""
        items = self.session.items
        if self._items is not items:  # listed anew since
            self._items, self._names = items, {item.image: item.name for item in items}
        names = (self._names.get(path) for path in (*entry.outputs, entry.source))
        return next((name for name in names if name is not None), None)

    def help_lines(self) -> list[str]:
        return [str(line) for line in _HELP.splitlines()]

    def show_help(self) -> None:
        """All keys: those of the pane, and those while boxes are marked."""
        from loratory.tui.screens.overlays import TextScreen  # not for the first paint

        lines = [*map(plain, self.help_lines()), *key_lines(self.keymap), *key_lines(self.marking.keymap)]
        self.app.push_screen(TextScreen("Keys", lines))
