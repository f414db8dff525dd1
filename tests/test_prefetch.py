"""Batches made ahead on threads: in order, bounded, and the same whatever their number."""

import os
import threading
from pathlib import Path

import pytest
import torch

from loratory.training.cache import EncodedText, TextCache
from loratory.training.prefetch import prefetched
from material import make_set
from training_runs import same_bytes, saved, small_config, train


def prefetch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_items_come_in_order(workers: int) -> None:
    assert list(prefetched(lambda n: n * n, range(3, 40), workers=workers)) == [n * n for n in range(3, 40)]
    assert prefetch_threads() == []


def test_an_item_that_is_ready_early_waits_for_those_before_it() -> None:
    second_made = threading.Event()

    def make(position: int) -> int:
        if position == 0:
            assert second_made.wait(10)  # made by the other worker meanwhile
        if position == 1:
            second_made.set()
        return position

    assert list(prefetched(make, range(4), workers=2)) == [0, 1, 2, 3]


def test_an_exception_comes_where_its_item_would_have() -> None:
    def make(position: int) -> int:
        if position == 2:
            raise OSError("the disk is gone")
        return position

    items = prefetched(make, range(10), workers=3)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert prefetch_threads() == []


def test_no_more_is_made_ahead_than_asked_for() -> None:
    begun: list[int] = []

    def make(position: int) -> int:
        begun.append(position)
        return position

    items = prefetched(make, range(1000), workers=2, depth=3)
    assert begun == []
    assert next(items) == 0
    items.close()
    assert set(begun) <= set(range(6))  # two in hand, three ready, and one for the item that was taken
    assert prefetch_threads() == []


def test_leaving_early_waits_for_what_is_being_made() -> None:
    inside, released = threading.Event(), threading.Event()

    def make(position: int) -> int:
        if position == 1:
            inside.set()
            assert released.wait(10)
        return position

    items = prefetched(make, range(100))
    next(items)
    assert inside.wait(10)
    leaving = threading.Thread(target=items.close)
    leaving.start()
    assert leaving.is_alive()
    released.set()
    leaving.join(10)
    assert prefetch_threads() == []


def test_captions_on_disk_are_found_again_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    entry = EncodedText(torch.rand(2, 3), torch.rand(3))
    TextCache(lambda caption: entry, "", folder).get("a fox")

    def encode_again(caption: str) -> EncodedText:
        raise AssertionError(caption)

    found = TextCache(encode_again, "", folder).get("a fox")
    assert found.pooled is not None and entry.pooled is not None
    assert torch.equal(found.hidden, entry.hidden) and torch.equal(found.pooled, entry.pooled)


def test_threads_that_ask_for_one_caption_have_it_encoded_once() -> None:
    together = threading.Barrier(4)
    encoded: list[str] = []

    def encode(caption: str) -> EncodedText:
        encoded.append(caption)
        return EncodedText(torch.full((2, 3), float(len(encoded))), None)

    cache = TextCache(encode, "", None)
    found: list[EncodedText] = []

    def ask() -> None:
        together.wait(10)
        found.append(cache.get("a fox"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoded == ["a fox"]
    assert len(found) == 4 and all(entry is found[0] for entry in found)


@pytest.mark.usefixtures("one_thread")
def test_a_run_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"3_fox": 3})
    results: list[dict[str, torch.Tensor]] = []
    for workers in (0, 3):
        config = small_config(
            tmp_path,
            dataset={
                "max_data_loader_n_workers": workers,
                "cache_latents": False,
                "random_crop": True,
                "flip_aug": True,
            },
            caption={"shuffle_caption": True, "caption_dropout_rate": 0.3},
            network={"network_train_unet_only": True},
            training={"max_train_epochs": 2},
            output={"output_name": f"with_{workers}"},
        )
        finished, _, _ = train(config)
        assert finished.status == "done"
        assert prefetch_threads() == []
        results.append(saved(config))
    assert same_bytes(*results)
