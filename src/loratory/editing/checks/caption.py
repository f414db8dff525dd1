"""Everything that is to be said of one caption."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from loratory.editing.checks.context import NO_TOKENS, CheckContext, FolderTokens
from loratory.editing.checks.finding import CaptionFinding, Said, uses_underscores
from loratory.editing.checks.implied import implied_tags
from loratory.editing.checks.names import OWN_FROM, name_findings, own_typo
from loratory.editing.checks.structure import (
    duplicates,
    instance_and_class,
    instance_in_sentence,
    sentences_among_tags,
    several_subjects,
    spacing,
    tag_budget,
    tags_for_sentences,
)
from loratory.editing.checks.trainer import brackets, caption_file, cut_text, picture_file, several_lines
from loratory.tags.text import Line, key, parse, render

if TYPE_CHECKING:
    from loratory.editing.items import Item

_WORST_FIRST = {"error": 0, "warning": 1, "note": 2}


def check_caption(item: "Item", context: CheckContext) -> list[CaptionFinding]:
    """What is to be said of one picture's caption, the worst first.

    What hangs on the text alone is kept in the context: a caption that was seen before costs some µs.
    """
    said = [*picture_file(item), *caption_file(item, context.caption)]
    text = item.caption.text
    if item.keys:
        tokens = context.tokens.get(item.directory, NO_TOKENS)
        place = (text, tokens, item.is_reg)
        remembered = context.memory.said.get(place)
        if remembered is None:
            context.memory.trim()
            remembered = context.memory.said[place] = tuple(_said_of(text, tokens, item.is_reg, context))
        said += [each for each in remembered if each.rule != "unknown"] + [*_unknown(remembered, context)]
    said = [each for each in said if not context.is_kept(each.rule, each.tags[0] if each.tags else "")]
    said.sort(key=lambda each: _WORST_FIRST[each.severity])
    return [placed(each, item) for each in said]


def placed(said: Said, item: "Item") -> CaptionFinding:
    """A finding at the picture it is about."""
    return CaptionFinding(said.rule, said.severity, item.caption_path, said.message, item.name, said.tags, said.fixes)


def issues(item: "Item", context: CheckContext) -> frozenset[str]:
    """The ids of what is to be said of a picture's caption, as a query's `issue:` asks for them."""
    return frozenset(finding.rule for finding in check_caption(item, context))


def _unknown(said: Iterable[Said], context: CheckContext) -> Iterator[Said]:
    """Of the unknown tags those that are no words of one's own, told as mistyped where the dataset has a near one."""
    is_listed = context.vocabulary is not None and context.vocabulary.known()
    for each in said:
        if each.rule != "unknown" or context.uses.get(key(each.tags[0]), 0) >= OWN_FROM:
            continue
        mistyped = own_typo(each.tags[0], context)
        if mistyped is not None or is_listed:  # the starter pack lacks most of the words there are
            yield mistyped or each


def _said_of(text: str, tokens: FolderTokens, is_reg: bool, context: CheckContext) -> Iterator[Said]:
    """What hangs on nothing but the text, the vocabulary, the settings and the folder's tokens."""
    settings = context.caption
    lines = [line for line in parse(text) if line.has_text]
    yield from several_lines([render([line]).strip() for line in lines], settings)
    # With wildcards each line is drawn at times; without, nobody reads the others.
    read = lines if settings.enable_wildcard else lines[:1]
    told: set[tuple[str, tuple[str, ...]]] = set()
    for line in read:
        for said in _said_of_line(line, tokens, is_reg, context):
            if (said.rule, said.tags) not in told:
                told.add((said.rule, said.tags))
                yield said


def _said_of_line(line: Line, tokens: FolderTokens, is_reg: bool, context: CheckContext) -> Iterator[Said]:
    tags = [part.body for part in line.parts if part.body]
    text = render([line]).strip()
    yield from cut_text(text, tags, context)
    if is_reg:
        return
    yield from brackets(tags, context.caption)
    if context.style == "natural":
        yield from instance_in_sentence(text, tokens)
        yield from tags_for_sentences(tags)
        return
    keys = [key(tag) for tag in tags]
    yield from instance_and_class(tags, keys, tokens)
    yield from duplicates(tags, keys)
    yield from tag_budget(keys)
    yield from spacing(line)
    yield from sentences_among_tags(tags, context)
    own = frozenset(map(key, (tokens.instance, *(tokens.classes if tokens.is_class_named else ()))))
    exempt = own | frozenset(map(key, tokens.classes))
    if len(keys) > 1 and keys[0] == key(tokens.instance):
        exempt |= {keys[1]}  # a class token that other pictures do not have
    # What stands in braces is not one tag but several to draw from.
    names = [tag for tag in tags if not (context.caption.enable_wildcard and ("{" in tag or "}" in tag))]
    implied = list(implied_tags(names, exempt, context))
    yield from implied
    yield from several_subjects(names, exempt, context)
    underscores = uses_underscores(tags)
    for tag in {key(tag): tag for tag in reversed(names)}.values():
        # What is to be removed needs no better name.
        if key(tag) not in own and not any(said.rule == "implied" and said.tags[0] == tag for said in implied):
            yield from name_findings(tag, underscores, context)
