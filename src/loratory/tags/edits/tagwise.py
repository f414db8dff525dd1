"""Edits that add, remove, rename and order tags. Every other tag keeps its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Literal

from loratory.errors import LoratoryError
from loratory.tags.edits.base import (
    Position,
    checked_position,
    checked_tag,
    checked_tags,
    position_label,
    quoted,
    quoted_list,
)
from loratory.tags.edits.lines import (
    FENCE,
    Parts,
    edit_lines,
    place,
    slots,
    with_bodies,
    with_tag,
    with_tag_after,
    without,
)
from loratory.tags.text import CaptionText, key


@dataclass(frozen=True)
class Add:
    """Puts tags into every line of a caption, in the order given; a caption without text gets them as its first line.

    position: of the first of them. existing: what becomes of a tag that is there already: "skip" leaves it where it
    is, "move" brings it (as it is written there) to its place among the added ones.
    """

    tags: tuple[str, ...]
    position: Position = "end"
    existing: Literal["skip", "move"] = "skip"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", checked_tags(self.tags))
        checked_position(self.position)

    @property
    def label(self) -> str:
        where = "" if self.position == "end" else f" at {position_label(self.position)}"
        return f"add {quoted_list(self.tags)}{where}"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line, fills_empty=True)

    def _line(self, parts: Parts, spacing: str) -> Parts:
        present = _first_by_key(parts)
        wanted = {key(tag): tag for tag in reversed(self.tags)}  # of a tag given twice, the first spelling
        order = list(dict.fromkeys(key(tag) for tag in self.tags))
        if self.existing == "skip":
            new = [wanted[tag] for tag in order if tag not in present]
            return _put_in(parts, new, place(self.position, len(slots(parts))), spacing)
        bodies = [parts[present[tag]].body if tag in present else wanted[tag] for tag in order]
        left = parts
        for index in sorted((present[tag] for tag in order if tag in present), reverse=True):
            left = without(left, index)
        moved = _put_in(left, bodies, place(self.position, len(slots(left))), spacing)
        # Tags that stand there already keep their white space too.
        return parts if _bodies(moved) == _bodies(parts) else moved


@dataclass(frozen=True)
class Remove:
    """Takes every copy of the tags out."""

    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", checked_tags(self.tags))

    @property
    def label(self) -> str:
        return f"remove {quoted_list(self.tags)}"

    def apply(self, caption: CaptionText) -> CaptionText:
        unwanted = {key(tag) for tag in self.tags}
        return edit_lines(caption, lambda parts, _: _remove(parts, unwanted))


@dataclass(frozen=True)
class Rename:
    """One tag becomes none, one or several others, in its place.

    Where one of the others is in the line already, one copy stays, at whichever place comes first. A tag renamed to
    itself, letter by letter, is left alone; with another spelling it is respelled.
    """

    old: str
    new: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "old", checked_tag(self.old))
        object.__setattr__(self, "new", checked_tags(self.new, none_is_fine=True))

    @property
    def label(self) -> str:
        if not self.new:
            return f"remove {quoted(self.old)}"
        return f"rename {quoted(self.old)} to {quoted_list(self.new)}"

    def apply(self, caption: CaptionText) -> CaptionText:
        return caption if self.new == (self.old,) else edit_lines(caption, self._line)

    def _line(self, parts: Parts, spacing: str) -> Parts:
        old = key(self.old)
        first = _first_by_key(parts)
        if old not in first:
            return parts
        start = first[old]
        new = {key(tag): tag for tag in reversed(self.new)}
        order = dict.fromkeys(key(tag) for tag in self.new)
        put = [new[tag] for tag in order if first.get(tag, start) >= start]
        # Later copies go, from the end so that the places before them still count.
        gone = {old, *(key(tag) for tag in put)}
        for index in reversed(slots(parts)):
            if index > start and key(parts[index].body) in gone:
                parts = without(parts, index)
        if not put:
            return without(parts, start)
        parts = with_bodies(parts, {start: put[0]})
        for tag in reversed(put[1:]):
            parts = with_tag_after(parts, start, tag, spacing)
        return parts


@dataclass(frozen=True)
class Move:
    """Brings a tag to another position; where it stands more than once, its first copy."""

    tag: str
    position: Position

    def __post_init__(self) -> None:
        object.__setattr__(self, "tag", checked_tag(self.tag))
        checked_position(self.position)

    @property
    def label(self) -> str:
        return f"move {quoted(self.tag)} to {position_label(self.position)}"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line)

    def _line(self, parts: Parts, spacing: str) -> Parts:
        index = _first_by_key(parts).get(key(self.tag))
        if index is None:
            return parts
        taken = slots(parts)
        before = place(self.position, len(taken) - 1)
        if taken.index(index) == before:
            return parts
        return with_tag(without(parts, index), before, parts[index].body, spacing)


@dataclass(frozen=True)
class Sort:
    """Orders the tags of each line; ties keep their order. Tags that a fence ||| keeps in place are left there.

    keep_first: how many tags at the start stay as well. by: (key, rank) of tags, lowest rank first and tags without
    one behind them in the order they had; None sorts by alphabet.
    """

    keep_first: int = 0
    by: tuple[tuple[str, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.keep_first < 0:
            raise LoratoryError(f"{self.keep_first} tags cannot stay first.", hint="Give 0 or more.")

    @property
    def label(self) -> str:
        kept = f", the first {self.keep_first} left in place" if self.keep_first else ""
        return f"sort the tags{' by alphabet' if self.by is None else ''}{kept}"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line)

    @cached_property
    def _ranks(self) -> dict[str, float]:
        return dict(self.by or ())

    def _line(self, parts: Parts, spacing: str) -> Parts:
        flexible = _flexible(parts)
        movable = [index for index in slots(parts)[self.keep_first :] if index in flexible]
        bodies = [parts[index].body for index in movable]
        if self.by is None:
            bodies.sort(key=key)
        else:
            bodies.sort(key=lambda body: self._ranks.get(key(body), float("inf")))
        return with_bodies(parts, dict(zip(movable, bodies, strict=True)))


@dataclass(frozen=True)
class Dedupe:
    """Takes out every copy of a tag but the first; spelling, case and underscores make no difference."""

    @property
    def label(self) -> str:
        return "remove repeated tags"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line)

    def _line(self, parts: Parts, spacing: str) -> Parts:
        kept = set(_first_by_key(parts).values())
        for index in reversed(slots(parts)):
            if index not in kept:
                parts = without(parts, index)
        return parts


@dataclass(frozen=True)
class SetTags:
    """Makes these, as written here, the tags of the line that a trainer reads; other lines and fences stay.

    With no tags at all, every line loses its own.
    """

    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", checked_tags(self.tags, none_is_fine=True))

    @property
    def label(self) -> str:
        return f"set the tags {quoted_list(self.tags)}" if self.tags else "remove all tags"

    def apply(self, caption: CaptionText) -> CaptionText:
        return edit_lines(caption, self._line, fills_empty=bool(self.tags), first_only=bool(self.tags))

    def _line(self, parts: Parts, spacing: str) -> Parts:
        steps = SequenceMatcher(None, _bodies(parts), self.tags, autojunk=False).get_opcodes()
        for step, old_start, old_end, new_start, new_end in reversed(steps):
            if step == "equal":
                continue
            new = self.tags[new_start:new_end]
            shared = min(old_end - old_start, len(new))
            parts = with_bodies(parts, dict(zip(slots(parts)[old_start:], new[:shared], strict=False)))
            for number in reversed(range(old_start + shared, old_end)):
                parts = without(parts, slots(parts)[number])
            before = old_start + shared
            if before:
                for tag in reversed(new[shared:]):
                    parts = with_tag_after(parts, slots(parts)[before - 1], tag, spacing)
            else:
                parts = _put_in(parts, new[shared:], 0, spacing)
        return parts


def _bodies(parts: Parts) -> tuple[str, ...]:
    return tuple(part.body for part in parts if part.body)


def _first_by_key(parts: Parts) -> dict[str, int]:
    """The first part that holds each tag."""
    first: dict[str, int] = {}
    for index in slots(parts):
        first.setdefault(key(parts[index].body), index)
    return first


def _put_in(parts: Parts, tags: Sequence[str], before: int, spacing: str) -> Parts:
    """The parts with `tags` put in side by side so that `before` tags stand in front of them."""
    for number, tag in enumerate(tags):
        if number == 0:
            parts = with_tag(parts, before, tag, spacing)
        else:
            parts = with_tag_after(parts, slots(parts)[before + number - 1], tag, spacing)
    return parts


def _remove(parts: Parts, unwanted: set[str]) -> Parts:
    for index in reversed(slots(parts)):
        if key(parts[index].body) in unwanted:
            parts = without(parts, index)
    return parts


def _flexible(parts: Parts) -> range:
    """The parts between the fences; all where there is none."""
    fences = [index for index, part in enumerate(parts) if part.delimiter == FENCE]
    start = fences[0] + 1 if fences else 0
    return range(start, fences[1] + 1 if len(fences) > 1 else len(parts))
