"""What the prepare pane knows, without a screen: pictures, facts, findings, recipes as they are shown, the place."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loratory.editing.checks.finding import CaptionFinding, RecipeFix
from loratory.editing.checks.recipe_fix import with_fix
from loratory.imaging.facts import PictureFacts
from loratory.imaging.recipe import Box, Defaults, Recipe, in_original
from loratory.tui.prepare.crop import Boxes, clamped

if TYPE_CHECKING:
    from loratory.config.schema import DatasetSettings
    from loratory.preparation.desk import Entry
    from loratory.tui.prepare.snapshot import Snapshot

Order = Literal["all", "with findings", "to be built", "left out"]
View = Literal["result", "original", "difference"]

ORDERS: tuple[Order, ...] = ("all", "with findings", "to be built", "left out")
VIEWS: tuple[View, ...] = ("result", "original", "difference")

# States of an entry in which building would do something.
UNBUILT = frozenset({"new", "stale"})


@dataclass(frozen=True)
class Progress:
    """A build that goes on.

    started_s, now_s: of one clock that never goes back. looked: (how many originals were looked at, of how many) while
    that goes on.
    """

    done: int
    total: int
    name: str
    started_s: float
    now_s: float
    stopping: bool = False
    looked: tuple[int, int] | None = None

    @property
    def per_s(self) -> float | None:
        """Pictures a second so far; None before there is anything to tell it from."""
        took_s = self.now_s - self.started_s
        return self.done / took_s if self.done and took_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds to go at that rate."""
        return None if self.per_s is None else (self.total - self.done) / self.per_s


