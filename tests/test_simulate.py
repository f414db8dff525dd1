"""Ten draws of a caption: training's own function, with counts, the cut, and what is kept in front."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.config.schema import CaptionSettings
from loratory.dataset.captions import draw_caption, read_caption
from loratory.editing.simulate import Draw, simulate
from loratory.models.components import ASSETS, build_tokenizer
from loratory.models.tokens import count_tokens, light_clip

CAPTION = "mizutsune, feral, blue eyes, bubbles, side view, white background"
TAGS = CAPTION.split(", ")


def drawn(caption: str, **changed: Any) -> list[Draw]:
    return simulate(caption, CaptionSettings(**changed))


def test_a_plain_caption_is_the_same_ten_times() -> None:
    made = drawn("Fox , tail,,  1girl")
    assert len(made) == 10
    assert set(made) == {Draw("Fox , tail,,  1girl", 6, "", None)}


def test_kept_tags_stay_in_front_of_the_shuffled_ones() -> None:
    made = drawn(CAPTION, shuffle_caption=True, keep_tokens=2)
    assert len({draw.text for draw in made}) > 5
    for draw in made:
        assert draw.kept == "mizutsune, feral" and draw.text.startswith("mizutsune, feral, ")
        assert sorted(draw.text.split(", ")) == sorted(TAGS)
        assert draw.tokens == count_tokens(light_clip(), draw.text) and draw.cut is None


def test_more_kept_tags_than_there_are() -> None:
    assert {draw.kept for draw in drawn("a, b", shuffle_caption=True, keep_tokens=9)} == {"a, b"}
    assert {draw.kept for draw in drawn("", shuffle_caption=True, keep_tokens=9)} == {""}


def test_nothing_is_kept_where_all_is_shuffled() -> None:
    assert {draw.kept for draw in drawn(CAPTION, shuffle_caption=True)} == {""}


def test_a_fence_keeps_front_and_end() -> None:
    made = drawn(
        "a, b ||| c, d, e ||| a, b",
        shuffle_caption=True,
        keep_tokens_separator="|||",
        caption_tag_dropout_rate=0.6,
        caption_prefix="P",
        caption_suffix="S",
    )
    assert {draw.kept for draw in made} == {"P a, b"}
    assert all(draw.text.startswith("P a, b, ") and draw.text.endswith("a, b S") for draw in made)
    assert len({draw.text for draw in made}) > 3


def test_a_picked_line_and_a_picked_wildcard_are_kept_as_picked() -> None:
    caption = "{fox|cat}, one, two, three\r\n\r\n  {owl|elk}, four, five, six  "
    made = drawn(caption, shuffle_caption=True, keep_tokens=1, enable_wildcard=True)
    assert {draw.kept for draw in made} == {"fox", "cat", "owl", "elk"}
    assert all(draw.text.split(", ")[0] == draw.kept for draw in made)


def test_a_dropped_caption_keeps_nothing() -> None:
    made = drawn(CAPTION, shuffle_caption=True, keep_tokens=2, caption_dropout_every_n_epochs=3)
    assert [draw.text == "" for draw in made] == [epoch % 3 == 0 for epoch in range(1, 11)]
    assert made[2] == Draw("", 0, "", None)


def test_what_does_not_fit_is_the_cut() -> None:
    long = ", ".join(["fox"] * 37) + ", tail, end"
    (draw,) = simulate(long, CaptionSettings(), draws=1)
    assert (draw.tokens, draw.cut) == (77, ", end")
    assert drawn(long, max_token_length=150)[0].cut is None
    weighted = ", ".join(["(fox:1.2)"] * 37) + ", tail, end"
    assert drawn(weighted, weighted_captions=True)[0].tokens == 77
    assert drawn(weighted, weighted_captions=True)[0].cut == ", end"
    assert drawn(weighted)[0].tokens > 200


def test_a_secondary_separator_becomes_a_comma() -> None:
    made = drawn("a;b, c;d, e", shuffle_caption=True, keep_tokens=1, secondary_separator=";")
    assert {draw.kept for draw in made} == {"a,b"}
    assert all(draw.text.startswith("a,b, ") and "c,d" in draw.text for draw in made)


def test_token_warm_up_follows_the_steps_of_the_run() -> None:
    settings = CaptionSettings(token_warmup_step=4, token_warmup_min=1)
    texts = [draw.text for draw in simulate("a, b, c, d, e", settings, draws=5, steps=range(5), max_steps=5)]
    assert texts == ["a", "a, b", "a, b, c", "a, b, c, d", "a, b, c, d, e"]
    assert {draw.text for draw in simulate("a, b, c", settings)} == {"a, b, c"}
    assert {draw.text for draw in simulate("a, b, c", CaptionSettings(token_warmup_step=0.5))} == {"a, b, c"}


def test_a_file_is_drawn_as_training_reads_it(tmp_path: Path) -> None:
    raw = "\r\n  a, b\x0bc, d \r\n\r e, f\u2028g \r\r"
    path = tmp_path / "a.txt"
    path.write_bytes(raw.encode())
    settings = CaptionSettings(shuffle_caption=True, enable_wildcard=True)
    expected = [
        draw_caption(
            read_caption(path).text, settings, seed=7, epoch=epoch, visit=("x", 3), step=epoch * 5, max_steps=50
        )
        for epoch in range(1, 11)
    ]
    made = simulate(raw, settings, seed=7, visit=("x", 3), steps=range(5, 55, 5), max_steps=50)
    assert [draw.text for draw in made] == expected


def test_another_tokenizer_is_asked_where_one_is_given() -> None:
    tokenizer = build_tokenizer(ASSETS / "clip", "!")
    tokenizer.add_tokens(["mizutsune"])
    (draw,) = simulate("mizutsune", CaptionSettings(), draws=1, tokenizer=tokenizer)
    assert draw.tokens == 1 < drawn("mizutsune")[0].tokens


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "b", "{c|d}", "|||", ",", " ", ";", "\n", "{{", "}}", "(x:1.2)", "狐"]), max_size=25
    ),
    st.integers(0, 4),
    st.sampled_from(["", "|||"]),
    st.sampled_from([0.0, 0.5]),
)
def test_whatever_a_caption_holds(pieces: list[str], keep: int, fence: str, dropout: float) -> None:
    made = drawn(
        "".join(pieces),
        shuffle_caption=True,
        keep_tokens=keep,
        keep_tokens_separator=fence,
        caption_tag_dropout_rate=dropout,
        enable_wildcard=True,
        secondary_separator=";",
        weighted_captions=True,
        caption_suffix="S",
    )
    assert len(made) == 10
    assert all(draw.text.startswith(draw.kept) for draw in made)


def test_it_needs_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from loratory.config.schema import CaptionSettings\n"
        "from loratory.editing.simulate import simulate\n"
        "simulate('fox', CaptionSettings())\n"
        "print({'torch', 'transformers', 'PIL', 'textual'} & sys.modules.keys())"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "set()\n"
