"""Completion: bands, scores, the index and its bytes, and any text at all."""

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from math import log1p

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from loratory.tags.completion import Completer, Suggestion, build_index, load_index
from loratory.tags.completion.index import LISTED_FIRST, indexed
from loratory.tags.completion.matching import needs, subsequence_cost, subsequence_costs, typo_costs, words
from loratory.tags.completion.search import leading
from loratory.tags.text import bare, key
from loratory.tags.vocabulary.model import Entry


class Vocabulary:
    """As much of a vocabulary as completion needs, in memory."""

    def __init__(self, *entries: Entry) -> None:
        self.listed = entries
        self.blobs: dict[str, bytes] = {}
        self.reads = 0

    def entries(self) -> Iterator[Entry]:
        self.reads += 1
        return iter(self.listed)

    def blob(self, name: str) -> bytes | None:
        return self.blobs.get(name)

    def put_blob(self, name: str, data: bytes) -> None:
        self.blobs[name] = data


def tag(name: str, count: int = 100, category: str = "general", aliases: Sequence[str] = (), deprecated: bool = False):
    return Entry(name, category, count, deprecated, tuple(aliases))


SITE = (
    tag("side_view", 64_000, aliases=["from_the_side", "sideview"]),
    tag("white_background", 500_000, aliases=["white_bg"]),
    tag("blue_eyes", 400_000),
    tag("eyes_closed", 250_000, aliases=["closed_eyes"]),
    tag("eyes_in_the_dark", 30),
    tag("parallel_speed_lines", 500),
    tag("three-quarter_view", 12_000, aliases=["3/4_view"]),
    tag("model_sheet", 20_000, "meta", aliases=["reference_sheet"]),
    tag("watercolor_(artwork)", 3_000, "meta"),
    tag("german_shepherd", 12_000, "species", aliases=["alsatian"]),
    tag("domestic_dog", 240_000, "species", aliases=["dog"]),
    tag("dog_tags", 3_000),
    tag("^_^", 1_000),
    tag(":3", 11_000),
    tag("solo", 1_600_000),
    tag("Ünïcode_é", 5),
)


@pytest.fixture(scope="module")
def completer() -> Completer:
    return Completer(Vocabulary(*SITE))


def names(found: Sequence[Suggestion]) -> list[str]:
    return [suggestion.name for suggestion in found]


def complete(entries: Sequence[Entry], typed: str, uses: Mapping[str, int] | None = None, **more) -> list[Suggestion]:
    return Completer(Vocabulary(*entries)).complete(typed, uses=uses or {}, **more)


# Bands


def test_the_bands_come_in_their_order_whatever_the_counts():
    entries = [
        tag("lines", 1),
        tag("strokes", 20, aliases=["lines"]),
        tag("speed_lines", 300),
        tag("drawing", 4_000, aliases=["lines_art"]),
        tag("line_stems", 50_000),
        tag("limes", 600_000),
    ]
    found = complete(entries, "lines")
    assert [(suggestion.band, suggestion.name) for suggestion in found] == [
        ("exact", "lines"),
        ("alias", "strokes"),
        ("word", "speed_lines"),
        ("prefix", "drawing"),
        ("subsequence", "line_stems"),
        ("typo", "limes"),
    ]


