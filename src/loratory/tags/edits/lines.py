"""Taking tags out of a line and putting them in, with everything else of the line left as written."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from loratory.tags.edits.base import Position
from loratory.tags.text import CaptionText, Line, Part, parse, render

Parts = tuple[Part, ...]

FENCE = "|||"
_NOTHING = (Part("", "", "", ""),)


def edit_lines(
    caption: CaptionText, change: Callable[[Parts, str], Parts], *, fills_empty: bool = False, first_only: bool = False
) -> CaptionText:
    """The caption with every line that holds text changed; the same object where nothing came of it.

    change: gives the new parts of a line; its second argument is the white space that follows a comma here. A line
    that becomes blank goes, unless it was the last with text. fills_empty: a caption without text is changed too, as
    one empty line. first_only: only the line that a trainer reads is changed.
    """
    lines = parse(caption.text)
    spacing = gap(lines)
    kept: list[Line] = []
    blanked: list[Line] = []
    seen = False
    for line in lines:
        if not line.has_text or (first_only and seen):
            kept.append(line)
            continue
        seen = True
        changed = Line(change(line.parts, spacing), line.ending)
        if changed.has_text:
            kept.append(changed)
        else:
            blanked.append(changed)
    if not seen:
        if not fills_empty:
            return caption
        kept = [Line(change(_NOTHING, spacing), lines[0].ending if lines else ""), *lines[1:]]
    elif blanked and not any(line.has_text for line in kept):
        kept = [blanked[-1], *kept]
    text = render(kept)
    return caption if text == caption.text else replace(caption, text=text)


def gap(lines: Sequence[Line]) -> str:
    """The white space customary after a comma in these lines; a space where they have no comma."""
    leads = Counter(
        part.lead
        for line in lines
        for before, part in zip(line.parts, line.parts[1:], strict=False)
        if before.delimiter == "," and part.body
    )
    return max(leads, key=lambda lead: (leads[lead], lead == " "), default=" ")


def slots(parts: Parts) -> list[int]:
    """Which parts hold a tag."""
    return [index for index, part in enumerate(parts) if part.body]


def place(position: Position, count: int) -> int:
    """How many of `count` tags stand before a tag put at `position`, 0 to `count`."""
    if position == "start":
        return 0
    if position == "end":
        return count
    return min(position - 1, count) if position > 0 else max(count + 1 + position, 0)


def with_bodies(parts: Parts, bodies: Mapping[int, str]) -> Parts:
    """The parts with other tags at the indices of `bodies`, in the same white space."""
    changed = list(parts)
    for index, body in bodies.items():
        changed[index] = changed[index]._replace(body=body)
    return tuple(changed)


def without(parts: Parts, index: int) -> Parts:
    """The parts without the tag at `index`, its white space and one comma beside it; fences stay."""
    part = parts[index]
    before, after = parts[:index], parts[index + 1 :]
    follows_comma = index > 0 and before[-1].delimiter == ","
    if part.delimiter == ",":
        if not follows_comma:  # the next tag becomes the first of the line or behind a fence
            after = (after[0]._replace(lead=part.lead), *after[1:])
        return (*before, *after)
    if follows_comma:
        return (*before[:-1], before[-1]._replace(trail=part.trail, delimiter=part.delimiter), *after)
    lead = part.lead if index > 0 and part.delimiter else ""
    return (*before, Part(lead, "", "", part.delimiter), *after)


def with_tag(parts: Parts, count_before: int, tag: str, spacing: str) -> Parts:
    """The parts with a tag put in so that `count_before` tags stand before it; `spacing` goes after its comma."""
    taken = slots(parts)
    if count_before < len(taken):
        if count_before == 0 and not parts[0].body:
            return _filled(parts, 0, tag)
        index = taken[count_before]
        part = parts[index]
        if index > 0 and parts[index - 1].delimiter == ",":
            return (*parts[:index], Part(spacing, tag, "", ","), *parts[index:])
        return (*parts[:index], Part(part.lead, tag, "", ","), part._replace(lead=spacing), *parts[index + 1 :])
    last = len(parts) - 1
    if not parts[last].body and (last == 0 or parts[last - 1].delimiter == FENCE):
        return _filled(parts, last, tag)
    if not taken:
        return _filled(parts, 0, tag)
    return with_tag_after(parts, taken[-1], tag, spacing)


def with_tag_after(parts: Parts, index: int, tag: str, spacing: str) -> Parts:
    """The parts with a tag put in behind the one at `index`, on the same side of a fence."""
    part = parts[index]
    if part.delimiter == ",":
        return (*parts[: index + 1], Part(spacing, tag, "", ","), *parts[index + 1 :])
    closed = part._replace(trail="", delimiter=",")
    return (*parts[:index], closed, Part(spacing, tag, part.trail, part.delimiter), *parts[index + 1 :])


def _filled(parts: Parts, index: int, tag: str) -> Parts:
    part = parts[index]
    before, after = parts[:index], parts[index + 1 :]
    lead = (part.lead or " ") if before and before[-1].trail else ""
    trail = " " if part.delimiter == FENCE and after[0].lead else ""
    return (*before, Part(lead, tag, trail, part.delimiter), *after)
