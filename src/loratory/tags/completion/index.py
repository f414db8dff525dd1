"""The index that completion searches: made once from a vocabulary, kept as bytes, loaded without parsing.

Every way to name a tag (its name and its aliases) is a *form*. Forms are numbered by how much their tag counts
(`standing`), so that the lower number is the better one wherever two are alike otherwise.
"""

import json
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log1p
from typing import TYPE_CHECKING, Any

from loratory.tags.completion.matching import LONGEST, words
from loratory.tags.text import key
from loratory.tags.vocabulary.model import CATEGORIES, Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int32]

# Raise it with anything that changes what `build_index` makes: the layout, the rules of words and keys, the priors.
VERSION = 2

# What the first tag of a category has over the last where no tag has a count, as a logarithm of posts.
LISTED_FIRST = 6.0

_MAGIC = b"LORATORY-COMPLETION-%d\n" % VERSION
_READ = 5 * LONGEST  # characters of a tag that are looked at; more than LONGEST, for runs of spaces and escapes count
_ALIGNMENT = 8  # bytes; numpy reads what is aligned faster

# In natural logarithms of posts, as the count of a tag is: 1 weighs as much as 2.7 times the posts.
_PRIOR = {
    "general": 1.0,
    "species": 1.0,
    "meta": 0.5,
    "copyright": 0.0,
    "character": 0.0,
    "lore": -1.0,
    "artist": -1.0,
    "contributor": -1.5,
    "invalid": -6.0,
}
_DEPRECATED = -6.0


@dataclass(frozen=True, eq=False)
class Index:
    """The tags of a vocabulary, ready to be searched. F forms, N tags, W distinct words, P places of words.

    texts, written: the keys of the forms and the forms as the site writes them, UTF-8, one after the other; form f is
    the bytes from text_starts[f] to text_starts[f + 1]. owners (F): the tag of each form. is_alias (F). letters (F):
    which letters a form has, one bit each (`letter_bits`). initials (F): the same for the first letters of its words.
    lengths (F): characters. order (F): the forms sorted by text. checksums (F), ascending, and checksum_forms (F): for
    looking up whole texts. words: the words that names consist of, sorted; word w is the bytes from word_starts[w] on.
    place_starts (W + 1) and places (P): the forms that each word is in, once for each time. first_forms (N): the name
    of each tag; its aliases follow. counts (N): posts. categories (N): numbers in CATEGORIES. standings (F): log of the
    count plus the prior of the category, of the form's tag.
    """

    texts: bytes
    text_starts: "Numbers"
    written: bytes
    written_starts: "Numbers"
    owners: "Numbers"
    is_alias: "NDArray[np.bool_]"
    letters: "NDArray[np.uint64]"
    initials: "NDArray[np.uint64]"
    lengths: "NDArray[np.uint8]"
    order: "Numbers"
    checksums: "NDArray[np.uint32]"
    checksum_forms: "Numbers"
    words: bytes
    word_starts: "Numbers"
    place_starts: "Numbers"
    places: "Numbers"
    first_forms: "Numbers"
    counts: "NDArray[np.int64]"
    categories: "NDArray[np.uint8]"
    standings: "NDArray[np.float64]"

    def __len__(self) -> int:
        """The number of forms."""
        return len(self.owners)

    @cached_property
    def first_bytes(self) -> "NDArray[np.uint8]":
        """The first byte of the text of each form."""
        import numpy as np

        return np.frombuffer(self.texts, np.uint8)[self.text_starts[:-1]]

    @property
    def size_bytes(self) -> int:
        """The memory that the index takes."""
        parts = (getattr(self, name) for name in self.__dataclass_fields__)
        return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)

    def text_bytes(self, form: int) -> bytes:
        """The key of a form in UTF-8."""
        return self.texts[self.text_starts[form] : self.text_starts[form + 1]]

    def form_written(self, form: int) -> str:
        """The form as the site writes it."""
        return self.written[self.written_starts[form] : self.written_starts[form + 1]].decode("utf-8", "surrogatepass")

    def tag_name(self, tag: int) -> str:
        """The canonical name of a tag as the site writes it."""
        return self.form_written(int(self.first_forms[tag]))

    def texts_of(self, forms: "Numbers") -> list[str]:
        """The keys of many forms at once, which takes a fifth of the time."""
        starts, ends = self.text_starts[forms].tolist(), self.text_starts[forms + 1].tolist()
        parts = [self.texts[start:end] for start, end in zip(starts, ends, strict=True)]
        return b"\n".join(parts).decode("utf-8", "surrogatepass").split("\n") if parts else []

    def forms_from(self, typed: bytes) -> "Numbers":
        """The forms whose text starts with `typed`."""
        return self.order[slice(*_prefix_range(typed, len(self), lambda at: self.text_bytes(self.order[at])))]

    def places_of(self, prefix: bytes) -> "Numbers":
        """The forms that have words with this prefix, once for each such word."""
        first, end = _prefix_range(
            prefix, len(self.word_starts) - 1, lambda at: self.words[self.word_starts[at] : self.word_starts[at + 1]]
        )
        return self.places[self.place_starts[first] : self.place_starts[end]]

    def find_all(self, keys: Sequence[str]) -> list[list[int]]:
        """The forms that each of `keys` is, all at once: 10,000 keys take some 20 ms."""
        import numpy as np

        encoded = [utf8(text) for text in keys]
        checksums = np.array([zlib.crc32(text) for text in encoded], np.uint32)
        first = np.searchsorted(self.checksums, checksums, "left").tolist()
        end = np.searchsorted(self.checksums, checksums, "right").tolist()
        return [
            [int(form) for form in self.checksum_forms[low:high] if self.text_bytes(form) == text]
            for text, low, high in zip(encoded, first, end, strict=True)
        ]


