"""Measures the dashboard as a person meets it, in a pseudo-terminal, while the embedded model trains in its process.

    python bench/dashboard.py                        # all of it; about ten minutes
    python bench/dashboard.py --only keys bytes      # some of it
    python bench/dashboard.py --rounds 8 --steps 120

paint   seconds from the start of the process to the first screen of a run, a dataset and a config. Goal 0.5.
keys    milliseconds from a key to the end of what it draws (the list of keys, over the whole screen), while torch is
        imported and the engine built, and while it trains. Goal: 50 at the 95th percentile, and no answer later than
        100. In brackets: of it the processor time of the thread that draws, and without the time in which that thread
        was ready and other programs had the processor.
bytes   bytes a second that the screen of a run of 20 steps a second sends to its terminal while nobody types. Goal at
        120x40: 10 kB.
cost    seconds a step beside the open dashboard against `loratory train` without a terminal, in turn, so that a slow
        minute of the machine slows both; and the processor time a step, which other programs disturb less. Goal: 1.02.
"""

import argparse
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import psutil

import loratory
from loratory.config.load import dump_config, load_config
from loratory.runs.events import Card, Hardware, SampleLoss, Started, Step
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory

PROGRAM = [sys.executable, "-m", "loratory"]
WIDE, NARROW = (120, 40), (80, 24)
DEMO = Path(loratory.__file__).parent / "demo"
# So long after its last byte an answer is taken to be whole.
_SILENCE_S = 0.004
_SETTLING_STEPS = 8


class Screen:
    """The program in a pseudo-terminal, which a thread reads as fast as it writes."""

    def __init__(self, arguments: Sequence[str], size: tuple[int, int] = WIDE) -> None:
        self.started_s = time.perf_counter()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            # The size before the program: one that it has to be told of later makes it draw twice.
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            os.execv(sys.executable, [*PROGRAM, *arguments, "--preview", "half"])
        self.count = 0
        self.last_s = self.started_s
        self._said: deque[tuple[float, bytes]] = deque(maxlen=2000)
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the program has ended
            while data := os.read(self._terminal, 1 << 16):
                with self._news:
                    self.last_s = time.perf_counter()
                    self.count += len(data)
                    self._said.append((self.last_s, data))
                    self._news.notify_all()

    def wait_for(self, text: str, after_s: float = 0.0, within_s: float = 60.0) -> float:
        """When the last byte of `text`, which began to be written after `after_s`, had come."""
        limit = time.perf_counter() + within_s
        with self._news:
            while (found := self._find(text.encode(), after_s)) is None:
                left = limit - time.perf_counter()
                if left <= 0 or not self._reader.is_alive():
                    raise SystemExit(f"{text!r} never came; the screen said last:\n{self.plain()[-1500:]}")
                self._news.wait(min(left, 0.5))
        return found

    def _find(self, text: bytes, after_s: float) -> float | None:
        said = b""
        for time_s, data in self._said:
            if time_s >= after_s:
                said += data
                if text in said:
                    return time_s
        return None

    def plain(self) -> str:
        """What was written last, without the orders to the terminal."""
        with self._news:
            said = b"".join(data for _, data in self._said)[-20_000:].decode(errors="replace")
        return re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[^\[])", " ", said)

    def press(self, keys: str) -> float:
        """Writes `keys`; returns when."""
        now_s = time.perf_counter()
        os.write(self._terminal, keys.encode())
        return now_s

    def answer(self, keys: str, text: str) -> "Answer":
        """How long it takes from pressing `keys` until `text` and what is drawn with it has come."""
        cpu_before, robbed_before = self.scheduled_ms()
        pressed_s = self.press(keys)
        drawn_s = self.wait_for(text, pressed_s)
        while time.perf_counter() - self.last_s < _SILENCE_S:
            time.sleep(_SILENCE_S / 4)
        cpu, robbed = self.scheduled_ms()
        drawn_s = max(drawn_s, min(self.last_s, drawn_s + 2 * _SILENCE_S))
        return Answer(1000 * (drawn_s - pressed_s), cpu - cpu_before, robbed - robbed_before)

    def scheduled_ms(self) -> tuple[float, float]:
        """How long the program's first thread has computed, and has been ready to while the processors were taken."""
        try:
            computed, waited, _ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        except OSError:
            return 0.0, 0.0
        return int(computed) / 1e6, int(waited) / 1e6

    def close(self) -> None:
        """Ends the program, whatever it is doing."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._reader.join()
        os.close(self._terminal)


class Answer(NamedTuple):
    """Milliseconds from a key to the end of its answer. cpu_ms: of the thread that draws; robbed_ms: it had to wait for
    a processor."""

    ms: float
    cpu_ms: float
    robbed_ms: float


class Set:
    """Pictures, a config and its runs in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(DEMO, folder, dirs_exist_ok=True)
        self._number = 0

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def new_run(self, steps: int) -> RunDirectory:
        """A run that nobody has begun."""
        self._number += 1
        overrides = [
            f"training.max_train_steps={steps}",
            f"output.output_name=bench{self._number}",
            "output.state_every_n_steps=1000000",
        ]
        config = load_config(self.config, overrides)
        return RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))


