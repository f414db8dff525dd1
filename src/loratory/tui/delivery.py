"""From a thread to a screen: work is handed over without waiting, as long as the screen is there."""

import asyncio
import contextvars
from collections.abc import Callable

from textual.message_pump import MessagePump


class Delivery:
    """Hands work of threads over to the thread of a screen. Made on that thread.

    It never waits: a terminal that takes nothing more holds up the screen, and must not hold up who writes captions.
    """

    def __init__(self, screen: MessagePump) -> None:
        self._screen = screen
        self._loop = asyncio.get_running_loop()
        # A thread knows nothing of the program, which Textual finds by the context: a timer that is set in that of a
        # thread never ticks and fails when its widget goes, and no page can be opened.
        self._context = contextvars.copy_context()

    def __call__(self, work: Callable[[], object], otherwise: Callable[[], object] = lambda: None) -> None:
        """Has `work` done on the screen's thread; `otherwise` in its place, on any thread, when the screen is going.

        A screen that closes takes its widgets away one after the other and is told last: work that draws would find
        some of them gone.
        """

        def arrived() -> None:
            if self._screen.is_running:
                work()
            else:
                otherwise()

        try:
            self._loop.call_soon_threadsafe(arrived, context=self._context)
        except RuntimeError:  # the loop was closed meanwhile
            otherwise()
