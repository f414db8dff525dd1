"""The read-only page of a run: what it shows, and what it never gives away."""

import http.client
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image

from loratory.cli.serve import PageServer, serve
from loratory.errors import LoratoryError
from loratory.runs.events import Event, Notice, Sampled, SampleLoss, Started, Step, Timed
from loratory.runs.page import Picture, loss_chart, run_page, runs_page
from loratory.runs.progress import Progress
from loratory.runs.store import EventWriter, RunDirectory

HOSTILE = "[/b]<script>alert(1)</script>\"'&\x1b[31m\n\u202e\U0001f600"


def step(number: int, loss: float) -> Step:
    samples = [SampleLoss("10_fox/a.png", 500, loss)]
    return Step(number, 1, loss, {"unet": 1e-4}, {"unet": 1e-4}, 0.25, 1.5, 0.5, samples)


def make_run(runs_dir: Path, *events: Event) -> RunDirectory:
    run = RunDirectory.create(runs_dir, "fox", "")
    writer = EventWriter(run.events)
    for event in (Started(0, 10, 5, 2, "cpu", "0"), *events):
        writer.write(event)
    writer.close()
    Image.new("RGB", (8, 8), "red").save(run.samples / "a.png")
    return run


class Client:
    def __init__(self, runs_dir: Path | None, run: RunDirectory | None) -> None:
        self.server = PageServer(runs_dir, run, 0)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def ask(self, path: str, method: str = "GET", host: str = "localhost:8017") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host=True)
        if host:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.headers = answer.headers
        return answer.status, content

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs", step(1, 0.5), Sampled(1, 1, "samples/a.png", HOSTILE), Notice("note", HOSTILE))


@pytest.fixture
def client(run: RunDirectory) -> Iterator[Client]:
    client = Client(None, run)
    yield client
    client.close()


def test_the_page_of_a_run(client: Client, run: RunDirectory) -> None:
    status, content = client.ask("/")
    page = content.decode()
    assert status == 200
    assert "1 of 10" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in client.headers["Content-Security-Policy"]
    (picture,) = re.findall(r'src="([^"]+)"', page)
    assert client.ask(picture) == (200, (run.samples / "a.png").read_bytes())
    assert client.headers["Content-Type"] == "image/png"


def test_the_page_goes_on_with_the_run(client: Client, run: RunDirectory) -> None:
    client.ask("/")
    writer = EventWriter(run.events)
    writer.write(step(2, 0.25))
    writer.close()
    assert "2 of 10" in client.ask("/")[1].decode()


def test_a_folder_of_runs(tmp_path: Path, run: RunDirectory) -> None:
    other = RunDirectory.create(tmp_path / "runs", "wolf", "")
    client = Client(tmp_path / "runs", None)
    try:
        page = client.ask("/")[1].decode()
        assert {run.name, other.name} == set(re.findall(r'href="/run/([^/"]+)/"', page))
        page = client.ask(f"/run/{run.name}/")[1].decode()
        (picture,) = re.findall(r'src="([^"]+)"', page)
        assert client.ask(picture)[0] == 200
        for path in ("/run/", "/run/nothing/", "/run/../", f"/run/{run.name}", "/run/../../run/samples/a.png"):
            assert client.ask(path)[0] == 404
    finally:
        client.close()


