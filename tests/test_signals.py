"""Signals end a command cleanly: no traceback, the exit code that shells expect, nothing left running."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from loratory.runs.store import liveness
from material import make_set
from terminal import ENVIRONMENT
from training_runs import small_config, train

# A server that runs until it is told to end; the tour starts its commands as processes of their own.
SERVE = [sys.executable, "-m", "loratory", "serve", "--port", "0"]
TOUR = [
    *(sys.executable, "-c"),
    "import sys\n"
    "from loratory.cli import demo_tour\n"
    "from loratory.cli.main import interruptible\n"
    "with interruptible():\n"
    "    sys.exit(demo_tour._run(('serve', '--port', '0')))\n",
]


def begun(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """The process. It hears signals as if a person had started it, also where tests run in the background."""
    (folder / "runs").mkdir(exist_ok=True)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hears_all,
    )


def _hears_all() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def started(command: list[str], folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The process, and the address that its server has told."""
    process = begun(command, folder)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://")
    return process, address


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_command_ends_when_it_is_told(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process, _ = started(SERVE, tmp_path)
    process.send_signal(number)
    _, problems = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in problems


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    process, address = started(["nohup", *SERVE], tmp_path)
    process.send_signal(signal.SIGHUP)
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_command_of_the_tour_ends_with_it(tmp_path: Path) -> None:
    process, address = started(TOUR, tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=30)


def test_a_command_of_the_tour_that_is_killed_says_so_as_a_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from loratory.cli import demo_tour

    killed = ("sh", "-c", "kill -9 $$")
    begin = subprocess.Popen
    monkeypatch.setattr(demo_tour.subprocess, "Popen", lambda _: begin(killed))
    assert demo_tour._run(()) == 137


def test_how_a_run_ended_is_recorded_however_often_it_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(tmp_path / "set", {"1_fox": 1})
    freed: list[bool] = []

    def freeing() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        freed.append(True)

    monkeypatch.setattr("loratory.runs.host._free_memory", freeing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finished, run, events = train(small_config(tmp_path))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    record = run.read_record()
    assert freed == [True] and finished.status == "done" == events[-1].status
    assert record is not None and liveness(record) == "done"


@pytest.mark.slow
def test_ctrl_c_while_the_program_is_imported(tmp_path: Path) -> None:
    """At any moment of its start: never a traceback, and 130 or death by the signal, which a shell shows as 130."""
    for delay_ms in range(0, 200, 20):
        script = f"sleep {delay_ms / 1000}; kill -INT $1"
        process = begun([SERVE[0], "-X", "importtime", *SERVE[1:]], tmp_path)
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith(" loratory.cli\n"):  # the first import behind the line that it is about
                break
        subprocess.run(["sh", "-c", script, "sh", str(process.pid)], check=True)
        _, problems = process.communicate(timeout=30)
        assert process.returncode in (0, 130, -signal.SIGINT), problems
        assert "Traceback" not in problems
