"""What each key of the prepare pane does."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from loratory.dataset.findings import shown
from loratory.tui.prepare.building import Building
from loratory.tui.prepare.editing import Editing
from loratory.tui.prepare.verb import Verb
from loratory.tui.prepare.work import looked_at
from loratory.tui.screens.overlays import Choice, TableRow, TableScreen, ZoomScreen
from loratory.tui.widgets.preview import Preview

if TYPE_CHECKING:
    from loratory.preparation.desk import Entry
    from loratory.tui.prepare.screen import PrepareScreen

_WORST_FIRST = {"error": 0, "warning": 1, "note": 2}


class Verbs(Verb):
    """The verbs by the ids of their actions, in `table`; those of the list and of looking are here."""

    def __init__(self, screen: "PrepareScreen") -> None:
        super().__init__(screen)
        self.editing = editing = Editing(screen)
        building, state = Building(screen), self._state

        def moving(by: Callable[[], int]) -> Callable[[], object]:
            return lambda: state.go(state.cursor + by())

        def seeking(wanted: "Callable[[Entry], bool]", step: int, what: str) -> Callable[[], object]:
            return lambda: state.seek(wanted, step) or self._tell(f"no other picture {what}")

        def page() -> int:
            return max(1, screen.query_one("#prepare-list").size.height // 2)

        def has_finding(entry: "Entry") -> bool:
            return bool(state.findings_of(entry))

        self.table: Mapping[str, Callable[[], object]] = {
            "next": moving(lambda: 1),
            "previous": moving(lambda: -1),
            "first": lambda: state.go(0),
            "last": lambda: state.go(len(state.shown) - 1),
            "half-page-down": moving(page),
            "half-page-up": moving(lambda: -page()),
            "next-finding": seeking(has_finding, 1, "has a finding"),
            "previous-finding": seeking(has_finding, -1, "has a finding"),
            "next-pending": seeking(state.is_pending, 1, "is to be built"),
            "previous-pending": seeking(state.is_pending, -1, "is to be built"),
            "fix": editing.fix,
            "fix-wide": editing.fix_wide,
            "crop": lambda: screen.marking.begin("crop"),
            "mask": lambda: screen.marking.begin("erase"),
            "split": lambda: screen.marking.begin_split(),
            "flip": editing.flip,
            "background": editing.choose_background,
            "clean": editing.clean,
            "enlarge": editing.enlarge,
            "format": editing.next_format,
            "tag": editing.ask_tags,
            "rename": editing.ask_name,
            "skip": editing.skip,
            "plain": editing.drop,
            "undo": lambda: editing.step(forward=False),
            "redo": lambda: editing.step(forward=True),
            "run": building.run,
            "run-one": building.run_one,
            "stop": building.stop,
            "set-up": building.set_up,
            "view": state.next_view,
            "zoom": self._zoom,
            "order": self._next_order,
            "filter": lambda: screen.ask("show", state.query_text, self._filter),
            "finding-table": self._show_findings,
            "clear": self._clear,
            "edit-tags": self._edit_tags,
            "reload": screen.open,
            "redraw": self._redraw,
        }

    def _show_findings(self) -> None:
        state = self._state
        ranked: list[tuple[int, TableRow[str]]] = []
        for finding in state.findings.get("", ()):
            row = TableRow(f"{finding.severity:<8} the set  {finding.message}", "", "bold")
            ranked.append((_WORST_FIRST[finding.severity], row))
        for entry in state.entries:
            for finding in state.findings_of(entry):
                text = f"{finding.severity:<8} {shown(entry.name)}  {finding.message}"
                row = TableRow(text, entry.name, "$foreground-muted" if finding.severity == "note" else "")
                ranked.append((_WORST_FIRST[finding.severity], row))
        ranked.sort(key=lambda pair: pair[0])
        rows = [row for _, row in ranked]

        def chosen(choice: Choice[str] | None) -> None:
            if choice is not None and choice.value:
                state.go_to(choice.value)
            self._screen.look()

        more = "" if state.is_surveyed else " (still looking)"
        title = ("1 finding" if len(rows) == 1 else f"{len(rows)} findings") + more
        self._screen.app.push_screen(TableScreen(title, rows, {"enter": "go there"}, "nothing found"), chosen)

    # --- the list ---

    def _next_order(self) -> None:
        self._state.next_order()
        self._tell(f"{len(self._state.shown)} of {len(self._state.entries)} pictures: {self._state.order}")

    def _filter(self, text: str) -> None:
        """Shows what a query of the tag editor finds; pictures that it does not list go by their names."""
        from loratory.tags.query import parse_query

        state, session = self._state, self._screen.session
        text = text.strip()
        if not text:
            state.filter("", None)
            return
        query = parse_query(text)
        entries = list(state.entries)

        def find() -> list[str]:
            found = {item.image for item in session.find(query)}
            known = {item.image for item in session.items}
            wanted = text.casefold()
            return [
                entry.name
                for entry in entries
                if found.intersection((entry.source, *entry.outputs))
                or (not known.intersection((entry.source, *entry.outputs)) and wanted in entry.name.casefold())
            ]

        def done(names: list[str]) -> None:
            if names:
                state.filter(text, names)
                self._tell(f"{len(names)} of {len(entries)} pictures · Esc shows all")
            else:
                self._tell(f"no picture is {text}", wrong=True)

        self._screen.work.run(find, done)

    def _clear(self) -> None:
        if self._state.is_filtered:
            self._state.order = "all"
            self._state.filter("", None)
            self._tell("")

    # --- looking ---

    def _zoom(self) -> None:
        entry = self._current()
        if entry is not None:
            self._screen.app.push_screen(ZoomScreen(self._screen.graphics, looked_at(entry)[0]))

    def _edit_tags(self) -> None:
        entry = self._current()
        if entry is None:
            return
        name = self._screen.item_name(entry)
        if name is None:
            self._tell("the tag editor has no such picture: it shows what trainers read in this folder")
        else:
            self._screen.panes.show_pane("tags", name)

    def _redraw(self) -> None:
        self._screen.query_one(Preview).reload()
        self._screen.refresh(layout=True)
