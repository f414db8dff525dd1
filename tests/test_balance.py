"""Balancing concept folders by their repeats, in numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.lint import pictures as lint
from loratory.dataset import balance as module
from loratory.dataset.balance import Concept, as_they_are, balanced, finer, regularization, with_repeats
from loratory.dataset.epochs import FolderCount, resolve_length
from loratory.dataset.goals import advised, judge_count
from loratory.dataset.regularization import rotated

concepts = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=8).map(
    lambda each: [Concept(f"{repeats}_{index}", images, repeats) for index, (images, repeats) in enumerate(each)]
)


def folders(*images: int, repeats: int = 10) -> list[Concept]:
    return [Concept(f"folder {index}", count, repeats) for index, count in enumerate(images)]


def repeats_of(found: module.Balance) -> list[int]:
    return [row.repeats for row in found.rows]


def test_the_example_of_the_guide() -> None:
    found = balanced(folders(51, 43, 32))
    assert repeats_of(found) == [10, 12, 16]
    assert [row.visits for row in found.rows] == [510, 516, 512]
    assert found.divisor == 2
    assert repeats_of(found.divided()) == [5, 6, 8]
    assert found.residual == pytest.approx(516 / (1538 / 3) - 1)
    assert found.divided().residual == pytest.approx(found.residual)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert [row.exposure(10) for row in found.rows] == [100, 120, 160]


def test_dividing_takes_as_many_times_the_epochs() -> None:
    found = balanced(folders(51, 43, 32))
    assert (found.epochs_for(100), found.divided().epochs_for(100)) == (10, 20)
    assert [row.exposure(20) for row in found.divided().rows] == [row.exposure(10) for row in found.rows]


@pytest.mark.parametrize("exposure", [0.2, 35, 100, 105, 250])
def test_epochs_are_those_of_a_run_of_that_exposure(exposure: float) -> None:
    found = balanced(folders(43, 51, 32))
    counts = [FolderCount(row.repeats, row.images) for row in found.rows]
    assert found.epochs_for(exposure) == resolve_length(counts, lambda _: 1, exposure=exposure).epochs


def test_halves_are_rounded_up() -> None:
    assert repeats_of(balanced(folders(5, 2, repeats=1))) == [1, 3]
    assert repeats_of(balanced(folders(7, 2, repeats=1))) == [1, 4]


def test_the_first_of_equally_large_folders_sets_the_target() -> None:
    found = balanced([Concept("a", 20, 3), Concept("b", 20, 9), Concept("c", 10, 1)])
    assert repeats_of(found) == [3, 3, 6]
    assert found.largest_row.name == "a"


def test_one_folder_keeps_its_repeats() -> None:
    found = balanced(folders(30))
    assert repeats_of(found) == [10]
    assert (found.residual, found.is_changed, found.rows[0].share) == (0, False, 1)


def test_folders_without_pictures_are_left_out() -> None:
    found = balanced([*folders(20, 0, 10)])
    assert [row.name for row in found.rows] == ["folder 0", "folder 2"]
    assert found.left_out == ("folder 1",)
    with pytest.raises(ValueError, match="no folder"):
        balanced(folders(0, 0))


def test_fixed_repeats_stay_and_those_of_the_largest_set_the_target() -> None:
    assert repeats_of(balanced(folders(51, 43, 32), fixed={"folder 1": 3})) == [10, 3, 16]
    assert repeats_of(balanced(folders(51, 43, 32), fixed={"folder 0": 5})) == [5, 6, 8]
    with pytest.raises(ValueError, match="at least 1"):
        with_repeats(folders(5), [0])


def test_huge_numbers_are_exact() -> None:
    found = balanced([Concept("many", 10**9, 10_000), Concept("one", 3, 1)])
    assert repeats_of(found) == [10_000, 3_333_333_333_333]


@given(concepts)
def test_balancing_what_is_balanced_changes_nothing(given: list[Concept]) -> None:
    once = balanced(given)
    again = balanced([Concept(row.name, row.images, row.repeats) for row in once.rows])
    assert repeats_of(again) == repeats_of(once)
    assert not again.is_changed
    divided = once.divided()
    after = balanced([Concept(row.name, row.images, row.repeats) for row in divided.rows])
    assert repeats_of(after) == repeats_of(divided)


@given(concepts)
def test_dividing_keeps_every_ratio(given: list[Concept]) -> None:
    found = balanced(given)
    divided = found.divided()
    assert divided.divisor == 1
    assert [row.repeats * found.divisor for row in divided.rows] == repeats_of(found)
    assert [row.visits * found.divisor for row in divided.rows] == [row.visits for row in found.rows]
    assert divided.residual == pytest.approx(found.residual)


@given(concepts, st.integers(1, 50))
def test_no_folder_is_off_by_more_than_half_a_repeat(given: list[Concept], largest: int) -> None:
    found = balanced(given, largest)
    target = found.largest_row.visits
    assert found.largest_row.repeats == largest
    for row in found.rows:
        assert abs(row.visits - target) <= row.images / 2
        assert row.repeats >= largest
    # Half a repeat of the largest folder is the most that a folder can be off.
    assert found.residual <= 1 / largest + 1e-9


@given(concepts)
def test_the_advice_balances_better(given: list[Concept]) -> None:
    found = balanced(given)
    better = finer(given, found.residual)
    residuals = [balanced(given, count).residual for count in range(1, 21)]
    if better is None:
        assert found.residual < 0.01 or min(residuals) >= found.residual
        return
    repeats, residual = better
    assert residual == residuals[repeats - 1] < found.residual
    if residual < 0.01:
        assert all(other >= 0.01 for other in residuals[: repeats - 1])
    else:
        assert residual == min(residuals)


def test_the_advice_for_folders_of_one_repeat() -> None:
    given = folders(51, 43, 32, repeats=1)
    assert repeats_of(balanced(given)) == [1, 1, 2]
    advice = finer(given, balanced(given).residual)
    assert advice is not None and advice[0] == 5 and advice[1] < 0.01


def test_small_folders_that_are_trained_much_more_can_overbake() -> None:
    found = balanced(folders(51, 40, 34, 9, 8))
    assert [row.overbake for row in found.rows] == ["", "", "watch", "likely", "likely"]
    assert [row.overbake for row in as_they_are(folders(51, 9)).rows] == ["", ""]


def test_the_rule_about_small_folders_is_that_of_the_linter() -> None:
    assert getattr(lint, "_MUCH_MORE") == getattr(module, "_MUCH_MORE")  # noqa: B009 - private to each
    assert getattr(lint, "_SMALL_FOLDER") == getattr(module, "_FEW_IMAGES")  # noqa: B009


def test_regularization_comes_in_turn() -> None:
    found = regularization([Concept("1_fox", 50, 1)], train_visits=30, epochs=1)
    assert found is not None
    assert (found.visits, found.never, found.epochs_to_all) == (30, 20, 2)
    assert found.per_image == pytest.approx(0.6)
    longer = regularization([Concept("1_fox", 50, 1)], train_visits=30, epochs=2)
    assert longer is not None and longer.never == 0
    assert regularization([Concept("1_fox", 0, 1)], 30, 1) is None
    assert regularization([], 30, 1) is None


@pytest.mark.parametrize(("visits", "epochs"), [(7, 1), (7, 3), (40, 1), (23, 2)])
def test_the_coverage_of_regularization_is_what_training_does(visits: int, epochs: int) -> None:
    groups = [Concept("1_fox", 20, 1), Concept("2_dog", 15, 2)]
    repeats = [group.repeats for group in groups for _ in range(group.images)]
    found = regularization(groups, visits, epochs)
    assert found is not None
    unseen: list[int] = []
    for seed in range(200):
        seen = {visit.image for epoch in range(epochs) for visit in rotated(repeats, visits, seed, epoch + 1)}
        unseen.append(len(repeats) - len(seen))
    assert abs(sum(unseen) / len(unseen) - found.never) < 1
    for seed in range(20):
        whole = {visit.image for e in range(found.epochs_to_all) for visit in rotated(repeats, visits, seed, e + 1)}
        assert len(whole) == len(repeats)


@pytest.mark.parametrize(
    ("goal", "images", "standing"),
    [
        *(("character", 1, "too few"), ("clothing", 7, "too few"), ("character", 8, "few"), ("concept", 15, "good")),
        *(("character", 30, "best"), ("character", 50, "good"), ("character", 51, "many")),
        *(("style", 10, "too few"), ("style", 49, "few"), ("style", 50, "good"), ("style", 125, "best")),
        *(("style", 150, "best"), ("style", 200, "good"), ("style", 201, "many")),
    ],
)
def test_how_many_pictures_a_goal_wants(goal: str, images: int, standing: str) -> None:
    verdict = judge_count(goal, images)
    assert verdict.standing == standing
    assert verdict.reason.startswith("1 picture:" if images == 1 else f"{images} pictures:")


def test_exposures_of_the_goals() -> None:
    assert advised("character").exposure == advised("clothing").exposure == 100
    style = advised("style")
    assert style.exposures == (30, 40) and math.isclose(style.exposure, 35)
