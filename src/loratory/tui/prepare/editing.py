"""Recipes changed by keys: each operation of a picture, and the fixes of findings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from loratory.dataset.listing import pictures
from loratory.editing.checks.finding import CaptionFinding, Fix, RecipeFix
from loratory.errors import LoratoryError
from loratory.imaging.recipe import BACKGROUNDS, CLEANS, FORMATS, Recipe
from loratory.tui.prepare.snapshot import Snapshot
from loratory.tui.prepare.verb import Verb
from loratory.tui.screens.overlays import Choice, TableRow, TableScreen
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.preparation.desk import Desk, Entry


class Editing(Verb):
    """Gives pictures recipes. Each is shown at once and written behind it; each change is a step that u takes back."""

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

    def step(self, *, forward: bool) -> None:
        """Takes the last change back, or does it again."""

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

    def flip(self) -> None:
        """Flips left to right, or back."""
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            label = "not flipped" if recipe.flip else "flip"
            self.give(label, entry, replace(recipe, flip=not recipe.flip))

    def skip(self) -> None:
        """Leaves the picture out, or takes it in again."""
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            self.give("take in again" if recipe.skip else "leave out", entry, replace(recipe, skip=not recipe.skip))

    def drop(self) -> None:
        """Back to the plain recipe."""
        if (entry := self._current()) is not None:
            self.give("drop the recipe", entry, Recipe())

    def clean(self) -> None:
        """The next of the cures against adversarial noise, none after the last."""
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            clean = CLEANS[(CLEANS.index(recipe.clean) + 1) % len(CLEANS)]
            self.give("no cleaning" if clean == "none" else f"clean: {clean}", entry, replace(recipe, clean=clean))

    def enlarge(self) -> None:
        """Enlarging for training: automatic, or never."""
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            is_auto = (recipe.upscale or self._state.defaults(entry).upscale) == "auto"
            label = "never enlarge" if is_auto else "enlarge where it is too small"
            trained_at = None if is_auto else self._state.defaults(entry).resolution
            upscale = "never" if is_auto else "auto"
            self.change(label, {entry.name: replace(recipe, upscale=upscale)}, trained_at=trained_at)

    def next_format(self) -> None:
        """The next format to write."""
        if (entry := self._current()) is not None:
            recipe = self._state.recipe(entry)
            formats = (None, *FORMATS)
            chosen = formats[(formats.index(recipe.format) + 1) % len(formats)]
            self.give(f"format: {chosen or 'as for all'}", entry, replace(recipe, format=chosen))

    def choose_background(self) -> None:
        """Asks for the colour behind transparency."""
        entry = self._current()
        if entry is None:
            return
        recipe = self._state.recipe(entry)
        rows = [TableRow(name, name) for name in BACKGROUNDS]
        rows += [TableRow("the colour whose turn it is", ""), TableRow("another: #rrggbb", "#")]

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

    def ask_tags(self) -> None:
        """Asks for tags that the caption gets."""
        entry = self._current()
        if entry is None:
            return
        recipe = self._state.recipe(entry)

        def take(text: str) -> None:
            tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
            label = f"tag {', '.join(tags)}" if tags else "no tags of its own"
            self.give(label, entry, replace(recipe, tags=tags))

        self._screen.ask("tags that its caption gets", ", ".join(recipe.tags), take)

    def ask_name(self) -> None:
        """Asks for another name."""
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

    def fix(self) -> None:
        """Applies the first fix of the first finding that has one; asks where there are several ways."""
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
            self._tell("the recipe splits this picture already, or waits to be built: c shows the boxes", wrong=True)
        elif recipe == self._state.recipe(entry) and self._state.is_pending(entry):
            self._tell(f"building it does that: {self._screen.keymap.keys_of('run')} builds what is pending")
        else:
            at = self._state.defaults(entry).resolution if fix.edit.changes.get("upscale") == "auto" else None
            self.change(fix.label, {entry.name: recipe}, trained_at=at)

    def fix_wide(self) -> None:
        """Applies the fix of this picture's finding to all in the list that have it."""
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
