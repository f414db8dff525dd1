"""Measures the survey of pictures: what one look costs against decoding alone, and how memory grows.

    python bench/survey.py                             # 2,000 pictures of 512 to 1,024 px; some minutes
    python bench/survey.py --count 100 1000 10000 --side 256

Makes pictures in a temporary folder (soft shapes with grain, every other one on a white ground; JPEG, PNG and WebP in
turn). Then, in a process of its own, decodes them with Pillow alone and surveys them, in turn and in as many processes,
a part at a time so that both meet the same load of the machine; last, surveys all again with what was kept. Prints
pictures per second, processor time, and the peak memory of that process and of its largest worker (Linux).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from loratory.imaging.similarity import near_duplicates
from loratory.imaging.survey import survey
from loratory.imaging.workers import mapped

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("jpg", {"quality": 90}),
    ("png", {"compress_level": 3}),
    ("webp", {"quality": 85, "method": 0}),
)
PARTS = 5


class Cost(NamedTuple):
    """Seconds by the clock, and of processors in this process and its workers."""

    clock_s: float
    processor_s: float

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.clock_s + other.clock_s, self.processor_s + other.processor_s)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.measure:
        measure(sorted(options.measure.iterdir()), options.workers, alike=options.alike)
        return 0
    given = [each for each in (sys.argv[1:] if arguments is None else arguments) if each == "--alike"]
    for count in options.count:
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder) / "pictures"
            pictures.mkdir()
            make_pictures(pictures, count, options.side, options.different)
            command = [sys.executable, __file__, "--measure", str(pictures), *given]
            workers = [] if options.workers is None else ["--workers", str(options.workers)]
            home = {"LORATORY_HOME": str(Path(folder) / "home")}
            subprocess.run([*command, *workers], check=True, env=os.environ | home)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[2000])
    parser.add_argument("--side", type=int, default=None, help="longest side in px; from 512 to 1,024 by default")
    parser.add_argument(
        "--different", type=int, default=60, help="how many are drawn; the others are their bytes again"
    )
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--alike", action="store_true", help="also times the search for near-duplicates")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="only measures, with the pictures in FOLDER")
    return parser.parse_args(arguments)


def make_pictures(folder: Path, count: int, side: int | None, different: int) -> None:
    """Copies are files of their own with a trailing byte more each, which decoders do not mind, so that no two have the
    same bytes."""
    chance = np.random.default_rng(5)
    paths: list[Path] = []
    for number in range(count):
        ending, settings = KINDS[number % len(KINDS)]
        path = folder / f"{number:05}.{ending}"
        if number < different:
            longest = side or int(chance.integers(512, 1025))
            picture = drawn(chance, (longest, longest * 3 // 4) if number % 4 < 2 else (longest * 3 // 4, longest))
            if number % 2:
                mask = Image.new("L", picture.size)
                ImageDraw.Draw(mask).ellipse((0.2 * mask.width, 30, 0.7 * mask.width, mask.height - 30), fill=255)
                picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), mask)
            picture.save(path, **settings)
        else:
            path.write_bytes(paths[number % (different // 3 * 3)].read_bytes() + b"\0" * (number // different))
        paths.append(path)


def drawn(chance: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft shapes with a little grain; size: (width, height) in px."""
    cells = Image.fromarray(chance.integers(0, 256, (7, 7, 3), np.uint8))
    soft = np.asarray(cells.resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = chance.normal(0, 3, (size[1], size[0], 1))
    return Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8))


def decode(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def measure(paths: Sequence[Path], workers: int | None, *, alike: bool) -> None:
    # Found by its module in the other processes, which the main module is not.
    sys.path.insert(0, str(Path(__file__).parent))
    from survey import decode as decode_there

    decoding, cold, worker_mb = Cost(0, 0), Cost(0, 0), 0.0
    for part in range(PARTS):
        some = paths[part::PARTS]
        decoding += consume(mapped(decode_there, some, workers=workers))[0]
        cost, peak_mb = consume(survey(some, workers=workers))
        cold, worker_mb = cold + cost, max(worker_mb, peak_mb)
    warm = consume(survey(paths, workers=workers))[0]
    own_mb = peak_of(os.getpid())
    print(f"{len(paths)} pictures")
    for label, cost in (("decoding alone", decoding), ("survey", cold), ("survey again", warm)):
        rate, each_ms = len(paths) / cost.clock_s, 1000 * cost.processor_s / len(paths)
        print(f"  {label:15} {cost.clock_s:7.2f} s, {rate:7.0f} a second, {each_ms:6.2f} ms of a processor each")
    ratios = cold.clock_s / decoding.clock_s, cold.processor_s / decoding.processor_s
    print(f"  ratio           {ratios[0]:7.2f} by the clock, {ratios[1]:.2f} of processors")
    print(f"  peak memory     {own_mb:7.0f} MB, largest worker {worker_mb:.0f} MB", flush=True)
    if alike:
        kept = [facts for _, facts in survey(paths, workers=workers)]
        started = perf_counter()
        near_duplicates(kept)
        print(f"  near duplicates {perf_counter() - started:7.2f} s", flush=True)


def consume(results: Iterable[object]) -> tuple[Cost, float]:
    """What it costs to go through all results, and the peak memory of the largest worker in MB."""
    started, busy_s, worker_mb = perf_counter(), processor_s(), 0.0
    for number, _ in enumerate(results):
        if number % 20 == 0:
            worker_mb = max([worker_mb, *(peak_of(worker) for worker in children())])
    return Cost(perf_counter() - started, processor_s() - busy_s), worker_mb


def processor_s() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def children() -> list[int]:
    me = os.getpid()
    return [int(each) for each in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def peak_of(process: int) -> float:
    """MB; not by getrusage, where a child begins with the peak of what started it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
