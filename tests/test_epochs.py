"""The order of training and the length of a run."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.dataset.epochs import (
    EpochOrder,
    FolderCount,
    batches_per_epoch,
    epoch_batches,
    resolve_length,
    spread,
    visits_by_bucket,
)
from loratory.dataset.regularization import in_file_order, rotated
from loratory.dataset.visits import Visit

BUCKETS = [(512, 512), (448, 576), (576, 448)]
PICTURES = st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(0, 6)), max_size=20)


@given(PICTURES, st.integers(1, 5), st.integers(0, 9), st.integers(1, 9))
def test_an_epoch_visits_every_picture_as_often_as_it_repeats(
    pictures: list[tuple[tuple[int, int], int]], batch_size: int, seed: int, epoch: int
) -> None:
    buckets = [bucket for bucket, _ in pictures]
    repeats = [count for _, count in pictures]
    batches = epoch_batches(buckets, repeats, batch_size, seed, epoch)
    visits = [visit for batch in batches for visit in batch]
    assert Counter(visits) == Counter(
        Visit(image, repeat) for image, count in enumerate(repeats) for repeat in range(count)
    )
    assert all(len({buckets[visit.image] for visit in batch}) == 1 for batch in batches)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    # At most one batch of a bucket is not full, which makes their number the smallest possible.
    partial = Counter(buckets[batch[0].image] for batch in batches if len(batch) < batch_size)
    assert all(count == 1 for count in partial.values())
    counts = visits_by_bucket(buckets, repeats)
    assert len(batches) == batches_per_epoch(counts, batch_size)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    arguments = ([(512, 512)] * 10 + [(448, 576)] * 10, [3] * 20, 2)
    orders = {
        (seed, epoch): tuple(epoch_batches(*arguments, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(1, 4)
    }
    assert len(set(orders.values())) == 9
    assert orders[2, 3] == tuple(epoch_batches(*arguments, seed=2, epoch=3))


def test_one_bucket_does_not_disturb_the_order_in_another() -> None:
    def in_first_bucket(second_repeats: int) -> set[tuple[Visit, ...]]:
        batches = epoch_batches([(512, 512)] * 6 + [(448, 576)] * 4, [2] * 6 + [second_repeats] * 4, 4, 7, 1)
        return {batch for batch in batches if batch[0].image < 6}

    assert in_first_bucket(1) == in_first_bucket(5)


def test_batches_are_ordered_anew_each_epoch() -> None:
    # One picture a bucket leaves nothing else to shuffle.
    buckets = [(64 * width, 64) for width in range(1, 31)]
    orders = {tuple(epoch_batches(buckets, [1] * 30, 1, 1, epoch)) for epoch in range(1, 5)}
    assert len(orders) == 4


def test_buckets_of_the_same_size_are_shuffled_differently() -> None:
    batches = epoch_batches([(512, 512)] * 30 + [(448, 576)] * 30, [1] * 60, 30, 1, 1)
    first, second = sorted([visit.image for visit in batch] for batch in batches if batch[0].image < 60)
    assert [image % 30 for image in first] != [image % 30 for image in second]


def test_batches_of_different_buckets_are_mixed() -> None:
    batches = epoch_batches([(512, 512)] * 50 + [(448, 576)] * 50, [1] * 100, 1, 1, 1)
    firsts = [batch[0].image < 50 for batch in batches]
    changes = sum(a != b for a, b in pairwise(firsts))
    # Sorted by bucket there would be one change; shuffled, 50 are expected.
    assert changes > 30


def test_steps_count_partial_batches_and_partial_accumulation() -> None:
    counts = {(512, 512): 5, (448, 576): 1, (576, 448): 4}
    assert batches_per_epoch(counts, 2) == 3 + 1 + 2
    buckets, repeats = (tuple(column) for column in zip(*((bucket, n) for bucket, n in counts.items()), strict=True))
    for accumulation, steps in ((1, 6), (2, 3), (4, 2), (6, 1), (7, 1)):
        order = EpochOrder(buckets, repeats, (False,) * 3, 2, accumulation, seed=1)
        assert order.steps(1) == steps


def test_length_from_epochs() -> None:
    length = resolve_length([FolderCount(10, 30), FolderCount(4, 50)], lambda _: 25, max_train_epochs=8)
    assert (length.epochs, length.total_steps, length.exposures) == (8, 200, (80, 32))


@pytest.mark.parametrize(("steps", "epochs", "exposure"), [(100, 4, 40), (101, 5, 40.4), (1, 1, 0.4), (25, 1, 10)])
def test_length_from_steps_cuts_the_last_epoch_short(steps: int, epochs: int, exposure: float) -> None:
    length = resolve_length([FolderCount(10, 30)], lambda _: 25, max_train_steps=steps)
    assert (length.epochs, length.total_steps) == (epochs, steps)
    assert length.exposures == pytest.approx((exposure,))


@pytest.mark.parametrize(("exposure", "epochs"), [(100, 10), (95, 10), (94.9, 9), (25, 3), (4, 1), (1, 1), (0.5, 1)])
def test_length_from_exposure_rounds_to_whole_epochs(exposure: float, epochs: int) -> None:
    length = resolve_length([FolderCount(10, 30)], lambda _: 25, exposure=exposure)
    assert (length.epochs, length.total_steps) == (epochs, epochs * 25)
    assert length.exposures == (epochs * 10,)


def test_the_folder_with_most_pictures_decides_and_the_others_show_their_own_exposure() -> None:
    folders = [FolderCount(16, 32), FolderCount(10, 51), FolderCount(12, 43)]
    length = resolve_length(folders, lambda _: 1538, exposure=100)
    assert length.epochs == 10
    assert length.exposures == (160, 100, 120)


def test_a_length_needs_a_setting() -> None:
    with pytest.raises(ValueError, match="max_train_epochs"):
        resolve_length([FolderCount(1, 1)], lambda _: 1)


def test_a_length_knows_its_epochs() -> None:
    length = resolve_length([FolderCount(1, 5)], lambda epoch: 3 + epoch % 2, max_train_steps=9)
    assert length.epoch_ends == (4, 7, 11)
    assert [length.epoch_of(step) for step in range(10)] == [1, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    assert [step for step in range(10) if length.ends_epoch(step)] == [4, 7]
    assert [length.epoch_start(epoch) for epoch in (1, 2, 3)] == [0, 4, 7]
    assert length.exposures == pytest.approx((2.5,))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(0, 9),
)
def test_regularization_pictures_take_turns_evenly(pictures: list[tuple[bool, int]], count: int, seed: int) -> None:
    repeats = [weight if reg else 0 for reg, weight in pictures]
    visits: Counter[int] = Counter()
    for epoch in range(1, 12):
        of_epoch = rotated(repeats, count, seed, epoch)
        assert len(of_epoch) == (count if any(repeats) else 0)
        assert len(set(of_epoch)) == len(of_epoch)
        visits.update(visit.image for visit in of_epoch)
        # Never more than one round apart, whatever the epoch.
        rounds = [visits[image] / weight for image, weight in enumerate(repeats) if weight]
        assert not rounds or max(rounds) - min(rounds) <= 1.0
    assert all(repeats[image] for image in visits)


def test_the_tail_of_a_regularization_set_is_used_unless_compatible() -> None:
    """300 training visits, two sets of 100 pictures with 2 repeats: sd-scripts uses 100 and 50 of them."""
    repeats = [0] * 300 + [2] * 200
    used = Counter(visit.image for visit in in_file_order(repeats, 300))
    assert [sum(300 <= image < 400 for image in used), sum(image >= 400 for image in used)] == [100, 50]
    assert set(used.values()) == {2}
    over_epochs = Counter(visit.image for epoch in range(1, 5) for visit in rotated(repeats, 300, 42, epoch))
    assert len(over_epochs) == 200
    assert set(over_epochs.values()) == {6}
    # 50 pictures with 10 repeats: only 30 are ever seen there.
    assert len({visit.image for visit in in_file_order([10] * 50, 300)}) == 30
    # Too few of them: further passes add one visit a picture.
    assert Counter(visit.image for visit in in_file_order([1, 2, 0], 8)) == {0: 4, 1: 4}


@pytest.mark.parametrize("kohya", [False, True])
def test_batches_of_an_epoch_with_regularization(kohya: bool) -> None:
    order = EpochOrder(
        buckets=(BUCKETS[0],) * 6 + (BUCKETS[1],) * 4 + (BUCKETS[0],) * 3 + (BUCKETS[2],) * 5,
        repeats=(2,) * 10 + (1,) * 8,
        is_reg=(False,) * 10 + (True,) * 8,
        batch_size=3,
        gradient_accumulation_steps=2,
        seed=7,
        kohya=kohya,
    )
    for epoch in range(1, 5):
        batches = order.batches(epoch)
        assert len(batches) == order.batch_count(epoch)
        assert order.steps(epoch) == -(-len(batches) // 2)
        visits = [visit for batch in batches for visit in batch]
        assert len(visits) == len(set(visits)) == 40
        assert sum(order.is_reg[visit.image] for visit in visits) == 20
        assert all(len({order.buckets[visit.image] for visit in batch}) == 1 for batch in batches)


def test_training_and_regularization_alternate_at_batch_size_one() -> None:
    order = EpochOrder((BUCKETS[0],) * 9, (1,) * 9, (False,) * 5 + (True,) * 4, 1, 1, seed=3)
    kinds = [order.is_reg[visit.image] for (visit,) in order.batches(2)]
    assert kinds == [False, True] * 5


@given(st.lists(st.integers(0, 99)), st.lists(st.integers(100, 199)))
def test_spread_keeps_both_orders_and_even_distances(many: list[int], few: list[int]) -> None:
    mixed = spread(many, few)
    assert [item for item in mixed if item < 100] == many
    assert [item for item in mixed if item >= 100] == few
    for length in range(len(mixed) + 1):
        expected = length * len(few) / len(mixed) if mixed else 0
        assert abs(sum(item >= 100 for item in mixed[:length]) - expected) <= 1