@pytest.mark.parametrize(
    ("typed", "name", "band", "alias"),
    [
        ("lines", "parallel_speed_lines", "word", None),
        ("side vi", "side_view", "word", None),
        ("vi side", "side_view", "word", None),
        ("quarter vi", "three-quarter_view", "word", None),
        ("(art", "watercolor_(artwork)", "word", None),
        ("artw", "watercolor_(artwork)", "word", None),
        ("watercolor \\(art", "watercolor_(artwork)", "word", None),
        ("3/4", "three-quarter_view", "prefix", "3/4_view"),
        ("sidev", "side_view", "prefix", "sideview"),
        ("dog", "domestic_dog", "alias", "dog"),
        ("sdvw", "side_view", "subsequence", None),
        ("psl", "parallel_speed_lines", "subsequence", None),
        ("refrence sheet", "model_sheet", "subsequence", "reference_sheet"),
        ("whtie backg", "white_background", "typo", None),
        ("germna shepherd", "german_shepherd", "typo", None),
        ("germin shep", "german_shepherd", "typo", None),
        ("alsation", "german_shepherd", "typo", "alsatian"),
        ("^_^", "^_^", "exact", None),
        ("^", "^_^", "word", None),
        (":3", ":3", "exact", None),
        ("(blue eyes:1.2)", "blue_eyes", "exact", None),
        ("ünïC", "Ünïcode_é", "word", None),
    ],
)
def test_what_is_typed_finds_the_tag_in_a_band(
    completer: Completer, typed: str, name: str, band: str, alias: str | None
):
    first = completer.complete(typed, uses={})[0]
    assert (first.name, first.band, first.alias) == (name, band, alias)


def test_a_name_that_starts_with_the_text_needs_no_more_posts_but_a_much_commoner_one_wins():
    rare, near, common = tag("eyes_in_the_dark", 1_000), tag("odd_eyes", 10_000), tag("blue_eyes", 400_000)
    assert names(complete([near, rare, common], "eyes")) == ["blue_eyes", "eyes_in_the_dark", "odd_eyes"]


def test_a_suggestion_says_all_of_its_tag(completer: Completer):
    found = completer.complete("dog", uses={"domestic dog": 3, "dog": 2})
    assert found[0] == Suggestion("domestic_dog", "species", 240_000, "dog", "alias", 5)


@pytest.mark.parametrize("typed", ["side_view", "side view", "SIDE_VIEW", "  side   view ", "side__view", "side_view_"])
def test_spelling_of_spaces_and_case_does_not_matter(completer: Completer, typed: str):
    assert completer.complete(typed, uses={}) == completer.complete("side view", uses={})


def test_each_typed_word_needs_a_word_of_its_own():
    entries = [tag("tail_tuft"), tag("tail")]
    assert names(complete(entries, "ta t")) == ["tail_tuft"]
    assert [suggestion.band for suggestion in complete(entries, "t t t")] == ["subsequence"]


def test_short_texts_have_no_typos_and_longer_ones_two():
    entries = [tag("abcd"), tag("abcdefghi")]
    assert names(complete(entries, "xbcd")) == []
    assert names(complete(entries, "xbcdefghj")) == ["abcdefghi"]
    assert names(complete(entries, "xbcdefgkj")) == []


def test_a_tag_comes_once_by_its_best_form():
    entries = [tag("fox", aliases=["foxes", "fox_tail", "foxy"]), tag("fox_ears", aliases=["fox_ear"])]
    found = complete(entries, "fox")
    assert [(suggestion.name, suggestion.alias) for suggestion in found] == [("fox", None), ("fox_ears", None)]


def test_one_tag_with_very_many_aliases_leaves_room_for_others():
    crowd = tag("crowd", 10**6, aliases=[f"ab{number}" for number in range(200)])
    entries = [crowd, *(tag(f"other{number}", aliases=[f"ab_{number}"]) for number in range(9))]
    assert len(complete(entries, "ab")) == 8


# Scores


def test_counts_then_categories_then_the_alphabet():
    entries = [tag("fa", 10), tag("fb", 10), tag("fc", 900), tag("fd", 10, "artist"), tag("fe", 10, "species")]
    assert names(complete(entries, "f")) == ["fc", "fa", "fb", "fe", "fd"]


def test_deprecated_tags_come_last():
    assert names(complete([tag("fox", 9, deprecated=True), tag("fog", 1)], "fo")) == ["fog", "fox"]


