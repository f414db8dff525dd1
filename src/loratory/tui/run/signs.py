"""The states of a run as signs and words."""

from loratory.tui.text import ASCII, Glyphs

_SIGNS = {
    "starting": ("○", "o", "$text-accent"),
    "running": ("●", "*", "$text-success"),
    "paused": ("‖", "=", "$text-warning"),
    "done": ("✓", "v", "$text-success"),
    "stopped": ("■", "#", "$text-warning"),
    "failed": ("✗", "x", "$text-error"),
    "crashed": ("✗", "x", "$text-error"),
    "silent": ("?", "?", "$text-warning"),
    "not started": ("○", "o", "$text-warning"),
    "gone": ("✗", "x", "$text-error"),
}


def sign(state: str, glyphs: Glyphs) -> str:
    """The glyph and the word of a state."""
    glyph, letter, _ = _SIGNS[state]
    return f"{letter if glyphs is ASCII else glyph} {state}"


def colour_of(state: str) -> str:
    """The colour of a state's sign, as Textual names it."""
    return _SIGNS[state][2]
