"""The cure of adversarial noise: noise goes, drawing stays; and the pictures that show what it did."""

from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter

from loratory.imaging import clean
from loratory.imaging.clean import adverse, difference, psnr


def flat_art(side: int = 160) -> Image.Image:
    """Flat colours with dark outlines and a soft shade, as in drawn characters."""
    large = Image.new("RGB", (4 * side, 4 * side), (236, 226, 206))
    draw = ImageDraw.Draw(large)
    draw.ellipse((side // 2, side // 2, 3 * side, 3 * side), fill=(214, 92, 62), outline=(30, 24, 34), width=14)
    draw.rectangle(
        (2 * side, 2 * side, 3 * side + 300, 3 * side + 300), fill=(70, 110, 190), outline=(20, 20, 30), width=12
    )
    draw.line((0, 4 * side, 4 * side, 0), fill=(24, 30, 20), width=10)
    art = np.asarray(large.resize((side, side), Image.Resampling.BOX)).astype(np.float32)
    shade = np.linspace(-12, 12, side, dtype=np.float32)[:, None, None]
    return Image.fromarray((art + shade).clip(0, 255).astype(np.uint8))


def perturbed(original: Image.Image, levels: float) -> Image.Image:
    """The picture with a bounded perturbation that is high in frequency and correlated, as cloaking tools make it."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((original.height, original.width, 3))
    noise = noise - np.roll(noise, 1, axis=0) / 2 + np.roll(noise, (1, 1), axis=(0, 1)) / 2
    noise = (noise / noise.std() * levels).clip(-2 * levels, 2 * levels)
    return Image.fromarray(np.rint(np.asarray(original) + noise).clip(0, 255).astype(np.uint8))


def edge_strength(picture: Image.Image, edges: npt.NDArray[np.bool_]) -> float:
    grey = np.asarray(picture.convert("L")).astype(np.float32)
    slope = np.hypot(*np.gradient(grey))
    return float(slope[edges].mean())


@pytest.mark.parametrize("levels", [4.0, 6.0])
def test_adversarial_noise_goes_and_edges_stay(levels: float) -> None:
    original = flat_art()
    poisoned = perturbed(original, levels)
    cured = adverse(poisoned)
    assert cured.mode == "RGB"
    assert cured.size == original.size
    assert psnr(original, cured) > psnr(original, poisoned) + 6
    slope = np.hypot(*np.gradient(np.asarray(original.convert("L")).astype(np.float32)))
    edges = slope > 20
    assert edge_strength(cured, edges) > 0.9 * edge_strength(original, edges)
    blurred = poisoned.filter(ImageFilter.GaussianBlur(1))
    assert psnr(original, cured) > psnr(original, blurred)


def test_a_plain_picture_stays_exactly_as_it_is() -> None:
    plain = Image.new("RGB", (37, 21), (12, 200, 99))
    assert np.array_equal(np.asarray(adverse(plain)), np.asarray(plain))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (9, 8)])
def test_the_smallest_pictures_are_cured_too(size: tuple[int, int]) -> None:
    assert adverse(Image.effect_noise(size, 20).convert("RGB")).size == size


def test_strips_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = perturbed(flat_art(96), 5)
    whole = np.asarray(adverse(poisoned)).astype(int)
    monkeypatch.setattr(clean, "_STRIP_PX", 96 * 5)
    monkeypatch.setattr(clean, "_GUIDED_STRIP_PX", 96 * 32)
    assert np.abs(np.asarray(adverse(poisoned)) - whole).max() <= 1


def test_the_difference_is_grey_where_nothing_changed() -> None:
    before = Image.new("RGB", (20, 10), (100, 100, 100))
    after = before.copy()
    after.paste((105, 98, 255), (10, 0, 20, 10))
    shown = difference(before, after)
    assert shown.getpixel((3, 3)) == (128, 128, 128)
    assert shown.getpixel((15, 3)) == (168, 112, 255)
    assert difference(before, after, gain=1).getpixel((15, 3)) == (133, 126, 255)
    assert np.unique(np.asarray(difference(before, before.resize((40, 20))))).tolist() == [128]


def test_psnr_is_the_usual_one() -> None:
    before = Image.new("RGB", (20, 10), (100, 100, 100))
    assert psnr(before, before) == inf
    assert psnr(before, Image.new("RGB", (20, 10), (110, 110, 110))) == pytest.approx(28.1308, abs=1e-3)
    assert psnr(before, before.resize((40, 20))) == inf