def test_use_in_the_dataset_lifts_a_tag():
    entries = [tag("fox", 10), tag("fog", 100)]
    assert names(complete(entries, "fo")) == ["fog", "fox"]
    assert names(complete(entries, "fo", {"Fox": 1})) == ["fox", "fog"]
    assert names(complete(entries, "fo", {"fox": 0})) == ["fog", "fox"]


def test_recent_use_lifts_a_tag_and_the_last_one_most():
    entries = [tag("fa"), tag("fb"), tag("fc")]
    assert names(complete(entries, "f", recent=["fc", "fb"])) == ["fc", "fb", "fa"]


def test_emphasis_is_no_part_of_a_used_tag():
    entries = [tag("fox", 10), tag("fog", 100)]
    assert complete(entries, "fo", {"(fox:1.2)": 4})[0].uses == 4


def test_pinned_tags_come_first_in_their_order_but_not_before_what_was_typed_whole():
    entries = [tag("fa", 10**6), tag("fb"), tag("fc"), tag("f", 1)]
    assert names(complete(entries, "f", pinned=["fc", "zoo", "fb"])) == ["f", "fc", "fb", "fa"]


def test_a_pinned_tag_far_down_its_band_is_found():
    entries = [tag(f"fox{number:03}", 1000 - number) for number in range(500)]
    assert names(complete(entries, "fo", pinned=["fox499"]))[:2] == ["fox499", "fox000"]


def test_a_pinned_tag_by_a_typo_does_not_come_before_better_bands():
    found = complete([tag("limes_green"), tag("lines_green")], "lines", pinned=["limes green"])
    assert names(found) == ["lines_green", "limes_green"]


# The dataset's own tags


def test_tags_that_no_vocabulary_knows_are_offered(completer: Completer):
    found = completer.complete("zor", uses={"zorx (mine)": 30})
    assert found == [Suggestion("zorx (mine)", "", 0, None, "word", 30)]
    assert completer.complete("zor", uses={}) == []


def test_an_own_tag_is_offered_once_in_its_most_used_spelling(completer: Completer):
    found = completer.complete("zorx", uses={"Zorx_A": 2, "zorx a": 3, "(zorx a:1.1)": 1})
    assert [(suggestion.name, suggestion.uses) for suggestion in found] == [("zorx a", 6)]


def test_an_alias_in_the_dataset_is_no_tag_of_its_own(completer: Completer):
    assert names(completer.complete("alsatian", uses={"alsatian": 9})) == ["german_shepherd"]


def test_an_alias_of_several_tags_counts_for_none():
    entries = [tag("lynx", aliases=["bobcat"]), tag("cat", aliases=["bobcat"])]
    found = complete(entries, "bobcat", {"bobcat": 9})
    assert [(suggestion.name, suggestion.uses) for suggestion in found] == [("cat", 0), ("lynx", 0)]


def test_changes_of_the_dataset_are_seen():
    completer, uses = Completer(Vocabulary()), {"aa": 1}
    assert names(completer.complete("a", uses=uses)) == ["aa"]
    uses["ab"] = 5
    assert names(completer.complete("a", uses=uses)) == ["ab", "aa"]
    del uses["aa"]
    assert names(completer.complete("a", uses=uses)) == ["ab"]


# Nothing typed


@pytest.mark.parametrize("typed", ["", "  ", "\t\n"])
def test_nothing_typed_offers_pinned_then_recent_then_most_used(completer: Completer, typed: str):
    uses = {"solo": 3, "zorx": 9, "blue eyes": 3, "dog tags": 1, "side view": 0}
    found = completer.complete(typed, uses=uses, recent=["dog tags", "from the side"], pinned=["from the side", "zed"])
    assert [(suggestion.name, suggestion.band) for suggestion in found] == [
        ("side_view", "pinned"),
        ("zed", "pinned"),
        ("dog_tags", "recent"),
        ("zorx", "used"),
        ("blue_eyes", "used"),
        ("solo", "used"),
    ]
    assert names(completer.complete(typed, uses=uses, limit=2)) == ["zorx", "blue_eyes"]


