"""What colours are called before the word "background"."""

import numpy as np
import numpy.typing as npt


def colour_name(rgb: tuple[int, int, int]) -> str:
    """The word that goes before "background", from how a colour looks (CIELAB); "" for pale tints such as cream, which
    people call by many names.

    One of white, black, grey, blue, green, red, yellow, purple, pink, orange, brown.
    """
    lightness, a, b = (float(value) for value in _lab(np.asarray([rgb], np.float32))[0])
    chroma, hue = float(np.hypot(a, b)), float(np.degrees(np.arctan2(b, a)) % 360)
    if (lightness <= 14 and chroma <= 16) or lightness <= 6:
        return "black"
    if lightness >= 93 and chroma <= 6:
        return "white"
    if chroma <= (8 if lightness < 88 else 4):
        return "grey"
    if lightness >= 88 and chroma <= 16:
        return ""
    return _hue_name(lightness, chroma, hue)


def _hue_name(lightness: float, chroma: float, hue: float) -> str:
    """The name of a colour that is none of white, grey and black; hue in degrees of CIELAB: 40 is sRGB's red, 103 its
    yellow, 136 green, 306 blue."""
    if hue < 50 or hue >= 345:
        if lightness >= 62 or ((hue >= 345 or hue < 18) and lightness >= 52):
            return "pink" if hue < 45 or hue >= 345 else "orange"
        return "brown" if lightness < 45 and chroma < 38 and 25 <= hue < 50 else "red"
    if hue < 82:
        if lightness < 62 and chroma < 62:
            return "brown"
        return "orange" if chroma >= 38 else ""
    if hue < 112:
        if lightness < 55:
            return "brown" if hue < 95 else "green"
        return "yellow" if chroma >= 30 else ""
    if hue < 190:
        return "green"
    if hue < 298 or (hue < 308 and chroma > 70):
        return "blue"
    return "pink" if hue >= 320 and lightness >= 60 else "purple"


def _lab(rgb: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """sRGB levels (n, 3) as CIELAB (D65): L 0 to 100, a and b about -100 to 100."""
    share = rgb.astype(np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
