"""What is counted of pictures and captions."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.schema import DatasetSettings
from loratory.dataset.stats import (
    Picture,
    bucket_table,
    count_tags,
    find_fused,
    find_leanings,
    find_pairs,
    size_table,
    tags_everywhere,
)

tag_lists = st.lists(st.lists(st.sampled_from("abcdef"), max_size=6, unique=True), min_size=1, max_size=12)


def tagged(*captions: str, repeats: int = 1) -> list[Picture]:
    return [
        Picture(f"{index}.png", "1_fox", repeats, tuple(caption.split(", ")) if caption else ())
        for index, caption in enumerate(captions)
    ]


def sized(*sizes: tuple[int, int], repeats: int = 1) -> list[Picture]:
    return [Picture(f"{index}.png", "1_fox", repeats, (), size) for index, size in enumerate(sizes)]


def settings(**more: int) -> DatasetSettings:
    return DatasetSettings.model_validate({"train_data_dir": "x", **more})


def test_tags_by_pictures_and_by_visits() -> None:
    rare = Picture("r.png", "9_rare", 9, ("fox", "red"))
    rows = {row.tag: row for row in count_tags([*tagged("fox, red", "fox", ""), rare])}
    assert list(rows) == ["fox", "red"]
    assert (rows["fox"].pictures, rows["fox"].share, rows["fox"].visits) == (3, 0.75, 11)
    assert rows["red"].visit_share == pytest.approx(10 / 12)


def test_a_tag_written_twice_counts_once() -> None:
    assert count_tags(tagged("fox, fox"))[0].pictures == 1


def test_nothing_to_count() -> None:
    assert count_tags([]) == find_pairs([]) == find_fused([]) == tags_everywhere([]) == size_table([]) == []
    assert bucket_table([], settings()) == []


def test_pairs_say_how_inseparable_tags_are() -> None:
    pairs = find_pairs(tagged("fox, hat, coat", "fox, hat, coat", "fox, hat", "fox", "fox", ""))
    assert [(pair.first, pair.second, pair.together) for pair in pairs] == [("coat", "hat", 2)]
    assert pairs[0].jaccard == pytest.approx(2 / 3)
    assert pairs[0].lift == pytest.approx(2 * 5 / (2 * 3))


def test_pairs_by_chance_are_no_pairs() -> None:
    assert find_pairs(tagged("a, b", "a", "b", "c")) == []  # once
    assert find_pairs(tagged("a, b", "a, b", "a", "a", "b", "b", "c", "c")) == []  # as often as by chance


@given(tag_lists)
def test_pairs_are_what_counting_by_hand_finds(captions: list[list[str]]) -> None:
    pictures = [Picture(str(index), "f", 1, tuple(tags)) for index, tags in enumerate(captions)]
    for pair in find_pairs(pictures):
        both = sum(pair.first in tags and pair.second in tags for tags in captions)
        either = sum(pair.first in tags or pair.second in tags for tags in captions)
        assert (pair.together, pair.jaccard) == (both, pytest.approx(both / either))
        assert pair.lift > 1


def test_tags_that_are_never_apart() -> None:
    found = find_fused(tagged("fox, hat, coat", "fox, coat, hat", "fox, red", "fox", ""))
    assert [(fused.tags, fused.pictures) for fused in found] == [(("coat", "hat"), 2)]


@given(tag_lists)
def test_fused_tags_stand_on_the_same_pictures(captions: list[list[str]]) -> None:
    pictures = [Picture(str(index), "f", 1, tuple(tags)) for index, tags in enumerate(captions)]
    for fused in find_fused(pictures):
        where = {tuple(index for index, tags in enumerate(captions) if tag in tags) for tag in fused.tags}
        assert len(where) == 1 and len(where.pop()) == fused.pictures


def test_tags_on_every_caption() -> None:
    assert tags_everywhere(tagged("fox, red, hat", "", "hat, fox")) == ["fox", "hat"]


def test_buckets_tell_what_is_cut_off_and_enlarged() -> None:
    rows = bucket_table(sized((512, 512), (256, 256), (1024, 512), (512, 1100), repeats=3), settings(), batch_size=4)
    by_bucket = {row.bucket: row for row in rows}
    square = by_bucket[512, 512]
    assert (square.pictures, square.visits, square.batches, square.partial) == (2, 6, 2, 1)
    assert (square.crop_max, square.enlarged, square.enlarged_max) == (0, 1, 2)
    wide = by_bucket[704, 320]
    assert wide.enlarged == 0 and wide.enlarged_max < 1
    # 1024x512 shrinks to 704x352, of which 320 rows stay.
    assert wide.crop_mean == pytest.approx(1 - 320 / 352)
    assert rows[0].bucket == (704, 320)  # the widest first
    assert sum(row.visits for row in rows) == 12


def test_pictures_of_unknown_size_have_no_bucket() -> None:
    assert bucket_table(tagged("fox"), settings()) == []


def test_full_batches_are_not_partial() -> None:
    (row,) = bucket_table(sized((512, 512), (512, 512)), settings(), batch_size=2)
    assert (row.batches, row.partial) == (1, 0)


def test_spread_of_sizes() -> None:
    short, long, area, aspect = size_table([(100, 200), (300, 200), (200, 200)])
    assert (short.least, short.half, short.most) == (100, 200, 200)
    assert (long.least, long.most) == (200, 300)
    assert area.most == pytest.approx(0.06)
    assert (aspect.least, aspect.half, aspect.most) == (0.5, 1, 1.5)
    assert size_table([(640, 480)])[0].quarter == 480


def looking(count: int, *tags: str, ground: str | None = None, is_grey: bool = False) -> list[Picture]:
    return [Picture(f"{tags}{n}", "1_fox", 1, tags or ("fox",), (512, 512), ground, is_grey) for n in range(count)]


def leanings(pictures: list[Picture], *, is_style: bool = False, look_alike: tuple[int, ...] = ()) -> dict[str, str]:
    """What is a concern, by what it is about."""
    found = find_leanings(
        pictures,
        lambda tag: "artist" if tag == "somebody" else "",
        lambda tag: tag == "sketch",
        is_style=is_style,
        look_alike=look_alike,
    )
    return {f"{lean.kind}: {lean.what}": lean.concern for lean in found}


def test_a_common_background_that_captions_do_not_tell() -> None:
    untold = leanings([*looking(8, ground="white"), *looking(4)])
    assert "few captions say so" in untold["background: white background"]
    told = leanings([*looking(8, "white background", ground="white"), *looking(4)])
    assert "It is tagged" in told["background: white background"]
    assert leanings([*looking(4, ground="white"), *looking(8)])["background: white background"] == ""


def test_a_few_pictures_lean_to_nothing() -> None:
    assert not any(leanings(looking(9, "somebody", "sketch", ground="white")).values())


@pytest.mark.parametrize("tag", ["gray background", "grey background"])
def test_both_spellings_of_grey(tag: str) -> None:
    assert "It is tagged" in leanings(looking(12, tag, ground="grey"))["background: grey background"]


def test_pictures_without_colour() -> None:
    assert "greyscale" in leanings([*looking(2, is_grey=True), *looking(10)])["greyscale: no colour"]
    assert leanings([*looking(2, "monochrome", is_grey=True), *looking(10)])["greyscale: no colour"] == ""
    assert "coloured" in leanings(looking(12, "greyscale", is_grey=True))["greyscale: no colour"]
    assert "greyscale: no colour" not in leanings(looking(12))


def test_one_artist_or_medium_is_a_bias_unless_a_style_is_learnt() -> None:
    pictures = [*looking(7, "somebody", "sketch"), *looking(5)]
    found = leanings(pictures)
    assert "artist" in found["artist: somebody"] and "look" in found["medium: sketch"]
    assert not any(leanings(pictures, is_style=True).values())


def test_one_view_makes_the_others_weak() -> None:
    assert "Other views" in leanings([*looking(7, "side view"), *looking(5)])["view: side view"]


def test_pictures_drawn_alike() -> None:
    assert "drawn alike" in leanings(looking(12), look_alike=(8, 2))["look: drawn alike"]
    assert leanings(looking(12), look_alike=(5, 2))["look: drawn alike"] == ""


def test_shapes_are_counted() -> None:
    leans = find_leanings(sized((512, 512), (520, 512), (900, 500), (500, 900)), str, lambda _: False, is_style=False)
    assert Counter({lean.what: lean.pictures for lean in leans}) == Counter(square=2, wide=1, tall=1)


def test_looks_that_are_not_known_are_no_leaning() -> None:
    assert find_leanings(tagged("fox"), lambda _: "", lambda _: False, is_style=False) == []