def test_nothing_typed_and_nothing_used_offers_nothing(completer: Completer):
    assert completer.complete("", uses={}) == []


# Any text at all

HOSTILE = [
    "[/b]",
    "[@click=app.quit]x",
    "[/",
    ":x:",
    "\x00",
    "\x1b[31m",
    "a\nb",
    ".*+?[](){}|^$\\",
    "(((((",
    "\\",
    "_",
    "🦊",
    "👩‍👩‍👧",
    "שלום עולם",
    "\u202eabc",
    "\udc80\ud800",
    "a" * 10_000,
    "a " * 5_000,
    "-a" * 5_000,
    "İß",
    "日本語",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_is_too_strange(completer: Completer, text: str):
    assert len(completer.complete(text, uses={})) <= 8
    found = completer.complete(text, uses={text: 2, "other": 1}, recent=[text], pinned=[text])
    assert found[0].name == (text.strip() if text.lstrip().startswith("[") else bare(text))
    assert found[0].uses == 2
    entries = [tag(text, aliases=HOSTILE), tag("side_view", aliases=[text])]
    assert complete(entries, text)[0].name == text


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.integers(-1, 50), max_size=4), st.integers(-1, 9))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_at_most_the_limit_and_no_tag_twice(typed: str, uses: dict[str, int], limit: int):
    completer = COMPLETER
    found = completer.complete(typed, uses=uses, recent=list(uses)[:2], pinned=list(uses)[1:], limit=limit)
    assert len(found) <= max(limit, 0)
    assert len({key(suggestion.name) for suggestion in found}) == len(found)


COMPLETER = Completer(Vocabulary(*SITE))


# The same as looking at every form

