"""In a real terminal: a run from the plan pane to its last step, through everything that can happen to a terminal."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from loratory.runs.events import Finished, Step
from loratory.runs.store import EventReader, RunDirectory, liveness
from material import make_set, write_config
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


def nano_config(folder: Path, steps: int = STEPS) -> Path:
    make_set(folder / "set", {"2_fox": 4, "1_wolf": 3}, (64, 64))
    return write_config(
        folder,
        model={"pretrained_model_name_or_path": "nano"},
        training={"max_train_epochs": None, "max_train_steps": steps, "train_batch_size": 2},
        output={"save_every_n_steps": steps // 2},
        network={"network_dropout": 0.1},
    )


def the_run(folder: Path) -> RunDirectory:
    (path,) = (folder / "runs").iterdir()
    return RunDirectory(path)


def steps_of(run: RunDirectory) -> list[int]:
    return [timed.event.step for timed in EventReader(run.events).read() if isinstance(timed.event, Step)]


def is_done(run: RunDirectory) -> bool:
    state = liveness(run.read_record())
    assert state in ("starting", "running", "done"), state
    return state == "done"


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_a_run_from_the_plan_pane_outlives_its_terminal(
    terminal: Terminal, tmp_path: Path, size: tuple[int, int]
) -> None:
    config = nano_config(tmp_path)
    headless = [*PROGRAM, "train", str(config), "--set", f"output.output_dir={tmp_path / 'other'}"]
    headless += ["--set", f"output.runs_dir={tmp_path / 'other-runs'}"]
    subprocess.run(headless, env=os.environ | ENVIRONMENT, check=True, capture_output=True, timeout=300)

    terminal.run([*PROGRAM, str(config)], *size)
    terminal.wait_for("train_data_dir")
    terminal.until(lambda lines: any(str(STEPS) in line and "steps" in line for line in lines), 120, "the plan")
    terminal("send-keys", "S")
    terminal.wait_for("running", 120)
    run = the_run(tmp_path)
    wait_for(lambda: len(steps_of(run)) >= 3, 120)
    record = run.read_record()
    assert record is not None
    terminal("kill-server")

    viewer = Terminal()
    try:
        viewer.run([*PROGRAM, "watch", str(run.path)], *size)
        viewer.wait_for("fox")
        wait_for(lambda: is_done(run), 300)
        viewer.wait_for("done")
        viewer("send-keys", "C-q")
        assert viewer.exit_code() == 0
    finally:
        viewer.close()
    assert steps_of(run) == list(range(1, STEPS + 1))
    last = EventReader(run.events).read()[-1].event
    assert isinstance(last, Finished) and last.status == "done"
    here, there = (load_file(folder / "fox.safetensors") for folder in (tmp_path / "output", tmp_path / "other"))
    assert here.keys() == there.keys()
    assert all(here[name].numpy().tobytes() == there[name].numpy().tobytes() for name in here)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_ends_the_screens_and_not_the_run(terminal: Terminal, tmp_path: Path, number: int) -> None:
    config = nano_config(tmp_path)
    terminal.run([*PROGRAM, str(config)])
    terminal.until(lambda lines: any(str(STEPS) in line and "steps" in line for line in lines), 120, "the plan")
    terminal("send-keys", "S")
    terminal.wait_for("running", 120)
    run = the_run(tmp_path)
    wait_for(lambda: len(steps_of(run)) >= 2, 120)
    record = run.read_record()
    assert record is not None
    os.kill(record.pid, number)
    wait_for(lambda: is_done(run), 300)
    assert steps_of(run) == list(range(1, STEPS + 1))


def test_leaving_with_a_run_going_shows_a_progress_line_until_it_ends(terminal: Terminal, tmp_path: Path) -> None:
    config = nano_config(tmp_path)
    terminal.run([*PROGRAM, str(config)])
    terminal.until(lambda lines: any(str(STEPS) in line and "steps" in line for line in lines), 120, "the plan")
    terminal("send-keys", "S")
    terminal.wait_for("running", 120)
    run = the_run(tmp_path)
    wait_for(lambda: len(steps_of(run)) >= 2, 120)
    terminal("send-keys", "C-q")
    terminal.wait_for("goes on in this process")
    terminal.wait_for("training .*step")
    terminal("send-keys", "C-c")
    terminal.wait_for("train --resume")
    assert terminal.exit_code() == 1
    assert liveness(run.read_record()) == "stopped"
    steps = steps_of(run)
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < STEPS
