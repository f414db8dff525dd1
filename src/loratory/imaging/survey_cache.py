"""Facts about pictures, kept between runs. Whatever is wrong with the cache, the survey works without it."""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loratory.imaging.facts import Ground, PictureFacts
from loratory.paths import cache_dir

T = TypeVar("T")

FILE_NAME = "pictures.sqlite"
FORMAT = 1  # PRAGMA user_version
# About 6 kB each. Beyond it those not looked at for longest are forgotten.
MOST_PICTURES = 50_000
_WRITTEN_AT_ONCE = 200
_DAY_S = 86_400
# Another process writes for milliseconds; a dead disk must not hold the survey up.
_PATIENCE_S = 2.0
# The modules whose code decides what the facts are: facts of another version of any of them are computed anew.
ALGORITHM = (
    "background",
    "colour_names",
    "completeness",
    "components",
    "facts",
    "fingerprints",
    "frames",
    "opening",
    "pixels",
    "quality",
    "reading",
    "styles",
    "survey",
)

_SCHEMA = """
CREATE TABLE pictures (
    path BLOB PRIMARY KEY, stamp TEXT NOT NULL, version TEXT NOT NULL, seen_day INTEGER NOT NULL,
    facts TEXT NOT NULL, thumbnail BLOB NOT NULL
) WITHOUT ROWID
"""


class Stamp(NamedTuple):
    """What changes where a file's bytes do.

    changed_ns: when the system last saw anything about the file change: programs that copy and unpack set the
    modification time back, and pictures without compression are often of one size.
    """

    mtime_ns: int
    changed_ns: int
    size_bytes: int
    inode: int


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a regular file; None for anything else and where it cannot be read."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


class SurveyCache:
    """The cache file, for one thread; several processes may use it at once.

    A damaged file is set aside as "pictures.sqlite.damaged" and begun anew. Where it cannot be read or written (no
    space, no permission, locked for long) nothing is found and nothing is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or cache_dir() / FILE_NAME
        self._waiting: list[tuple[bytes, str, str, int, str, bytes]] = []
        self._seen: list[bytes] = []
        self._today = int(time.time() // _DAY_S)
        self._connection = self._open()

    def find(self, path: Path, stamp: Stamp) -> PictureFacts | None:
        """The facts kept for the file at `path` as it is now."""
        key = _key(path)
        row = self._tried(
            lambda connection: connection.execute(
                "SELECT facts, thumbnail, seen_day FROM pictures WHERE path = ? AND stamp = ? AND version = ?",
                (key, _text(stamp), _version()),
            ).fetchone()
        )
        if row is None:
            return None
        facts, thumbnail, seen_day = row
        if seen_day != self._today:
            self._seen.append(key)
        try:
            return _decoded(facts, thumbnail)
        except (TypeError, ValueError, KeyError):
            return None

    def keep(self, path: Path, stamp: Stamp, facts: PictureFacts) -> None:
        """Keeps the facts; written in batches and by `close`."""
        values, thumbnail = _encoded(facts)
        self._waiting.append((_key(path), _text(stamp), _version(), self._today, values, thumbnail))
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            self._write()

    def close(self) -> None:
        """Writes what is left, forgets what is too much and lets go of the file."""
        self._write()
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):
            try:
                return _connected(self._path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, read only, no space: nothing is damaged
                    return None
                self._set_aside()
            except OSError:
                return None
        return None

    def _set_aside(self) -> None:
        with suppress(OSError):
            for ending in ("-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))

    def _tried(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `work` gives; on any failure None, and the cache is left alone from then on."""
        if self._connection is None:
            return None
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
            if not isinstance(error, sqlite3.OperationalError):
                self._set_aside()
                self._connection = self._open()
            return None

    def _write(self) -> None:
        waiting, seen, today = self._waiting, self._seen, self._today
        self._waiting, self._seen = [], []
        if not waiting and not seen:
            return

        def work(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", waiting)
                connection.executemany(
                    "UPDATE pictures SET seen_day = ? WHERE path = ?", [(today, key) for key in seen]
                )
                (count,) = connection.execute("SELECT COUNT(*) FROM pictures").fetchone()
                if count > MOST_PICTURES:
                    connection.execute(
                        "DELETE FROM pictures WHERE path IN (SELECT path FROM pictures ORDER BY seen_day LIMIT ?)",
                        (count - MOST_PICTURES,),
                    )

        self._tried(work)


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last pictures, which are then looked at again.
        connection.execute("PRAGMA synchronous = OFF")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                connection.execute("DROP TABLE IF EXISTS pictures")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("SELECT path, stamp, version, seen_day, facts, thumbnail FROM pictures LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


@cache
def _version() -> str:
    """Changes with the code that computes the facts."""
    digest = blake2b(digest_size=8)
    for name in ALGORITHM:
        with suppress(OSError):
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def _encoded(facts: PictureFacts) -> tuple[str, bytes]:
    values = asdict(facts)
    return json.dumps({key: value for key, value in values.items() if key != "thumbnail"}), facts.thumbnail


def _decoded(text: str, thumbnail: bytes) -> PictureFacts:
    values: dict[str, Any] = json.loads(text)
    ground: dict[str, Any] | None = values["ground"]
    if ground is not None:
        ground["colour"], ground["box"] = tuple(ground["colour"]), tuple(ground["box"])
        values["ground"] = Ground(**ground)
    values["figures"] = tuple(tuple(box) for box in values["figures"])
    values["size"] = tuple(values["size"])
    values["style"] = tuple(values["style"])
    return PictureFacts(**values, thumbnail=thumbnail)
