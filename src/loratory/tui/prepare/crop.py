"""Boxes on a picture, moved by keys: pure arithmetic. A box never leaves the picture and is never empty.

Sizes are (width, height), boxes (left, top, right, bottom), all in px of the upright picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from loratory.imaging.recipe import Box

Size = tuple[int, int]
Handle = Literal["top left", "bottom right", "box"]
Kind = Literal["crop", "erase"]

HANDLES: tuple[Handle, ...] = ("top left", "bottom right", "box")

# Width over height; None leaves the sides free.
RATIOS: dict[str, float | None] = {
    "free": None,
    "1:1": 1.0,
    "4:5": 4 / 5,
    "3:4": 3 / 4,
    "2:3": 2 / 3,
    "9:16": 9 / 16,
    "5:4": 5 / 4,
    "4:3": 4 / 3,
    "3:2": 3 / 2,
    "16:9": 16 / 9,
}

# Smaller a box is not made by keys; smaller pictures are taken whole.
LEAST_PX = 8
# A step, unless a number says otherwise: this part of the longer side.
_STEPS = 64


def whole(size: Size) -> Box:
    """All of a picture."""
    return 0, 0, size[0], size[1]


def sides(box: Box) -> Size:
    """(width, height) of a box."""
    return box[2] - box[0], box[3] - box[1]


def area(box: Box) -> int:
    """The px in a box."""
    width, height = sides(box)
    return width * height


def clamped(box: Box, size: Size) -> Box:
    """The part of a box that is inside the picture, at least `LEAST_PX` (or the picture's side) long and wide."""
    left, right = _span(box[0], box[2], size[0])
    top, bottom = _span(box[1], box[3], size[1])
    return left, top, right, bottom


def moved(box: Box, size: Size, dx: int, dy: int) -> Box:
    """The box elsewhere, as far as the picture goes, its sides as they were."""
    dx = max(-box[0], min(dx, size[0] - box[2]))
    dy = max(-box[1], min(dy, size[1] - box[3]))
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def dragged(box: Box, size: Size, handle: Handle, dx: int, dy: int, ratio: float | None = None) -> Box:
    """The box with a corner moved, the opposite one where it was; or all of it moved.

    ratio: width over height to keep; the side that was not moved follows then.
    """
    if handle == "box":
        return moved(box, size, dx, dy)
    first = handle == "top left"
    width, height = sides(box)
    room = (box[2], box[3]) if first else (size[0] - box[0], size[1] - box[1])
    sign = -1 if first else 1
    width, height = _fitted(width + sign * dx, height + sign * dy, room, ratio, by_width=dx != 0)
    if first:
        return box[2] - width, box[3] - height, box[2], box[3]
    return box[0], box[1], box[0] + width, box[1] + height


def sized(box: Box, size: Size, wider: int, taller: int, ratio: float | None = None) -> Box:
    """The box so many px wider and taller (narrower and shorter below 0) about its centre, moved where that would lead
    out of the picture."""
    width, height = sides(box)
    width, height = _fitted(width + wider, height + taller, size, ratio, by_width=wider != 0)
    return _centred(box, size, width, height)


def with_ratio(box: Box, size: Size, ratio: float | None) -> Box:
    """The box in the proportions wanted: the smallest that holds it, or the largest that the picture has room for."""
    if ratio is None:
        return box
    width, height = sides(box)
    if width < height * ratio:
        width = round(height * ratio)
    return _centred(box, size, *_fitted(width, height, size, ratio, by_width=True))


def step_px(size: Size) -> int:
    """How far a key moves where no number says it."""
    return max(1, max(size) // _STEPS)


def _span(low: int, high: int, side: int) -> tuple[int, int]:
    least = min(LEAST_PX, side)
    low = max(0, min(low, side - least))
    return low, max(low + least, min(high, side))


def _fitted(width: int, height: int, room: Size, ratio: float | None, *, by_width: bool) -> Size:
    """The sides wanted, within what there is room for; with a ratio the one leads and the other follows."""
    if ratio is None:
        return _within(width, room[0]), _within(height, room[1])
    if not by_width:
        width = round(height * ratio)
    # Both sides at their least, and neither over its room.
    low = max(min(LEAST_PX, room[0]), min(LEAST_PX, room[1]) * ratio)
    wanted = min(max(width, low), room[0], room[1] * ratio)
    width = max(1, min(room[0], round(wanted)))
    return width, max(1, min(room[1], round(width / ratio)))


def _within(side: int, room: int) -> int:
    return max(min(LEAST_PX, room), min(side, room))


def _centred(box: Box, size: Size, width: int, height: int) -> Box:
    left = max(0, min(box[0] + (box[2] - box[0] - width) // 2, size[0] - width))
    top = max(0, min(box[1] + (box[3] - box[1] - height) // 2, size[1] - height))
    return left, top, left + width, top + height


@dataclass(frozen=True)
class Boxes:
    """Boxes in the making: what is being marked on one picture, and how keys act on it.

    kind: what becomes of them: "crop" keeps what is in them, in a picture each; "erase" fills them from around them.
    index: the one that keys move. step: px a key moves it by, 0 for the usual part of the picture.
    """

    kind: Kind
    size: Size
    boxes: tuple[Box, ...]
    index: int = 0
    handle: Handle = "top left"
    ratio: str = "free"
    step: int = 0

    @property
    def box(self) -> Box:
        """The one that keys move."""
        return self.boxes[self.index]

    @property
    def step_px(self) -> int:
        return self.step or step_px(self.size)

    def moved(self, dx: int, dy: int) -> "Boxes":
        """The handle moved by steps."""
        step = self.step_px
        return self._with(dragged(self.box, self.size, self.handle, dx * step, dy * step, RATIOS[self.ratio]))

    def sized(self, wider: int, taller: int) -> "Boxes":
        """The box so many steps wider and taller on both sides together."""
        step = self.step_px
        return self._with(sized(self.box, self.size, wider * step, taller * step, RATIOS[self.ratio]))

    def grown(self, by: int) -> "Boxes":
        """The box larger or smaller by steps, in its proportions."""
        width, height = sides(self.box)
        ratio = RATIOS[self.ratio] or width / height
        longer = by * self.step_px
        wider, taller = (longer, 0) if width >= height else (0, longer)
        return self._with(sized(self.box, self.size, wider, taller, ratio))

    def next_handle(self) -> "Boxes":
        return replace(self, handle=HANDLES[(HANDLES.index(self.handle) + 1) % len(HANDLES)])

    def next_ratio(self) -> "Boxes":
        names = list(RATIOS)
        name = names[(names.index(self.ratio) + 1) % len(names)]
        return replace(self, ratio=name)._with(with_ratio(self.box, self.size, RATIOS[name]))

    def next_box(self, by: int = 1) -> "Boxes":
        return replace(self, index=(self.index + by) % len(self.boxes))._at_its_ratio()

    def added(self) -> "Boxes":
        """One more box, in the middle of the picture, to be moved from there."""
        width, height = self.size
        start = clamped((width // 3, height // 3, width - width // 3, height - height // 3), self.size)
        new = with_ratio(start, self.size, RATIOS[self.ratio])
        return replace(self, boxes=(*self.boxes, new), index=len(self.boxes), handle="box")

    def without(self) -> "Boxes":
        """Without the box that keys move; the last one of a crop becomes all of the picture."""
        left = self.boxes[: self.index] + self.boxes[self.index + 1 :]
        if not left:
            return replace(self, boxes=(whole(self.size),), index=0, handle="top left")._at_its_ratio()
        return replace(self, boxes=left, index=min(self.index, len(left) - 1))._at_its_ratio()

    def replaced(self, boxes: Sequence[Box]) -> "Boxes":
        """Other boxes in place of all there are."""
        return replace(self, boxes=tuple(clamped(box, self.size) for box in boxes), index=0)._at_its_ratio()

    def reset(self) -> "Boxes":
        """The box over all of the picture."""
        return replace(self, ratio="free")._with(whole(self.size))

    def with_digit(self, digit: int, *, first: bool) -> "Boxes":
        """The step with one more digit typed to it; 0 as the first brings the usual one back."""
        return replace(self, step=min(digit if first else self.step * 10 + digit, max(self.size)))

    @property
    def kept(self) -> tuple[Box, ...]:
        """The boxes that say something: all of the picture says nothing."""
        return tuple(box for box in dict.fromkeys(self.boxes) if box != whole(self.size))

    def _at_its_ratio(self) -> "Boxes":
        """The chosen proportions are kept where the box has them; another would leap at the next key."""
        ratio, (width, height) = RATIOS[self.ratio], sides(self.box)
        # Whole px are off by at most half of one.
        if ratio is None or abs(width - height * ratio) <= max(1.0, ratio) / 2 + 1e-9:
            return self
        return replace(self, ratio="free")

    def _with(self, box: Box) -> "Boxes":
        return replace(self, boxes=(*self.boxes[: self.index], box, *self.boxes[self.index + 1 :]))
