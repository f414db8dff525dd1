"""What a vocabulary knows, as values.

A vocabulary is the names one tagging site uses, which of them mean the same (aliases) and which follow from others
(implications). `store.open_vocabulary(site)` gives a `store.Vocabulary`, safe to read from several threads:

    find(tag) -> TagInfo | None                  the canonical tag, compared by `text.key(text.bare(tag))`
    resolve(tag) -> tuple[TagInfo, ...]          what an alias stands for; () for a canonical or an unknown tag
    implications(tag) -> Mapping[str, Implied]   everything that follows, by the key of the general tag
    entries() -> Iterator[Entry]                 all tags with their aliases, commonest first: 200,000 take 0.7 s
    aliases(tag), implied_by(tag)                the ways back, for showing a tag
    translate(tag) -> str | None                 the name of the same thing on the other site, where a pack says so
    known() -> bool                              whether anything was imported (else the starter pack is all there is)
    sources(), pack_size, rules_size             the files that were imported, and how much the other two say
    fingerprint                                  differs whenever anything in the vocabulary does
    blob(name), put_blob(name, data)             derived bytes (an index), kept for as long as the fingerprint stays

`store.other_sites(tag, site)` tells on which other site a tag is canonical.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Site = Literal["e621", "danbooru", "natural"]
SITES: tuple[Site, ...] = get_args(Site)
# Sites whose users share one list of tags; the words of natural language are nobody's list.
BOORUS: tuple[Site, ...] = ("e621", "danbooru")

Category = Literal["general", "artist", "copyright", "character", "species", "meta", "lore", "contributor", "invalid"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

# Where a fact comes from: a list or dump that somebody imported, the starter pack, or the person's own rules file.
Origin = Literal["import", "pack", "rules"]


@dataclass(frozen=True, slots=True)
class TagInfo:
    """A canonical tag. name: as the site writes it (`side_view`). count: posts on the site, 0 where unknown."""

    name: str
    category: str
    count: int
    deprecated: bool
    origin: Origin


@dataclass(frozen=True, slots=True)
class Implied:
    """Why a general tag follows from a specific one.

    path: names from the specific tag to the general one, both included; the shortest there is. origin: "import" only
    where every edge of the path was imported.
    """

    path: tuple[str, ...]
    origin: Origin


class Entry(NamedTuple):
    """A canonical tag with its aliases, for building an index. count: posts on the site, 0 where unknown."""

    name: str
    category: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # the one of tuples is not missed
    deprecated: bool
    aliases: tuple[str, ...]


class Size(NamedTuple):
    """How much is known. implications: direct ones."""

    tags: int
    aliases: int
    implications: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was imported, and what of it is in use. added_s: seconds since 1970."""

    file: str
    format: str
    added_s: float
    tags: int
    aliases: int
    implications: int
