"""Measures `loratory prepare` against decoding alone, and how its memory grows.

    python bench/prepare.py                        # pictures of four kinds, 512 to 1,536 px; a few minutes
    python bench/prepare.py --memory 100 1000 10000

Makes pictures of random soft shapes with grain in a temporary folder. For each kind, decoding and preparing take turns,
three rounds of each, in one process: pictures per second of Pillow's decoding, of decoding and encoding alone, of the
first run, and of a run that finds everything made. With --memory, prints for each number of pictures of 64 px
the peak memory of this process and of its largest worker, each number in a process of its own.
"""

import argparse
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from loratory.preparation.desk import Desk
from loratory.preparation.make import encoded
from loratory.preparation.work import Options

# Name, ending, how it is saved, side in px, transparent, how many.
KINDS: tuple[tuple[str, str, dict[str, Any], int, bool, int], ...] = (
    ("PNG 512, copied", "png", {"compress_level": 4}, 512, False, 8),
    ("PNG 1024, transparent", "png", {"compress_level": 4}, 1024, True, 4),
    ("JPEG 1024", "jpg", {"quality": 92}, 1024, False, 4),
    ("WebP 1536", "webp", {"quality": 90, "method": 0}, 1536, False, 3),
)
ROUNDS = 3
SMALL_SIDE = 64


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, nargs="+", metavar="COUNT", help="measure memory instead")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        measure_memory(options.one, options.workers)
    elif options.memory:
        for count in options.memory:
            command = [sys.executable, __file__, "--one", str(count), "--workers", str(options.workers)]
            subprocess.run(command, check=True)
    else:
        for kind in KINDS:
            measure_speed(*kind, workers=options.workers)
    return 0


def draw(path: Path, seed: int, side: int, transparent: bool, settings: dict[str, Any]) -> None:
    """A soft picture with grain; a transparent one has a soft disc of opacity."""
    chance = np.random.default_rng(seed)
    channels = 4 if transparent else 3
    cells = Image.fromarray(chance.integers(0, 256, (7, 7, channels), np.uint8))
    soft = np.asarray(cells.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    grain = chance.normal(0, 3, (side, side, 1))
    Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(path, **settings)


def measure_speed(
    name: str, ending: str, settings: dict[str, Any], side: int, transparent: bool, count: int, *, workers: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw, train = Path(folder) / "Raw", Path(folder) / "train"
        raw.mkdir()
        for number in range(count):
            draw(raw / f"{number:05}.{ending}", number, side, transparent, settings)
        paths = sorted(raw.glob(f"*.{ending}"))
        runs: dict[str, list[float]] = {"decoding": [], "and encoding": [], "prepare": [], "again": []}
        for _ in range(ROUNDS):
            shutil.rmtree(train, ignore_errors=True)
            runs["decoding"].append(timed(lambda: decode_all(paths)))
            runs["and encoding"].append(timed(lambda: encode_all(paths)))
            runs["prepare"].append(timed(lambda: prepare(raw, train, workers)))
            runs["again"].append(timed(lambda: prepare(raw, train, workers)))
        print(f"{name}, {count} pictures")
        for label, taken_s in runs.items():
            print(f"  {label:13} {count / median(taken_s):8.1f} a second", flush=True)


def decode_all(paths: Sequence[Path]) -> None:
    for path in paths:
        with Image.open(path) as picture:
            picture.load()


def encode_all(paths: Sequence[Path]) -> None:
    """Decodes, and writes PNG into memory as preparing does."""
    for path in paths:
        with Image.open(path) as picture:
            io.BytesIO(encoded(picture.convert("RGB"), "PNG"))


def prepare(raw: Path, train: Path, workers: int) -> None:
    desk = Desk(raw, train)
    defaults = replace(desk.defaults, resolution=(64, 64))  # nothing is enlarged
    desk.set_up(replace(desk.book.prepare, token="thing", repeats=1), defaults)
    report = desk.build(options=Options(workers=workers))
    assert not report.failed, report.failed


def measure_memory(count: int, workers: int) -> None:
    # With two processes at least, so that a worker is one.
    workers = max(workers, 2)
    with tempfile.TemporaryDirectory() as folder:
        raw, train = Path(folder) / "Raw", Path(folder) / "train"
        raw.mkdir()
        drawn = min(count, 50)
        for number in range(count):
            path = raw / f"{number:05}.png"
            if number < drawn:
                draw(path, number, SMALL_SIDE, True, {})
            else:  # a byte more each, which decoders do not mind, so that no two are the same
                first = (raw / f"{number % drawn:05}.png").read_bytes()
                path.write_bytes(first + b"\0" * (number // drawn))
        with worker_peak() as worker_mb:
            taken_s = timed(lambda: prepare(raw, train, workers))
        again_s = timed(lambda: prepare(raw, train, workers))
    own, worker = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, worker_mb[0]
    print(
        f"{count} pictures of {SMALL_SIDE} px: {taken_s:.1f} s, again {again_s:.1f} s; peak {own:.0f} MB, "
        f"largest worker {worker:.0f} MB",
        flush=True,
    )


@contextmanager
def worker_peak() -> Generator[list[float]]:
    """The peak memory in MB of the largest child meanwhile.

    Asked of each child: what `getrusage` tells of children starts with the size that this process had at their birth.
    """
    peak, done = [0.0], Event()

    def watch() -> None:
        while not done.wait(0.05):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    for child in (task / "children").read_text().split():
                        status = Path(f"/proc/{child}/status").read_text()
                        held = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
                        peak[0] = max(peak[0], int(held.split()[1]) / 1024)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
