"""What is wrong with a query, and at which character."""

import unicodedata

from loratory.errors import LoratoryError

_COLUMNS = 78  # of a terminal of 80: some leave the last one unused
_GUTTER = "1 | "
_CUT = "..."


class QueryError(LoratoryError):
    """A query that cannot be read.

    reason: one sentence without the excerpt, for a line of a screen. text: the whole query. position: index into
    it of the character that is wrong, `len(text)` where something is missing at its end.
    """

    def __init__(self, reason: str, text: str, position: int, *, hint: str = "") -> None:
        where = f"character {position + 1}" if position < len(text) else "at its end"
        super().__init__(f"query, {where}: {reason}\n{excerpt(text, position)}", hint=hint)
        self.reason = reason
        self.text = text
        self.position = position


def excerpt(text: str, position: int) -> str:
    """Two lines: the query, cut around `position` where it is too long, and a caret under that character.

    What a terminal would not print takes one column as a replacement character.
    """
    characters = [c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text]
    first, last = _window(characters, position)
    before = (_CUT if first else "") + "".join(characters[first:position])
    after = "".join(characters[position:last]) + (_CUT if last < len(characters) else "")
    indent = len(_GUTTER) + sum(map(_columns, before))
    return f"{_GUTTER}{before}{after}\n{' ' * indent}^"


def _window(characters: list[str], position: int) -> tuple[int, int]:
    """First and last + 1 of the characters that fit, `position` in the middle where there is text on both sides."""
    room = _COLUMNS - len(_GUTTER) - 1  # one for the caret behind the end
    if sum(map(_columns, characters)) <= room:
        return 0, len(characters)
    room -= 2 * len(_CUT)
    before, after = characters[:position][::-1], characters[position:]
    shown_after = _reach(after, room // 2)
    shown_before = _reach(before, room - sum(map(_columns, after[:shown_after])))
    shown_after = _reach(after, room - sum(map(_columns, before[:shown_before])))
    return position - shown_before, position + shown_after


def _reach(characters: list[str], columns: int) -> int:
    """How many of `characters` fit into `columns`."""
    used = 0
    for index, character in enumerate(characters):
        used += _columns(character)
        if used > columns:
            return index
    return len(characters)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0  # drawn over the character before
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
