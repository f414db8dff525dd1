"""Edits of a caption as values: made once, applied to as many captions as wanted, shown and undone by their label."""

from loratory.tags.edits.base import Edit, Position, past
from loratory.tags.edits.tagwise import Add, Dedupe, Move, Remove, Rename, SetTags, Sort
from loratory.tags.edits.textual import Normalise, SetText, Several, Substitute, ToUtf8

__all__ = [
    "Add",
    "Dedupe",
    "Edit",
    "Move",
    "Normalise",
    "Position",
    "Remove",
    "Rename",
    "SetTags",
    "SetText",
    "Several",
    "Sort",
    "Substitute",
    "ToUtf8",
    "past",
]
