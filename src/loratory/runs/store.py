"""A run directory: written by the loop, read by everyone else.

config.toml    every setting, resolved          run.json       who runs it, how it stands, its heartbeat
events.jsonl   append-only, an event a line     control/       commands waiting to be obeyed
state/         the last good resumable states   samples/       preview pictures      log.txt   library output
"""

import dataclasses
import errno
import json
import math
import mmap
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import psutil

from loratory import atomic
from loratory.errors import FAILED, LoratoryError
from loratory.runs.events import Event, Started, Timed, decode, encode

HEARTBEAT_EVERY_S = 5.0
# A run on another machine (a shared disk) can only be judged by its heartbeat.
SILENT_AFTER_S = 600.0

Status = Literal["starting", "running", "paused", "done", "stopped", "failed"]
# What a viewer is told: the status, or what became of a process that could not write one.
Liveness = Literal["starting", "running", "paused", "done", "stopped", "failed", "crashed", "silent"]
# Of a run that a process still has in hand, as far as anybody knows.
ALIVE: tuple[Liveness, ...] = ("starting", "running", "paused", "silent")


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json. pid and pid_started_s together name a process that no later one can be taken for."""

    status: Status
    pid: int
    pid_started_s: float
    host: str
    started_s: float
    heartbeat_s: float
    step: int = 0
    total_steps: int = 0
    message: str = ""


class RunDirectory:
    """Paths of one run and the few operations on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.record = path / "run.json"
        self.events = path / "events.jsonl"
        self.control = path / "control"
        self.state = path / "state"
        self.samples = path / "samples"
        self.log = path / "log.txt"

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, runs_dir: Path, output_name: str, config_toml: str, now: datetime | None = None) -> "RunDirectory":
        """Makes `<runs_dir>/<output_name>-<YYYYmmdd-HHMMSS>` (a number is added if taken) with its config."""
        stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
        base = (re.sub(r"[^\w.-]+", "_", output_name) or "run") + "-" + stamp
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            for attempt in range(1000):
                path = runs_dir / (base if attempt == 0 else f"{base}-{attempt + 1}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
            else:
                raise LoratoryError(f"{runs_dir} already holds a thousand runs named {base}.")
            run = cls(path)
            try:
                for folder in (run.control, run.state, run.samples):
                    folder.mkdir()
                atomic.write_text(run.config, config_toml)
            except (OSError, UnicodeEncodeError):
                shutil.rmtree(path, ignore_errors=True)
                raise
        except UnicodeEncodeError as error:
            raise LoratoryError(
                f"A path in the configuration is not UTF-8: {error.object[max(error.start - 40, 0) : error.end]!a}",
                hint="Rename the folder.",
            ) from error
        except OSError as error:
            reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
            raise LoratoryError(
                f"Cannot make a run directory in {runs_dir}: {reason}.",
                hint="Choose another folder with output.runs_dir.",
                exit_code=FAILED,
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """The run at `path`; LoratoryError when there is none."""
        if not _is_run(path):
            what = "is not a run directory" if path.exists() else "does not exist"
            raise LoratoryError(f"{path} {what}.", hint="`loratory runs list` shows the runs there are.")
        return cls(path)

    def read_record(self) -> RunRecord | None:
        """run.json, or None where there is none yet or it cannot be read."""
        try:
            return _read_record(json.loads(self.record.read_text("utf-8")))
        except (OSError, ValueError, RecursionError):
            return None

    def write_record(self, record: RunRecord) -> None:
        text = json.dumps(dataclasses.asdict(record), indent=1)
        try:
            # Not fsynced: after a power cut the process is gone and its record is worth nothing anyway.
            with atomic.replacing(self.record, durable=False) as temporary:
                temporary.write_text(text, "utf-8")
        except OSError as error:
            if not is_full_disk(error):
                raise
            # A full disk takes no new file, but the old one has its place: how the run ended should still be told.
            # One write over all of the old text, so that nobody reads the end of one behind the other.
            with self.record.open("r+", encoding="utf-8") as file:
                file.write(text.ljust(self.record.stat().st_size))


def _read_record(body: Any) -> RunRecord:
    """The record of a parsed run.json. Raises ValueError where it is not one."""
    if not isinstance(body, dict) or body.get("status") not in get_args(Status):
        raise ValueError("not the record of a run")
    given: dict[str, Any] = {}
    for each in dataclasses.fields(RunRecord):
        value: Any = body.get(each.name, each.default)
        if each.type is float and type(value) is int:
            value = float(value)
        if (each.name != "status" and type(value) is not each.type) or (
            each.type is float and not math.isfinite(value)
        ):
            raise ValueError(f"not the record of a run: {each.name}")
        given[each.name] = value
    return RunRecord(**given)


class SavedState(NamedTuple):
    """A state that a run can go on from: after how many steps, and when it was written (seconds since the epoch)."""

    step: int
    time_s: float


def newest_state(run: RunDirectory) -> SavedState | None:
    """The newest state that is on the disk; None where a run would begin from its first step."""
    newest = max(run.state.glob("[0-9]*.pt"), default=None)
    return SavedState(int(newest.stem), newest.stat().st_mtime) if newest and newest.stem.isdigit() else None


def is_full_disk(error: BaseException | None) -> bool:
    """Whether `error` is, or was raised from, the system's word that nothing more fits."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def new_record(pid: int | None = None) -> RunRecord:
    """A record for a process (this one), starting now."""
    now = time.time()
    process = psutil.Process(pid)
    return RunRecord(
        status="starting",
        pid=process.pid,
        pid_started_s=process.create_time(),
        host=socket.gethostname(),
        started_s=now,
        heartbeat_s=now,
    )


def liveness(record: RunRecord | None, now_s: float | None = None) -> Liveness:
    """How a run stands as far as this machine can tell; a record that claims to run is checked."""
    if record is None:
        return "crashed"
    if record.status not in ALIVE:
        return record.status
    if record.host != socket.gethostname():
        silent = (time.time() if now_s is None else now_s) - record.heartbeat_s > SILENT_AFTER_S
        return "silent" if silent else record.status
    return record.status if _same_process(record.pid, record.pid_started_s) else "crashed"


def _same_process(pid: int, started_s: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The kernel counts in ticks from boot and the boot time may be corrected by a second.
        return abs(process.create_time() - started_s) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # gone, or no number that a process can have
        return False


class EventWriter:
    """Appends events to a run's events.jsonl: one write at a time, so that a kill can tear only the last line."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if _ends_torn(path):
            os.write(self._descriptor, b"\n")

    def write(self, *events: Event) -> None:
        """Appends all of `events` or none. Raises OSError as the disk does."""
        # Half a surrogate pair, from a file name that is not UTF-8, becomes the \\u escape that JSON has for it.
        lines = "".join(encode(event) + "\n" for event in events).encode("utf-8", "backslashreplace")
        size = os.fstat(self._descriptor).st_size
        try:
            while lines:  # os.write may take less than it is given, on a disk that is about to be full
                lines = lines[os.write(self._descriptor, lines) :]
        except OSError:
            os.ftruncate(self._descriptor, size)  # the next event, if there is room for it, begins a line
            raise

    def close(self) -> None:
        os.close(self._descriptor)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


@dataclass
class EventReader:
    """Follows events.jsonl: gives what is new since the last time. A line without its newline is left for later.

    offset: where in the file the next line begins. Raises OSError as the disk does; without a file nothing is new.
    """

    path: Path
    offset: int = 0

    def lines(self) -> Iterator[bytes]:
        """Line by line: those of a long run are many times as large in memory as on disk."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                yield line

    def events(self) -> Iterator[Timed]:
        """What the lines tell; those of other programs and versions are passed over."""
        for line in self.lines():
            timed = decode(line.decode("utf-8", errors="replace"))
            if timed is not None:
                yield timed

    def read(self) -> list[Timed]:
        """All events at once."""
        return list(self.events())

    def size_bytes(self) -> int:
        """How long the file is now: less than `offset` where another one has taken its place."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def last_started(path: Path, before: int) -> Started | None:
    """The last Started among the first `before` bytes of a run's events; without reading the rest of them."""
    if before <= 0:
        return None
    with (
        suppress(OSError, ValueError),  # ValueError: an empty file cannot be mapped
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        # A string in an event cannot look like this: its quotes have backslashes.
        found = data.rfind(b'"kind":"started"', 0, before)
        if found >= 0:
            begin, end = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found)
            timed = decode(data[begin : end if end > 0 else None].decode("utf-8", errors="replace"))
            if timed is not None and isinstance(timed.event, Started):
                return timed.event
    return None


def find_runs(runs_dir: Path) -> Iterator[RunDirectory]:
    """The runs below `runs_dir`, newest first."""
    if runs_dir.is_dir():
        folders = [path for path in runs_dir.iterdir() if _is_run(path)]
        for path in sorted(folders, key=lambda path: (path / "config.toml").stat().st_mtime, reverse=True):
            yield RunDirectory(path)


def _is_run(path: Path) -> bool:
    # A folder with a config.toml alone is where a person keeps theirs.
    return (path / "config.toml").is_file() and (path / "state").is_dir()
