"""A run as a person sees it in a plain terminal: it is read from the run directory, as every viewer does."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from loratory.cli import output
from loratory.runs.events import (
    Continued,
    Event,
    Finished,
    Notice,
    Paused,
    Phase,
    Sampled,
    Saved,
    Started,
    Step,
    Timed,
    Validated,
    encode,
)
from loratory.runs.store import EventReader, RunDirectory, last_started, liveness
from loratory.wording import spoken_bytes, spoken_pace, spoken_time

POLL_EVERY_S = 0.2
RECORD_EVERY_S = 1.0
# Without a terminal to redraw, a line this often is enough to see that it lives.
LINE_EVERY_S = 10.0
_SMOOTHING = 0.95
_WIDEST_BAR = 40
_NARROWEST_BAR = 10
# What a narrow terminal does without, first to last.
_LEFT_OUT = ("epoch", "name", "pace", "loss", "eta")


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
        if not step.is_empty or self.loss is None:
            self.loss = step.loss if self.loss is None else self.loss + weight * (step.loss - self.loss)
        self.step_s.append(step.step_s)

    @property
    def seconds_per_step(self) -> float:
        recent = sorted(self.step_s[-50:])
        return recent[len(recent) // 2] if recent else 0.0

    def facts(self, step: Step) -> dict[str, str]:
        """What is said of `step`, in the order it is said in; the time left only while there is any."""
        facts = {
            "epoch": f"epoch {step.epoch}/{self.epochs}" if self.epochs else f"epoch {step.epoch}",
            "step": f"step {step.step}/{self.total_steps}" if self.total_steps else f"step {step.step}",
            "pace": spoken_pace(self.seconds_per_step),
            "loss": f"loss {self.loss:.4f}",
        }
        left = self.total_steps - step.step
        return facts | ({"eta": f"ETA {spoken_time(left * self.seconds_per_step)}"} if left > 0 else {})

    def line(self, step: Step) -> str:
        return " · ".join(self.facts(step).values())


class Layout(NamedTuple):
    """A progress line: what stands before the bar, the bar's width in cells (0: none), and what stands after it."""

    name: str
    bar: int
    facts: str


def lay_out(name: str, facts: Mapping[str, str], width: int) -> Layout:
    """The most that fits into `width` cells, as `name bar fact · fact`.

    The less important facts make room for a bar of at least 10 cells. Without any facts there is nothing to draw a bar
    of. A name alone that is too long stays as it is.
    """
    if not facts:
        return Layout(name, 0, "")
    kept = {"name": name, **facts}
    leaving = [key for key in _LEFT_OUT if key != "name" or len(facts) > 1]
    while True:
        before = kept.get("name", "")
        after = " · ".join(text for key, text in kept.items() if key != "name")
        room = width - cell_len(after) - 1 - (cell_len(before) + 1 if before else 0)
        if room >= _NARROWEST_BAR:
            return Layout(before, min(room, _WIDEST_BAR), after)
        if not leaving:
            return Layout(before, 0, after)
        kept.pop(leaving.pop(0), None)


