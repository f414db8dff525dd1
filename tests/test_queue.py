"""The queue: what waits survives everything, one fails and the next trains, a killed runner goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import Call
from loratory.config.load import load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.runs import queue_runner
from loratory.runs.control import Control
from loratory.runs.queue import Entry, Queue
from loratory.runs.queue_runner import MOST_TRIES, Stopping, work_through
from loratory.runs.store import RunDirectory, Status, liveness, new_record

HERE = Path(__file__).parent
_CONFIG = """
[model]
pretrained_model_name_or_path = "owner/name"
[dataset]
train_data_dir = "set"
[training]
max_train_steps = 3
"""


def config_of(folder: Path, name: str, **changes: str) -> Config:
    """A valid config; nothing it names exists."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text(_CONFIG, "utf-8")
    return load_config(path, [f"output.output_name={name}", *(f"{key}={value}" for key, value in changes.items())])


def filled(folder: Path, *names: str) -> Queue:
    queue = Queue(folder / "queue")
    for name in names:
        queue.add(config_of(folder, name), folder / "config.toml")
    return queue


def names(queue: Queue) -> list[str]:
    return [entry.name for entry in queue.entries()]


def states(queue: Queue) -> dict[str, str]:
    return {entry.name: entry.state for entry in queue.entries()}


class Trainer:
    """Stands for the processes that train: plays for each what is to become of it."""

    def __init__(self, *outcomes: Status, message: str = "") -> None:
        self.outcomes = list(outcomes)
        self.message = message
        self.trained: list[Path] = []

    def __call__(self, run: RunDirectory) -> int:
        self.trained.append(run.path)
        outcome = self.outcomes.pop(0) if self.outcomes else "done"
        # A process that is no more: "running" is then a crash.
        record = replace(new_record(), status=outcome, pid=2**22 + 1, message=self.message, step=2, total_steps=3)
        run.write_record(record)
        return record.pid


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    def plays(*outcomes: Status, message: str = "") -> Trainer:
        made = Trainer(*outcomes, message=message)
        monkeypatch.setattr(queue_runner, "start_detached", made)
        return made

    return plays


def worked(queue: Queue) -> list[str]:
    told: list[str] = []
    work_through(queue, told.append, Stopping())
    return told


# ------------------------------------------------------------------------------------------------ what waits


def test_entries_are_kept_in_their_order_and_found_by_number_or_name(tmp_path: Path) -> None:
    queue = filled(tmp_path, "fox", "hare", "owl")
    assert names(queue) == ["fox", "hare", "owl"]
    assert queue.find("2").name == queue.find("hare").name == "hare"
    with pytest.raises(LoratoryError, match="has no “elk”"):
        queue.find("elk")
    queue.move("owl", "first")
    assert names(queue) == ["owl", "fox", "hare"]
    queue.move("owl", "down")
    queue.move("hare", "up")
    assert names(queue) == ["fox", "hare", "owl"]
    queue.move("fox", "up")
    queue.remove("2")
    assert names(queue) == ["fox", "owl"]


@settings(max_examples=12)  # each makes some files that are fsynced
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["up", "down", "first"])), max_size=8))
def test_moving_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, Any]]
) -> None:
    queue = Queue(tmp_path_factory.mktemp("queue"))
    expected = [1, 2, 3, 4]
    for number in expected:
        queue.write(Entry(number, f"n{number}", "", "", number))
    for number, where in moves:
        queue.move(str(number), where)
        at = expected.index(number)
        to = {"up": max(0, at - 1), "down": min(3, at + 1), "first": 0}[where]
        expected.insert(to, expected.pop(at))
        assert [entry.number for entry in queue.entries()] == expected


def test_an_entry_is_frozen_when_it_is_added(tmp_path: Path) -> None:
    queue = filled(tmp_path, "fox")
    before = queue.find("fox").settings()
    (tmp_path / "config.toml").write_text("no toml at all", "utf-8")
    after = queue.find("fox").settings()
    assert after == before and after.dataset.train_data_dir == tmp_path / "set"


