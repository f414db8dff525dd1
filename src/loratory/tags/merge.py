"""Two changes of one caption brought together, tag by tag."""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from loratory.tags.edits.lines import FENCE, Parts, gap, slots, with_bodies, with_tag, with_tag_after, without
from loratory.tags.text import EMPTY, CaptionText, Line, Part, key, parse, render

# What no tag is but a sentence is, whose pieces between commas cannot be merged one by one: many words, or several
# that end as sentences do.
_LONGEST_TAG_WORDS = 7
_SENTENCE_WORDS = 4


class Conflict(Exception):
    """The two changes cannot both be kept. reason: why, as a clause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def merge(base: CaptionText | None, ours: CaptionText | None, theirs: CaptionText | None) -> CaptionText | None:
    """The caption with what both sides changed since `base`; None stands for "no file".

    Where one side changed nothing, the other side, exactly. Otherwise tags that one side took out are gone, tags that
    either put in are there once, and the order is that of the side which changed it, ours if both did. Sentences, and
    lines that both sides put in or took out, are never merged. Raises Conflict.
    """
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    if ours is None or theirs is None:
        raise Conflict("one side removed the file and the other changed it")
    base = base or EMPTY
    encoding = _pick(base.encoding, ours.encoding, theirs.encoding)
    if encoding is None:
        raise Conflict("both sides changed the encoding")
    text = _pick(base.text, ours.text, theirs.text)
    if text is None:
        text = render(_merged_lines(_lines(base), _lines(ours), _lines(theirs)))
    return CaptionText(text, encoding)


def _pick(base: str, ours: str, theirs: str) -> str | None:
    """The side that changed; None where both did, each in its way."""
    if ours == theirs or theirs == base:
        return ours
    return theirs if ours == base else None


def _lines(caption: CaptionText) -> Sequence[Line]:
    # A caption without text is one blank line here, so that it can be merged with one of one line.
    return parse(caption.text) or (Line((Part("", "", "", ""),), ""),)


def _merged_lines(base: Sequence[Line], ours: Sequence[Line], theirs: Sequence[Line]) -> list[Line]:
    if len(base) == len(ours) == len(theirs):
        return [_merged_line(*lines) for lines in zip(base, ours, theirs, strict=True)]
    if len(ours) != len(base) and len(theirs) != len(base):
        raise Conflict("both sides put lines in or took lines out")
    # One side has the lines of `base`, one by one; the other put some in or took some out.
    steady, moved = (theirs, ours) if len(theirs) == len(base) else (ours, theirs)
    merged: list[Line] = []
    steps = SequenceMatcher(None, base, moved, autojunk=False).get_opcodes()
    for step, start, end, moved_start, moved_end in steps:
        if step == "equal":
            merged += steady[start:end]
        elif list(steady[start:end]) == list(base[start:end]):
            merged += moved[moved_start:moved_end]
        elif end - start == moved_end - moved_start:
            rows = zip(base[start:end], moved[moved_start:moved_end], steady[start:end], strict=True)
            merged += [_merged_line(was, one, other) for was, one, other in rows]
        else:
            raise Conflict("one side changed a line that the other took out")
    # What was the last line of one side, without a line break, may stand before others now.
    newline = next((line.ending for line in merged if line.ending), "\n")
    return [line if line.ending else line._replace(ending=newline) for line in merged[:-1]] + merged[-1:]


def _merged_line(base: Line, ours: Line, theirs: Line) -> Line:
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    ending = _pick(base.ending, ours.ending, theirs.ending)
    ending = ours.ending if ending is None else ending
    if ours.parts in (base.parts, theirs.parts):
        return Line(theirs.parts, ending)
    if theirs.parts == base.parts:
        return Line(ours.parts, ending)
    if any(_is_prose(line.parts) for line in (base, ours, theirs)):
        raise Conflict("both sides changed the same sentence")
    if len({_fences(line.parts) for line in (ours, theirs)}) > 1:
        raise Conflict("the two sides have different fences (|||)")
    return Line(_merged_tags(base.parts, ours.parts, theirs.parts), ending)


def _merged_tags(base: Parts, ours: Parts, theirs: Parts) -> Parts:
    """The tags of the side that orders them, with the other side's changes made to it."""
    ordering, other = (theirs, ours) if _keeps_order(base, ours) and not _keeps_order(base, theirs) else (ours, theirs)
    was, has, gets = Counter(_keys(base)), Counter(_keys(ordering)), Counter(_keys(other))
    result = _respelled(base, ordering, other)
    for tag in {*was, *has, *gets}:
        wanted = _count(was[tag], has[tag], gets[tag])
        copies = [index for index in slots(result) if key(result[index].body) == tag]
        for index in reversed(copies[wanted:]):
            result = without(result, index)
    spacing = gap([Line(ordering, "")])
    others = _sections(other)
    for number, (section, body) in enumerate(others):
        tag, present = key(body), _keys(result)
        if present.count(tag) >= _count(was[tag], has[tag], gets[tag]):
            continue
        # Beside the nearest tag that both have, on the same side of a fence if there is one: behind it, else before.
        common = [(place, one, key(near)) for place, (one, near) in enumerate(others) if key(near) in present]
        behind = [near for place, one, near in common if place < number and one == section]
        before = [near for place, one, near in common if place > number and one == section]
        behind = behind or ([] if before else [near for place, _, near in common if place < number])
        if behind:
            result = with_tag_after(result, slots(result)[_last(present, behind[-1])], body, spacing)
        else:
            result = with_tag(result, present.index(before[0]) if before else 0, body, spacing)
    return result


def _sections(parts: Parts) -> list[tuple[int, str]]:
    """Each tag with the number of fences before it."""
    fences, tags = 0, list[tuple[int, str]]()
    for part in parts:
        if part.body:
            tags.append((fences, part.body))
        fences += part.delimiter == FENCE
    return tags


def _count(was: int, one: int, other: int) -> int:
    """How many copies of a tag there are, from how many there were and are on the two sides."""
    if one == was or other == was:
        return other if one == was else one
    return max(one, other) if max(one, other) > was else min(one, other)


def _respelled(base: Parts, ordering: Parts, other: Parts) -> Parts:
    """`ordering` with the tags spelled as `other` does where only that side changed how."""
    was = {key(part.body): part.body for part in base if part.body}
    now = {key(part.body): part.body for part in other if part.body}
    result = ordering
    for index in slots(ordering):
        body = ordering[index].body
        tag = key(body)
        if was.get(tag) == body and now.get(tag, body) != body:
            result = with_bodies(result, {index: now[tag]})
    return result


def _keeps_order(base: Parts, side: Parts) -> bool:
    """Whether the tags that both have stand in the same order."""
    was, now = _keys(base), _keys(side)
    return [tag for tag in was if tag in now] == [tag for tag in now if tag in was]


def _keys(parts: Parts) -> list[str]:
    return [key(part.body) for part in parts if part.body]


def _last(keys: Sequence[str], tag: str) -> int:
    return max(index for index, one in enumerate(keys) if one == tag)


def _fences(parts: Parts) -> int:
    return sum(part.delimiter == FENCE for part in parts)


def _is_prose(parts: Parts) -> bool:
    for part in parts:
        words = len(part.body.split())
        if words > _LONGEST_TAG_WORDS or (words >= _SENTENCE_WORDS and part.body.endswith((".", "!", "?"))):
            return True
    return False
