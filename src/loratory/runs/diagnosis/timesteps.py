"""What loss is usual at a timestep: most of the movement of the raw loss comes from the timesteps that were drawn.

The logarithm of the loss is a piecewise linear curve over the timesteps, learned as it goes: a Kalman filter whose
prior is a smooth curve, so that stretches with few values yet lean on their neighbours, and whose curve may drift
slowly, as that of a model that learns does.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from loratory.runs.events import Step

Floats = NDArray[np.float64]

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
    """The usual loss at each timestep, from the losses seen so far. A few microseconds a value, in fixed memory.

    Usual means the geometric mean. Values that are not positive and finite are never learned.
    """

    def __init__(self) -> None:
        index = np.arange(_KNOTS)
        curve = np.exp(-((index[:, None] - index[None, :]) ** 2) / (2 * _CURVE_REACH**2)) + 1e-6 * np.eye(_KNOTS)
        # A row for each knot with its covariances, in units of the noise's variance, which is estimated apart; then one
        # with the means. One product with a place's weights gives all that there is to know of the place.
        self._state = np.zeros((_KNOTS + 1, _KNOTS))
        self._state[:_KNOTS] = _LEVEL_PRIOR**2 + _CURVE_PRIOR**2 * curve
        self._drift = np.zeros_like(self._state)
        self._drift[:_KNOTS] = (1.0 + curve) / MEMORY**2
        self._variance = _FIRST_DEVIATION**2
        self._count = 0
        self._learned: Step | None = None
        self._losses: list[float] = []

    def copy(self) -> "TimestepNorm":
        """Another one that knows the same."""
        other = TimestepNorm()
        other._state[:] = self._state
        other._variance, other._count = self._variance, self._count
        return other

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
        return float(self._state[_KNOTS].mean())

    def learn(self, step: Step) -> list[float]:
        """Learns the losses of a step and returns them as `add` does.

        Asked again for the very same step, it only returns them: two who follow one run can share what is learned.
        """
        if step is not self._learned:
            self._losses = [self.add(sample.timestep, sample.loss) for sample in step.samples]
            self._learned = step
        return self._losses

    def add(self, timestep: int, loss: float) -> float:
        """Learns a loss and returns it relative to the usual one at its timestep: 1.0 is as usual, 2.0 twice that.

        While little is known the result stays near 1. NaN for a loss that is NaN, infinite or negative, 0 for 0.
        """
        if not 0.0 < loss < math.inf:
            return loss if loss == 0.0 else math.nan
        known, spread, expected = self._at(timestep)
        surprise = math.log(loss) - expected
        limit = _FURTHEST * math.sqrt(self._variance * spread)
        taken = surprise
        if abs(surprise) > limit and self._count > 0:  # the first value sets the level, however far off it is
            taken = math.copysign(limit, surprise)
        known[_KNOTS] = -taken
        gain = known[:_KNOTS] * (-1 / spread)
        self._state += known[:, None].dot(gain[None, :])
        self._state += self._drift
        if self._count > 0:
            weight = 1.0 / min(self._count + _GUESS_WORTH, MEMORY)
            self._variance += weight * (taken * taken / spread - self._variance)
            self._variance = max(self._variance, 1e-12)  # pictures without noise are possible in principle
        self._count += 1
        return _exp(surprise - taken * (spread - 1) / spread)

    def move(self, factor: float) -> None:
        """Takes `factor` times the usual loss for usual from now on, at all timesteps."""
        self._state[_KNOTS] += math.log(factor)

    def expected(self, timestep: int) -> float:
        """The usual loss at a timestep; 1 before anything was learned."""
        return _exp(self._at(timestep)[2])

    def z(self, timestep: int, loss: float) -> float:
        """How many standard deviations the logarithm of a loss is from the usual one, what is not known counted in.

        NaN for a loss that is not positive and finite.
        """
        if not 0.0 < loss < math.inf:
            return math.nan
        _, spread, expected = self._at(timestep)
        return (math.log(loss) - expected) / math.sqrt(self._variance * spread)

    def band(self, samples: int = 1) -> tuple[float, float]:
        """Between which normalised losses 95 of 100 lie; of `samples` averaged, for the mean of a batch."""
        half = 1.96 * self.deviation / math.sqrt(max(samples, 1))
        return _exp(-half), _exp(half)

    def _at(self, timestep: int) -> tuple[Floats, float, float]:
        """Of a timestep: its covariances with the knots and its mean, the variance of a value there, and that mean."""
        knot, share, weights = _places()[min(max(timestep, 0), TIMESTEPS - 1)]
        known = self._state.dot(weights)
        spread = 1.0 + (1 - share) * known.item(knot) + share * known.item(knot + 1)
        return known, spread, known.item(_KNOTS)


@cache
def _places() -> list[tuple[int, float, Floats]]:
    """Of each timestep the knot before it, how far on the way to the next it lies, and both as weights of all knots."""
    places: list[tuple[int, float, Floats]] = []
    for timestep in range(TIMESTEPS):
        knot, share = _place(timestep)
        weights = np.zeros(_KNOTS)
        weights[knot], weights[knot + 1] = 1 - share, share
        places.append((knot, share, weights))
    return places


def _place(timestep: int) -> tuple[int, float]:
    """The knot before a timestep, and how far on the way to the next one it lies, 0 to 1."""
    position = math.sqrt(timestep / (TIMESTEPS - 1)) * (_KNOTS - 1)
    knot = min(int(position), _KNOTS - 2)
    start, end = knot * knot, (knot + 1) * (knot + 1)
    return knot, (timestep / (TIMESTEPS - 1) * (_KNOTS - 1) ** 2 - start) / (end - start)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))
