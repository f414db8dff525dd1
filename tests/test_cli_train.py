"""`loratory train` as a person, a script and a full disk meet it."""

import dataclasses
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from command_line import Call
from loratory import atomic
from loratory.runs.events import Continued, Finished, Notice, Obeyed, Paused, Saved, Started, StateSaved
from loratory.runs.store import EventReader, EventWriter, RunDirectory, liveness, new_record
from loratory.training.state import load_newest
from material import make_set, write_config

HERE = Path(__file__).parent
TRAIN = [sys.executable, "-m", "loratory", "train"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this process and in those it starts, which also need to find the program."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent / "src"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def project(folder: Path, steps: int, **tables: dict[str, object]) -> Path:
    """A config for `steps` steps on a small set."""
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_[red]fox[b]": 3})
    training = {"max_train_epochs": None, "max_train_steps": steps, "train_batch_size": 1}
    return write_config(folder, training=training, **tables)


def only_run(folder: Path) -> RunDirectory:
    (path,) = (folder / "runs").iterdir()
    return RunDirectory(path)


def events_of(run: RunDirectory, kind: type) -> list:
    return [timed.event for timed in EventReader(run.events).read() if isinstance(timed.event, kind)]


def wait_for(condition: Callable[[], object], within_s: float = 60) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def weights_hash(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return file.metadata()["sshs_model_hash"]


# --------------------------------------------------------------------------------------------- what it prints


def test_without_a_terminal_progress_is_plain_lines(loratory: Call, tmp_path: Path) -> None:
    sample = {"prompts": ["[/b] [@click=app.quit]x\x1b[2J --w 64 --h 64 --s 1"]}
    config = project(tmp_path, 3, sample=sample)
    code, out, err = loratory("train", config)
    assert (code, out) == (0, "")
    path = only_run(tmp_path).path
    patterns = [
        re.escape(f"run {path}"),
        "loading PyTorch",
        "reading the dataset",
        "loading the base model",
        r"caching latents 1/3",
        r"training from step 0 to 3 on CPU.*",
        r"epoch 1/1 · step 3/3 · .*(s|ms)/step · loss \d\.\d{4}",
        re.escape(f"saved {tmp_path}/output/fox.safetensors (") + r"\d+ kB\), read back and compared",
        r"drawing samples",
        r"drew samples/step00000003-00-42\.png: \[/b\] \[@click=app\.quit\]x\ufffd\[2J",
        r"Trained 3 steps\.",
    ]
    lines = err.splitlines()
    assert len(lines) == len(patterns), err
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_json_is_all_there_is_on_stdout(loratory: Call, tmp_path: Path) -> None:
    code, out, err = loratory("train", project(tmp_path, 2), "--json", "--set", "training.seed=7")
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["kind"] for event in events]
    assert [kinds.count(kind) for kind in ("started", "step", "saved", "state_saved", "finished")] == [1, 2, 1, 1, 1]
    assert out == only_run(tmp_path).events.read_text("utf-8")
    assert "seed = 7" in only_run(tmp_path).config.read_text("utf-8")


def test_a_run_that_fails_says_so_once(loratory: Call, tmp_path: Path) -> None:
    config = project(tmp_path, 3, optimizer={"learning_rate": 1e30}, output={"state_every_n_steps": 1})
    for arguments in ([config], [config, "--json"]):
        code, out, err = loratory("train", *arguments)
        assert code == 1 and err.count("error: ") == 1 and "The loss became" in err
        assert "Traceback" not in err
        assert [json.loads(line)["kind"] for line in out.splitlines()[-1:]] == ["finished"] * ("--json" in arguments)


# -------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


OFTEN = {"state_every_n_steps": 2, "save_every_n_steps": 1}


def is_paused(run: RunDirectory) -> bool:
    record = run.read_record()
    return record is not None and liveness(record) == "paused"


@pytest.mark.slow
def test_a_full_disk_pauses_the_run_and_room_lets_it_go_on(loratory: Call, tmp_path: Path, small_disk: Path) -> None:
    process = subprocess.Popen([*TRAIN, str(project(small_disk, 6, output=OFTEN))], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list((small_disk / "runs").glob("*/run.json")))
    run = only_run(small_disk)
    wait_for(lambda: is_paused(run))
    assert run.read_record().message.startswith("The disk is full: ")
    _, out, err = loratory("runs", "list", small_disk / "runs")
    assert "paused" in out and "The disk is full" in err
    # Stopped instead, it ends with the disk as the reason, and what was saved is still there.
    assert loratory("runs", "stop", run.path)[0] == 0
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and err.count("error: ") == 1 and "Traceback" not in err, err
    assert "paused after step" in err and "disk is full" in err
    assert f"Make room, then `loratory train --resume {run.path}` goes on." in err
    assert liveness(run.read_record()) == "failed"
    state, problems = load_newest(run.state)
    assert state is not None and state.step == 2 and problems == []
    assert not list(small_disk.rglob("*.tmp"))

    # Resumed without more room, it waits again; this time there comes some.
    process = subprocess.Popen([*TRAIN, "--resume", str(run.path)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: is_paused(run))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert loratory("runs", "resume", run.path)[0] == 0
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "goes on after" in err, err
    assert [event.from_step for event in events_of(run, Started)] == [0, 2]
    paused, continued = events_of(run, Paused), events_of(run, Continued)
    assert len(paused) >= len(continued) >= 1 and events_of(run, Finished)[-1].status == "done"
    assert loratory("train", project(tmp_path, 6, output=OFTEN))[0] == 0
    assert weights_hash(small_disk / "output" / "fox.safetensors") == weights_hash(tmp_path / "output/fox.safetensors")


def test_an_event_that_did_not_fit_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write(Notice("note", "before"))
    write, room = os.write, [20]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError):
        writer.write(Notice("note", "lost"))
    monkeypatch.undo()
    writer.write(Notice("note", "after"))
    writer.close()
    assert [timed.event.message for timed in EventReader(tmp_path / "events.jsonl").read()] == ["before", "after"]


def test_how_a_run_ended_is_told_on_a_disk_that_takes_no_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tmp_path, "fox", "")
    run.write_record(dataclasses.replace(new_record(), message="a long message " * 20))

    def full(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "replacing", full)
    run.write_record(dataclasses.replace(new_record(), status="failed", message="The disk is full."))
    assert (run.read_record().status, run.read_record().message) == ("failed", "The disk is full.")


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_and_resume_goes_on(loratory: Call, tmp_path: Path) -> None:
    """A limit on the size of files (`ulimit -f`, a FAT disk) is another error than a full disk."""
    config = project(tmp_path, 4, output={"state_every_n_steps": 2})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # an adapter fits, a state does not
    try:
        code, _, err = loratory("train", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert err.count("error: ") == 1 and "File too large" in err and "Traceback" not in err
    run = only_run(tmp_path)
    assert f"`loratory train --resume {run.path}` goes on." in err
    assert list(run.state.iterdir()) == []
    assert loratory("train", "--resume", run.path)[0] == 0
    interrupted = weights_hash(tmp_path / "output" / "fox.safetensors")
    assert loratory("train", config, "--set", "output.output_name=whole")[0] == 0
    assert interrupted == weights_hash(tmp_path / "output" / "whole.safetensors")


# ------------------------------------------------------------------------------------------ processes of their own


@pytest.mark.slow
def test_the_reader_of_the_json_leaves_and_the_run_goes_on(tmp_path: Path) -> None:
    """`loratory train --json <&- | head -1`."""
    command = ["bash", "-c", 'exec "$@" <&-', "bash", *TRAIN, str(project(tmp_path, 5)), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert json.loads(process.stdout.readline())["kind"] == "phase"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0
    run = only_run(tmp_path)
    assert events_of(run, Finished) == [Finished("done", 5, "Trained 5 steps.")]


@pytest.mark.slow
def test_nobody_listens_at_all_and_the_run_goes_on(tmp_path: Path) -> None:
    """stdin and stdout closed, and nobody at the other end of stderr: the run's files must not take their numbers."""
    command = ["bash", "-c", 'exec "$@" <&- >&-', "bash", *TRAIN, str(project(tmp_path, 5))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    process.stderr.close()
    assert process.wait(60) == 0
    run = only_run(tmp_path)
    lines = run.events.read_text("utf-8").splitlines()
    assert len(EventReader(run.events).read()) == len(lines)
    assert events_of(run, Finished)[-1].status == "done" and (tmp_path / "output" / "fox.safetensors").exists()


@pytest.mark.slow
def test_asked_twice_it_stops_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([*TRAIN, str(project(tmp_path, 5000)), "--json"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line)["kind"] == "step":
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)  # another than the first, so that the two cannot become one
            break
    last = [json.loads(line) for line in process.stdout][-1]
    assert process.wait(60) == 1
    assert (last["kind"], last["status"]) == ("finished", "stopped") and "at once" in last["message"]
    run = only_run(tmp_path)
    assert liveness(run.read_record()) == "stopped" and events_of(run, StateSaved) == []


@pytest.mark.slow
def test_a_detached_run_from_start_to_end(loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project(tmp_path, 40)
    # A file of the current folder that is named like a module is not taken for it.
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    code, out, err = loratory("train", config, "--detach")
    assert code == 0 and f"`loratory watch {out.strip()}` shows it" in err
    run = RunDirectory(Path(out.strip()))
    process = run.read_record().pid
    try:
        assert process != os.getpid() and os.getsid(process) == process
        assert loratory("runs", "list")[1].split()[1] in ("starting", "running")
        # A command that comes before the process listens is not lost.
        assert loratory("runs", "save", run.name)[0] == 0
        wait_for(lambda: events_of(run, Obeyed))
        assert run.read_record().pid == process
        code, _, err = loratory("train", "--resume", run.name)
        assert code == 2 and f"is being trained already (pid {process}" in err
        assert loratory("runs", "stop", "fox")[0] == 0
        code, out, err = loratory("watch", "fox")
        assert (code, out) == (0, "") and re.search(r"^Stopped at step \d+ of 40; the state is saved\.$", err, re.M)
    finally:
        if liveness(run.read_record()) in ("starting", "running"):
            os.kill(process, signal.SIGKILL)
    assert len(events_of(run, Saved)) == 1
    assert loratory("runs", "list")[1].split()[1] == "stopped"
    assert loratory("runs", "stop", "fox")[0] == 2
    wait_for(lambda: "Stopped at step" in run.log.read_text("utf-8"))  # it is said after the last event

    (stopped,) = events_of(run, Finished)
    code, _, err = loratory("train", "--resume", "fox")
    assert code == 0, err
    assert [event.from_step for event in events_of(run, Started)] == [0, stopped.step]
    assert loratory("runs", "list")[1].split()[1] == "done"
