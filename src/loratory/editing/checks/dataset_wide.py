"""What only all captions together show."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset.findings import Severity, shown
from loratory.dataset.listing import stem
from loratory.editing.checks.context import CheckContext, FolderTokens, folder_tokens, tag_uses
from loratory.editing.checks.finding import CaptionFinding, Fix, Said, counted, quoted, some_tags
from loratory.editing.checks.names import SITE_NAMES
from loratory.editing.checks.structure import FEWEST_TAGS, MOST_TAGS
from loratory.tags.edits import Rename, Several
from loratory.tags.text import key

if TYPE_CHECKING:
    from loratory.editing.items import Item

# A handful of captions agree by chance.
_FOLDER_FROM = 5
_SET_FROM = 10
_WELL_KNOWN_POSTS = 100
_MOST_PARTS = 5  # of a file name, by the underscores of its whole path: sd-scripts' rule

_STYLE_CATEGORIES = frozenset({"artist", "contributor"})
_STYLE_ENDINGS = ("(medium)", "(artwork)", "(style)")
_STYLES = frozenset(
    {
        *(
            "sketch",
            "colored sketch",
            "monochrome",
            "greyscale",
            "lineart",
            "line art",
            "3d",
            "cgi",
            "render",
            "pixel art",
        ),
        *("screencap", "anime screencap", "screenshot", "game screenshot", "official art", "concept art", "realistic"),
        *("photorealistic", "cel shading", "traditional media", "digital media", "anime coloring", "toony", "photo"),
    }
)


def check_set(items: "Sequence[Item]", context: CheckContext) -> list[CaptionFinding]:
    """What is to be said of a folder or of the whole set, folders first; regularization sets are left in peace.

    It looks at `items` as they are, whatever the context was told of them before.
    """
    train = [item for item in items if not item.is_reg]
    found = [*_fallbacks(train, context)]
    tagged = [item for item in train if item.keys]
    if context.style == "natural" or not tagged:
        return [finding for finding in found if not context.is_kept(finding.rule)]
    by_folder: defaultdict[Path, list[Item]] = defaultdict(list)
    for item in tagged:
        by_folder[item.directory].append(item)
    tokens = folder_tokens(train)
    for directory, members in by_folder.items():
        for said in _of_folder(members, tokens[directory], context):
            found.append(CaptionFinding(said.rule, said.severity, directory, said.message, "", said.tags, said.fixes))
    for said in _of_set(tagged, tokens, context):
        found.append(CaptionFinding(said.rule, said.severity, None, said.message, "", said.tags, said.fixes))
    return [finding for finding in found if not context.is_kept(finding.rule)]


def _of_folder(items: "list[Item]", tokens: FolderTokens, context: CheckContext) -> Iterator[Said]:
    """items: those of one folder with a caption."""
    where = shown(items[0].folder)
    if tokens.named and not context.is_kept("folder-token", tokens.named):
        message = (
            f"{where}: its captions begin with {quoted(tokens.instance)}, but its name says {quoted(tokens.named)}. "
            "Pictures without a caption are trained on the folder's name: let both say the same."
        )
        yield Said("folder-token", "note", message, (tokens.instance, tokens.named))
    yield from _known_instance(where, tokens, context)
    if tokens.instance and not tokens.classes and len(items) >= _FOLDER_FROM and context.goal != "style":
        seconds = Counter(item.keys[1] for item in items if len(item.keys) > 1).most_common(3)
        named = f" ({', '.join(f'“{tag}” on {count}' for tag, count in seconds)})" if seconds else ""
        message = (
            f"{where}: the second tags agree on no class token{named}. A general word for what the instance is, such "
            "as “weapon” or “anthro”, helps in second place."
        )
        yield Said("class-missing", "note", message)
    everywhere = [] if len(items) < _FOLDER_FROM else _on_all(items, tokens, context)
    if everywhere:
        into = quoted(tokens.instance) if tokens.instance else "the instance"
        message = (
            f"{where}: {some_tags(everywhere)} {'is' if len(everywhere) == 1 else 'are'} on all {len(items)} "
            f"captions, and cannot be told from {into}. Fine where that is meant; else leave it out, or add pictures "
            "without."
        )
        yield Said("everywhere", "note", message, tuple(everywhere))


def _known_instance(where: str, tokens: FolderTokens, context: CheckContext) -> Iterator[Said]:
    if not tokens.instance or context.vocabulary is None or context.is_kept("instance-known", tokens.instance):
        return
    facts = context.facts(tokens.instance)
    info = facts.info or (facts.targets[0] if facts.targets else None)
    if info is None or (info.origin == "import" and info.count < _WELL_KNOWN_POSTS):
        return
    posts = f" with {counted(info.count)} posts" if info.count else ""
    example = "".join(letter for letter in facts.key if letter.isalnum() and letter not in "aeiou") + "lora"
    message = (
        f"{where}: the instance token {quoted(tokens.instance)} is a tag of "
        f"{SITE_NAMES[context.vocabulary.site]}{posts}, so the model has an idea of it. If that shows in the results, "
        f"take an unusual string, such as “{example}”."
    )
    yield Said("instance-known", "note", message, (tokens.instance,))


def _on_all(items: "list[Item]", tokens: FolderTokens, context: CheckContext) -> list[str]:
    """The tags, as first written, that all captions have, but for instance, class and styles."""
    own = {key(tag) for tag in (tokens.instance, *tokens.classes)}
    first = items[0]
    common = set(first.keys).intersection(*(item.keys for item in items[1:]))
    return [
        tag
        for tag, tag_key in dict(zip(first.tags, first.keys, strict=True)).items()
        if tag_key in common
        and tag_key not in own
        and not (is_style(tag, context) and context.goal != "style")
        and not context.is_kept("everywhere", tag)
    ]


def _of_set(items: "list[Item]", tokens: dict[Path, FolderTokens], context: CheckContext) -> Iterator[Said]:
    """items: all with a caption."""
    counts = [len(item.keys) for item in items]
    mean = sum(counts) / len(counts)
    if len(items) > 1 and max(counts) == 1:
        message = (
            f"Each of the {len(items)} captions is a single tag: subject, poses and backgrounds all melt into it. Tag "
            "what is to be told apart."
        )
        yield Said("single-tag", "warning", message, (items[0].tags[0],))
    elif mean > MOST_TAGS:
        message = (
            f"The captions have {mean:.1f} tags on average; up to {MOST_TAGS} are usual. What is learnt spreads "
            "thinly over more: keep the key elements."
        )
        yield Said("many-tags", "warning", message)
    elif mean < FEWEST_TAGS:
        message = (
            f"The captions have {mean:.1f} tags on average; {FEWEST_TAGS} to {MOST_TAGS} are usual. What is not "
            "tagged is learnt as part of the instance."
        )
        yield Said("few-tags", "note", message)
    yield from _kept_in_front(items, tokens, context)
    yield from _concentrations(items, context)
    yield from _spellings(items, context)
    yield from _singletons(items, tokens, context)


def _kept_in_front(items: "list[Item]", tokens: dict[Path, FolderTokens], context: CheckContext) -> Iterator[Said]:
    """Whether keep_tokens holds instance and class in place, and nothing else, where tags move."""
    settings = context.caption
    moves = settings.shuffle_caption or settings.caption_tag_dropout_rate > 0 or settings.token_warmup_step > 0
    if not moves or settings.keep_tokens_separator:
        return
    firsts = {
        1 + bool(each.classes)
        for directory in {item.directory for item in items}
        if (each := tokens[directory]).instance
    }
    if not firsts:
        return
    wanted, kept = max(firsts), settings.keep_tokens
    what = "the instance and the class token" if wanted == 2 else "the instance token"
    severity: Severity = "warning" if kept < wanted else "note"
    if kept < wanted:
        message = (
            f"caption.keep_tokens = {kept} leaves {what} to shuffling and dropout. Captions here begin with {what}: "
            f"set it to {wanted}."
        )
    elif kept > wanted:
        message = (
            f"caption.keep_tokens = {kept} keeps more in front than {what}, so the tags behind are never shuffled or "
            f"dropped. It counts tags, not commas: {wanted} would do."
        )
    else:
        return
    yield Said("keep-tokens", severity, message)


def _concentrations(items: "list[Item]", context: CheckContext) -> Iterator[Said]:
    """Artists, media and styles on more than half of the set."""
    if context.goal == "style" or len(items) < _SET_FROM:
        return
    for tag, count in tag_uses(items).items():
        if 2 * count > len(items) and is_style(tag, context) and not context.is_kept("concentration", tag):
            message = (
                f"{quoted(tag)} is on {count} of {len(items)} captions: results will lean to that look unasked. Keep "
                "the tag, and add pictures of other artists or media, or a regularization set."
            )
            yield Said("concentration", "note", message, (tag,))


def is_style(tag: str, context: CheckContext) -> bool:
    """Whether a tag names an artist, a medium or a way of drawing."""
    facts = context.facts(tag)
    if facts.canonical in _STYLES or facts.key in _STYLES or facts.key.endswith(_STYLE_ENDINGS):
        return True
    return facts.info is not None and facts.info.category in _STYLE_CATEGORIES


def _spellings(items: "list[Item]", context: CheckContext) -> Iterator[Said]:
    """Tags that are written now with spaces, now with underscores or escaped brackets: other tokens each time."""
    written: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        for tag, tag_key in zip(item.tags, item.keys, strict=True):
            written[tag_key][tag] += 1
    # Text encoders read small letters only, so that case makes no difference.
    several = {
        tag_key: spellings.most_common()
        for tag_key, spellings in written.items()
        if len({spelling.casefold() for spelling in spellings}) > 1 and not context.is_kept("spelling", tag_key)
    }
    if not several:
        return
    spellings = next(iter(several.values()))
    example = " and ".join(f"{quoted(spelling)} on {count}" for spelling, count in spellings[:2])
    many = "1 tag is" if len(several) == 1 else f"{len(several)} tags are"
    message = (
        f"{many} written in more than one way ({example}), which a text encoder reads as different words. Choose one."
    )
    respell = Several(tuple(Rename(each[1][0], (each[0][0],)) for each in several.values()))
    tags = tuple(spelling for each in several.values() for spelling, _ in each[1:])
    yield Said("spelling", "warning", message, tags, (Fix("write each as most captions do", respell, "dataset"),))


def _singletons(items: "list[Item]", tokens: dict[Path, FolderTokens], context: CheckContext) -> Iterator[Said]:
    if len(items) < _SET_FROM:
        return
    own = {key(tag) for each in tokens.values() for tag in (each.instance, *each.classes)}
    once = [
        tag
        for tag, count in tag_uses(items).items()
        if count == 1 and tag not in own and not context.is_kept("singleton", tag)
    ]
    if once:
        few = "1 tag is" if len(once) == 1 else f"{len(once)} tags are"
        message = (
            f"{few} on a single picture ({some_tags(once)}), too little to be learnt by. Fine for what only that "
            "picture shows; look for slips among them."
        )
        yield Said("singleton", "note", message, tuple(once))


def _fallbacks(items: "list[Item]", context: CheckContext) -> Iterator[CaptionFinding]:
    """Pictures without a caption that sd-scripts trains on another picture's: of the name without its last four
    parts."""
    ending = context.caption.caption_extension
    captions = {str(item.caption_path): item for item in items if item.data is not None}
    for item in items:
        parts = str(item.directory / stem(item.image_name)).split("_")
        other = captions.get("_".join(parts[:-4]) + ending) if len(parts) >= _MOST_PARTS else None
        if item.data is None and other is not None:
            message = (
                f"sd-scripts takes {shown(other.caption_name)} for a picture of this name that has no caption of its "
                "own; here it is trained without. Write its caption."
            )
            yield CaptionFinding("stem-fallback", "note", item.caption_path, message, item.name)
