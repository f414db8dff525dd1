"""The program with a pane in front, and somebody at its keys."""

import asyncio
from collections.abc import Callable

from textual.pilot import Pilot

from loratory.tui.app import LoratoryApp

_WAIT_S = 20.0


class Person:
    """Presses keys, and looks at what stands on the screen."""

    def __init__(self, app: LoratoryApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def type(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)

    async def until(self, condition: Callable[[], object]) -> None:
        end = asyncio.get_running_loop().time() + _WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < end, "\n".join(self.shown())
            await asyncio.sleep(0.02)

    async def until_shown(self, *texts: str) -> None:
        await self.until(lambda: all(self.shows(text) for text in texts))

    def shown(self) -> list[str]:
        """The screen as lines of text."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()[:height]  # pyright: ignore[reportPrivateUsage]
        return [strip.text[:width].replace("\N{NO-BREAK SPACE}", " ").rstrip() for strip in lines]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.shown())