def steps_of(run: RunDirectory) -> list[Step]:
    return [timed.event for timed in EventReader(run.events).read() if isinstance(timed.event, Step)]


def wait_until(condition: Callable[[], object], within_s: float = 300) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit("what was waited for never came")
        time.sleep(0.05)


def has(run: RunDirectory, kind: type) -> bool:
    return any(isinstance(timed.event, kind) for timed in EventReader(run.events).read())


# --- first paint ---


def measure_paint(material: Set, options: argparse.Namespace) -> None:
    run = material.new_run(10)
    subprocess.run([*PROGRAM, "train", "--resume", str(run.path)], check=True, capture_output=True)
    dataset = next(path for path in (material.folder / "pictures").iterdir() if path.is_dir())
    first = min(path.stem for path in dataset.iterdir() if path.suffix != ".txt")
    cases = {
        "run": (run.path, "Loratory"),
        "dataset": (dataset, first[:8]),
        "config": (material.config, "Loratory"),
    }
    for name, (path, text) in cases.items():
        taken: list[float] = []
        cpu: list[float] = []
        for _ in range(options.paints):
            screen = Screen([str(path)], NARROW)
            taken.append(screen.wait_for(text) - screen.started_s)
            cpu.append(sum(psutil.Process(screen.pid).cpu_times()[:2]))
            screen.close()
        print(
            f"first paint, {name:<8} median {median(taken):5.2f} s   longest {max(taken):5.2f} s   goal 0.5 s   "
            f"(processor {median(cpu):.2f} s)"
        )


# --- keys ---


