"""Plain backgrounds, figures on them and crops, on drawn pictures whose answers are known."""

import io
from time import process_time

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from loratory.imaging.background import (
    LEAST_WON,
    colour_name,
    find_frame,
    find_ground,
    find_ground_and_figures,
    suggested_crop,
    won_share,
)
from loratory.imaging.facts import Ground
from loratory.imaging.recipe import BACKGROUNDS, Box

Pixels = npt.NDArray[np.uint8]


def plain(size: tuple[int, int] = (240, 160), colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    return Image.new("RGB", size, colour)


def with_figure(colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    picture = plain(colour=colour)
    ImageDraw.Draw(picture).ellipse((60, 40, 119, 139), fill=(20, 90, 60), outline=(250, 150, 30), width=4)
    return picture


def jpeg(picture: Image.Image, quality: int) -> Pixels:
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=quality)
    return np.asarray(Image.open(kept).convert("RGB"))


def ground_of(picture: Image.Image | Pixels) -> Ground:
    found = find_ground(np.asarray(picture))
    assert found is not None
    return found


def figures_of(picture: Image.Image | Pixels) -> tuple[Box, ...]:
    ground, figures = find_ground_and_figures(np.asarray(picture))
    assert ground is not None
    return figures


def scene(size: tuple[int, int] = (240, 160)) -> Pixels:
    """Coarse shapes of all colours, without any plain part."""
    chance = np.random.default_rng(4)
    small = chance.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def test_a_figure_on_one_colour_is_found_to_the_px() -> None:
    ground = ground_of(with_figure())
    assert ground.colour == (255, 255, 255)
    assert ground.name == "white"
    assert ground.border_share == 1
    assert ground.box == (60, 40, 120, 140)
    assert 0.87 < ground.share < 0.89  # an ellipse of 60x100 on 240x160


@pytest.mark.parametrize(("name", "colour"), list(BACKGROUNDS.items()))
def test_all_colours_behind_transparent_pictures_are_named(name: str, colour: tuple[int, int, int]) -> None:
    assert colour_name(colour) == name
    assert ground_of(with_figure(colour)).name == name
    assert ground_of(jpeg(with_figure(colour), 50)).name == name


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((255, 0, 0), "red"),
        ((0, 255, 0), "green"),
        ((0, 0, 255), "blue"),
        ((255, 255, 0), "yellow"),
        ((255, 128, 0), "orange"),
        ((255, 160, 190), "pink"),
        ((112, 72, 40), "brown"),
        ((128, 0, 160), "purple"),
        ((252, 252, 250), "white"),
        ((12, 12, 14), "black"),
        ((210, 210, 212), "grey"),
        ((244, 236, 214), ""),  # cream
    ],
)
def test_names_of_colours(colour: tuple[int, int, int], name: str) -> None:
    assert colour_name(colour) == name


@pytest.mark.parametrize("quality", [90, 50, 30])
def test_jpeg_noise_moves_the_box_by_a_block_of_colour_at_most(quality: int) -> None:
    ground = ground_of(jpeg(with_figure((64, 96, 208)), quality))
    for found, drawn in zip(ground.box, (60, 40, 120, 140), strict=True):
        assert abs(found - drawn) <= 16


def test_mirrored_pictures_have_mirrored_boxes() -> None:
    left, top, right, bottom = ground_of(with_figure()).box
    mirrored = ground_of(np.asarray(with_figure())[:, ::-1].copy())
    assert mirrored.box == (240 - right, top, 240 - left, bottom)


@pytest.mark.parametrize("scale", [2, 4, 7])
def test_larger_copies_have_larger_boxes(scale: int) -> None:
    picture = with_figure()
    large = ground_of(picture.resize((240 * scale, 160 * scale), Image.Resampling.LANCZOS))
    for found, drawn in zip(large.box, (60, 40, 120, 140), strict=True):
        assert abs(found - drawn * scale) <= 2 * scale
    assert abs(large.share - ground_of(picture).share) < 0.02


def test_subjects_may_touch_the_border() -> None:
    picture = plain()
    draw = ImageDraw.Draw(picture)
    draw.ellipse((80, 20, 140, 80), fill=(150, 40, 40))
    draw.rectangle((60, 75, 170, 159), fill=(40, 40, 150))
    ground = ground_of(picture)
    assert ground.name == "white"
    assert ground.box == (60, 20, 171, 160)
    assert 0.8 < ground.border_share < 1


def test_scenes_halves_and_stripes_have_no_ground() -> None:
    assert find_ground(scene()) is None
    sky = plain(colour=(120, 180, 240))
    ImageDraw.Draw(sky).rectangle((0, 60, 239, 159), fill=(40, 120, 40))
    assert find_ground(np.asarray(sky)) is None
    noise = np.random.default_rng(1).integers(90, 150, (160, 240, 3), np.uint8)
    assert find_ground(noise) is None


def test_letterbox_and_frames_are_no_ground() -> None:
    bars = np.zeros((220, 240, 3), np.uint8)
    bars[30:190] = scene()
    assert find_ground(bars) is None
    assert find_frame(bars) == (0, 30, 240, 190)
    page = np.full((150, 240, 3), 255, np.uint8)
    page[10:138, 20:220] = scene((200, 128))
    assert find_ground(page) is None
    assert find_frame(page) == (20, 10, 220, 138)
    assert find_frame(scene()) is None


def test_a_thin_frame_hides_no_ground() -> None:
    picture = with_figure()
    ImageDraw.Draw(picture).rectangle((0, 0, 239, 159), outline=(0, 0, 0), width=3)
    ground = ground_of(picture)
    assert ground.name == "white"
    assert ground.box == (60, 40, 120, 140)


