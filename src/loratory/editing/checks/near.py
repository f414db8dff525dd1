"""Which known name a mistyped tag was meant to be."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from loratory.tags.text import key

if TYPE_CHECKING:
    from loratory.tags.vocabulary.store import Vocabulary

_SHORTEST = 5
_TWO_ERRORS_FROM = 9
_MOST = 3
_BLOB = "typos-1"


class NearNames:
    """Names by their length and first letter: a name is only compared with the few that could be it.

    A wrong first letter is not found, which is rare, but for one that changed places with the second.
    """

    def __init__(self, names: Mapping[tuple[int, str], Callable[[], list[str]]]) -> None:
        self._names = names

    def near(self, name: str) -> list[tuple[str, int]]:
        """(name, errors) of the closest names: one error (letter added, left out, changed, or two swapped), or two from
        9 letters on. At most three, the fewest errors first; for equals the order they were given in."""
        if len(name) < _SHORTEST:
            return []
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import extract

        most = 2 if len(name) >= _TWO_ERRORS_FROM else 1
        digits = _digits(name)
        found: list[tuple[str, int]] = []
        for length in range(len(name) - most, len(name) + most + 1):
            for first in {name[0], name[1]}:
                bucket = self._names.get((length, first))
                if bucket is None:
                    continue
                matches = extract(name, bucket(), scorer=OSA.distance, score_cutoff=most, limit=None)
                # "2girls" is no mistyped "3girls".
                found += [(other, int(errors)) for other, errors, _ in matches if _digits(other) == digits]
        found = [(other, errors) for other, errors in found if other != name]
        return sorted(found, key=lambda entry: entry[1])[:_MOST]


def among(names: Iterable[str]) -> NearNames:
    """An index of tag keys, in their order."""
    buckets: dict[tuple[int, str], list[str]] = {}
    for name in names:
        if name:
            buckets.setdefault((len(name), name[0]), []).append(name)
    return NearNames({place: partial(list[str], members) for place, members in buckets.items()})


@lru_cache(maxsize=4)
def known_names(vocabulary: "Vocabulary") -> NearNames:
    """An index of the vocabulary's canonical names, commonest first; 200,000 take some milliseconds but for the first
    time ever, when they take a second."""
    data = vocabulary.blob(_BLOB)
    if data is None:
        data = _packed(key(entry.name) for entry in vocabulary.entries())
        vocabulary.put_blob(_BLOB, data)
    buckets: dict[tuple[int, str], Callable[[], list[str]]] = {}
    for line in data.decode().split("\n"):
        if line:
            length, first, rest = line.split("\t", 2)
            buckets[int(length), first] = partial(_split, rest)
    return NearNames(buckets)


@lru_cache(maxsize=4)
def words_of(vocabulary: "Vocabulary") -> frozenset[str]:
    """The words that the names of a small vocabulary are made of: a tag of such words is hardly a mistyped one."""
    entries = list(vocabulary.entries())
    names = (name for entry in entries for name in (entry.name, *entry.aliases))
    return frozenset(word for name in names for word in key(name).split())


def _packed(names: Iterable[str]) -> bytes:
    """One line for each bucket: length, first letter, names, with tabs between them."""
    buckets: dict[tuple[int, str], list[str]] = {}
    for name in names:
        if name and name.isprintable():
            buckets.setdefault((len(name), name[0]), []).append(name)
    lines = ("\t".join([str(length), first, *members]) for (length, first), members in buckets.items())
    return "\n".join(lines).encode()


@lru_cache(maxsize=256)
def _split(names: str) -> list[str]:
    return names.split("\t")


def _digits(name: str) -> str:
    return "".join(character for character in name if character.isdigit())
