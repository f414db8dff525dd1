"""What a recipe makes of a picture, step by step, in the order that is promised."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hostile_pictures import pattern
from loratory.errors import LoratoryError
from loratory.imaging.apply import Enlarge, Settled, apply, as_text, covering_size, lanczos, settle, tags_of
from loratory.imaging.erase import filled
from loratory.imaging.recipe import AS_THEY_ARE, BACKGROUNDS, Defaults, Recipe

PICTURE = Image.fromarray(pattern(60, 40))


def refuse(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    raise AssertionError(f"{picture.size} was to be enlarged to {size}")


def made(picture: Image.Image, enlarge: Enlarge = refuse, **changes: Any) -> list[Image.Image]:
    return apply(picture, settle(Recipe(**changes), AS_THEY_ARE, "white"), enlarge)


def test_no_recipe_changes_nothing() -> None:
    (result,) = made(PICTURE)
    assert np.array_equal(np.asarray(result), np.asarray(PICTURE))


def test_steps_are_done_in_order() -> None:
    picture = PICTURE.convert("RGBA")
    picture.paste((9, 9, 9, 0), (0, 0, 30, 40))
    calls: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def enlarge(part: Image.Image, size: tuple[int, int]) -> Image.Image:
        calls.append((part.size, size))
        return part.resize(size, Image.Resampling.NEAREST)

    (result,) = made(
        picture,
        enlarge,
        background="blue",
        erase=((50, 10, 55, 20),),
        crop=(10, 5, 58, 35),
        flip=True,
        clean="upscale",
        max_side_px=24,
    )
    flat = np.asarray(picture)[..., :3].copy()
    flat[:, :30] = BACKGROUNDS["blue"]
    erased = filled(Image.fromarray(flat), (50, 10, 55, 20))
    cut = erased.crop((10, 5, 58, 35)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    doubled = cut.resize((96, 60), Image.Resampling.NEAREST)
    assert calls == [((48, 30), (96, 60))]
    assert np.array_equal(np.asarray(result), np.asarray(lanczos(doubled, (24, 15))))


def test_a_sheet_is_split_into_its_figures() -> None:
    parts = made(PICTURE, split=((0, 0, 20, 40), (20, 0, 60, 40)), crop=(0, 0, 5, 5))
    assert [part.size for part in parts] == [(20, 40), (40, 40)]
    assert np.array_equal(np.asarray(parts[1]), pattern(60, 40)[:, 20:])


def test_boxes_are_clipped_to_the_picture() -> None:
    (result,) = made(PICTURE, crop=(50, 30, 5000, 5000), erase=((55, 35, 900, 900),))
    assert result.size == (10, 10)


@pytest.mark.parametrize(
    "changes", [{"crop": (60, 0, 70, 10)}, {"split": ((0, 40, 9, 50),)}, {"erase": ((99, 0, 100, 9),)}]
)
def test_a_box_outside_of_the_picture_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(LoratoryError, match=rf"{next(iter(changes))}.*60x40"):
        made(PICTURE, **changes)


def test_downscaling_and_enlarging_again_keeps_the_size() -> None:
    seen: list[tuple[int, int]] = []

    def enlarge(part: Image.Image, size: tuple[int, int]) -> Image.Image:
        seen.append(part.size)
        return lanczos(part, size)

    (result,) = made(PICTURE, enlarge, clean="downscale", clean_scale=0.75)
    assert seen == [(45, 30)]
    assert result.size == (60, 40)


def test_small_pictures_are_upscaled_to_the_training_area_and_large_ones_left() -> None:
    settled = settle(Recipe(), Defaults(resolution=(128, 128)), "white")
    (result,) = apply(PICTURE, settled, lanczos)
    assert result.size == covering_size((60, 40), (128, 128)) == (157, 105)
    assert result.width * result.height >= 128 * 128
    (asked,) = apply(PICTURE, settled, lanczos, target=lambda size: (size[0] * 3, size[1] * 3))
    assert asked.size == (180, 120)
    large = Image.new("RGB", (200, 100))
    assert apply(large, settled, refuse)[0].size == (200, 100)
    assert apply(PICTURE, settle(Recipe(upscale="never"), Defaults(), ""), refuse)[0].size == (60, 40)


def test_the_longest_side_is_limited_and_fine_lines_do_not_alias() -> None:
    stripes = np.zeros((8, 6000, 3), np.uint8)
    stripes[:, ::2] = 255
    (result,) = apply(Image.fromarray(stripes), settle(Recipe(upscale="never"), Defaults(max_side_px=1000), ""), refuse)
    assert result.size == (1000, 1)
    assert np.abs(np.asarray(result).astype(int) - 127.5).max() < 8


def test_a_line_of_pixels_is_never_shrunk_to_nothing() -> None:
    settled = settle(Recipe(upscale="never"), Defaults(), "")
    assert apply(Image.new("RGB", (1, 20_000)), settled, refuse)[0].size == (1, 3000)


def with_alpha(share: float) -> Image.Image:
    image = Image.new("RGBA", (100, 100), (200, 10, 10, 255))
    image.paste((255, 0, 255, 0), (0, 0, round(100 * share), 100))
    return image


def test_hidden_colours_never_bleed_into_edges() -> None:
    settled = settle(Recipe(upscale="never", max_side_px=30, background="white"), Defaults(), "")
    (result,) = apply(with_alpha(0.5), settled, refuse)
    # Between red (200, 10, 10) and white, green and blue are the same; magenta would show as more blue than green.
    pixels = np.asarray(result).astype(int)
    assert np.abs(pixels[..., 2] - pixels[..., 1]).max() <= 1


def test_captions_are_told_what_was_done() -> None:
    defaults = Defaults()
    blue = settle(Recipe(tags=("multiple views",)), defaults, "blue")
    assert tags_of(blue, with_alpha(0.5)) == ("blue background", "multiple views")
    assert tags_of(blue, PICTURE) == ("multiple views",)
    assert tags_of(blue, with_alpha(0.02)) == ("multiple views",)
    kept = settle(Recipe(crop=(60, 0, 100, 100)), defaults, "blue")
    assert tags_of(kept, with_alpha(0.5)) == ()
    assert tags_of(settle(Recipe(background="black"), defaults, "blue"), with_alpha(0.5)) == ("black background",)
    silent = Defaults(background_tags=False)
    assert tags_of(settle(Recipe(), silent, "blue"), with_alpha(0.5)) == ()
    twice = settle(Recipe(tags=("blue background",)), defaults, "blue")
    assert tags_of(twice, with_alpha(0.5)) == ("blue background",)
    assert tags_of(settle(Recipe(background="#fefefe"), defaults, ""), with_alpha(0.5)) == ("white background",)


def test_settled_recipes_are_equal_where_the_pictures_are() -> None:
    defaults = Defaults()
    assert settle(Recipe(max_side_px=3000, format="auto"), defaults, "red") == settle(Recipe(), defaults, "red")
    assert settle(Recipe(clean_scale=0.7), defaults, "red") == settle(Recipe(), defaults, "red")
    assert settle(Recipe(), defaults, "red") != settle(Recipe(), defaults, "blue")
    other = Defaults(upscaler="mine.pth", upscale="never")
    assert settle(Recipe(), other, "red") == settle(Recipe(), Defaults(upscale="never"), "red")
    assert settle(Recipe(clean="upscale"), other, "red").upscaler == "mine.pth"


def test_settled_recipes_have_one_text() -> None:
    settled = settle(Recipe(crop=(1, 2, 3, 4), split=(), tags=("é",)), Defaults(), "red")
    text = as_text(settled)
    assert "\n" not in text
    assert text == as_text(settle(Recipe(crop=(1, 2, 3, 4), tags=("é",)), Defaults(), "red"))
    assert set(json.loads(text)) == set(Settled.__dataclass_fields__)


@pytest.mark.parametrize("background", ["whit", "#12345", "#12345g", "#١٢٣٤٥٦"])
def test_unknown_backgrounds_are_errors(background: str) -> None:
    with pytest.raises(LoratoryError, match="is no background"):
        settle(Recipe(background=background), Defaults(), "")


# --- erase ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(20, 10, 50, 30), (0, 0, 9, 9), (90, 5, 100, 60), (0, 20, 100, 40), (5, 5, 6, 6)])
def test_on_a_plain_ground_the_fill_is_exactly_plain(box: tuple[int, int, int, int]) -> None:
    plain = Image.new("RGB", (100, 60), (231, 17, 90))
    drawn = plain.copy()
    drawn.paste((0, 0, 0), box)
    assert np.array_equal(np.asarray(filled(drawn, box)), np.asarray(plain))


def test_only_the_box_changes() -> None:
    result = np.asarray(filled(PICTURE, (10, 12, 30, 25))).copy()
    result[12:25, 10:30] = pattern(60, 40)[12:25, 10:30]
    assert np.array_equal(result, pattern(60, 40))


def test_a_gradient_is_continued_smoothly() -> None:
    x, y = np.meshgrid(np.arange(200), np.arange(120))
    ramp = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    for box in ((50, 30, 150, 90), (120, 0, 180, 80)):
        drawn = Image.fromarray(ramp)
        drawn.paste((255, 255, 255), box)
        error = np.abs(np.asarray(filled(drawn, box)).astype(int) - ramp)
        assert error.mean() < (4 if box[1] else 20)
        assert error[..., 0].max() <= 6


def test_grain_goes_on_in_the_box_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(2)
    grainy = (128 + rng.standard_normal((160, 160, 3)) * 5).clip(0, 255).astype(np.uint8)
    box = (40, 40, 120, 120)
    result = np.asarray(filled(Image.fromarray(grainy), box))
    assert 3.5 < result[45:115, 45:115].std() < 6.5
    assert np.array_equal(result, np.asarray(filled(Image.fromarray(grainy), box)))


def test_a_large_box_is_filled_too() -> None:
    picture = Image.new("RGB", (1300, 900), (10, 200, 30))
    picture.paste((0, 0, 0), (100, 100, 1200, 800))
    assert np.unique(np.asarray(filled(picture, (100, 100, 1200, 800))).reshape(-1, 3), axis=0).tolist() == [
        [10, 200, 30]
    ]


def test_a_box_over_all_of_the_picture_is_an_error() -> None:
    with pytest.raises(LoratoryError, match="covers the whole picture"):
        filled(PICTURE, (0, 0, 60, 40))
