"""A run in the process of the dashboard, whose terminal is closed, left unread or resized; and the process killed."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
import torch

from loratory.runs.control import Command, send
from loratory.runs.store import RunDirectory, liveness, newest_state
from loratory.runs.way_back import resume_command
from loratory.tui.run.body import VIEWS
from nano_run import headless_weights, is_done, last_of, new_run, same_bytes, steps_of, timed_steps, weights
from pty_screen import PtyScreen
from terminal import ENVIRONMENT, PROGRAM, Terminal, wait_for

pytestmark = pytest.mark.slow
STEPS = 20
# How long nobody reads. The writer queue is full long before, which is waited for; LORATORY_STALL_S=60 for a long one.
STALL_S = float(os.environ.get("LORATORY_STALL_S", "8"))
MANY = 100_000
SIZE = (100, 30)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the same run without any screen."""
    return headless_weights(tmp_path_factory.mktemp("headless"), STEPS)


@pytest.fixture
def screens() -> Iterator[list[PtyScreen]]:
    """What is put here is ended with the test."""
    screens: list[PtyScreen] = []
    yield screens
    for screen in screens:
        screen.end()


def open_dashboard(screens: list[PtyScreen], run: RunDirectory) -> PtyScreen:
    """Opens a run that nobody has trained yet; `h` starts it in this very program."""
    screen = PtyScreen(["watch", str(run.path)], SIZE)
    screens.append(screen)
    screen.wait_for("Nobody trains this run")
    screen.press("c")
    screen.wait_for("Go on where")
    return screen


def train_in_dashboard(screens: list[PtyScreen], run: RunDirectory) -> PtyScreen:
    """Trains a run in the process of the dashboard, and waits for its first steps."""
    screen = open_dashboard(screens, run)
    screen.press("h")
    screen.wait_for("this program, in a thread")
    wait_for(lambda: not is_done(run) and len(steps_of(run)) >= 5, 120)
    return screen


def stop(run: RunDirectory) -> list[int]:
    """Stops the run from outside; the steps it trained."""
    send(run.control, Command("stop"))
    wait_for(lambda: liveness(run.read_record()) == "stopped", 120)
    return steps_of(run)


