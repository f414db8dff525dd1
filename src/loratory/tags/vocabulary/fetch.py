"""Downloads of vocabularies, for people who are online: e621's daily exports and the pages of Danbooru's API.

What was received is kept in the cache folder until it has been imported, so that a download that was cut off goes on.
Facts about the sites: https://e621.net/db_export/ holds `tags-2026-01-31.csv.gz` and the like, one set a day;
Danbooru's `/tags.json?page=b<id>&limit=1000` lists what has a smaller id, the largest first.
"""

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, cast

from loratory.errors import FAILED, LoratoryError
from loratory.paths import cache_dir
from loratory.tags.vocabulary.link import Link, Lost

Table = Literal["tags", "aliases", "implications"]
TABLES: tuple[Table, ...] = ("tags", "aliases", "implications")
FetchedSite = Literal["e621", "danbooru"]
BASE_URLS: dict[FetchedSite, str] = {"e621": "https://e621.net", "danbooru": "https://danbooru.donmai.us"}

# label, how much is there, how much there will be (0: unknown)
Progress = Callable[[str, int, int], None]

_NAMES: dict[Table, str] = {"tags": "tags", "aliases": "tag_aliases", "implications": "tag_implications"}
_DAYS_BACK = 7
_CHUNK_BYTES = 1 << 16
_ROWS_A_PAGE = 1000
_LARGEST_PAGE_BYTES = 1 << 26
_ABOVE_ALL_IDS = 2**31 - 1
# Older halves are not completed: their two parts would tell of different days.
_STALE_S = 7 * 86400.0


def fetch(
    site: FetchedSite, tables: Sequence[Table], link: Link, *, min_posts: int, today: date, progress: Progress
) -> list[Path]:
    """Downloads the tables and returns the files, ready for `importing.import_files`.

    min_posts: tags of fewer posts are not asked for, where the site can leave them out (Danbooru). today: the date in
    UTC. Raises LoratoryError; what was received stays for the next time.
    """
    folder = cache_dir() / "vocabularies" / "fetched"
    folder.mkdir(parents=True, exist_ok=True)
    if site == "e621":
        return [_export(_NAMES[table], link, folder, today, progress) for table in tables]
    return [_pages(_NAMES[table], link, folder, min_posts, progress) for table in tables]


def forget(paths: Iterable[Path]) -> None:
    """Removes downloaded files, once they have been imported."""
    for path in paths:
        path.unlink(missing_ok=True)


def _export(name: str, link: Link, folder: Path, today: date, progress: Progress) -> Path:
    for days in range(_DAYS_BACK):
        file = f"{name}-{today - timedelta(days=days)}.csv.gz"
        url = f"{link.base_url}/db_export/{file}"
        target = folder / f"e621-{_mark(url)}-{file}"
        try:
            if not target.exists():
                link.persist(lambda url=url, target=target: _receive(link, url, target, progress))
        except _NotThere:
            continue
        forget(older for older in folder.glob(f"e621-*-{name}-*.csv.gz*") if older != target)
        return target
    raise LoratoryError(
        f"{link.base_url} has no export of {name} of the last {_DAYS_BACK} days.",
        hint="Is the clock of this computer right? A list from elsewhere is imported by `loratory vocab add FILE`.",
        exit_code=FAILED,
    )


class _NotThere(Exception):
    """The server has no such file."""


def _receive(link: Link, url: str, target: Path, progress: Progress) -> None:
    """Downloads `url` into `target`, going on where an earlier attempt stopped if the file is still the same one."""
    part, label = target.with_name(f"{target.name}.part"), f"downloading {url.rpartition('/')[2]}"
    state = target.with_name(f"{target.name}.state")  # what the server calls this version of the file
    validator = state.read_text("utf-8") if state.exists() and part.exists() else ""
    had = part.stat().st_size if validator else 0
    headers = {"Range": f"bytes={had}-", "If-Range": validator} if had else {}
    try:
        with link.get(url, headers) as response:
            resumed = response.status == 206 and _starts_at(response.headers.get("Content-Range"), had)
            if response.status == 206 and not resumed:
                part.unlink()
                raise Lost(f"{link.base_url} sent another part of the file")
            start = had if resumed else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdecimal() else 0
            state.write_text(_validator(response.headers.get("ETag"), response.headers.get("Last-Modified")), "utf-8")
            done = start
            with part.open("ab" if resumed else "wb") as file:
                try:
                    while chunk := response.read(_CHUNK_BYTES):
                        if done == 0 and not chunk.startswith(b"\x1f\x8b"):
                            raise _wrong(url, "not a gzip file")
                        file.write(chunk)
                        done += len(chunk)
                        progress(label, done, total)
                except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                    raise Lost(f"the connection to {link.base_url} broke", gained=done > had) from error
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise _NotThere from error
        if error.code == 416:  # what is here is not the start of what is there
            part.unlink(missing_ok=True)
            raise Lost(f"the file on {link.base_url} has changed") from error
        raise
    except LoratoryError:
        part.unlink(missing_ok=True)
        raise
    if done < total:
        raise Lost(f"the connection to {link.base_url} broke after {done} of {total} bytes", gained=done > had)
    if done == 0:
        raise _wrong(url, "nothing")
    part.replace(target)
    state.unlink(missing_ok=True)


