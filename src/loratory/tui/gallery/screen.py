"""The gallery: pages through the samples and grids of a run, and sets them beside each other."""

import asyncio
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
from loratory.runs.control import Command, send
from loratory.runs.store import ALIVE, RunDirectory, liveness
from loratory.tui.editor import Told
from loratory.tui.gallery.shelf import Finder, Picture, Row, Shelf
from loratory.tui.gallery.sources import ENLARGED, Difference, Thumbnails, psnr_db, settings_of
from loratory.tui.gallery.views import (
    SECTIONS,
    caption_line,
    empty_text,
    grid_list,
    place_line,
    sample_list,
    where_of,
)
from loratory.tui.pane import Pane
from loratory.tui.text import plain, printable, wrapped
from loratory.tui.views import frame_line
from loratory.tui.widgets.preview import Preview
from loratory.tui.widgets.table import Table, TableView

if TYPE_CHECKING:
    from loratory.runs.events import Timed
    from loratory.sampling.prompts import Prompt

_LOOK_EVERY_S = 1.0
_WIDE = 120

_HELP = """\
Samples are drawn while a run trains; h l go through the steps of one prompt,
j k to another prompt at the same step. Space sets the first picture of the
prompt beside the one you look at: with sample_at_first that is the base model.
Grids come from `loratory grid RUN`.
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
        self.run_seen: RunDirectory | None = None
        self._shelf: Shelf | None = None
        self._rows: list[Row] = []
        self._grids: tuple[Path, ...] = ()
        self._finder: Finder | None = None
        self._is_finding = False
        self.has_looked = False
        self._section = 0
        self._row = self._at = self._grid = 0
        self._look = ""  # "", "compare", "difference" or "sheet"
        # Without pictures in the terminal, what they are called is worth more than what is left of them.
        self._lists = self.graphics.mode in ("off", "ascii")
        self._list: tuple[object, TableView] = (None, TableView())
        self._timer: Timer | None = None
        self._stopping = threading.Event()
        self._own_loop = asyncio.get_running_loop()

    def end(self) -> None:
        if self.is_mounted:
            self._stopping.set()

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
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(_LOOK_EVERY_S, self._find) if is_looked_at else None

    def _show_run(self, run: RunDirectory | None) -> None:
        self.run_seen = run
        self._shelf = None if run is None else Shelf(run)
        self._finder = None if run is None else Finder(run)
        self._rows, self._grids, self._is_finding = [], (), False
        self._row = self._at = self._grid = 0
        self._look = ""
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
        if is_other:
            self._shelf = Shelf(finder.run)
        changed = bool(events) or is_other or grids != self._grids or not self.has_looked
        self.has_looked = True
        if not changed:
            return
        before = self._picture
        was_last = before is None or self._at == len(self._rows[self._row].pictures) - 1
        for timed in events:
            self._shelf.add(timed)
        self._rows = self._shelf.rows
        self._grids = grids
        self._row = max(0, min(self._row, len(self._rows) - 1))
        if self._rows:
            row = self._rows[self._row]
            if was_last:
                self._at = len(row.pictures) - 1  # who looks at the newest goes on doing so
            elif before is not None:
                self._at = row.nearest(before.step)
        self._grid = max(0, min(self._grid, len(grids) - 1))
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

    def _deliver(self, work: Callable[[], object]) -> None:
        if not self._stopping.is_set():
            try:
                self._own_loop.call_soon_threadsafe(lambda: None if self._stopping.is_set() else work())
            except RuntimeError:  # the loop was closed meanwhile
                return

    # --- where one stands ---

    @property
    def section(self) -> str:
        return SECTIONS[self._section]

    @property
    def _picture(self) -> Picture | None:
        if not self._rows:
            return None
        return self._rows[self._row].pictures[self._at]

    @property
    def shown_path(self) -> Path | None:
        """The file that is looked at."""
        if self.section == "grids":
            return self._grids[self._grid] if self._grids else None
        return self._picture.path if self._picture else None

    @property
    def look_of_it(self) -> str:
        """How it is looked at: "", "compare", "difference" or "sheet"."""
        return self._look if self.section == "samples" else ""

    def _sample(self) -> tuple[Row, Picture]:
        picture = self._picture
        if self.section != "samples":
            raise LoratoryError("This is for samples: Tab leads there.")
        if picture is None:
            raise LoratoryError("There is no sample yet.")
        return self._rows[self._row], picture

    def _there(self) -> Path:
        if self.shown_path is None:
            raise LoratoryError("There is no picture yet.")
        return self.shown_path

    # --- drawing ---

    def title_content(self, width: int) -> Content:
        name = self.run_seen.name if self.run_seen else self.panes.project.directory.name
        return frame_line(name, "", self.name_of_pane, width, self.glyphs)

    def help_lines(self) -> list[str]:
        return list(_HELP.splitlines())

    def draw(self) -> None:
        is_empty = self.shown_path is None
        self.set_class(is_empty, "-empty")
        self.set_class(self._lists, "-list")
        self.set_class(self.look_of_it == "compare", "-compare")
        width = self.size.width
        if is_empty:
            text = Content(f"reading{self.glyphs.ellipsis}")
            if self.has_looked:
                text = empty_text(self.run_seen, self.section, self.panes.project.runs_dir, min(78, width - 6))
            self.query_one("#gallery-empty", Static).update(text)
        where, state, caption = self._words()
        counts = (sum(len(row.pictures) for row in self._rows), len(self._grids))
        line = place_line(self.section, counts, where, state, width, self.glyphs)
        self.query_one("#gallery-line", Static).update(line, layout=False)
        self.query_one("#gallery-caption", Static).update(caption_line(caption, width, self.glyphs), layout=False)
        if self._lists or width >= _WIDE:
            self._draw_list()
        if not self._lists:
            self._draw_pictures()

    def _words(self) -> tuple[str, str, str]:
        """Where one stands, how it is looked at, and what the picture shows."""
        if self.section == "grids":
            if not self._grids:
                return "", "", ""
            return f"{self._grid + 1} of {len(self._grids)}", "", self._grids[self._grid].name
        picture = self._picture
        if picture is None:
            return "", "", ""
        row = self._rows[self._row]
        first = row.pictures[0]
        state = {
            "compare": f" left: step {first.step} ",
            "difference": f" x{ENLARGED}, against step {first.step} ",
            "sheet": " all steps ",
        }.get(self._look, "")
        where = where_of(picture, row, self._at, len(self._rows), self._row, self.glyphs)
        return where, state, f"{row.prompt}  {self.glyphs.dot} seed {row.seed}"

    def _draw_list(self) -> None:
        run = self.run_seen
        if run is None:
            return
        counts = tuple(len(row.pictures) for row in self._rows)
        last = tuple(row.pictures[-1].path for row in self._rows)
        of = (self.section, self._lists, counts, last, self._grids)
        if of != self._list[0]:
            view = (
                grid_list(self._grids, run)
                if self.section == "grids"
                else sample_list(self._rows, run, with_paths=self._lists)
            )
            self._list = (of, view)
        cursor = self._grid if self.section == "grids" else sum(counts[: self._row]) + self._at
        self.query_one("#gallery-list", Table).show(self._list[1], cursor)

    def _draw_pictures(self) -> None:
        one, other = self.query_one("#gallery-one", Preview), self.query_one("#gallery-other", Preview)
        path, look = self.shown_path, self.look_of_it
        if look and self._picture is not None:
            row = self._rows[self._row]
            first = row.pictures[0].path
            if look == "difference":
                one.show(Difference(self._picture.path, first))
            elif look == "sheet":
                labelled = tuple((picture.path, f"step {picture.step}") for picture in row.pictures)
                one.show(Thumbnails(labelled, self._at))
            else:
                one.show(path)
                other.show(first)
                return
        else:
            one.show(path)
            if self.section == "samples" and self._rows and self._at + 1 < len(self._rows[self._row].pictures):
                one.prefetch(self._rows[self._row].pictures[self._at + 1].path)
        other.show(None)

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        return {
            "later": lambda: self._go(1),
            "earlier": lambda: self._go(-1),
            "next-prompt": lambda: self._turn(1),
            "previous-prompt": lambda: self._turn(-1),
            "first": lambda: self._go(-(10**9)),
            "last": lambda: self._go(10**9),
            "section": self._other_section,
            "compare": lambda: self._look_as("compare"),
            "difference": self._differ,
            "thumbnails": lambda: self._look_as("sheet"),
            "list": self._turn_list,
            "full": self._fill,
            "settings": self._show_settings,
            "path": lambda: self.tell(Told(str(self._there()))),
            "plain": self._back,
            "sample": self._ask_sample,
        }

    def _go(self, by: int) -> None:
        if self.section == "grids":
            self._grid = max(0, min(self._grid + by, len(self._grids) - 1))
        elif self._rows:
            self._at = max(0, min(self._at + by, len(self._rows[self._row].pictures) - 1))
            if self._look == "difference":
                self._measure()

    def _turn(self, by: int) -> None:
        picture = self._picture
        if self.section == "grids":
            self._go(by)
        elif picture is not None:
            self._row = max(0, min(self._row + by, len(self._rows) - 1))
            self._at = self._rows[self._row].nearest(picture.step)
            if self._look == "difference":
                self._measure()

    def _other_section(self) -> None:
        self._section = 1 - self._section
        self.tell(Told(""))

    def _look_as(self, look: str) -> None:
        self._sample()
        self._lists = False
        self._look = "" if self._look == look else look
        self.tell(Told(""))

    def _differ(self) -> None:
        self._look_as("difference")
        if self._look:
            self._measure()

    def _measure(self) -> None:
        row, picture = self._sample()
        first = row.pictures[0]

        def tell(found: float) -> None:
            if self._look == "difference" and self._picture == picture:
                same = "the same picture, to the last bit" if found == float("inf") else f"PSNR {found:.1f} dB"
                self.tell(Told(f"{same}, against step {first.step}"))

        self._beside(lambda: psnr_db(picture.path, first.path), tell)

    def _turn_list(self) -> None:
        self._lists = not self._lists
        if not self._lists and self.graphics.mode == "off":
            self._lists = True
            raise LoratoryError("Pictures are switched off here.", hint="LORATORY_PREVIEW=auto shows them.")

    def _fill(self) -> None:
        self._there()
        self._lists = False
        self.toggle_class("-full")

    def _back(self) -> None:
        self._look = ""
        self.remove_class("-full")
        self.tell(Told(""))

    def _show_settings(self) -> None:
        path = self._there()
        self._beside(lambda: settings_of(path), lambda found: self._read_settings(path, found))

    def _read_settings(self, path: Path, found: Mapping[str, str]) -> None:
        from loratory.tui.screens.overlays import TextScreen  # not for the first paint

        lines = [plain(str(path), "$foreground-muted"), Content("")]
        for key, text in found.items():
            lines.append(plain(key, "bold $text-accent"))
            shown = [piece for line in text.split("\n") for piece in wrapped(line, max(20, self.size.width - 6))]
            lines += [*(plain(f"  {line}") for line in shown), Content("")]
        if not found:
            lines.append(Content("The file carries no text."))
        self.app.push_screen(TextScreen("What the picture was drawn with", lines))

    # --- a sample now ---

    def _listening(self) -> RunDirectory:
        run = self.run_seen
        if self.panes.read_only:
            raise LoratoryError("This is a read-only view: nothing is sent to a run.")
        if run is None:
            raise LoratoryError("No run is shown.", hint="4 plans one and starts it.")
        state = liveness(run.read_record())
        if state not in ALIVE:
            raise LoratoryError(
                f"Nobody would draw: the run is {state}.", hint="`loratory grid` draws with the files it saved."
            )
        return run

    def _ask_sample(self) -> None:
        self._listening()
        picture = self._picture
        if picture is None:
            self._ask_prompt(None, "")
            return
        simple = f"{picture.prompt} --d {picture.seed}"

        def read() -> "Prompt | None":
            from loratory.sampling.prompts import prompt_of_parameters

            try:
                return prompt_of_parameters(settings_of(picture.path).get("parameters", ""))
            except LoratoryError:
                return None

        self._beside(read, lambda prompt: self._ask_prompt(prompt, simple))

    def _ask_prompt(self, prompt: "Prompt | None", simple: str) -> None:
        from loratory.sampling.prompts import Prompt, parse_prompt, prompt_line

        def answered(text: str) -> None:
            run = self._listening()
            if not text.strip():
                raise LoratoryError("A sample needs a prompt.")
            parse_prompt(text, Prompt("", "", 512, 512, 0, 20, 7.0))  # said here rather than in the run's log
            try:
                send(run.control, Command("sample", text.strip()))
            except OSError as error:
                raise LoratoryError(f"{run.control}: the command cannot be left there: {error.strerror}.") from error
            self.tell(Told("asked for: it appears here once it is drawn, after the step in hand"))

        self.ask("sample now", printable(prompt_line(prompt) if prompt else simple), answered)

    @on(Table.Clicked)
    def _clicked(self, event: Table.Clicked) -> None:
        if self.section == "grids":
            self._grid = event.index
        else:
            index = event.index
            for row_at, row in enumerate(self._rows):
                if index < len(row.pictures):
                    self._row, self._at = row_at, index
                    break
                index -= len(row.pictures)
        self.look()
