"""In a real terminal: a run from the plan pane to its last step, through everything that can happen to a terminal."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from loratory.runs.store import ALIVE, RunDirectory, liveness
from nano_run import headless_weights, is_done, last_of, nano_config, new_run, same_bytes, steps_of, the_run, weights
from terminal import ENVIRONMENT, PROGRAM, Terminal, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]
STEPS = 40


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the same run without any screen."""
    return headless_weights(tmp_path_factory.mktemp("headless"), STEPS)


def start_from_plan(
    terminal: Terminal, folder: Path, *, steps: int = STEPS, size: tuple[int, int] = (80, 24)
) -> RunDirectory:
    """Opens a config in the plan pane, starts it there, and waits for its first steps."""
    terminal.run([*PROGRAM, str(nano_config(folder, steps))], *size)
    terminal.wait_for(f"{steps} steps", 120)
    terminal("send-keys", "S")
    terminal.wait_for("running", 120)
    run = the_run(folder)
    wait_for(lambda: len(steps_of(run)) >= 2, 120)
    return run


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_a_run_from_the_plan_pane_outlives_its_terminal(
    terminal: Terminal, tmp_path: Path, headless: dict[str, torch.Tensor], size: tuple[int, int]
) -> None:
    run = start_from_plan(terminal, tmp_path, size=size)
    terminal.wait_for(rf"step \d+/{STEPS}")
    before = run.read_record()
    terminal("kill-server")

    viewer = Terminal()
    try:
        viewer.run([*PROGRAM, "watch", str(run.path)], *size)
        viewer.wait_for(rf"step \d+/{STEPS}")
        wait_for(lambda: is_done(run), 300)
        viewer.wait_for("✓ done")
        viewer("send-keys", "C-q")
        viewer.ends_with(0)
    finally:
        viewer.close()
    after = run.read_record()
    assert before is not None and after is not None and before.pid == after.pid  # nobody resumed it
    assert steps_of(run) == list(range(1, STEPS + 1))
    assert last_of(run).status == "done"
    assert same_bytes(weights(tmp_path), headless)
    # Its last words went to the log: they have no terminal.
    wait_for(lambda: run.log.exists() and f"Trained {STEPS} steps." in run.log.read_text("utf-8"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_screens_and_not_the_run(terminal: Terminal, tmp_path: Path, number: int) -> None:
    run = start_from_plan(terminal, tmp_path, steps=20)
    record = run.read_record()
    assert record is not None
    os.kill(record.pid, number)
    if number == signal.SIGHUP:  # it is taken at its word: the terminal is no more
        wait_for(lambda: is_done(run), 300)
    else:
        terminal.wait_for("goes on in this process")
    terminal.ends_with(0)
    assert is_done(run) and steps_of(run) == list(range(1, 21))
    assert not re.search("Traceback|error", "\n".join(terminal.lines()))


def test_leaving_with_a_run_going_shows_a_progress_line(terminal: Terminal, tmp_path: Path) -> None:
    run = start_from_plan(terminal, tmp_path, steps=4000)
    terminal("send-keys", "C-q")
    terminal.wait_for("goes on in this process")
    terminal.wait_for(r"training .*step \d+/4000")
    terminal("send-keys", "C-c")
    terminal.wait_for("train --resume")
    terminal.ends_with(1)
    assert liveness(run.read_record()) == "stopped"
    steps = steps_of(run)
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < 4000
    assert int(max(path.stem for path in run.state.glob("*.pt"))) == steps[-1]


def test_stopping_at_once_while_the_engine_is_loaded(terminal: Terminal, tmp_path: Path) -> None:
    run = new_run(tmp_path, 4000)
    terminal.run([*PROGRAM, "watch", str(run.path)])
    terminal.wait_for("Nobody trains this run")
    terminal("send-keys", "c")
    terminal.wait_for("Go on where")
    terminal("send-keys", "h", "C-q")
    terminal.wait_for("goes on in this process")
    terminal("send-keys", "C-c")
    terminal.wait_for("stopping after the step in hand")  # there is no step yet after which it could stop
    terminal("send-keys", "C-c")
    terminal.wait_for("Stopped at once")
    terminal.ends_with(1)
    assert liveness(run.read_record()) == "stopped" and steps_of(run) == []
    assert last_of(run).message.startswith("Stopped at once")


def test_several_viewers_and_one_that_only_looks(terminal: Terminal, tmp_path: Path) -> None:
    config = nano_config(tmp_path, 4000)
    subprocess.run(
        [*PROGRAM, "train", str(config), "--detach"], env=os.environ | ENVIRONMENT, check=True, capture_output=True
    )
    run = the_run(tmp_path)
    second, third = Terminal(), Terminal()
    try:
        terminal.run([*PROGRAM, "watch", str(run.path)])
        second.run([*PROGRAM, "watch", str(run.path)], 160, 48)
        third.run([*PROGRAM, "watch", str(run.path), "--read-only"])
        viewers = (terminal, second, third)
        for viewer in viewers:
            viewer.wait_for(r"step \d+/4000", 120)
        third.wait_for("read-only")
        third("send-keys", "p")
        third.wait_for("nothing is sent to a run")
        assert list(run.control.iterdir()) == []
        terminal("send-keys", "p")
        for viewer in viewers:
            viewer.wait_for("‖ paused")
        second("send-keys", "p")
        for viewer in viewers:
            viewer.wait_for("● running")
        terminal("send-keys", "x")
        terminal.wait_for("Stop after the step in hand")
        terminal("send-keys", "y")
        for viewer in viewers:
            viewer.wait_for("■ stopped")
            viewer("send-keys", "C-q")
            viewer.ends_with(0)
    finally:
        second.close()
        third.close()
        record = run.read_record()
        if record is not None and liveness(record) in ALIVE:
            os.kill(record.pid, signal.SIGKILL)
    assert liveness(run.read_record()) == "stopped"


@pytest.mark.parametrize("said", ["starting the planner", "reading pictures and model"])
def test_leaving_while_the_plan_is_made(terminal: Terminal, tmp_path: Path, isolated: Path, said: str) -> None:
    terminal.run([*PROGRAM, str(nano_config(tmp_path, STEPS))])
    terminal.wait_for(said)
    terminal("send-keys", "C-q")
    terminal.ends_with(0)
    assert not re.search("Traceback|error", "\n".join(terminal.lines()))
    wait_for(lambda: not planners_of(isolated), 20)
    assert not (tmp_path / "runs").exists()


def planners_of(home: Path) -> list[int]:
    """The processes that plan for programs with that home."""
    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_planner = "loratory.training.plan_server" in process.cmdline()
            if is_planner and process.environ().get("LORATORY_HOME") == str(home):
                found.append(process.pid)
    return found
