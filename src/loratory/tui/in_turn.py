"""Keys in turn: each is handed on when the one before has done all that it does.

Textual hands on whatever arrives together at once, to the widget that has the focus then: of `a`, "fox" and Tab typed
ahead over a slow link, the prompt that `a` opens would get nothing, and a comma would act after what follows it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from textual import events
from textual.message_pump import MessagePump

# A key that has not been dealt with by then is given up on: a defect must not take the keyboard away.
_LONGEST_S = 2.0


class KeysInTurn:
    """hand_on: gives an event to Textual. way: where events pass through, from the widget that gets them first."""

    def __init__(
        self, hand_on: Callable[[events.Event], Awaitable[None]], way: Callable[[], Sequence[MessagePump]]
    ) -> None:
        self._hand_on = hand_on
        self._way = way
        self._waiting: deque[events.Event] = deque()
        self._turns: asyncio.Task[None] | None = None

    async def take(self, event: events.Event) -> None:
        """Hands an event on: now, or after those that are not done yet."""
        self._waiting += _single_keys(event)
        if self._turns is None or self._turns.done():
            way = await self._next()
            self._turns = asyncio.create_task(self._go_on(way))

    async def _next(self) -> Sequence[MessagePump]:
        way = self._way()
        await self._hand_on(self._waiting.popleft())
        return way

    async def _go_on(self, way: Sequence[MessagePump]) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_passed(way), _LONGEST_S)
        while self._waiting:
            way = await self._next()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_passed(way), _LONGEST_S)


async def _passed(way: Sequence[MessagePump]) -> None:
    """Waits until an event, and the messages it gave rise to, went all the way: queues keep their order."""
    for place in (*way, *way):
        reached = asyncio.Event()
        if place.call_later(reached.set):
            await reached.wait()


def _single_keys(event: events.Event) -> Iterator[events.Event]:
    """The event itself; but Escape with a letter right behind it comes as Alt with that letter, and is both."""
    if isinstance(event, events.Key) and event.key.startswith("alt+"):
        key = event.key.removeprefix("alt+").removeprefix("shift+")
        if len(key) == 1:
            character = event.character or key
            yield events.Key("escape", None)
            yield events.Key(character, character)
            return
    yield event