def utf8(text: str) -> bytes:
    """`text` in UTF-8, half characters included: what somebody types or names a file may hold them."""
    return text.encode("utf-8", "surrogatepass")


def indexed(tag: str) -> str:
    """The text by which `tag` is looked up and compared."""
    return key(tag[:_READ])[:LONGEST].rstrip(" ")


def letter_bits(text: str) -> int:
    """The set of characters of `text` in 64 bits, spaces left out; rare characters share a bit."""
    bits = 0
    for letter in set(text):
        bits |= _letter_bit(letter)
    return bits


def build_index(entries: Iterable[Entry], *, is_ordered: bool = True) -> bytes:
    """The index of a vocabulary, for `load_index`. 200,000 tags with 60,000 aliases take several seconds.

    is_ordered: where no entry has a count, the first of each category are the commonest, as in a starter pack.
    """
    import numpy as np

    listed = list(entries)
    standings_of = _standings(listed, is_ordered)
    tags = sorted(
        (-standings_of[number], text, entry.name, number, entry)
        for number, entry in enumerate(listed)
        if (text := indexed(entry.name))
    )
    forms: list[tuple[str, str, int]] = []  # text, as written, tag
    first_forms: list[int] = []
    for tag, (_, name, written, _, entry) in enumerate(tags):
        first_forms.append(len(forms))
        forms.append((name, written, tag))
        aliases = {text: alias for alias in entry.aliases if (text := indexed(alias)) and text != name}
        forms.extend((text, alias, tag) for text, alias in sorted(aliases.items()))
    texts = [text for text, _, _ in forms]
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int32)
    checksums = np.array([zlib.crc32(utf8(text)) for text in texts], np.uint32)
    by_checksum = np.argsort(checksums, kind="stable").astype(np.int32)
    places: dict[str, list[int]] = {}
    for form, text in enumerate(texts):
        for word in words(text):
            places.setdefault(word, []).append(form)
    sorted_words = sorted(places)
    owners = np.array([tag for _, _, tag in forms], np.int32)
    is_alias = np.ones(len(forms), np.bool_)
    is_alias[first_forms] = False
    standings = np.array([-negative for negative, *_ in tags], np.float64)
    return _pack(
        {
            **_strings("texts", "text_starts", texts),
            **_strings("written", "written_starts", [written for _, written, _ in forms]),
            "owners": owners,
            "is_alias": is_alias,
            "letters": np.array([letter_bits(text) for text in texts], np.uint64),
            "initials": np.array([letter_bits("".join(word[0] for word in words(text))) for text in texts], np.uint64),
            "lengths": np.array([len(text) for text in texts], np.uint8),
            "order": order,
            "checksums": checksums[by_checksum],
            "checksum_forms": by_checksum,
            **_strings("words", "word_starts", sorted_words),
            "place_starts": np.cumsum([0, *(len(places[word]) for word in sorted_words)], dtype=np.int32),
            "places": np.array([form for word in sorted_words for form in places[word]], np.int32),
            "first_forms": np.array(first_forms, np.int32),
            "counts": np.array([entry.count for *_, entry in tags], np.int64),
            "categories": np.array([_category(entry) for *_, entry in tags], np.uint8),
            "standings": standings[owners],
        }
    )


