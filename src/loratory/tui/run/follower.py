"""Reads a run's folder beside the screen: what it says is folded in a thread of its own, whatever the disk takes."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from loratory.errors import LoratoryError
from loratory.runs.diagnosis import Diagnosis
from loratory.runs.events import Timed
from loratory.runs.progress import Progress
from loratory.runs.store import EventReader, Liveness, RunDirectory, RunRecord, SavedState, liveness, newest_state

READ_EVERY_S = 0.5
# So many events are folded while the screen waits: a few milliseconds.
_AT_ONCE = 50
_LOG_BYTES = 64 * 1024
_LOG_LINES = 500


@dataclass(frozen=True)
class Standing:
    """How a run stands. last_state: what it can go on from. is_new: no process ever had it. is_gone: its
    folder is not there any more."""

    state: Liveness
    record: RunRecord | None
    last_state: SavedState | None = None
    is_gone: bool = False

    @property
    def is_new(self) -> bool:
        return self.record is None


class Follower:
    """Follows one run while somebody looks at it. Hold `lock` while reading `progress` and `diagnosis`."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.lock = threading.Lock()
        self.version = 0
        """Rises with all that could be shown."""
        self.standing: Standing | None = None
        self.log: tuple[str, ...] = ()
        self.first_prompt: str | None = None
        self.problem = ""
        """What keeps the run from being read."""
        self.behind = 1.0
        """How much of the events is still to be read, as a share; 0.0 once everything is known."""
        self._tags: dict[str, tuple[str, ...]] = {}
        self._forget()
        self.is_looked_at = False
        self._ended = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="run follower", daemon=True)

    def start(self) -> None:
        self.is_looked_at = True
        self._thread.start()

    def look(self, is_looked_at: bool) -> None:
        """Nothing is read while nobody looks."""
        self.is_looked_at = is_looked_at
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    @property
    def is_up_to_date(self) -> bool:
        return self.behind == 0.0 and self.standing is not None

    def _forget(self) -> None:
        self.progress = Progress()
        self.diagnosis = Diagnosis(self._tags, norm=self.progress.norm)
        self._reader = EventReader(self.run.events)

    def _follow(self) -> None:
        self._try(self._read_standing)  # the first that is shown: how it stands
        self._try(self._read_config)
        while not self._ended:
            if self.is_looked_at:
                self._try(self._read_standing)
                self._try(self._read_log)
                self._try(self._read_events)
            self._wake.wait(READ_EVERY_S if self.is_looked_at else None)
            self._wake.clear()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError:
            return  # a disk that is away for a moment: it is tried again
        except Exception as error:  # noqa: BLE001 - a thread that dies silently would show the same for ever
            self.problem = f"This is a defect of Loratory: {type(error).__name__}: {error}"

    def _read_standing(self) -> None:
        record = self.run.read_record()
        is_gone = record is None and not self.run.path.is_dir()
        standing = Standing(liveness(record), record, newest_state(self.run), is_gone)
        if standing != self.standing:  # a heartbeat is a change too, every few seconds
            self.standing = standing
            self.version += 1

    def _read_events(self) -> None:
        if self._reader.size_bytes() < self._reader.offset:  # another file by the same name
            with self.lock:
                self._forget()
        events = self._reader.events()
        while not self._ended and self.is_looked_at:
            some = list(islice(events, _AT_ONCE))
            with self.lock:
                for timed in some:
                    self.progress.add(timed)
                    self._judge(timed)
            time.sleep(0)  # whoever waits for the lock gets it
            size = self._reader.size_bytes()
            behind = 1 - self._reader.offset / size if some and size > self._reader.offset else 0.0
            if some or behind != self.behind:
                self.behind = behind
                self.version += 1
            if not some:
                return

    def _judge(self, timed: Timed) -> None:
        try:
            self.diagnosis.add(timed)
        except (TypeError, ValueError, AttributeError, OverflowError):
            return  # values of another kind than they should be, in a line that no run of ours wrote

    def _read_log(self) -> None:
        lines = read_tail(self.run.log)
        if lines != self.log:
            self.log = lines
            self.version += 1

    def _read_config(self) -> None:
        """The first prompt, and the tags of the pictures: what is judged by them must be known before the events."""
        from loratory.config.load import load_config
        from loratory.tui.run.tags import read_tags

        with suppress(LoratoryError):  # a config of another version: it goes without a proposal and without tags
            config = load_config(self.run.config)
            self._tags = read_tags(config)
            with self.lock:
                self._forget()
            samples = config.sample
            lines: Sequence[str] = samples.prompts
            if samples.sample_prompts is not None:
                lines = samples.sample_prompts.read_text("utf-8", errors="replace").splitlines()
            self.first_prompt = next((line.strip() for line in lines if line.strip() and line[0] != "#"), None)


def read_tail(path: Path) -> tuple[str, ...]:
    """The last lines of a text file as they were written; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            data = file.read()
    except FileNotFoundError:
        return ()
    lines = data.decode("utf-8", errors="replace").splitlines()
    return tuple(lines[1 if size > _LOG_BYTES else 0 :][-_LOG_LINES:])
