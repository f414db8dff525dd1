"""A run's events as a log that TensorBoard shows, beside the run or after it.

The log is a file of records (TFRecord) of `tensorflow.Event` messages in the encoding of Protocol Buffers; the few
fields that are used are written here, so that no run needs TensorBoard's packages. Scalars that sd-scripts logs have
its tags, so that old and new charts lie over each other.
"""

import logging
import math
import os
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loratory.config.schema import Config
from loratory.runs.diagnosis import TimestepNorm
from loratory.runs.events import Event, Hardware, Sampled, Started, Step, Timed, Validated, Weights
from loratory.runs.store import EventReader, RunDirectory, is_full_disk

FOLLOW_EVERY_S = 1.0
RETRY_EVERY_S = 10.0
# A log on a network disk that hangs must not keep a run that is done from ending.
_LAST_WAIT_S = 30.0
_ENDING = ".loratory"
_LONGEST_PROMPT = 60


@contextmanager
def following(run: RunDirectory, config: Config, tell: Callable[[str], None]) -> Generator[None]:
    """Writes the log of `run` while the body trains it, if `output.log_with` asks for one.

    In a thread that reads the run's events: the training neither knows nor waits. On a full disk the log is written
    anew when there is room. One that cannot be written is given up with one sentence to `tell`, which is called in that
    thread while the body goes on, and not after. When the body ends, what is left is written.
    """
    if config.output.log_with != "tensorboard":
        yield
        return
    ended = threading.Event()

    def follow() -> None:
        is_last = False
        while True:
            try:
                with EventLog(run, config.output.logging_dir / run.name) as log:
                    while not ended.wait(FOLLOW_EVERY_S):
                        log.catch_up()
                    log.catch_up()
                return
            except Exception as error:
                if is_full_disk(error) and not is_last:
                    is_last = ended.wait(RETRY_EVERY_S)
                    continue
                logging.getLogger(__name__).exception("the log for TensorBoard")
                reason = (error.strerror if isinstance(error, OSError) else None) or error
                if not ended.is_set():  # nothing follows a run's last word
                    tell(f"The log for TensorBoard cannot be written and is given up: {reason}. The run goes on.")
                return

    thread = threading.Thread(target=follow, name="tensorboard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LAST_WAIT_S)


class EventLog:
    """Writes a run's events into a new log in `folder`; use as a context manager. Raises OSError.

    An earlier log of ours there is replaced: it is made of the same events, and a process that was killed left it
    without its end. Files of others are left alone.
    """

    def __init__(self, run: RunDirectory, folder: Path) -> None:
        self._run = run
        self._reader = EventReader(run.events)
        self._scalars = Scalars()
        self._step = 0
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"events.out.tfevents.*{_ENDING}"):
            earlier.unlink(missing_ok=True)
        # The time first: TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}{_ENDING}"
        self.path = folder / name
        self._file = self.path.open("wb")
        now_s = time.time()
        self._write(_message(now_s, 0, _text(3, "brain.Event:2")))
        # Whoever is showing an earlier log forgets it.
        self._write(_message(now_s, 0, _SESSION_START))

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def catch_up(self) -> int:
        """Writes the events that are new; returns how many."""
        count = 0
        for timed in self._reader.events():
            try:
                self._add(timed)
            except (TypeError, ValueError, AttributeError, OverflowError, struct.error):
                continue  # a foreign line, with values of another kind than they should be
            count += 1
        if count:
            self._file.flush()
        return count

    def _add(self, timed: Timed) -> None:
        match timed.event:
            case Started(from_step=step):
                if step < self._step:
                    # Steps beyond were lost with their process and come again.
                    self._write(_message(timed.time_s, step + 1, _SESSION_START))
                self._step = step
            case Step(step=step):
                self._step = step
            case Sampled() as sampled:
                self._add_picture(timed.time_s, sampled)
            case _:
                pass
        values = [_scalar(tag, value) for tag, value in self._scalars.of(timed.event)]
        if values:
            self._write(_message(timed.time_s, self._step, _field(5, b"".join(values))))

    def _add_picture(self, time_s: float, sampled: Sampled) -> None:
        data = _png(self._run, sampled.path)
        if data is not None:
            value = _picture(picture_tag(sampled), data)
            self._write(_message(time_s, sampled.step, _field(5, value)))

    def _write(self, message: bytes) -> None:
        self._file.write(record(message))


def convert(run: RunDirectory, folder: Path) -> tuple[Path, int]:
    """Writes the log of a run as it is now into `folder`: the file, and how many events it was made of."""
    with EventLog(run, folder) as log:
        return log.path, log.catch_up()


