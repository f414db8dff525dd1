"""The SQLite file that holds what was imported for one site, as readers see it.

A file is never changed where it lies: an import writes another one and renames it over this (`importing`). It is
therefore opened as immutable: without locks, journals or any write beside it.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loratory.errors import LoratoryError
from loratory.paths import data_dir
from loratory.tags.vocabulary.model import Site, Source, TagInfo

FORMAT = 1  # PRAGMA user_version
_ROWS_AT_ONCE = 20_000

# Everything is found by `text.key`. source: the row of the file it came from.
SCHEMA = """
CREATE TABLE tags (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, count INTEGER NOT NULL,
    deprecated INTEGER NOT NULL, source INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE aliases (
    key TEXT NOT NULL, target TEXT NOT NULL, name TEXT NOT NULL, source INTEGER NOT NULL, PRIMARY KEY (key, target)
) WITHOUT ROWID;
CREATE INDEX aliases_of ON aliases (target);
CREATE TABLE implications (
    specific TEXT NOT NULL, general TEXT NOT NULL, source INTEGER NOT NULL, PRIMARY KEY (specific, general)
) WITHOUT ROWID;
CREATE INDEX implied_by ON implications (general);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL, format TEXT NOT NULL, added_s REAL NOT NULL,
    tags INTEGER NOT NULL DEFAULT 0, aliases INTEGER NOT NULL DEFAULT 0, implications INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE version (id TEXT NOT NULL);
"""


def database_path(site: Site, directory: Path | None = None) -> Path:
    """Where the imported vocabulary of `site` lies, by default among the program's data."""
    return (directory or data_dir() / "vocabularies") / f"{site}.sqlite"


class Database:
    """An imported vocabulary, read only; safe to use from several threads.

    Raises LoratoryError when the file is damaged or was written by another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                raise LoratoryError(f"{path} was written by another version of Loratory.", hint=self._again())
            (self.id,) = self._connection.execute("SELECT id FROM version").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def tag_count(self) -> int:
        """The number of tags."""
        return self._rows("SELECT COUNT(*) FROM tags")[0][0]

    def tag(self, key: str) -> TagInfo | None:
        """The tag of this key."""
        rows = self._rows("SELECT name, category, count, deprecated FROM tags WHERE key = ?", key)
        return TagInfo(rows[0][0], rows[0][1], rows[0][2], bool(rows[0][3]), "import") if rows else None

    def targets(self, key: str) -> list[str]:
        """The keys that an alias stands for."""
        return [target for (target,) in self._rows("SELECT target FROM aliases WHERE key = ?", key)]

    def aliases(self, key: str) -> list[str]:
        """The names of the aliases of a tag."""
        return [name for (name,) in self._rows("SELECT name FROM aliases WHERE target = ?", key)]

    def generals(self, key: str) -> list[str]:
        """The keys of what a tag implies directly."""
        return [general for (general,) in self._rows("SELECT general FROM implications WHERE specific = ?", key)]

    def specifics(self, key: str) -> list[str]:
        """The keys of what implies a tag directly."""
        return [specific for (specific,) in self._rows("SELECT specific FROM implications WHERE general = ?", key)]

    def sources(self) -> tuple[Source, ...]:
        """The files it came from, oldest first."""
        query = "SELECT file, format, added_s, tags, aliases, implications FROM sources ORDER BY id"
        return tuple(Source(*row) for row in self._rows(query))

    def all_tags(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Key, name, category, count and deprecated of every tag, the most posts first."""
        return self._stream("SELECT key, name, category, count, deprecated FROM tags ORDER BY count DESC, key")

    def all_aliases(self) -> Iterator[tuple[str, str, str]]:
        """Key, target's key and name of every alias."""
        return self._stream("SELECT key, target, name FROM aliases")

    def _rows(self, query: str, *parameters: str) -> list[Any]:
        # The lock costs a tenth of a microsecond; a connection for each thread would cost each of them a cache.
        try:
            with self._lock:
                return self._connection.execute(query, parameters).fetchall()
        except UnicodeEncodeError:
            return []  # half characters, as file names can hold: no import takes them
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _stream(self, query: str) -> Iterator[Any]:
        try:
            with closing(self._connection.cursor()) as cursor:
                with self._lock:
                    cursor.execute(query)
                while True:
                    with self._lock:
                        rows = cursor.fetchmany(_ROWS_AT_ONCE)
                    if not rows:
                        return
                    yield from rows
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> LoratoryError:
        return LoratoryError(f"{self._path} is damaged ({error}).", hint=self._again())

    def _again(self) -> str:
        return f"`loratory vocab remove {self._path.stem}` removes it; then import the vocabulary again."
