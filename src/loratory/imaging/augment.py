"""Small changes of colour, drawn anew at each visit of a picture."""

from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

# sd-scripts' figures: a third of the visits, half of them a turn of the hue, half a change of gamma.
_CHANCE = 0.33
_LARGEST_TURN_DEGREES = 16.0
_GAMMA = (0.95, 1.05)


@dataclass(frozen=True)
class ColourChange:
    """hue_degrees: turn of the colour wheel; 0 for none. gamma: exponent of the brightness; 1 for none."""

    hue_degrees: float = 0.0
    gamma: float = 1.0


def draw_colour_change(chance: Random) -> ColourChange | None:
    """What `color_aug` does to one visit; None two times of three."""
    if chance.random() > _CHANCE:
        return None
    if chance.random() > 0.5:
        return ColourChange(hue_degrees=chance.uniform(-_LARGEST_TURN_DEGREES, _LARGEST_TURN_DEGREES))
    return ColourChange(gamma=chance.uniform(*_GAMMA))


def change_colour(
    pixels: npt.NDArray[np.uint8], change: ColourChange, *, kohya_compatible: bool = False
) -> npt.NDArray[np.uint8]:
    """The picture, uint8 (h, w, 3), with its hue turned or its gamma changed.

    kohya_compatible: takes the power of 0 to 255 instead of 0 to 1, as sd-scripts does, which makes 128 into 163 and
    200 into 255 at gamma 1.05.
    """
    if change.gamma != 1.0:
        levels = np.arange(256, dtype=np.float64)
        table = levels**change.gamma if kohya_compatible else 255 * (levels / 255) ** change.gamma + 0.5
        return table.clip(0, 255).astype(np.uint8)[pixels]
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    turn = round(change.hue_degrees * 256 / 360) % 256
    hsv[..., 0] += np.uint8(turn)  # wraps around, as the colour wheel does
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