class Viewer:
    """Follows a run until it finishes or `close` is called; on a thread where the run is in this process.

    from_offset: what the run wrote before that byte of its events is not told again.
    stopping: set when the person has asked the run in this process to stop, which they are told at once.
    """

    def __init__(
        self, run: RunDirectory, *, as_json: bool, from_offset: int = 0, stopping: threading.Event | None = None
    ) -> None:
        self._run = run
        self._reader = EventReader(run.events, from_offset)
        self._look_again_s = 0.0
        self._waited = False
        self._closing = threading.Event()
        self._stopping = stopping or threading.Event()
        # The stream of now: a library that prints has stdout taken away while it is called.
        self._json_stream = sys.stdout if as_json else None
        self.finished: Finished | None = None
        self._thread = threading.Thread(target=self._follow_beside, name="viewer", daemon=True)

    def start(self) -> None:
        """Follows on a thread."""
        self._thread.start()

    def close(self) -> None:
        """Shows what is left and ends the thread."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _follow_beside(self) -> None:
        with suppress(OSError):  # whoever read our output has gone; the run has not
            self.follow()

    def follow(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Shows events as they come until the run has finished, `alive` says no, or `close` is called.

        Raises OSError (BrokenPipeError) when nobody reads the JSON.
        """
        view = self._first_view()
        told = False
        try:
            while True:
                last = self._closing.is_set() or not alive()
                for timed in self._reader.read():
                    if isinstance(view, _Bar) and not output.redraws():
                        # The terminal has gone; since then, stderr is the run's log.
                        view.close()
                        view = _Lines(view.pace, view.paused)
                    view.show(timed)
                    # A resumed run has the last word of an earlier process in its past.
                    self.finished = timed.event if isinstance(timed.event, Finished) else None
                if last or self.finished:
                    return
                self._tell_pause(view)
                if self._stopping.is_set() and not told:
                    told = True
                    output.say("stopping after the step in hand, with the state saved; Ctrl-C again stops at once")
                view.refresh()
                self._closing.wait(POLL_EVERY_S)
        finally:
            view.close()

    def _tell_pause(self, view: "_Json | _Bar | _Lines") -> None:
        """Tells of a pause that has no event yet: on a full disk there is room for the record alone."""
        if isinstance(view, _Json) or time.monotonic() < self._look_again_s:
            return
        self._look_again_s = time.monotonic() + RECORD_EVERY_S
        record = self._run.read_record()
        if record is None or liveness(record) != "paused" or view.paused:
            self._waited = False
            return
        # The second time: where it goes on at this moment, the event is there before the record.
        if self._waited:
            view.show(Timed(record.heartbeat_s, Paused(record.step, record.message)))
        self._waited = True

    def _first_view(self) -> "_Json | _Bar | _Lines":
        if self._json_stream is not None:
            return _Json(self._json_stream)
        started = last_started(self._run.events, self._reader.offset)
        pace = Pace(started.from_step, started.total_steps, started.epochs) if started else Pace()
        return _Bar(pace) if output.redraws() else _Lines(pace)


class _Json:
    """The events as they were written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, timed: Timed) -> None:
        output.data_json(json.loads(encode(timed.event, timed.time_s)), stream=self._stream, indent=None)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    """One line that is drawn again and again for what goes on now; above it what stays."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.paused = ""
        self._step: Step | None = None
        self._now = _Now()
        # Drawn by the viewer's thread alone: a thread of Live's would die noisily when the terminal goes away.
        self._live = Live(self._now, console=output.talk, auto_refresh=False, transient=True)
        with suppress(OSError):
            self._live.start()

    def show(self, timed: Timed) -> None:
        match timed.event:
            case Phase(name=name, done=done, total=total):
                self._step = None
                self._now.set(output.one_line(name), {"step": f"{done}/{total}"} if total > 1 else {}, done, total)
            case Started() as started:
                self.pace = Pace(started.from_step, started.total_steps, started.epochs)
                self._step = None
                self._now.set("training", {}, started.from_step, started.total_steps)
            case Step() as step:
                self.pace.add(step)
                self._step = step  # laid out when it is drawn: a viewer may have a hundred thousand to catch up with
                if step.step == self.pace.total_steps:
                    output.say(self.pace.line(step))
            case Paused() | Continued() as event:
                self.paused = _say_pause(event, self.paused)
                if self.paused:
                    self._step = None
                    self._now.set("paused", {}, 0, 0)
            case event:
                _say(event)

    def refresh(self) -> None:
        if self._step is not None:
            self._now.set("training", self.pace.facts(self._step), self._step.step, self.pace.total_steps)
        with suppress(OSError):
            self._live.refresh()

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()


