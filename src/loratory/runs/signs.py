"""The sign of each state of a run, or of an entry in the queue: one for all places that show one."""

from typing import NamedTuple


class Sign(NamedTuple):
    """letter: in its place where a terminal has only ASCII."""

    glyph: str
    letter: str


_TO_COME = Sign("○", "o")
_GOES_ON = Sign("●", "*")
_ENDED_WELL = Sign("✓", "v")
_BROKEN_OFF = Sign("✗", "x")

# What `store.Liveness` and `queue.EntryState` name, and a run without a process yet, or whose folder is no more.
SIGNS = {
    "waiting": _TO_COME,
    "not started": _TO_COME,
    "starting": _TO_COME,
    "running": _GOES_ON,
    "paused": Sign("‖", "="),
    "silent": Sign("?", "?"),
    "done": _ENDED_WELL,
    "stopped": Sign("■", "#"),
    "failed": _BROKEN_OFF,
    "crashed": _BROKEN_OFF,
    "gone": _BROKEN_OFF,
}
