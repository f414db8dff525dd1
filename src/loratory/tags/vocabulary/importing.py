"""Imports: from files to a site's database.

The database is written beside the old one and renamed over it at the end, so that an import that fails or is killed
leaves everything as it was. Memory does not grow with the size of the files.
"""

import fcntl
import gzip
import os
import secrets
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from loratory import atomic
from loratory.errors import FAILED, LoratoryError
from loratory.tags.text import key
from loratory.tags.vocabulary.database import FORMAT, SCHEMA, database_path
from loratory.tags.vocabulary.formats import EXPECTED, Alias, Format, Lines, Record, Tag, Tally, recognise
from loratory.tags.vocabulary.model import BOORUS, SITES, Site, Source

_SAMPLE_LINES = 64
_SAMPLE_CHARACTERS = 1 << 16
_LONGEST_LINE_BYTES = 1 << 28  # JSON may be one line as a whole
_ROWS_AT_ONCE = 5_000

# Within one import the spelling with more posts stays; over an older import the newer row wins, but an unknown count
# does not replace a known one.
_ADD_TAG = """
INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    name = excluded.name, category = excluded.category, deprecated = excluded.deprecated, source = excluded.source,
    count = CASE WHEN excluded.count > 0 THEN excluded.count ELSE tags.count END
WHERE tags.source < ? OR excluded.count > tags.count
"""
_ADD_ALIAS = """
INSERT INTO aliases VALUES (?, ?, ?, ?) ON CONFLICT (key, target) DO UPDATE
SET name = excluded.name, source = excluded.source
"""
_ADD_IMPLICATION = """
INSERT INTO implications VALUES (?, ?, ?) ON CONFLICT (specific, general) DO UPDATE SET source = excluded.source
"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Imported:
    """A file that was imported: what of it is in use, and what of it was not taken."""

    path: Path
    source: Source
    tally: Tally


def import_files(
    paths: Sequence[Path],
    site: Site | None = None,
    *,
    replace: bool = False,
    min_posts: int = 0,
    directory: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Site, list[Imported]]:
    """Adds the files to the vocabulary of `site`, as one import; returns the site and what became of each file.

    site: by default told from the names and the contents of the files. replace: drop what older imports said of tags,
    aliases or implications, of those three that the files bring; otherwise the new rows are added, and win where both
    say something. min_posts: tags with fewer posts are left out. progress: called with the bytes read and their total.
    Raises LoratoryError, leaving everything as it was, for a file that cannot be read or is none of the known formats,
    and when nothing in the files can be used.
    """
    formats = [_recognised(path) for path in paths]
    site = site or _site(list(zip(paths, formats, strict=True)))
    target = database_path(site, directory)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(target):
            atomic.remove_leftovers(target.parent, target.name)
            with atomic.replacing(target) as temporary:
                if target.exists():
                    shutil.copyfile(target, temporary)
                with closing(sqlite3.connect(temporary)) as connection:
                    imported = _load(connection, paths, formats, site, replace, min_posts, progress)
    except sqlite3.Error as error:
        raise LoratoryError(
            f"Writing {target} failed ({error}).",
            hint=f"Is the disk full? If the file is damaged, `loratory vocab remove {site}` removes it.",
            exit_code=FAILED,
        ) from error
    return site, imported


def remove_vocabulary(site: Site, *, directory: Path | None = None) -> bool:
    """Removes what was imported for `site`; False when there was nothing."""
    target = database_path(site, directory)
    if not target.exists():
        return False
    with _only_writer(target):
        target.unlink(missing_ok=True)
    return True


def _load(
    connection: sqlite3.Connection,
    paths: Sequence[Path],
    formats: Sequence[Format],
    site: Site,
    replace: bool,
    min_posts: int,
    progress: Progress | None,
) -> list[Imported]:
    # Nobody else sees this file, and a crash throws it away: neither a journal nor waiting for the disk is of use.
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, FORMAT):
        raise LoratoryError(
            f"The vocabulary of {site} was written by another version of Loratory.",
            hint=f"`loratory vocab remove {site}` removes it; then import everything again.",
        )
    if version == 0:
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    first: int = connection.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM sources").fetchone()[0]
    tallies: list[Tally] = []
    total, before = sum(path.stat().st_size for path in paths), 0
    for number, (path, form) in enumerate(zip(paths, formats, strict=True), first):
        row = (number, path.name.encode("utf-8", "replace").decode(), form.name, time.time())
        connection.execute("INSERT INTO sources (id, file, format, added_s) VALUES (?, ?, ?, ?)", row)
        tallies.append(Tally())
        with _opened(path) as (raw, lines):
            records = _used(form.read(lines, site, tallies[-1]), min_posts, tallies[-1])
            while batch := list(islice(records, _ROWS_AT_ONCE)):
                _add(connection, batch, number, first)
                if progress is not None:
                    progress(before + raw.tell(), total)
        before += path.stat().st_size
    settling = [number for number, form in enumerate(formats, first) if form.settles_aliases]
    _settle(connection, first, settling, replace)
    rows = connection.execute(
        "SELECT file, format, added_s, tags, aliases, implications FROM sources WHERE id >= ? ORDER BY id", (first,)
    )
    imported = [Imported(path, Source(*row), tally) for path, row, tally in zip(paths, rows, tallies, strict=True)]
    if not any(one.source.tags or one.source.aliases or one.source.implications for one in imported):
        complaints = [complaint for one in imported for complaint in one.tally.first_bad]
        raise LoratoryError(
            f"Nothing in {', '.join(str(path) for path in paths)} can be used"
            + (f": {'; '.join(complaints[:3])}." if complaints else "."),
            hint=EXPECTED,
        )
    connection.execute("DELETE FROM sources WHERE tags + aliases + implications = 0")
    connection.execute("DELETE FROM version")
    connection.execute("INSERT INTO version VALUES (?)", (secrets.token_hex(8),))
    connection.commit()
    (pages,), (free,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
    if free > pages // 4:
        connection.execute("VACUUM")
    return imported


def _used(records: Iterator[Record], min_posts: int, tally: Tally) -> Iterator[Record]:
    for record in records:
        if isinstance(record, Tag) and record.posts < min_posts:
            tally.skipped[f"used by fewer than {min_posts} posts"] += 1
        else:
            yield record


def _add(connection: sqlite3.Connection, records: list[Record], source: int, first: int) -> None:
    tags: list[tuple[object, ...]] = []
    aliases: list[tuple[object, ...]] = []
    implications: list[tuple[object, ...]] = []
    for record in records:
        if isinstance(record, Tag):
            at = key(record.name)
            tags.append((at, record.name, record.category, record.posts, record.deprecated, source, first))
            aliases += [(key(alias), at, alias, source) for alias in record.aliases]
        elif isinstance(record, Alias):
            aliases.append((key(record.name), key(record.target), record.name, source))
        else:
            implications.append((key(record.specific), key(record.general), source))
    connection.executemany(_ADD_TAG, tags)
    connection.executemany(_ADD_ALIAS, [row for row in aliases if row[0] != row[1]])
    connection.executemany(_ADD_IMPLICATION, [row for row in implications if row[0] != row[1]])


def _settle(connection: sqlite3.Connection, first: int, settling: list[int], replace: bool) -> None:
    """Lets the new rows win over those of older imports (below `first`), and canonical names over aliases."""
    if replace:
        for table in ("tags", "aliases", "implications"):
            brought = f"EXISTS (SELECT 1 FROM {table} WHERE source >= {first})"
            connection.execute(f"DELETE FROM {table} WHERE source < {first} AND {brought}")
    for source in settling:
        newly = f"SELECT key FROM aliases WHERE source = {source}"
        connection.execute(f"DELETE FROM tags WHERE source < {first} AND key IN ({newly})")
    newly = f"SELECT key FROM aliases WHERE source >= {first}"
    connection.execute(f"DELETE FROM aliases WHERE source < {first} AND key IN ({newly})")
    connection.execute("DELETE FROM aliases WHERE key IN (SELECT key FROM tags)")
    for table in ("tags", "aliases", "implications"):
        connection.execute(f"UPDATE sources SET {table} = 0")
        connection.executemany(
            f"UPDATE sources SET {table} = ? WHERE id = ?",
            connection.execute(f"SELECT COUNT(*), source FROM {table} GROUP BY source").fetchall(),
        )


def _site(files: list[tuple[Path, Format]]) -> Site:
    found: set[Site] = {site for path, form in files if (site := _site_of(path, form)) is not None}
    unknown = [path for path, form in files if _site_of(path, form) is None]
    if len(found) == 1:
        return found.pop()
    if found:
        problem = f"The files are of different sites ({' and '.join(sorted(found))})."
    else:
        problem = f"Nothing in {unknown[0]} says which site its tags are from."
    raise LoratoryError(
        problem, hint=f"Say it: --site {' or --site '.join(SITES)}. Files of two sites are two imports."
    )


def _site_of(path: Path, form: Format) -> Site | None:
    named: list[Site] = [site for site in BOORUS if site in path.name.lower()]
    return named[0] if len(named) == 1 else form.site


def _recognised(path: Path) -> Format:
    if not path.is_file():
        raise LoratoryError(f"{path} is {'no regular file' if path.exists() else 'not there'}.")
    with _opened(path) as (_, lines):
        return recognise([(line or "")[:_SAMPLE_CHARACTERS] for _, line in islice(lines, _SAMPLE_LINES)], path)


@contextmanager
def _opened(path: Path) -> Generator[tuple[IO[bytes], Lines]]:
    """The file, for how far it has been read, and its lines, unpacked if it is packed with gzip."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error
    with raw:
        packed = raw.peek(2).startswith(b"\x1f\x8b")
        with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
            yield raw, _lines(stream, path)


def _lines(stream: gzip.GzipFile | IO[bytes], path: Path) -> Iterator[tuple[int, str | None]]:
    try:
        number = 0
        while line := stream.readline(_LONGEST_LINE_BYTES):
            number += 1
            whole = line.endswith(b"\n") or len(line) < _LONGEST_LINE_BYTES
            while not line.endswith(b"\n") and len(line) == _LONGEST_LINE_BYTES:
                line = stream.readline(_LONGEST_LINE_BYTES)
            # Bytes that are no UTF-8 become half characters, and a name that holds one is refused.
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n") if whole else None
            yield number, text.removeprefix("\ufeff") if text and number == 1 else text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"{path} is damaged or was not received whole ({error})."
        raise LoratoryError(problem, hint="Download it again.") from error
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error


@contextmanager
def _only_writer(target: Path) -> Generator[None]:
    """Keeps a second import of the same site from throwing away what the first one wrote."""
    descriptor = os.open(target.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LoratoryError(
            f"Another process is importing into {target} at this moment.", hint="Try again when it is done."
        ) from None
    except OSError:
        pass  # some network file systems have no locks
    try:
        yield
    finally:
        os.close(descriptor)
