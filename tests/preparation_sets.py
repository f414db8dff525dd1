"""Folders of originals for the tests of preparing, and a look at what became of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from loratory.imaging.recipe import Defaults, Recipe
from loratory.preparation.desk import Desk

SIDE = 96


def draw(path: Path, seed: int = 1, *, size: tuple[int, int] = (SIDE, SIDE), transparent: bool = False) -> Path:
    """A picture that no other seed gives."""
    mode, ground = ("RGBA", (0, 0, 0, 0)) if transparent else ("RGB", (240, 230, 40 + seed % 200))
    picture = Image.new(mode, size, ground)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((8, 8, size[0] // 2 + seed % 30, size[1] - 12), fill=(200, seed * 7 % 256, 60))
    pen.line((0, seed % size[1], size[0] // 3, 5), fill=(10, 20, seed % 256), width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, lossless=True)  # which other formats ignore
    return path


def make_raw(folder: Path, count: int = 6) -> Path:
    """`count` originals: every second transparent, every third with a caption, one of each four a webp."""
    for number in range(count):
        ending = ".webp" if number % 4 == 3 else ".png"
        path = draw(folder / f"p{number:02}{ending}", number + 1, transparent=number % 2 == 1)
        if number % 3 == 0:
            path.with_suffix(".txt").write_text(f"fox, mammal, picture {number}\n", "utf-8")
    return folder


def open_desk(raw: Path, train: Path, *, token: str = "fox", class_token: str = "", **defaults: object) -> Desk:
    """A desk for a training resolution that the pictures have."""
    desk = Desk(raw, train)
    said = replace(desk.book.prepare, token=token, class_token=class_token, repeats=10)
    chosen: dict[str, object] = {"resolution": (64, 64), **defaults}
    desk.set_up(said, replace(desk.defaults or Defaults(), **chosen))  # pyright: ignore[reportArgumentType]
    return desk


def change(desk: Desk, label: str, recipes: Mapping[str, Recipe | None]) -> None:
    assert desk.change(label, recipes)


def contents(folder: Path, *, hidden: bool = False) -> dict[str, bytes]:
    """Every file below a folder; of the program's own ones only if asked for."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if hidden or ".loratory" not in name}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """(mtime in ns, inode) of every file below a folder, the program's own included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
