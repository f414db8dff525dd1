"""The build of a caption: instance and class first, no tag twice, neither too few nor too many, one language."""

from collections import Counter
from collections.abc import Iterator, Sequence

from loratory.editing.checks.context import CheckContext, FolderTokens
from loratory.editing.checks.finding import Fix, Said, quoted, some_tags
from loratory.tags.edits import Add, Dedupe, Move, Normalise
from loratory.tags.text import Line, key

FEWEST_TAGS, MOST_TAGS = 5, 20
_SENTENCE_WORDS = 8
_SHORT_SENTENCE_WORDS = 4
_TAG_WORDS = 3
_TAG_LIST_FROM = 5

_SPACING = Fix("tidy commas and spaces", Normalise(spacing=True))
_SEVERAL = frozenset({"duo", "trio", "group", "multiple girls", "multiple boys", "multiple others"}) | frozenset(
    f"{number}{who}" for number in ("2", "3", "4", "5", "6+") for who in ("girls", "boys", "others")
)


def instance_and_class(tags: Sequence[str], keys: Sequence[str], tokens: FolderTokens) -> Iterator[Said]:
    """Whether the instance token is the first tag and a class token the second."""
    instance = key(tokens.instance)
    if not instance:
        return
    if instance not in keys:
        message = (
            f"The instance token {quoted(tokens.instance)} is missing, so this picture does not teach it. Add it in "
            "front."
        )
        add = Fix(f"add {quoted(tokens.instance)} in front", Add((tokens.instance,), "start"))
        yield Said("instance-missing", "warning", message, (tokens.instance,), (add,))
    elif keys[0] != instance:
        written = tags[keys.index(instance)]
        message = (
            f"The instance token {quoted(written)} is tag {keys.index(instance) + 1}, not the first: shuffling and tag "
            "dropout spare the first tags only. Move it to the front."
        )
        move = Fix(f"move {quoted(written)} to the front", Move(written, 1))
        yield Said("instance-misplaced", "warning", message, (written,), (move,))
    # Where the class belongs once the instance is where it belongs.
    others = [tag for tag in keys if tag != instance]
    if tokens.classes and not (others and others[0] in map(key, tokens.classes)):
        yield _class_elsewhere(tags, keys, tokens, others)


def _class_elsewhere(tags: Sequence[str], keys: Sequence[str], tokens: FolderTokens, others: Sequence[str]) -> Said:
    severity = "warning" if tokens.is_class_named else "note"
    place = 2 if len(others) < len(keys) else 1  # in front, while the instance token is missing
    second = "a class token, says what the instance is, and belongs in second place"
    present = next((tag for tag in tokens.classes if key(tag) in others), None)
    if present is not None:
        written = tags[keys.index(key(present))]
        message = f"{quoted(written)}, {second}. Move it there."
        move = Fix(f"move {quoted(written)} to second place", Move(written, place))
        return Said("class-misplaced", severity, message, (written,), (move,))
    known = some_tags(list(tokens.classes), 3)
    source = "the folder's name asks for" if tokens.is_class_named else "the other captions have"
    message = f"The second tag is no class token ({source} {known}). Add the one that says what the instance is here."
    fixes = [
        Fix(f"add {quoted(tag)} in second place", Add((tag,), place), "image", len(tokens.classes) == 1)
        for tag in tokens.classes
    ]
    return Said("class-missing", severity, message, (tokens.classes[0],), tuple(fixes))


def duplicates(tags: Sequence[str], keys: Sequence[str]) -> Iterator[Said]:
    """Tags that are there more than once."""
    for tag_key, times in Counter(keys).items():
        if times > 1:
            copies = tuple(tag for tag, each in zip(tags, keys, strict=True) if each == tag_key)
            message = f"{quoted(copies[0])} is there {times} times; the copies only take up tokens. Remove all but one."
            yield Said("duplicate", "warning", message, copies, (Fix("remove repeated tags", Dedupe()),))


