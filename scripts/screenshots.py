"""Writes docs/images/*.svg: the real panes on small folders, with no terminal. `--check` only compares their text.

The pictures are those of the demo, the captions and recipes are below, the clock stands still, and the program's own
state lies in a temporary folder, so every machine draws the same. What `--check` compares is the text of the cells:
colours of a picture may differ in the last bit between versions of Pillow.
"""

import asyncio
import html
import os
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from example_run import make_run
from PIL import Image
from textual.pilot import Pilot

from loratory.editing.session import Session
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.gallery.screen import GalleryScreen
from loratory.tui.keymaps import Keymaps
from loratory.tui.plan.screen import PlanScreen
from loratory.tui.prepare.screen import PrepareScreen
from loratory.tui.project import Project
from loratory.tui.run.screen import RunScreen
from loratory.tui.stats.screen import StatsScreen
from loratory.tui.widgets.preview import Preview

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "src" / "loratory" / "demo" / "pictures" / "10_hrt"
TARGET = ROOT / "docs" / "images"

SMALL, WIDE = (80, 24), (120, 36)
_WAIT_S = 60.0

_FONTS = '"Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace'
# The measures of Rich's SVG, in px: a cell's width, a line's height, from the top of a line to the base of its text.
_CELL, _LINE, _BASELINE, _RECT_OFFSET = 12.2, 24.4, 20.0, 1.5
_TEXT = re.compile(
    r'<text class="(?P<style>t-r\d+)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="[\d.]+" '
    r'(?P<clip>clip-path="[^"]+")>(?P<body>[^<]*)</text>'
)

_SETTINGS = """\
vocabulary = "e621"
goal = "concept"
palette = ["3d (artwork)", "gradient background", "close-up", "shaded"]
kept = {alias = ["heart"]}
"""

_WHITE, _PLAIN = "white background", "simple background"

# What is wrong in it is what is wrong in real sets: a general tag beside the one that implies it, a tag of another
# site, a tag twice, two spellings, an empty file, no file.
CAPTIONS: dict[str, str | None] = {
    "black": f"hrt, heart, black, 3d (artwork), {_WHITE}",
    "blue": f"hrt, heart, blue, 3d (artwork), {_WHITE}",
    "blue_on_yellow": f"hrt, heart, blue, 3d (artwork), yellow background, {_PLAIN}",
    "brown": f"hrt, heart, brown, 3d (artwork), {_WHITE}",
    "dark_red": f"hrt, heart, dark red, 3d (artwork), {_WHITE}, {_PLAIN}",
    "green": f"hrt, heart, green, 3d (artwork), {_WHITE}",
    "grey": f"hrt, heart, grey, 3d (artwork), {_WHITE}, grey",
    "light_blue": f"hrt, heart, light blue, 3d (artwork), {_WHITE}",
    "lime": f"hrt, heart, lime, 3d (artwork), {_WHITE}",
    "magenta": f"hrt, heart, magenta, 3d (artwork), {_WHITE}",
    "navy": f"hrt, heart, navy, 3d (artwork), {_WHITE}",
    "orange": f"hrt, heart, orange, 3d (artwork), {_WHITE}",
    "orange_on_green": "hrt, heart, orange, 3d (artwork), green background",
    "pink": f"heart, hrt, pink, 3d (artwork), {_WHITE}",
    "pink_on_black": "hrt, heart, pink, 3d (artwork), black background",
    "purple": f"hrt, heart, purple, 3d (artwork), {_WHITE}",
    "purple_on_green": "",
    "red": f"hrt, heart, red, 3d (artwork), {_WHITE}",
    "teal": "hrt, heart, teal, 3d (artwork), white_background",
    "white_on_black": "hrt, heart, white, 3d (artwork), black background",
    "white_on_blue": "hrt, heart, white, 3d (artwork), blue background",
    "white_on_red": None,
    "yellow": f"hrt, heart, yellow, 3d (artwork), {_WHITE}",
    "yellow_on_blue": "hrt, heart, yellow, 3d (artwork), blue background",
}  # fmt: skip

# Pictures most of which is ground: name -> size in px, the hearts on it with their left, top and side.
CANVASES: dict[str, tuple[tuple[int, int], dict[str, tuple[int, int, int]]]] = {
    "banner": ((1440, 960), {"teal": (760, 240, 560)}),
    "two": ((720, 480), {"navy": (40, 110, 256), "pink": (420, 110, 256)}),
}
CONCEPTS = {
    "10_hrt, cool": ("black", "blue", "green", "grey", "light_blue", "lime", "navy", "purple", "teal"),
    "10_hrt, on colour": tuple(name for name in CAPTIONS if "_on_" in name),
    "10_hrt, warm": ("brown", "dark_red", "orange", "red", "yellow"),
}

