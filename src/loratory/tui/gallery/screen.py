"""The gallery: pages through the samples and grids of a run, and sets them beside each other."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from loratory.errors import LoratoryError
from loratory.runs.store import RunDirectory
from loratory.tui.delivery import Delivery
from loratory.tui.frame import frame_line
from loratory.tui.gallery.asking import ask_for_sample, listening, proposed_prompt
from loratory.tui.gallery.place import Look, Place
from loratory.tui.gallery.shelf import Finder, Shelf
from loratory.tui.gallery.sources import Difference, Thumbnails, psnr_db, settings_of
from loratory.tui.gallery.views import empty_text, list_view, place_words, settings_lines, whole_line
from loratory.tui.pane import Pane
from loratory.tui.text import printable
from loratory.tui.told import Told
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.table import Table, TableView

if TYPE_CHECKING:
    from loratory.runs.events import Timed

_LOOK_EVERY_S = 1.0
_WIDE = 120

_HELP = """\
Samples are drawn while a run trains. h and l go through the steps of one
prompt, j and k to another prompt at the same step. Space sets the first
picture of the prompt beside this one: with sample_at_first that is what the
base model draws. Grids come from `loratory grid RUN`.
"""

_Result = TypeVar("_Result")


class GalleryScreen(Pane):
    """One picture as large as there is room for; what else there is comes with a key."""

    CSS_PATH = "gallery.tcss"
    name_of_pane = "gallery"

    def body(self) -> ComposeResult:
        with Vertical(id="gallery"):
            yield Static("", id="gallery-line", markup=False)
            with Horizontal(id="gallery-main"):
                with Horizontal(id="gallery-pictures"):
                    yield Preview(self.graphics, id="gallery-other")
                    yield Preview(self.graphics, id="gallery-one")
                yield Static("", id="gallery-empty", markup=False)
                yield Table(self.glyphs, id="gallery-list")
            yield Static("", id="gallery-caption", markup=False)

    def begin(self) -> None:
        self.standing = Place()
        # Without pictures in the terminal, what they are called is worth more than what is left of them.
        self.lists = self.graphics.mode in ("off", "ascii")
        self.run_seen: RunDirectory | None = None
        self.has_looked = False
        self._shelf: Shelf | None = None
        self._finder: Finder | None = None
        self._is_finding = False
        self._list: tuple[object, TableView] = (None, TableView())
        self._looks: Timer | None = None
        self._deliver = Delivery(self)

    # --- finding pictures ---

    def arrive(self, at: str | None) -> None:
        run = self.panes.run_shown
        if run is None or self.run_seen is None or run.path != self.run_seen.path:
            self._show_run(run)
        self._watch(True)
        self._find()

    def on_screen_suspend(self) -> None:
        self._watch(False)

    def on_screen_resume(self) -> None:
        if self._has_begun:
            self._watch(True)

    def _watch(self, is_looked_at: bool) -> None:
        if self._looks is not None:
            self._looks.stop()
        self._looks = self.set_interval(_LOOK_EVERY_S, self._find) if is_looked_at else None

    def _show_run(self, run: RunDirectory | None) -> None:
        self.run_seen = run
        self.standing = Place(section=self.standing.section)
        self._shelf = None if run is None else Shelf(run)
        self._finder = None if run is None else Finder(run)
        self._is_finding = False
        self.has_looked = run is None

    def _find(self) -> None:
        finder = self._finder
        if finder is None or self._is_finding:
            return
        self._is_finding = True

        def find() -> "tuple[list[Timed], bool, tuple[Path, ...]]":
            return *finder.new_events(), finder.grids()

        self._beside(find, lambda found: self._take(finder, *found))

    def _take(self, finder: Finder, events: "list[Timed]", is_other: bool, grids: tuple[Path, ...]) -> None:
        if finder is not self._finder or self._shelf is None:
            return  # of the run that was looked at before
        self._is_finding = False
        if self.has_looked and not events and not is_other and grids == self.standing.grids:
            return
        self.has_looked = True
        if is_other:
            self._shelf = Shelf(finder.run)
        for timed in events:
            self._shelf.add(timed)
        self.standing.take(self._shelf.rows, grids)
        self.look()

    def _beside(self, work: Callable[[], _Result], done: Callable[[_Result], object]) -> None:
        """Does work that reads the disk on a thread, and what follows on the screen's own; nobody waits for it."""

        def run() -> None:
            try:
                result = work()
            except LoratoryError as error:
                told = Told.of(error)
                self._deliver(lambda: self.tell(told))
            except OSError as error:
                told = Told(f"{error.filename}: {error.strerror}", wrong=True)
                self._deliver(lambda: self._failed(told))
            else:
                self._deliver(lambda: self._try(lambda: done(result)))

        threading.Thread(target=run, name="gallery", daemon=True).start()

    def _failed(self, told: Told) -> None:
        self._is_finding = False
        self.tell(told)

    # --- drawing ---

    def title_content(self, width: int) -> Content:
        name = self.run_seen.name if self.run_seen else self.panes.project.directory.name
        return frame_line(name, "", self.name_of_pane, width, self.glyphs)

    def help_lines(self) -> list[str]:
        return list(_HELP.splitlines())

    def draw(self) -> None:
        standing, width = self.standing, self.size.width
        is_empty = standing.path is None
        self.set_class(is_empty, "-empty")
        self.set_class(self.lists, "-list")
        self.set_class(standing.look_here == "compare", "-compare")
        if is_empty:
            text = Content(f"reading{self.glyphs.ellipsis}")
            if self.has_looked:
                text = empty_text(self.run_seen, standing.section, self.panes.project.runs_dir, min(78, width - 6))
            self.query_one("#gallery-empty", Static).update(text)
        line, caption = place_words(standing, width, self.glyphs)
        self.query_one("#gallery-line", Static).update(line, layout=False)
        self.query_one("#gallery-caption", Static).update(caption, layout=False)
        if (self.lists or width >= _WIDE) and self.run_seen is not None:
            self._draw_list(self.run_seen)
        if not self.lists:
            self._draw_pictures()

    def _draw_list(self, run: RunDirectory) -> None:
        standing = self.standing
        shown = tuple(picture for row in standing.rows for picture in row.pictures)
        of = (standing.section, self.lists, shown, standing.grids)
        if of != self._list[0]:
            self._list = (of, list_view(standing, run, with_paths=self.lists))
        self.query_one("#gallery-list", Table).show(self._list[1], standing.index)

    def _draw_pictures(self) -> None:
        standing = self.standing
        one, other = self.query_one("#gallery-one", Preview), self.query_one("#gallery-other", Preview)
        first = None
        match standing.look_here, standing.picture:
            case _, None:
                one.show(standing.path)
            case "difference", picture:
                one.show(Difference(picture.path, standing.rows[standing.row].pictures[0].path))
            case "sheet", picture:
                steps = standing.rows[standing.row].pictures
                one.show(Thumbnails(tuple((each.path, f"step {each.step}") for each in steps), standing.column))
            case look, _:
                one.show(standing.path)
                steps = standing.rows[standing.row].pictures
                if look == "compare":
                    first = steps[0].path
                elif standing.section == "samples" and standing.column + 1 < len(steps):
                    one.prefetch(steps[standing.column + 1].path)
        other.show(first)

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        return {
            "later": lambda: self._move(lambda: self.standing.go(1)),
            "earlier": lambda: self._move(lambda: self.standing.go(-1)),
            "next-prompt": lambda: self._move(lambda: self.standing.turn(1)),
            "previous-prompt": lambda: self._move(lambda: self.standing.turn(-1)),
            "first": lambda: self._move(lambda: self.standing.go(-(10**9))),
            "last": lambda: self._move(lambda: self.standing.go(10**9)),
            "section": self._other_section,
            "compare": lambda: self._look_as("compare"),
            "difference": self._differ,
            "thumbnails": lambda: self._look_as("sheet"),
            "list": self._turn_list,
            "full": self._fill,
            "settings": self._show_settings,
            "path": lambda: self.tell(Told(whole_line(self._there()))),
            "plain": self._back,
            "sample": self._ask_sample,
        }

    def _there(self) -> Path:
        if self.standing.path is None:
            raise LoratoryError("There is no picture yet.")
        return self.standing.path

    def _move(self, move: Callable[[], None]) -> None:
        move()
        if self.standing.look_here == "difference":
            self._measure()

    def _other_section(self) -> None:
        self.standing.other_section()
        self.tell(Told(""))

    def _look_as(self, look: Look) -> None:
        self.standing.sample()
        if self.graphics.mode != "off":
            self.lists = False
        self.standing.look = "" if self.standing.look == look else look
        self.tell(Told(""))

    def _differ(self) -> None:
        self._look_as("difference")
        if self.standing.look:
            self._measure()

    def _measure(self) -> None:
        row, picture = self.standing.sample()
        first = row.pictures[0]

        def tell(found_db: float) -> None:
            if self.standing.look_here == "difference" and self.standing.picture == picture:
                same = "the same picture, to the last bit" if found_db == float("inf") else f"PSNR {found_db:.1f} dB"
                self.tell(Told(f"{same}, against step {first.step}"))

        self._beside(lambda: psnr_db(picture.path, first.path), tell)

    def _turn_list(self) -> None:
        if self.lists and self.graphics.mode == "off":
            raise LoratoryError("Pictures are switched off here.", hint="LORATORY_PREVIEW=auto shows them.")
        self.lists = not self.lists

    def _fill(self) -> None:
        self._there()
        if self.graphics.mode != "off":
            self.lists = False
            self.toggle_class("-full")

    def _back(self) -> None:
        self.standing.look = ""
        self.remove_class("-full")
        self.tell(Told(""))

    def _show_settings(self) -> None:
        path = self._there()
        self._beside(lambda: settings_of(path), lambda found: self._read_settings(path, found))

    def _read_settings(self, path: Path, found: Mapping[str, str]) -> None:
        from loratory.tui.screens.overlays import TextScreen  # not for the first paint

        lines = settings_lines(path, found, max(20, self.size.width - 6))
        self.app.push_screen(TextScreen("What the picture was drawn with", lines))

    def _ask_sample(self) -> None:
        listening(self.panes, self.run_seen)
        picture = self.standing.picture
        if picture is None:
            self._ask_prompt("")
        else:
            self._beside(lambda: proposed_prompt(picture), self._ask_prompt)

    def _ask_prompt(self, proposed: str) -> None:
        def answered(text: str) -> None:
            ask_for_sample(listening(self.panes, self.run_seen), text)
            self.tell(Told("asked for: it appears here once it is drawn, after the step in hand"))

        self.ask("sample now", printable(proposed), answered)

    @on(Table.Clicked)
    def _clicked(self, event: Table.Clicked) -> None:
        self.standing.go_to(event.index)
        self.look()
