"""Reading every picture a person may have, and refusing what is none, without a crash and without waiting."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import hostile_pictures as hostile
from loratory.imaging import reading
from loratory.imaging.opening import LARGEST_PX, UnreadablePicture
from loratory.imaging.pixels import READABLE_FORMATS, open_rgb, picture_size
from loratory.imaging.reading import flattened, peek, read_picture


@pytest.mark.parametrize("name", hostile.GOOD)
def test_unusual_pictures_are_read(tmp_path: Path, name: str) -> None:
    path = hostile.GOOD[name](tmp_path / name)
    picture, header = read_picture(path), peek(path)
    assert picture.pixels.mode in ("RGB", "RGBA")
    assert picture.pixels.size == picture.size == header.size
    told = ("format", "mode", "orientation", "frames", "has_profile")
    assert [getattr(picture, one) for one in told] == [getattr(header, one) for one in told]


@pytest.mark.parametrize("name", hostile.BAD)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    write, problem = hostile.BAD[name]
    path = write(tmp_path / name)
    if name == "forbidden.png" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    with pytest.raises(UnreadablePicture) as caught:
        read_picture(path)
    assert caught.value.problem == problem
    assert caught.value.reason
    assert caught.value.message == f"{path}: {caught.value.reason}"


@pytest.mark.parametrize("name", hostile.BAD)
def test_no_other_reader_crashes_or_waits(tmp_path: Path, name: str) -> None:
    path = hostile.BAD[name][0](tmp_path / name)
    for read in (peek, picture_size, open_rgb):
        try:
            read(path)
        except UnreadablePicture as error:
            assert error.problem


@pytest.mark.parametrize("name", [name for name in hostile.GOOD if not name.endswith(".tif")])
def test_it_is_the_picture_that_training_sees(tmp_path: Path, name: str) -> None:
    path = hostile.GOOD[name](tmp_path / name)
    flat = flattened(read_picture(path).pixels, (3, 200, 90))
    assert np.array_equal(np.asarray(flat), np.asarray(open_rgb(path, (3, 200, 90))))
    assert picture_size(path) == flat.size


@pytest.mark.parametrize("orientation", hostile.ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_pictures_are_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = np.array([[0, 60, 90], [120, 180, 240]], np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.repeat(np.repeat(corners, 8, 0), 8, 1)).convert("RGB").save(path, exif=exif, lossless=True)
    upright = {
        1: corners,
        2: corners[:, ::-1],
        3: corners[::-1, ::-1],
        4: corners[::-1],
        5: corners.T,
        6: corners[::-1].T,
        7: corners[::-1, ::-1].T,
        8: corners[:, ::-1].T,
    }[orientation]
    picture = read_picture(path)
    assert np.array_equal(np.asarray(picture.pixels)[::8, ::8, 0], upright)
    assert picture.orientation == orientation
    assert peek(path).size == picture.size == (8 * upright.shape[1], 8 * upright.shape[0])


def colours(path: Path) -> list[list[int]]:
    """The colours at the left and at the right end of the middle row."""
    levels = np.asarray(read_picture(path).pixels)
    middle = levels.shape[0] // 2
    return [levels[middle, 2].tolist(), levels[middle, -3].tolist()]


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk-profile.jpg", "cmyk.tif"])
def test_ink_becomes_light(tmp_path: Path, name: str) -> None:
    paper, cyan = colours(hostile.GOOD[name](tmp_path / name))
    assert min(paper) > 250
    assert cyan == pytest.approx([0, 255, 255], abs=8)


def test_sixteen_bits_and_floats_are_scaled(tmp_path: Path) -> None:
    rgb = np.asarray(read_picture(hostile.rgb_16_bit(tmp_path / "a.png")).pixels)
    ramp = np.linspace(0, 255, 64)
    assert np.abs(rgb[0, :, 0] - ramp).max() <= 1
    assert np.abs(rgb[0, :, 1] - ramp[::-1]).max() <= 1
    assert set(rgb[..., 2].ravel()) <= {127, 128}
    for path in (hostile.grey_16_bit(tmp_path / "g.png"), hostile.float_tiff(tmp_path / "f.tif")):
        grey = np.asarray(read_picture(path).pixels)[..., 1].ravel()
        assert np.abs(grey - np.linspace(0, 255, grey.size)).max() <= 0.51


@pytest.mark.parametrize(
    ("white", "shown"), [(0.5, 128), (1.0, 255), (200.0, 200), (255.0, 255), (65535.0, 255), (1e9, 255)]
)
def test_the_white_of_floats_is_guessed(tmp_path: Path, white: float, shown: int) -> None:
    levels = np.array([[0.0, np.nan], [np.inf, white]], np.float32)
    path = tmp_path / "a.tif"
    Image.fromarray(levels).save(path)
    assert np.asarray(read_picture(path).pixels)[..., 0].tolist() == [[0, 0], [0, shown]]


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(Image.new("RGB", (16, 16), (200, 60, 30)), srgb, lab, outputMode="LAB")
    assert stored is not None
    stored.save(tmp_path / "a.tif")
    assert colours(tmp_path / "a.tif")[0] == pytest.approx([200, 60, 30], abs=4)


@pytest.mark.parametrize("name", ["palette.png", "hidden.png", "hidden.webp"])
def test_transparency_is_kept_straight(tmp_path: Path, name: str) -> None:
    path = hostile.GOOD[name](tmp_path / name)
    picture = read_picture(path).pixels
    assert picture.mode == "RGBA"
    alpha = np.asarray(picture)[..., 3]
    assert (alpha[:, :30] == 0).all()
    assert (alpha[:, 34:] == 255).all()
    flat = np.asarray(flattened(picture, (1, 2, 3)))
    assert (flat[:, :30] == (1, 2, 3)).all()
    assert flat[4, -4].tolist() == pytest.approx([0, 0, 255], abs=4)


def test_an_alpha_channel_that_hides_nothing_is_dropped(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").pixels.mode == "RGB"


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_the_first_frame_is_taken_and_the_others_counted(tmp_path: Path, name: str) -> None:
    path = hostile.animated(tmp_path / name)
    picture = read_picture(path)
    assert picture.frames == 3
    assert picture.pixels.getpixel((5, 5)) == (255, 0, 0)


def test_a_cut_animation_still_gives_its_first_frame(tmp_path: Path) -> None:
    path = hostile.animated(tmp_path / "a.gif", frames=9)
    path.write_bytes(path.read_bytes()[:-40])
    assert read_picture(path).pixels.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".avif", ".tif"])
def test_wherever_a_file_is_cut_it_is_told_or_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    hostile.picture(40, 30).save(path)
    data, whole = path.read_bytes(), np.asarray(read_picture(path).pixels)
    told = 0
    for length in range(1, len(data), max(1, len(data) // 97)):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(np.asarray(read_picture(path).pixels), whole)
        except UnreadablePicture as error:
            told += 1
            assert error.problem in ("truncated", "damaged", "not-a-picture")
            assert _refusal_of_header(path) in ("", error.reason)
    assert told > 90


def _refusal_of_header(path: Path) -> str:
    try:
        peek(path)
    except UnreadablePicture as error:
        return error.reason
    return ""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".avif"])
def test_damage_anywhere_never_crashes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    hostile.picture(40, 30).save(path)
    data = path.read_bytes()
    chance = np.random.default_rng(4)
    problems: set[str] = set()
    for _ in range(80):
        damaged = bytearray(data)
        for place in chance.integers(0, len(data), 4):
            damaged[place] = chance.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            read_picture(path)
        except UnreadablePicture as error:
            problems.add(error.problem)
    assert problems


def test_the_limit_is_our_own_and_nothing_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    height = LARGEST_PX // 10_000
    path = hostile.png_claiming(tmp_path / "a.png", 10_000, height)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert peek(path).size == (10_000, height)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert peek(path).size == (10_000, height)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(UnreadablePicture, match="bomb"):
            peek(hostile.png_claiming(tmp_path / "b.png", 10_000, height + 1))


def test_profiles_are_told_and_converted(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    for name, data, foreign in (("own", profile, False), ("swap", swapped, True), ("bad", b"no profile", False)):
        path = tmp_path / f"{name}.png"
        Image.new("RGBA", (8, 8), (255, 0, 0, 90)).save(path, icc_profile=data)
        picture = read_picture(path)
        assert picture.has_profile == peek(path).has_profile == foreign
        assert picture.pixels.info == {}
        expected = (0, 255, 0, 90) if foreign else (255, 0, 0, 90)
        assert read_picture(path).pixels.getpixel((1, 1)) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_names_do_not_matter(tmp_path: Path, name: str) -> None:
    assert read_picture(hostile.named(tmp_path, name)).size == (40, 30)


@pytest.mark.parametrize(
    ("start", "package"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\xff\x0a" + bytes(30), "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a" + bytes(30), "pillow-jxl-plugin"),
    ],
    ids=["heic", "jxl", "jxl in boxes"],
)
def test_a_missing_plug_in_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, package: str
) -> None:
    monkeypatch.setattr(reading, "_formats", lambda: READABLE_FORMATS)
    path = tmp_path / "a.png"
    path.write_bytes(start)
    for read in (peek, read_picture):
        with pytest.raises(UnreadablePicture, match=package) as caught:
            read(path)
        assert caught.value.problem == "unreadable"


def test_pages_of_a_tiff_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in (9, 8)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    picture = read_picture(path)
    assert (picture.frames, picture.pixels.getpixel((0, 0))) == (2, (9, 0, 0))


def test_a_jpeg_full_of_fill_bytes_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    hostile.picture(40, 30).save(path)
    whole = np.asarray(read_picture(path).pixels)
    data = path.read_bytes()
    # Any number of FF may stand before a marker; before 00 they are data, of a file that then ends.
    path.write_bytes(data[:-2] + b"\xff" * 300_000 + data[-1:])
    assert np.array_equal(np.asarray(read_picture(path).pixels), whole)
    path.write_bytes(data[:-2] + b"\xff" * 300_000 + b"\x00")
    with pytest.raises(UnreadablePicture) as caught:
        read_picture(path)
    assert caught.value.problem == "truncated"


def test_a_file_of_terabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR")
    os.truncate(path, 1 << 40)
    with pytest.raises(UnreadablePicture, match="1100 GB") as caught:
        read_picture(path)
    assert caught.value.problem == "bomb"