_RECIPES = """\
[prepare]
token = "hrt"
class_token = "heart"
repeats = 10
destination = "../hearts-train"

[defaults]
backgrounds = ["white", "blue"]

["red.webp"]
background = "blue"

["two.png"]
flip = true
"""


_CONFIGURATION = """\
preset = "character-prodigy"

[model]
pretrained_model_name_or_path = "nano"

[dataset]
train_data_dir = "hearts"
resolution = 256

[network]
network_dim = 16

[output]
output_name = "hearts"
save_every_n_epochs = 2
"""


def dataset(parent: Path) -> Path:
    """The folder that the tag editor shows, made below `parent`."""
    folder = parent / "hearts" / "10_hrt"
    folder.mkdir(parents=True)
    for name, caption in CAPTIONS.items():
        shutil.copy(PICTURES / f"{name}.webp", folder)
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption + "\n" if caption else "", encoding="utf-8")
    (folder.parent / ".loratory").mkdir()
    (folder.parent / ".loratory" / "dataset.toml").write_text(_SETTINGS, encoding="utf-8")
    return folder.parent


def concepts(parent: Path) -> Path:
    """Three concept folders of the same pictures, made below `parent`."""
    for name, members in CONCEPTS.items():
        folder = parent / "hearts" / name
        folder.mkdir(parents=True)
        for member in members:
            shutil.copy(PICTURES / f"{member}.webp", folder)
            (folder / f"{member}.txt").write_text(CAPTIONS[member] or "", encoding="utf-8")
    return parent / "hearts"


def originals(parent: Path) -> Path:
    """A folder of originals with recipes, made below `parent`."""
    folder = parent / "hearts"
    folder.mkdir()
    for name in ("orange_on_green", "red"):
        shutil.copy(PICTURES / f"{name}.webp", folder)
    for name, (size, hearts) in CANVASES.items():
        canvas = Image.new("RGB", size, "white")
        for heart, (left, top, side) in hearts.items():
            with Image.open(PICTURES / f"{heart}.webp") as picture:
                larger = picture.resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(larger, (left, top), larger)
        canvas.save(folder / f"{name}.png")
    (folder / "recipes.toml").write_text(_RECIPES, encoding="utf-8")
    return folder


def configuration(parent: Path) -> Path:
    """A folder with three concepts and a configuration that trains them."""
    for caption in concepts(parent).rglob("*.txt"):
        if not caption.read_text(encoding="utf-8"):
            caption.write_text("hrt, heart, 3d (artwork)", encoding="utf-8")
    (parent / "hearts.toml").write_text(_CONFIGURATION, encoding="utf-8")
    return parent


def run(parent: Path) -> Path:
    """A folder with a run."""
    return make_run(parent, PICTURES)


@dataclass(frozen=True)
class Shot:
    """size: in cells. folder: makes what is shown. keys: lead there, typed once the pane of the last is ready.

    first: the pane that it is opened in; "" for the tag editor, with a dataset.
    """

    size: tuple[int, int]
    folder: Callable[[Path], Path]
    keys: tuple[str, ...]
    first: str = ""


SHOTS = {
    "editor": Shot(WIDE, dataset, ("]", "i", "f", "space")),
    "editor-80x24": Shot(SMALL, dataset, ("j", "j")),
    "insert": Shot(SMALL, dataset, ("j", "j", "a", *"white b")),
    "tag-table": Shot(SMALL, dataset, ("T",)),
    "review": Shot(WIDE, dataset, ("t", "g", "y", "y")),
    "prepare": Shot(WIDE, originals, ("f2", "G")),
    "crop": Shot(SMALL, originals, ("f2", "c", "a")),
    "stats": Shot(SMALL, concepts, ("f3", "b")),
    "plan": Shot((120, 36), configuration, ("slash", *"network_dim", "enter"), "plan"),
    "run": Shot((120, 38), run, ("z", "z", "z"), "run"),  # back where it began, with an axis of its own
    "gallery": Shot((100, 30), run, ("end", "space"), "gallery"),
}


def draw(name: str) -> str:
    """One screenshot as SVG."""
    shot = SHOTS[name]
    with (
        tempfile.TemporaryDirectory() as parent,
        mock.patch.dict(os.environ, {"LORATORY_HOME": f"{parent}/home", "COLORTERM": "truecolor"}),
        mock.patch("time.strftime", return_value="14:02"),
    ):
        os.environ.pop("NO_COLOR", None)
        return _standalone(asyncio.run(_shoot(shot, shot.folder(Path(parent)))))


