"""The tag editor under Textual's pilot: a small dataset, keys as a person types them, and waiting for what they do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image
from textual.pilot import Pilot

from loratory.editing.session import Session
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.editor import Editor
from loratory.tui.keymaps import Keymaps
from loratory.tui.screens.tags import TagsScreen
from loratory.tui.text import UNICODE, Glyphs

_WAIT_S = 20.0
_NAMED = {" ": "space"}


def make_pictures(folder: Path, captions: Mapping[str, str | bytes | None], size: tuple[int, int] = (48, 32)) -> Path:
    """A folder of pictures named as the keys, `.png` added, with captions (None for none)."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (name, caption) in enumerate(captions.items()):
        Image.new("RGB", size, (index * 37 % 256, index * 91 % 256, 128)).save(folder / f"{name}.png")
        if caption is not None:
            data = caption if isinstance(caption, bytes) else caption.encode()
            (folder / f"{name}.txt").write_bytes(data)
    return folder


class Typist:
    """Presses keys in an open editor and waits until they have had their effect."""

    def __init__(self, app: LoratoryApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def screen(self) -> TagsScreen:
        return self.app.editor_screen

    @property
    def editor(self) -> Editor:
        return self.screen.editor

    @property
    def message(self) -> str:
        return self.screen._message.text

    async def type(self, *keys: str) -> None:
        """Presses keys: a single character each, or a name such as "enter"; longer words are typed letter by letter
        when they begin with a space of their own ("…" is typed as it is)."""
        for key in keys:
            await self.pilot.press(_NAMED.get(key, key))

    async def write(self, text: str) -> None:
        """Types text character by character."""
        await self.pilot.press(*[_NAMED.get(character, character) for character in text])

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for a condition, and for the screen to have drawn what follows from it."""
        end = asyncio.get_running_loop().time() + _WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < end, f"still not so; the screen says {self.message!r}"
            await asyncio.sleep(0.005)
        await self.pilot.pause()

    async def written(self) -> None:
        """Waits until everything is on disk."""
        await self.until(lambda: self.screen.writer.pending == 0)

    def shown(self) -> list[str]:
        """The screen as lines of text."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        return [strip.text[:width].rstrip() for strip in lines[:height]]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.shown())


@asynccontextmanager
async def open_editor(
    directory: Path,
    size: tuple[int, int] = (80, 24),
    key_file: Path | None = None,
    glyphs: Glyphs = UNICODE,
    typed_ahead: str = "",
) -> AsyncIterator[Typist]:
    """The editor on `directory`, its captions read and its vocabulary loaded."""
    app = LoratoryApp(Session(directory), Keymaps(key_file), Graphics("half"), glyphs)
    app.typed_ahead = typed_ahead
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            typist = Typist(app, pilot)
            await typist.until(lambda: typist.screen.is_ready)
            yield typist
    finally:
        app.close()