def _validator(etag: str | None, modified: str | None) -> str:
    """What If-Range may say: a strong ETag, else the date of the file; "" where going on would be a gamble."""
    return etag if etag and not etag.startswith("W/") else modified or ""


def _starts_at(content_range: str | None, offset: int) -> bool:
    return (content_range or "").startswith(f"bytes {offset}-")


def _pages(name: str, link: Link, folder: Path, min_posts: int, progress: Progress) -> Path:
    if name == "tags":
        asked = {"only": "id,name,post_count,category,is_deprecated", "search[post_count]": f">={min_posts}"}
    else:
        asked = {"only": "id,antecedent_name,consequent_name,status", "search[status]": "active"}
    url = f"{link.base_url}/{name}.json?" + urllib.parse.urlencode({**asked, "limit": _ROWS_A_PAGE})
    target = folder / f"danbooru-{_mark(url)}-{name}.jsonl"
    if target.exists() and time.time() - target.stat().st_mtime < _STALE_S:
        return target
    part = target.with_name(f"{target.name}.part")
    if part.exists() and time.time() - part.stat().st_mtime > _STALE_S:
        part.unlink()
    highest, cursor, rows = _kept_pages(part)
    while cursor > 1:
        text, ids = link.persist(lambda cursor=cursor: _page(link, f"{url}&page=b{cursor}"))
        if not ids:
            break
        if min(ids) >= cursor:
            raise _wrong(url, "pages that lead nowhere")
        with part.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        highest, cursor, rows = highest or max(ids), min(ids), rows + len(ids)
        progress(f"downloading {name} of Danbooru, {rows} so far", highest - cursor, highest)
    if not part.exists():
        raise _wrong(url, "an empty list")
    part.replace(target)
    forget(older for older in folder.glob(f"danbooru-*-{name}.jsonl*") if older != target)
    return target


def _kept_pages(part: Path) -> tuple[int, int, int]:
    """The highest id, the lowest id and the number of rows of an earlier attempt; a torn last line is cut off."""
    highest, cursor, rows, whole = 0, _ABOVE_ALL_IDS, 0, 0
    with suppress(FileNotFoundError), part.open("rb") as file:
        for line in file:
            try:
                ids = [cast(int, row["id"]) for row in json.loads(line)] if line.endswith(b"\n") else []
            except (ValueError, KeyError, TypeError):
                ids = []
            if not ids:
                break
            highest, cursor, rows, whole = max(highest, *ids), min(cursor, *ids), rows + len(ids), whole + len(line)
        if part.stat().st_size > whole:
            with part.open("r+b") as cut:
                cut.truncate(whole)
    return highest, cursor, rows


def _page(link: Link, url: str) -> tuple[str, list[int]]:
    """A page on one line, and the ids in it."""
    link.pace()
    with link.get(url) as response:
        data = response.read(_LARGEST_PAGE_BYTES)
    try:
        rows = json.loads(data)
        ids = [cast(dict[str, Any], row)["id"] for row in cast(list[object], rows)]
        if not isinstance(rows, list) or not all(type(number) is int and number > 0 for number in ids):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _wrong(url, "no list of tags") from None
    return json.dumps(rows, separators=(",", ":")), ids


def _mark(url: str) -> str:
    """Tells apart what comes from different servers, or with other conditions."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]


def _wrong(url: str, got: str) -> LoratoryError:
    return LoratoryError(
        f"{url} gave {got}.",
        hint="A network that wants you to log in first answers like this. A list from elsewhere is imported by "
        "`loratory vocab add FILE`.",
        exit_code=FAILED,
    )
