"""`loratory serve`: a run as a read-only page for the browser of another machine, by way of `ssh -L`."""

import getpass
import os
import socket
import threading
import urllib.parse
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.errors import FAILED, LoratoryError
from loratory.runs.diagnosis import Diagnosis
from loratory.runs.page import Picture, run_page, runs_page
from loratory.runs.progress import Progress
from loratory.runs.store import EventReader, RunDirectory, find_runs, liveness

_PORT = 8017
_HOST = "127.0.0.1"
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PICTURE_FOLDERS = ("grids", "samples")
_MOST_PICTURES = 60
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@click.command()
@click.argument("run", default="runs")
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0 takes a free one.")
def serve(run: str, port: int) -> int:
    """Serve RUN, or a folder of runs (./runs), as a page that refreshes itself, until Ctrl-C.

    On this machine alone, at 127.0.0.1: from another one it is reached through `ssh -L`. It shows state, numbers, loss
    and pictures, and changes nothing.
    """
    path = Path(run)
    is_folder = path.is_dir() and not (path / "state").is_dir()
    try:
        server = PageServer(path if is_folder else None, None if is_folder else find_run(run, to_look=True), port)
    except OSError as error:
        raise LoratoryError(
            f"Port {port} of {_HOST} cannot be used: {error.strerror or error}.",
            hint="--port takes another, --port 0 a free one.",
            exit_code=FAILED,
        ) from error
    address = server.server_address[1]
    with server, suppress(KeyboardInterrupt):
        output.say("Ctrl-C ends this. From another machine, type there, then open the address in its browser:")
        output.say(f"`{_tunnel(address)}`")
        output.data(f"http://{_HOST}:{address}/")
        server.serve_forever()
    return 0


def _tunnel(port: int) -> str:
    """The command that brings the page to the machine it is typed on."""
    # client address, client port, server address, server port: how the person who is logged in came here.
    came = os.environ.get("SSH_CONNECTION", "").split()
    host, ssh_port = (came[2], came[3]) if len(came) == 4 else (socket.gethostname(), "22")
    other = "" if ssh_port == "22" else f" -p {ssh_port}"
    return f"ssh{other} -N -L {port}:{_HOST}:{port} {getpass.getuser()}@{host}"


class Followed:
    """A run and what its events have told so far."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._progress, self._diagnosis = Progress(), Diagnosis()
        self._reader = EventReader(run.events)
        self._reading = threading.Lock()

    def page(self, base: str) -> str:
        """The page as of now; pictures are looked for below `base`."""
        with self._reading:
            for timed in self._reader.events():
                self._progress.add(timed)
                self._diagnosis.add(timed)
            drawn = {sampled.path: sampled for _, sampled in self._progress.samples}
            pictures = [
                Picture(name, version, f"step {drawn[name].step}: {drawn[name].prompt}" if name in drawn else name)
                for name, version in picture_names(self.run).items()
            ]
            record = self.run.read_record()
            alarms = [f"step {alarm.step}: {alarm.sentence}" for alarm in self._diagnosis.alarms]
            return run_page(self.run.name, liveness(record), record, self._progress, pictures, alarms, base)


def picture_names(run: RunDirectory) -> dict[str, str]:
    """The newest pictures of a run, path below its folder -> time: files, no links, in folders that are none."""
    found: list[tuple[int, str]] = []
    for name in _PICTURE_FOLDERS:
        folder = run.path / name
        if folder.is_symlink() or not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".png") and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, f"{name}/{entry.name}"))
    return {name: str(time_ns) for time_ns, name in sorted(found, reverse=True)[:_MOST_PICTURES]}


class PageServer(ThreadingHTTPServer):
    """Serves the runs in `runs_dir`, or one `run`, on `port` of the loopback interface. Raises OSError."""

    daemon_threads = True

    def __init__(self, runs_dir: Path | None, run: RunDirectory | None, port: int) -> None:
        self._runs_dir, self._run = runs_dir, run
        self._followed: dict[Path, Followed] = {}
        self._opening = threading.Lock()
        super().__init__((_HOST, port), _Handler)

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """(type, content) of an address; None for any that leads to no page and no picture of a run.

        An address is compared with the names that there are, never made into a path.
        """
        parts = urllib.parse.unquote(path, errors="surrogateescape").split("/")
        if self._run is not None:
            return self._of_run(self._run, parts[1:], "/")
        assert self._runs_dir is not None
        runs = list(find_runs(self._runs_dir))
        if parts[1:] == [""]:
            records = [(run, run.read_record()) for run in runs]
            return _html(runs_page((run.name, liveness(record), record) for run, record in records))
        run = next((run for run in runs if parts[1:3] == ["run", run.name]), None)
        if run is None:
            return None
        return self._of_run(run, parts[3:], f"/run/{urllib.parse.quote(run.name, errors='surrogateescape')}/")

    def _of_run(self, run: RunDirectory, parts: list[str], base: str) -> tuple[str, bytes] | None:
        if parts == [""]:
            with self._opening:
                followed = self._followed.setdefault(run.path, Followed(run))
            return _html(followed.page(base))
        name = "/".join(parts)
        if name not in picture_names(run):
            return None
        # A link put in its place meanwhile is not followed.
        with os.fdopen(os.open(run.path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return "image/png", file.read()


def _html(page: str) -> tuple[str, bytes]:
    return "text/html; charset=utf-8", page.encode("utf-8", "replace")


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride] - who makes it gives no other
    server_version, sys_version = "Loratory", ""
    timeout = 30  # seconds for a client that has connected and says nothing

    def do_GET(self) -> None:
        # A page elsewhere whose name was made to lead to this address could otherwise read the run.
        host = self.headers.get("Host", "").lower()
        if (host if host.endswith("]") else host.rpartition(":")[0] or host) not in _OWN_NAMES:
            self._reply(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"Open this page as localhost.\n")
            return
        try:
            found = self.server.answer(urllib.parse.urlsplit(self.path).path)
        except (OSError, ValueError, TypeError):  # a file has gone, the address is none, an event holds nonsense
            found = None
        if found is None:
            self._reply(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"There is nothing to show here.\n")
        else:
            self._reply(HTTPStatus.OK, *found)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", b"Nothing can be changed here.\n")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _reply(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (_HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        # The address of a picture changes with it: without this, a page that refreshes itself would load all again.
        self.send_header("Cache-Control", "private, max-age=86400" if kind == "image/png" else "no-store")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        with suppress(ConnectionError):  # the browser has gone on to another page
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: who looks at a run is no news to the one who trains it."""