class Scalars:
    """The numbers of a run's events by their tags."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=1)
        self._norm = TimestepNorm()

    def of(self, event: Event) -> list[tuple[str, float]]:
        """(tag, value) of each number in `event`; those of a Hardware belong to the last step before it.

        `loss/average` is the mean of the last epoch's steps, as sd-scripts has it, without those that are no number;
        `loss/normalised` that of a step's pictures, each relative to the usual one at its timestep.
        """
        match event:
            case Started(steps_per_epoch=count):
                self._recent = deque(self._recent, maxlen=max(1, count))
                return []
            case Step():
                return [*self._losses(event), *_of_step(event)]
            case Validated(loss=loss):
                return [("loss/validation", loss)]
            case Weights(norms=norms):
                return [(f"weights/{part}", norm) for part, norm in norms.items()]
            case Hardware():
                return list(_of_hardware(event))
            case _:
                return []

    def _losses(self, step: Step) -> Iterator[tuple[str, float]]:
        if step.is_empty:
            return
        yield "loss/current", step.loss
        if math.isfinite(step.loss):
            self._recent.append(step.loss)
        if self._recent:
            yield "loss/average", sum(self._recent) / len(self._recent)
        known = [self._norm.add(each.timestep, each.loss) for each in step.samples if math.isfinite(each.loss)]
        if known:
            yield "loss/normalised", sum(known) / len(known)


def _of_step(step: Step) -> Iterator[tuple[str, float]]:
    for part, rate in step.lr.items():
        yield f"lr/{part}", rate
    for part, rate in step.effective_lr.items():
        if rate != step.lr.get(part):
            yield f"lr/d*lr/{part}", rate
    yield "gradient/norm", step.grad_norm
    yield "time/step_s", step.step_s
    yield "time/data_s", step.data_s
    if step.keys_scaled is not None:
        yield "max_norm/keys_scaled", step.keys_scaled
    if step.mean_weight_norm is not None:
        yield "max_norm/average_key_norm", step.mean_weight_norm
    if step.max_weight_norm is not None:
        yield "max_norm/max_key_norm", step.max_weight_norm


def _of_hardware(hardware: Hardware) -> Iterator[tuple[str, float]]:
    yield "hardware/cpu_percent", hardware.cpu
    yield "hardware/ram_gb", hardware.ram_bytes / 1e9
    yield "hardware/process_gb", hardware.process_bytes / 1e9
    for number, card in enumerate(hardware.cards):
        memory_gb = None if card.memory_bytes is None else card.memory_bytes / 1e9
        known = {
            "load_percent": card.load,
            "memory_gb": memory_gb,
            "temperature_c": card.temperature_c,
            "power_w": card.power_w,
        }
        for name, value in known.items():
            if value is not None:
                yield f"hardware/gpu{number}/{name}", value


def picture_tag(sampled: Sampled) -> str:
    """The tag of a picture: the number of its prompt and, in letters that every reader of logs takes, the prompt."""
    words = re.sub(r"[^\w ,.()-]", "_", sampled.prompt, flags=re.ASCII).strip()[:_LONGEST_PROMPT].strip()
    number = "asked for" if sampled.index < 0 else f"{sampled.index:02d}"
    return f"samples/{number} {words}".rstrip()


def _png(run: RunDirectory, name: str) -> bytes | None:
    """A PNG file in the run's folder; None where it has gone, is none or lies elsewhere."""
    try:
        path = (run.path / name).resolve()
        if not path.is_relative_to(run.path.resolve()):
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    return data if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 else None


# Protocol Buffers: a field is its number and wire type, then a varint (type 0), 8 bytes (1), a length and as many bytes
# (2) or 4 bytes (5). Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7. Summary: value 1. Value:
# tag 1, simple_value 2, image 4. Image: height 1, width 2, colorspace 3, encoded 4. SessionLog: status 1, START is 1.


def _varint(number: int) -> bytes:
    low = bytearray()
    number &= 2**64 - 1  # a negative one is its two's complement
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    low.append(number)
    return bytes(low)


def _whole(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode("utf-8", "replace"))


_SESSION_START = _field(7, _whole(1, 1))


def _message(time_s: float, step: int, content: bytes) -> bytes:
    """An Event. step: from 0."""
    return b"\x09" + struct.pack("<d", time_s) + _whole(2, step) + content


def _scalar(tag: str, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", math.copysign(math.inf, value))
    return _field(1, _text(1, tag) + b"\x15" + packed)


def _picture(tag: str, png: bytes) -> bytes:
    width, height = struct.unpack(">II", png[16:24])
    image = _whole(1, height) + _whole(2, width) + _whole(3, 3) + _field(4, png)
    return _field(1, _text(1, tag) + _field(4, image))


def record(data: bytes) -> bytes:
    """`data` as a TFRecord: its length and itself, each with its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> Iterable[int]:
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)  # CRC-32C (Castagnoli), reflected
        yield number


_CRC = tuple(_crc_table())