def longest_gap_s(run: RunDirectory) -> tuple[float, float]:
    """The longest time from one step to the next, and how long it may be: many times what is usual."""
    times = [timed.time_s for timed in timed_steps(run)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return max(gaps), 20 * median(gaps) + 1


def emulated(said: bytes, folder: Path) -> list[str]:
    """What a real terminal would show after all that was written to it, without message and keys."""
    (folder / "said").write_bytes(said)
    terminal = Terminal()
    try:
        terminal.run(
            ["sh", "-c", f"stty raw -echo; cat '{folder / 'said'}'; printf '\\033]2;shown\\007'; read _"], *SIZE
        )
        wait_for(lambda: terminal("display-message", "-p", "#{pane_title}").strip() == "shown", 20)
        return terminal.lines()[:-2]
    finally:
        terminal.close()


@contextmanager
def fresh_viewer(run: RunDirectory, shows: str) -> Generator[Terminal]:
    """A viewer that was opened just now, and shows this already."""
    terminal = Terminal()
    try:
        terminal.run([*PROGRAM, "watch", str(run.path), "--preview", "off"], *SIZE)
        terminal.wait_for(shows)
        yield terminal
    finally:
        terminal.close()


def shows_what_is(screen: PtyScreen, run: RunDirectory, folder: Path) -> bool:
    """Whether the screen comes to show what one shows that was opened afresh."""
    with fresh_viewer(run, "c goes on from") as viewer:
        limit = time.monotonic() + 30
        while (shown := emulated(bytes(screen.said), folder)) != (expected := viewer.lines()[:-2]):
            assert time.monotonic() < limit, "\n".join(["expected", *expected, "but it shows", *shown])
    return True


@pytest.mark.parametrize("stalled", [False, True])
def test_the_terminal_closes(
    screens: list[PtyScreen], tmp_path: Path, headless: dict[str, torch.Tensor], stalled: bool
) -> None:
    run = new_run(tmp_path, STEPS)
    screen = open_dashboard(screens, run)
    if stalled:  # and then what the program waits for, to have its writing taken, never comes
        screen.stall()
    screen.press("h")
    if stalled:
        wait_for(lambda: run.record.exists(), 60)
        screen.press("\t" * 400)
        wait_for(screen.is_blocked)
    wait_for(lambda: len(steps_of(run)) >= 2)
    screen.close_terminal()
    wait_for(lambda: is_done(run), 120)
    screen.exit_status()
    assert steps_of(run) == list(range(1, STEPS + 1))
    assert same_bytes(weights(tmp_path), headless)


def test_nobody_reads_what_the_dashboard_writes(screens: list[PtyScreen], tmp_path: Path) -> None:
    run = new_run(tmp_path, MANY)
    screen = train_in_dashboard(screens, run)
    screen.stall()
    screen.press("\t" * 80 * len(VIEWS))  # turns through them, and is where it was
    wait_for(screen.is_blocked)
    before = timed_steps(run)[-1]
    wait_for(lambda: timed_steps(run)[-1].time_s - before.time_s > STALL_S, STALL_S + 60)
    assert screen.is_blocked()
    screen.go_on()
    reached = len(steps_of(run)) + 5
    wait_for(lambda: len(steps_of(run)) >= reached)
    steps = stop(run)
    assert steps == list(range(1, len(steps) + 1))
    longest, allowed = longest_gap_s(run)
    assert longest < allowed and longest < STALL_S
    assert shows_what_is(screen, run, tmp_path)


def test_two_hundred_sizes(screens: list[PtyScreen], tmp_path: Path) -> None:
    run = new_run(tmp_path, MANY)
    screen = train_in_dashboard(screens, run)
    before = len(steps_of(run))
    for number in range(199):
        written = len(screen.said)
        screen.resize((1 + number * 37 % 200, 1 + number * 13 % 60))
        if number % 3:  # some at once after one another, some when the last was begun to be drawn
            wait_for(lambda written=written: len(screen.said) > written, 20)
    screen.resize(SIZE)
    assert len(steps_of(run)) > before
    steps = stop(run)
    assert steps == list(range(1, len(steps) + 1))
    longest, allowed = longest_gap_s(run)
    assert longest < allowed
    assert shows_what_is(screen, run, tmp_path)


def test_the_process_is_killed(screens: list[PtyScreen], tmp_path: Path, headless: dict[str, torch.Tensor]) -> None:
    run = new_run(tmp_path, STEPS, state_every_n_steps=3)
    screen = train_in_dashboard(screens, run)
    os.kill(screen.pid, signal.SIGKILL)
    assert screen.exit_status() == -signal.SIGKILL
    state = newest_state(run)
    assert state is not None and state.step < STEPS
    assert liveness(run.read_record()) == "crashed"

    way_back = f"`{resume_command(run)}` goes on from step {state.step}"
    told = call("runs", "list", str(tmp_path / "runs"))
    assert told.returncode == 0 and "✗ crashed" in told.stdout and way_back in told.stderr
    told = call("watch", str(run.path))
    assert told.returncode == 1 and "crashed" in told.stderr and way_back in told.stderr
    assert "Traceback" not in told.stderr
    with fresh_viewer(run, f"c goes on from the state of step {state.step}") as viewer:
        viewer.wait_for("✗ crashed")

    done = call("train", "--resume", str(run.path))
    assert done.returncode == 0, done.stderr
    steps = steps_of(run)
    assert set(steps) == set(range(1, STEPS + 1)) and steps[-1] == STEPS
    assert last_of(run).status == "done"
    assert same_bytes(weights(tmp_path), headless)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
