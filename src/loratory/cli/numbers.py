"""Numbers on the command line."""

from math import isfinite
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN is in none of them, though no comparison says so, and infinity is no number to type."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number