class PrepareState:
    """All that the pane shows. Recipes are those of the screen: ahead of the disk while a change is being written."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.shown: list[Entry] = []
        self.cursor = 0
        self.facts: dict[Path, PictureFacts] = {}
        self.findings: dict[str, tuple[CaptionFinding, ...]] = {}
        self.order: Order = "all"
        self.query_text = ""
        self.view: View = "result"
        self.boxes: Boxes | None = None
        self.progress: Progress | None = None
        self.is_loaded = False
        self.is_surveyed = False  # whether every picture was looked at
        self._recipes: dict[str, Recipe] = {}
        self._defaults: Mapping[str, Defaults] = {}
        self._trained_by: DatasetSettings | None = None
        self._changing: dict[str, int] = {}  # name -> changes that are being written
        self._matching: frozenset[str] | None = None
        self._boxes_before: list[Boxes] = []
        self._counts: tuple[int, int] | None = None

    # --- pictures ---

    @property
    def counts(self) -> tuple[int, int]:
        """(pictures to be built, pictures with findings), counted anew only after something has changed."""
        if self._counts is None:
            pending = sum(self.is_pending(entry) for entry in self.entries)
            self._counts = pending, sum(bool(self.findings_of(entry)) for entry in self.entries)
        return self._counts

    def take_findings(self, findings: Mapping[str, tuple[CaptionFinding, ...]], *, complete: bool) -> None:
        """Takes over what is found of the pictures. complete: all were looked at."""
        self.findings = dict(findings)
        self.is_surveyed = complete
        self.show()

    @property
    def current(self) -> "Entry | None":
        return self.shown[self.cursor] if self.shown else None

    def load(self, snapshot: "Snapshot") -> None:
        """Takes over what is on disk; a recipe that is being written stays as it is shown."""
        mine = {name: self._recipes[name] for name in self._changing if name in self._recipes}
        self.entries = list(snapshot.entries)
        self._recipes = {**snapshot.recipes, **mine}
        self._defaults = snapshot.defaults
        self._trained_by = snapshot.trained_by
        self.is_loaded = True
        self.show()

    def recipe(self, entry: "Entry") -> Recipe:
        """The recipe as it is shown; the plain one where there is none."""
        return self._recipes.get(entry.name, Recipe())

    def defaults(self, entry: "Entry") -> Defaults:
        """What goes for a picture where its recipe says nothing."""
        return self._defaults.get(entry.name, Defaults())

    @property
    def trained_by(self) -> "DatasetSettings":
        """The settings that the pictures are trained by; there are none before there are pictures."""
        assert self._trained_by is not None
        return self._trained_by

    def built(self, names: Iterable[str]) -> None:
        """A build came to these pictures: they count as made until the desk is asked."""
        done = set(names)
        if done:
            self.entries = [replace(entry, state="made") if entry.name in done else entry for entry in self.entries]
            self.show()

    def is_changing(self, entry: "Entry") -> bool:
        """Whether its recipe is not on disk yet."""
        return entry.name in self._changing

    def is_pending(self, entry: "Entry") -> bool:
        """Whether building would do something for it."""
        return entry.state in UNBUILT or self.is_changing(entry)

    def is_built(self, entry: "Entry") -> bool:
        """Whether its outputs are what its recipe makes."""
        return entry.state in ("made", "as it is") and not self.is_changing(entry) and bool(entry.outputs)

    def facts_of(self, entry: "Entry") -> PictureFacts | None:
        """Facts of the original; None while they are not known."""
        return self.facts.get(entry.source)

    def findings_of(self, entry: "Entry") -> tuple[CaptionFinding, ...]:
        """What is found of it, without what building it mends."""
        found = self.findings.get(entry.name, ())
        if not found or self.recipe(entry).skip:
            return ()
        if not self.is_pending(entry):
            return found
        return tuple(finding for finding in found if not self._mends(entry, finding))

    def _mends(self, entry: "Entry", finding: CaptionFinding) -> bool:
        """Whether building a picture does what one of the fixes would."""
        recipe, defaults = self.recipe(entry), self.defaults(entry)

        def says(name: str, value: object) -> bool:
            match name:
                case "crop" | "split":  # whatever the boxes, somebody has looked at it
                    return recipe.crop is not None or bool(recipe.split)
                case "background" if not value:
                    return True
                case "format" | "upscale" | "max_side_px":
                    own = getattr(recipe, name)
                    return value == (getattr(defaults, name) if own is None else own)
                case _:
                    return getattr(recipe, name) == value

        edits = [fix.edit.changes for fix in finding.fixes if isinstance(fix.edit, RecipeFix)]
        return any(
            # What was cut otherwise than suggested may be large enough.
            all(says(name, value) for name, value in changes.items() if name != "upscale" or "crop" not in changes)
            for changes in edits
        )

    def is_serious(self, entry: "Entry") -> bool:
        """Whether something is found that is more than worth knowing."""
        return any(finding.severity != "note" for finding in self.findings_of(entry))

    # --- the place in the list ---

    def show(self) -> None:
        """Makes the list anew by order and filter; the cursor stays on its picture, or near it."""
        self._counts = None
        here, place = self.current, self.cursor
        wanted = _WANTED[self.order]
        matching = self._matching
        self.shown = [
            entry for entry in self.entries if wanted(self, entry) and (matching is None or entry.name in matching)
        ]
        names = [entry.name for entry in self.shown]
        if here is not None and here.name in names:
            self.cursor = names.index(here.name)
        else:
            self.cursor = max(0, min(place, len(self.shown) - 1))

    def go(self, index: int) -> None:
        self.cursor = max(0, min(index, len(self.shown) - 1))

    def go_to(self, name: str) -> bool:
        """Moves to a picture, showing all where the list hides it; whether there is one of that name."""
        if not any(entry.name == name for entry in self.shown):
            if not any(entry.name == name for entry in self.entries):
                return False
            self.order, self.query_text, self._matching = "all", "", None
            self.show()
        self.cursor = next(index for index, entry in enumerate(self.shown) if entry.name == name)
        return True

    def seek(self, wanted: Callable[["Entry"], bool], step: int = 1) -> bool:
        """Moves to the next picture that is wanted, round and round; whether there is another."""
        count = len(self.shown)
        for distance in range(1, count):
            index = (self.cursor + step * distance) % count
            if wanted(self.shown[index]):
                self.cursor = index
                return True
        return False

    def next_order(self) -> None:
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        self.show()

    def filter(self, text: str, matching: Iterable[str] | None) -> None:
        """Shows only the pictures of these names; all for None."""
        self.query_text = text if matching is not None else ""
        self._matching = None if matching is None else frozenset(matching)
        self.show()

    @property
    def is_filtered(self) -> bool:
        return self.order != "all" or self._matching is not None

    def next_view(self) -> None:
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]

    # --- recipes ---

    def put(self, recipes: Mapping[str, Recipe]) -> None:
        """Shows recipes that are about to be written."""
        self._counts = None
        for name, recipe in recipes.items():
            self._recipes[name] = recipe
            self._changing[name] = self._changing.get(name, 0) + 1

    def written(self, names: Iterable[str]) -> None:
        """Those recipes are on disk now, or were refused."""
        self._counts = None
        for name in names:
            self._changing[name] = self._changing.get(name, 1) - 1
            if self._changing[name] <= 0:
                del self._changing[name]

    def fix_of(self, entry: "Entry") -> CaptionFinding | None:
        """The first finding with a fix."""
        return next((finding for finding in self.findings_of(entry) if finding.fixes), None)

    def fixed(self, entry: "Entry", fix: RecipeFix, pictured: Path | None) -> Recipe | None:
        """What a fix makes of a recipe; None where its boxes cannot be brought to the original.

        pictured: the picture that the finding is about, in whose px the boxes are.
        """
        return self._fixed(entry, self.recipe(entry), fix, pictured, self._turns())

    def alike(self, finding: CaptionFinding) -> dict[str, Recipe]:
        """What the fix of a finding makes of the recipe of each picture in the list that has the same finding."""
        recipes: dict[str, Recipe] = {}
        turns = self._turns()
        for entry in self.shown:
            for other in self.findings_of(entry):
                fix = other.automatic_fix
                if other.rule == finding.rule and fix is not None and isinstance(fix.edit, RecipeFix):
                    before = recipes.get(entry.name, self.recipe(entry))
                    fixed = self._fixed(entry, before, fix.edit, other.path, turns)
                    if fixed is not None:
                        recipes[entry.name] = fixed
        return recipes

    def _fixed(
        self, entry: "Entry", before: Recipe, fix: RecipeFix, pictured: Path | None, turns: Counter[str]
    ) -> Recipe | None:
        changes = dict(fix.changes)
        for name in ("crop", "erase", "split"):
            if changes.get(name):
                boxes = (changes[name],) if name == "crop" else changes[name]
                placed = [self._in_original(entry, box, pictured) for box in boxes]
                if None in placed:
                    return None
                changes[name] = placed[0] if name == "crop" else tuple(placed)
        return with_fix(before, changes, turns, self.defaults(entry).backgrounds)

    def _in_original(self, entry: "Entry", box: Box, pictured: Path | None) -> Box | None:
        facts, seen = self.facts_of(entry), self.facts.get(pictured or entry.source)
        if facts is None or seen is None or facts.problem or seen.problem:
            return None
        if pictured in (None, entry.source):
            return clamped(box, facts.size)
        # What is on disk is not what a recipe that waits to be built makes.
        return None if self.is_pending(entry) else in_original(box, seen.size, self.recipe(entry), facts.size)

    def _turns(self) -> Counter[str]:
        """How often each colour had its turn."""
        return Counter(self.recipe(entry).background for entry in self.entries)

    # --- boxes being marked ---

    def begin_boxes(self, boxes: Boxes) -> None:
        self.boxes = boxes
        self._boxes_before = []

    def change_boxes(self, boxes: Boxes) -> None:
        """Shows other boxes; what was there before can be had back while they are being marked."""
        if self.boxes is not None and boxes.boxes != self.boxes.boxes:
            self._boxes_before.append(self.boxes)
        self.boxes = boxes

    def boxes_back(self) -> bool:
        """Takes the last step back; whether there was one."""
        if not self._boxes_before:
            return False
        self.boxes = self._boxes_before.pop()
        return True

    def end_boxes(self) -> None:
        self.boxes = None
        self._boxes_before = []


def with_boxes(recipe: Recipe, boxes: Boxes) -> Recipe:
    """The recipe with the marked boxes in it: one to keep is a crop, several are a split."""
    kept = boxes.kept
    if boxes.kind == "erase":
        return replace(recipe, erase=kept)
    if len(kept) > 1:
        return replace(recipe, crop=None, split=kept)
    return replace(recipe, crop=kept[0] if kept else None, split=())


_WANTED: dict[Order, Callable[[PrepareState, "Entry"], bool]] = {
    "all": lambda state, entry: True,
    "with findings": lambda state, entry: bool(state.findings_of(entry)),
    "to be built": lambda state, entry: state.is_pending(entry),
    "left out": lambda state, entry: state.recipe(entry).skip,
}
