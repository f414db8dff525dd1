"""What the checks know beside the caption in hand: the vocabulary, the settings, and what the other captions say."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from loratory.config.schema import CaptionSettings
from loratory.editing.checks.near import NearNames, among, words_of
from loratory.tags.text import key, split_tags

if TYPE_CHECKING:
    from loratory.editing.checks.finding import Said
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.tags.vocabulary.model import Implied, Site, TagInfo
    from loratory.tags.vocabulary.store import Vocabulary

# A key in the allow-list of a rule that silences the rule for the whole dataset.
EVERYTHING = "*"

# From this many captions on, what they agree about counts for more than the name of their folder.
_ENOUGH_CAPTIONS = 3
_MOST_REMEMBERED = 50_000
_FENCE = "|||"  # ends the kept tags of a caption, so no tag holds it

Overflow = Callable[[str], tuple[int, str | None]]


@dataclass(frozen=True)
class FolderTokens:
    """What the first two tags in a folder are expected to be.

    instance: as the captions or the folder's name write it, "" where neither tells. classes: the class tags, the
    commonest first. is_class_named: whether the folder's name gives the class. named: the instance by the folder's
    name, where the captions agree on another.
    """

    instance: str = ""
    classes: tuple[str, ...] = ()
    is_class_named: bool = False
    named: str = ""


NO_TOKENS = FolderTokens()


class TagFacts(NamedTuple):
    """What the vocabulary says of one tag. canonical: the key by which it is known there, aliases resolved."""

    key: str
    info: "TagInfo | None"
    targets: "tuple[TagInfo, ...]"
    canonical: str
    implies: "Mapping[str, Implied]"


@dataclass
class Memory:
    """What was computed before, while vocabulary, settings and folder tokens stay as they are."""

    said: "dict[tuple[str, FolderTokens, bool], tuple[Said, ...]]" = field(default_factory=dict[Any, Any])
    facts: dict[str, TagFacts] = field(default_factory=dict[str, TagFacts])
    said_of_tag: "dict[tuple[str, bool], tuple[Said, ...]]" = field(default_factory=dict[Any, Any])
    vocabularies: "dict[Site, Vocabulary]" = field(default_factory=dict[Any, Any])

    def trim(self) -> None:
        """Forgets what there is very much of: every key press in the editor makes a new caption, and a new tag."""
        for remembered in (self.said, self.facts, self.said_of_tag):
            if len(remembered) > _MOST_REMEMBERED:
                remembered.clear()


@dataclass(frozen=True)
class CheckContext:
    """What the checks know beside the caption in hand.

    vocabulary: None checks no names. kept: rule id -> tag keys that the rule leaves alone; the key "*" silences the
    rule. style: "tags", or "natural" for sentences. goal: what is learnt. overflow: (tokens, what is cut off or None)
    of a text; None counts no tokens. tokens: by directory. uses: on how many pictures each tag key is.
    """

    vocabulary: "Vocabulary | None"
    caption: CaptionSettings
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    style: Literal["tags", "natural"] = "tags"
    goal: str = "character"
    overflow: Overflow | None = None
    tokens: Mapping[Path, FolderTokens] = field(default_factory=dict[Path, FolderTokens])
    uses: Mapping[str, int] = field(default_factory=dict[str, int])
    memory: Memory = field(default_factory=Memory, init=False, compare=False, repr=False)

    def is_kept(self, rule: str, tag: str = "") -> bool:
        """Whether `rule` leaves `tag` alone in this dataset."""
        kept = self.kept.get(rule)
        return kept is not None and (EVERYTHING in kept or (bool(tag) and key(tag) in kept))

    def surveyed(self, items: "Sequence[Item]") -> "CheckContext":
        """The same context, knowing what `items` say by now. A few µs for each caption."""
        return self._with(tokens=folder_tokens(items), uses=tag_uses(items))

    def keeping(self, kept: Mapping[str, frozenset[str]]) -> "CheckContext":
        """The same context with another allow-list."""
        return self._with(kept=kept)

    def _with(self, **changes: Any) -> "CheckContext":
        """A copy that remembers what this one does: nothing of it hangs on what these methods change."""
        context = replace(self, **changes)
        object.__setattr__(context, "memory", self.memory)
        return context

    @cached_property
    def own_names(self) -> NearNames:
        """The dataset's tags, the commonest first, to find what a mistyped one was meant to be."""
        return among(sorted(self.uses, key=lambda tag: -self.uses[tag]))

    @cached_property
    def own_words(self) -> frozenset[str]:
        """The words of the tags that several pictures have, and of a small vocabulary."""
        own = {word for tag, count in self.uses.items() if count >= _ENOUGH_CAPTIONS for word in tag.split()}
        if self.vocabulary is not None and not self.vocabulary.known():
            own |= words_of(self.vocabulary)
        return frozenset(own)

    def facts(self, tag: str) -> TagFacts:
        """What the vocabulary says of a tag."""
        facts = self.memory.facts.get(tag)
        if facts is None:
            facts = self.memory.facts[tag] = self._look_up(tag)
        return facts

    def translation(self, name: str, site: "Site") -> str | None:
        """What a tag of another site is called in this vocabulary, where a pack or rules file says so."""
        from loratory.tags.vocabulary.store import open_vocabulary

        other = self.memory.vocabularies.get(site)
        if other is None:
            other = self.memory.vocabularies[site] = open_vocabulary(site)
        return other.translate(name)

    def _look_up(self, tag: str) -> TagFacts:
        at = key(tag)
        if self.vocabulary is None:
            return TagFacts(at, None, (), at, {})
        info, implied = self.vocabulary.find(tag), self.vocabulary.implications(tag)
        if info is not None:
            return TagFacts(at, info, (), key(info.name), implied)
        targets = self.vocabulary.resolve(tag)
        return TagFacts(at, None, targets, key(targets[0].name) if len(targets) == 1 else at, implied)


