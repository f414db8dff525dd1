"""The states of a run as signs, words and colours."""

from loratory.runs.signs import SIGNS
from loratory.tui.text import ASCII, Glyphs

_COLOURS = {
    "starting": "$text-accent",
    "running": "$text-success",
    "done": "$text-success",
    "failed": "$text-error",
    "crashed": "$text-error",
    "gone": "$text-error",
}


def sign(state: str, glyphs: Glyphs) -> str:
    """The glyph and the word of a state."""
    glyph, letter = SIGNS[state]
    return f"{letter if glyphs is ASCII else glyph} {state}"


def colour_of(state: str) -> str:
    """The colour of a state's sign, as Textual names it."""
    return _COLOURS.get(state, "$text-warning")
