"""Work that threads hand over to screens: done on the screen's thread with all it needs, dropped when it goes."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from editor_app import make_pictures, open_editor
from loratory.tui.delivery import Delivery
from loratory.tui.keys import PANES
from loratory.tui.told import Told


def on_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Last(Widget):
    """Stays until all beside it are gone, and then has something done."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self._work = work

    async def on_unmount(self) -> None:
        assert isinstance(self.parent, Widget)
        while len(self.parent.children) > 1:
            await asyncio.sleep(0)
        on_a_thread(self._work)
        await asyncio.sleep(0.01)  # what was handed over comes at the next turn


class Page(Screen[None]):
    def compose(self) -> ComposeResult:
        yield Static("here", id="line")

    def on_mount(self) -> None:
        self.deliver = Delivery(self)


class Program(App[None]):
    def on_mount(self) -> None:
        self.page = Page()
        self.push_screen(self.page)


def told_to_the_loop(problems: list[str]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(str(context)))


def test_a_timer_ticks_and_a_page_opens_that_work_of_a_thread_asked_for() -> None:
    done: list[str] = []

    async def scenario() -> None:
        program = Program()
        async with program.run_test() as pilot:

            def work() -> None:
                program.page.set_timer(0.01, lambda: done.append("ticked"))
                program.page.query_one(Static).set_timer(0.01, lambda: done.append("of a widget"))
                program.push_screen(Screen())

            on_a_thread(lambda: program.page.deliver(work))
            await pilot.pause()
            assert program.screen is not program.page
            end = asyncio.get_running_loop().time() + 10
            while len(done) < 2 and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.01)
            # One that still waits does not keep the program from a good end.
            on_a_thread(lambda: program.page.deliver(lambda: program.page.set_timer(60, lambda: None)))
            await pilot.pause()

    asyncio.run(scenario())
    assert sorted(done) == ["of a widget", "ticked"]


def test_work_for_a_screen_that_is_going_is_dropped_or_kept_elsewhere() -> None:
    done: list[str] = []
    problems: list[str] = []
    program = Program()

    async def scenario() -> None:
        told_to_the_loop(problems)
        async with program.run_test() as pilot:

            def work() -> None:
                program.page.query_one("#line", Static).update("there")
                done.append("shown")

            def hand_over() -> None:
                program.page.deliver(work)
                program.page.deliver(work, lambda: done.append("kept"))

            on_a_thread(lambda: program.page.deliver(work, lambda: done.append("kept")))
            await pilot.pause()
            assert done == ["shown"]
            await program.page.mount(Last(hand_over))

    asyncio.run(scenario())
    assert (done, problems) == (["shown", "kept"], [])
    on_a_thread(lambda: program.page.deliver(done.clear, lambda: done.append("too late")))
    assert done == ["shown", "kept", "too late"]


@pytest.mark.parametrize("pane", PANES)
def test_what_comes_while_a_pane_goes_breaks_nothing(pane: str, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", dict.fromkeys("abc", "x"))
    problems: list[str] = []
    late: list[str] = []

    async def scenario() -> None:
        told_to_the_loop(problems)
        async with open_editor(folder) as typist:
            app = typist.app
            app.show_pane(pane)
            screen = app.editor_screen if pane == "tags" else app.panes[pane]
            await typist.until(lambda: screen.is_mounted and app.screen is screen)
            loop = asyncio.get_running_loop()

            def look() -> None:
                assert not screen.query(".pane-title, #title"), "this tests nothing: the widgets are still there"
                screen.look()
                screen.tell(Told("late"))
                late.append(pane)

            await screen.mount(Last(lambda: loop.call_soon_threadsafe(look)))

    asyncio.run(scenario())
    assert (late, problems) == ([pane], [])
