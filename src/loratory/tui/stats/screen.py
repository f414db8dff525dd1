"""The statistics pane: what the set is made of, and how its folders could be balanced."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from loratory.dataset.balance import MOST_REPEATS
from loratory.dataset.concept_folders import ConceptFolders, find_concepts
from loratory.dataset.goals import advised
from loratory.dataset.what_if import WhatIf, start
from loratory.errors import LoratoryError
from loratory.tui.delivery import Delivery
from loratory.tui.pane import DatasetPane
from loratory.tui.stats.sections import BALANCE, SECTIONS, Figures, balance_view, section_view
from loratory.tui.text import fitted, plain
from loratory.tui.told import Told
from loratory.tui.widgets.table import Table, TableView

if TYPE_CHECKING:
    from loratory.config.schema.data import Goal

_LOOK_EVERY_S = 0.25

_HELP = """\
Balance shows the concept folders with repeats to try: + and - or e change
those of one folder, b balances all by the largest, d divides by what they
have in common. Nothing is renamed before a; u takes that back.
Enter on a row shows its pictures in the tag editor, where g 3 leads back.
"""


class StatsScreen(DatasetPane):
    """Sections of figures. The first is the balance, which can be changed; the others tell what there is."""

    name_of_pane = "stats"

    def body(self) -> ComposeResult:
        with Vertical():
            yield Static("", id="sections", markup=False)
            yield Table(self.glyphs, id="rows")

    def begin(self) -> None:
        self._section = 0
        self._cursors: dict[str, int] = dict.fromkeys(SECTIONS, 0)
        self._figures = Figures()
        self._views: dict[str, TableView] = {}
        self._progress = ""
        self._progress_s = 0.0
        self._stopping = threading.Event()
        self._deliver = Delivery(self)
        self._seen: tuple[ConceptFolders | None, str] | None = None
        self._count_again = False
        self._what_if: WhatIf | None = None
        self._no_concepts = ""
        self._folder_pictures: dict[str, tuple[str, ...]] = {}

    def arrive(self, at: str | None) -> None:
        """Counts anew what may have changed since; the table that is being tried stays while the folders do."""
        self._read_folders()
        self._count()

    def end(self) -> None:
        if self.is_mounted:
            self._stopping.set()

    @property
    def section(self) -> str:
        return SECTIONS[self._section]

    @property
    def what_if(self) -> WhatIf:
        """The balance as it is being tried. Raises LoratoryError where there are no concept folders."""
        if self._what_if is None:
            raise LoratoryError(self._no_concepts)
        return self._what_if

    @property
    def _goal(self) -> "Goal":
        return cast("Goal", self.session.settings.goal)

    @property
    def _is_tried(self) -> bool:
        return self._what_if is not None and bool(self._what_if.moves)

    @property
    def view(self) -> TableView:
        """The table of the section that is looked at."""
        view = self._views.get(self.section)
        if view is None:
            if self.section != BALANCE:
                view = section_view(self.section, self._figures, self._what_if, self._goal, self.glyphs)
            elif self._what_if is None:
                view = TableView(empty=self._no_concepts)
            else:
                view = balance_view(self._what_if, self._goal, self._folder_pictures, self.glyphs)
            self._views[self.section] = view
        return view

    @property
    def is_counting(self) -> bool:
        """Whether pictures are still being looked at."""
        return bool(self._progress)

    def draw(self) -> None:
        self._draw_sections()
        view = self.view
        cursor = max(0, min(self._cursors[self.section], len(view.lines) - 1))
        self._cursors[self.section] = cursor
        self.query_one(Table).show(view, cursor)

    def _draw_sections(self) -> None:
        width = self.size.width
        tabs: list[Content] = []
        for index, name in enumerate(SECTIONS):
            mark = "*" if name == BALANCE and self._is_tried else ""
            style = "reverse bold" if index == self._section else "$foreground-muted"
            tabs.append(plain(f" {name}{mark} ", style))
        line = Content("").join(tabs)
        room = width - line.cell_length
        progress = self._progress if room > 12 else ""
        if progress:
            line += Content(fitted(f"  {progress}", room, self.glyphs.ellipsis)).stylize("$text-accent")
        self.query_one("#sections", Static).update(line, layout=False)

    def help_lines(self) -> list[str]:
        return list(_HELP.splitlines())

    # --- reading ---

    def _read_folders(self) -> None:
        folders, self._no_concepts = None, ""
        try:
            found = [(item.directory, item.is_reg) for item in self.session.items]
            folders = find_concepts(self.session.directory, found)
        except LoratoryError as error:
            self._no_concepts = f"{error.message} {error.hint}"
        seen = (folders, self._goal)
        if seen != self._seen:
            self._seen = seen
            self._what_if = None if folders is None else start(folders, advised(self._goal).exposure)
            by_folder: defaultdict[str, list[str]] = defaultdict(list)
            for item in self.session.items:
                by_folder[item.folder].append(item.name)
            self._folder_pictures = {name: tuple(names) for name, names in by_folder.items()}
        self._views.clear()

    def _count(self) -> None:
        self._count_again = self.is_counting  # what is being counted may have other names by now
        if self._count_again:
            return
        self._progress = f"reading{self.glyphs.ellipsis}"
        threading.Thread(target=self._gather, name="statistics", daemon=True).start()

    def _gather(self) -> None:
        from loratory.tui.stats.figures import gather, gather_captions

        try:
            captions = gather_captions(self.session)
            if not self._figures.looked_at:
                self._deliver(lambda: self._take(captions))
            figures = gather(self.session, self._note_progress, self._stopping)
        except LoratoryError as error:
            told = Told.of(error)
            self._deliver(lambda: self._failed(told))
        except Exception as error:  # noqa: BLE001 - a thread that dies silently would look for ever
            told = Told(f"This is a defect of Loratory: {type(error).__name__}: {error}", wrong=True)
            self._deliver(lambda: self._failed(told))
        else:
            self._deliver(lambda: self._finish(figures))

    def _note_progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._progress_s > _LOOK_EVERY_S:
            self._progress_s = now
            self._deliver(lambda: self._show_progress(done, total))

    def _show_progress(self, done: int, total: int) -> None:
        self._progress = f"looking {done}/{total}"
        self._draw_sections()

    def _take(self, figures: Figures) -> None:
        self._figures = figures
        self._views.clear()
        self.look()

    def _finish(self, figures: Figures) -> None:
        self._end_counting()
        self._take(figures)

    def _failed(self, told: Told) -> None:
        self._end_counting()
        self.tell(told)

    def _end_counting(self) -> None:
        self._progress = ""
        if self._count_again:
            self._count()

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        page = self.query_one(Table).rows_shown
        return {
            "next": lambda: self._move(1),
            "previous": lambda: self._move(-1),
            "first": lambda: self._move(-len(self.view.lines)),
            "last": lambda: self._move(len(self.view.lines)),
            "page-down": lambda: self._move(page),
            "page-up": lambda: self._move(-page),
            "next-section": lambda: self._turn(1),
            "previous-section": lambda: self._turn(-1),
            "open": self._open,
            "more": lambda: self._change_repeats(1),
            "less": lambda: self._change_repeats(-1),
            "set-repeats": self._ask_repeats,
            "balance": self._balance,
            "divide": self._divide,
            "epochs": self._ask_epochs,
            "reset": self._reset,
            "apply": self._apply,
            "undo": self._undo,
            "reload": self._reload,
        }

    @on(Table.Clicked)
    def _clicked(self, event: Table.Clicked) -> None:
        self._cursors[self.section] = event.index
        self.look()

    def _move(self, by: int) -> None:
        self._cursors[self.section] += by

    def _turn(self, by: int) -> None:
        self._section = (self._section + by) % len(SECTIONS)
        self.tell(Told(""))  # it was about the section that was left

    def _open(self) -> None:
        view, cursor = self.view, self._cursors[self.section]
        line = view.lines[cursor] if cursor < len(view.lines) else None
        if line is None or not line.pictures:
            raise LoratoryError("This row stands for no pictures of its own.")
        self.panes.show_pictures(f"{self.section}: {line.cells[0]}", frozenset(line.pictures))

    # --- the balance ---

    def _row(self) -> str:
        """The folder at the cursor."""
        balance = self.what_if.balance
        if self.section != BALANCE:
            raise LoratoryError("Repeats are changed in the section Balance, on a concept folder.")
        return balance.rows[self._cursors[BALANCE]].name

    def _try_out(self, what_if: WhatIf, told: str = "") -> None:
        self._what_if = what_if
        self._views.clear()
        if told:
            self.tell(Told(told))

    def _set_repeats(self, folder: str, repeats: int) -> None:
        if not 1 <= repeats <= MOST_REPEATS:
            raise LoratoryError(f"A folder has 1 to {MOST_REPEATS} repeats; 1 to 100 is usual.")
        self._try_out(self.what_if.set_repeats(folder, repeats))

    def _repeats_of(self, folder: str) -> int:
        return next(row.repeats for row in self.what_if.balance.rows if row.name == folder)

    def _change_repeats(self, by: int) -> None:
        folder = self._row()
        self._set_repeats(folder, self._repeats_of(folder) + by)

    def _ask_repeats(self) -> None:
        folder = self._row()
        self.ask(
            f"repeats of {folder}",
            str(self._repeats_of(folder)),
            lambda text: self._set_repeats(folder, _whole(text, "repeats")),
        )

    def _ask_epochs(self) -> None:
        def answered(text: str) -> None:
            epochs = _whole(text, "epochs") if text.strip() else None
            if epochs == 0:
                raise LoratoryError("A run has at least one epoch.")
            self._try_out(replace(self.what_if, epochs=epochs))

        self.ask("epochs (empty: by the goal)", str(self.what_if.run_epochs), answered)

    def _balance(self) -> None:
        self._to_balance()
        tried = self.what_if.balanced()
        told = "balanced already"
        if tried.moves:
            told = f"uneven by {self.glyphs.plus_minus}{tried.balance.residual:.1%} now; a renames the folders"
        self._try_out(tried, told)

    def _divide(self) -> None:
        self._to_balance()
        by = self.what_if.balance.divisor
        self._try_out(self.what_if.divided(), f"divided by {by}" if by > 1 else "the repeats have no divisor in common")

    def _reset(self) -> None:
        self._to_balance()
        self._try_out(replace(self.what_if.reset(), epochs=None), "as the folders' names say")

    def _to_balance(self) -> None:
        _ = self.what_if
        self._section = 0

    def _apply(self) -> None:
        from loratory.dataset.renaming import rename_folders

        changes = self.what_if.moves
        if not changes:
            raise LoratoryError("Nothing to rename: every folder has these repeats already.")
        if max(self.what_if.repeats) > MOST_REPEATS:
            raise LoratoryError(
                f"Training refuses more than {MOST_REPEATS} repeats of a folder.",
                hint="Give the largest folder fewer with e, then b balances the others by it.",
            )
        root, below = self.session.root, self.session.directory.relative_to(self.session.root)
        moves = [((below / old).as_posix(), (below / new).as_posix()) for old, new in changes]
        folders = "1 folder" if len(moves) == 1 else f"{len(moves)} folders"
        self.panes.rename(lambda: rename_folders(root, moves, "balance"), f"{folders} renamed; u takes it back")

    def _undo(self) -> None:
        from loratory.dataset.renaming import undo_renaming

        root = self.session.root
        self.panes.rename(lambda: undo_renaming(root), "the folders have their old names again")

    def renamed(self, told: Told) -> None:
        """Folders have other names now, or could not be renamed."""
        self._read_folders()
        self._count()
        self.tell(told)

    def _reload(self) -> None:
        self.panes.reload()
        self._read_folders()
        self._count()


def _whole(text: str, what: str) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > 9:
        raise LoratoryError(f"{what} are a whole number.")
    return int(text)
