"""Pictures as training sees them, from files of every mode that people put into datasets."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import Placement, place_image
from loratory.errors import LoratoryError
from loratory.imaging.pixels import UnreadablePicture, open_rgb, picture_size, resize_area, training_pixels

# Red, green / blue, white / black, grey: no symmetry maps it onto itself.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]], [[0, 0, 0], [128, 128, 128]]], np.uint8)
# How a viewer must turn what is stored: the definition of the EXIF orientations, as numpy sees it.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


def pattern(width: int, height: int, channels: int = 3) -> np.ndarray[Any, Any]:
    y, x, c = np.indices((height, width, channels))
    return ((x * 37 + y * 101 + c * 59 + x * y * 13) % 256).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def first_pixel(image: Image.Image) -> Any:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(CORNERS), exif=exif, lossless=True)
    upright = UPRIGHT[orientation](CORNERS)
    assert np.array_equal(np.asarray(open_rgb(path)), upright)
    assert picture_size(path) == (upright.shape[1], upright.shape[0])


@pytest.mark.parametrize("value", [0, 9, 300])
def test_meaningless_orientation_is_ignored(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    path = saved(tmp_path / "a.png", Image.fromarray(CORNERS), exif=exif)
    assert np.array_equal(np.asarray(open_rgb(path)), CORNERS)


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (6, 4)), exif=b"Exif\0\0damaged")
    assert picture_size(path) == (6, 4)
    assert open_rgb(path).size == (6, 4)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_hidden_colours_never_show(tmp_path: Path, background: tuple[int, int, int]) -> None:
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (255, 0, 0, 255))
    rgba.putpixel((2, 0), (255, 0, 0, 128))
    image = open_rgb(saved(tmp_path / "a.png", rgba), background)
    assert first_pixel(image) == background
    assert image.getpixel((1, 0)) == (255, 0, 0)
    blend = [round(colour * 127 / 255 + red * 128 / 255) for colour, red in zip(background, (255, 0, 0), strict=True)]
    assert np.abs(np.subtract(image.getpixel((2, 0)), blend)).max() <= 1


def test_grey_with_alpha_is_flattened(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("LA", (3, 3), (200, 0)))
    assert first_pixel(open_rgb(path, (1, 2, 3))) == (1, 2, 3)


def test_palette_transparency_is_flattened(tmp_path: Path) -> None:
    image = Image.new("P", (3, 3), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 1), 0)
    result = open_rgb(saved(tmp_path / "a.png", image, transparency=1), (9, 8, 7))
    assert first_pixel(result) == (9, 8, 7)
    assert result.getpixel((1, 1)) == (0, 0, 0)


def test_one_transparent_colour_is_flattened(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 3), (250, 0, 250))
    image.putpixel((1, 1), (0, 250, 0))
    result = open_rgb(saved(tmp_path / "a.png", image, transparency=(250, 0, 250)), (9, 8, 7))
    assert first_pixel(result) == (9, 8, 7)
    assert result.getpixel((1, 1)) == (0, 250, 0)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257 * 64, 257 * 128, 65535]], np.uint16)
    result = np.asarray(open_rgb(saved(tmp_path / "a.png", Image.fromarray(levels))))
    assert result[0, :, 0].tolist() == [0, 64, 128, 255]
    assert np.array_equal(result[..., 0], result[..., 2])


def test_sixteen_bit_grey_with_a_transparent_level(tmp_path: Path) -> None:
    levels = np.array([[1000, 65535]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(levels), transparency=1000)
    result = open_rgb(path, (9, 8, 7))
    assert first_pixel(result) == (9, 8, 7)
    assert result.getpixel((1, 0)) == (255, 255, 255)


def test_one_bit_and_palette_and_grey(tmp_path: Path) -> None:
    assert first_pixel(open_rgb(saved(tmp_path / "1.png", Image.new("1", (2, 2), 1)))) == (255, 255, 255)
    assert first_pixel(open_rgb(saved(tmp_path / "l.bmp", Image.new("L", (2, 2), 77)))) == (77, 77, 77)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 12, 34, 56])
    assert first_pixel(open_rgb(saved(tmp_path / "p.png", palette))) == (12, 34, 56)


def test_cmyk_jpeg_comes_out_in_its_colours(tmp_path: Path) -> None:
    # No ink at all is white; only the first plate is cyan. Inverted planes would give black and red.
    white = saved(tmp_path / "white.jpg", Image.new("CMYK", (16, 16), (0, 0, 0, 0)), quality=95)
    cyan = saved(tmp_path / "cyan.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=95)
    assert min(first_pixel(open_rgb(white))) > 250
    red, green, blue = first_pixel(open_rgb(cyan))
    assert red < 10
    assert green > 245
    assert blue > 245


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile(name: str = "swap") -> bytes:
    """An RGB profile whose first channel is green and whose second is red; `name` replaces "sRGB" in its title."""
    profile = srgb_profile()
    profile = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_icc_profiles_are_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    path = saved(tmp_path / "a.png", image, icc_profile=swapped_profile())
    red, green, blue = first_pixel(open_rgb(path))
    assert (red, green, blue) == pytest.approx((0, 255, 0), abs=4)


@pytest.mark.parametrize("profile", [srgb_profile(), swapped_profile("sRGB")], ids=["sRGB", "called sRGB"])
def test_what_is_called_srgb_comes_through_bit_for_bit(tmp_path: Path, profile: bytes) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(16, 16)), icc_profile=profile)
    assert np.array_equal(np.asarray(open_rgb(path)), pattern(16, 16))


@pytest.mark.parametrize("profile", [b"not a profile", srgb_profile()[:200]], ids=["text", "cut off"])
def test_bad_profiles_are_ignored(tmp_path: Path, profile: bytes) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(8, 8)), icc_profile=profile)
    assert np.array_equal(np.asarray(open_rgb(path)), pattern(8, 8))


def test_a_profile_of_another_colour_space_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (4, 4), 90), icc_profile=srgb_profile())
    assert first_pixel(open_rgb(path)) == (90, 90, 90)
    path = saved(tmp_path / "b.png", Image.new("L", (4, 4), 90), icc_profile=swapped_profile())
    assert first_pixel(open_rgb(path)) == (90, 90, 90)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_animations_give_their_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert first_pixel(open_rgb(path)) == (255, 0, 0)


def test_avif_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.avif", Image.new("RGB", (32, 16), (200, 40, 40)), quality=100)
    assert picture_size(path) == (32, 16)
    assert first_pixel(open_rgb(path)) == pytest.approx((200, 40, 40), abs=6)


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 7)).save(path, format="JPEG")
    assert picture_size(path) == (5, 7)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_truncated_picture_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"cut{suffix}", Image.fromarray(pattern(64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadablePicture, match=rf"cut\{suffix}"):
        open_rgb(path)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_sizes_are_read_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of(640, 480))
    assert picture_size(path) == (640, 480)
    with pytest.raises(UnreadablePicture):
        open_rgb(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "not a PNG"),
        (png_of(60000, 60000), "bomb"),
        (b"\x89PNG\r\n\x1a\n\0\0", "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG"),
    ],
    ids=["empty", "text", "bomb", "header", "eps"],
)
def test_unreadable_files_say_why(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    for read in (picture_size, open_rgb):
        with pytest.raises(UnreadablePicture, match=rf"bad\.png: .*{reason}"):
            read(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePicture, match="No such file"):
        open_rgb(tmp_path / "gone.png")


# cv2.resize(pattern, size, interpolation=cv2.INTER_AREA), opencv-python-headless 5.0.0.
AREA_11X9_TO_5X4 = [
    [[81, 117, 124], [147, 108, 146], [133, 153, 98], [132, 128, 105], [81, 130, 186]],
    [[117, 101, 134], [117, 108, 142], [134, 124, 115], [119, 157, 133], [95, 102, 118]],
    [[166, 98, 131], [122, 130, 103], [141, 133, 107], [119, 147, 144], [158, 119, 100]],
    [[124, 170, 115], [134, 141, 125], [143, 150, 134], [111, 160, 115], [126, 169, 104]],
]
# Means 0.5, 3, 5.5 and 254.5: where both sides halve, OpenCV rounds halves up.
QUADS = [[0, 1, 2, 3], [1, 0, 3, 4], [5, 5, 254, 255], [6, 6, 255, 254]]
QUADS_HALVED = [[1, 3], [6, 255]]


def test_area_averaging_is_that_of_opencv() -> None:
    assert resize_area(pattern(11, 9), (5, 4)).tolist() == AREA_11X9_TO_5X4
    quads = np.array(QUADS, np.uint8)[..., None]
    assert resize_area(quads, (2, 2))[..., 0].tolist() == QUADS_HALVED


SIDES = st.integers(1, 24)


@given(SIDES, SIDES, SIDES, SIDES)
def test_area_averaging_keeps_the_mean_and_the_range(width: int, height: int, to_width: int, to_height: int) -> None:
    pixels = pattern(width, height)
    result = resize_area(pixels, (to_width, to_height))
    assert result.shape == (to_height, to_width, 3)
    assert result.min() >= pixels.min()
    assert result.max() <= pixels.max()
    assert abs(result.mean() - pixels.mean()) <= 0.5


@given(SIDES, SIDES, st.integers(1, 4), st.integers(1, 4))
def test_area_averaging_of_whole_blocks_is_their_mean(width: int, height: int, across: int, down: int) -> None:
    pixels = pattern(width * across, height * down)
    mean = pixels.reshape(height, down, width, across, 3).mean(axis=(1, 3))
    assert np.abs(resize_area(pixels, (width, height)) - mean).max() <= 0.5


def test_a_picture_of_the_size_of_its_bucket_is_untouched(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(64, 96)))
    pixels = training_pixels(path, Placement((64, 96), (64, 96), (0, 0), 0.0))
    assert np.array_equal(pixels, pattern(64, 96))
    pixels[0] = 0  # the caller's own memory, not Pillow's


def test_the_crop_is_where_the_placement_says(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(100, 64)))
    pixels = training_pixels(path, Placement((64, 64), (100, 64), (18, 0), 0.0))
    assert np.array_equal(pixels, pattern(100, 64)[:, 18:82])


def test_default_interpolation_shrinks_by_area_and_enlarges_by_lanczos(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(96, 64)))
    shrunk = training_pixels(path, Placement((32, 32), (48, 32), (8, 0), 0.0))
    assert np.array_equal(shrunk, resize_area(pattern(96, 64), (48, 32))[:, 8:40])
    enlarged = training_pixels(path, Placement((128, 128), (192, 128), (32, 0), 0.0))
    lanczos = Image.fromarray(pattern(96, 64)).resize((192, 128), Image.Resampling.LANCZOS)
    assert np.array_equal(enlarged, np.asarray(lanczos)[:, 32:160])


def test_interpolations_can_be_chosen_and_differ(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(96, 64)))
    placement = Placement((37, 37), (55, 37), (9, 0), 0.0)
    names = ("lanczos", "area", "bicubic", "bilinear", "nearest")
    results = {name: training_pixels(path, placement, interpolation=name) for name in names}
    assert {result.shape for result in results.values()} == {(37, 37, 3)}
    assert len({result.tobytes() for result in results.values()}) == len(names)
    chosen = DatasetSettings(train_data_dir=tmp_path, resize_interpolation="box").resize_interpolation
    assert training_pixels(path, placement, interpolation=chosen).shape == (37, 37, 3)


@given(st.integers(1, 90), st.integers(1, 90))
def test_every_placement_can_be_cut(tmp_path_factory: pytest.TempPathFactory, width: int, height: int) -> None:
    path = saved(tmp_path_factory.getbasetemp() / "any.bmp", Image.new("RGB", (width, height)))
    settings = DatasetSettings(
        train_data_dir=path, resolution=32, min_bucket_reso=32, max_bucket_reso=64, bucket_reso_steps=8
    )
    placement = place_image(picture_size(path), settings)
    assert training_pixels(path, placement).shape == (placement.bucket[1], placement.bucket[0], 3)


def test_a_picture_replaced_by_one_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (100, 60)))
    placement = place_image((60, 100), DatasetSettings(train_data_dir=tmp_path))
    with pytest.raises(LoratoryError, match=r"a\.png.*100x60"):
        training_pixels(path, placement)


def test_pixels_flatten_onto_the_background_before_resizing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGBA", (64, 64), (255, 0, 0, 0)))
    pixels = training_pixels(path, Placement((32, 32), (32, 32), (0, 0), 0.0), (4, 5, 6))
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[4, 5, 6]]


def test_nothing_is_read_after_opening(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pattern(8, 8)))
    image = open_rgb(path)
    path.write_bytes(b"replaced")
    assert np.array_equal(np.asarray(image), pattern(8, 8))
