"""Buckets against the figures of sd-scripts' own functions, and what must hold for any picture."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import kohya_crop_top_left, make_buckets, place_image, widened_to_bucket
from loratory.errors import LoratoryError

FIGURES = json.loads((Path(__file__).parent / "data" / "buckets.json").read_text())
SIZES = st.tuples(st.integers(1, 6000), st.integers(1, 6000))


def dataset_settings(**settings: Any) -> DatasetSettings:
    return DatasetSettings(train_data_dir=Path("unused"), **settings)


def settings_of(config: dict[str, Any]) -> DatasetSettings:
    return dataset_settings(
        resolution=config["resolution"],
        min_bucket_reso=config["min_bucket_reso"],
        max_bucket_reso=config["max_bucket_reso"],
        bucket_reso_steps=config["bucket_reso_steps"],
    )


def config_name(config: dict[str, Any]) -> str:
    return "{resolution}-{min_bucket_reso}-{max_bucket_reso}-{bucket_reso_steps}".format(**config)


@pytest.mark.parametrize("config", FIGURES["configs"], ids=config_name)
def test_buckets_are_those_of_sd_scripts(config: dict[str, Any]) -> None:
    side = config["resolution"]
    buckets = make_buckets(
        (side, side), config["min_bucket_reso"], config["max_bucket_reso"], config["bucket_reso_steps"]
    )
    assert [list(bucket) for bucket in buckets] == config["buckets"]


@pytest.mark.parametrize("config", FIGURES["configs"], ids=config_name)
def test_placements_are_those_of_sd_scripts(config: dict[str, Any]) -> None:
    settings = settings_of(config)
    rows = [place_image((width, height), settings) for width, height in FIGURES["sizes"]]
    assert [[*row.bucket, *row.resized, row.ar_error] for row in rows] == config["rows"]


def test_figures_cover_what_they_claim() -> None:
    assert len(FIGURES["configs"]) == 7
    assert {len(config["rows"]) for config in FIGURES["configs"]} == {len(FIGURES["sizes"])} == {200}


@given(SIZES, st.booleans(), st.booleans())
def test_the_cut_lies_inside_the_resized_picture(size: tuple[int, int], enable_bucket: bool, no_upscale: bool) -> None:
    placement = place_image(size, dataset_settings(enable_bucket=enable_bucket, bucket_no_upscale=no_upscale))
    for resized, bucket, start in zip(placement.resized, placement.bucket, placement.crop_left_top, strict=True):
        assert bucket > 0
        assert 0 <= start <= resized - bucket
        assert abs(resized - bucket - 2 * start) <= 1


@given(SIZES)
def test_resizing_keeps_the_proportions(size: tuple[int, int]) -> None:
    (width, height), (new_width, new_height) = size, place_image(size, dataset_settings()).resized
    assert abs(new_width * height - new_height * width) <= (width + height) / 2 + 1e-6 * width * height


@given(SIZES)
def test_one_fixed_bucket_when_buckets_are_off(size: tuple[int, int]) -> None:
    placement = place_image(size, dataset_settings(enable_bucket=False, resolution=[640, 384]))
    assert placement.bucket == (640, 384)
    assert placement.resized[0] == 640 or placement.resized[1] == 384


def test_the_cut_is_at_the_centre_of_the_resized_picture() -> None:
    placement = place_image((1920, 1080), dataset_settings(enable_bucket=False, resolution=1024))
    assert placement.resized == (1820, 1024)
    assert placement.crop_left_top == (398, 0)
    placement = place_image((1000, 1500), dataset_settings(enable_bucket=False, resolution=[832, 1216]))
    assert placement.resized == (832, 1248)
    assert placement.crop_left_top == (0, 16)


@pytest.mark.parametrize(
    ("size", "bucket", "top_left"),
    [((1920, 1080), (1024, 1024), (224, 0)), ((1000, 1500), (832, 1216), (0, 10))],
)
def test_kohya_crop_is_the_contain_arithmetic(
    size: tuple[int, int], bucket: tuple[int, int], top_left: tuple[int, int]
) -> None:
    assert kohya_crop_top_left(size, bucket) == top_left


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        # No larger than the area: the size is kept and cut to steps.
        ((500, 500), (448, 448), (500, 500)),
        ((100, 130), (64, 128), (100, 130)),
        ((512, 512), (512, 512), (512, 512)),
        # Larger: by hand, the ideal 682.67x384 gives 640x(384->360) by width, 682x384 by height; height errs
        # less.
        ((1920, 1080), (640, 384), (683, 384)),
        # Ideal 362.04x724.08: width 320 gives 640 (aspect 0.5, no error), and so does height 704 (352 -> 320,
        # worse).
        ((1000, 2000), (320, 640), (320, 640)),
        # Ideal 455.28x575.79: the height counts as 576, because it is rounded before it is cut to steps.
        ((680, 860), (448, 576), (455, 576)),
    ],
)
def test_no_upscale_by_hand(size: tuple[int, int], bucket: tuple[int, int], resized: tuple[int, int]) -> None:
    placement = place_image(size, dataset_settings(bucket_no_upscale=True))
    assert (placement.bucket, placement.resized) == (bucket, resized)


@given(st.tuples(st.integers(64, 4000), st.integers(64, 4000)))
def test_no_upscale_never_enlarges(size: tuple[int, int]) -> None:
    # Narrower than 1:16, shrinking to the area would leave less than one step.
    if max(size) > 12 * min(size):
        size = (min(size), min(size) * 12) if size[0] < size[1] else (min(size) * 12, min(size))
    placement = place_image(size, dataset_settings(bucket_no_upscale=True))
    assert placement.resized[0] <= size[0]
    assert placement.resized[1] <= size[1]
    assert placement.bucket[0] * placement.bucket[1] <= 512 * 512
    assert placement.bucket[0] % 64 == placement.bucket[1] % 64 == 0


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        ((50, 300), (64, 384), (64, 384)),
        ((1, 1), (64, 64), (64, 64)),
        ((3000, 10), (4096, 64), (19200, 64)),
        ((20000, 70), (4096, 64), (18286, 64)),
    ],
)
def test_no_upscale_enlarges_only_what_is_smaller_than_a_step(
    size: tuple[int, int], bucket: tuple[int, int], resized: tuple[int, int]
) -> None:
    placement = place_image(size, dataset_settings(bucket_no_upscale=True))
    assert (placement.bucket, placement.resized) == (bucket, resized)


def test_limits_are_rounded_to_steps() -> None:
    assert make_buckets((512, 512), 300, 1000, 64) == make_buckets((512, 512), 256, 1024, 64)


def test_no_room_for_one_step_is_an_error_that_names_the_keys() -> None:
    with pytest.raises(LoratoryError, match=r"resolution = 40x40.*bucket_reso_steps = 64"):
        make_buckets((40, 40), 32, 64, 64)


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([256, 512, 1024]),
)
def test_a_box_widened_to_its_bucket_holds_the_box_within_the_picture(
    size: tuple[int, int], shares: tuple[float, float, float, float], side: int
) -> None:
    settings = dataset_settings(resolution=side)
    width, height = size
    left, right = sorted((int(shares[0] * (width - 1)), int(shares[1] * (width - 1))))
    top, bottom = sorted((int(shares[2] * (height - 1)), int(shares[3] * (height - 1))))
    box = (left, top, right + 1, bottom + 1)
    wide = widened_to_bucket(box, size, settings)
    assert 0 <= wide[0] <= box[0] and box[2] <= wide[2] <= width
    assert 0 <= wide[1] <= box[1] and box[3] <= wide[3] <= height