WORDS = ["a", "ab", "abc", "bca", "cab", "abcabc", "bcabcabcd", "a-b", "(ab)", "c/a", "b's", "^_^"]
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("_".join)
ENTRIES = st.lists(
    st.builds(
        tag,
        NAMES,
        st.sampled_from([0, 1, 5, 50, 9_000]),
        st.sampled_from(["general", "artist", "species", "meta"]),
        st.lists(NAMES, max_size=3),
        st.booleans(),
    ),
    max_size=14,
    unique_by=lambda entry: key(entry.name),
)
TYPED = st.one_of(NAMES, st.text("abc -(", min_size=1, max_size=12), NAMES.map(lambda name: name[: len(name) * 2 // 3]))

PRIORS = {"general": 1.0, "species": 1.0, "meta": 0.5, "artist": -1.0}


def reference(entries: Sequence[Entry], text: str, uses: Mapping[str, int], recent: Sequence[str], limit: int):
    """(band, name, alias) as the rules say, by comparing everything with everything."""
    known = {indexed(entry.name) for entry in entries} | {indexed(a) for entry in entries for a in entry.aliases}
    own = [tag(name, 0) for name in uses if indexed(name) not in known]
    ranked: list[tuple[tuple[float, ...], str, str, str | None]] = []
    for source, listed in enumerate((entries, own)):
        standings = {entry.name: log1p(entry.count) + PRIORS[entry.category] for entry in listed}
        if source == 0 and not any(entry.count for entry in listed):
            for category in PRIORS:
                same = [entry.name for entry in listed if entry.category == category]
                for place, name in enumerate(same):
                    standings[name] += LISTED_FIRST * (1 - place / len(same))
        for entry in listed:
            standing = standings[entry.name] - 6.0 * entry.deprecated
            gain = 0.0
            if entry.name in uses:
                gain = 3.0 + 2.0 * log1p(uses[entry.name])
            if entry.name in recent:
                gain += 3.0 * (1 - recent.index(entry.name) / 20)
            aliases = {indexed(alias): alias for alias in entry.aliases if indexed(alias) != indexed(entry.name)}
            for form, alias in [(indexed(entry.name), None), *aliases.items()]:
                for tier, band, loss in reference_bands(text, form, alias is not None):
                    score = standing + gain - loss
                    tie = (source, -standing, indexed(entry.name), entry.name, alias is not None, form)
                    ranked.append(((tier, -score, *tie), band, entry.name, alias))
    ranked.sort(key=lambda item: item[0])
    result: dict[str, tuple[str, str, str | None]] = {}
    for group in ((0, 1, 2, 3), (4,), (5,)):
        for rank, band, name, alias in ranked:
            if rank[0] in group:
                result.setdefault(name, (band, name, alias))
        if len(result) >= limit:
            break
    return list(result.values())[:limit]


def reference_bands(text: str, form: str, is_alias: bool) -> Iterator[tuple[int, str, float]]:
    if form == text:
        yield (1, "alias", 0.0) if is_alias else (0, "exact", 0.0)
    starts = [at for at in range(len(form)) if form[at] != " " and starts_word(form, at)]
    ends = [form.find(" ", at) % (len(form) + 1) for at in starts]
    pieces = [form[start:end] for start, end in zip(starts, ends, strict=True)]
    typed = text.split(" ")
    if any(
        all(piece.startswith(word) for word, piece in zip(typed, chosen, strict=True))
        for chosen in itertools.permutations(pieces, len(typed))
    ):
        loss = -4.0 if form.startswith(text) else 0.0
        yield (3, "prefix", loss) if is_alias else (2, "word", loss)
    letters = text.replace(" ", "")
    if len(letters) >= 3 and len(form) > len(letters):
        cost = subsequence_cost(letters, form)
        if cost is not None:
            yield 4, "subsequence", 1.5 * cost
    for cost in typo_costs(text, [form]).values():
        yield 5, "typo", 3.0 * cost


def starts_word(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] == " " or (text[at].isalnum() and not re.match(r"[\w'’]", text[at - 1]))


@given(ENTRIES, TYPED, st.dictionaries(NAMES, st.integers(1, 9), max_size=3), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
@example([tag("a_ab"), tag("ab_a", 5)], "a a", {}, 8)
def test_the_index_ranks_as_looking_at_every_form_does(entries, typed: str, uses: dict[str, int], limit: int):
    text = indexed(typed)
    assume(text and bare(typed) == typed.strip())
    aliases = {indexed(alias) for entry in entries for alias in entry.aliases}
    canonical = {indexed(entry.name): entry.name for entry in entries}
    # Emphasis, which of two spellings, and what an alias counts for, have tests of their own.
    told = {canonical.get(indexed(name), name): count for name, count in uses.items() if bare(name) == name}
    told = {name: count for name, count in told.items() if name in canonical.values() or indexed(name) not in aliases}
    told = dict({indexed(name): (name, count) for name, count in told.items()}.values())
    recent = sorted(told)[:2]
    found = Completer(Vocabulary(*entries)).complete(typed, uses=told, recent=recent, limit=limit)
    shown = [(suggestion.band, suggestion.name, suggestion.alias) for suggestion in found]
    assert shown == reference(entries, text, told, recent, limit)


@given(ENTRIES)
@settings(max_examples=40, deadline=None)
def test_every_name_typed_whole_is_the_first_suggestion(entries):
    completer = Completer(Vocabulary(*entries))
    for entry in entries:
        for typed in (entry.name, entry.name.replace("_", " "), entry.name.upper()):
            if key(typed) == key(entry.name):  # emoticons keep their underscores
                assert completer.complete(typed, uses={})[0].name == entry.name


def test_every_prefix_of_a_name_finds_it_or_eight_that_match(completer: Completer):
    for entry in SITE:
        for end in range(3, len(entry.name) + 1):
            text = indexed(entry.name[:end])
            found = completer.complete(entry.name[:end], uses={})
            assert entry.name in names(found) or len(found) == 8
            for suggestion in found:
                form = indexed(suggestion.alias or suggestion.name)
                assert suggestion.band in [band for _, band, _ in reference_bands(text, form, bool(suggestion.alias))]


def test_typing_on_gives_the_same_as_starting_afresh():
    typing = Completer(Vocabulary(*SITE))
    for end in range(1, len("white backgruond") + 1):
        typed = "white backgruond"[:end]
        assert typing.complete(typed, uses={}) == complete(SITE, typed)


# Parts


@given(st.lists(st.sampled_from(["a", "ab", "abc", "b", "bc"]), min_size=1, max_size=4), st.sampled_from(WORDS))
def test_counting_prefixes_is_enough_to_give_each_word_its_own(typed: list[str], last: str):
    pieces = [*words("ab abc a bca"), last]
    counted = all(
        sum(piece.startswith(prefix) for piece in pieces) >= needed for prefix, needed in needs(" ".join(typed)).items()
    )
    assert counted == any(
        all(piece.startswith(word) for word, piece in zip(typed, chosen, strict=True))
        for chosen in itertools.permutations(pieces, len(typed))
    )


def test_gaps_cost_and_starts_of_words_cost_less():
    costs = [subsequence_cost("sv", text) for text in ("svelte", "side view", "sieve")]
    assert costs == [0.0, pytest.approx(0.25 + 4 * 0.05), pytest.approx(1 + 2 * 0.05)]
    assert subsequence_cost("sv", "vs") is None
    assert subsequence_cost("iew", "side view") is None  # not from the start of a word
    assert subsequence_cost("abc", "a ooooooooooooooooooobooooooooooooooooooc") is None


def test_many_texts_cost_what_each_costs():
    chance = random.Random(1)
    texts = ["".join(chance.choices("abc. \n", k=9)) for _ in range(2_000)]
    each = {at: cost for at, text in enumerate(texts) if (cost := subsequence_cost("a.b", text)) is not None}
    assert subsequence_costs("a.b", texts) == each
    assert each


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 45))
def test_leading_takes_the_best_and_of_level_ones_the_first(scores: list[int], many: int):
    forms = np.arange(len(scores), dtype=np.int32)
    np.random.default_rng(0).shuffle(forms)
    chosen, _ = leading(forms, np.array(scores, np.float64), many)
    ranked = sorted(zip(forms.tolist(), scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    assert sorted(chosen.tolist()) == sorted(form for form, _ in ranked[:many])


# The index and its bytes


def test_the_index_is_made_once_and_kept():
    vocabulary = Vocabulary(*SITE)
    first = Completer(vocabulary).complete("eyes", uses={})
    assert Completer(vocabulary).complete("eyes", uses={}) == first
    assert vocabulary.reads == 1


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"x" + data, lambda data: data[: len(data) // 2]])
def test_a_damaged_index_is_made_again(damage):
    vocabulary = Vocabulary(*SITE)
    first = Completer(vocabulary).complete("eyes", uses={})
    vocabulary.blobs = {name: damage(data) for name, data in vocabulary.blobs.items()}
    assert Completer(vocabulary).complete("eyes", uses={}) == first
    assert vocabulary.reads == 2


@pytest.mark.parametrize("length", [0, 10, 30, 200, 2_000])
def test_bytes_that_are_no_index_raise_value_error(length: int):
    data = build_index(SITE)
    with pytest.raises(ValueError):
        load_index(data[:length])


def test_the_same_vocabulary_gives_the_same_bytes_in_any_order():
    shuffled = random.Random(3).sample(SITE, len(SITE))
    assert build_index(shuffled) == build_index(SITE)


def test_an_index_takes_little_memory():
    index = load_index(build_index([tag(f"a_rather_common_{number}", number) for number in range(3_000)]))
    assert index.size_bytes < 3_000 * 200
