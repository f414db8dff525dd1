"""Measures the background detector and the quality measures on real pictures that were labelled by eye.

    python bench/detector.py FOLDER              # about a minute
    python bench/detector.py FOLDER --quality    # the quality measures too, some minutes

FOLDER holds one folder for each package named in tests/data/background_labels.csv, unpacked (docs/detector.md tells
which and how). Prints precision, recall and every mistake, for the half that the thresholds were chosen on and for the
half that they were not. Files that are missing or have another checksum are counted and left out.
"""

import argparse
import csv
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from loratory.imaging import quality
from loratory.imaging.background import find_ground_and_figures, suggested_crop

LABELS = Path(__file__).parent.parent / "tests" / "data" / "background_labels.csv"
UNSURE = ("?", "-")
PHOTOS = ("gnome-backgrounds", "mate-backgrounds", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")
Image.MAX_IMAGE_PIXELS = None

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", action="store_true")
    options = parser.parse_args(arguments)
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [row for row in rows if is_there(row, options.folder)]
    print(f"{len(found)} of {len(rows)} pictures are there")
    for half in ("tuned", "unseen"):
        chosen = [row for row in found if row["half"] == half]
        print(f"\n{half}: {len(chosen)} pictures")
        measure_detector(chosen, options.folder)
        if options.quality:
            measure_quality(chosen, options.folder)
    return 0 if found else 1


def measure_detector(rows: Sequence[Row], folder: Path) -> None:
    questions = ("ground", "ground of files as they are", "figures", "crop", "grey")
    counts = {question: Counter[tuple[bool, bool]]() for question in questions}
    named = Counter[bool]()
    for row in rows:
        pixels = np.asarray(picture_of(row, folder))
        ground, figures = find_ground_and_figures(pixels)
        answers = {"ground": (row["ground"] != "none", ground is not None)}
        if not row["made"]:
            answers["ground of files as they are"] = answers["ground"]
        if row["grey"] not in UNSURE:
            answers["grey"] = (row["grey"] == "y", quality.is_grey(pixels))
        if ground is not None and row["ground"] not in ("none", "?"):
            name = ground.name or "plain"
            named[name in row["ground"].split("|")] += 1
            if name not in row["ground"].split("|"):
                print(f"  name: {row['number']} is {row['ground']}, called {name}")
            answers["figures"] = (row["figures"] != "1", bool(figures))
            answers["crop"] = (
                row["crop"] == "y",
                suggested_crop(ground, (pixels.shape[1], pixels.shape[0])) is not None,
            )
        for question, answer in answers.items():
            label = row[question.split()[0]]
            if label not in UNSURE:
                counts[question][answer] += 1
                if answer[0] != answer[1] and question in row:
                    print(f"  {question}: {row['number']} {row['paths'][-50:]} is {label}, found {answer[1]}")
    for question, each in counts.items():
        both, missed, wrong = each[True, True], each[True, False], each[False, True]
        print(
            f"{question:28} precision {share(both, both + wrong)} recall {share(both, both + missed)}"
            f"  ({both} right, {wrong} wrong, {missed} missed, {each[False, False]} rightly left alone)"
        )
    print(f"{'names':28} {named[True]} of {sum(named.values())} right")


def measure_quality(rows: Sequence[Row], folder: Path) -> None:
    """Shares of pictures that each threshold hints at, as they are and after each treatment."""
    hinted: dict[str, Counter[str]] = {}
    for row in rows:
        if row["made"] in ("bars", "frame", "caption"):
            continue
        picture = picture_of(row | {"jpeg": ""}, folder)
        picture.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
        if min(picture.size) < 128:
            continue
        kind = "photo" if row["packages"] in PHOTOS else "art"
        for name, treated in treatments(picture, int(row["number"])):
            grey = np.asarray(treated.convert("L"))
            each = hinted.setdefault(f"{name} ({kind})", Counter())
            each["pictures"] += 1
            each["detail"] += quality.detail(grey) < quality.LITTLE_DETAIL
            each["blockiness"] += quality.blockiness(grey) >= quality.BLOCKY
            each["residual"] += quality.NOISY <= quality.residual(grey) < quality.TEXTURED
    print(f"{'hinted at':30}  detail  blockiness  residual")
    for name, each in sorted(hinted.items()):
        all_of_them = each["pictures"]
        shares = "".join(f"{share(each[key], all_of_them):>10}" for key in ("detail", "blockiness", "residual"))
        print(f"  {name:20} {all_of_them:4} {shares}")


def treatments(picture: Image.Image, seed: int) -> Iterator[tuple[str, Image.Image]]:
    small = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BOX)
    smaller = picture.resize((max(1, picture.width // 4), max(1, picture.height // 4)), Image.Resampling.BOX)
    noisy = perturbed(picture, seed)
    yield "as it is", picture
    for level in (75, 50, 30):
        yield f"JPEG {level}", compressed(picture, level)
    yield "perturbed", noisy
    yield "perturbed, JPEG 85", compressed(noisy, 85)
    for name, how in (("bicubic", Image.Resampling.BICUBIC), ("Lanczos", Image.Resampling.LANCZOS)):
        yield f"2x {name}", small.resize(picture.size, how)
    yield "4x bicubic", smaller.resize(picture.size, Image.Resampling.BICUBIC)


def perturbed(picture: Image.Image, seed: int) -> Image.Image:
    """A simulation of adversarial noise: random, smoothed, at most 8 levels in any channel."""
    levels = np.asarray(picture).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal(levels.shape).astype(np.float32)
    for axis in (0, 1):
        for _ in range(2):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    noise *= 0.6 * 8 / noise.std()
    return Image.fromarray((levels + noise.clip(-8, 8)).clip(0, 255).round().astype(np.uint8))


def compressed(picture: Image.Image, level: int) -> Image.Image:
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=level)
    return Image.open(kept).convert("RGB")


def files_of(row: Row, folder: Path) -> list[Path]:
    return [
        folder / each / path for each, path in zip(row["packages"].split("|"), row["paths"].split("|"), strict=True)
    ]


def is_there(row: Row, folder: Path) -> bool:
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest)
        for path, digest in zip(files_of(row, folder), row["sha256"].split("|"), strict=True)
    )


