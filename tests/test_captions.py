"""Captions: reading files of any encoding, and drawing the text of a visit as sd-scripts does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.schema import CaptionSettings
from loratory.dataset.captions import draw_caption, read_caption

ROWS = json.loads((Path(__file__).parent / "data" / "captions.json").read_text(encoding="utf-8"))["rows"]
TAGS = st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=4), min_size=1, max_size=12)


def draw(caption: str, visit: int = 0, *, seed: int = 1, epoch: int = 1, step: int = 0, **settings: Any) -> str:
    return draw_caption(
        caption,
        CaptionSettings(**settings),
        seed=seed,
        epoch=epoch,
        visit=("picture", visit),
        step=step,
        max_steps=100,
    )


def tags(caption: str) -> list[str]:
    return caption.split(", ")


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['caption'][:12]!r}-{row['settings']}-{row['step']}-{row['epoch']}"
)
def test_outcomes_of_sd_scripts_are_ours(row: dict[str, Any]) -> None:
    settings = {"shuffle_caption": True, "keep_tokens": 1, **row["settings"]}
    for key in ("token_warmup_step", "caption_tag_dropout_rate", "caption_dropout_rate"):
        if key in settings:
            settings[key] = float(settings[key])
    ours = [draw(row["caption"], visit, epoch=row["epoch"], step=row["step"], **settings) for visit in range(400)]
    if not settings["shuffle_caption"] or row["out"] == "" or "," not in row["out"]:
        assert row["out"] in ours
    same_tags = [text for text in ours if Counter(tags(text)) == Counter(tags(row["out"]))]
    assert same_tags, "no visit had the tags of the reference"
    if "|||" in row["caption"] and settings.get("keep_tokens_separator"):
        front, back = 2, 2
    else:
        front, back = settings["keep_tokens"], 0
    for text in same_tags:
        assert tags(text)[:front] == tags(row["out"])[:front]
        assert not back or tags(text)[-back:] == tags(row["out"])[-back:]
    chancy = {"caption_tag_dropout_rate", "caption_dropout_rate", "enable_wildcard"} & row["settings"].keys()
    if not chancy:
        assert len(same_tags) == len(ours)


@pytest.mark.parametrize("caption", ["a,b ,  c", "  spaced  ", "A sentence, with {braces|kept}.", "a,,b", ""])
def test_nothing_set_leaves_the_caption_untouched(caption: str) -> None:
    assert draw(caption) == caption


def test_without_wildcards_only_the_first_line_counts() -> None:
    assert draw("one\ntwo\nthree") == "one"


@given(TAGS, st.integers(0, 12), st.integers(0, 1000))
def test_shuffle_keeps_the_front_and_loses_nothing(written: list[str], keep: int, visit: int) -> None:
    drawn = tags(draw(",".join(written), visit, shuffle_caption=True, keep_tokens=keep))
    assert drawn[:keep] == written[:keep]
    assert Counter(drawn) == Counter(written)


@given(TAGS, st.integers(0, 12), st.floats(0, 1), st.integers(0, 1000))
def test_tag_dropout_thins_what_is_not_kept(written: list[str], keep: int, rate: float, visit: int) -> None:
    plain = {"shuffle_caption": True, "keep_tokens": keep}
    shuffled = tags(draw(", ".join(written), visit, **plain))
    thinned = draw(", ".join(written), visit, **plain, caption_tag_dropout_rate=rate)
    left = tags(thinned) if thinned else []
    assert left[:keep] == written[:keep]
    # The order is that of the shuffle alone: switching dropout on does not move a tag.
    positions = iter(shuffled)
    assert all(tag in positions for tag in left)


@given(TAGS, st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_same_counters_same_text(written: list[str], visit: int, dropout: float, tag_dropout: float) -> None:
    settings = {
        "shuffle_caption": True,
        "caption_dropout_rate": dropout,
        "caption_tag_dropout_rate": tag_dropout,
    }
    assert draw(",".join(written), visit, **settings) == draw(",".join(written), visit, **settings)


def test_visits_epochs_and_seeds_differ() -> None:
    caption = ", ".join(f"tag {number}" for number in range(20))
    drawn = {
        draw(caption, visit, seed=seed, epoch=epoch, shuffle_caption=True)
        for visit in range(3)
        for seed in range(3)
        for epoch in range(1, 4)
    }
    assert len(drawn) == 27


def test_each_kind_of_chance_has_a_stream_of_its_own() -> None:
    caption = "one, two, three, four, five, six, seven {a|b|c|d}"
    for visit in range(50):
        plain = draw(caption, visit, shuffle_caption=True, enable_wildcard=True)
        with_dropout = draw(caption, visit, shuffle_caption=True, enable_wildcard=True, caption_dropout_rate=0.5)
        assert with_dropout in ("", plain)


def test_tags_that_stay_do_not_depend_on_the_shuffle() -> None:
    caption = ", ".join("abcdefgh")
    for visit in range(50):
        in_order = draw(caption, visit, caption_tag_dropout_rate=0.5)
        shuffled = draw(caption, visit, caption_tag_dropout_rate=0.5, shuffle_caption=True)
        assert Counter(tags(in_order)) == Counter(tags(shuffled))


def test_what_is_dropped_says_nothing_about_the_order() -> None:
    drawn = [draw("a, b", visit, caption_tag_dropout_rate=0.25, shuffle_caption=True) for visit in range(4000)]
    both = [text for text in drawn if len(text) > 1]
    assert abs(len(both) - 2250) < 4 * (4000 * 0.5625 * 0.4375) ** 0.5
    assert abs(both.count("a, b") - len(both) / 2) < 4 * (len(both) * 0.25) ** 0.5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rates_are_met(rate: float) -> None:
    visits = 4000
    empty = sum(draw("a, b", visit, caption_dropout_rate=rate) == "" for visit in range(visits))
    left = sum(draw("a, b", visit, keep_tokens=1, caption_tag_dropout_rate=rate) == "a, b" for visit in range(visits))
    # Four standard deviations of a binomial count.
    margin = 4 * (visits * rate * (1 - rate)) ** 0.5
    assert abs(empty - visits * rate) < margin
    assert abs(visits - left - visits * rate) < margin


def test_every_nth_epoch_has_no_captions() -> None:
    texts = [draw("a", epoch=epoch, caption_dropout_every_n_epochs=3) for epoch in range(1, 8)]
    assert texts == ["a", "a", "", "a", "a", "", "a"]


def test_wildcards_pick_every_choice_and_unescape_braces() -> None:
    drawn = {draw("{red|green} {{x}} ball", visit, enable_wildcard=True) for visit in range(60)}
    assert drawn == {"red {x} ball", "green {x} ball"}


def test_wildcards_draw_every_line_with_prefix_and_suffix() -> None:
    drawn = {
        draw("one\ntwo", visit, enable_wildcard=True, caption_prefix="pre,", caption_suffix="suf")
        for visit in range(40)
    }
    assert drawn == {"pre, one suf", "pre, two suf"}


def test_two_wildcards_of_one_caption_are_independent() -> None:
    drawn = {draw("{a|b}{a|b}", visit, enable_wildcard=True) for visit in range(100)}
    assert drawn == {"aa", "ab", "ba", "bb"}


def test_token_warmup_as_a_share_of_the_run() -> None:
    counts = [
        len(tags(draw(", ".join("abcdefghij"), step=step, token_warmup_step=0.5, token_warmup_min=2)))
        for step in (0, 25, 49, 50, 99)
    ]
    assert counts == [2, 6, 9, 10, 10]


def test_token_warmup_never_hides_kept_tags() -> None:
    assert draw("k1, k2, a, b, c", keep_tokens=2, token_warmup_step=10.0) == "k1, k2, a"


def test_secondary_separator_moves_as_one_and_then_becomes_the_first() -> None:
    for visit in range(30):
        drawn = draw("a;;;b, c, d, e", visit, shuffle_caption=True, secondary_separator=";;;")
        assert "a,b" in drawn
        assert ";;;" not in drawn


@pytest.mark.parametrize(
    ("data", "text", "encoding", "problem"),
    [
        (b"a, b\n", "a, b", "utf-8", None),
        ("fünf, 狐".encode(), "fünf, 狐", "utf-8", None),
        ("\ufefffox".encode(), "fox", "utf-8", None),
        ("fünf".encode("utf-16"), "fünf", "utf-16", "encoding"),
        ("fünf".encode("utf-16-be"), "\0f\0ü\0n\0f", "cp1252", "nul"),
        ("fünf “x”".encode("cp1252"), "fünf “x”", "cp1252", "encoding"),
        (b"f\xfcnf \x81", "fünf \x81", "latin-1", "encoding"),
        (b"", "", "utf-8", "empty"),
        (b" \r\n\t\n", "", "utf-8", "empty"),
        (b"\xef\xbb\xbf", "", "utf-8", "empty"),
        (b"a\0b", "a\0b", "utf-8", "nul"),
        (b"\r\n  one \r\n\r\ntwo\rthree\n", "one\ntwo\nthree", "utf-8", None),
    ],
)
def test_read_caption(tmp_path: Path, data: bytes, text: str, encoding: str, problem: str | None) -> None:
    path = tmp_path / "001.txt"
    path.write_bytes(data)
    caption = read_caption(path)
    assert (caption.text, caption.encoding, caption.problem) == (text, encoding, problem)
    assert path.read_bytes() == data


@given(st.binary(max_size=64))
def test_any_bytes_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    caption = read_caption(path)
    assert (caption.problem == "empty") == (caption.text == "")
