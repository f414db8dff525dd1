"""Tags that another tag of the same caption says already: by the vocabulary, or by their words alone."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.finding import Fix, Said, quoted, spoken
from loratory.editing.checks.names import SITE_NAMES
from loratory.tags.edits import Remove
from loratory.tags.text import bare

if TYPE_CHECKING:
    from loratory.tags.vocabulary.model import Implied


def _listed(text: str) -> frozenset[str]:
    return frozenset(" ".join(item.split()) for item in text.split(","))


# Before the last words of a tag these make it another thing than those words name: in "looking at viewer", "head on
# hand", "no pupils" or "teddy bear costume" the last word is not what the tag is about, or not truly there.
_FUNCTION_WORDS = _listed(
    """
    a, above, after, against, alternate, an, and, around, artificial, as, at, balloon, before, behind, below, beneath,
    beside, between, by, clay, covered, covering, fake, faux, for, from, gingerbread, gummy, hidden, imminent, implied,
    in, inside, into, invisible, like, mechanical, missing, near, no, non, not, of, off, on, onto, or, origami, out,
    over, paper, past, pixel, plush, plushie, robot, robotic, sand, snow, statue, stuffed, than, through, to, toward,
    towards, toy, under, unseen, via, vs, with, without
    """
)

# Whole tags that are not a kind of what their last words name.
_NOT_A_KIND = _listed(
    """
    ant lion, baseball bat, bearded dragon, bell pepper, black and white, chili dog, computer mouse, corn dog, dog tag,
    dog tags, dust bunny, easter bunny, eye shadow, finger gun, flying fox, french horn, guinea pig, hair gun, hair tie,
    honey badger, hot dog, ice cream, jelly fish, koala bear, komodo dragon, mantis shrimp, nail gun, pig tails,
    playboy bunny, pony tail, prairie dog, raccoon dog, red panda, rocket ship, sea cow, sea cucumber, sea dragon,
    sea horse, sea lion, sea star, sea urchin, shoe horn, star fish, sun dog, tasmanian tiger, tasmanian wolf,
    teddy bear, twin tails, water bear, water gun, white noise"""
)

# Last words that are no thing by themselves: colours, directions, positions.
_NO_HEADS = _listed(
    """aqua, beige, black, blue, bronze, brown, cyan, dark, gold, golden, gray, green, grey, light, magenta, maroon,
    multicolored, orange, pale, pink, purple, red, silver, tan, teal, turquoise, violet, white, yellow, around, away,
    back, behind, closed, down, front, inside, left, off, open, other, out, outside, over, right, self, side, sides,
    together, up, viewer"""
)

# Categories whose names are names, not descriptions.
_NAMES = frozenset({"artist", "character", "copyright", "contributor"})


def implied_tags(tags: Sequence[str], exempt: frozenset[str], context: CheckContext) -> Iterator[Said]:
    """Tags of a caption that another of its tags implies, with the shortest path; failing that, tags whose words end
    another one.

    exempt: keys that are left alone, since they are instance or class.
    """
    known = [context.facts(tag) for tag in tags]
    first: dict[str, int] = {}
    for index, facts in enumerate(known):
        first.setdefault(facts.canonical, index)
    reasons: dict[str, tuple[str, Implied]] = {}  # general key -> the tag that implies it, and how
    for index, (tag, specific) in enumerate(zip(tags, known, strict=True)):
        for general in specific.implies.keys() & first.keys():
            # Of tags that imply each other the first stays.
            is_mutual = specific.canonical in known[first[general]].implies
            if general == specific.canonical or (is_mutual and first[general] < index):
                continue
            why = specific.implies[general]
            if general not in reasons or len(why.path) < len(reasons[general][1].path):
                reasons[general] = tag, why
    keys = {facts.key for facts in known}
    longer: dict[str, str] = {}  # key -> the first tag that ends in its words
    for tag, facts in zip(tags, known, strict=True):
        if facts.key in exempt:  # an instance token is a name: “sks fox” does not make “fox” redundant
            continue
        words = facts.key.split(" ")
        for start in range(1, len(words)):
            head = " ".join(words[start:])
            if head in keys:
                longer.setdefault(head, tag)
    for tag, facts in zip(tags, known, strict=True):
        if facts.key in exempt:
            continue
        if facts.canonical in reasons:
            yield _implied(tag, *reasons[facts.canonical], context)
        elif facts.key in longer and _is_head(tag, longer[facts.key], context):
            yield _redundant(tag, longer[facts.key])


def _implied(tag: str, other: str, why: "Implied", context: CheckContext) -> Said:
    path = " → ".join(spoken(name) for name in why.path)
    site = SITE_NAMES[context.vocabulary.site] if context.vocabulary else ""
    source = {"import": site, "pack": "starter pack", "rules": "your rules"}[why.origin]
    message = (
        f"{quoted(tag)} is implied by {quoted(other)} ({path}; {source}), and shares what is learnt about it. Remove "
        "it."
    )
    return Said("implied", "warning", message, (tag, other), (_removal(tag),))


def _redundant(tag: str, longer: str) -> Said:
    message = (
        f"{quoted(tag)} looks redundant beside {quoted(longer)}, which says it with more detail. Remove it, or keep "
        "it if it means something else here."
    )
    return Said("redundant", "note", message, (tag, longer), (_removal(tag),))


def _removal(tag: str) -> Fix:
    return Fix(f"remove {quoted(tag)}", Remove((tag,)))


def _is_head(tag: str, longer: str, context: CheckContext) -> bool:
    """Whether `tag`, which ends the longer one, is what that is about, as "eyes" is of "blue eyes"."""
    short, long = context.facts(tag), context.facts(longer)
    if bare(tag) != tag or bare(longer) != longer or "(" in long.key or not short.key.replace(" ", "").isalpha():
        return False
    modifiers = long.key.removesuffix(short.key).split()
    if short.key in _NO_HEADS or long.key in _NOT_A_KIND or any(word in _FUNCTION_WORDS for word in modifiers):
        return False
    return not any(facts.info is not None and facts.info.category in _NAMES for facts in (short, long))
