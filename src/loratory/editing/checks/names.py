"""Tags that are not what the vocabulary calls the thing: aliases, deprecated names, another site's, mistyped ones."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.finding import Fix, Said, counted, quoted, spelled_like, spoken
from loratory.editing.checks.near import known_names, words_of
from loratory.errors import LoratoryError
from loratory.tags.edits import Remove, Rename
from loratory.tags.text import bare, key
from loratory.tags.vocabulary.store import other_sites

if TYPE_CHECKING:
    from loratory.tags.vocabulary.model import Site, TagInfo
    from loratory.tags.vocabulary.store import Vocabulary

SITE_NAMES = {"e621": "e621", "danbooru": "Danbooru", "natural": "natural language"}

# A tag on this many pictures is taken for a word of one's own.
OWN_FROM = 3
# Names this short differ by one letter from too many others to guess by the small starter pack.
_GUESSED_BY_PACK_FROM = 8


def name_findings(tag: str, underscores: bool, context: CheckContext) -> tuple[Said, ...]:
    """What is to be said of one tag as a name, at most one thing.

    underscores: whether the caption's other tags are written with underscores. "unknown" is said of every tag that
    nothing else is said of, also where there is no list to know it from: whether that counts, the dataset tells.
    """
    remembered = context.memory.said_of_tag.get((tag, underscores))
    if remembered is None:
        remembered = tuple(_findings(tag, underscores, context))
        context.memory.said_of_tag[tag, underscores] = remembered
    return remembered


def _findings(tag: str, underscores: bool, context: CheckContext) -> Iterator[Said]:
    vocabulary, facts = context.vocabulary, context.facts(tag)
    if vocabulary is None:
        yield Said("unknown", "note", "", (tag,))
        return
    site = SITE_NAMES[vocabulary.site]
    if facts.info is not None:
        if facts.info.deprecated or facts.info.category == "invalid":
            message = (
                f"{quoted(tag)} is {'deprecated' if facts.info.deprecated else 'an invalid tag'} on {site}, so models "
                "know little that is certain about it. Say what is to be seen in other tags."
            )
            yield Said(
                "deprecated",
                "warning",
                message,
                (tag,),
                (Fix(f"remove {quoted(tag)}", Remove((tag,)), "image", False),),
            )
    elif facts.targets:
        yield _alias(tag, facts.targets, underscores, site)
    else:
        elsewhere = other_sites(tag, vocabulary.site)
        if elsewhere:
            yield from _wrong_site(tag, *elsewhere[0], underscores, context, vocabulary)
            return
        mistyped = _typo(tag, underscores, vocabulary)
        if mistyped is not None:
            yield mistyped
        else:
            message = (
                f"{quoted(tag)} is not a tag of {site}, so a model trained on it does not know the word. Fine for a "
                "word of your own; else look for the usual name."
            )
            yield Said("unknown", "note", message, (tag,))


def _alias(tag: str, targets: "tuple[TagInfo, ...]", underscores: bool, site: str) -> Said:
    names = [quoted(spoken(target.name)) for target in targets]
    if len(targets) == 1:
        message = f"{quoted(tag)} is called {names[0]} on {site}, which is the name that models know. Rename it."
        return Said("alias", "warning", message, (tag,), _renames(tag, targets[0].name, underscores, automatic=True))
    message = f"{quoted(tag)} can mean {', '.join(names[:-1])} or {names[-1]} on {site}. Choose the one that is meant."
    fixes = [fix for target in targets for fix in _renames(tag, target.name, underscores, automatic=False)[:1]]
    return Said("alias", "note", message, (tag,), tuple(fixes))


def _wrong_site(
    tag: str, other: "Site", info: "TagInfo", underscores: bool, context: CheckContext, vocabulary: "Vocabulary"
) -> Iterator[Said]:
    site = SITE_NAMES[vocabulary.site]
    translation = context.translation(info.name, other)
    if translation is not None:
        message = (
            f"{quoted(tag)} is a tag of {SITE_NAMES[other]}; on {site} it is {quoted(spoken(translation))}. Rename it."
        )
        yield Said("wrong-site", "warning", message, (tag,), _renames(tag, translation, underscores, automatic=True))
    elif vocabulary.known():  # that the starter pack lacks a tag says nothing about the site
        message = f"{quoted(tag)} is a tag of {SITE_NAMES[other]}, not of {site}. Look for the name it has there."
        yield Said("wrong-site", "warning", message, (tag,))


def _typo(tag: str, underscores: bool, vocabulary: "Vocabulary") -> Said | None:
    name = key(bare(tag))
    near = known_names(vocabulary).near(name)
    if not vocabulary.known():
        if len(name) < _GUESSED_BY_PACK_FROM or words_of(vocabulary).issuperset(name.split()):
            return None
        near = [(other, errors) for other, errors in near if errors == 1]
    meant = [info for other, _ in near if (info := vocabulary.find(other)) is not None]
    if not meant:
        return None
    fixes = [fix for info in meant for fix in _renames(tag, info.name, underscores, automatic=len(meant) == 1)]
    site, suggestion = SITE_NAMES[vocabulary.site], quoted(spoken(meant[0].name))
    if not vocabulary.known():
        message = f"{quoted(tag)} is nearly {suggestion}, a tag of {site}. Is it a mistake in writing?"
        return Said("typo", "note", message, (tag,), tuple(fixes))
    posts = f" ({counted(meant[0].count)} posts)" if meant[0].count else ""
    message = f"{quoted(tag)} is not a tag of {site}. Did you mean {suggestion}{posts}?"
    return Said("typo", "warning", message, (tag,), tuple(fixes))


def own_typo(tag: str, context: CheckContext) -> Said | None:
    """Says of a tag that no list has and that is on one or two pictures that it is nearly one that many have."""
    uses = context.uses.get(key(tag), 1)
    name = key(bare(tag))
    near = context.own_names.near(name)
    meant = [other for other, _ in near if context.uses[other] >= max(OWN_FROM, 3 * uses)]
    if not meant or context.own_words.issuperset(name.split()):
        return None
    message = (
        f"{quoted(tag)} is nearly {quoted(meant[0])}, which {context.uses[meant[0]]} pictures have. Is it a mistake in "
        "writing?"
    )
    return Said("typo", "note", message, (tag,), _renames(tag, meant[0], False, automatic=len(meant) == 1))


def _renames(tag: str, name: str, underscores: bool, *, automatic: bool) -> tuple[Fix, ...]:
    """The fixes that give `tag` the vocabulary's `name`, here or in the whole dataset."""
    new = spelled_like(name, tag, underscores)
    try:
        edit = Rename(tag, (new,))
    except LoratoryError:  # a vocabulary may hold names that cannot stand in a caption
        return ()
    return (
        Fix(f"rename it to {quoted(new)}", edit, "image", automatic),
        Fix(f"rename it to {quoted(new)} in all captions", edit, "dataset", automatic),
    )