def measure_keys(material: Set, options: argparse.Namespace) -> None:
    run = material.new_run(10_000)
    screen = Screen([str(run.path)], WIDE)
    screen.wait_for("Overview")
    wait_quiet(screen)
    turn = WholeScreens(screen)
    idle = [turn.next() for _ in range(options.presses // 2)]
    report_keys("before the start", idle)
    begin(screen)
    loading: list[Answer] = []
    while not has(run, Step):
        loading.append(turn.next())
    report_keys("while the engine loads", loading)
    wait_until(lambda: len(steps_of(run)) > _SETTLING_STEPS)
    report_keys("while it trains", [turn.next() for _ in range(options.presses)])
    screen.close()


class WholeScreens:
    """Opens the list of keys, which draws the whole screen; it is closed again without being timed."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def next(self) -> Answer:
        # A chart that changes would send the cells that changed, which hold no word whole.
        answer = self._screen.answer("?", "pause, or go on")
        self._screen.press("q")
        time.sleep(0.2)  # the dashboard has come back
        return answer


def report_keys(name: str, answers: Sequence[Answer]) -> None:
    if not answers:
        return
    taken, own = [answer.ms for answer in answers], [answer.ms - answer.robbed_ms for answer in answers]
    print(
        f"keys, {name:<24} median {median(taken):6.1f} ms   p95 {percentile(taken):6.1f}   longest {max(taken):6.1f}   "
        f"({len(answers)} keys)\n"
        f"{'':<30} [processor {median(answer.cpu_ms for answer in answers):.1f} ms; without what others took: "
        f"median {median(own):.1f}   p95 {percentile(own):.1f}   longest {max(own):.1f}]",
        flush=True,
    )


def wait_quiet(screen: Screen, silence_s: float = 0.7) -> None:
    while time.perf_counter() - screen.last_s < silence_s:
        time.sleep(0.05)


def begin(screen: Screen) -> None:
    """Has the run that is shown, which nobody has begun, trained in the program's own process."""
    screen.wait_for("Go on where?", screen.press("c"))
    screen.press("h")


# --- bytes ---


def measure_bytes(material: Set, options: argparse.Namespace) -> None:
    for size in (NARROW, WIDE):
        run = material.new_run(1_000_000)
        ended = threading.Event()
        writer = threading.Thread(target=pretend_to_train, args=(run, ended))
        writer.start()
        screen = Screen([str(run.path)], size)
        screen.wait_for("Overview")
        time.sleep(2)
        before, cpu_before, began_s = screen.count, screen.scheduled_ms()[0], time.perf_counter()
        time.sleep(options.seconds)
        taken_s = time.perf_counter() - began_s
        rate = (screen.count - before) / taken_s / 1000
        busy = (screen.scheduled_ms()[0] - cpu_before) / taken_s / 10
        screen.close()
        ended.set()
        writer.join()
        print(
            f"bytes, {size[0]}x{size[1]:<4} {rate:6.2f} kB/s   goal 10 kB/s at 120x40   "
            f"(drawing: {busy:.1f} % of a core)",
            flush=True,
        )


def pretend_to_train(run: RunDirectory, ended: threading.Event) -> None:
    """Writes what a run of 20 steps a second would, which no screen shows one by one: the most there is to draw."""
    chance = random.Random(7)
    card = Card("GPU", 95.0, 9_000_000_000, 24_000_000_000, 65.0, 300.0, 350.0)
    with Recorder(run) as recorder:
        recorder.write(Started(0, 1_000_000, 100, 10_000, "cuda", "0"))
        step = 0
        while not ended.wait(0.05):
            step += 1
            samples = [
                SampleLoss(f"10_fox/{chance.randrange(40)}.png", chance.randrange(1000), chance.uniform(0.05, 0.2))
                for _ in range(4)
            ]
            loss = sum(sample.loss for sample in samples) / 4
            rates = {"unet": 1e-4, "text_encoder": 5e-5}
            recorder.write(Step(step, 1, loss, rates, rates, chance.uniform(0.1, 0.3), 0.05, 0.001, samples))
            if step % 100 == 1:
                load = chance.uniform(80, 99)
                recorder.write(Hardware(load, 9_000_000_000, 32_000_000_000, 4_000_000_000, [replace(card, load=load)]))


# --- cost ---


class Round(NamedTuple):
    """wall_s, cpu_s: of a step. cpu_s: by all threads of the process, from one step's event to another's."""

    wall_s: float
    cpu_s: float


def measure_cost(material: Set, options: argparse.Namespace) -> None:
    pairs: list[tuple[Round, Round]] = []
    for number in range(options.rounds):
        # Whoever comes second finds a warmer or a more tired machine: they take turns at that as well.
        order = [headless_round, dashboard_round] if number % 2 == 0 else [dashboard_round, headless_round]
        done = {work: work(material.new_run(options.steps + 10_000), options.steps) for work in order}
        pairs.append((done[headless_round], done[dashboard_round]))
        alone, beside = pairs[-1]
        print(
            f"round {number + 1}: headless {1000 * alone.wall_s:.1f} ms a step, processor {1000 * alone.cpu_s:.1f}; "
            f"dashboard {1000 * beside.wall_s:.1f} and {1000 * beside.cpu_s:.1f}",
            flush=True,
        )
    for name, ratios in (
        ("seconds a step", [beside.wall_s / alone.wall_s for alone, beside in pairs]),
        ("processor time a step", [beside.cpu_s / alone.cpu_s for alone, beside in pairs]),
    ):
        print(
            f"cost, {name:<22} x{median(ratios):.3f}   from {min(ratios):.3f} to {max(ratios):.3f} "
            f"in {len(ratios)} rounds   goal 1.02"
        )


def headless_round(run: RunDirectory, steps: int) -> Round:
    program = subprocess.Popen(
        [*PROGRAM, "train", "--resume", str(run.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return timed_steps(run, program.pid, steps)
    finally:
        program.kill()
        program.wait()


def dashboard_round(run: RunDirectory, steps: int) -> Round:
    screen = Screen([str(run.path)], WIDE)
    try:
        screen.wait_for("Overview")
        wait_quiet(screen)
        begin(screen)
        return timed_steps(run, screen.pid, steps)
    finally:
        screen.close()


def timed_steps(run: RunDirectory, pid: int, steps: int) -> Round:
    """What a step costs the process that trains `run`, over `steps` of them."""
    process = psutil.Process(pid)
    wait_until(lambda: len(steps_of(run)) > _SETTLING_STEPS)
    first, cpu_before = len(steps_of(run)), sum(process.cpu_times()[:2])
    wait_until(lambda: len(steps_of(run)) >= first + steps)
    last, cpu_after = len(steps_of(run)), sum(process.cpu_times()[:2])
    return Round(mean(step.step_s for step in steps_of(run)[first:last]), (cpu_after - cpu_before) / (last - first))


PARTS = {"paint": measure_paint, "keys": measure_keys, "bytes": measure_bytes, "cost": measure_cost}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="loratory-bench-") as folder:
        os.environ |= {
            "LORATORY_HOME": f"{folder}/home",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "OMP_NUM_THREADS": str(options.threads),
        }
        material = Set(Path(folder) / "work")
        for name in options.only or PARTS:
            PARTS[name](material, options)
    return 0


def percentile(values: Sequence[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure; left out, all")
    parser.add_argument("--paints", type=int, default=5, help="starts of the program for the first paint, each")
    parser.add_argument("--presses", type=int, default=100, help="keys pressed while it trains")
    parser.add_argument("--seconds", type=float, default=30, help="for which bytes are counted, each")
    parser.add_argument("--rounds", type=int, default=6, help="of training with and without the dashboard")
    parser.add_argument("--steps", type=int, default=80, help="of each round that are counted")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one leaves the screen a core of its own")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
