"""In a real terminal: how a run looks at several sizes, and that it outlives the terminal."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loratory.runs.events import Finished, Notice, Phase, Saved, Started, Step
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory, liveness
from material import make_set, write_config
from terminal import ENVIRONMENT, PROGRAM, Terminal, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]
STARTED = Started(0, 510, 10, 51, "CPU", "0")
FACTS = "step 194/510 · 1.42 s/step · loss 0.0871 · ETA 7 min 29 s"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def step(number: int) -> Step:
    return Step(number, number // 51 + 1, 0.0871, {"unet": 1e-4}, {"unet": 1e-4}, 1.0, 1.42, 0.0)


# ------------------------------------------------------------------------ a run that this process pretends to train


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(RunDirectory.create(tmp_path / "runs", "fox", "")) as recorder:
        yield recorder


def test_a_watched_run_at_several_sizes(terminal: Terminal, recorder: Recorder, tmp_path: Path) -> None:
    (run,) = (tmp_path / "runs").iterdir()
    terminal.run([*PROGRAM, "watch", str(run), "--plain"])
    recorder.write(Phase("reading the dataset", 0, 1))
    assert re.fullmatch("reading the dataset [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", terminal.wait_for("reading")[-1])
    recorder.write(Phase("caching latents", 12, 24))
    assert terminal.shows(["caching latents " + "━" * 20 + "─" * 20 + " 12/24"])
    recorder.write(STARTED)
    for number in range(1, 195):
        recorder.write(step(number))
    recorder.write(Saved(153, 3, "/output/fox-000003.safetensors", 37_000_000, 0.0))
    recorder.write(Notice("warning", "[/b] [@click=app.quit]x\x1b[2J"))
    said = [
        "saved /output/fox-000003.safetensors (37 MB), read back and compared",
        "warning: [/b] [@click=app.quit]x�[2J",
    ]
    assert terminal.shows([*said, f"training ━━━━╸─────── {FACTS}"])

    terminal("resize-window", "-x", "160", "-y", "48")
    assert terminal.shows([*said, f"training {'━' * 15}{'─' * 25} epoch 4/10 · {FACTS}"])

    recorder.write(Finished("done", 510, "Trained 510 steps."))
    assert terminal.shows([*said, "Trained 510 steps.", "exit code 0"])
    assert terminal("display-message", "-p", "#{cursor_flag}") == "1\n"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, f"training ━━━━╸─────── {FACTS}"),
        ({"NO_COLOR": "1"}, f"training ━━━━╸─────── {FACTS}"),
        ({"TERM": "dumb"}, f"epoch 4/10 · {FACTS}"),
        ({"PYTHONIOENCODING": "ascii"}, f"training ####-------- {FACTS.replace('·', '-')}"),
    ],
    ids=["colour", "NO_COLOR", "dumb", "ascii"],
)
def test_a_terminal_that_can_do_less(
    terminal: Terminal, recorder: Recorder, tmp_path: Path, environment: dict[str, str], line: str
) -> None:
    recorder.write(STARTED)
    for number in range(1, 195):
        recorder.write(step(number))
    (run,) = (tmp_path / "runs").iterdir()
    terminal.run([*PROGRAM, "watch", str(run), "--plain"], **environment)
    assert terminal.wait_for("step 194")[-1] == line
    coloured = "\x1b[32m" in terminal.lines("-e")[-1]
    assert coloured == ("NO_COLOR" not in environment and "TERM" not in environment)


def test_leaving_the_viewer(terminal: Terminal, recorder: Recorder, tmp_path: Path) -> None:
    recorder.write(STARTED)
    (run,) = (tmp_path / "runs").iterdir()
    terminal.run([*PROGRAM, "watch", str(run), "--plain"])
    terminal.wait_for("training")
    terminal("send-keys", "C-c")
    terminal.ends_with(130)
    assert not any("error" in line or "Traceback" in line or "training" in line for line in terminal.lines())
    assert terminal("display-message", "-p", "#{cursor_flag}") == "1\n"
    assert list((run / "control").iterdir()) == []


# ------------------------------------------------------------------------------------------------- a run that trains


def test_a_run_outlives_its_terminal(terminal: Terminal, tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 3})
    training = {"max_train_epochs": None, "max_train_steps": 60, "train_batch_size": 1}
    config = write_config(tmp_path, training=training, output={"save_every_n_steps": 20})
    terminal.run([*PROGRAM, "train", str(config)])
    lines = terminal.wait_for(r"step \d+/60 .* ETA")
    facts = r"(epoch \d+/20 · )?step \d+/60 · .*(s|ms)/step · loss \d\.\d{4} · ETA \d+ s"
    assert re.fullmatch(f"training [━╸─]{{10,}} {facts}", lines[-1])
    assert all(len(line) <= 80 for line in lines) and sum("step " in line for line in lines) == 1
    (path,) = (tmp_path / "runs").iterdir()
    run = RunDirectory(path)
    before = run.read_record()
    terminal("kill-server")

    watch = [*PROGRAM, "watch", str(path)]
    viewer = subprocess.run(watch, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert viewer.returncode == 0 and viewer.stderr.endswith("Trained 60 steps.\n"), viewer.stderr
    assert viewer.stdout == "" and "\x1b" not in viewer.stderr
    last = EventReader(run.events).read()[-1].event
    assert last == Finished("done", 60, "Trained 60 steps.")
    assert liveness(run.read_record()) == "done" and run.read_record().pid == before.pid
    assert (tmp_path / "output" / "fox.safetensors").exists()
    wait_for(lambda: "Trained 60 steps.\n" in run.log.read_text("utf-8"))
    log = run.log.read_text("utf-8")
    assert "\x1b" not in log and "Traceback" not in log
    assert re.search(r"^epoch \d+/20 · step 60/60 · ", log, re.M) and "fox-step00000040.safetensors" in log


def test_ctrl_c_in_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 3})
    config = write_config(tmp_path, training={"max_train_epochs": 2000, "train_batch_size": 1})
    terminal.run([*PROGRAM, "train", str(config)])
    terminal.wait_for(r"step \d+/6000 .* ETA")
    terminal("send-keys", "C-c")
    lines = terminal.wait_for("goes on")
    screen = "".join(lines)
    assert re.search(r"Stopped at step \d+ of 6000; the state is saved\.", screen)
    (run,) = (tmp_path / "runs").iterdir()
    assert f"`loratory train --resume {run}` goes on." in screen
    terminal.ends_with(1)
