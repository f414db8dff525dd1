"""Logs for TensorBoard: what is in them, read by a decoder of our own and, where it is installed, by TensorBoard."""

import errno
import math
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from PIL import Image

from loratory.cli.run_tensorboard import run_tensorboard
from loratory.config.kohya.export import Model, export
from loratory.config.kohya.importing import import_file
from loratory.config.load import resolve
from loratory.config.schema import Config
from loratory.runs import tensorboard
from loratory.runs.events import Card, Event, Hardware, Sampled, SampleLoss, Started, Step, Validated, Weights
from loratory.runs.store import EventWriter, RunDirectory
from loratory.runs.tensorboard import Scalars, convert, following, picture_tag, record
from terminal import wait_for


class Logged(NamedTuple):
    time_s: float
    step: int
    tag: str
    value: float | bytes


def run_with(folder: Path, *events: Event) -> RunDirectory:
    run = RunDirectory.create(folder / "runs", "fox", "")
    write(run, *events)
    return run


def write(run: RunDirectory, *events: Event) -> None:
    writer = EventWriter(run.events)
    for event in events:
        writer.write(event)
    writer.close()


def started(from_step: int = 0, steps_per_epoch: int = 2) -> Started:
    return Started(from_step, 10, 5, steps_per_epoch, "cpu", "0")


def step(number: int, loss: float = 0.5, **changes: Any) -> Step:
    return Step(number, 1, loss, {"unet": 1e-4}, {"unet": 1e-4}, 0.25, 1.5, 0.5, **changes)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log, each proven by writing it again."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert record(body) == data[: 16 + length]
        yield body
        data = data[16 + length :]


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: whole numbers, floats or bytes."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    at = 0
    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        elif kind == 2:
            size = varint()
            yield number, data[at : at + size]
            at += size
        else:
            size, code = {1: (8, "<d"), 5: (4, "<f")}[kind]
            yield number, struct.unpack(code, data[at : at + size])[0]
            at += size


def logged(path: Path) -> list[Logged]:
    """What a log holds; where a process began again, what it purges has been taken out."""
    found: list[Logged] = []
    for body in records(path.read_bytes()):
        event = dict(fields(body))
        if 7 in event:
            found = [each for each in found if each.step < event.get(2, 0)]
        for number, value in fields(event.get(5, b"")):
            assert number == 1
            entry = dict(fields(value))
            content = dict(fields(entry[4]))[4] if 4 in entry else entry[2]
            found.append(Logged(event[1], event.get(2, 0), entry[1].decode(), content))
    return found


def values(path: Path, tag: str) -> list[tuple[int, float | bytes]]:
    return [(each.step, each.value) for each in logged(path) if each.tag == tag]


def config_with(folder: Path, log_with: str) -> Config:
    document = {
        "model": {"pretrained_model_name_or_path": "/m/base.safetensors"},
        "dataset": {"train_data_dir": "/m/set"},
        "output": {"log_with": log_with, "logging_dir": "logs"},
    }
    return resolve(document, folder / "config.toml")


def test_a_record_is_what_the_format_says() -> None:
    assert record(b"fox")[:8] == b"\x03" + bytes(7)
    # RFC 3720 B.4: the CRC-32C of 32 zero bytes is aa36918a, little-endian.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert record(bytes(32))[-4:] == struct.pack("<I", masked)


def test_numbers_of_a_step() -> None:
    scalars = Scalars()
    scalars.of(started())
    samples = [SampleLoss("10_fox/a.png", 500, 0.2), SampleLoss("10_fox/b.png", 500, math.nan)]
    event = step(1, 0.5, samples=samples, keys_scaled=3, mean_weight_norm=0.1, max_weight_norm=0.4)
    found = dict(scalars.of(event))
    assert found.pop("loss/normalised") > 0
    assert found == {
        "loss/current": 0.5,
        "loss/average": 0.5,
        "lr/unet": 1e-4,
        "gradient/norm": 0.25,
        "time/step_s": 1.5,
        "time/data_s": 0.5,
        "max_norm/keys_scaled": 3,
        "max_norm/average_key_norm": 0.1,
        "max_norm/max_key_norm": 0.4,
    }
    found = dict(scalars.of(Step(2, 1, math.nan, {"unet": 1.0}, {"unet": 2e-3}, 0.0, 1.0, 0.0)))
    assert math.isnan(found["loss/current"])
    assert found["loss/average"] == 0.5
    assert found["lr/d*lr/unet"] == 2e-3
    assert dict(scalars.of(step(3, 1.5)))["loss/average"] == 1.0
    assert dict(scalars.of(step(4, 2.5)))["loss/average"] == 2.0  # of the last epoch's two steps
    assert not any(tag.startswith("loss/") for tag, _ in scalars.of(step(5, 0.0))), "its pictures are left out"