def tag_uses(items: "Sequence[Item]") -> dict[str, int]:
    """On how many of the training pictures each tag key is."""
    uses: Counter[str] = Counter()
    for item in items:
        if not item.is_reg:
            uses.update(set(item.keys))
    return uses


def folder_tokens(items: "Sequence[Item]") -> dict[Path, FolderTokens]:
    """The instance and class tokens of each folder of `items`; regularization folders have none."""
    by_folder: defaultdict[Path, list[Item]] = defaultdict(list)
    for item in items:
        if not item.is_reg:
            by_folder[item.directory].append(item)
    return {folder: _tokens_of(members) for folder, members in by_folder.items()}


def readings(class_tokens: str) -> list[tuple[str, str]]:
    """What a folder's name `N_class_tokens` may say: (instance, class or "").

    "charactertag, outfittag" gives the first two tags. A name without a comma is an instance token, or one and a
    class, as in "sks dog". A name that cannot be a tag says nothing.
    """
    tags = split_tags(class_tokens)
    if not tags or _FENCE in class_tokens:
        return []
    instance, *others = tags
    if others:
        return [(instance, others[0])]
    words = re.split(r"[\s_]+", instance, maxsplit=1)
    return [(instance, ""), *([(words[0], words[1])] if len(words) > 1 and all(words) else [])]


def _tokens_of(items: "list[Item]") -> FolderTokens:
    tagged = [item for item in items if item.keys]
    firsts = Counter(item.keys[0] for item in tagged)
    common, times = firsts.most_common(1)[0] if firsts else ("", 0)
    named = readings(items[0].class_tokens)
    if not named:
        if times < _ENOUGH_CAPTIONS or 2 * times < len(tagged):
            return NO_TOKENS
        return _with_classes(FolderTokens(_written(tagged, 0, common)), tagged)
    instance, class_tag = max(named, key=lambda reading: firsts[key(reading[0])])
    known = firsts[key(instance)]
    agreed = times >= _ENOUGH_CAPTIONS and (5 * times >= 4 * len(tagged) or (2 * times >= len(tagged) and not known))
    if common != key(instance) and agreed:
        return _with_classes(FolderTokens(_written(tagged, 0, common), named=instance), tagged)
    if class_tag:
        return FolderTokens(instance, (class_tag,), is_class_named=True)
    return _with_classes(FolderTokens(instance), tagged)


def _with_classes(tokens: FolderTokens, tagged: "list[Item]") -> FolderTokens:
    """The tokens with the second tags that most captions share: pictures may differ in their class."""
    instance = key(tokens.instance)
    seconds = Counter(item.keys[1] for item in tagged if len(item.keys) > 1 and item.keys[0] == instance)
    least = max(2, len(tagged) // 10)
    common = [(tag, count) for tag, count in seconds.most_common() if count >= least]
    if 5 * sum(count for _, count in common) < 3 * len(tagged) or len(tagged) < _ENOUGH_CAPTIONS:
        return tokens
    return replace(tokens, classes=tuple(_written(tagged, 1, tag) for tag, _ in common))


def _written(items: "list[Item]", index: int, tag_key: str) -> str:
    return next(item.tags[index] for item in items if len(item.keys) > index and item.keys[index] == tag_key)


def clip_overflow(settings: CaptionSettings) -> Overflow:
    """Counts tokens as CLIP does, which all Stable Diffusion models have, and finds what `settings` cut off."""
    from loratory.models.tokens import count_tokens, light_clip, overflow

    clip, limit, weighted = light_clip(), settings.max_token_length, settings.weighted_captions

    def of(text: str) -> tuple[int, str | None]:
        tokens = count_tokens(clip, text, weighted=weighted)
        return tokens, overflow(clip, text, limit, weighted=weighted) if tokens > limit else None

    return of


def session_context(session: "Session") -> CheckContext:
    """What the checks go by in an open dataset. Raises LoratoryError where its settings or vocabulary are of no use."""
    settings = session.settings.caption_settings()
    context = CheckContext(
        session.vocabulary,
        settings,
        session.settings.kept_keys(),
        "natural" if session.site == "natural" else "tags",
        session.settings.goal,
        clip_overflow(settings),
    )
    return context.surveyed(session.items)
