"""The queue: configurations that wait to be trained one after the other, in the program's own folder.

An entry is a file that is written aside and renamed; it holds the whole configuration, so that later edits of the file
it came from change nothing. Whoever changes the queue holds `lock` while it does; the one process that works through it
holds `runner` for as long as it lives.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from loratory import atomic
from loratory.config.load import dump_config, resolve
from loratory.config.schema import Config
from loratory.config.toml_files import parse_toml
from loratory.errors import LoratoryError
from loratory.paths import data_dir
from loratory.runs.store import ALIVE, RunDirectory, liveness

EntryState = Literal["waiting", "running", "done", "failed", "stopped"]
StopRequest = Literal["after", "now"]

_FORMAT_VERSION = 1
# Whoever asks whether the queue is worked through holds the lock for an instant.
_ASKED_FOR_S = 0.3


@dataclass(frozen=True)
class Entry:
    """A configuration in the queue.

    number: its own for as long as it is there. place: entries are trained from the lowest to the highest. config: TOML,
    every setting resolved. source: the file it came from. run: its run directory once it was begun, "" before. tries:
    how many processes have begun on it. reason: why it ended as it did.
    """

    number: int
    name: str
    config: str
    source: str
    place: int
    state: EntryState = "waiting"
    run: str = ""
    tries: int = 0
    reason: str = ""
    added_s: float = 0.0
    ended_s: float = 0.0

    def settings(self) -> Config:
        """The configuration. Raises LoratoryError where this version of the program refuses it."""
        path = Path(self.source)
        return resolve(parse_toml(self.config, path), path)


class Queue:
    """The queue in a folder, by default the program's own. What changes it raises OSError as the disk does."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or data_dir() / "queue"
        self.log = self.folder / "log.txt"
        self._stop = self.folder / "stop"

    # --- what is in it ---

    def entries(self) -> list[Entry]:
        """In the order in which they are trained."""
        found = (_read(path) for path in self.folder.glob("*.json"))
        return sorted((entry for entry in found if entry), key=lambda entry: (entry.place, entry.number))

    def damaged(self) -> list[Path]:
        """Files of entries that cannot be read, or were written by a newer version."""
        return sorted(path for path in self.folder.glob("*.json") if _read(path) is None)

    def find(self, name: str) -> Entry:
        """The entry of that number, or else of that name. Raises LoratoryError when there is none, or several."""
        entries = self.entries()
        matches = [entry for entry in entries if str(entry.number) == name]
        matches = matches or [entry for entry in entries if entry.name == name]
        if len(matches) > 1:
            numbers = ", ".join(str(entry.number) for entry in matches)
            raise LoratoryError(f"“{name}” could be number {numbers}.", hint="Give the number.")
        if not matches:
            raise LoratoryError(f"The queue has no “{name}”.", hint="`loratory queue list` shows what it has.")
        return matches[0]

    # --- changing it ---

    def add(self, config: Config, source: Path) -> Entry:
        """Puts a configuration at the end.

        Raises LoratoryError for an output that another entry will write, and for paths that no file can hold.
        """
        output = config.output
        text = dump_config(config)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = error.object[max(error.start - 40, 0) : error.end]
            raise LoratoryError(
                f"A path in the configuration is not UTF-8: {shown!a}", hint="Rename the folder."
            ) from error
        with self._changing() as entries:
            for entry in entries:
                if entry.state in ("waiting", "running") and _writes(entry) == (
                    str(output.output_dir),
                    output.output_name,
                ):
                    raise LoratoryError(
                        f"{source}: number {entry.number} of the queue will write {output.output_name} to "
                        f"{output.output_dir} too.",
                        hint="Give one of them another name with --set output.output_name=….",
                    )
            number = 1 + max((entry.number for entry in entries), default=0)
            place = 1 + max((entry.place for entry in entries), default=0)
            # Resolved before: its paths are absolute, so that the folder of `source` no longer matters.
            entry = Entry(number, output.output_name, text, str(source.absolute()), place, added_s=time.time())
            self.write(entry)
        return entry

    def remove(self, name: str) -> Entry:
        """Takes an entry out; its run, if it has one, stays. Raises LoratoryError for one that is being trained."""
        with self._changing():
            entry = self.find(name)
            if entry.state == "running" and (self.is_running() or _is_trained(entry)):
                raise LoratoryError(
                    f"{entry.name} is being trained.", hint="`loratory queue stop --now` has it stop, its state saved."
                )
            self._path(entry).unlink(missing_ok=True)
        return entry

    def move(self, name: str, where: Literal["up", "down", "first"]) -> Entry:
        """Changes the place of a waiting entry among those that wait. Raises LoratoryError for others."""
        with self._changing() as entries:
            entry = self.find(name)
            if entry.state != "waiting":
                raise LoratoryError(f"{entry.name} does not wait: it is {entry.state}.")
            waiting = [each for each in entries if each.state == "waiting"]
            at = waiting.index(entry)
            to = {"up": max(0, at - 1), "down": min(len(waiting) - 1, at + 1), "first": 0}[where]
            waiting.insert(to, waiting.pop(at))
            # Only what changes is written; a kill in between leaves the old order or one that is half way to the new.
            for place, each in zip(sorted(each.place for each in waiting), waiting, strict=True):
                if each.place != place:
                    self.write(replace(each, place=place))
        return self.find(str(entry.number))

    def retry(self, name: str | None = None) -> list[Entry]:
        """Has entries that failed or were stopped wait again, all or one; a run that was begun will be resumed."""
        with self._changing() as entries:
            ended = [entry for entry in entries if entry.state in ("failed", "stopped")]
            if name is not None:
                entry = self.find(name)
                if entry not in ended:
                    raise LoratoryError(f"{entry.name} has not failed and was not stopped: it is {entry.state}.")
                ended = [entry]
            again = [replace(entry, state="waiting", tries=0, reason="") for entry in ended]
            for entry in again:
                self.write(entry)
        return again

    def clear(self) -> list[Entry]:
        """Takes out what is done, failed or stopped."""
        with self._changing() as entries:
            ended = [entry for entry in entries if entry.state in ("done", "failed", "stopped")]
            for entry in ended:
                self._path(entry).unlink(missing_ok=True)
        return ended

    def update(self, number: int, change: Callable[[Entry], Entry]) -> Entry | None:
        """Changes an entry as it stands now; None where somebody has taken it out."""
        with self._changing() as entries:
            entry = next((each for each in entries if each.number == number), None)
            if entry is None:
                return None
            entry = change(entry)
            self.write(entry)
        return entry

    def write(self, entry: Entry) -> None:
        # ASCII: half a surrogate pair, from a file name that is not UTF-8, keeps its escape.
        text = json.dumps({"v": _FORMAT_VERSION} | asdict(entry), indent=1)
        atomic.write_text(self._path(entry), text + "\n")

    # --- who works through it ---

    @contextmanager
    def working(self) -> Generator[None]:
        """Held by the one process that trains what is in the queue. Raises LoratoryError where another one is."""
        descriptor = self._open("runner")
        try:
            if not any(_try_lock(descriptor) or time.sleep(_ASKED_FOR_S / 10) for _ in range(10)):
                raise LoratoryError(
                    f"The queue is being worked through already{_spoken_pid(descriptor)}.",
                    hint="`loratory queue list` shows how far it is.",
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._stop.unlink(missing_ok=True)
            atomic.remove_leftovers(self.folder, "*")
            yield
        finally:
            os.close(descriptor)

    def is_running(self) -> bool:
        """Whether some process works through the queue."""
        if not (self.folder / "runner").exists():
            return False
        descriptor = self._open("runner")
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def request_stop(self, when: StopRequest) -> None:
        """Has the queue end: "after" the run at hand, or "now", with the state of that run saved.

        Raises LoratoryError where nothing works through it.
        """
        if not self.is_running():
            raise LoratoryError("Nothing works through the queue.", hint="`loratory queue run` does.")
        atomic.write_text(self._stop, when)

    def stop_request(self) -> StopRequest | None:
        """What was asked for since the queue began to be worked through."""
        try:
            text = self._stop.read_text("utf-8")
        except (OSError, ValueError):
            return None
        return next((request for request in get_args(StopRequest) if request == text), None)

    # --- files ---

    def _path(self, entry: Entry) -> Path:
        return self.folder / f"{entry.number:06d}.json"

    def _open(self, name: str) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    @contextmanager
    def _changing(self) -> Generator[list[Entry]]:
        """The entries as they are, while nobody else changes them."""
        descriptor = self._open("lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.entries()
        finally:
            os.close(descriptor)


def _writes(entry: Entry) -> tuple[str, str] | None:
    """Folder and name of what an entry will write."""
    try:
        output = entry.settings().output
    except LoratoryError:
        return None
    return str(output.output_dir), output.output_name


def _is_trained(entry: Entry) -> bool:
    """Whether a process trains it, also one that outlived who worked through the queue."""
    return liveness(RunDirectory(Path(entry.run)).read_record()) in ALIVE


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spoken_pid(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return f" (pid {text})" if text.isdecimal() else ""


def _read(path: Path) -> Entry | None:
    try:
        body: Any = json.loads(path.read_bytes())
        if body.pop("v") != _FORMAT_VERSION or body["state"] not in get_args(EntryState):
            return None
        known = {field.name for field in fields(Entry)}
        entry = Entry(**{key: value for key, value in body.items() if key in known})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Entry) if field.name != "state"}
    fits = (isinstance(getattr(entry, name), (int, kind) if kind is float else kind) for name, kind in kinds.items())
    return entry if all(fits) else None
