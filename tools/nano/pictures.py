"""Pictures of emoji as arrays, on backgrounds with names, and the captions that go with them."""

import hashlib
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sources import KEYWORDS, STYLES, Emoji, emoji

SIDE_PX = 128
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "red": (210, 60, 60),
    "orange": (240, 150, 60),
    "yellow": (240, 205, 80),
    "green": (70, 170, 80),
    "blue": (60, 110, 220),
    "purple": (140, 80, 190),
    "pink": (245, 160, 200),
}
"""Words of captions -> sRGB."""

# What the model learns to draw: things that both sets have and that are known at a glance at this size. With more of
# them it takes longer until any is.
_SUBJECTS = Path(__file__).with_name("subjects.txt")
_HELD_BACK_EVERY = 20


@dataclass(frozen=True)
class Pictures:
    """pixels: [n, 128, 128, 4] uint8, sRGB with alpha, not multiplied. The other fields have n entries.

    subject: whether the model learns to draw it. held_back: whether the VAE never sees it.
    """

    pixels: npt.NDArray[np.uint8]
    style: tuple[str, ...]
    name: tuple[str, ...]
    category: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    subject: npt.NDArray[np.bool_]
    held_back: npt.NDArray[np.bool_]

    def digest(self) -> str:
        """Tells these pictures, and what is known of them, from others."""
        words = json.dumps([self.style, self.name, self.keywords, self.subject.tolist(), self.held_back.tolist()])
        digest = hashlib.sha256(words.encode())
        digest.update(np.ascontiguousarray(self.pixels))
        return digest.hexdigest()

    def caption(self, index: int, background: str, chance: random.Random) -> str:
        """A caption as people write them: style, subject, background, and now and then a word more."""
        words = [f"{self.style[index]} style", self.name[index]]
        extra = [word for word in self.keywords[index] if word != self.name[index]]
        if extra and chance.random() < 0.25:
            words.append(chance.choice(extra))
        if chance.random() < 0.9:
            words.insert(chance.randrange(2, len(words) + 1), f"{background} background")
        return ", ".join(words)


def load_pictures(work: Path) -> Pictures:
    """Renders both sets below `work`, once."""
    arrays, words = work / "pictures.npy", work / "pictures.json"
    origin = [*STYLES.values(), KEYWORDS, SIDE_PX]
    if not words.exists() or json.loads(words.read_text("utf-8"))["origin"] != origin:
        described = _render(list(emoji(work / "packages")), arrays)
        finished = words.with_suffix(".new")
        finished.write_text(json.dumps({"origin": origin, "pictures": described}, indent=0), "utf-8")
        finished.replace(words)
    entries = json.loads(words.read_text("utf-8"))["pictures"]
    names = [entry["name"] for entry in entries]
    # By name, so that the same thing in the other style is held back with it.
    held_back = set(sorted(set(names))[::_HELD_BACK_EVERY])
    return Pictures(
        pixels=np.load(arrays, mmap_mode="r"),
        style=tuple(entry["style"] for entry in entries),
        name=tuple(names),
        category=tuple(entry["category"] for entry in entries),
        keywords=tuple(tuple(entry["keywords"]) for entry in entries),
        subject=np.array(_subjects(entries)),
        held_back=np.array([name in held_back for name in names]),
    )


def on_background(pixels: npt.NDArray[np.uint8], colours: npt.NDArray[np.float32]) -> torch.Tensor:
    """Flattened pictures [n, 3, h, w] from -1 to 1. pixels: [n, h, w, 4]. colours: [n, 3], 0 to 255."""
    values = pixels.astype(np.float32)
    alpha = values[..., 3:] / 255
    flat = values[..., :3] * alpha + colours[:, None, None] * (1 - alpha)
    return torch.from_numpy(flat / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def _subjects(entries: list[dict[str, str]]) -> list[bool]:
    wanted = set(_SUBJECTS.read_text("utf-8").splitlines())
    styles: dict[str, set[str]] = {}
    for entry in entries:
        styles.setdefault(entry["name"], set()).add(entry["style"])
    lacking = sorted(name for name in wanted if len(styles.get(name, ())) < 2)
    if lacking:
        raise ValueError(f"{_SUBJECTS.name}: not in both sets: {', '.join(lacking)}")
    return [entry["name"] in wanted for entry in entries]


def _render(found: list[Emoji], arrays: Path) -> list[dict[str, Any]]:
    import resvg_py

    pixels = np.zeros((len(found), SIDE_PX, SIDE_PX, 4), np.uint8)
    for index, each in enumerate(found):
        png = bytes(resvg_py.svg_to_bytes(svg_string=each.svg, width=SIDE_PX, height=SIDE_PX))
        with Image.open(io.BytesIO(png)) as picture:
            drawn = np.asarray(picture.convert("RGBA"))
        # Some are not square.
        top, left = (SIDE_PX - drawn.shape[0]) // 2, (SIDE_PX - drawn.shape[1]) // 2
        pixels[index, top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    np.save(arrays, pixels)
    return [
        {"style": each.style, "name": each.name, "category": each.category, "keywords": each.keywords} for each in found
    ]
