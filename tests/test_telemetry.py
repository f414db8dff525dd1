"""What the machine does while it trains: the cards as their driver tells of them, and the beat beside the work."""

import threading
import time
import types
from pathlib import Path

import psutil
import pytest

from loratory.runs.events import Card, Hardware
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory
from loratory.telemetry import cards, hardware
from loratory.telemetry.cards import read_cards, visible_handles
from loratory.telemetry.hardware import Beat, snapshot

UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


class NvmlError(Exception):
    pass


def fake_nvml(**refused: bool) -> types.SimpleNamespace:
    """A driver with three cards whose handles are their numbers; functions named in `refused` are not supported."""
    nvml = types.SimpleNamespace(NVMLError=NvmlError, NVML_TEMPERATURE_GPU=0)
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}",
        "nvmlDeviceGetHandleByUUID": lambda name: f"part {name}",
        "nvmlDeviceGetUUID": lambda handle: UUIDS[int(handle[-1])],
        "nvmlDeviceGetName": lambda handle: f"NVIDIA {handle}".encode(),
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=97, memory=40),
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(used=6_000, total=12_000, free=6_000),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 71,
        "nvmlDeviceGetPowerUsage": lambda handle: 169_500,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 170_000,
    }

    def refusing(*_: object) -> None:
        raise NvmlError("Not Supported")

    for name, answer in answers.items():
        setattr(nvml, name, refusing if refused.get(name) else answer)
    return nvml


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(cards.sys.modules, "torch", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def with_nvml(monkeypatch: pytest.MonkeyPatch, nvml: object) -> None:
    monkeypatch.setattr(cards, "_nvml", lambda: nvml)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["card 0", "card 1", "card 2"]),
        ("", []),
        ("2, 0", ["card 2", "card 0"]),
        ("1,-1,0", ["card 1"]),
        ("0,7,1", ["card 0"]),
        ("GPU-bbbb", ["card 2"]),
        ("GPU-aaaa", []),  # two begin so
        ("MIG-5,1", ["part MIG-5", "card 1"]),
        ("NoDevFiles", []),
    ],
)
def test_only_the_cards_that_cuda_sees(named: str | None, expected: list[str]) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert visible_handles(fake_nvml(), environment) == expected


@pytest.mark.usefixtures("no_torch")
def test_what_a_card_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with_nvml(monkeypatch, fake_nvml())
    assert read_cards() == [Card("NVIDIA card 1", 97.0, 6_000, 12_000, 71.0, 169.5, 170.0)]


@pytest.mark.usefixtures("no_torch")
def test_what_the_driver_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    silent = ["UtilizationRates", "MemoryInfo", "Temperature", "PowerUsage", "EnforcedPowerLimit", "Name"]
    with_nvml(monkeypatch, fake_nvml(**{f"nvmlDeviceGet{name}": True for name in silent}))
    assert read_cards() == [Card("GPU", None, None, None, None, None, None)]


@pytest.mark.usefixtures("no_torch")
def test_a_driver_that_fails_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml(monkeypatch, fake_nvml(nvmlDeviceGetCount=True))
    assert read_cards() == []


@pytest.mark.parametrize("module", [None, fake_nvml(nvmlInit=True)])
def test_no_package_or_no_driver_is_no_card(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(cards.sys.modules, "pynvml", module)
    assert cards._nvml.__wrapped__() is None
    monkeypatch.setitem(cards.sys.modules, "pynvml", fake_nvml())
    assert cards._nvml.__wrapped__() is not None


def test_the_cards_that_torch_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's first card is the fastest, which may be in any slot."""
    with_nvml(monkeypatch, fake_nvml())
    order = ["bbbb3333", "aaaa1111", "aaaa2222"]
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 3,
        get_device_properties=lambda index: types.SimpleNamespace(uuid=order[index]),
    )
    monkeypatch.setitem(cards.sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert [card.name for card in read_cards()] == ["NVIDIA card 2"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [card.name for card in read_cards()] == ["NVIDIA card 2", "NVIDIA card 0"]
    cuda.is_initialized = lambda: False
    assert read_cards() == []
    monkeypatch.setitem(cards.sys.modules, "torch", types.SimpleNamespace())  # another thread is importing it
    assert read_cards() == []


def test_the_machine_now() -> None:
    now = snapshot()
    assert now.ram_total_bytes == psutil.virtual_memory().total
    assert 0 < now.process_bytes < now.ram_total_bytes and 0 < now.ram_bytes <= now.ram_total_bytes
    assert 0 <= now.cpu <= 100


def test_the_beat_tells_of_the_machine_until_it_is_left(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "fox", "")
    reader, seen = EventReader(run.events), []
    with Recorder(run) as recorder:
        before = run.read_record().heartbeat_s
        with Beat(recorder, every_s=0.01):
            deadline = time.monotonic() + 20
            while len(seen) < 3 and time.monotonic() < deadline:
                seen += [timed.event for timed in reader.read()]
            assert any(thread.name == "telemetry" and thread.daemon for thread in threading.enumerate())
        assert not any(thread.name == "telemetry" for thread in threading.enumerate())
        assert run.read_record().heartbeat_s > before
    assert len(seen) >= 3 and all(isinstance(event, Hardware) for event in seen)


def test_the_beat_does_not_hold_up_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs in a call, and answers when the run's file is closed."""
    answering, asked, told = threading.Event(), threading.Event(), snapshot()

    def hanging() -> Hardware:
        asked.set()
        answering.wait(20)
        return told

    monkeypatch.setattr(hardware, "snapshot", hanging)
    monkeypatch.setattr(hardware, "_LEAVES_AFTER_S", 0.01)
    run = RunDirectory.create(tmp_path, "fox", "")
    with Recorder(run) as recorder, Beat(recorder, every_s=0.01) as beat:
        assert asked.wait(20)
    answering.set()
    beat._thread.join(20)
    assert not beat._thread.is_alive() and EventReader(run.events).read() == []
