"""Quality measures on drawn pictures: what they tell apart, and that nothing stops them."""

import io
from collections.abc import Callable
from time import process_time

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter

from loratory.imaging.quality import (
    BLOCKY,
    LITTLE_DETAIL,
    NOISY,
    blockiness,
    detail,
    is_grey,
    residual,
    sharpness,
)

Grey = npt.NDArray[np.uint8]
MEASURES: list[Callable[[Grey], float]] = [sharpness, detail, blockiness, residual]


def drawing(side: int = 384) -> Image.Image:
    """Soft shades with many smooth-edged shapes of all sizes on them, and a clean drawing's flat parts."""
    chance = np.random.default_rng(2)
    large = Image.new("L", (side * 2, side * 2), 200)
    draw = ImageDraw.Draw(large)
    for _ in range(420):
        x, y, size = (int(value) for value in chance.integers((0, 0, 4), (side * 2, side * 2, 60)))
        draw.ellipse((x, y, x + size, y + size // 2), fill=int(chance.integers(0, 256)))
    draw.rectangle((0, 0, side * 2, side // 2), fill=200)
    return large.resize((side, side), Image.Resampling.BOX)


def grey(picture: Image.Image) -> Grey:
    return np.asarray(picture.convert("L"))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=quality)
    return Image.open(kept).convert("L")


def enlarged(picture: Image.Image, times: int, how: Image.Resampling) -> Image.Image:
    return picture.resize((picture.width * times, picture.height * times), how)


def with_noise(picture: Image.Image, most: float) -> Image.Image:
    levels = np.asarray(picture).astype(np.float32)
    noise = np.random.default_rng(3).standard_normal(levels.shape).astype(np.float32)
    noise = (noise + np.roll(noise, 1, 0)) / 2
    return Image.fromarray(
        (levels + (0.6 * most * noise / noise.std()).clip(-most, most)).clip(0, 255).astype(np.uint8)
    )


def test_blur_makes_less_sharp_and_contrast_does_not_matter() -> None:
    picture = drawing()
    values = [sharpness(grey(picture.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[3]
    pale = picture.point([100 + level // 4 for level in range(256)])
    assert sharpness(grey(pale)) == pytest.approx(values[0], rel=0.15)


def test_one_clean_edge_is_as_sharp_as_can_be() -> None:
    picture = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(picture).rectangle((60, 60, 120, 120), fill=0)
    assert sharpness(grey(picture)) == 1


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_enlarged_pictures_have_less_detail(how: Image.Resampling) -> None:
    picture = drawing()
    assert detail(grey(picture)) > 0.9
    assert detail(grey(enlarged(picture, 2, how))) < LITTLE_DETAIL
    assert detail(grey(enlarged(picture, 4, how))) < detail(grey(enlarged(picture, 2, how)))
    assert detail(grey(enlarged(picture, 4, how))) < 0.45


@pytest.mark.parametrize("times", [2, 3, 4, 8])
def test_repeated_px_are_told_exactly(times: int) -> None:
    assert detail(grey(enlarged(drawing(128), times, Image.Resampling.NEAREST))) == 1 / times


def test_blocks_show_more_the_stronger_the_compression_and_anywhere() -> None:
    picture = drawing()
    values = [blockiness(grey(jpeg(picture, quality))) for quality in (95, 60, 30, 10)]
    assert blockiness(grey(picture)) < 0.2
    assert values[3] > values[1] > values[0]
    assert values[3] >= BLOCKY
    moved = grey(jpeg(picture, 10))[3:, 5:]
    assert blockiness(moved) == pytest.approx(values[3], abs=0.1)


def test_noise_shows_in_flat_regions_and_drawings_have_none() -> None:
    picture = drawing()
    assert residual(grey(picture)) == 0
    assert residual(grey(with_noise(picture, 8))) >= NOISY
    assert residual(grey(with_noise(picture, 16))) > residual(grey(with_noise(picture, 8)))
    slope = np.broadcast_to(np.linspace(0, 255, 256).round().astype(np.uint8), (256, 256))
    assert residual(slope) < 0.5


def test_residual_is_a_standard_deviation() -> None:
    noise = np.random.default_rng(1).normal(128, 5, (256, 256)).round().clip(0, 255).astype(np.uint8)
    assert residual(noise) == pytest.approx(5, rel=0.1)


def test_grey_pictures_are_told_from_coloured_and_sepia_ones() -> None:
    shades = np.asarray(drawing().convert("RGB"))
    assert is_grey(shades)
    assert is_grey(np.asarray(jpeg(drawing(), 40).convert("RGB")))
    sepia = (shades * np.array([1.0, 0.85, 0.6])).astype(np.uint8)
    assert not is_grey(sepia)
    spot = shades.copy()
    spot[100:180, 100:180] = (200, 30, 30)
    assert not is_grey(spot)


@pytest.mark.parametrize("measure", MEASURES)
def test_mirroring_changes_nothing_to_speak_of(measure: Callable[[Grey], float]) -> None:
    pixels = grey(jpeg(drawing(), 50))
    assert measure(pixels[:, ::-1].copy()) == pytest.approx(measure(pixels), abs=0.05)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (2, 2), (17, 40), (64, 64), (131, 257), (300, 8)])
def test_odd_sizes_and_empty_pictures_are_measured(measure: Callable[[Grey], float], shape: tuple[int, int]) -> None:
    for pixels in (np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, np.uint8)):
        value = measure(pixels)
        assert np.isfinite(value)
        assert value >= 0
        assert measure is residual or value <= 1
        is_grey(np.repeat(pixels[..., None], 3, axis=2))


def test_pictures_of_one_level_are_clean() -> None:
    pixels = np.full((200, 300), 180, np.uint8)
    assert [measure(pixels) for measure in MEASURES] == [0, 1, 0, 0]


@pytest.mark.parametrize("measure", MEASURES)
def test_large_pictures_take_no_longer_than_their_tiles(measure: Callable[[Grey], float]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500), np.uint8)
    measure(pixels)
    started = process_time()
    measure(pixels)
    assert process_time() - started < 0.3  # 0.03 s on an idle machine
