"""The order of training and the length of a run."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.dataset.epochs import (
    FolderCount,
    Visit,
    batches_per_epoch,
    epoch_batches,
    resolve_length,
    steps_per_epoch,
    visits_by_bucket,
)

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
    assert [steps_per_epoch(counts, 2, accumulation) for accumulation in (1, 2, 4, 6, 7)] == [6, 3, 2, 1, 1]


def test_length_from_epochs() -> None:
    length = resolve_length([FolderCount(10, 30), FolderCount(4, 50)], 25, max_train_epochs=8)
    assert (length.epochs, length.total_steps, length.exposures) == (8, 200, (80, 32))


@pytest.mark.parametrize(("steps", "epochs", "exposure"), [(100, 4, 40), (101, 5, 40.4), (1, 1, 0.4), (25, 1, 10)])
def test_length_from_steps_cuts_the_last_epoch_short(steps: int, epochs: int, exposure: float) -> None:
    length = resolve_length([FolderCount(10, 30)], 25, max_train_steps=steps)
    assert (length.epochs, length.total_steps) == (epochs, steps)
    assert length.exposures == pytest.approx((exposure,))


@pytest.mark.parametrize(("exposure", "epochs"), [(100, 10), (95, 10), (94.9, 9), (25, 3), (4, 1), (1, 1), (0.5, 1)])
def test_length_from_exposure_rounds_to_whole_epochs(exposure: float, epochs: int) -> None:
    length = resolve_length([FolderCount(10, 30)], 25, exposure=exposure)
    assert (length.epochs, length.total_steps) == (epochs, epochs * 25)
    assert length.exposures == (epochs * 10,)


def test_the_folder_with_most_pictures_decides_and_the_others_show_their_own_exposure() -> None:
    folders = [FolderCount(16, 32), FolderCount(10, 51), FolderCount(12, 43)]
    length = resolve_length(folders, 1538, exposure=100)
    assert length.epochs == 10
    assert length.exposures == (160, 100, 120)


def test_a_length_needs_a_setting() -> None:
    with pytest.raises(ValueError, match="max_train_epochs"):
        resolve_length([FolderCount(1, 1)], 1)
