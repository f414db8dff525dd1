"""What a dataset adds to completion: tags of its own, and what tags gain from being used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import TYPE_CHECKING

from loratory.tags.completion.index import Index, build_index, indexed, load_index
from loratory.tags.text import bare
from loratory.tags.vocabulary.model import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratory.tags.completion.index import Numbers

# The two sources of suggestions, by their numbers.
VOCABULARY, OWN = 0, 1

# In natural logarithms of posts, as standings are.
_USED, _USES = 3.0, 2.0  # for being used in the dataset at all, and for each factor of e of uses
_RECENT, _REMEMBERED = 3.0, 20  # for the tag used last, falling to 0 over so many

# The dataset's own tags, the most used ones: captions in sentences have one for each clause, which nobody completes.
_OWN_TAGS = 3000

# Instead of the number of a tag: a name that the vocabulary does not know, and an alias of several tags.
_UNKNOWN, _AMBIGUOUS = -1, -2

# A tag: the number of its source, and its own number in that index.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """An index with what this dataset adds.

    weights (F): standing and gain, by form. gained: the forms that have a gain. uses: images, by tag.
    """

    index: Index
    weights: "NDArray[np.float64]"
    gained: "Numbers"
    uses: Mapping[int, int]


class DatasetTags:
    """What completion was last told of the dataset, and what follows from it.

    uses, recent, pinned: as `learn` was told. sources: the vocabulary and the dataset's own tags. palette: where the
    pinned tags stand among them.
    """

    uses: Mapping[str, int]
    recent: tuple[str, ...]
    pinned: tuple[str, ...]
    sources: tuple[Source, Source]
    palette: Mapping[Place, int]

    def __init__(self, vocabulary: Index) -> None:
        self._vocabulary = vocabulary
        self._tags: dict[str, int] = {}  # the tag of each name ever told, _UNKNOWN or _AMBIGUOUS
        self._own_names: tuple[str, ...] = ()
        self._own_index = load_index(build_index(()))
        self._own_forms: dict[str, int] = {}  # by text
        self._own_tags: dict[str, int] = {}  # by name
        self._learn({}, (), ())

    def learn(self, uses: Mapping[str, int], recent: Sequence[str], pinned: Sequence[str]) -> None:
        """Takes over what is new. uses: images by tag as written. recent: the last first. pinned: in their order.

        An alias counts for its tag, one of several tags for none. Emphasis around a tag is no part of it.
        """
        if uses != self.uses or tuple(recent) != self.recent or tuple(pinned) != self.pinned:
            self._learn(dict(uses), tuple(recent), tuple(pinned))

    def place(self, name: str) -> Place | None:
        """The tag that a name told before is; None for an ambiguous alias and for what is used least of too many."""
        tag = self._tags[name]
        if tag >= 0:
            return VOCABULARY, tag
        if tag == _UNKNOWN and name in self._own_tags:
            return OWN, self._own_tags[name]
        return None

    def _learn(self, uses: dict[str, int], recent: tuple[str, ...], pinned: tuple[str, ...]) -> None:
        self._look_up({*uses, *recent, *pinned})
        self._index_own(uses, {*recent, *pinned})
        tag_uses: dict[Place, int] = {}
        for name, images in uses.items():
            place = self.place(name)
            if place is not None and images > 0:
                tag_uses[place] = tag_uses.get(place, 0) + images
        gains = {place: _USED + _USES * log1p(images) for place, images in tag_uses.items()}
        for age, place in enumerate(dict.fromkeys(self._places(recent[:_REMEMBERED]))):
            gains[place] = gains.get(place, 0.0) + _RECENT * (1 - age / _REMEMBERED)
        self.uses, self.recent, self.pinned = uses, recent, pinned
        self.sources = (
            _source(VOCABULARY, self._vocabulary, tag_uses, gains),
            _source(OWN, self._own_index, tag_uses, gains),
        )
        self.palette = {place: at for at, place in enumerate(dict.fromkeys(self._places(pinned)))}

    def _look_up(self, names: Iterable[str]) -> None:
        """Finds the tags of names not seen before."""
        new = [name for name in names if name not in self._tags]
        for as_written in (True, False):  # a tag may be all in brackets; one that is not has emphasis
            texts = [indexed(name if as_written else bare(name)) for name in new]
            for name, forms in zip(new, self._vocabulary.find_all(texts), strict=True):
                self._tags[name] = _tag_of(self._vocabulary, forms)
            new = [name for name in new if self._tags[name] == _UNKNOWN]

    def _index_own(self, uses: Mapping[str, int], wanted: set[str]) -> None:
        """Makes the index of the tags that the vocabulary does not know, unless they are the same as before."""
        used = {name for name, images in uses.items() if images > 0}
        unknown = [name for name in used | wanted if self._tags[name] == _UNKNOWN]
        unknown.sort(key=lambda name: (name not in wanted, -uses.get(name, 0), name))
        texts = {name: indexed(_own(name)) for name in unknown}
        spelled: dict[str, str] = {}
        for name, text in texts.items():
            spelled.setdefault(text, _own(name))  # of several spellings the most used one
            if len(spelled) == _OWN_TAGS:
                break
        names = tuple(sorted(spelled.values()))
        if names != self._own_names:
            self._own_names = names
            self._own_index = load_index(
                build_index((Entry(name, "general", 0, False, ()) for name in names), is_ordered=False)
            )
            forms = self._own_index.find_all(list(spelled))
            self._own_forms = {text: found[0] for text, found in zip(spelled, forms, strict=True) if found}
        # Without aliases the number of a form is that of its tag.
        self._own_tags = {name: self._own_forms[text] for name, text in texts.items() if text in self._own_forms}

    def _places(self, names: Iterable[str]) -> Iterator[Place]:
        return (place for name in names if (place := self.place(name)) is not None)


def _tag_of(index: Index, forms: Sequence[int]) -> int:
    """The tag that a text of these forms is, a canonical name before an alias."""
    names = [form for form in forms if not index.is_alias[form]]
    tags = {int(index.owners[form]) for form in names[:1] or forms}
    return _UNKNOWN if not tags else _AMBIGUOUS if len(tags) > 1 else tags.pop()


def _source(number: int, index: Index, uses: Mapping[Place, int], gains: Mapping[Place, float]) -> Source:
    import numpy as np

    by_tag = np.zeros(len(index.first_forms), np.float64)
    for (source, tag), gain in gains.items():
        if source == number:
            by_tag[tag] = gain
    by_form = by_tag[index.owners]
    gained = np.flatnonzero(by_form).astype(np.int32)
    own_uses = {tag: images for (source, tag), images in uses.items() if source == number}
    return Source(index, index.standings + by_form, gained, own_uses)


def _own(name: str) -> str:
    """A tag of the dataset that no vocabulary knows, as it is offered: without a weight.

    A tag in square brackets is a name of somebody's own rather than less emphasis, and is never offered as another.
    """
    return name.strip() if name.lstrip().startswith("[") else bare(name)
