"""A site's vocabulary: what was imported, the starter pack where the import says nothing, and the person's own rules.

The person has the last word: a tag, an alias or an implication in the rules file holds whatever was imported. Below
that, what was imported for a name replaces what the pack says about it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import loratory
from loratory import atomic
from loratory.errors import LoratoryError
from loratory.paths import cache_dir
from loratory.tags.text import bare, key
from loratory.tags.vocabulary.database import Database, database_path
from loratory.tags.vocabulary.graph import shortest_paths
from loratory.tags.vocabulary.model import BOORUS, Entry, Implied, Origin, Site, Size, Source, TagInfo
from loratory.tags.vocabulary.names import spelled
from loratory.tags.vocabulary.packs import Knowledge, pack_path, parse_knowledge, read_knowledge, read_pack, rules_path

# More different tags than a dataset has; beyond that, the database is asked again.
_REMEMBERED = 1 << 16
_NOTHING: Mapping[str, Implied] = MappingProxyType({})


class Vocabulary:
    """What is known of one site's tags. Tags may come in any spelling that `text.key` takes for the same."""

    def __init__(self, site: Site, database: Database | None, pack: Knowledge, rules: Knowledge, fingerprint: str):
        self.site: Site = site
        # Differs whenever anything in the vocabulary does.
        self.fingerprint = fingerprint
        self._database, self._pack, self._rules = database, pack, rules
        self._tag: Callable[[str], TagInfo | None] = lru_cache(_REMEMBERED)(self._read_tag)
        self._edges: Callable[[str], tuple[tuple[str, Origin], ...]] = lru_cache(_REMEMBERED)(self._read_edges)
        self._follows: Callable[[str], Mapping[str, Implied]] = lru_cache(_REMEMBERED)(self._walk)

    def find(self, tag: str) -> TagInfo | None:
        """The canonical tag, also inside the brackets of an emphasis; None for an alias or an unknown tag."""
        return self._tag(self._key(tag))

    def resolve(self, tag: str) -> tuple[TagInfo, ...]:
        """The canonical tags that an alias stands for, the most posts first; () for a canonical or an unknown tag.

        Several mean that the alias is ambiguous. A target that no list names has count 0 and category "general".
        """
        at = self._key(tag)
        if self._tag(at) is not None:
            return ()
        found = [self._info(target) for target in self._canonical(at) if target != at]
        return tuple(sorted(found, key=lambda info: -info.count))

    def implications(self, tag: str) -> Mapping[str, Implied]:
        """Everything that follows from `tag`, by the key of the general tag, nearest first.

        An alias is resolved first, also in the middle of a path; from an ambiguous one nothing follows.
        """
        at = self._canonical(self._key(tag))
        return self._follows(at[0]) if len(at) == 1 else _NOTHING

    def implied_by(self, tag: str) -> tuple[str, ...]:
        """The names of the tags that imply `tag` directly, the most posts first."""
        at = self._key(tag)
        candidates = {*(self._database.specifics(at) if self._database else ()), *self._own_edges}
        found = [
            self._info(specific)
            for specific in candidates
            if any(at == general for general, _ in self._edges(specific))
        ]
        return tuple(info.name for info in sorted(found, key=lambda info: (-info.count, info.name)))

    def aliases(self, tag: str) -> tuple[str, ...]:
        """The names that stand for `tag`, by name."""
        at = self._key(tag)
        names = {key(name): name for name in self._database.aliases(at)} if self._database else {}
        for knowledge in (self._pack, self._rules):
            for alias, (name, targets) in knowledge.aliases.items():
                if at in map(key, targets):
                    names.setdefault(alias, name)
        return tuple(sorted(name for alias, name in names.items() if self._tag(alias) is None))

    def translate(self, tag: str) -> str | None:
        """The name of the same thing on the other booru site, where a pack or rules file of either site says so."""
        return self._translations.get(self._key(tag))

    def entries(self) -> Iterator[Entry]:
        """Every canonical tag with its aliases, the most posts first; those of the pack and the rules come last."""
        aliases: dict[str, list[str]] = {}
        own = {**self._pack.aliases, **self._rules.aliases}
        for alias, target, name in self._database.all_aliases() if self._database else ():
            if alias not in self._rules.aliases and alias not in self._rules.tags:
                own.pop(alias, None)
                aliases.setdefault(target, []).append(name)
        for alias, (name, _) in own.items():
            for target in () if self._tag(alias) else self._canonical(alias):
                aliases.setdefault(target, []).append(name)
        extra = {at: info for at in (*self._rules.tags, *self._pack.tags) if (info := self._tag(at)) is not None}
        for at, name, category, count, deprecated in self._database.all_tags() if self._database else ():
            if at in extra:
                info = extra.pop(at)
                yield Entry(info.name, info.category, count, info.deprecated, tuple(aliases.get(at, ())))
            elif at not in self._rules.aliases:
                yield Entry(name, category, count, bool(deprecated), tuple(aliases.get(at, ())))
        for at, info in extra.items():
            yield Entry(info.name, info.category, info.count, info.deprecated, tuple(aliases.get(at, ())))

    def known(self) -> bool:
        """Whether anything was imported; without, the starter pack and the person's rules are all there is."""
        return self._database is not None

    def sources(self) -> tuple[Source, ...]:
        """The files that were imported, oldest first."""
        return self._database.sources() if self._database else ()

    @property
    def pack_size(self) -> Size:
        """How much the starter pack says."""
        return self._pack.size

    @property
    def rules_size(self) -> Size:
        """How much the person's own rules say."""
        return self._rules.size

    def __len__(self) -> int:
        """The number of canonical tags."""
        listed = {*self._rules.tags, *self._pack.tags}
        added = sum(1 for at in listed if self._tag(at) and not (self._database and self._database.tag(at)))
        if self._database is None:
            return added
        return self._database.tag_count() + added - sum(1 for at in self._rules.aliases if self._database.tag(at))

    def __bool__(self) -> bool:
        return True  # `if vocabulary` asks whether there is one, and need not count its tags

    def blob(self, name: str) -> bytes | None:
        """What `put_blob` kept under `name` for this very state of the vocabulary, if it is still there."""
        try:
            return self._blob_path(name).read_bytes()
        except OSError:
            return None

    def put_blob(self, name: str, data: bytes) -> None:
        """Keeps bytes that were derived from the vocabulary in the cache folder, in place of older ones.

        name: letters, digits and hyphens; it should say the format's version. A disk that refuses costs time only.
        """
        path = self._blob_path(name)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            for older in path.parent.glob(f"{self.site}.{name}.*.bin"):
                older.unlink(missing_ok=True)
            atomic.write_bytes(path, data)

    def close(self) -> None:
        """Lets go of the database file."""
        if self._database:
            self._database.close()

    def _blob_path(self, name: str) -> Path:
        return cache_dir() / "vocabularies" / f"{self.site}.{name}.{self.fingerprint}.bin"

    def _key(self, tag: str) -> str:
        whole = key(tag)
        inner = key(bare(tag))
        # A name may be in brackets as a whole, as the emoticon (o)_(o) is.
        return whole if whole == inner or self._tag(whole) is not None else inner

    def _read_tag(self, at: str) -> TagInfo | None:
        if at in self._rules.aliases:
            return None
        imported = self._database.tag(at) if self._database else None
        ruled = self._rules.tags.get(at)
        if ruled is not None:
            return replace(ruled, count=imported.count) if imported else ruled
        if imported is not None:
            return imported
        packed = self._pack.tags.get(at)
        return None if packed is None or (self._database and self._database.targets(at)) else packed

    def _targets(self, at: str) -> tuple[str, ...]:
        """The keys that the name `at`, which is not canonical, stands for, after one step."""
        if at in self._rules.aliases:
            return tuple(map(key, self._rules.aliases[at][1]))
        imported = self._database.targets(at) if self._database else []
        if imported:
            return tuple(imported)
        return tuple(map(key, self._pack.aliases[at][1])) if at in self._pack.aliases else ()

    def _canonical(self, at: str) -> tuple[str, ...]:
        """The keys at the end of every chain of aliases from `at`: itself where it is canonical or unknown."""
        ends: dict[str, None] = {}
        seen = {at}
        queue = [at]
        for alias in queue:
            targets = () if self._tag(alias) is not None else self._targets(alias)
            if not targets:
                ends[alias] = None
            for target in targets:
                if target not in seen:
                    seen.add(target)
                    queue.append(target)
        return tuple(ends) or (at,)  # aliases in a circle lead nowhere

    def _info(self, at: str) -> TagInfo:
        """The canonical tag, or what stands in for one that only an alias or an implication names."""
        return self._tag(at) or self._named.get(at) or TagInfo(spelled(at), "general", 0, False, "import")

    @cached_property
    def _named(self) -> dict[str, TagInfo]:
        """The tags that aliases and implications of the rules and the pack name."""
        sources: tuple[tuple[Knowledge, Origin], ...] = ((self._rules, "rules"), (self._pack, "pack"))
        named: dict[str, TagInfo] = {}
        for knowledge, origin in sources:
            written = [names for _, names in knowledge.aliases.values()]
            written += [(specific, *names) for specific, names in knowledge.implications.values()]
            for name in chain.from_iterable(written):
                named.setdefault(key(name), TagInfo(name, "general", 0, False, origin))
        return named

    @cached_property
    def _own_edges(self) -> dict[str, list[tuple[str, Origin]]]:
        """The implications of the pack and then the rules, by the canonical key of the specific tag."""
        sources: tuple[tuple[Knowledge, Origin], ...] = ((self._pack, "pack"), (self._rules, "rules"))
        edges: dict[str, list[tuple[str, Origin]]] = {}
        for knowledge, origin in sources:
            for specific, (_, names) in knowledge.implications.items():
                edges.setdefault(self._one(specific), []).extend((key(name), origin) for name in names)
        return edges

    @cached_property
    def _translations(self) -> dict[str, str]:
        """Names on the other booru site, by the key here."""
        back: dict[str, str] = {}
        for other in BOORUS if self.site in BOORUS else ():
            for knowledge in () if other == self.site else _read_own(other):
                for at, name in knowledge.translations.items():
                    back[key(name)] = knowledge.tags[at].name if at in knowledge.tags else spelled(at)
        return back | self._pack.translations | self._rules.translations

    def _one(self, at: str) -> str:
        """The canonical key of an alias; an ambiguous one stays what it is."""
        ends = self._canonical(at)
        return ends[0] if len(ends) == 1 else at

    def _read_edges(self, at: str) -> tuple[tuple[str, Origin], ...]:
        """What the canonical key `at` implies directly, aliases resolved, and where each edge is from."""
        imported = self._database.generals(at) if self._database else []
        edges: list[tuple[str, Origin]] = [(general, "import") for general in imported]
        # What was imported for a tag is all that the site says; the pack's older word would only contradict it.
        edges += [edge for edge in self._own_edges.get(at, ()) if edge[1] == "rules" or not imported]
        return tuple((self._one(general), origin) for general, origin in edges)

    def _walk(self, at: str) -> Mapping[str, Implied]:
        paths = shortest_paths(at, self._edges)
        return MappingProxyType(
            {
                general: Implied(tuple(self._info(step).name for step in path.keys), path.origin)
                for general, path in paths.items()
            }
        )


