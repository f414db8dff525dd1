"""Boxes marked on a picture by keys, from the first key to the recipe."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from loratory.imaging.recipe import Recipe
from loratory.tui.keys import Keymap
from loratory.tui.prepare.actions import BOX_ACTIONS
from loratory.tui.prepare.crop import Boxes, Kind, clamped, whole
from loratory.tui.prepare.state import PrepareState, with_boxes
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.preparation.desk import Entry


class Marking:
    """Turns keys into boxes. take: gives the current picture the recipe that comes of them. tell: says a sentence."""

    def __init__(
        self,
        state: PrepareState,
        take: Callable[[str, "Entry", Recipe], None],
        tell: Callable[[Told], None],
        show_help: Callable[[], None],
    ) -> None:
        self._state = state
        self._take = take
        self._tell = tell
        self._show_help = show_help
        self._entry: Entry | None = None
        self._typing_step = False
        self.keymap = Keymap(BOX_ACTIONS)

    def begin(self, kind: Kind) -> None:
        """Marks what is kept, or what is filled, of the current picture."""
        size = self._begin()
        entry = self._entry
        if size is None or entry is None:
            return
        recipe = self._state.recipe(entry)
        if kind == "erase":
            marked = tuple(clamped(box, size) for box in recipe.erase)
            self._tell(Told("what is in the box is filled from around it; Enter takes it, Esc leaves it as it was"))
            self._state.begin_boxes(Boxes("erase", size, marked).added())
        else:
            boxes = Boxes("crop", size, (whole(size),))
            marked = recipe.split or ((recipe.crop,) if recipe.crop else ())
            self._tell(Told("what is in the box is kept; Enter takes it, Esc leaves the picture as it was"))
            self._state.begin_boxes(boxes.replaced(marked) if marked else boxes)

    def begin_split(self) -> None:
        """Marks the figures found in the current picture, to be looked at before they are taken."""
        size = self._begin()
        if size is None or self._entry is None:
            return
        facts = self._state.facts_of(self._entry)
        assert facts is not None
        if len(facts.figures) < 2:
            self._tell(Told("no separate figures found here: c marks boxes by hand, m in there another one"))
            return
        # From left to right as they are read, line by line.
        rows = sorted(facts.figures, key=lambda box: (round(4 * box[1] / size[1]), box[0]))
        self._state.begin_boxes(Boxes("crop", size, (whole(size),)).replaced(rows))
        self._tell(Told(f"{len(rows)} figures · n goes to the next, Enter splits"))

    def _begin(self) -> tuple[int, int] | None:
        """The size of the current picture, where boxes can be marked on it."""
        self._typing_step = False
        entry = self._entry = self._state.current
        if entry is None:
            return None
        facts = self._state.facts_of(entry)
        if facts is None:
            self._tell(Told("this picture is not looked at yet"))
        elif facts.problem:
            self._tell(Told(f"{facts.reason or facts.problem}: there is nothing to mark", wrong=True))
        elif self._state.recipe(entry).skip:
            self._tell(Told("this picture is left out: d takes it in again"))
        else:
            return facts.size
        return None

    def press(self, key: str) -> None:
        """A key while boxes are marked."""
        action = self.keymap.find(key)
        if action is None:
            self._tell(Told(f"{key} does nothing while boxes are marked; ? shows the keys"))
            return
        boxes = self._state.boxes
        assert boxes is not None
        if action.id == "step":
            self._state.change_boxes(boxes.with_digit(int(key), first=not self._typing_step))
            self._typing_step = True
            return
        self._typing_step = False
        if (change := _CHANGES.get(action.id)) is not None:
            self._state.change_boxes(change(boxes))
            return
        match action.id:
            case "suggested":
                self._suggest(boxes)
            case "back":
                if not self._state.boxes_back():
                    self._tell(Told("nothing to take back here"))
            case "accept":
                self._accept(boxes)
            case "help":
                self._show_help()
            case _:
                self._state.end_boxes()
                self._tell(Told("the picture stays as it was"))

    def _suggest(self, boxes: Boxes) -> None:
        from loratory.dataset.buckets import widened_to_bucket
        from loratory.imaging.background import suggested_crop

        assert self._entry is not None
        facts = self._state.facts_of(self._entry)
        assert facts is not None
        ground = facts.ground
        if boxes.kind == "erase":
            self._tell(Told("there is no suggestion for what to mask out"))
        elif len(boxes.boxes) > 1 and len(facts.figures) > 1:
            self._state.change_boxes(boxes.replaced(facts.figures))
        elif ground is None:
            self._tell(Told("no plain ground around the subject: there is no suggestion"))
        elif (box := suggested_crop(ground, boxes.size)) is None:
            self._tell(Told("the subject fills the picture: cutting would win little"))
        else:
            shaped = widened_to_bucket(box, boxes.size, self._state.trained_by)
            self._state.change_boxes(boxes.replaced((shaped,)))

    def _accept(self, boxes: Boxes) -> None:
        entry = self._entry
        self._state.end_boxes()
        if entry is None:
            return
        before = self._state.recipe(entry)
        recipe = with_boxes(before, boxes)
        if recipe == before:
            self._tell(Told("the recipe is as it was"))
            return
        self._take(_label(recipe, boxes), entry, recipe)


_CHANGES: Mapping[str, Callable[[Boxes], Boxes]] = {
    "left": lambda boxes: boxes.moved(-1, 0),
    "down": lambda boxes: boxes.moved(0, 1),
    "up": lambda boxes: boxes.moved(0, -1),
    "right": lambda boxes: boxes.moved(1, 0),
    "narrower": lambda boxes: boxes.sized(-2, 0),
    "taller": lambda boxes: boxes.sized(0, 2),
    "shorter": lambda boxes: boxes.sized(0, -2),
    "wider": lambda boxes: boxes.sized(2, 0),
    "grow": lambda boxes: boxes.grown(2),
    "shrink": lambda boxes: boxes.grown(-2),
    "handle": lambda boxes: boxes.next_handle(),
    "ratio": lambda boxes: boxes.next_ratio(),
    "another": lambda boxes: boxes.added(),
    "next-box": lambda boxes: boxes.next_box(),
    "previous-box": lambda boxes: boxes.next_box(-1),
    "drop-box": lambda boxes: boxes.without(),
    "all": lambda boxes: boxes.reset(),
}


def _label(recipe: Recipe, boxes: Boxes) -> str:
    """The change in a few words, for the message and the history."""
    if boxes.kind == "erase":
        count = len(recipe.erase)
        return "nothing masked out" if not count else f"mask out {count} part{'s' if count > 1 else ''}"
    if recipe.split:
        return f"split into {len(recipe.split)}"
    if recipe.crop:
        left, top, right, bottom = recipe.crop
        return f"crop to {right - left}x{bottom - top}"
    return "no crop"