def test_numbers_beside_the_steps() -> None:
    scalars = Scalars()
    assert scalars.of(Validated(4, 2, 0.3)) == [("loss/validation", 0.3)]
    assert scalars.of(Weights(4, {"unet": 2.0})) == [("weights/unet", 2.0)]
    card = Card("GPU", 90.0, 2_000_000_000, None, None, 120.0, None)
    found = dict(scalars.of(Hardware(50.0, 8_000_000_000, 16_000_000_000, 1_000_000_000, [card])))
    assert found == {
        "hardware/cpu_percent": 50.0,
        "hardware/ram_gb": 8.0,
        "hardware/process_gb": 1.0,
        "hardware/gpu0/load_percent": 90.0,
        "hardware/gpu0/memory_gb": 2.0,
        "hardware/gpu0/power_w": 120.0,
    }


@pytest.mark.parametrize(
    ("prompt", "index", "tag"),
    [
        ("fox, snow", 0, "samples/00 fox, snow"),
        ("a/b [/b] \x1b[31m é", 3, "samples/03 a_b __b_ __31m _"),
        ("x" * 200, 1, "samples/01 " + "x" * 60),
        ("fox", -1, "samples/asked for fox"),
        ("", 2, "samples/02"),
    ],
)
def test_tags_of_pictures_are_safe(prompt: str, index: int, tag: str) -> None:
    assert picture_tag(Sampled(1, 1, "samples/a.png", prompt, index)) == tag


def test_a_run_becomes_a_log(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1, 0.5), step(2, 0.25), Validated(2, 1, 0.75))
    picture = run.samples / "step00000002-00-42.png"
    Image.new("RGB", (24, 16), "red").save(picture)
    (tmp_path / "outside.png").write_bytes(picture.read_bytes())
    (run.samples / "link.png").symlink_to(tmp_path / "outside.png")
    write(
        run,
        Hardware(50.0, 1, 2, 1),
        Sampled(2, 1, "samples/step00000002-00-42.png", "fox [/b]"),
        Sampled(2, 1, "samples/gone.png", "gone", 1),
        Sampled(2, 1, "../../outside.png", "outside", 2),
        Sampled(2, 1, "samples/link.png", "outside", 3),
    )
    path, count = convert(run, tmp_path / "log")
    assert count == 9
    assert values(path, "loss/current") == [(1, 0.5), (2, 0.25)]
    assert values(path, "loss/validation") == [(2, 0.75)]
    assert values(path, "hardware/cpu_percent") == [(2, 50.0)]
    pictures = [each for each in logged(path) if each.tag.startswith("samples/")]
    assert [(each.step, each.tag, each.value) for each in pictures] == [
        (2, "samples/00 fox __b_", picture.read_bytes())
    ]


def test_steps_that_were_lost_are_purged(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1, 1.0), step(2, 2.0), step(3, 3.0), started(1), step(2, 4.0))
    path, _ = convert(run, tmp_path / "log")
    assert values(path, "loss/current") == [(1, 1.0), (2, 4.0)]


def test_an_earlier_log_is_replaced_and_others_stay(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1))
    folder = tmp_path / "log"
    first, _ = convert(run, folder)
    (folder / "events.out.tfevents.1.host.2").write_bytes(b"of another program")
    write(run, step(2))
    second, _ = convert(run, folder)
    assert not first.exists() or first == second
    assert sorted(path.name for path in folder.iterdir()) == sorted(["events.out.tfevents.1.host.2", second.name])
    assert [number for number, _ in values(second, "loss/current")] == [1, 2]


def test_foreign_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1))
    with run.events.open("ab") as file:
        file.write(b'nonsense\n\xff\xfe\n{"kind":"step","t":1,"step":"x","epoch":1,"loss":null,"lr":7}\n')
        file.write(b'{"kind":"step","t":1,"step":-5,"epoch":1,"loss":1e300,"lr":{},"effective_lr":{},')
        file.write(b'"grad_norm":1,"step_s":1,"data_s":0}\n{"kind":"step","t":1,"st')
    path, _ = convert(run, tmp_path / "log")
    assert values(path, "loss/current")[0] == (1, 0.5)
    assert values(path, "loss/current")[1][1] == math.inf


def test_a_run_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "FOLLOW_EVERY_S", 0.001)
    run = run_with(tmp_path, started(), step(1))
    said: list[str] = []
    config = config_with(tmp_path, "tensorboard")
    with following(run, config, said.append):
        write(run, *(step(number) for number in range(2, 50)))
    (path,) = (tmp_path / "logs" / run.name).iterdir()
    assert [number for number, _ in values(path, "loss/current")] == list(range(1, 50))
    with following(run, config, said.append):  # resumed
        write(run, started(40), *(step(number, 1.0) for number in range(41, 45)))
    (path,) = (tmp_path / "logs" / run.name).iterdir()
    assert [number for number, _ in values(path, "loss/current")] == list(range(1, 45))
    assert not said
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorboard"]


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    run = run_with(tmp_path, started(), step(1))
    said: list[str] = []
    with following(run, config_with(tmp_path, "tensorboard"), said.append):
        wait_for(lambda: said)
    (sentence,) = said
    assert "given up" in sentence
    assert "The run goes on." in sentence


