"""Compares upscalers with Lanczos on pictures, and measures what they take.

    python bench/upscaling.py PICTURES...                     # files or folders
    python bench/upscaling.py --upscaler default --upscaler 4x-UltraSharp.pth --factor 4 --jpeg 60 PICTURES...
    python bench/upscaling.py --out SHEETS PICTURES...        # also writes what to look at

Each picture is shrunk until its longest side is --side px: the original. That is shrunk by each factor, for --jpeg
saved as JPEG of that quality too, enlarged to its size again, and compared with the original:

psnr        dB over all channels; higher is closer px by px. Rewards blur where detail can only be guessed.
ssim        structural similarity of the brightness in windows of 8x8 px, 0 to 1; higher is closer.
gradient    mean difference of the brightness gradients in levels; lower means edges are where they were.
sharpness   length of all gradients against the original's; 1 is as sharp, less is blurred, more is exaggerated.
better      share of the pictures whose gradient is closer than that of Lanczos.

Then seconds for a million px of the small picture, and the most memory that the process took.
"""

import argparse
import io
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from PIL import Image

from loratory.imaging.pixels import open_rgb
from loratory.upscaling import open_upscaler

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}
WINDOW_PX = 8
LANCZOS = Image.Resampling.LANCZOS

Enlarge = Callable[[Image.Image, tuple[int, int]], Image.Image]


class Score(NamedTuple):
    psnr: float
    ssim: float
    gradient: float
    sharpness: float
    seconds_per_megapixel: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--upscaler", action="append", help="name or path; default and sharp unless given")
    parser.add_argument("--factor", action="append", type=int, help="2 and 4 unless given")
    parser.add_argument("--jpeg", action="append", type=int, help="quality, 0 for undamaged; 0 and 60 unless given")
    parser.add_argument("--side", type=int, default=512, help="longest side of the originals in px")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder for pictures side by side: all ways, then the original")
    options = parser.parse_args(arguments)

    ways: dict[str, Enlarge] = {"lanczos": lambda picture, size: picture.resize(size, LANCZOS)}
    for name in options.upscaler or ["default", "sharp"]:
        ways[Path(name).stem] = open_upscaler(name, options.device).enlarge
    paths = list(found(options.pictures))
    print(f"{len(paths)} pictures, longest side {options.side} px")
    print(f"{'':32}{'psnr':>8}{'ssim':>8}{'gradient':>10}{'sharpness':>11}{'better':>8}{'s/Mpx':>8}")
    for factor in options.factor or [2, 4]:
        for quality in [0, 60] if options.jpeg is None else options.jpeg:
            scores: dict[str, list[Score]] = {way: [] for way in ways}
            for path in paths:
                original = whole(open_rgb(path), options.side, factor)
                small = shrunk(original, factor, quality)
                made = {way: timed(enlarge, small, original, scores[way]) for way, enlarge in ways.items()}
                if options.out is not None:
                    options.out.mkdir(parents=True, exist_ok=True)
                    sheet = side_by_side([*made.values(), original])
                    sheet.save(options.out / f"{path.stem}-x{factor}-jpeg{quality}.png")
            for way, of_way in scores.items():
                better = np.mean([a.gradient < b.gradient for a, b in zip(of_way, scores["lanczos"], strict=True)])
                mean = Score(*np.mean(of_way, axis=0))
                label = f"x{factor}, {f'JPEG {quality}' if quality else 'clean'}, {way}"
                print(
                    f"{label:32}{mean.psnr:8.2f}{mean.ssim:8.4f}{mean.gradient:10.2f}{mean.sharpness:11.2f}"
                    f"{better:8.0%}{mean.seconds_per_megapixel:8.1f}",
                    flush=True,
                )
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    return 0


def found(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(inner for inner in path.rglob("*") if inner.suffix.lower() in SUFFIXES)
        else:
            yield path


def whole(picture: Image.Image, side: int, factor: int) -> Image.Image:
    """The picture with sides of at most `side` px that the factor divides."""
    picture.thumbnail((side, side), LANCZOS)
    width, height = (length - length % factor for length in picture.size)
    return picture.crop((0, 0, width, height))


def shrunk(original: Image.Image, factor: int, quality: int) -> Image.Image:
    size = (original.width // factor, original.height // factor)
    small = original.resize(size, Image.Resampling.BICUBIC)
    if not quality:
        return small
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def timed(enlarge: Enlarge, small: Image.Image, original: Image.Image, scores: list[Score]) -> Image.Image:
    started = perf_counter()
    made = enlarge(small, original.size)
    seconds = perf_counter() - started
    scores.append(compare(made, original)._replace(seconds_per_megapixel=seconds / (small.width * small.height / 1e6)))
    return made


def compare(made: Image.Image, original: Image.Image) -> Score:
    rgb, true = (np.asarray(picture, np.float64) for picture in (made, original))
    error = max(float(((rgb - true) ** 2).mean()), 1e-9)
    grey, true_grey = (np.asarray(picture.convert("L"), np.float64) for picture in (made, original))
    gradients, true_gradients = np.array(np.gradient(grey)), np.array(np.gradient(true_grey))
    length, true_length = (np.hypot(*pair).mean() for pair in (gradients, true_gradients))
    return Score(
        psnr=float(10 * np.log10(255**2 / error)),
        ssim=ssim(grey, true_grey),
        gradient=float(np.hypot(*(gradients - true_gradients)).mean()),
        sharpness=float(length / max(true_length, 1e-9)),
        seconds_per_megapixel=0.0,
    )


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al., 2004, with uniform windows; constants for 255 levels."""
    mean_a, mean_b = windows(a), windows(b)
    variance_a, variance_b = windows(a * a) - mean_a**2, windows(b * b) - mean_b**2
    covariance = windows(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())


def windows(values: np.ndarray) -> np.ndarray:
    """The mean of every window of 8x8 px."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    n = WINDOW_PX
    return (sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]) / n**2


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for column, picture in enumerate(pictures):
        sheet.paste(picture, (column * width, 0))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
