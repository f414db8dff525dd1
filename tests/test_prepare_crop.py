"""Boxes moved by keys: whatever is typed, they stay inside the picture, hold something, and keep their proportions."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.editing.checks.finding import CaptionFinding, Fix, RecipeFix
from loratory.imaging.recipe import Box, Recipe, in_original
from loratory.preparation.desk import Entry
from loratory.tui.prepare.crop import (
    HANDLES,
    LEAST_PX,
    RATIOS,
    Boxes,
    Handle,
    Size,
    clamped,
    dragged,
    moved,
    sides,
    sized,
    whole,
    with_ratio,
)
from loratory.tui.prepare.state import PrepareState, with_boxes

SIDES = st.integers(1, 5000)
SIZES = st.tuples(SIDES, SIDES)
STEPS = st.integers(-6000, 6000)
WANTED = st.tuples(STEPS, STEPS, STEPS, STEPS)


def assert_inside(box: Box, size: Size) -> None:
    assert 0 <= box[0] < box[2] <= size[0]
    assert 0 <= box[1] < box[3] <= size[1]
    least = min(LEAST_PX, size[0]), min(LEAST_PX, size[1])
    assert box[2] - box[0] >= least[0] and box[3] - box[1] >= least[1]


def assert_ratio(box: Box, size: Size, ratio: float) -> None:
    """In proportion to the px, but where the picture is too narrow for it."""
    width, height = sides(box)
    if width > 1 and height > 1:
        assert abs(width - height * ratio) <= max(1.0, ratio) / 2 + 1e-9


@given(SIZES, WANTED)
def test_any_box_is_brought_inside(size: Size, wanted: Box) -> None:
    assert_inside(clamped(wanted, size), size)


@given(SIZES, WANTED, STEPS, STEPS)
def test_a_moved_box_keeps_its_sides(size: Size, wanted: Box, dx: int, dy: int) -> None:
    box = clamped(wanted, size)
    after = moved(box, size, dx, dy)
    assert_inside(after, size)
    assert sides(after) == sides(box)


@given(SIZES, WANTED, st.sampled_from(HANDLES[:2]), STEPS, STEPS)
def test_a_dragged_corner_leaves_the_opposite_one(size: Size, wanted: Box, handle: Handle, dx: int, dy: int) -> None:
    box = clamped(wanted, size)
    after = dragged(box, size, handle, dx, dy)
    assert_inside(after, size)
    if handle == "top left":
        assert after[2:] == box[2:]
    else:
        assert after[:2] == box[:2]


@given(SIZES, WANTED, STEPS, STEPS)
def test_a_box_grown_about_its_middle_stays_inside(size: Size, wanted: Box, wider: int, taller: int) -> None:
    assert_inside(sized(clamped(wanted, size), size, wider, taller), size)


LARGE = st.tuples(st.integers(200, 5000), st.integers(200, 5000))


@given(LARGE, WANTED, st.sampled_from([ratio for ratio in RATIOS.values() if ratio]))
def test_proportions_are_what_was_asked_for(size: Size, wanted: Box, ratio: float) -> None:
    box = with_ratio(clamped(wanted, size), size, ratio)
    assert_inside(box, size)
    assert_ratio(box, size, ratio)


KEYS = st.sampled_from(
    [
        *(lambda boxes, x=x, y=y: boxes.moved(x, y) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))),
        *(lambda boxes, x=x, y=y: boxes.sized(x, y) for x, y in ((2, 0), (-2, 0), (0, 2), (0, -2))),
        lambda boxes: boxes.grown(2),
        lambda boxes: boxes.grown(-2),
        lambda boxes: boxes.next_handle(),
        lambda boxes: boxes.next_ratio(),
        lambda boxes: boxes.added(),
        lambda boxes: boxes.next_box(),
        lambda boxes: boxes.without(),
        lambda boxes: boxes.reset(),
        lambda boxes: boxes.with_digit(7, first=True),
        lambda boxes: boxes.with_digit(3, first=False),
    ]
)


@given(st.one_of(SIZES, st.tuples(st.integers(200, 900), st.integers(200, 900))), st.lists(KEYS, max_size=40))
def test_no_keys_lead_out_of_the_picture(size: Size, keys: list) -> None:
    boxes = Boxes("crop", size, (whole(size),))
    for key in keys:
        boxes = key(boxes)
        assert 0 <= boxes.index < len(boxes.boxes)
        for box in boxes.boxes:
            if boxes.ratio == "free" and min(size) >= 200:
                assert_inside(box, size)
            assert 0 <= box[0] < box[2] <= size[0]
            assert 0 <= box[1] < box[3] <= size[1]
    for box in with_boxes(Recipe(), boxes).split:
        assert box != whole(size)


@given(LARGE, st.sampled_from([name for name in RATIOS if name != "free"]), st.lists(KEYS, max_size=20))
def test_a_chosen_ratio_is_kept_by_every_move(size: Size, ratio: str, keys: list) -> None:
    boxes = Boxes("crop", size, (whole(size),))
    while boxes.ratio != ratio:
        boxes = boxes.next_ratio()
    for key in keys:
        after = key(boxes)
        if after.ratio != ratio:  # another was chosen, or none any more
            continue
        boxes = after
        wanted = RATIOS[ratio]
        assert wanted is not None
        assert_ratio(boxes.box, size, wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (3, 5)])
def test_tiny_and_narrow_pictures(size: Size) -> None:
    boxes = Boxes("crop", size, (whole(size),))
    for _ in RATIOS:
        boxes = boxes.next_ratio().moved(1, 1).sized(-1, -1).grown(3)
        # Proportions come before the least side, which such a picture has no room for.
        assert 0 <= boxes.box[0] < boxes.box[2] <= size[0]
        assert 0 <= boxes.box[1] < boxes.box[3] <= size[1]


def test_steps() -> None:
    boxes = Boxes("crop", (640, 480), (whole((640, 480)),))
    assert boxes.moved(1, 1).box == (10, 10, 640, 480)  # 1/64 of the longer side
    assert boxes.with_digit(3, first=True).with_digit(2, first=False).moved(1, 0).box == (32, 0, 640, 480)
    assert boxes.with_digit(0, first=True).step_px == 10
    lower = replace(boxes, handle="bottom right")
    assert lower.moved(-1, -2).box == (0, 0, 630, 460)


def test_boxes_become_a_recipe() -> None:
    size = (100, 80)
    boxes = Boxes("crop", size, (whole(size),))
    assert with_boxes(Recipe(flip=True), boxes) == Recipe(flip=True)
    one = boxes.moved(1, 1)
    assert with_boxes(Recipe(split=((0, 0, 9, 9), (9, 9, 20, 20))), one) == Recipe(crop=(1, 1, 100, 80))
    two = one.added()
    assert with_boxes(Recipe(crop=(0, 0, 9, 9)), two) == Recipe(split=((1, 1, 100, 80), (33, 26, 67, 54)))
    erased = Boxes("erase", size, ((10, 10, 20, 20),))
    assert with_boxes(Recipe(crop=(0, 0, 50, 50)), erased) == Recipe(crop=(0, 0, 50, 50), erase=((10, 10, 20, 20),))
    assert with_boxes(Recipe(erase=((1, 1, 2, 2),)), erased.without()) == Recipe()


# --- fixes --------------------------------------------------------------------------------------------------------


def test_the_fix_for_all_takes_turns_with_the_colours() -> None:
    found: dict[str, tuple[CaptionFinding, ...]] = {}
    state = PrepareState()
    for number in range(6):
        path = Path(f"/set/1_fox/{number}.png")
        state.entries.append(Entry(path.name, path, (path,), "as it is"))
        fix = Fix("", RecipeFix({"background": ""}))
        found[path.name] = (CaptionFinding("transparent", "note", path, "", path.name, (), (fix,)),)
    state.findings = found
    state.show()
    recipes = state.alike(found["0.png"][0])
    assert [recipe.background for recipe in recipes.values()] == ["white", "black", "blue", "green", "red", "white"]


@given(WANTED, SIZES, st.booleans(), st.booleans())
def test_a_box_of_what_was_made_is_found_in_the_original(
    corners: tuple[int, int, int, int], size: Size, flip: bool, halved: bool
) -> None:
    cut = clamped(corners, size)
    width, height = sides(cut)
    made = (max(1, width // 2), max(1, height // 2)) if halved else (width, height)
    box = clamped(corners, made)
    left, top, right, bottom = in_original(box, made, Recipe(crop=cut, flip=flip), size) or (0, 0, 0, 0)
    assert cut[0] <= left < right <= cut[2]
    assert cut[1] <= top < bottom <= cut[3]
    if not halved:
        assert (right - left, bottom - top) == sides(box)
        assert (cut[2] - right if flip else left - cut[0]) == box[0]


def test_the_parts_of_a_sheet_are_not_told_apart() -> None:
    assert in_original((0, 0, 5, 5), (10, 10), Recipe(split=((0, 0, 10, 10), (20, 0, 30, 10))), (40, 40)) is None