def test_a_log_that_fails_when_the_run_has_said_its_last_word_adds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "FOLLOW_EVERY_S", 60.0)
    run = run_with(tmp_path, started(), step(1))
    monkeypatch.setattr(tensorboard.EventLog, "catch_up", Mock(side_effect=OSError(5, "Input/output error")))
    said: list[str] = []
    with following(run, config_with(tmp_path, "tensorboard"), said.append):
        pass
    assert not said


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "FOLLOW_EVERY_S", 0.001)
    monkeypatch.setattr(tensorboard, "RETRY_EVERY_S", 0.001)
    run = run_with(tmp_path, started(), step(1))
    catch_up, failed = tensorboard.EventLog.catch_up, []

    def without_room_at_first(log: tensorboard.EventLog) -> int:
        count = catch_up(log)
        if len(failed) < 2:
            failed.append(log.path)
            raise OSError(errno.ENOSPC, "No space left on device")
        return count

    monkeypatch.setattr(tensorboard.EventLog, "catch_up", without_room_at_first)
    said: list[str] = []
    with following(run, config_with(tmp_path, "tensorboard"), said.append):
        wait_for(lambda: len(failed) == 2)
        write(run, step(2))
    (path,) = (tmp_path / "logs" / run.name).iterdir()
    assert [number for number, _ in values(path, "loss/current")] == [1, 2] and not said


def test_nothing_is_logged_unasked(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1))
    with following(run, config_with(tmp_path, "none"), pytest.fail):
        pass
    assert not (tmp_path / "logs").exists()


def test_the_command(tmp_path: Path) -> None:
    run = run_with(tmp_path, started(), step(1))
    done = CliRunner().invoke(run_tensorboard, [str(run.path), "-o", str(tmp_path / "tb")])
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.strip())
    assert path.parent == tmp_path / "tb" / run.name
    assert values(path, "loss/current") == [(1, 0.5)]
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(run_tensorboard, [str(run.path), "-o", str(tmp_path / "file" / "x")])
    assert "cannot be written" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "log_with", "folder"),
    [
        ("--logging_dir /l", "tensorboard", "/l"),
        ("--logging_dir /l --log_with tensorboard", "tensorboard", "/l"),
        ("--logging_dir /l --log_with all", "tensorboard", "/l"),
        ("--logging_dir /l --log_with wandb", "none", "logs"),
        ("--log_with tensorboard", "none", "logs"),
    ],
)
def test_arguments_of_sd_scripts(tmp_path: Path, arguments: str, log_with: str, folder: str) -> None:
    path = tmp_path / "run.sh"
    path.write_text(f"accelerate launch train_network.py --pretrained_model_name_or_path /m/x {arguments}\n")
    imported = import_file(path)
    assert imported.is_faithful
    assert (imported.config.output.log_with, str(imported.config.output.logging_dir)) == (log_with, folder)
    assert len(imported.entries) == len(arguments.split()) // 2 + 1  # and the model


def test_the_settings_of_logs_go_to_sd_scripts_and_come_back(tmp_path: Path) -> None:
    written = export(config_with(tmp_path, "tensorboard"), Model("sd1"), 3, [])
    (tmp_path / "c.toml").write_text(written.config)
    output = import_file(tmp_path / "c.toml").config.output
    assert (output.log_with, output.logging_dir) == ("tensorboard", tmp_path / "logs")
    assert "logging_dir" not in export(config_with(tmp_path, "none"), Model("sd1"), 3, []).config


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    run = run_with(tmp_path, started(), step(1, 1.0), step(2, math.nan), step(3, 3.0), started(2), step(3, 0.5))
    Image.new("RGB", (24, 16), "red").save(run.samples / "a.png")
    write(run, Sampled(3, 1, "samples/a.png", "fox, é [/b]"))
    folder = convert(run, tmp_path / "log")[0].parent
    accumulator = event_accumulator.EventAccumulator(str(folder))
    accumulator.Reload()
    assert [(each.step, each.value) for each in accumulator.Scalars("loss/current") if each.step != 2] == [
        (1, 1.0),
        (3, 0.5),
    ]
    assert math.isnan(accumulator.Scalars("loss/current")[1].value)
    (picture,) = accumulator.Images("samples/00 fox, _ __b_")
    assert (picture.step, picture.width, picture.height) == (3, 24, 16)
    assert picture.encoded_image_string == (run.samples / "a.png").read_bytes()