def tag_budget(keys: Sequence[str]) -> Iterator[Said]:
    """Whether the number of tags is usual: 5 to 20."""
    count = len(keys)
    if count < FEWEST_TAGS:
        message = (
            f"{count} {'tag' if count == 1 else 'tags'}: what is not tagged is learnt as part of the instance. "
            f"{FEWEST_TAGS} to {MOST_TAGS} key elements are usual."
        )
        yield Said("few-tags", "note", message)
    elif count > MOST_TAGS:
        message = (
            f"{count} tags: what is learnt spreads thinly over so many. Keep the key elements, {FEWEST_TAGS} to "
            f"{MOST_TAGS} are usual; in doubt rather fewer."
        )
        yield Said("many-tags", "note", message)


def spacing(line: Line) -> Iterator[Said]:
    """Empty places between commas, and runs of spaces inside tags."""
    parts = line.parts
    empty = any(
        not part.body and (part.delimiter == "," or (not part.delimiter and before == ","))
        for part, before in zip(parts, ("", *(part.delimiter for part in parts)), strict=False)
    )
    uneven = [part.body for part in parts if part.body != " ".join(part.body.split())]
    if empty:
        message = "There is nothing between two commas, or after the last one, which trains as an empty tag. Tidy it."
        yield Said("spacing", "note", message, (), (_SPACING,))
    elif uneven:
        message = f"{some_tags(uneven, 2)} has several spaces, or others than the usual one, in a row. Tidy it."
        yield Said("spacing", "note", message, tuple(uneven), (_SPACING,))


def sentences_among_tags(tags: Sequence[str], context: CheckContext) -> Iterator[Said]:
    """Sentences in a caption of tags."""
    for tag in tags:
        words = len(tag.split())
        ends = tag.endswith((".", "!", "?")) and not tag.endswith("..")
        if words >= _SENTENCE_WORDS or (ends and words >= _SHORT_SENTENCE_WORDS):
            facts = context.facts(tag)
            if facts.info is None and not facts.targets:
                message = (
                    f"{quoted(tag)} reads like a sentence among tags. A model that was trained on tags hardly "
                    "understands it: say it in tags, or choose the natural vocabulary for the whole set."
                )
                yield Said("mixed-language", "note", message, (tag,))


def tags_for_sentences(tags: Sequence[str]) -> Iterator[Said]:
    """A list of tags where sentences are expected."""
    short = sum(len(tag.split()) <= _TAG_WORDS for tag in tags)
    if len(tags) >= _TAG_LIST_FROM and 5 * short >= 4 * len(tags):
        message = (
            f"This is a list of {len(tags)} tags, but the dataset's captions are sentences. Write it as one, or "
            "choose the vocabulary of a booru for the whole set."
        )
        yield Said("mixed-language", "note", message, tuple(tags))


def instance_in_sentence(text: str, tokens: FolderTokens) -> Iterator[Said]:
    """Whether a caption of sentences names the instance."""
    instance = _words(tokens.instance)
    if instance and f" {instance} " not in f" {_words(text)} ":
        message = (
            f"The instance token {quoted(tokens.instance)} is missing, so this picture does not teach it. Write it in."
        )
        yield Said("instance-missing", "warning", message, (tokens.instance,))


def several_subjects(tags: Sequence[str], exempt: frozenset[str], context: CheckContext) -> Iterator[Said]:
    """A tag that says there are several subjects, where nothing else names another one."""
    if context.vocabulary is None:
        return
    known = [context.facts(tag) for tag in tags]
    group = next((tag for tag, facts in zip(tags, known, strict=True) if facts.canonical in _SEVERAL), None)
    if group is None:
        return
    others = [facts for facts in known if facts.key not in exempt and facts.canonical not in _SEVERAL]
    # A word that the vocabulary lacks may be the other one's name.
    if any(facts.info is None or facts.info.category in ("species", "character") for facts in others):
        return
    message = (
        f"{quoted(group)} says that there are several subjects, and no tag here names another than the instance: what "
        "belongs to the others may be learnt as the instance's. Tag them too, or crop them out."
    )
    yield Said("groups", "note", message, (group,))


def _words(text: str) -> str:
    """The words of a text in small letters with one space between them, for finding a token among them."""
    return " ".join("".join(c if c.isalnum() or c in "-'" else " " for c in text.casefold()).split())
