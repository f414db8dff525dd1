"""Downloads from a local server that behaves as sites do: cut connections, waits, missing days, pages, nonsense."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from loratory.cli.vocab import vocab
from loratory.errors import FAILED, LoratoryError
from loratory.paths import cache_dir
from loratory.tags.vocabulary import link as links
from loratory.tags.vocabulary.fetch import FetchedSite, Table, fetch, forget
from loratory.tags.vocabulary.link import USER_AGENT, Link
from loratory.tags.vocabulary.store import open_vocabulary

TODAY = date(2026, 3, 2)
EXPORT = gzip.compress(
    ("id,name,category,post_count\n" + "".join(f"{n},zz_{n * 7919},0,{n}\n" for n in range(1, 20_000))).encode()
)
PAGE_SIZE = 1000  # what is asked for; the server here hands out no more than it is told to


Trouble = Callable[["Handler"], bool]


class Site(ThreadingHTTPServer):
    """Answers from `files` (path -> bytes) and `rows` (table -> objects); `trouble` may answer in its place."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.etag = '"one"'
        self.page_size = PAGE_SIZE
        self.requests: list[Handler] = []
        self.trouble: list[Trouble] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hung up is what some of these tests are about


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append(self)
        if self.server.trouble and self.server.trouble.pop(0)(self):
            return
        parts = urlsplit(self.path)
        table = parts.path.strip("/").removesuffix(".json")
        if table in self.server.rows:
            self.page(table, {name: values[0] for name, values in parse_qs(parts.query).items()})
        elif parts.path in self.server.files:
            self.file(self.server.files[parts.path])
        else:
            self.answer(404, b"no such thing")

    def page(self, table: str, query: dict[str, str]) -> None:
        before = int(query["page"].removeprefix("b"))
        least = int(query.get("search[post_count]", ">=0").removeprefix(">="))
        rows = [row for row in self.server.rows[table] if row["id"] < before and row.get("post_count", least) >= least]
        rows.sort(key=lambda row: row["id"], reverse=True)
        self.answer(200, json.dumps(rows[: min(self.server.page_size, int(query["limit"]))]).encode())

    def file(self, data: bytes) -> None:
        headers = {"ETag": self.server.etag}
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range") == self.server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.answer(206 if start else 200, data[start:], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> bool:
        """cut: after so many bytes the connection breaks."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = True
        return True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Download:
    """Downloads from the server, and remembers what was said and how long was waited."""

    def __init__(self, server: Site) -> None:
        self.server = server
        self.waits: list[float] = []
        self.said: list[str] = []
        self.progress: list[tuple[str, int, int]] = []

    def __call__(
        self, name: FetchedSite = "e621", *tables: Table, timeout_s: float = 20, delay_s: float = 0, min_posts: int = 1
    ) -> list[Path]:
        link = Link(
            self.server.url, delay_s=delay_s, timeout_s=timeout_s, tell=self.said.append, sleep=self.waits.append
        )
        return fetch(
            name,
            tables or ("tags",),
            link,
            min_posts=min_posts,
            today=TODAY,
            progress=lambda *now: self.progress.append(now),
        )


@pytest.fixture
def download(site: Site) -> Download:
    return Download(site)


def cut_at(length: int) -> Trouble:
    """Sends only the first bytes of the day's export."""

    def trouble(handler: Handler) -> bool:
        return handler.answer(200, EXPORT, {"ETag": handler.server.etag}, cut=length)

    return trouble


def status(code: int, **headers: str) -> Trouble:
    return lambda handler: handler.answer(code, b"", {name.replace("_", "-"): value for name, value in headers.items()})


