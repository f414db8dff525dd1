"""Colour changes and masks."""

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import place_image
from loratory.imaging.augment import ColourChange, change_colour, draw_colour_change
from loratory.imaging.pixels import training_mask

GREYS = np.array([[[0] * 3, [128] * 3, [200] * 3, [255] * 3]], dtype=np.uint8)


def test_gamma_in_both_modes() -> None:
    change = ColourChange(gamma=1.05)
    assert change_colour(GREYS, change)[0, :, 0].tolist() == [0, 124, 198, 255]
    # sd-scripts takes the power of 0 to 255: everything from 196 up becomes white.
    assert change_colour(GREYS, change, kohya_compatible=True)[0, :, 0].tolist() == [0, 163, 255, 255]


def test_a_turn_of_the_hue_leaves_grey_alone_and_moves_colours() -> None:
    change = ColourChange(hue_degrees=15.0)
    assert np.array_equal(change_colour(GREYS, change), GREYS)
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    turned = change_colour(red, change)[0, 0].tolist()
    assert turned[0] == 255 and 50 < turned[1] < 80 and turned[2] == 0
    back = change_colour(red, ColourChange(hue_degrees=-15.0))[0, 0].tolist()
    assert back[0] == 255 and back[1] == 0 and 50 < back[2] < 80


def test_a_third_of_the_visits_is_changed() -> None:
    drawn = [draw_colour_change(Random(seed)) for seed in range(3000)]
    kinds = Counter(None if c is None else "gamma" if c.gamma != 1.0 else "hue" for c in drawn)
    assert kinds[None] == pytest.approx(2010, abs=120)
    assert kinds["gamma"] == pytest.approx(495, abs=80) and kinds["hue"] == pytest.approx(495, abs=80)
    changes = [change for change in drawn if change is not None]
    assert all(0.95 <= c.gamma <= 1.05 and abs(c.hue_degrees) <= 16 for c in changes)


@pytest.fixture
def settings() -> DatasetSettings:
    return DatasetSettings.model_validate(
        {"train_data_dir": "/a", "resolution": 64, "min_bucket_reso": 64, "max_bucket_reso": 64}
    )


def test_a_mask_follows_its_picture_into_the_bucket(tmp_path: Path, settings: DatasetSettings) -> None:
    """128x64 px into 64x64: the middle is cut out, and 8x8 px become one value."""
    rgba = np.zeros((64, 128, 4), dtype=np.uint8)
    rgba[:, :, 3] = 255
    rgba[:, :64, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "fox.png")
    placement = place_image((128, 64), settings)
    expected = np.concatenate([np.zeros((8, 4)), np.ones((8, 4))], axis=1)
    assert np.array_equal(training_mask(tmp_path / "fox.png", placement, alpha=True), expected)
    # The same as a mask picture of another size.
    Image.fromarray(rgba[::2, ::2, 3]).save(tmp_path / "mask.png")
    found = training_mask(tmp_path / "mask.png", placement, alpha=False)
    assert found is not None
    assert np.abs(found - expected).max() < 0.01


def test_a_picture_without_transparency_has_no_mask(tmp_path: Path, settings: DatasetSettings) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "fox.png")
    assert training_mask(tmp_path / "fox.png", place_image((64, 64), settings), alpha=True) is None
