"""Completion of tags while they are typed: which suggestions, in which order.

The bands, best first:

    exact        the name is what was typed
    alias        another name of the tag is
    word         each typed word starts a word of the name, in any order
    prefix       each typed word starts a word of another name of the tag
    subsequence  the letters were typed in order, some left out: sdvw for side_view
    typo         a letter or two is wrong, missing, too many or swapped

Names that begin with the typed text are in the word band too, with a head start that a name must be some fifty times as
common to overcome. Of the 200,000 names of a site most are hardly used: a band of their own would hide blue_eyes from
everyone who types "eyes" behind eyes_in_the_dark, no head start would hide hair_bow from those who type "hair b". All
other names of a tag come after all names, or male would answer half of what is typed.

Within a band a tag's score is the logarithm of its posts, plus the prior of its category (general and species before
artist and lore), plus what it gains from being used in this dataset and from being used of late, minus what the match
falls short. Level scores: the vocabulary's tags before the dataset's own, the more common tag, the alphabet.

Pinned tags that match come first, but not before a tag or alias that was typed whole: what was typed in full is what
was meant. Pinned tags with gaps or typos come first in their band only.

Bands further down are looked through only while there is room: they cost the most and are worth the least.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from loratory.tags.completion.dataset import OWN, DatasetTags
from loratory.tags.completion.index import VERSION, Index, build_index, indexed, load_index, utf8
from loratory.tags.completion.matching import typo_costs
from loratory.tags.completion.search import Found, by_subsequence, by_typos, by_words, leading
from loratory.tags.text import bare
from loratory.tags.vocabulary.model import CATEGORIES, Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratory.tags.completion.index import Numbers

Band = Literal["exact", "alias", "word", "prefix", "subsequence", "typo", "pinned", "recent", "used"]

_BLOB = f"completion-{VERSION}"

# All in natural logarithms of posts, as scores are.
_HEAD_START = 4.0
_SUBSEQUENCE_COST = 1.5  # per unit of `subsequence_cost`
_TYPO_COST = 3.0  # per typo

# Where a band stands; pinned tags that match from the start of words stand before the word band.
_EXACT, _ALIAS, _PINNED, _WORD, _PREFIX, _SUBSEQUENCE, _TYPO = range(7)
_BANDS: dict[int, Band] = {
    _EXACT: "exact",
    _ALIAS: "alias",
    _WORD: "word",
    _PREFIX: "prefix",
    _SUBSEQUENCE: "subsequence",
    _TYPO: "typo",
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A tag to offer. name: as the site writes it, or as the dataset does where no vocabulary knows it.

    category: "general" … as in the vocabulary, "" for the dataset's own tags. count: posts on the site. alias: the
    other name that matched, as the site writes it; None where the name itself did. uses: images of this dataset.
    """

    name: str
    category: str
    count: int
    alias: str | None
    band: Band
    uses: int


class Knowledge(Protocol):
    """The part of a vocabulary that completion needs; `vocabulary.store.Vocabulary` is one."""

    def entries(self) -> Iterator[Entry]:
        """All tags with their aliases."""
        ...

    def blob(self, name: str) -> bytes | None:
        """What was kept by `put_blob`, None where there is nothing or the vocabulary has changed since."""
        ...

    def put_blob(self, name: str, data: bytes) -> None:
        """Keeps bytes that are derived from the vocabulary."""
        ...


def open_index(vocabulary: Knowledge) -> Index:
    """The index of a vocabulary: kept with it, or made and kept now.

    Loading takes milliseconds, making it several seconds at 200,000 tags: an import of a vocabulary calls this once.
    """
    kept = vocabulary.blob(_BLOB)
    if kept is not None:
        try:
            return load_index(kept)
        except ValueError:
            pass  # of another version of this program, or damaged: it is made again
    data = build_index(vocabulary.entries())
    vocabulary.put_blob(_BLOB, data)
    return load_index(data)


class _Hit(NamedTuple):
    """A form that matches; the lesser the better."""

    tier: int
    palette: int
    band: int
    negative_score: float
    source: int
    form: int