def test_soft_gradients_are_plain_and_named_where_one_name_fits() -> None:
    def shaded(top: int, bottom: int) -> Pixels:
        pixels = np.asarray(with_figure()).copy()
        light = np.linspace(top, bottom, 160).round().astype(np.uint8)
        empty = (pixels == 255).all(axis=2)
        pixels[empty] = np.broadcast_to(light[:, None, None], pixels.shape)[empty]
        return pixels

    grey = ground_of(shaded(190, 140))
    assert grey.name == "grey"
    assert grey.box == (60, 40, 120, 140)
    assert ground_of(shaded(255, 190)).name == ""


def test_the_box_of_an_empty_picture_is_all_of_it() -> None:
    ground = ground_of(plain())
    assert ground.box == (0, 0, 240, 160)
    assert ground.share == 1
    assert suggested_crop(ground, (240, 160)) is None
    assert figures_of(plain()) == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (3, 3), (8, 8), (7, 300), (2, 512)])
@pytest.mark.parametrize("level", [0, 127, 255])
def test_odd_sizes_are_looked_at_without_harm(shape: tuple[int, int], level: int) -> None:
    pixels = np.full((*shape, 3), level, np.uint8)
    ground = find_ground(pixels)
    find_frame(pixels)
    assert (ground is None) == (min(shape) < 8)


def test_random_pictures_are_looked_at_without_harm() -> None:
    chance = np.random.default_rng(9)
    for _ in range(40):
        height, width = (int(side) for side in chance.integers(1, 60, 2))
        colours = chance.integers(0, 256, (3, 3), np.uint8)
        pixels = colours[chance.integers(0, 3, (height, width))]
        ground, _ = find_ground_and_figures(pixels)
        if ground is not None:
            suggested_crop(ground, (width, height))


def sheet() -> Image.Image:
    picture = plain((400, 220))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 20, 119, 189), fill=(150, 40, 40))
    draw.ellipse((160, 40, 239, 179), fill=(40, 40, 150))
    draw.rectangle((290, 60, 359, 189), fill=(40, 120, 40))
    return picture


def test_figures_on_a_sheet_come_largest_first() -> None:
    pixels = np.asarray(sheet().resize((200, 110), Image.Resampling.BOX))
    boxes = figures_of(pixels)
    assert boxes == ((10, 10, 60, 95), (145, 30, 180, 95), (80, 20, 120, 90))


def test_specks_text_and_small_parts_are_no_figures() -> None:
    picture = with_figure()
    draw = ImageDraw.Draw(picture)
    draw.text((10, 144), "drawn by somebody in May", fill=(0, 0, 0))
    draw.rectangle((200, 20, 204, 24), fill=(0, 0, 0))
    draw.point((180, 90), fill=(0, 0, 0))
    pixels = np.asarray(picture)
    assert figures_of(pixels) == ()


def test_parts_with_a_narrow_gap_are_one_figure() -> None:
    picture = plain()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((60, 30, 119, 78), fill=(150, 40, 40))
    draw.rectangle((60, 80, 119, 130), fill=(40, 40, 150))
    pixels = np.asarray(picture)
    assert figures_of(pixels) == ()


def test_figures_of_jpegs_and_of_large_pictures() -> None:
    large = jpeg(sheet().resize((1600, 880), Image.Resampling.LANCZOS), 60)
    boxes = figures_of(large)
    drawn = ((80, 80, 480, 760), (1160, 240, 1440, 760), (640, 160, 960, 720))
    assert len(boxes) == 3
    for box, expected in zip(boxes, drawn, strict=True):
        assert max(abs(a - b) for a, b in zip(box, expected, strict=True)) <= 16


def test_what_a_crop_wins() -> None:
    assert won_share((1000, 1000), (0, 0, 500, 1000)) == 0.5
    assert won_share((1000, 1000), (0, 0, 1000, 1000)) == 0
    # Both are shrunk to the training area.
    assert won_share((2000, 1000), (0, 0, 1000, 1000), 512 * 512) == 0.5
    # Smaller than the training area and not enlarged: nothing to win.
    assert won_share((500, 400), (0, 0, 100, 400), 512 * 512) == 0
    # Part of it: the picture is shrunk by 2, the crop not at all.
    assert won_share((1024, 512), (0, 0, 100, 100), 512 * 512) == 0.5
    with pytest.raises(ValueError, match="empty"):
        won_share((10, 10), (3, 3, 3, 8))


def test_a_crop_is_suggested_only_where_it_wins_enough() -> None:
    crop = suggested_crop(ground_of(with_figure()), (240, 160))
    assert crop is not None
    assert crop == (56, 36, 124, 144)
    assert won_share((240, 160), crop) > LEAST_WON
    full = plain()
    ImageDraw.Draw(full).ellipse((4, 4, 235, 155), fill=(30, 60, 90))
    assert suggested_crop(ground_of(full), (240, 160)) is None


def test_narrow_subjects_keep_some_ground_beside_them() -> None:
    picture = plain((256, 256))
    ImageDraw.Draw(picture).rectangle((120, 10, 129, 249), fill=(30, 60, 90))
    crop = suggested_crop(ground_of(picture), (256, 256))
    assert crop is not None
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    assert height / width <= 3.1
    assert abs((crop[0] + crop[2]) - (120 + 130)) <= 1


def test_a_look_is_quick() -> None:
    pixels = jpeg(sheet().resize((256, 141), Image.Resampling.LANCZOS), 60)
    ground_of(pixels)
    started = process_time()
    for _ in range(5):
        figures_of(pixels)
    assert (process_time() - started) / 5 < 0.25  # 0.02 s on an idle machine