def test_nothing_else_is_served(client: Client, run: RunDirectory, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (run.samples / "link.png").symlink_to(secret)
    (run.path / "grids").symlink_to(tmp_path)
    (run.samples / "notes.txt").write_text("x")
    (run.samples / "folder.png").mkdir()
    for path in (
        "/config.toml",
        "/run.json",
        "/samples/",
        "/samples/link.png",
        "/samples/notes.txt",
        "/samples/folder.png",
        "/grids/secret.png",
        "/samples/../config.toml",
        "/samples/../../../secret.png",
        "/samples/%2e%2e/%2e%2e/%2e%2e/secret.png",
        "/samples%2f..%2f..%2f..%2fsecret.png",
        f"/{secret}",
        f"//{secret}",
        "/samples/a.png%00",
        "/samples/%ff%fe.png",
        "*",
        "http://localhost/samples/link.png",
        "//[",
    ):
        assert client.ask(path)[0] == 404, path
    assert client.ask("/samples/a.png")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8017", "[::1]:8017", "[::1]"])
def test_own_names(client: Client, host: str) -> None:
    assert client.ask("/", host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8017", "localhost.evil.example", "127.0.0.1.evil.example:80", "10.0.0.1"]
)
def test_other_names_are_refused(client: Client, host: str) -> None:
    status, content = client.ask("/", host=host)
    assert status == 403
    assert b"step" not in content


def test_only_reading(client: Client, run: RunDirectory) -> None:
    before = sorted(path.name for path in run.path.rglob("*"))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.ask("/", method)[0] == 405
    assert client.ask("/", "TRACE")[0] == 501
    status, content = client.ask("/", "HEAD")
    assert (status, content) == (200, b"")
    assert int(client.headers["Content-Length"]) > 500
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_only_this_machine(client: Client) -> None:
    assert client.server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken(client: Client, run: RunDirectory) -> None:
    done = CliRunner().invoke(serve, [str(run.path), "--port", str(client.port)])
    assert isinstance(done.exception, LoratoryError)
    assert f"Port {client.port}" in done.exception.message
    assert "--port 0" in done.exception.hint


def test_no_such_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(serve, [str(tmp_path / "nothing")])
    assert isinstance(done.exception, LoratoryError)


def test_the_command_says_how_to_come_here(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: PageServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupt)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.0.0.5 2222")
    monkeypatch.setenv("LOGNAME", "ann")
    done = CliRunner().invoke(serve, [str(run.path), "--port", "0"], standalone_mode=False)
    assert done.return_value == 0
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", done.stdout)
    assert port
    assert f"ssh -p 2222 -N -L {port[1]}:127.0.0.1:{port[1]} ann@10.0.0.5" in done.stderr


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [0.5],
        [0.5] * 3,
        [math.nan] * 5,
        [0.1, math.nan, math.inf, 1e308, -1e308, 0.2],
        [math.sin(each) for each in range(3000)],
    ],
)
def test_charts_are_well_formed(losses: list[float]) -> None:
    progress = Progress()
    progress.add(Timed(0.0, Started(0, len(losses) or 1, 1, len(losses) or 1, "cpu", "0")))
    for number, loss in enumerate(losses, start=1):
        progress.add(Timed(float(number), step(number, loss)))
    root = ElementTree.fromstring(loss_chart(progress))
    assert root.tag == ("svg" if any(map(math.isfinite, losses)) else "p")
    for line in root.iter():
        for pair in line.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 900
            assert 0 <= y <= 260
    assert len(root.findall("line")[1:]) == (
        sum(not math.isfinite(loss) for loss in losses) if root.tag == "svg" else 0
    )


def test_pages_of_nothing_and_of_names_that_are_no_text() -> None:
    name = os.fsdecode(b"caf\xe9-\xff")
    page = run_page(name, "crashed", None, Progress(), [Picture(f"samples/{name}.png", "1", name)], [HOSTILE], "/")
    assert 'href="/samples/caf%E9-%FF.png?1"' in page
    assert "refresh" not in page  # nothing will change
    assert page.encode()
    assert "caf%E9-%FF/" in runs_page([(name, "running", None)])
    assert "No runs" in runs_page([])


def test_a_page_of_a_long_run_is_quick() -> None:
    progress = Progress()
    progress.add(Timed(0.0, Started(0, 20_000, 1, 20_000, "cpu", "0")))
    for number in range(1, 20_001):
        progress.add(Timed(float(number), step(number, 0.1)))
    began = time.perf_counter()
    page = run_page("fox", "running", None, progress, [], [], "/")
    assert time.perf_counter() - began < 1.0
    assert len(page) < 60_000
