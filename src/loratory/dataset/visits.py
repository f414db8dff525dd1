"""The unit of training order."""

from typing import NamedTuple


class Visit(NamedTuple):
    """One look at one picture in one epoch. image: index into the pictures trained; repeat: tells the visits of a
    picture in one epoch apart, from 0 to its repeats - 1."""

    image: int
    repeat: int
