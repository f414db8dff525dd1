"""A run as a person sees it in a plain terminal: a progress bar that reads the run directory, as any viewer does."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from loratory.cli import output
from loratory.runs.events import Event, Finished, Notice, Phase, Sampled, Saved, Started, Step, encode
from loratory.runs.store import EventReader, RunDirectory

POLL_EVERY_S = 0.2
# Without a terminal to redraw, a line this often is enough to see that it lives.
LINE_EVERY_S = 10.0
_SMOOTHING = 0.95


@dataclass
class Pace:
    """Running figures of the steps of one process."""

    from_step: int = 0
    total_steps: int = 0
    epochs: int = 0
    loss: float | None = None
    step_s: list[float] = field(default_factory=list[float])

    def add(self, step: Step) -> None:
        # A running mean that starts as a plain mean, so that early values are not held back by the first.
        weight = max(1 - _SMOOTHING, 1 / (len(self.step_s) + 1))
        self.loss = step.loss if self.loss is None else self.loss + weight * (step.loss - self.loss)
        self.step_s.append(step.step_s)

    @property
    def seconds_per_step(self) -> float:
        recent = sorted(self.step_s[-50:])
        return recent[len(recent) // 2] if recent else 0.0

    def line(self, step: Step) -> str:
        return (
            f"epoch {step.epoch}/{self.epochs} · step {step.step}/{self.total_steps} · "
            f"{spoken_pace(self.seconds_per_step)} · loss {self.loss:.4f} · ETA "
            f"{spoken_time((self.total_steps - step.step) * self.seconds_per_step)}"
        )


class Viewer:
    """Follows a run until it finishes or `close` is called; on a thread where the run is in this process."""

    def __init__(self, run: RunDirectory, *, as_json: bool, from_offset: int = 0) -> None:
        self._reader = EventReader(run.events, from_offset)
        self._closing = threading.Event()
        self._show: Callable[[Event], None]
        self._bar: Progress | None = None
        if as_json:
            self._show = _json_printer()
        elif output.talk.is_terminal:
            self._bar = _progress()
            self._show = _Bars(self._bar).show
        else:
            self._show = _Lines().show
        self.finished: Finished | None = None
        self._thread = threading.Thread(target=self.follow, name="viewer", daemon=True)

    def start(self) -> None:
        """Follows on a thread."""
        self._thread.start()

    def close(self) -> None:
        """Shows what is left and ends the thread."""
        self._closing.set()
        self._thread.join(timeout=5)

    def follow(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Shows events as they come until the run has finished, `alive` says no, or `close` is called."""
        try:
            if self._bar:
                self._bar.start()
            while True:
                last = self._closing.is_set() or not alive()
                for timed in self._reader.read():
                    self._show(timed.event)
                    # A resumed run has the last word of an earlier process in its past.
                    self.finished = timed.event if isinstance(timed.event, Finished) else None
                if last or self.finished:
                    return
                self._closing.wait(POLL_EVERY_S)
        except OSError:
            return  # the terminal is gone; the run is not
        finally:
            if self._bar:
                self._bar.stop()


class _Details(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("details", ""))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _Details(),
        console=output.talk,
        refresh_per_second=4,
        transient=True,
    )


class _Bars:
    """One bar for what goes on now; lines above it for what stays."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, details="")
        self._pace = Pace()

    def show(self, event: Event) -> None:
        match event:
            case Phase(name=name, done=done, total=total):
                details = f"{done}/{total}" if total > 1 else ""
                self._set(name, done if total > 1 else None, total if total > 1 else None, details)
            case Started():
                self._pace = Pace(event.from_step, event.total_steps, event.epochs)
                self._set("training", event.from_step, event.total_steps, "")
            case Step():
                self._pace.add(event)
                self._set("training", event.step, self._pace.total_steps, self._pace.line(event))
            case _:
                for line in _lines(event):
                    output.say(line)

    def _set(self, name: str, done: int | None, total: int | None, details: str) -> None:
        self._progress.update(self._task, description=name, completed=done or 0, total=total, details=details)


class _Lines:
    """Plain lines, at most one every `LINE_EVERY_S` seconds for what repeats."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._said_s = 0.0
        self._phase = ""

    def show(self, event: Event) -> None:
        match event:
            case Phase(name=name, done=done, total=total):
                if name != self._phase or self._due():
                    self._phase = name
                    output.say(f"{name} {done}/{total}" if total > 1 else name)
            case Started():
                self._pace = Pace(event.from_step, event.total_steps, event.epochs)
                output.say(f"training from step {event.from_step} to {event.total_steps} on {event.device}")
            case Step():
                self._pace.add(event)
                if self._due() or event.step == self._pace.total_steps:
                    output.say(self._pace.line(event))
            case _:
                for line in _lines(event):
                    output.say(line)

    def _due(self) -> bool:
        if time.monotonic() - self._said_s < LINE_EVERY_S:
            return False
        self._said_s = time.monotonic()
        return True


def _lines(event: Event) -> list[str]:
    match event:
        case Saved():
            return [f"saved {event.path} ({spoken_bytes(event.size_bytes)}), read back and compared"]
        case Sampled():
            return [f"drew {event.path}: {event.prompt}"]
        case Notice():
            return [f"{event.level}: {event.message}"]
        case _:
            return []


def _json_printer() -> Callable[[Event], None]:
    # The stream of now: a library that prints has stdout taken away while it is called.
    stdout = sys.stdout

    def show(event: Event) -> None:
        stdout.write(encode(event) + "\n")
        stdout.flush()

    return show


def spoken_time(seconds: float) -> str:
    """`42 s`, `7 min 29 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spoken_pace(seconds_per_step: float) -> str:
    """`1.42 s/step`, `85 ms/step`."""
    return f"{seconds_per_step:.2f} s/step" if seconds_per_step >= 1 else f"{seconds_per_step * 1000:.0f} ms/step"


def spoken_bytes(count: float) -> str:
    """`880 kB`, `37 MB`, `6.9 GB`; decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