class Completer:
    """Suggests tags of a vocabulary and of a dataset. Not for several threads at once.

    Making one loads the index (`open_index`): milliseconds where the vocabulary keeps one.
    """

    def __init__(self, vocabulary: Knowledge) -> None:
        typo_costs("typos", ("typo",))  # loads what it needs now, so that no key press waits for it
        self._dataset = DatasetTags(open_index(vocabulary))

    def complete(
        self,
        typed: str,
        *,
        uses: Mapping[str, int],
        recent: Sequence[str] = (),
        pinned: Sequence[str] = (),
        limit: int = 8,
    ) -> list[Suggestion]:
        """At most `limit` suggestions for what is typed, best first, each tag once; the module says in which order.

        uses: for each tag written in the dataset, any spelling, the number of its images. recent: tags used of late,
        the last one first. pinned: the palette, in its order. Nothing typed: pinned, then recent, then most used tags.
        What is typed may be any text at all; emphasis around it does not count where nothing is found with it. A
        change of `uses`, `recent` or `pinned` costs a few milliseconds once.
        """
        self._dataset.learn(uses, recent, pinned)
        if limit < 1:
            return []
        text = indexed(typed)
        if not text:
            return self._before_typing(limit)
        hits = self._ranked(text, limit)
        if not hits and (inner := indexed(bare(typed))) != text:
            hits = self._ranked(inner, limit)
        return [self._suggestion(hit.source, hit.form, _BANDS[hit.band]) for hit in hits]

    def _ranked(self, text: str, limit: int) -> list[_Hit]:
        best: dict[tuple[int, int], _Hit] = {}
        for bands in (self._by_beginnings, self._by_subsequence, self._by_typos):
            for hit in sorted(bands(text, limit)):
                tag = hit.source, int(self._dataset.sources[hit.source].index.owners[hit.form])
                best.setdefault(tag, hit)
            if len(best) >= limit:
                break
        return list(best.values())[:limit]

    def _by_beginnings(self, text: str, wanted: int) -> Iterator[_Hit]:
        """Exact, alias, word and prefix. What starts with the text also has words that start with its words."""
        import numpy as np

        for number, source in enumerate(self._dataset.sources):
            index = source.index
            for form in index.find_all([text])[0]:
                band = _ALIAS if index.is_alias[form] else _EXACT
                yield self._hit(number, form, band, float(source.weights[form]))
            forms = by_words(index, text)
            scores = source.weights[forms]
            starts_so = np.zeros(len(index), np.bool_)
            starts_so[index.forms_from(utf8(text))] = True
            scores[starts_so[forms]] += _HEAD_START
            is_alias = index.is_alias[forms]
            yield from self._leading(number, _WORD, forms[~is_alias], scores[~is_alias], wanted)
            yield from self._leading(number, _PREFIX, forms[is_alias], scores[is_alias], wanted)

    def _by_subsequence(self, text: str, wanted: int) -> Iterator[_Hit]:
        for number, source in enumerate(self._dataset.sources):
            found = by_subsequence(source, text)
            yield from self._costly(number, _SUBSEQUENCE, found, _SUBSEQUENCE_COST, wanted)

    def _by_typos(self, text: str, wanted: int) -> Iterator[_Hit]:
        for number, source in enumerate(self._dataset.sources):
            found = by_typos(source, text)
            yield from self._costly(number, _TYPO, found, _TYPO_COST, wanted)

    def _costly(self, number: int, band: int, found: Found, unit: float, wanted: int) -> Iterator[_Hit]:
        scores = self._dataset.sources[number].weights[found.forms] - found.costs * unit
        return self._leading(number, band, found.forms, scores, wanted)

    def _leading(
        self, number: int, band: int, forms: "Numbers", scores: "NDArray[np.float64]", wanted: int
    ) -> Iterator[_Hit]:
        """The best forms of the first `wanted` tags at least, and of the pinned tags."""
        import numpy as np

        index = self._dataset.sources[number].index
        many = 2 * wanted
        best, best_scores = leading(forms, scores, many)
        while len(best) < len(forms) and len(np.unique(index.owners[best])) < wanted:  # one tag has fifty aliases
            many *= 4
            best, best_scores = leading(forms, scores, many)
        for form, score in zip(best.tolist(), best_scores.tolist(), strict=True):
            yield self._hit(number, form, band, score)
        if self._dataset.palette and len(best) < len(forms):
            palette = [tag for source, tag in self._dataset.palette if source == number]
            pinned = np.isin(index.owners[forms], palette)
            for form, score in zip(forms[pinned].tolist(), scores[pinned].tolist(), strict=True):
                yield self._hit(number, form, band, score)

    def _hit(self, number: int, form: int, band: int, score: float) -> _Hit:
        index = self._dataset.sources[number].index
        nowhere = len(self._dataset.pinned)
        palette = self._dataset.palette.get((number, int(index.owners[form])), nowhere)
        tier = _PINNED if palette < nowhere and band in (_WORD, _PREFIX) else band
        return _Hit(tier, palette, band, -score, number, form)

    def _suggestion(self, number: int, form: int, band: Band) -> Suggestion:
        source = self._dataset.sources[number]
        index, tag = source.index, int(source.index.owners[form])
        return Suggestion(
            index.tag_name(tag),
            "" if number == OWN else CATEGORIES[int(index.categories[tag])],
            int(index.counts[tag]),
            index.form_written(form) if index.is_alias[form] else None,
            band,
            source.uses.get(tag, 0),
        )

    def _before_typing(self, limit: int) -> list[Suggestion]:
        uses = self._dataset.uses
        most_used = sorted((name for name in uses if uses[name] > 0), key=lambda name: (-uses[name], name))
        named: list[tuple[Band, Iterable[str]]] = [
            ("pinned", self._dataset.pinned),
            ("recent", self._dataset.recent),
            ("used", most_used),
        ]
        suggestions: dict[tuple[int, int], Suggestion] = {}
        for band, names in named:
            for name in names:
                place = self._dataset.place(name)
                if place is not None and place not in suggestions:
                    number, tag = place
                    form = int(self._dataset.sources[number].index.first_forms[tag])
                    suggestions[place] = self._suggestion(number, form, band)
                if len(suggestions) >= limit:
                    return list(suggestions.values())
        return list(suggestions.values())