def test_what_cannot_be_trained_is_refused_when_it_is_added(tmp_path: Path) -> None:
    queue = filled(tmp_path, "fox")
    with pytest.raises(LoratoryError, match="number 1 of the queue will write fox"):
        queue.add(config_of(tmp_path, "fox"), tmp_path / "config.toml")
    with pytest.raises(LoratoryError, match="not UTF-8"):
        queue.add(config_of(tmp_path / "a\udcffb", "elk"), tmp_path / "config.toml")
    assert names(queue) == ["fox"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"v": 99}', b'{"v": 1, "state": "waiting"}', b"\xff\xfe", b"[" * 5000],
)
def test_a_damaged_entry_hides_no_other(tmp_path: Path, damage: bytes, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox", "hare")
    path = queue.folder / "000001.json"
    path.write_bytes(damage)
    assert names(queue) == ["hare"] and queue.damaged() == [path]
    trainer("done")
    assert any("no entry of this version" in line for line in worked(queue))
    assert states(queue) == {"hare": "done"} and path.read_bytes() == damage


def test_an_entry_of_another_kind_is_damaged(tmp_path: Path) -> None:
    queue = filled(tmp_path, "fox")
    path = queue.folder / "000001.json"
    whole = json.loads(path.read_text("utf-8"))
    for key in ("number", "place", "name", "config", "run", "tries", "state"):
        path.write_text(json.dumps(whole | {key: {}}), "utf-8")
        assert queue.entries() == [], key


# -------------------------------------------------------------------------------------------- working through it


def test_one_that_fails_is_recorded_and_the_next_is_trained(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox", "hare", "owl")
    played = trainer("done", "failed", "done", message="The loss became nan.")
    told = worked(queue)
    assert states(queue) == {"fox": "done", "hare": "failed", "owl": "done"}
    assert queue.find("hare").reason == "The loss became nan."
    assert len(set(played.trained)) == 3
    assert [line.split(":")[0] for line in told] == [
        f"{name}{number}" for name, n in (("fox", 1), ("hare", 2), ("owl", 3)) for number in (f" (number {n})", "")
    ]


def test_a_run_that_somebody_stopped_stays_stopped_until_it_is_tried_again(
    tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    queue = filled(tmp_path, "fox", "hare")
    played = trainer("stopped", "done", "done")
    worked(queue)
    assert states(queue) == {"fox": "stopped", "hare": "done"}
    assert [entry.name for entry in queue.retry()] == ["fox"]
    worked(queue)
    assert states(queue) == {"fox": "done", "hare": "done"}
    assert played.trained[0] == played.trained[2], "a run that was begun is resumed"
    assert len(queue.clear()) == 2 and queue.entries() == []


def test_a_run_that_keeps_dying_is_given_up(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox", "hare")
    played = trainer(*["running"] * MOST_TRIES, "done")
    worked(queue)
    assert states(queue) == {"fox": "failed", "hare": "done"}
    assert queue.find("fox").reason.startswith("Its process died 2 times")
    assert len(played.trained) == MOST_TRIES + 1


def test_a_run_that_cannot_even_begin_says_why_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(run: RunDirectory) -> int:
        run.log.write_bytes(b"error: [/b]\x1b[2J the model is gone\n\n")
        return Trainer("starting")(run)

    monkeypatch.setattr(queue_runner, "start_detached", dies)
    queue = filled(tmp_path, "fox")
    worked(queue)
    assert queue.find("fox").reason.endswith("Its log ends with: error: [/b]\x1b[2J the model is gone")


def test_what_a_killed_runner_had_in_hand_comes_first(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox", "hare")
    config = queue.find("hare").settings()
    run = RunDirectory.create(config.output.runs_dir, "hare", queue.find("hare").config)
    run.write_record(replace(new_record(), status="running", pid=2**22 + 1))
    queue.write(replace(queue.find("hare"), state="running", run=str(run.path), tries=1))
    played = trainer("done", "done")
    worked(queue)
    assert played.trained[0] == run.path and states(queue) == {"fox": "done", "hare": "done"}


def test_a_run_that_outlived_the_runner_is_waited_for(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox")
    entry = queue.find("fox")
    run = RunDirectory.create(entry.settings().output.runs_dir, "fox", entry.config)
    run.write_record(replace(new_record(), status="running"))  # this very process
    queue.write(replace(entry, state="running", run=str(run.path), tries=1))
    played = trainer()
    with pytest.raises(LoratoryError, match="is being trained"):
        queue.remove("fox")
    ends = threading.Timer(0.5, lambda: run.write_record(replace(new_record(), status="done")))
    ends.start()
    worked(queue)
    ends.join()
    assert states(queue) == {"fox": "done"} and played.trained == []


def test_a_run_whose_folder_is_gone_begins_anew(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    queue = filled(tmp_path, "fox")
    queue.write(replace(queue.find("fox"), state="waiting", run=str(tmp_path / "gone")))
    trainer("done")
    assert any("is gone" in line for line in worked(queue))
    assert states(queue) == {"fox": "done"}


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_stop_saves_the_run_and_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_signal: bool
) -> None:
    queue = filled(tmp_path, "fox", "hare")
    stopping = Stopping()

    def trains(run: RunDirectory) -> int:
        run.write_record(replace(new_record(), status="running"))
        if by_signal:
            stopping.ask(signal.SIGTERM, None)
        else:
            queue.request_stop("now")
        threading.Thread(target=obeys, args=(run,)).start()
        return os.getpid()

    def obeys(run: RunDirectory) -> None:
        while not any(command.name == "stop" for command in Control(run.control).poll()):
            time.sleep(0.01)
        run.write_record(replace(new_record(), status="stopped"))

    monkeypatch.setattr(queue_runner, "start_detached", trains)
    told: list[str] = []
    assert work_through(queue, told.append, stopping) == []
    assert states(queue) == {"fox": "waiting", "hare": "waiting"} and queue.find("fox").tries == 0
    assert told[-1].startswith("fox is stopped, its state saved")
    monkeypatch.setattr(queue_runner, "start_detached", played := Trainer())
    worked(queue)
    assert str(played.trained[0]) == queue.find("fox").run and states(queue) == {"fox": "done", "hare": "done"}


def test_asked_twice_the_run_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = filled(tmp_path, "fox")
    stopping = Stopping()
    sent: list[int] = []

    def trains(run: RunDirectory) -> int:
        run.write_record(replace(new_record(), status="running"))
        stopping.ask()
        stopping.ask()
        return os.getpid()

    def kill(pid: int, number: int) -> None:
        assert pid == os.getpid()
        sent.append(number)
        if len(sent) == 2:
            run = RunDirectory(Path(queue.find("fox").run))
            run.write_record(replace(new_record(), status="stopped"))

    monkeypatch.setattr(queue_runner, "start_detached", trains)
    monkeypatch.setattr(queue_runner.os, "kill", kill)
    work_through(queue, [].append, stopping)
    assert sent == [signal.SIGTERM] * 2 and states(queue) == {"fox": "waiting"}


def test_a_process_of_another_machine_is_not_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = filled(tmp_path, "fox")
    heard: list[bool] = []

    def pauses(seconds: float) -> None:
        run = RunDirectory(Path(queue.find("fox").run))
        heard.append(any(run.control.glob("*-stop.json")))
        run.write_record(replace(new_record(), status="stopped", host="elsewhere"))

    stopping = Stopping()

    def trains(run: RunDirectory) -> int:
        run.write_record(replace(new_record(), status="running", host="elsewhere"))
        stopping.ask()
        stopping.ask()
        return os.getpid()

    monkeypatch.setattr(queue_runner, "start_detached", trains)
    monkeypatch.setattr(queue_runner.time, "sleep", pauses)
    monkeypatch.setattr(queue_runner.os, "kill", lambda *_: pytest.fail("that process is another's"))
    work_through(queue, [].append, stopping)
    assert heard == [True] and states(queue) == {"fox": "waiting"}


def test_a_stop_after_the_run_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = filled(tmp_path, "fox", "hare")

    def trains(run: RunDirectory) -> int:
        queue.request_stop("after")
        return Trainer("done")(run)

    monkeypatch.setattr(queue_runner, "start_detached", trains)
    worked(queue)
    assert states(queue) == {"fox": "done", "hare": "waiting"}
    with pytest.raises(LoratoryError, match="Nothing works through"):
        queue.request_stop("after")


def test_one_process_works_through_it(tmp_path: Path) -> None:
    queue = filled(tmp_path, "fox")
    assert not queue.is_running()
    with queue.working():
        assert queue.is_running()
        with pytest.raises(LoratoryError, match=rf"already \(pid {os.getpid()}\)"):
            worked(queue)
    assert not queue.is_running() and states(queue) == {"fox": "waiting"}


# ---------------------------------------------------------------------------------------------- the command line


def test_names_of_others_cannot_act_on_the_terminal(loratory: Call) -> None:
    queue = Queue()
    queue.folder.mkdir(parents=True)
    for number, name in enumerate(["[/b]\x1b[2J", "[@click=app.quit]x\n 9 done", "\udcff fox"], 1):
        queue.write(Entry(number, name, "", name, number, "failed", reason=f"{name}\nerror: \x07"))
    code, out, err = loratory("queue", "list")
    assert code == 0 and len(out.splitlines()) == 3 and "[/b]" in out and "[@click=app.quit]x 9 done" in out
    assert not {"\x1b", "\x07"} & set(out + err)
    code, out, _ = loratory("queue", "list", "--json")
    assert code == 0 and [entry["number"] for entry in json.loads(out)["entries"]] == [1, 2, 3] and "\x1b" not in out


def test_an_empty_queue(loratory: Call) -> None:
    assert loratory("queue", "list") == (0, "", "The queue is empty.\n")
    assert loratory("queue", "run")[0] == 0
    assert loratory("queue", "stop")[0] == 2
    assert loratory("queue", "remove", "1")[0] == 2
    assert loratory("queue", "clear")[0] == 0 and loratory("queue", "retry")[0] == 0


@pytest.mark.slow
def test_what_a_run_would_refuse_is_refused_now(loratory: Call, tmp_path: Path) -> None:
    config_of(tmp_path, "fox")
    code, out, err = loratory("queue", "add", tmp_path / "config.toml", "--set", "output_name=fox")
    assert code == 2 and out == "" and str(tmp_path / "set") in err
    assert Queue().entries() == []


# ---------------------------------------------------------------------------------------------------- for real


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three configs, a, b and c, for a few steps on the small model; b fails in its first step."""
    from material import make_set
    from training_runs import small_config

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent / "src"))
    make_set(tmp_path / "set", {"1_fox": 2})
    for name in "abc":
        rate = 1e30 if name == "b" else 1e-3
        small_config(
            tmp_path,
            optimizer={"learning_rate": rate},
            output={"output_name": name, "state_every_n_steps": 1},
            training={"max_train_epochs": None, "max_train_steps": 40 if name == "a" else 3},
        )
        (tmp_path / "config.toml").rename(tmp_path / f"{name}.toml")
    return tmp_path


def wait_for(condition: Callable[[], object], within_s: float = 90) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_queue_goes_on_where_it_was(configs: Path) -> None:
    queue = Queue()
    for name in "abc":
        path = configs / f"{name}.toml"
        queue.add(load_config(path), path)
    command = [sys.executable, "-P", "-m", "loratory", "queue", "run"]
    runner = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: queue.find("a").run)
    run = RunDirectory(Path(queue.find("a").run))
    wait_for(lambda: any(run.state.iterdir()))
    runner.kill()
    runner.communicate()
    record = run.read_record()
    assert record is not None and liveness(record) == "running", "a run outlives who started it"
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: liveness(run.read_record()) == "crashed")
    assert states(queue) == {"a": "running", "b": "waiting", "c": "waiting"}

    again = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert again.returncode == 1, again.stderr
    assert states(queue) == {"a": "done", "b": "failed", "c": "done"}
    assert queue.find("a").run == str(run.path) and queue.find("a").tries == 2
    assert "loss" in queue.find("b").reason and "Traceback" not in again.stderr
    assert sorted(path.stem for path in (configs / "output").glob("*.safetensors")) == ["a", "c"]
    assert "The queue ends: 2 done, 1 failed." in again.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_place_of_the_run_at_hand(configs: Path) -> None:
    queue = Queue()
    queue.add(load_config(configs / "a.toml"), configs / "a.toml")
    command = [sys.executable, "-P", "-m", "loratory", "queue", "run"]
    runner = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: queue.find("a").run)
    run = RunDirectory(Path(queue.find("a").run))
    wait_for(lambda: any(run.state.iterdir()))
    runner.send_signal(signal.SIGINT)
    _, err = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "its state saved" in err and "Traceback" not in err
    record = run.read_record()
    assert record is not None and record.status == "stopped" and 0 < record.step < 40
    assert states(queue) == {"a": "waiting"}