def load_index(data: bytes) -> Index:
    """The index that `build_index` made. Takes no copy of `data`, and a few milliseconds at 200,000 tags.

    Raises ValueError for bytes that are no index of this version.
    """
    import numpy as np

    if not data.startswith(_MAGIC):
        raise ValueError("no completion index of this version")
    header_end = data.index(b"\n", len(_MAGIC)) + 1
    parts: dict[str, Any] = {}
    for name, kind, start, length in json.loads(data[len(_MAGIC) : header_end]):
        at = header_end + start
        if kind == "bytes":
            parts[name] = data[at : at + length]
            if len(parts[name]) < length:
                raise ValueError("the completion index is cut off")
        else:
            parts[name] = np.frombuffer(data, np.dtype(kind), length, at)
    if parts.keys() != Index.__dataclass_fields__.keys():
        raise ValueError("the completion index lacks a part")
    return Index(**parts)


def _strings(name: str, starts_name: str, texts: Sequence[str]) -> dict[str, Any]:
    import numpy as np

    encoded = [utf8(text) for text in texts]
    return {
        name: b"".join(encoded),
        starts_name: np.cumsum([0, *(len(text) for text in encoded)], dtype=np.int32),
    }


def _pack(parts: dict[str, Any]) -> bytes:
    """A line of JSON that says what lies where (from the end of that line on), then all parts."""
    table: list[tuple[str, str, int, int]] = []
    pieces: list[bytes] = []
    start = 0
    for name, part in parts.items():
        piece = part if isinstance(part, bytes) else part.astype(part.dtype.newbyteorder("<")).tobytes()
        table.append((name, "bytes" if isinstance(part, bytes) else part.dtype.newbyteorder("<").str, start, len(part)))
        piece += bytes(-len(piece) % _ALIGNMENT)
        start += len(piece)
        pieces.append(piece)
    header = json.dumps(table).encode()
    padding = b" " * (-(len(_MAGIC) + len(header) + 1) % _ALIGNMENT)
    return b"".join([_MAGIC, header, padding, b"\n", *pieces])


def _prefix_range(prefix: bytes, length: int, at: Callable[[int], bytes]) -> tuple[int, int]:
    """Where in the sorted texts 0 … length those that start with `prefix` begin and end."""
    first = bisect_left(range(length), prefix, key=at)
    return first, bisect_left(range(length), prefix + b"\xff", lo=first, key=at)  # no byte of UTF-8 is as high


def _standings(entries: Sequence[Entry], is_ordered: bool) -> list[float]:
    """How much each tag is worth by itself."""
    shares = [0.0] * len(entries)
    if is_ordered and not any(entry.count > 0 for entry in entries):
        sizes, places = Counter(entry.category for entry in entries), Counter[str]()
        for number, entry in enumerate(entries):
            shares[number] = 1 - places[entry.category] / sizes[entry.category]
            places[entry.category] += 1
    return [
        log1p(max(entry.count, 0))
        + LISTED_FIRST * share
        + _PRIOR.get(entry.category, 0.0)
        + (_DEPRECATED if entry.deprecated else 0.0)
        for entry, share in zip(entries, shares, strict=True)
    ]


def _category(entry: Entry) -> int:
    return CATEGORIES.index(entry.category) if entry.category in CATEGORIES else 0


def _letter_bit(letter: str) -> int:
    if letter == " ":
        return 0
    if "a" <= letter <= "z":
        return 1 << (ord(letter) - ord("a"))
    if "0" <= letter <= "9":
        return 1 << (26 + ord(letter) - ord("0"))
    return 1 << (36 + ord(letter) % 28)