class _Now:
    """The line itself, laid out anew for the terminal's width each time it is drawn."""

    def __init__(self) -> None:
        self.set("starting", {}, 0, 0)

    def set(self, name: str, facts: dict[str, str], done: int, total: int) -> None:
        self._content = name, facts, done, total

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, facts, done, total = self._content
        # The last column stays free: writing there makes some terminals scroll.
        layout = lay_out(name, facts, options.max_width - 1)
        if not facts:
            middle = Text(_moving(options.ascii_only))
        elif layout.bar:
            filled, rest = _bar(layout.bar, min(1.0, done / total) if total else 0.0, options.ascii_only)
            middle = Text.assemble((filled, "green"), (rest, "dim"))
        else:
            middle = Text()
        pieces = [piece for piece in (Text(layout.name), middle, Text(output.spelled(layout.facts))) if piece]
        yield Text(" ", no_wrap=True, overflow="ellipsis").join(pieces)


def _moving(ascii_only: bool) -> str:
    frames = "|/-\\" if ascii_only else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    return frames[int(time.monotonic() / POLL_EVERY_S) % len(frames)]


def _bar(width: int, fraction: float, ascii_only: bool) -> tuple[str, str]:
    """The part that is done and the part that is not, told apart by their characters as well as by colour."""
    halves = int(2 * width * fraction)
    full, half, none = ("#", "", "-") if ascii_only else ("━", "╸", "─")
    filled = full * (halves // 2) + half * (halves % 2)
    return filled, none * (width - len(filled))


class _Lines:
    """Plain lines, at most one every `LINE_EVERY_S` seconds for what repeats."""

    def __init__(self, pace: Pace, paused: str = "") -> None:
        self.paused = paused
        self._pace = pace
        self._said_s = -LINE_EVERY_S
        self._phase = ""
        self._latest: str | Step = ""

    def show(self, timed: Timed) -> None:
        match timed.event:
            case Phase(name=name, done=done, total=total):
                self._latest = f"{name} {done}/{total}" if total > 1 else name
                if name != self._phase:
                    self._phase = name
                    self._say_latest()
            case Started() as started:
                self._pace = Pace(started.from_step, started.total_steps, started.epochs)
                self._latest = ""
                output.say(
                    f"training from step {started.from_step} to {started.total_steps} on "
                    f"{output.one_line(started.device)}"
                )
            case Step() as step:
                self._pace.add(step)
                self._latest = step
                if step.step == self._pace.total_steps:
                    self._say_latest()
            case Paused() | Continued() as event:
                self._latest = ""  # of before the pause: behind it, it would look as if the run went on
                self.paused = _say_pause(event, self.paused)
            case event:
                _say(event)

    def refresh(self) -> None:
        if self._latest and time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._say_latest()

    def close(self) -> None:
        pass

    def _say_latest(self) -> None:
        latest = self._latest
        output.say(self._pace.line(latest) if isinstance(latest, Step) else output.one_line(latest))
        self._latest = ""
        self._said_s = time.monotonic()


def _say_pause(event: Paused | Continued, told: str) -> str:
    """Says it, unless it is `told` already, and returns what a person knows of the pause: "" when it is over."""
    if isinstance(event, Continued):
        output.say(f"goes on after {spoken_time(event.waited_s)}")
        return ""
    if event.reason != told:
        output.say(output.one_line(f"paused after step {event.step}: {event.reason}"), "yellow")
    return event.reason or "paused"


def _say(event: Event) -> None:
    """One line for what stays worth knowing."""
    match event:
        case Saved():
            output.say(
                output.one_line(f"saved {event.path} ({spoken_bytes(event.size_bytes)}), read back and compared")
            )
        case Validated(step=step, loss=loss):
            output.say(f"validation loss {loss:.4f} after step {step}")
        case Sampled():
            output.say(output.one_line(f"drew {event.path}: {event.prompt}"))
        case Notice():
            output.say(output.one_line(f"{event.level}: {event.message}"), "yellow" if event.level == "warning" else "")
        case _:
            pass
