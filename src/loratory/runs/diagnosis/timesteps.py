"""What loss is usual at a timestep: most of the movement of the raw loss comes from the timesteps that were drawn.

The logarithm of the loss is a piecewise linear curve over the timesteps, learned as it goes: a Kalman filter whose
prior is a smooth curve, so that stretches with few values yet lean on their neighbours, and whose curve may drift
slowly, as that of a model that learns does.
"""

import math

import numpy as np

TIMESTEPS = 1000
# Knots lie closer together near timestep 0, where the loss falls fastest: at 999 (k / 23)^2.
_KNOTS = 24
# The curve forgets: a lasting change of the loss is taken for usual after about this many values.
MEMORY = 500
# In units of the noise: how far the level, and the curve around it, may lie from what nobody has seen.
_LEVEL_PRIOR, _CURVE_PRIOR, _CURVE_REACH = 40.0, 5.0, 3.0
# A value further off than this many deviations counts as one that far: one bad picture must not bend the curve.
_FURTHEST = 3.0
# Standard deviation of the logarithm before anything is known, and how many values that guess is worth.
_FIRST_DEVIATION, _GUESS_WORTH = 0.3, 20


class TimestepNorm:
    """The usual loss at each timestep, from the losses seen so far. About 12 microseconds a value, in fixed memory.

    Usual means the geometric mean. Values that are not positive and finite are never learned.
    """

    def __init__(self) -> None:
        index = np.arange(_KNOTS)
        curve = np.exp(-((index[:, None] - index[None, :]) ** 2) / (2 * _CURVE_REACH**2)) + 1e-6 * np.eye(_KNOTS)
        self._mean = np.zeros(_KNOTS)
        # Everything below is in units of the noise's variance, which is estimated apart.
        self._covariance = _LEVEL_PRIOR**2 + _CURVE_PRIOR**2 * curve
        self._drift = (1.0 + curve) / MEMORY**2
        self._variance = _FIRST_DEVIATION**2
        self._count = 0

    @property
    def count(self) -> int:
        """Values learned so far."""
        return self._count

    @property
    def deviation(self) -> float:
        """Standard deviation of the logarithm of the normalised loss: 0.2 is about 20 %."""
        return math.sqrt(self._variance)

    @property
    def level(self) -> float:
        """Mean logarithm of the usual loss over the curve: falls as the model learns, whatever timesteps are drawn."""
        return float(self._mean.mean())

    def add(self, timestep: int, loss: float) -> float:
        """Learns a loss and returns it relative to the usual one at its timestep: 1.0 is as usual, 2.0 twice that.

        While little is known the result stays near 1. NaN for a loss that is NaN, infinite or negative, 0 for 0.
        """
        if not 0.0 < loss < math.inf:
            return loss if loss == 0.0 else math.nan
        knot, share = _place(timestep)
        gain = (1 - share) * self._covariance[knot] + share * self._covariance[knot + 1]
        spread = 1.0 + (1 - share) * float(gain[knot]) + share * float(gain[knot + 1])
        surprise = math.log(loss) - self._expected_log(knot, share)
        limit = _FURTHEST * math.sqrt(self._variance * spread)
        # The first value sets the level, however far off it is.
        taken = surprise if self._count == 0 else min(max(surprise, -limit), limit)
        self._mean += gain * (taken / spread)
        self._covariance -= gain[:, None] * (gain[None, :] / spread)
        self._covariance += self._drift
        if self._count > 0:
            weight = 1.0 / min(self._count + _GUESS_WORTH, MEMORY)
            self._variance += weight * (taken * taken / spread - self._variance)
            self._variance = max(self._variance, 1e-12)  # pictures without noise are possible in principle
        self._count += 1
        return _exp(surprise - taken * (spread - 1) / spread)

    def move(self, factor: float) -> None:
        """Takes `factor` times the usual loss for usual from now on, at all timesteps."""
        self._mean += math.log(factor)

    def expected(self, timestep: int) -> float:
        """The usual loss at a timestep; 1 before anything was learned."""
        return _exp(self._expected_log(*_place(timestep)))

    def z(self, timestep: int, loss: float) -> float:
        """How many standard deviations the logarithm of a loss is from the usual one, what is not known counted in.

        NaN for a loss that is not positive and finite.
        """
        if not 0.0 < loss < math.inf:
            return math.nan
        knot, share = _place(timestep)
        gain = (1 - share) * self._covariance[knot] + share * self._covariance[knot + 1]
        spread = 1.0 + (1 - share) * float(gain[knot]) + share * float(gain[knot + 1])
        return (math.log(loss) - self._expected_log(knot, share)) / math.sqrt(self._variance * spread)

    def band(self, samples: int = 1) -> tuple[float, float]:
        """Between which normalised losses 95 of 100 lie; of `samples` averaged, for the mean of a batch."""
        half = 1.96 * self.deviation / math.sqrt(max(samples, 1))
        return _exp(-half), _exp(half)

    def _expected_log(self, knot: int, share: float) -> float:
        return (1 - share) * float(self._mean[knot]) + share * float(self._mean[knot + 1])


def _place(timestep: int) -> tuple[int, float]:
    """The knot before a timestep, and how far on the way to the next one it lies, 0 to 1."""
    inside = min(max(timestep, 0), TIMESTEPS - 1)
    position = math.sqrt(inside / (TIMESTEPS - 1)) * (_KNOTS - 1)
    knot = min(int(position), _KNOTS - 2)
    start, end = knot * knot, (knot + 1) * (knot + 1)
    return knot, (inside / (TIMESTEPS - 1) * (_KNOTS - 1) ** 2 - start) / (end - start)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))
