"""What tells two pictures apart or alike, computed from a small copy of one: hashes and a thumbnail."""

import numpy as np
import numpy.typing as npt
from PIL import Image

# The side of a thumbnail, in px.
SIDE_PX = 64
_BITS = 64


def thumbnail(rgb: npt.NDArray[np.uint8]) -> bytes:
    """The whole picture, uint8 (h, w, 3), squeezed to 64x64 grey levels, row by row."""
    return Image.fromarray(rgb).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX).tobytes()


def hashes(grey: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """The perceptual hashes, 0 to 2**64 - 1, of a picture and of its mirror image.

    grey: uint8 (64, 64), a `thumbnail`. The signs of its 64 slowest cosine waves (DCT-II, those of the least sum of
    both frequencies but the constant one) against their median: what survives resizing, compression and a change of
    brightness. Mirroring turns the sign of every wave of an odd frequency across. The number of differing bits is the
    distance of two pictures; flat pictures have hashes of noise.
    """
    waves = (_COSINES @ (grey.astype(np.float64) - grey.mean()) @ _COSINES.T)[_DOWN, _ACROSS]
    mirrored = np.where(_ACROSS % 2 == 1, -waves, waves)
    return _bits(waves), _bits(mirrored)


def _bits(waves: npt.NDArray[np.float64]) -> int:
    # A little above it: waves that a symmetrical picture lacks, but for noise, fall to the same side in every copy.
    least = np.median(waves) + 0.05 * np.abs(waves).mean()
    return int.from_bytes(np.packbits(waves > least).tobytes(), "big")


def _cosines(count: int) -> npt.NDArray[np.float64]:
    """The DCT-II waves of frequency 0 to count - 1: (count, 64)."""
    return np.cos(np.pi * np.outer(np.arange(count), 2 * np.arange(SIDE_PX) + 1) / (2 * SIDE_PX))


def _slowest(count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    ranked = sorted((down + across, down, across) for down in range(12) for across in range(12))[1 : count + 1]
    return np.array([down for _, down, _ in ranked]), np.array([across for _, _, across in ranked])


_DOWN, _ACROSS = _slowest(_BITS)
_COSINES = _cosines(12)
