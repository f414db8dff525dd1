"""What a run survives: full disks, pauses, too little memory, a host that goes on with other things."""

import errno
import gc
import logging
import os
import signal
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from loratory import atomic
from loratory.cli import progress as viewer_module
from loratory.cli.progress import Viewer
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.runs import recorder as recorder_module
from loratory.runs.control import Command, Control, send
from loratory.runs.events import Continued, Finished, Hardware, Notice, Paused, Saved, Saving, Started, Step
from loratory.runs.host import host
from loratory.runs.host_thread import RunThread
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, EventWriter, RunDirectory, liveness
from material import make_set, write_config
from terminal import wait_for

STARTED = Started(0, 40, 2, 20, "CPU", "0")
NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "fox", "")


class Disk:
    """Takes nothing new in the run's folder while it is full; what is there can be written over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        write, replacing = EventWriter.write, atomic.replacing

        def write_if_room(writer: EventWriter, *events: object) -> None:
            self.check()
            write(writer, *events)

        def replace_if_room(*arguments: object, **options: object) -> object:
            self.check()
            return replacing(*arguments, **options)

        monkeypatch.setattr(EventWriter, "write", write_if_room)
        monkeypatch.setattr(atomic, "replacing", replace_if_room)

    def check(self) -> None:
        if self.is_full:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(recorder_module, "RETRY_EVERY_S", 0.05)
    monkeypatch.setattr(recorder_module, "_LISTEN_EVERY_S", 0.01)
    return Disk(monkeypatch)


def events_of(run: RunDirectory) -> list[object]:
    return [timed.event for timed in EventReader(run.events).read()]


def step(number: int) -> Step:
    return Step(number, 1, 0.1, {}, {}, 1.0, 0.5, 0.0)


def beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def is_paused(run: RunDirectory) -> bool:
    record = run.read_record()
    return record is not None and liveness(record) == "paused"


# ------------------------------------------------------------------------------------------------------- pauses


def test_a_pause_is_told_by_the_record(run: RunDirectory) -> None:
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        recorder.write(step(1))
        recorder.write(Paused(1, "Paused on request."))
        record = run.read_record()
        assert (record.status, record.message, record.step) == ("paused", "Paused on request.", 1)
        assert liveness(record) == "paused"
        recorder.write(Notice("note", "still waiting"))
        assert run.read_record().status == "paused"
        recorder.write(Continued(1, 3.0))
        record = run.read_record()
        assert (record.status, record.message) == ("running", "")


def test_several_threads_write_whole_lines(run: RunDirectory) -> None:
    with Recorder(run) as recorder:

        def write(name: str) -> None:
            for number in range(100):
                recorder.write(Notice("note", f"{name} {number} {'x' * 500}"))

        threads = [beside(lambda name=name: write(name)) for name in "abcd"]
        for _ in range(100):
            recorder.mention(Hardware(1.0, 2, 3, 4))
        for thread in threads:
            thread.join()
    lines = run.events.read_text("utf-8").splitlines()
    assert len(lines) == 500 == len(events_of(run))
    told = [event.message.split()[:2] for event in events_of(run) if isinstance(event, Notice)]
    assert [[n for name, n in told if name == each] for each in "abcd"] == [[str(n) for n in range(100)]] * 4


def test_nothing_follows_the_last_word(run: RunDirectory) -> None:
    with Recorder(run) as recorder:
        recorder.write(Finished("done", 40))
        recorder.mention(Hardware(1.0, 2, 3, 4))
    assert events_of(run) == [Finished("done", 40)]


# -------------------------------------------------------------------------------------------------- a full disk


def test_an_event_waits_for_room_and_the_record_says_so(run: RunDirectory, disk: Disk) -> None:
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        recorder.write(step(1))
        disk.is_full = True
        thread = beside(lambda: recorder.write(step(2)))
        wait_for(lambda: is_paused(run))
        assert run.read_record().message.startswith("The disk is full: an event could not be written.")
        beaten_s = run.read_record().heartbeat_s
        recorder.mention(Hardware(1.0, 2, 3, 4))  # does not wait, and tells that the run lives
        assert run.read_record().heartbeat_s > beaten_s and thread.is_alive()
        disk.is_full = False
        thread.join(20)
        record = run.read_record()
        assert (record.status, record.message, recorder.step) == ("running", "", 2)
    started, one, paused, continued, two = events_of(run)
    assert (started, one, two) == (STARTED, step(1), step(2))
    assert isinstance(paused, Paused) and paused.step == 1 and "disk is full" in paused.reason
    assert isinstance(continued, Continued) and continued.waited_s > 0


def test_work_is_tried_until_there_is_room(run: RunDirectory, disk: Disk) -> None:
    tried: list[int] = []

    def work() -> str:
        tried.append(1)
        recorder.write(Saving("fox.safetensors"))
        if len(tried) < 4:
            # As a writer of another format tells it.
            raise LoratoryError("fox.safetensors: the disk is full.") from NO_ROOM
        recorder.write(Saved(1, 1, "fox.safetensors", 10, 0.0))
        return "written"

    with Recorder(run) as recorder:
        recorder.write(STARTED)
        assert recorder.patiently(work, "the adapter") == "written"
        assert run.read_record().status == "running"
    kinds = [event.kind for event in events_of(run)]
    assert kinds == ["started", "saving", "paused", *["saving"] * 3, "saved", "continued"]


def test_events_of_work_that_is_retried_come_when_there_is_room(run: RunDirectory, disk: Disk) -> None:
    """The work succeeds (it made its own room), while events still do not fit: it is not done again."""
    tried: list[int] = []

    def work() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise NO_ROOM
        recorder.write(Saved(1, 1, "fox.safetensors", 10, 0.0))

    with Recorder(run) as recorder:
        recorder.write(STARTED)
        disk.is_full = True
        thread = beside(lambda: recorder.patiently(work, "the adapter"))
        wait_for(lambda: len(tried) == 2)
        assert thread.is_alive() and is_paused(run)
        disk.is_full = False
        thread.join(20)
    assert [event.kind for event in events_of(run)] == ["started", "paused", "saved", "continued"] and len(tried) == 2


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), LoratoryError("no"), KeyError("no")])
def test_other_errors_go_through_at_once(run: RunDirectory, disk: Disk, error: Exception) -> None:
    errors = [error]

    def work() -> None:
        raise errors.pop()

    with Recorder(run) as recorder:
        with pytest.raises(type(error)):
            recorder.patiently(work, "the state")
        assert events_of(run) == []
        errors[:] = [error, NO_ROOM]
        with pytest.raises(type(error)):
            recorder.patiently(work, "the state")


def test_resume_tries_again_at_once(run: RunDirectory, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_EVERY_S", 3600.0)
    with Recorder(run) as recorder:
        disk.is_full = True
        thread = beside(lambda: recorder.write(STARTED))
        wait_for(lambda: is_paused(run))
        send(run.control, Command("resume"))  # has to fit on the full disk
        wait_for(lambda: not list(run.control.iterdir()))
        assert thread.is_alive() and is_paused(run)
        disk.is_full = False
        send(run.control, Command("resume"))
        thread.join(20)
        assert not thread.is_alive() and list(run.control.iterdir()) == []


def test_what_a_full_disk_cannot_take_is_not_sent(run: RunDirectory, disk: Disk) -> None:
    disk.is_full = True
    with pytest.raises(OSError):
        send(run.control, Command("rate", "0.5"))
    assert list(run.control.iterdir()) == []
    send(run.control, Command("stop"))
    assert Control(run.control).poll() == [Command("stop")]


def test_stop_ends_it_and_nothing_waits_any_more(run: RunDirectory, disk: Disk) -> None:
    control, caught = Control(run.control), []

    def write() -> None:
        with pytest.raises(OSError) as error:
            recorder.write(STARTED)
        caught.append(error.value.errno)

    with Recorder(run, control) as recorder:
        disk.is_full = True
        thread = beside(write)
        wait_for(lambda: is_paused(run))
        control.request("save")
        control.request("stop")
        thread.join(20)
        assert caught == [errno.EDQUOT]
        assert control.poll() == [Command("save")]  # for whoever tells what was not done
        with pytest.raises(OSError):
            recorder.patiently(disk.check, "the state")
        recorder.write(Finished("failed", 0, "The disk is full."))
    assert (run.read_record().status, run.read_record().message) == ("failed", "The disk is full.")


def test_other_commands_stay_for_the_loop(run: RunDirectory, disk: Disk) -> None:
    control = Control(run.control)
    with Recorder(run, control) as recorder:
        disk.is_full = True
        thread = beside(lambda: recorder.write(STARTED))
        wait_for(lambda: is_paused(run))
        control.request("save")
        (run.path / "rate").write_text('{"value": "0.5"}')
        (run.path / "rate").rename(run.control / f"{1:020d}-rate.json")
        wait_for(lambda: not list(run.control.iterdir()))
        disk.is_full = False
        thread.join(20)
    assert control.poll() == [Command("save"), Command("rate", "0.5")]


def test_a_pause_on_request_is_one_again_when_there_is_room(run: RunDirectory, disk: Disk) -> None:
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        recorder.write(Paused(0, "On request."))
        disk.is_full = True
        thread = beside(lambda: recorder.write(Notice("note", "n")))
        wait_for(lambda: "disk is full" in run.read_record().message)
        disk.is_full = False
        thread.join(20)
        assert (run.read_record().status, run.read_record().message) == ("paused", "On request.")
    assert [event.kind for event in events_of(run)][-4:] == ["paused", "continued", "paused", "notice"]


def test_a_record_of_another_length_is_whole_on_a_full_disk(run: RunDirectory, disk: Disk) -> None:
    with Recorder(run) as recorder:
        recorder.write(Paused(0, "a long reason " * 30))
        disk.is_full = True
        recorder.write(Finished("failed", 0, "short"))
        assert run.read_record().message == "short"


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_a_viewer_tells_of_a_pause_that_has_no_event(
    run: RunDirectory,
    disk: Disk,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(viewer_module, "RECORD_EVERY_S", 0.0)
    monkeypatch.setattr(viewer_module, "POLL_EVERY_S", 0.01)
    said: list[str] = []
    monkeypatch.setattr(viewer_module.output, "say", lambda text, style="": said.append(text))
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        disk.is_full = True
        thread = beside(lambda: recorder.write(step(1)))
        viewer = Viewer(run, as_json=False)
        viewer.start()
        wait_for(lambda: any("disk is full" in line for line in said))
        disk.is_full = False
        thread.join(20)
        wait_for(lambda: any("goes on" in line for line in said))
        recorder.write(Finished("done", 1))
        viewer.close()
    assert sum("paused after step 0: The disk is full" in line for line in said) == 1
    assert sum("goes on after" in line for line in said) == 1


# ---------------------------------------------------------------------------------------- a host among other things


@pytest.fixture
def config(tmp_path: Path) -> Config:
    make_set(tmp_path / "set", {"2_fox": 2})
    return load_config(write_config(tmp_path, training={"train_batch_size": 2}))


def run_of(config: Config) -> RunDirectory:
    return RunDirectory.create(config.output.runs_dir, "fox", dump_config(config))


def with_train(monkeypatch: pytest.MonkeyPatch, train: Callable[..., Finished]) -> None:
    monkeypatch.setitem(sys.modules, "loratory.training.loop", types.SimpleNamespace(train=train))


PLAN: object = object()


class Model:
    pass


def test_what_a_failed_run_held_is_free(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Model]] = []

    def train(*_: object) -> Finished:
        model = Model()
        model.itself = model  # as modules and their hooks do
        held.append(weakref.ref(model))
        try:
            raise ValueError("first")
        except ValueError:
            raise RuntimeError("CUDA error: out of memory") from None

    with_train(monkeypatch, train)
    gc.disable()
    try:
        with pytest.raises(LoratoryError) as caught:
            host(config, run_of(config), threading.Event(), plan=PLAN)
        assert caught.value.__cause__ is not None and held[0]() is None
    finally:
        gc.enable()


def test_a_host_leaves_nothing_behind(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(plan: object, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
        warnings.warn("a library's", stacklevel=1)
        return Finished("done", 0)

    with_train(monkeypatch, train)
    handlers, show = list(logging.getLogger().handlers), warnings.showwarning
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run = run_of(config)
    thread = RunThread(config, run, plan=PLAN)
    thread.start()
    assert thread.wait(30) and thread.finished == Finished("done", 0)
    assert "a library's" in run.log.read_text("utf-8")
    assert logging.getLogger().handlers == handlers and warnings.showwarning is show
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == signals
    assert [t.name for t in threading.enumerate() if t.name in ("telemetry", "training")] == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_run_is_told_too_late_is_told_of(config: Config, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def train(plan: object, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
        for command in (Command("sample", "a fox"), Command("stop"), Command("save")):
            send(run.control, command)
        if fails:
            raise LoratoryError("It cannot go on.")
        return Finished("done", 0)

    with_train(monkeypatch, train)
    run = run_of(config)
    with suppress(LoratoryError):
        host(config, run, threading.Event(), plan=PLAN)
    notice, finished = events_of(run)[-2:]
    assert notice == Notice("warning", "Not carried out, as the run has ended: sample a fox, save.")
    assert isinstance(finished, Finished) and finished.status == ("failed" if fails else "done")
    assert list(run.control.iterdir()) == []


def out_of_memory(name: str) -> Exception:
    import torch

    return {
        "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        "driver": RuntimeError("CUDA error: out of memory"),
        "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        "python": MemoryError(),
    }[name]


@pytest.mark.parametrize("name", ["torch", "driver", "cublas", "cpu", "python"])
def test_out_of_memory_tells_what_to_type(config: Config, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def train(*_: object) -> Finished:
        raise out_of_memory(name)

    with_train(monkeypatch, train)
    run = run_of(config)
    for trained in (False, True):
        if trained:
            (run.state / "00000020.pt").write_bytes(b"")
        with pytest.raises(LoratoryError):
            host(config, run, threading.Event(), plan=PLAN)
        finished = events_of(run)[-1]
        assert isinstance(finished, Finished) and finished.status == "failed"
        where = "Main memory ran out" if name in ("cpu", "python") else "The GPU ran out of memory"
        assert finished.message == f"{where} at batch size 2 and resolution 64x64."
        checkpointing = f"`loratory train --resume {run.path} --set training.gradient_checkpointing=true`"
        assert checkpointing in finished.hint
        assert ("train_batch_size=1" in finished.hint) == (not trained)
        assert ("from step 20" if trained else "from its first step") in finished.hint


def test_a_defect_is_no_lack_of_memory(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> Finished:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with_train(monkeypatch, train)
    run = run_of(config)
    with pytest.raises(RuntimeError, match="mat1"):
        host(config, run, threading.Event(), plan=PLAN)
    assert "mat1" in run.log.read_text("utf-8") and "traceback is in" in events_of(run)[-1].hint


def test_when_nothing_is_left_to_change(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"gradient_checkpointing": True, "int8_base": True, "blocks_to_swap": 36, "train_batch_size": 1}
    network = {"network_train_unet_only": True}
    config = load_config(write_config(tmp_path, training=training, network=network))

    def train(*_: object) -> Finished:
        raise out_of_memory("torch")

    with_train(monkeypatch, train)
    run = run_of(config)
    with pytest.raises(LoratoryError) as caught:
        host(config, run, threading.Event(), plan=PLAN)
    assert caught.value.hint.startswith("Every setting that saves memory") and "--set" not in caught.value.hint
    assert f"`loratory train --resume {run.path}` goes on" in caught.value.hint
