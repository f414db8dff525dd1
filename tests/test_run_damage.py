"""A run whose files are torn, wrong, of others or gone, in every viewer: a sentence, and never a traceback."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fake_run import FakeRun, make_config
from loratory.errors import LoratoryError
from loratory.runs.events import Card, Hardware, Step, decode, encode
from loratory.runs.host_thread import RunThread
from loratory.runs.store import EventReader, last_started, liveness, new_record
from test_run_pane import open_run, scenario

RECORD: dict[str, Any] = asdict(new_record())
HOSTILE_NAME = "[bold]x[@click=app.quit]'y\n\x1b[2J$(touch z)\N{RIGHT-TO-LEFT OVERRIDE}abc" + "é" * 40


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    run = FakeRun(tmp_path)
    run.start()
    run.steps(30)
    run.save_state()
    return run


# ---------------------------------------------------------------------------------------------------------- run.json


@pytest.mark.parametrize(
    "body",
    [
        [1, 2],
        "running",
        None,
        {},
        {"status": "running"},
        RECORD | {"status": "asleep"},
        RECORD | {"pid": "12"},
        RECORD | {"pid": True},
        RECORD | {"pid_started_s": None},
        RECORD | {"host": 3},
        RECORD | {"heartbeat_s": float("nan")},
        RECORD | {"step": 1.5},
        RECORD | {"message": ["x"]},
    ],
)
def test_a_record_that_is_none(run: FakeRun, body: object) -> None:
    run.directory.record.write_text(json.dumps(body))
    assert run.directory.read_record() is None
    assert liveness(run.directory.read_record()) == "crashed"


def test_a_record_nested_too_deeply_or_of_no_text(run: FakeRun) -> None:
    for data in (b"[" * 100_000, b"\xff\xfe", b""):
        run.directory.record.write_bytes(data)
        assert run.directory.read_record() is None


@pytest.mark.parametrize("pid", [0, -1, 2**40, 2**80])
def test_a_process_number_that_none_can_have(run: FakeRun, pid: int) -> None:
    run.directory.record.write_text(json.dumps(RECORD | {"status": "running", "pid": pid, "pid_started_s": 1}))
    record = run.directory.read_record()
    assert record is not None and record.pid_started_s == 1.0
    assert liveness(record) == "crashed"


def test_a_record_of_a_newer_version(run: FakeRun) -> None:
    run.directory.record.write_text(json.dumps(RECORD | {"mood": "good"}))
    assert run.directory.read_record() == new_record_of(RECORD)


def new_record_of(body: dict[str, Any]) -> object:
    return replace(new_record(), **body)


# ------------------------------------------------------------------------------------------------------ events.jsonl


WRONG = [
    {"step": "x"},
    {"step": 1.0},
    {"loss": [1]},
    {"loss": True},
    {"lr": 3},
    {"lr": {"unet": "x"}},
    {"lr": {"unet": None}},
    {"samples": [{"image": 3, "timestep": 1, "loss": 0.1}]},
    {"samples": [{"image": "a", "timestep": 1}]},
    {"keys_scaled": "2"},
    {"t": "now"},
    {"t": None},
    {"kind": "nothing"},
    {"kind": ["step"]},
]


@pytest.mark.parametrize("changes", WRONG)
def test_an_event_with_wrong_values_is_none(run: FakeRun, changes: dict[str, object]) -> None:
    body = json.loads(encode(run.step(3)))
    assert decode(json.dumps(body)) is not None
    assert decode(json.dumps(body | changes)) is None


def test_values_that_are_right_stay_as_they_were(run: FakeRun) -> None:
    step = replace(run.step(3), loss=float("inf"), keys_scaled=2, mean_weight_norm=0.5)
    card = Card("x", None, 1, None, 60.0, None, None)
    for event in (step, Hardware(1.0, 2, 3, 4, [card])):
        timed = decode(encode(event, 5.0))
        assert timed is not None and timed.event == event and timed.time_s == 5.0
    whole = json.loads(encode(run.step(3))) | {"loss": 1, "lr": {"unet": 1}}  # as people and other languages write 1.0
    timed = decode(json.dumps(whole))
    assert timed is not None and isinstance(timed.event, Step) and timed.event.loss == 1


def test_torn_and_foreign_lines_between_events(run: FakeRun, tmp_path: Path) -> None:
    body = json.loads(encode(run.step(31)))
    lines = [json.dumps(body | changes) for changes in WRONG]
    with run.directory.events.open("ab") as file:
        file.write(bytes(range(256)) * 40 + b"\n[]\nnull\n1e999\n" + b"[" * 10_000 + b"\n" + "\n".join(lines).encode())
        file.write(b'\n{"v":1,"t":2,"kind":"phase","name":"\\u001b[2J[/b]","done":5,"total":-1}\n')
        file.write(b'{"v":1,"t":2,"kind":"finished","status":"elsewhere","step":1}\n')
    run.steps(10)
    with run.directory.events.open("ab") as file:
        file.write(encode(run.step(41)).encode()[:-20])  # torn

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            await viewer.until_shown("step 40/200", "● running")
            assert viewer.pane.follower is not None and viewer.pane.follower.is_up_to_date

    scenario(work)
    steps = [timed.event.step for timed in EventReader(run.directory.events).read() if isinstance(timed.event, Step)]
    assert steps == list(range(1, 41))


def test_the_start_before_a_place_in_the_events(run: FakeRun, tmp_path: Path) -> None:
    path = run.directory.events
    first = path.stat().st_size
    run.start(from_step=12)
    run.say(run.step(13))
    second = last_started(path, path.stat().st_size)
    assert second is not None and second.from_step == 12
    before = last_started(path, first)
    assert before is not None and before.from_step == 0
    (tmp_path / "empty").touch()
    assert last_started(path, 0) is None and last_started(tmp_path / "empty", 5) is None
    assert last_started(tmp_path / "none", 5) is None


# ------------------------------------------------------------------------------------------------- the rest of a run


def test_the_folder_is_deleted_while_it_is_looked_at(run: FakeRun, tmp_path: Path) -> None:
    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            await viewer.until_shown("step 30/200")
            shutil.rmtree(run.directory.path)
            await viewer.until_shown("✗ gone", "is not there any more")
            await viewer.type("p")
            await viewer.until_shown("Nobody would obey: the run is gone")
            await viewer.type("c")
            await viewer.until_shown("There is nothing to go on with: the run is gone")
            again = FakeRun(tmp_path)
            again.directory.path.rename(run.directory.path)
            await viewer.until_shown("○ not started")

    scenario(work)


@pytest.mark.parametrize("keys", ["ch", "cd", "o"])
@pytest.mark.parametrize("config", [b"\xff\xfe", b"[[[", b"[model]\nfamily = 3\n"])
def test_a_config_that_is_damaged(run: FakeRun, tmp_path: Path, keys: str, config: bytes) -> None:
    run.stand("stopped")
    run.directory.config.write_bytes(config)
    before = run.directory.read_record()

    async def work() -> None:
        async with open_run(tmp_path, (120, 40)) as viewer:
            await viewer.until_shown("step 30/200")
            await viewer.type(*keys)
            await viewer.until_shown("config.toml")
            assert viewer.app.own_run is None and viewer.shows("■ stopped")

    scenario(work)
    assert run.directory.read_record() == before


def test_a_run_of_another_machine_that_is_silent(run: FakeRun, tmp_path: Path) -> None:
    run.stand("running", host="[/b]\x1b[2Jelsewhere")
    record = run.directory.read_record()
    assert record is not None
    run.directory.write_record(replace(record, heartbeat_s=record.heartbeat_s - 7000))

    async def work() -> None:
        async with open_run(tmp_path, (120, 40)) as viewer:
            await viewer.until_shown("? silent", "on [/b]", "nothing heard for", "If it is gone, c goes on here")

    scenario(work)


def test_a_disk_so_full_that_there_is_no_event_of_it(run: FakeRun, tmp_path: Path) -> None:
    run.stand("paused", message="The disk is full: an event could not be written. Make room.")

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            await viewer.until_shown("‖ paused", "The disk is full: an event could not be written. Make room.")

    scenario(work)


def test_a_hostile_name(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.start()
    run.steps(5)
    run.sample("[/b] [@click=app.quit]x \x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}\nz")
    run.directory.path.rename(run.directory.path.with_name(HOSTILE_NAME))

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            await viewer.until_shown("step 5/200")
            for key in ("tab",) * 5:
                await viewer.type(key)
                assert viewer.shown()[0].startswith(" Loratory  [bold]x[@click=app.quit]'y")
            await viewer.type("R")
            await viewer.until_shown("▶    ● running")
            assert viewer.app.is_running

    scenario(work)


# -------------------------------------------------------------------------------------------------- beginning to run


def test_a_second_run_is_refused(run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def train(_: RunThread) -> None:
        ended.wait(30)

    monkeypatch.setattr(RunThread, "_train", train)

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            first = viewer.app.start(make_config(tmp_path))
            runs = set((tmp_path / "runs").iterdir())
            for start in start_again(viewer.app.start, viewer.app.resume, run, tmp_path):
                with pytest.raises(LoratoryError, match=f"trains {first.name} already") as refused:
                    start()
                assert "queue add" in refused.value.hint
            assert set((tmp_path / "runs").iterdir()) == runs
            ended.set()
            assert viewer.app.own_run is not None and viewer.app.own_run.wait(20)
            assert viewer.app.start(make_config(tmp_path)).path not in runs  # and after it, it is not

    run.stand("stopped")
    scenario(work)


def start_again(
    start: Callable[..., object], resume: Callable[..., object], run: FakeRun, root: Path
) -> list[Callable[[], object]]:
    return [lambda: start(make_config(root)), lambda: resume(run.directory, detached=False)]


def test_no_folder_can_be_made_for_a_run(run: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = make_config(tmp_path, output={"runs_dir": str(tmp_path / "file" / "runs")})

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            for start in (viewer.app.start, viewer.app.start_detached):
                with pytest.raises(LoratoryError, match="Cannot make a run directory"):
                    start(config)
            assert viewer.app.own_run is None and viewer.app.run_shown is not None
            assert viewer.app.run_shown.path == run.directory.path

    scenario(work)