def open_vocabulary(site: Site, *, directory: Path | None = None) -> Vocabulary:
    """The vocabulary of `site`, in milliseconds.

    directory: where imported vocabularies lie, by default among the program's data. Raises LoratoryError for a damaged
    database or a mistake in the person's rules file, with the file and the key.
    """
    path = database_path(site, directory)
    try:
        database = Database(path) if path.exists() else None
    except PermissionError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error
    pack, rules = _read_own(site)
    state = hashlib.sha256()
    for part in (loratory.__version__, database.id if database else "", pack.state, rules.state):
        state.update(part.encode() + b"\n")
    return Vocabulary(site, database, pack, rules, state.hexdigest()[:16])


def _read_own(site: Site) -> tuple[Knowledge, Knowledge]:
    """The starter pack and the person's rules."""
    rules = rules_path(site)
    return read_pack(pack_path(site), site), parse_knowledge(read_knowledge(rules), rules, "rules")


def other_sites(tag: str, site: Site, *, directory: Path | None = None) -> tuple[tuple[Site, TagInfo], ...]:
    """The booru sites other than `site` where `tag` is canonical, and what it is there.

    Each vocabulary is opened once for as long as its files stay the same. Raises LoratoryError as `open_vocabulary`.
    """
    others: list[Site] = [other for other in BOORUS if other != site]
    return tuple((other, info) for other in others if (info := _shared(other, directory).find(tag)) is not None)


def _shared(site: Site, directory: Path | None) -> Vocabulary:
    files = (database_path(site, directory), rules_path(site))
    return _opened(site, directory, tuple(_stamp(path) for path in files))


@lru_cache(maxsize=len(BOORUS))
def _opened(site: Site, directory: Path | None, stamps: tuple[tuple[int, int] | None, ...]) -> Vocabulary:
    return open_vocabulary(site, directory=directory)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