def picture_of(row: Row, folder: Path) -> Image.Image:
    """The picture as it was labelled: the file as it is, or made from one or more as the row tells."""
    pictures: list[Image.Image] = [Image.open(path) for path in files_of(row, folder)]
    make: dict[str, Callable[[list[Image.Image], str], Image.Image]] = {
        "": lambda opened, _: opened[0],
        "flatten": flattened,
        "row": in_a_row,
        "caption": with_caption,
        "bars": lambda opened, colour: framed(opened, colour, (0.0, 0.14)),
        "frame": lambda opened, colour: framed(opened, colour, (0.06, 0.06)),
    }
    picture = make[row["made"]](pictures, row["colour"]).convert("RGB")
    return compressed(picture, int(row["jpeg"])) if row["jpeg"] else picture


def flattened(pictures: list[Image.Image], colour: str) -> Image.Image:
    figure = pictures[0].convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", figure.size, colour), figure)


def in_a_row(pictures: list[Image.Image], colour: str, below: int = 0) -> Image.Image:
    """Cut-out figures beside each other, 480 px high at most, 36 px apart."""
    height, gap = 480, 36
    figures: list[Image.Image] = []
    for index, each in enumerate(pictures):
        figure = each.convert("RGBA")
        figure = figure.crop(figure.getchannel("A").point([255 * (level > 40) for level in range(256)]).getbbox())
        scale = (0.95 - 0.12 * (index % 3)) * height / max(figure.size)
        size = max(1, round(figure.width * scale)), max(1, round(figure.height * scale))
        figures.append(figure.resize(size, Image.Resampling.LANCZOS))
    width = sum(figure.width for figure in figures) + gap * (len(figures) + 1)
    picture, left = Image.new("RGBA", (width, height + 2 * gap + below), colour), gap
    for figure in figures:
        picture.alpha_composite(figure, (left, gap + height - figure.height))
        left += figure.width + gap
    return picture


def with_caption(pictures: list[Image.Image], colour: str) -> Image.Image:
    picture = in_a_row(pictures, colour, below=60)
    ink = "#e0e0e0" if colour == "#000000" else "#303030"
    ImageDraw.Draw(picture).text((36, 534), "Artist 2019 (a name)", fill=ink, font_size=26)
    return picture


def framed(pictures: list[Image.Image], colour: str, margins: tuple[float, float]) -> Image.Image:
    inner = pictures[0].convert("RGB")
    inner.thumbnail((1024, 1024))
    across = round(inner.width * margins[0])
    along = round((inner.height if margins[0] == 0 else inner.width) * margins[1])
    picture = Image.new("RGB", (inner.width + 2 * across, inner.height + 2 * along), colour)
    picture.paste(inner, (across, along))
    return picture


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "  -  "


if __name__ == "__main__":
    sys.exit(main())
