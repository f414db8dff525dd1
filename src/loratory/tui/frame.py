"""The lines around every pane: its title, what was told, the keys that matter."""

from collections.abc import Collection

from rich.cells import cell_len
from textual.content import Content

from loratory.tui.keys import PANES, Keymap
from loratory.tui.text import Glyphs, fitted, plain, printable, wrapped
from loratory.tui.told import Told

_PROGRAM = " Loratory  "
_LEAST_PLACE = 12
_MESSAGE_ROWS = 3


def frame_line(where: str, right: str, pane: str, width: int, glyphs: Glyphs) -> Content:
    """The program, where it is, the panes by their keys, and at the right what counts here.

    where, right: text of others included. pane: the one that is looked at.
    """
    room = width - cell_len(right)
    shortest = len(_PROGRAM) + _LEAST_PLACE
    numbered = list(enumerate(PANES, start=1))
    # The panes give way first, all but the one that is looked at: their keys are in the help.
    forms = (
        [f"{number} {name.capitalize()}" for number, name in numbered],
        [f"{number} {name.capitalize()}" if name == pane else f"{number}" for number, name in numbered],
    )
    tabs = next((form for form in forms if room - len(" ".join(form)) - 3 >= shortest), None)
    before = room - (len(" ".join(tabs)) + 2 if tabs else 0)
    left = f"{fitted(f'{_PROGRAM}{printable(where)}', before - 1, glyphs.ellipsis)} " if before > 0 else ""
    if tabs is None:
        return plain(left + right)
    shown = [
        plain(tab, "reverse" if name == pane else "$foreground-muted") for tab, name in zip(tabs, PANES, strict=True)
    ]
    return Content(left) + Content(" ").join(shown) + plain(f"  {right}")


def message_lines(told: Told, at: str, width: int, glyphs: Glyphs) -> list[Content]:
    """A sentence and when it was said, in up to three rows."""
    text = f"{glyphs.finding if told.wrong else ''} {at} {told.text}" if told.text else ""
    style = "$text-warning" if told.wrong else ""
    rows = wrapped(text, max(1, width))[:_MESSAGE_ROWS] or [""]
    return [Content(fitted(row, width, glyphs.ellipsis)).stylize(style) for row in rows]


def footer_line(keymap: Keymap, legal_keys: str, width: int, glyphs: Glyphs, without: Collection[str] = ()) -> Content:
    """The keys that matter now: what can be typed next, else the commonest actions, but for those of `without`."""
    if legal_keys:
        return Content(fitted(f" {legal_keys}", width, glyphs.ellipsis))
    parts = [
        Content.assemble(
            (printable(keymap.keys_of(action.id).replace("space", "Space")), "bold $text-accent"), f" {action.short}"
        )
        for action in keymap.actions
        if action.short and action.keys and action.id not in without
    ]
    return Content(" ") + Content("  ").join(parts)
