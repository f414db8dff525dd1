"""What each key of the prepare pane does to the recipes, the list and the build."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures
from loratory.editing.checks.finding import CaptionFinding, Fix, RecipeFix
from loratory.errors import LoratoryError
from loratory.imaging.recipe import BACKGROUNDS, CLEANS, FORMATS, Recipe
from loratory.tui.editor import Told
from loratory.tui.prepare.state import PrepareState
from loratory.tui.prepare.work import Snapshot, looked_at
from loratory.tui.screens.overlays import Choice, TableRow, TableScreen, ZoomScreen
from loratory.tui.widgets.preview import Preview

if TYPE_CHECKING:
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk, Entry
    from loratory.tui.prepare.screen import PrepareScreen


class Verbs:
    """The verbs by the ids of their actions, in `table`."""

    def __init__(self, screen: "PrepareScreen") -> None:
        self._screen = screen
        self._state: PrepareState = screen.state
        state = self._state

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
            "fix": self._fix,
            "fix-wide": self._fix_wide,
            "crop": lambda: screen.marking.begin("crop"),
            "mask": lambda: screen.marking.begin("erase"),
            "split": lambda: screen.marking.begin_split(),
            "flip": self._flip,
            "background": self._choose_background,
            "clean": self._clean,
            "enlarge": self._enlarge,
            "format": self._next_format,
            "tag": self._ask_tags,
            "rename": self._ask_name,
            "skip": self._skip,
            "plain": self._drop,
            "undo": lambda: self._step(forward=False),
            "redo": lambda: self._step(forward=True),
            "run": self._run,
            "run-one": self._run_one,
            "stop": self._stop,
            "set-up": self._set_up,
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

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self._screen.tell(Told(text, wrong=wrong))

    def _current(self) -> "Entry | None":
        entry = self._state.current
        if entry is None:
            self._tell("no picture here")
        return entry

    # --- recipes ---

    def give(self, label: str, entry: "Entry", recipe: Recipe) -> None:
        """Gives a picture another recipe: shown at once, written behind it."""
        self.change(label, {entry.name: recipe})

    def change(self, label: str, recipes: Mapping[str, Recipe], *, trained_at: tuple[int, int] | None = None) -> None:
        """Gives pictures other recipes as one step that u takes back.

        trained_at: the resolution that pictures of a dataset are enlarged to from now on.
        """
        names = {entry.name: entry for entry in self._state.entries}
        changed = {name: recipe for name, recipe in recipes.items() if self._state.recipe(names[name]) != recipe}
        if not changed:
            self._tell("the recipe says so already")
            return
        self._state.put(changed)
        count = f", {pictures(len(changed))}" if len(changed) > 1 else ""
        self._tell(f"{label}{count} · u undoes it")

        def write(desk: "Desk") -> int:
            if trained_at is not None and desk.is_dataset and desk.defaults.resolution != trained_at:
                desk.set_up(desk.book.prepare, replace(desk.defaults, resolution=trained_at))
            plain = Recipe()
            return desk.change(label, {name: None if one == plain else one for name, one in changed.items()})

        self._screen.work.use_desk(write, lambda result: self._written(changed, result))

    def _written(self, changed: Mapping[str, Recipe], result: "tuple[object, Snapshot] | LoratoryError") -> None:
        self._state.written(changed)
        if isinstance(result, LoratoryError):
            # Shown was what is not on disk: what is there comes back.
            self._screen.tell(Told.of(result))
            self._screen.open()
        else:
            self._screen.load(result[1])

    def _step(self, *, forward: bool) -> None:
        def step(desk: "Desk") -> str | None:
            return desk.redo() if forward else desk.undo()

        def done(result: "tuple[str | None, Snapshot] | LoratoryError") -> None:
            if isinstance(result, LoratoryError):
                self._screen.tell(Told.of(result))
                return
            label, snapshot = result
            self._screen.load(snapshot)
            if label is None:
                self._tell("nothing to redo" if forward else "no recipe was changed yet")
            else:
                self._tell(f"{'redone' if forward else 'undone'}: {label}")

        if self._is_open():
            self._screen.work.use_desk(step, done)

    def _is_open(self) -> bool:
        if not self._screen.work.is_open:
            self._tell("the pictures are still being listed")
        return self._screen.work.is_open

    def _flip(self) -> None:
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            label = "not flipped" if recipe.flip else "flip"
            self.give(label, entry, replace(recipe, flip=not recipe.flip))

    def _skip(self) -> None:
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            self.give("take in again" if recipe.skip else "leave out", entry, replace(recipe, skip=not recipe.skip))

    def _drop(self) -> None:
        if (entry := self._current()) is not None:
            self.give("drop the recipe", entry, Recipe())

    def _clean(self) -> None:
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            clean = CLEANS[(CLEANS.index(recipe.clean) + 1) % len(CLEANS)]
            self.give("no cleaning" if clean == "none" else f"clean: {clean}", entry, replace(recipe, clean=clean))

    def _enlarge(self) -> None:
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            is_auto = (recipe.upscale or self._state.defaults(entry).upscale) == "auto"
            label = "never enlarge" if is_auto else "enlarge where it is too small"
            trained_at = None if is_auto else self._state.defaults(entry).resolution
            upscale = "never" if is_auto else "auto"
            self.change(label, {entry.name: replace(recipe, upscale=upscale)}, trained_at=trained_at)

    def _next_format(self) -> None:
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            formats = (None, *FORMATS)
            chosen = formats[(formats.index(recipe.format) + 1) % len(formats)]
            self.give(f"format: {chosen or 'as for all'}", entry, replace(recipe, format=chosen))

    def _choose_background(self) -> None:
        entry = self._current()
        if entry is None:
            return
        recipe = self._state.recipe(entry)
        rows = [TableRow(name, name) for name in BACKGROUNDS]
        rows += [TableRow("the colour that has its turn", ""), TableRow("another: #rrggbb", "#")]

        def chosen(choice: Choice[str] | None) -> None:
            if choice is None:
                return
            if choice.value == "#":
                start = recipe.background if recipe.background.startswith("#") else "#"
                self._screen.ask("background, as #rrggbb", start, take)
            else:
                take(choice.value)
            self._screen.look()

        def take(name: str) -> None:
            from loratory.imaging.recipe import background_colour

            if name:
                background_colour(name)  # raises for what is none
            self.give(f"background: {name or 'whose turn it is'}", entry, replace(recipe, background=name))

        table = TableScreen("What stands behind transparency", rows, {"enter": "take it"}, "")
        self._screen.app.push_screen(table, chosen)

    def _ask_tags(self) -> None:
        entry = self._current()
        if entry is None:
            return
        recipe = self._state.recipe(entry)

        def take(text: str) -> None:
            tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
            label = f"tag {', '.join(tags)}" if tags else "no tags of its own"
            self.give(label, entry, replace(recipe, tags=tags))

        self._screen.ask("tags that its caption gets", ", ".join(recipe.tags), take)

    def _ask_name(self) -> None:
        entry = self._current()
        if entry is None:
            return
        recipe = self._state.recipe(entry)

        def take(text: str) -> None:
            name = text.strip()
            if "/" in name or name in (".", "..") or not name.isprintable():
                self._tell("a name has no / and nothing unprintable in it", wrong=True)
                return
            self.give(f"call it {name}" if name else "its own name", entry, replace(recipe, name=name))

        self._screen.ask("its name, without the ending", recipe.name, take)

    # --- fixes ---

    def _fix(self) -> None:
        entry = self._current()
        finding = None if entry is None else self._state.fix_of(entry)
        if entry is None or finding is None:
            if entry is not None:
                found = self._state.findings_of(entry)
                self._tell("nothing here has a fix" if found else "no findings here")
            return
        if finding.automatic_fix is not None:
            self._apply(finding, finding.automatic_fix, entry)
            return
        rows = [TableRow(fix.label, fix) for fix in finding.fixes]

        def chosen(choice: Choice[Fix] | None) -> None:
            if choice is not None:
                self._apply(finding, choice.value, entry)
            self._screen.look()

        self._screen.app.push_screen(TableScreen(finding.message, rows, {"enter": "do it"}, ""), chosen)

    def _apply(self, finding: CaptionFinding, fix: Fix, entry: "Entry") -> None:
        if not isinstance(fix.edit, RecipeFix):
            self._tell(f"“{fix.label}” is a change of the caption: e opens it in the tag editor, f does it there")
            return
        recipe = self._state.fixed(entry, fix.edit, finding.path)
        if recipe is None:
            self._tell("the recipe splits this picture already: c shows the boxes", wrong=True)
        elif recipe == self._state.recipe(entry) and self._state.is_pending(entry):
            self._tell(f"building it does that: {self._screen.keymap.keys_of('run')} builds what is pending")
        else:
            at = self._state.defaults(entry).resolution if fix.edit.changes.get("upscale") == "auto" else None
            self.change(fix.label, {entry.name: recipe}, trained_at=at)

    def _fix_wide(self) -> None:
        entry = self._current()
        finding = None if entry is None else self._state.fix_of(entry)
        if entry is None or finding is None:
            if entry is not None:
                self._tell("nothing here has a fix")
            return
        fix = finding.automatic_fix
        if fix is None:
            self._tell("this one wants a choice for each picture: f here", wrong=True)
        elif not isinstance(fix.edit, RecipeFix):
            self._tell(f"“{fix.label}” is a change of captions: e opens the tag editor, F does it there")
        else:
            recipes = self._state.alike(finding)
            at = self._state.defaults(entry).resolution if fix.edit.changes.get("upscale") == "auto" else None
            self.change(fix.label, recipes, trained_at=at)

    def _show_findings(self) -> None:
        state = self._state
        rows: list[TableRow[str]] = []
        for finding in state.findings.get("", ()):
            rows.append(TableRow(f"{finding.severity:<8} the set  {finding.message}", "", "bold"))
        for entry in state.entries:
            for finding in state.findings_of(entry):
                text = f"{finding.severity:<8} {shown(entry.name)}  {finding.message}"
                rows.append(TableRow(text, entry.name, "$foreground-muted" if finding.severity == "note" else ""))
        rows.sort(key=lambda row: row.style)

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

    # --- building ---

    def _run(self) -> None:
        state = self._state
        pending = [entry for entry in state.entries if state.is_pending(entry)]
        if self._screen.work.is_building:
            self._tell("it is being built already: R stops it")
        elif not pending:
            self._tell("nothing is to be built")
        elif self._is_open():
            self._with_place(lambda: self._build(None, len(pending)))

    def _run_one(self) -> None:
        entry = self._current()
        if self._screen.work.is_building:
            self._tell("something is being built already: R stops it")
        elif entry is not None and self._is_open():
            self._with_place(lambda: self._build(entry.name, 1))

    def _build(self, name: str | None, count: int) -> None:
        self._screen.work.build(name, count, self._built)
        self._tell(f"building {pictures(count)} · R stops it, all else goes on")
        self._screen.watch_build()

    def _stop(self) -> None:
        if self._screen.work.is_building:
            self._screen.work.stop_build()
            self._tell("stopping after the picture in hand; r goes on another time")
        else:
            self._tell("nothing is being built")

    def _built(self, reports: "Sequence[Report]", wrong: Told | None, snapshot: Snapshot) -> None:
        self._screen.load(snapshot, anew=True)
        self._screen.panes.reload()
        self._screen.tell(wrong or _told_of_build(reports))

    def _with_place(self, go_on: Callable[[], None]) -> None:
        """Goes on once it is known where the pictures go."""
        snapshot = self._screen.snapshot
        assert snapshot is not None
        if snapshot.is_dataset or snapshot.destination is not None:
            go_on()
        else:
            self._ask_place(snapshot.prepare, go_on)

    def _set_up(self) -> None:
        snapshot = self._screen.snapshot
        if snapshot is None or not self._is_open():
            return
        if snapshot.is_dataset:
            self._tell("these pictures lie in a training folder already: they stay there")
            return
        self._ask_place(snapshot.prepare, lambda: self._tell("r builds what is pending"))

    def _ask_place(self, prepare: "Prepare", go_on: Callable[[], None]) -> None:
        """Asks for the training folder, the token, the class and the repeats, and writes them down."""
        screen = self._screen
        name = screen.session.directory.name
        told: dict[str, str] = {}

        def ask_token(text: str) -> None:
            told["destination"] = text.strip() or f"../{name}-train"
            screen.ask("token to prompt with", prepare.token, ask_class)

        def ask_class(text: str) -> None:
            told["token"] = text.strip()
            screen.ask("what it is (class), may be empty", prepare.class_token, ask_repeats)

        def ask_repeats(text: str) -> None:
            told["class_token"] = text.strip()
            screen.ask("repeats of the folder", str(prepare.repeats if prepare.repeats > 1 else 10), take)

        def take(text: str) -> None:
            repeats = int(text) if text.strip().isdecimal() else 0
            if not 1 <= repeats <= 10_000:
                self._tell("repeats are a whole number from 1 on: P asks again", wrong=True)
                return
            self._remember(replace(prepare, repeats=repeats, **told), go_on)

        screen.ask("training folder", prepare.destination or f"../{name}-train", ask_token)

    def _remember(self, prepare: "Prepare", go_on: Callable[[], None]) -> None:
        directory = self._screen.session.directory

        def write(desk: "Desk") -> None:
            from loratory.preparation.places import check_folders

            check_folders(directory, Path(directory, Path(prepare.destination).expanduser()))
            desk.set_up(prepare, desk.defaults)
            # Where they go decides which file and which dataset they belong to.
            desk.rescan()

        def done(result: "tuple[None, Snapshot] | LoratoryError") -> None:
            if isinstance(result, LoratoryError):
                self._screen.tell(Told.of(result))
                return
            self._screen.load(result[1])
            go_on()

        self._screen.work.use_desk(write, done)

    # --- looking ---

    def _zoom(self) -> None:
        entry = self._current()
        if entry is not None:
            self._screen.app.push_screen(ZoomScreen(self._screen.graphics, looked_at(entry)[0]))

    def _edit_tags(self) -> None:
        entry = self._current()
        if entry is None:
            return
        places = {entry.source, *entry.outputs}
        item = next((item for item in self._screen.session.items if item.image in places), None)
        if item is None:
            self._tell("the tag editor has no such picture: it shows what trainers read in this folder")
        else:
            self._screen.panes.show_pane("tags", item.name)

    def _redraw(self) -> None:
        self._screen.query_one(Preview).reload()
        self._screen.refresh(layout=True)


def _told_of_build(reports: "Sequence[Report]") -> Told:
    """What became of a build, in a sentence or two."""
    made = sum(len(report.made) for report in reports)
    removed = sum(len(report.removed) for report in reports)
    parts = [f"{pictures(made)} built"]
    if removed:
        parts.append(f"{removed} taken away")
    failed = [one for report in reports for one in report.failed]
    left = [one for report in reports for one in report.left_alone]
    for path, why in failed[:1]:
        parts.append(f"{len(failed)} failed: {shown(path.name)} {why}")
    for path, why in left[:1]:
        parts.append(f"{len(left)} left alone: {shown(path.name)} {why}")
    if reports and reports[-1].stopped:
        parts.append("stopped; r goes on")
    return Told(" · ".join(parts), wrong=bool(failed))
