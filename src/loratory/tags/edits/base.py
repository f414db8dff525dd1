"""What an edit is, how it names itself, and which values it takes."""

import re
from collections.abc import Sequence
from typing import Literal, Protocol

from loratory.errors import LoratoryError
from loratory.tags.text import CaptionText

# An int counts tags from 1, as people do; a negative one counts from the end, -1 being the last.
Position = int | Literal["start", "end"]

_SHOWN_TAGS = 3
_SHOWN_CHARACTERS = 48

# First word of a label, and what it is once done.
_PAST = {
    "add": "added",
    "remove": "removed",
    "rename": "renamed",
    "replace": "replaced",
    "move": "moved",
    "sort": "sorted",
    "set": "set",
    "normalise": "normalised",
    "convert": "converted",
    "fix": "fixed",
}


class Edit(Protocol):
    """A change that means something ("add this tag"), as a value."""

    def apply(self, caption: CaptionText) -> CaptionText:
        """The caption with the change made; the same object where it changes nothing. Never touches a file."""
        ...

    @property
    def label(self) -> str:
        """What it does in the imperative, for lists and undo: 'add “white background”'."""
        ...


def past(label: str) -> tuple[str, str]:
    """(label of something done, word before "23 captions"): 'add “x”' gives ('added “x”', 'to')."""
    verb, space, rest = label.partition(" ")
    done = _PAST.get(verb, f"done: {verb}")
    return done + space + rest, {"add": "to", "remove": "from"}.get(verb, "in")


def quoted(text: str) -> str:
    """A tag or text for a label, cut where it is long."""
    text = " ".join(text.split())
    return f"“{text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + '…'}”"


def quoted_list(tags: Sequence[str]) -> str:
    """Tags for a label, the first few of a long list."""
    shown = ", ".join(quoted(tag) for tag in tags[:_SHOWN_TAGS])
    more = len(tags) - _SHOWN_TAGS
    return f"{shown} and {more} more" if more > 0 else shown


def checked_tag(tag: str) -> str:
    """The tag without white space around it; raises LoratoryError where it cannot be one tag of a caption."""
    tag = tag.strip()
    if not tag:
        raise LoratoryError("A tag is empty.", hint="Name the tag.")
    if found := re.search(r",|\|\|\||[\r\n]", tag):
        what = {",": "a comma", "|||": "the fence |||"}.get(found[0], "a line break")
        raise LoratoryError(
            f"{quoted(tag)} holds {what}, so it is more than one tag.", hint="Give the tags one by one."
        )
    return tag


def checked_tags(tags: Sequence[str], *, none_is_fine: bool = False) -> tuple[str, ...]:
    """`checked_tag` of each; raises LoratoryError for an empty list unless that has a meaning."""
    if not tags and not none_is_fine:
        raise LoratoryError("No tag is given.", hint="Name at least one tag.")
    return tuple(checked_tag(tag) for tag in tags)


def checked_position(position: Position) -> Position:
    """The position; raises LoratoryError for 0, which is no place when counting from 1."""
    if position == 0:
        raise LoratoryError("Position 0 does not exist.", hint="1 is the first tag, -1 the last.")
    return position


def position_label(position: Position) -> str:
    """Where that is, in words."""
    words: dict[Position, str] = {"start": "the start", "end": "the end", 1: "the start", -1: "the end"}
    return words.get(position) or f"position {position}"