def test_todays_export_is_downloaded(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    (path,) = download()
    assert path.read_bytes() == EXPORT
    assert path.name.endswith("tags-2026-03-02.csv.gz")
    assert download.progress[-1] == ("downloading tags-2026-03-02.csv.gz", len(EXPORT), len(EXPORT))
    assert [request.headers["User-Agent"] for request in site.requests] == [USER_AGENT]
    assert USER_AGENT.startswith("loratory/")


def test_where_todays_export_is_missing_the_newest_is_taken(site: Site, download: Download) -> None:
    site.files["/db_export/tag_aliases-2026-02-28.csv.gz"] = EXPORT
    (path,) = download("e621", "aliases")
    assert path.name.endswith("tag_aliases-2026-02-28.csv.gz")
    assert len(site.requests) == 3


def test_without_any_export_it_says_so(download: Download) -> None:
    with pytest.raises(LoratoryError, match="no export of tags of the last 7 days") as caught:
        download()
    assert "vocab add FILE" in caught.value.hint and caught.value.exit_code == FAILED


def test_a_cut_connection_goes_on_where_it_was_cut(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [cut_at(30_000)]
    (path,) = download()
    assert path.read_bytes() == EXPORT
    assert site.requests[1].headers["Range"] == "bytes=30000-"
    assert download.waits == [1.0] and "trying again in 1 s" in download.said[0]


def test_a_later_command_goes_on_too(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [cut_at(30_000), *[status(503)] * 4]
    with pytest.raises(LoratoryError, match="503"):
        download()
    site.requests.clear()
    (path,) = download()
    assert path.read_bytes() == EXPORT
    assert [request.headers["Range"] for request in site.requests] == ["bytes=30000-"]


def test_a_file_that_changed_meanwhile_starts_over(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [cut_at(30_000), *[status(503)] * 5]
    with pytest.raises(LoratoryError):
        download()
    site.etag = '"two"'
    site.files["/db_export/tags-2026-03-02.csv.gz"] = other = gzip.compress(EXPORT)
    assert download()[0].read_bytes() == other


def test_a_server_that_knows_no_ranges_sends_all_again(site: Site, download: Download) -> None:
    site.trouble = [cut_at(30_000), lambda handler: handler.answer(200, EXPORT)]
    assert download()[0].read_bytes() == EXPORT


def test_another_part_than_asked_for_is_not_taken(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [
        cut_at(30_000),
        lambda handler: handler.answer(206, EXPORT[100:], {"Content-Range": "bytes 100-9/10"}),
    ]
    assert download()[0].read_bytes() == EXPORT


def test_a_part_beyond_the_end_starts_over(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [cut_at(30_000), status(416)]
    assert download()[0].read_bytes() == EXPORT
    assert [request.headers["Range"] for request in site.requests] == [None, "bytes=30000-", None]


def test_as_long_as_it_gets_further_it_does_not_give_up(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT

    def a_bit_more(handler: Handler) -> bool:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": site.etag, "Content-Range": f"bytes {start}-{len(EXPORT) - 1}/{len(EXPORT)}"}
        return handler.answer(206 if start else 200, EXPORT[start:], headers, cut=3000)

    site.trouble = [a_bit_more] * 12
    assert download()[0].read_bytes() == EXPORT
    assert download.waits == [1.0] * 12


def test_the_wait_that_is_asked_for_is_kept(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [status(429, Retry_After="7"), status(503, Retry_After=formatdate(time.time() + 60, usegmt=True))]
    assert download()[0].read_bytes() == EXPORT
    assert download.waits[0] == 7 and 55 < download.waits[1] <= 60


def test_a_very_long_wait_is_for_another_day(site: Site, download: Download) -> None:
    site.trouble = [status(429, Retry_After="7200")]
    with pytest.raises(LoratoryError, match="asks to wait 120 min"):
        download()
    assert download.waits == []


@pytest.mark.parametrize("header", ["soon", "", "-5", "1e400", "Mon, 99 Foo 2026"])
def test_a_wait_that_makes_no_sense_is_passed_over(site: Site, download: Download, header: str) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    site.trouble = [status(429, Retry_After=header)]
    download()
    assert download.waits == [1.0]


def test_a_server_in_trouble_is_asked_five_times(site: Site, download: Download) -> None:
    site.trouble = [status(500)] * 9
    with pytest.raises(LoratoryError, match="500") as caught:
        download()
    assert download.waits == [1, 2, 4, 8] and len(site.requests) == 5
    assert "goes on later" in caught.value.hint


def test_a_refusal_is_not_argued_with(site: Site, download: Download) -> None:
    site.trouble = [status(403)]
    with pytest.raises(LoratoryError, match="403"):
        download()
    assert len(site.requests) == 1


def test_a_server_that_hangs_is_given_up(site: Site, download: Download) -> None:
    released = threading.Event()

    def hang(handler: Handler) -> bool:
        released.wait(20)
        return True

    site.trouble = [hang] * 9
    with pytest.raises(LoratoryError, match=r"silent for 0\.05 s"):
        download(timeout_s=0.05)
    released.set()


def test_a_server_that_falls_silent_half_way_is_tried_again(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    released = threading.Event()

    def hang(handler: Handler) -> bool:
        handler.answer(200, EXPORT, {"ETag": site.etag}, cut=30_000)
        handler.wfile.flush()
        return released.wait(20)

    site.trouble = [hang]
    assert download(timeout_s=0.2)[0].read_bytes() == EXPORT
    released.set()


@pytest.mark.parametrize("body", [b"<html>log in here</html>", b"id,name,category,post_count\n"])
def test_something_else_than_an_export_is_told(site: Site, download: Download, body: bytes) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = body
    with pytest.raises(LoratoryError, match="not a gzip file"):
        download()
    site.files["/db_export/tags-2026-03-02.csv.gz"] = EXPORT
    assert download()[0].read_bytes() == EXPORT, "nothing of it is kept"


def test_an_empty_answer_is_told(site: Site, download: Download) -> None:
    site.files["/db_export/tags-2026-03-02.csv.gz"] = b""
    with pytest.raises(LoratoryError, match="gave nothing"):
        download()


def test_without_a_network_it_says_what_to_do(site: Site, download: Download) -> None:
    site.server_close()
    with pytest.raises(LoratoryError, match="Nothing could be downloaded") as caught:
        download()
    assert "vocab add FILE" in caught.value.hint
    # A connection that the server still took while it closed is lost, and tried once more.
    assert download.waits in ([], [1.0])


@pytest.mark.parametrize("address", ["e621.net", "file:///etc", "ftp://x", ""])
def test_only_web_servers_are_asked(address: str) -> None:
    with pytest.raises(LoratoryError, match="no address"):
        Link(address, delay_s=0, tell=print)


def danbooru(site: Site, count: int = 25, page_size: int = 10) -> None:
    site.page_size = page_size
    site.rows["tags"] = [{"id": n, "name": f"zz_{n}", "post_count": n, "category": 0} for n in range(1, count + 1)]
    for table in ("tag_aliases", "tag_implications"):
        site.rows[table] = [{"id": 1, "antecedent_name": "zz_2", "consequent_name": "zz_1", "status": "active"}]


def names_in(path: Path) -> list[str]:
    return [row["name"] for line in path.read_text("utf-8").splitlines() for row in json.loads(line)]


def test_all_pages_of_danbooru_are_downloaded(site: Site, download: Download) -> None:
    danbooru(site)
    tags, aliases = download("danbooru", "tags", "aliases")
    assert names_in(tags) == [f"zz_{n}" for n in range(25, 0, -1)]
    assert aliases.name.endswith("tag_aliases.jsonl")
    query = parse_qs(urlsplit(site.requests[0].path).query)
    assert query["limit"] == ["1000"] and "is_deprecated" in query["only"][0]
    # With the last page, the one that holds id 1, it is over.
    assert [parse_qs(urlsplit(request.path).query)["page"] for request in site.requests[:3]] == [
        ["b2147483647"],
        ["b16"],
        ["b6"],
    ]
    assert [now[1:] for now in download.progress[:3]] == [(9, 25), (19, 25), (24, 25)]


def test_pages_are_asked_for_no_faster_than_allowed(site: Site, download: Download) -> None:
    danbooru(site)
    download("danbooru", delay_s=100)
    assert len(download.waits) == 2 and all(99 < wait <= 100 for wait in download.waits)


def test_pages_go_on_where_they_stopped(site: Site, download: Download) -> None:
    danbooru(site)
    site.trouble = [lambda _: False, lambda _: False, *[status(502)] * 5]
    with pytest.raises(LoratoryError):
        download("danbooru")
    (part,) = download_folder().glob("*.part")
    with part.open("ab") as file:
        file.write(b'[{"id": 5, "na')  # as a process leaves it that is killed while it writes
    site.requests.clear()
    (path,) = download("danbooru")
    assert names_in(path) == [f"zz_{n}" for n in range(25, 0, -1)]
    assert len(site.requests) == 1


def test_pages_of_other_conditions_are_not_gone_on_with(site: Site, download: Download) -> None:
    danbooru(site)
    site.trouble = [lambda _: False, *[status(502)] * 5]
    with pytest.raises(LoratoryError):
        download("danbooru")
    (path,) = download("danbooru", min_posts=20)
    assert names_in(path) == [f"zz_{n}" for n in range(25, 19, -1)]


def test_what_was_downloaded_is_not_downloaded_twice(site: Site, download: Download) -> None:
    danbooru(site)
    first = download("danbooru")
    count = len(site.requests)
    assert download("danbooru") == first and len(site.requests) == count
    forget(first)
    download("danbooru")
    assert len(site.requests) == 2 * count


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b"[1]", b'[{"name": "x"}]', b'[{"id": "1"}]', b'{"success": false}', b"\xff", b"[" * 9999],
)
def test_something_else_than_a_page_is_told(site: Site, download: Download, body: bytes) -> None:
    site.trouble = [lambda handler: handler.answer(200, body)]
    with pytest.raises(LoratoryError, match="no list of tags"):
        download("danbooru")


def test_no_rows_at_all_are_told(site: Site, download: Download) -> None:
    site.rows["tags"] = []
    with pytest.raises(LoratoryError, match="an empty list"):
        download("danbooru")


def test_pages_that_repeat_do_not_go_on_forever(site: Site, download: Download) -> None:
    page = json.dumps([{"id": 9, "name": "zz", "post_count": 1, "category": 0}]).encode()
    site.trouble = [lambda handler: handler.answer(200, page)] * 3
    with pytest.raises(LoratoryError, match="lead nowhere"):
        download("danbooru")
    assert len(site.requests) == 2


def download_folder() -> Path:
    return cache_dir() / "vocabularies/fetched"


def test_the_command_downloads_and_imports(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links.Link, "pace", lambda _: None)
    danbooru(site)
    result = CliRunner().invoke(vocab, ["fetch", "danbooru", "--base-url", site.url, "--min-posts", "3"])
    assert result.exception is None and result.stdout == ""
    assert "danbooru: 23 tags from" in result.stderr
    vocabulary = open_vocabulary("danbooru")
    assert vocabulary.find("zz_25") and not vocabulary.find("zz_1") and not vocabulary.find("zz_2")
    assert [info.name for info in vocabulary.resolve("zz_2")] == ["zz_1"]
    assert list(download_folder().iterdir()) == []
    # A newer set takes the place of the older one.
    site.rows["tags"] = [{"id": 1, "name": "zz_new", "post_count": 9, "category": 0}]
    CliRunner().invoke(vocab, ["fetch", "danbooru", "--base-url", site.url, "--what", "tags"])
    vocabulary = open_vocabulary("danbooru")
    assert vocabulary.find("zz_new") and not vocabulary.find("zz_25") and vocabulary.resolve("zz_2")


def test_the_command_refuses_to_hurry_and_unknown_tables() -> None:
    assert CliRunner().invoke(vocab, ["fetch", "danbooru", "--delay", "0.1"]).exit_code == 2
    error = CliRunner().invoke(vocab, ["fetch", "e621", "--what", "tags,posts"]).exception
    assert isinstance(error, LoratoryError) and "posts" in error.message
