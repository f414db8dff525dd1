"""Measures the survey of pictures: what one look costs against decoding alone, and how memory grows.

    python bench/survey.py                        # 2,000 pictures; a few minutes
    python bench/survey.py --count 100 1000 10000 --side 512

Makes pictures of random soft shapes with grain in a temporary folder (JPEG, PNG and WebP in turn), surveys them without
and with what the first survey kept, and decodes them with Pillow alone in as many processes. Prints pictures per second
and the peak memory of this process and of its largest worker.
"""

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from loratory.imaging.duplicates import near_duplicates
from loratory.imaging.facts import PictureFacts
from loratory.imaging.survey import survey
from loratory.imaging.workers import mapped

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("jpg", {"quality": 90}),
    ("png", {"compress_level": 3}),
    ("webp", {"quality": 85, "method": 0}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    for count in options.count:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LORATORY_HOME"] = str(Path(folder) / "home")
            paths = make_pictures(Path(folder), count, options.side, options.different)
            measure(paths, options.workers)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[2000])
    parser.add_argument("--side", type=int, default=768, help="width and height in px")
    parser.add_argument(
        "--different", type=int, default=60, help="how many are drawn; the others are their bytes again"
    )
    parser.add_argument("--workers", type=int, default=None)
    return parser.parse_args(arguments)


def make_pictures(folder: Path, count: int, side: int, different: int) -> list[Path]:
    """Copies are files of their own with a trailing byte more each, which decoders do not mind, so that no two have the
    same bytes."""
    chance = np.random.default_rng(5)
    paths: list[Path] = []
    for number in range(count):
        ending, settings = KINDS[number % len(KINDS)]
        path = folder / f"{number:05}.{ending}"
        if number < different:
            cells = Image.fromarray(chance.integers(0, 256, (7, 7, 3), np.uint8))
            soft = np.asarray(cells.resize((side, side), Image.Resampling.BICUBIC), np.float32)
            grain = chance.normal(0, 3, (side, side, 1))
            Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(path, **settings)
        else:
            path.write_bytes(paths[number % (different // 3 * 3)].read_bytes() + b"\0" * (number // different))
        paths.append(path)
    return paths


def decode(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def measure(paths: Sequence[Path], workers: int | None) -> None:
    # Found by its module in the other processes, which the main module is not.
    sys.path.insert(0, str(Path(__file__).parent))
    from survey import decode as decode_there

    kept: list[PictureFacts] = []
    decoding_s = timed(lambda: consume(mapped(decode_there, paths, workers=workers)))
    cold_s = timed(lambda: consume(survey(paths, workers=workers)))
    own_mb, worker_mb = peak_mb(resource.RUSAGE_SELF), peak_mb(resource.RUSAGE_CHILDREN)
    warm_s = timed(lambda: kept.extend(facts for _, facts in survey(paths, workers=workers)))
    comparing_s = timed(lambda: near_duplicates(kept))
    print(f"{len(paths)} pictures")
    for label, taken_s in (("decoding alone", decoding_s), ("survey", cold_s), ("survey again", warm_s)):
        print(f"  {label:15} {taken_s:7.2f} s, {len(paths) / taken_s:7.0f} a second")
    print(f"  ratio           {cold_s / decoding_s:7.2f}")
    print(f"  near duplicates {comparing_s:7.2f} s")
    print(f"  peak memory     {own_mb:7.0f} MB, largest worker {worker_mb:.0f} MB", flush=True)


def consume(results: Iterable[object]) -> None:
    for _ in results:
        pass


def timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def peak_mb(whose: int) -> float:
    return resource.getrusage(whose).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
