"""Near-duplicates, repeated overlays and groups of one style, on pictures made here."""

import io
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from loratory.imaging import overlays as overlays_module
from loratory.imaging.facts import PictureFacts
from loratory.imaging.similarity import (
    hashes,
    near_duplicates,
    repeated_overlays,
    style,
    style_clusters,
    thumbnail,
)
from loratory.imaging.stars import stars


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of some coloured shapes on soft colours, unlike any of another seed."""
    chance = np.random.default_rng(seed)
    cells = Image.fromarray(chance.integers(0, 256, (6, 7, 3), np.uint8))
    # Cells of every size, beginning anywhere: a common grid would be something that all have at the same place.
    part = (*chance.uniform(0, 2, 2), *chance.uniform(4, 6, 2))
    picture = cells.resize(size, Image.Resampling.BICUBIC, box=part)
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        left, top = (int(chance.integers(0, side)) for side in size)
        width, height = (int(value) for value in chance.integers(15, 90, 2))
        colour = tuple(int(value) for value in chance.integers(0, 256, 3))
        (draw.ellipse if chance.random() < 0.5 else draw.rectangle)(
            (left, top, left + width, top + height), fill=colour
        )
    return picture


def facts_about(picture: Image.Image) -> PictureFacts:
    rgb = np.asarray(picture.convert("RGB"))
    squeezed = thumbnail(rgb)
    hash_, mirrored_hash = hashes(np.frombuffer(squeezed, np.uint8).reshape(64, 64))
    digest = blake2b(rgb.tobytes() + bytes(str(picture.size), "ascii")).hexdigest()
    return PictureFacts(
        size_bytes=1, digest=digest, hash=hash_, mirrored_hash=mirrored_hash, thumbnail=squeezed, style=style(rgb)
    )


def recompressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


def cropped(picture: Image.Image, share: float = 0.03) -> Image.Image:
    width, height = picture.size
    sides = width * share, height * share, width * (1 - share), height * (1 - share)
    return picture.crop(tuple(round(side) for side in sides))  # pyright: ignore[reportArgumentType]


def captioned(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    ImageDraw.Draw(picture).text((20, 215), "words below", fill="white")
    return picture


def unchanged(picture: Image.Image) -> Image.Image:
    return picture


def halved(picture: Image.Image) -> Image.Image:
    return picture.resize((160, 120))


def squeezed(picture: Image.Image) -> Image.Image:
    return picture.resize((300, 300))


def brighter(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(1.2)


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": recompressed,
    "half the size": halved,
    "another shape": squeezed,
    "cropped": cropped,
    "brighter": brighter,
    "captioned": captioned,
}
SCENES = [facts_about(scene(seed)) for seed in range(60)]


@given(st.integers(0, 10**9))
def test_the_mirrored_hash_is_the_hash_of_the_mirror_image(seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)
    hash_, mirrored = hashes(grey)
    again, back = hashes(grey[:, ::-1])

    assert 0 <= hash_ < 2**64
    assert (mirrored, hash_) == (again, back)


def test_different_pictures_are_in_no_group() -> None:
    assert near_duplicates(SCENES) == []
    assert near_duplicates([]) == []
    assert near_duplicates(SCENES[:1]) == []


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_copy_is_found(name: str) -> None:
    copies = [facts_about(ALTERED[name](scene(seed))) for seed in range(20)]
    groups = near_duplicates([*SCENES, *copies])

    assert [(group.kind, group.members) for group in groups] == [("similar", (seed, 60 + seed)) for seed in range(20)]
    assert all(group.distance <= 20 for group in groups)


@pytest.mark.parametrize("alter", [unchanged, cropped])
def test_a_mirrored_copy_is_found(alter: Callable[[Image.Image], Image.Image]) -> None:
    copies = [facts_about(alter(scene(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT))) for seed in range(20)]
    groups = near_duplicates([*SCENES, *copies])

    assert [(group.kind, group.members) for group in groups] == [("mirrored", (seed, 60 + seed)) for seed in range(20)]


def test_the_same_bytes_are_one_group_and_compared_once() -> None:
    first, other = SCENES[0], facts_about(recompressed(scene(0)))
    groups = near_duplicates([first, SCENES[1], first, other])

    assert [(group.kind, group.members) for group in groups] == [("same", (0, 2)), ("similar", (0, 3))]


def test_a_symmetrical_picture_is_not_its_own_mirror_image() -> None:
    half = scene(3, (160, 240))
    whole = Image.new("RGB", (320, 240))
    whole.paste(half, (0, 0))
    whole.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (160, 0))
    groups = near_duplicates([facts_about(whole), facts_about(recompressed(whole))])

    assert [(group.kind, group.members) for group in groups] == [("similar", (0, 1))]


def test_flat_pictures_do_not_match_each_other() -> None:
    chance = np.random.default_rng(1)
    flat = [
        facts_about(Image.fromarray(np.clip(level + chance.normal(0, 2, (240, 320, 3)), 0, 255).astype(np.uint8)))
        for level in range(20, 240, 10)
    ]
    assert near_duplicates(flat) == []


def test_unreadable_pictures_are_left_out() -> None:
    broken = PictureFacts(size_bytes=0, digest="", problem="empty")

    assert near_duplicates([broken, SCENES[0], broken]) == []
    assert repeated_overlays([broken] * 9) == []
    assert style_clusters([broken] * 9) == []


def test_a_series_of_small_changes_is_not_one_group() -> None:
    steps = 30
    start, end = scene(1), scene(2)
    series = [facts_about(Image.blend(start, end, step / (steps - 1))) for step in range(steps)]
    groups = near_duplicates(series)

    assert len(groups) > 1
    assert not any({0, steps - 1} <= set(group.members) for group in groups)


def test_stars_take_the_neighbours_of_the_best_connected_first() -> None:
    def groups(*pairs: tuple[int, int], count: int = 6) -> list[tuple[int, ...]]:
        return stars(np.array(pairs, np.intp).reshape(-1, 2), count)

    assert groups((0, 1), (1, 2), (2, 3), (4, 2)) == [(2, 1, 3, 4)]
    assert groups((0, 1), (2, 1), (2, 3)) == [(1, 0, 2)]
    assert groups((5, 4), (0, 3), (0, 2), (1, 0)) == [(0, 1, 2, 3), (4, 5)]
    assert groups() == groups(count=0) == []


def test_hundreds_of_frames_of_one_scene_are_one_group() -> None:
    chance, still = np.random.default_rng(0), np.asarray(scene(3))
    frames = [
        Image.fromarray((still + chance.integers(0, 4, still.shape[:2])[..., None]).clip(0, 255).astype(np.uint8))
        for _ in range(20)
    ]
    twenty = [facts_about(frame) for frame in frames]
    frames_of_it = [replace(twenty[number % 20], digest=str(number)) for number in range(300)]

    (group,) = near_duplicates(frames_of_it)
    assert (group.kind, group.members) == ("similar", tuple(range(300)))


def with_logo(seed: int) -> PictureFacts:
    picture = scene(seed)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((250, 10, 310, 70), fill=(220, 30, 30))
    draw.polygon([(265, 60), (280, 15), (295, 60)], fill=(255, 255, 255))
    return facts_about(picture)


@pytest.mark.parametrize("count", [12, 30])
def test_a_logo_in_many_pictures_is_found_where_it_is(count: int) -> None:
    marked = [with_logo(seed) for seed in range(count)]
    (found,) = repeated_overlays([*marked, *SCENES[count:]])

    left, top, right, bottom = found.box
    assert left <= 265 / 320 <= 295 / 320 <= right
    assert left >= 0.6
    assert top <= 20 / 240 < 60 / 240 <= bottom <= 0.5
    assert len(found.members) >= 0.7 * count
    assert len([member for member in found.members if member >= count]) <= 1


def test_clean_sets_have_no_overlays() -> None:
    assert repeated_overlays(SCENES) == []
    assert repeated_overlays(SCENES[:8]) == []
    assert repeated_overlays(SCENES[:2]) == []


def test_copies_of_one_picture_are_no_overlay() -> None:
    copies = [facts_about(ImageEnhance.Brightness(scene(1)).enhance(1 + step / 50)) for step in range(10)]

    assert repeated_overlays([*copies, *SCENES[10:30]]) == []


def test_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays_module, "_MOST", 20)
    (found,) = repeated_overlays([with_logo(seed) for seed in range(60)])

    assert 10 <= len(found.members) <= 20


def test_pictures_of_one_style_are_a_group() -> None:
    chance = np.random.default_rng(1)
    soft = [facts_about(Image.effect_noise((256, 256), 30 + int(chance.integers(3))).convert("RGB")) for _ in range(5)]
    flat = [facts_about(scene(seed, (256, 256)).quantize(6).convert("RGB")) for seed in range(1)] * 3
    flat = [replace(each, digest=str(number)) for number, each in enumerate(flat)]

    assert style_clusters([*soft, *flat]) == [(0, 1, 2, 3, 4), (5, 6, 7)]
    assert style_clusters([soft[0], flat[0]]) == []


def test_style_of_odd_pictures_is_within_bounds() -> None:
    for size in ((1, 1), (4, 300), (256, 1)):
        values = style(np.zeros((size[1], size[0], 3), np.uint8))
        assert all(0 <= value <= 1 for value in values)
