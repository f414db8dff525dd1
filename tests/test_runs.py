"""The run directory: events that survive a kill, records that tell a live process from a dead one, commands."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.runs.control import Command, Control, send
from loratory.runs.events import Finished, Notice, Phase, SampleLoss, Saved, Started, Step, Validated, decode, encode
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, EventWriter, RunDirectory, find_runs, liveness, new_record

floats = st.floats(allow_nan=False)
texts = st.text(max_size=30)
steps = st.builds(
    Step,
    step=st.integers(0),
    epoch=st.integers(1),
    loss=floats,
    lr=st.dictionaries(texts, floats, max_size=2),
    effective_lr=st.dictionaries(texts, floats, max_size=2),
    grad_norm=floats,
    step_s=floats,
    data_s=floats,
    samples=st.lists(st.builds(SampleLoss, image=texts, timestep=st.integers(0, 999), loss=floats), max_size=3),
    max_weight_norm=st.none() | floats,
)
events = st.one_of(
    steps,
    st.builds(Notice, level=st.sampled_from(["note", "warning"]), message=texts),
    st.builds(Phase, name=texts, done=st.integers(), total=st.integers()),
    st.builds(
        Saved, step=st.integers(), epoch=st.integers(), path=texts, size_bytes=st.integers(), max_difference=floats
    ),
    st.builds(
        Validated,
        step=st.integers(),
        epoch=st.integers(),
        loss=floats,
        samples=st.lists(st.builds(SampleLoss, image=texts, timestep=st.integers(0, 999), loss=floats), max_size=3),
    ),
    st.builds(Finished, status=st.sampled_from(["done", "failed"]), step=st.integers(), message=texts, hint=texts),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "fox", "x = 1\n")


@given(events)
def test_events_round_trip_in_one_line(event) -> None:
    line = encode(event, 12.5)
    assert "\n" not in line
    timed = decode(line)
    assert timed is not None and timed.event == event and timed.time_s == 12.5


def test_a_loss_that_is_no_number_travels_in_plain_json() -> None:
    step = Step(1, 1, math.nan, {"unet": math.inf}, {}, -math.inf, 1.0, 0.0, [SampleLoss("a", 3, math.nan)])
    json.loads(encode(step), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read = decode(encode(step)).event
    assert math.isnan(read.loss) and math.isnan(read.samples[0].loss)
    assert read.lr == {"unet": math.inf} and read.grad_norm == -math.inf


@given(events, st.data())
def test_no_part_of_a_line_is_mistaken_for_an_event(event, data) -> None:
    line = encode(event, 0.0)
    assert decode(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@pytest.mark.parametrize("line", ["", "null", "[]", "7", '{"kind": "step"}', '{"kind": "tomorrow", "t": 1}', "\x00"])
def test_foreign_lines_are_skipped(line: str) -> None:
    assert decode(line) is None


def test_unknown_keys_are_dropped() -> None:
    line = json.dumps({"v": 9, "t": 1, "kind": "notice", "level": "note", "message": "m", "colour": "red"})
    assert decode(line).event == Notice("note", "m")


def test_a_torn_last_line_is_left_alone_and_the_next_writer_starts_a_new_one(run: RunDirectory) -> None:
    writer = EventWriter(run.events)
    writer.write(Notice("note", "one"))
    writer.close()
    with run.events.open("a") as file:
        file.write('{"v":1,"t":1,"kind":"not')
    reader = EventReader(run.events)
    assert [timed.event.message for timed in reader.read()] == ["one"]
    assert reader.read() == []
    writer = EventWriter(run.events)
    writer.write(Notice("note", "two"))
    writer.close()
    assert [timed.event.message for timed in reader.read()] == ["two"]


def test_a_reader_sees_each_event_once(run: RunDirectory) -> None:
    reader, writer = EventReader(run.events), EventWriter(run.events)
    assert reader.read() == []
    for number in range(3):
        writer.write(Notice("note", str(number)))
        assert [timed.event.message for timed in reader.read()] == [str(number)]
    writer.close()


def test_run_directories_of_the_same_second_do_not_meet(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path, "a/../b [/c]", "") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(run.path.parent == tmp_path and "/" not in run.name for run in runs)
    assert {run.path for run in find_runs(tmp_path)} == {run.path for run in runs}


def test_a_runs_dir_that_is_a_file_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(LoratoryError, match="Cannot make a run directory") as caught:
        RunDirectory.create(tmp_path / "runs", "fox", "")
    assert caught.value.exit_code == 1 and "runs_dir" in caught.value.hint


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoratoryError, match="does not exist"):
        RunDirectory.open(tmp_path / "nothing")
    with pytest.raises(LoratoryError, match="not a run directory"):
        RunDirectory.open(tmp_path)


def test_liveness_tells_a_process_from_its_ghost() -> None:
    record = dataclasses.replace(new_record(), status="running")
    assert liveness(record) == "running"
    # The pid lives, but belongs to another process than the one that wrote the record.
    assert liveness(dataclasses.replace(record, pid_started_s=record.pid_started_s - 3600)) == "crashed"
    assert liveness(dataclasses.replace(record, status="done")) == "done"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    assert liveness(dataclasses.replace(record, pid=int(gone.stdout))) == "crashed"
    assert liveness(None) == "crashed"


def test_a_run_on_another_host_is_judged_by_its_heartbeat() -> None:
    record = dataclasses.replace(new_record(), status="running", host="elsewhere", pid=1)
    assert liveness(record, now_s=record.heartbeat_s + 60) == "running"
    assert liveness(record, now_s=record.heartbeat_s + 3600) == "silent"


def test_the_recorder_keeps_the_record_with_the_events(run: RunDirectory) -> None:
    with Recorder(run) as recorder:
        assert run.read_record().status == "starting"
        recorder.write(Started(3, 10, 2, 5, "CPU", "0"))
        record = run.read_record()
        assert (record.status, record.step, record.total_steps, record.pid) == ("running", 3, 10, os.getpid())
        recorder.write(Finished("failed", 4, "no more disk"))
    record = run.read_record()
    assert (record.status, record.message) == ("failed", "no more disk")
    run.record.write_text("{ torn")
    assert run.read_record() is None


def test_two_processes_cannot_train_one_run(run: RunDirectory) -> None:
    with Recorder(run) as first:
        with pytest.raises(LoratoryError, match="another process"):
            Recorder(run)
        first.write(Notice("note", "still mine"))
    with Recorder(run):
        pass


def test_commands_are_obeyed_once_and_in_order(run: RunDirectory) -> None:
    control = Control(run.control)
    assert control.poll() == []
    send(run.control, Command("save"))
    send(run.control, Command("stop"))
    (run.control / "1-format-disk.json").write_text("{}")
    control.request("save")
    assert control.poll() == [Command("save"), Command("save"), Command("stop")]
    assert control.poll() == []
    assert list(run.control.iterdir()) == []


def test_commands_for_a_dead_process_are_discarded(run: RunDirectory) -> None:
    send(run.control, Command("stop"))
    control = Control(run.control)
    control.discard()
    assert control.poll() == []