def text_of(svg: str) -> list[str]:
    """The lines of text that a screenshot shows, without white space at their ends."""
    lines: dict[str, list[tuple[float, str]]] = {}
    for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        place = element.get("clip-path", "")
        lines.setdefault(place, []).append((float(element.get("x", "0")), element.text or ""))
    joined = (" ".join(text for _, text in sorted(parts)) for parts in lines.values())
    return [" ".join(line.replace("\xa0", " ").split()) for line in joined]


async def _shoot(shot: Shot, directory: Path) -> str:
    if shot.first:
        toml = directory / "hearts.toml"
        project = Project(directory, directory / "runs", config=toml if toml.is_file() else None)
        app = LoratoryApp(None, Keymaps(), Graphics("half"), project=project, first=shot.first)
    else:
        app = LoratoryApp(Session(directory), Keymaps(), Graphics("half"))
    try:
        async with app.run_test(size=shot.size) as pilot:
            await _until(pilot, lambda: _is_still(app))
            for key in shot.keys:
                await pilot.press({" ": "space"}.get(key, key))
                if key in ("f2", "f3"):
                    await _until(pilot, lambda: _is_still(app))
            await _until(pilot, lambda: _is_still(app))
            return app.export_screenshot(title="loratory hearts")
    finally:
        app.close()


def _is_still(app: LoratoryApp) -> bool:
    pane = app.panes.get(app.current_mode)
    if isinstance(pane, PrepareScreen):
        return pane.is_ready and pane.query_one(Preview).drawn
    if isinstance(pane, StatsScreen):
        return pane.is_mounted and not pane.is_counting
    if isinstance(pane, PlanScreen):
        return pane.is_mounted and bool(pane.plan) and not pane.planning.is_busy
    if isinstance(pane, RunScreen):
        return pane.is_mounted and pane.is_up_to_date and pane.query_one(Preview).drawn
    if isinstance(pane, GalleryScreen):
        return pane.is_mounted and pane.has_looked and all(each.drawn for each in pane.query(Preview))
    screen = app.editor_screen
    item = screen.editor.current
    facts = screen.session.facts
    return (
        screen.writer.pending == 0
        and screen.is_ready
        and screen.query_one(Preview).drawn
        and item is not None
        and facts.known_size(item) is not None
        and facts.known_tokens(item) is not None
    )


async def _until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)
    await pilot.pause()


def _standalone(svg: str) -> str:
    """The SVG as any viewer draws it: no fonts from the network, spaces as places, half blocks as rectangles.

    Fonts leave gaps around half blocks, and some viewers drop spaces at the ends of a text.
    """
    svg = re.sub(r"@font-face \{.*?\n    \}\n", "", svg, flags=re.DOTALL)
    svg = svg.replace("font-family: Fira Code, monospace", f"font-family: {_FONTS}")
    # Its identifiers are a checksum of all cells: as short ones they change nothing from version to version.
    svg = re.sub(r"terminal-\d+-", "t-", svg)
    return _TEXT.sub(_placed, svg)


def _placed(found: re.Match[str]) -> str:
    """A run of cells as one element for each stretch without wide gaps."""
    style, x, y, clip, body = found["style"], float(found["x"]), float(found["y"]), found["clip"], found["body"]
    cells = html.unescape(body)
    if cells == "▀" * len(cells):
        top, width = y - _BASELINE + _RECT_OFFSET, len(cells) * _CELL
        return f'<rect class="{style}" x="{x:g}" y="{top:.2f}" width="{width:g}" height="{_LINE / 2 + 0.1:.2f}"/>'
    parts: list[str] = []
    for word in re.finditer(r"[^\xa0]+(?:\xa0[^\xa0]+)*", cells):
        place, width = x + word.start() * _CELL, len(word[0]) * _CELL
        parts.append(
            f'<text class="{style}" x="{place:.1f}" y="{y:g}" textLength="{width:.1f}" {clip}>'
            f"{html.escape(word[0], quote=False).replace(chr(0xA0), '&#160;')}</text>"
        )
    return "".join(parts)


def main() -> int:
    TARGET.mkdir(exist_ok=True)
    stale: list[str] = []
    for name in SHOTS:
        path, svg = TARGET / f"{name}.svg", draw(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(svg, encoding="utf-8")
        elif not path.is_file() or text_of(path.read_text(encoding="utf-8")) != text_of(svg):
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)} show another editor than there is: run scripts/screenshots.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
