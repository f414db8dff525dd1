"""Which forms of an index a typed text finds, band by band: the rules of `matching`, without looking at every form."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from loratory.tags.completion.dataset import Source
from loratory.tags.completion.index import Index, letter_bits, utf8
from loratory.tags.completion.matching import (
    SHORTEST_SUBSEQUENCE,
    needs,
    subsequence_costs,
    typo_costs,
    typo_limit,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratory.tags.completion.index import Numbers

    Scores = NDArray[np.float64]
    Mask = NDArray[np.bool_]

# Each form that holds the right letters must be compared by itself, some microseconds each: no more than this many, the
# weightiest, are. It bounds the time of a key press, and with common letters costs rare names their place.
_COMPARED = 1000

_BLOCK = 1 << 15  # forms looked at in one go: their letters fit a processor's cache


class Found(NamedTuple):
    """Forms, and what each falls short of a full match, in the unit of standings: 0 or more."""

    forms: "Numbers"
    costs: "Scores"


def by_words(index: Index, typed: str) -> "Numbers":
    """The forms of which every typed word starts a word of its own, in any order; ascending."""
    import numpy as np

    found: NDArray[np.integer] | None = None
    # The rarest first: what is left after it is quick to look through.
    ranges = [(index.places_of(utf8(prefix)), needed) for prefix, needed in needs(typed).items()]
    for places, needed in sorted(ranges, key=lambda pair: len(pair[0])):
        if len(places) < needed:
            return np.zeros(0, np.int32)
        if needed == 1:  # nearly always, and three times as fast
            enough = np.zeros(len(index), np.bool_)
            enough[places] = True
        else:
            enough = np.bincount(places, minlength=len(index)) >= needed
        found = np.flatnonzero(enough) if found is None else found[enough[found]]
        if not len(found):
            break
    assert found is not None  # a text has at least one word
    return found.astype(np.int32)


def by_subsequence(source: Source, typed: str) -> Found:
    """The forms that hold the letters of `typed` in order, from the start of a word on, by `subsequence_cost`."""
    import numpy as np

    index, letters = source.index, typed.replace(" ", "")
    if len(letters) < SHORTEST_SUBSEQUENCE:
        return _found(np.zeros(0, np.int32), {})
    bits, initial = np.uint64(letter_bits(letters)), np.uint64(letter_bits(letters[0]))

    def admits(at: "slice | Numbers") -> "Mask":
        longer = index.lengths[at] > len(letters)
        return longer & ((index.letters[at] & bits) == bits) & ((index.initials[at] & initial) != 0)

    forms = _weightiest(source, admits)
    return _found(forms, subsequence_costs(letters, index.texts_of(forms)))


def by_typos(source: Source, typed: str) -> Found:
    """The forms that `typed` is with a typo or two, or whose beginning it is, by `typo_costs`."""
    import numpy as np

    index, limit, length = source.index, typo_limit(typed), len(typed)
    if not limit:
        return _found(np.zeros(0, np.int32), {})
    bits, first_byte = np.uint64(letter_bits(typed)), utf8(typed)[0]

    def admits(at: "slice | Numbers") -> "Mask":
        letters, lengths = index.letters[at], index.lengths[at]
        # A typo adds at most one letter and takes at most one away.
        whole = (lengths >= length - limit) & (lengths <= length + limit)
        whole &= np.bitwise_count(letters & ~bits) <= limit
        begun = (lengths >= length) & (index.first_bytes[at] == first_byte)
        return (whole | begun) & (np.bitwise_count(bits & ~letters) <= limit)

    forms = _weightiest(source, admits)
    return _found(forms, typo_costs(typed, index.texts_of(forms)))


def leading(forms: "Numbers", scores: "Scores", many: int) -> "tuple[Numbers, Scores]":
    """The `many` forms of the highest scores, the lower form where two are level; in no order."""
    import numpy as np

    if len(forms) <= many:
        return forms, scores
    threshold = np.partition(scores, len(scores) - many)[len(scores) - many]
    above = np.flatnonzero(scores > threshold)
    level = np.flatnonzero(scores == threshold)
    room = many - len(above)
    if room < len(level):
        level = level[np.argpartition(forms[level], room)[:room]] if room else level[:0]
    chosen = np.concatenate([above, level])
    return forms[chosen], scores[chosen]


def _weightiest(source: Source, admits: "Callable[[slice | Numbers], Mask]") -> "Numbers":
    """The _COMPARED forms of the highest weights of those that `admits` says yes to, for a range or a list of forms.

    Forms are numbered by standing, which is their weight unless the dataset adds to it: the first ones are enough.
    """
    import numpy as np

    found: list[Numbers] = []
    for start in range(0, len(source.index), _BLOCK):
        found.append((start + np.flatnonzero(admits(slice(start, start + _BLOCK)))).astype(np.int32))
        if sum(map(len, found)) >= _COMPARED:
            break
    gained = source.gained[admits(source.gained)]
    forms = np.unique(np.concatenate([*found, gained]))
    return leading(forms, source.weights[forms], _COMPARED)[0]


def _found(forms: "Numbers", costs: dict[int, float]) -> Found:
    import numpy as np

    return Found(forms[np.array(list(costs), np.intp)], np.array(list(costs.values()), np.float64))
