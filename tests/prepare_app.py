"""The prepare pane under Textual's pilot: small originals made by the test, keys as a person types them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image, ImageDraw
from textual.pilot import Pilot

from loratory.editing.session import Session
from loratory.imaging.recipe import Recipe
from loratory.imaging.recipe_toml import read_recipes
from loratory.terminal.modes import Graphics, Mode
from loratory.tui.app import LoratoryApp
from loratory.tui.keymaps import Keymaps
from loratory.tui.prepare.screen import PrepareScreen
from loratory.tui.prepare.state import PrepareState
from loratory.tui.text import UNICODE, Glyphs
from loratory.tui.widgets.preview import Preview

_WAIT_S = 30.0
_NAMED = {" ": "space", "/": "slash", ".": "full_stop", "-": "minus"}

# A plain recipe enlarges what is too small with a network, which takes seconds.
RECIPES = """\
[prepare]
token = "fox"
repeats = 3
destination = "../train"

[defaults]
resolution = 64
upscale = "never"
"""


def subject(size: tuple[int, int], box: tuple[int, int, int, int], ground: str | None = "white") -> Image.Image:
    """A disc in `box` on a plain ground, transparent for None."""
    picture = Image.new("RGBA" if ground is None else "RGB", size, ground or (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse(box, fill=(220, 110, 30))
    return picture


def originals(parent: Path, recipes: str = RECIPES) -> Path:
    """A folder of four originals, to go to `train` beside it."""
    folder = parent / "raw"
    folder.mkdir()
    subject((1280, 960), (480, 320, 720, 600)).save(folder / "a.png")
    subject((240, 320), (20, 30, 220, 290), "green").save(folder / "b.png")
    subject((256, 256), (30, 30, 220, 220), None).save(folder / "c.png")
    sheet = subject((600, 240), (30, 30, 160, 210))
    for left in (230, 430):
        ImageDraw.Draw(sheet).ellipse((left, 30, left + 130, 210), fill=(30, 110, 220))
    sheet.save(folder / "d.png")
    if recipes:
        (folder / "recipes.toml").write_text(recipes)
    return folder


def dataset(parent: Path, count: int = 3) -> Path:
    """A training folder of pictures with captions."""
    folder = parent / "set" / "10_fox"
    folder.mkdir(parents=True)
    for index in range(count):
        subject((1280, 960), (400 + 8 * index, 320, 720, 600)).save(folder / f"p{index}.png")
        (folder / f"p{index}.txt").write_text("fox, animal")
    return folder.parent


class Hand:
    """Presses keys in the prepare pane and waits until they have had their effect."""

    def __init__(self, app: LoratoryApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def screen(self) -> PrepareScreen:
        screen = self.app.panes["prepare"]
        assert isinstance(screen, PrepareScreen)
        return screen

    @property
    def state(self) -> PrepareState:
        return self.screen.state

    @property
    def recipe(self) -> Recipe:
        """That of the current picture, as it is shown."""
        entry = self.state.current
        assert entry is not None
        return self.state.recipe(entry)

    @property
    def message(self) -> str:
        return self.screen.message

    async def type(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(_NAMED.get(key, key))

    async def write(self, text: str) -> None:
        """Types text character by character."""
        for character in text:
            await self.pilot.press(_NAMED.get(character, character))

    async def answer(self, text: str) -> None:
        """Writes over what a prompt offers, and presses Enter."""
        await self.pilot.press("ctrl+u")
        await self.write(text)
        await self.pilot.press("enter")

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for a condition, and for the screen to have drawn what follows from it."""
        end = asyncio.get_running_loop().time() + _WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < end, f"still not so; the screen says {self.message!r}"
            await asyncio.sleep(0.005)
        await self.pilot.pause()

    async def ready(self) -> None:
        """Waits until everything is written, built, looked at and drawn."""
        await self.until(lambda: self.screen.is_ready and self.screen.query_one(Preview).drawn)

    def shown(self) -> list[str]:
        """The screen as lines of text."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        return [strip.text[:width].rstrip() for strip in lines[:height]]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.shown())


@asynccontextmanager
async def open_pane(
    directory: Path, size: tuple[int, int] = (80, 24), glyphs: Glyphs = UNICODE, mode: Mode = "half"
) -> AsyncIterator[Hand]:
    """The prepare pane on `directory`, its pictures looked at."""
    app = LoratoryApp(Session(directory), Keymaps(), Graphics(mode), glyphs)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            app.show_pane("prepare")
            hand = Hand(app, pilot)
            await hand.until(lambda: "prepare" in app.panes and app.panes["prepare"].is_mounted)
            await hand.ready()
            yield hand
    finally:
        app.close()


def recipes_of(folder: Path) -> dict[str, Recipe]:
    """What recipes.toml says by now."""
    return dict(read_recipes(folder / "recipes.toml").recipes)
