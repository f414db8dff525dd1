"""The run pane under the pilot: what it shows of a run, what its keys leave for it, and what nothing may break."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.segment import Segment
from rich.style import Style
from textual._styles_cache import StylesCache
from textual.screen import ModalScreen
from textual.strip import Strip

from fake_run import FakeRun, make_config
from hostile import TAGS as HOSTILE
from loratory.config.load import load_config
from loratory.errors import LoratoryError
from loratory.runs.control import Control
from loratory.runs.events import Continued, Finished, Notice, Obeyed, Paused
from loratory.runs.store import RunDirectory
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import Project
from loratory.tui.run.screen import RunScreen
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.changes import changed_cells
from pane_app import Person


class Viewer(Person):
    """A run pane in a program of its own."""

    @property
    def pane(self) -> RunScreen:
        pane = self.app.panes["run"]
        assert isinstance(pane, RunScreen)
        return pane


@asynccontextmanager
async def open_run(
    root: Path, size: tuple[int, int] = (80, 24), glyphs: Glyphs = UNICODE, read_only: bool = False
) -> AsyncGenerator[Viewer]:
    project = Project(root, root / "runs")
    app = LoratoryApp(None, Keymaps(None), Graphics("half"), glyphs, project=project, first="run", read_only=read_only)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            viewer = Viewer(app, pilot)
            await viewer.until(lambda: "run" in app.panes and viewer.pane.is_mounted)
            if any((root / "runs").glob("*")):
                await viewer.until(lambda: viewer.pane.is_up_to_date)
            await pilot.pause()
            yield viewer
    finally:
        app.close()


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    run = FakeRun(tmp_path, 200)
    run.start()
    run.hardware()
    run.steps(60)
    run.save()
    run.save_state()
    run.sample()
    run.steps(16)
    return run


@dataclass
class OwnRun:
    """The run that the program trains, as the pane sees it."""

    run: RunDirectory
    is_alive: bool = True
    finished: Finished | None = None


def scenario(work: Callable[[], object]) -> None:
    asyncio.run(work())  # pyright: ignore[reportArgumentType]


def test_a_page_that_was_closed_leaves_nothing_behind(run: FakeRun, tmp_path: Path) -> None:
    def lines_kept() -> int:
        return sum(isinstance(each, StylesCache) for each in gc.get_objects())

    async def work() -> None:
        async with open_run(tmp_path) as viewer:
            before = lines_kept()
            thresholds = gc.get_threshold()
            gc.set_threshold(10_000_000)  # only the program's own collecting counts
            try:
                for _ in range(4):
                    await viewer.type("question_mark")
                    await viewer.until_shown("go on")
                    await viewer.type("q")
                    await viewer.until(lambda: len(viewer.app.screen_stack) == 1)
                await viewer.until(lambda: lines_kept() <= before)
            finally:
                gc.set_threshold(*thresholds)

    scenario(work)


class TestShown:
    @pytest.mark.parametrize("size", [(80, 24), (120, 40), (160, 48)])
    def test_the_most_important_stands_there_at_every_size(
        self, run: FakeRun, tmp_path: Path, size: tuple[int, int]
    ) -> None:
        async def work() -> None:
            async with open_run(tmp_path, size) as viewer:
                await viewer.until_shown("● running", "epoch 4/10", "step 76/200", "ETA", "38%", "1.42 s/step")
                await viewer.until_shown("388/450 W", "71 °C", "16.2/24.0 GB", "data 2%", "10_fox", "37 MB")
                if size[0] >= 120:
                    await viewer.until_shown(
                        "normalised by timestep (1.0 = as expected)", "worst images", "sample, step 60"
                    )
                else:
                    await viewer.until_shown("normalised loss ", "gradient ", "learned ")
                assert not any(len(line) > size[0] for line in viewer.shown())

        scenario(work)

    def test_what_comes_is_shown_and_a_broken_step_is_marked(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path, (120, 40)) as viewer:
                await viewer.until_shown("step 76/200")
                run.steps(3)
                run.broken_step()
                await viewer.until_shown("step 80/200", "×", "NaN")
                run.say(Notice("warning", "Nothing [/b] to worry about."))
                await viewer.until_shown("Nothing [/b] to worry about.")

        scenario(work)

    def test_every_view_is_a_key_away(self, run: FakeRun, tmp_path: Path) -> None:
        (run.directory.log).write_text("old\nWARNING \x1b[31mthe last\x1b[0m line\n")

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.type("tab")
                await viewer.until_shown("normalised by timestep", "┤")
                await viewer.type("z")
                await viewer.until_shown("last epoch")
                await viewer.type("v", "L")
                await viewer.until_shown("log scale, loss as it was minimised")
                await viewer.type("tab")
                await viewer.until_shown("10_fox/00", "lately", "exposure")
                await viewer.type("tab")
                await viewer.until_shown("adapter", "a fox")
                assert not viewer.shows("lately")
                await viewer.type("l")
                await viewer.until_shown("the last")
                assert "\x1b" not in "\n".join(viewer.shown())
                await viewer.type("l")
                await viewer.until_shown("gradient ")

        scenario(work)

    def test_a_crashed_run_says_from_where_it_goes_on_and_how(self, run: FakeRun, tmp_path: Path) -> None:
        run.stand("running", alive=False)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("✗ crashed", "without a word, after step", "the state of step 60", "16 steps")
                assert viewer.shows("loratory train --resume")
                await viewer.type("p")
                await viewer.until_shown("Nobody would obey: the run has crashed.")
                assert run.commands() == []

        scenario(work)

    @pytest.mark.parametrize(
        ("status", "events", "texts"),
        [
            ("done", [Finished("done", 200, "All done.")], ["✓ done"]),
            ("stopped", [Finished("stopped", 76, "Stopped.")], ["■ stopped", "c goes on from the state of step 60"]),
            ("failed", [Finished("failed", 76, "Oh no.", "Do so.")], ["✗ failed", "Oh no. Do so."]),
            ("paused", [Paused(76, "The disk is full.")], ["‖ paused", "The disk is full. p goes on."]),
            ("starting", [], ["○ starting"]),
        ],
    )
    def test_how_it_stands(
        self, run: FakeRun, tmp_path: Path, status: str, events: list[Finished], texts: list[str]
    ) -> None:
        run.say(*events)
        run.stand(status)  # pyright: ignore[reportArgumentType]

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown(*texts)

        scenario(work)

    def test_without_a_run_it_says_how_to_start_one(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("There is no run", "4 plans one")
                await viewer.type("p", "z", "tab", "tab", "i")
                await viewer.until_shown("No run is shown.")

        scenario(work)

    def test_a_run_that_nobody_has(self, tmp_path: Path) -> None:
        FakeRun(tmp_path)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("not started", "Nobody trains this run. c starts it here.")

        scenario(work)

    def test_ascii_says_the_same(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path, (120, 40), ASCII) as viewer:
                await viewer.until_shown("* running", "step 76/200", "###", "10_fox")

        scenario(work)

    @pytest.mark.parametrize("size", [(1, 1), (20, 5), (50, 12), (300, 90)])
    def test_any_size_is_survived(self, run: FakeRun, tmp_path: Path, size: tuple[int, int]) -> None:
        async def work() -> None:
            async with open_run(tmp_path, size) as viewer:
                for _ in range(5):
                    await viewer.type("tab")
                await viewer.pilot.resize_terminal(120, 40)
                await viewer.until_shown("step 76/200")

        scenario(work)


class TestHostile:
    def test_text_of_others_is_shown_and_never_obeyed(self, tmp_path: Path) -> None:
        run = FakeRun(tmp_path)
        run.images = [f"10_{text}/{text}.png".replace("\0", "") for text in HOSTILE]
        run.start()
        run.steps(2 * len(run.images))
        for text in HOSTILE:
            run.say(Notice("warning", text), Finished("failed", 3, text, text))
        run.sample(prompt=HOSTILE[0] + "[/b]" + "\x1b[2J")
        run.stand("failed")

        async def work() -> None:
            async with open_run(tmp_path, (120, 40)) as viewer:
                await viewer.until_shown("failed")
                for _ in range(5):
                    await viewer.type("tab", "j", "j")
                    await viewer.pilot.pause()
                    assert "\x1b" not in "".join(viewer.shown())

        scenario(work)

    def test_foreign_lines_in_the_events_are_passed_over(self, run: FakeRun, tmp_path: Path) -> None:
        with run.directory.events.open("ab") as file:
            file.write(b'\xff\xfe\n{"v":1,"t":"x","kind":"step"}\n{"v":9,"t":1,"kind":"later"}\nnull\n[]\n')
            file.write(
                b'{"v":1,"t":1,"kind":"hardware","cpu":"x","ram_bytes":null,"ram_total_bytes":{},"process_bytes":1}\n'
            )
            file.write(
                b'{"v":1,"t":1,"kind":"saved","step":76,"epoch":null,"path":3,"size_bytes":"x","max_difference":0}\n'
            )
            file.write(b'{"v":1,"t":1,"kind":"notice","level":"shout","message":7}\n')
        run.steps(1)

        async def work() -> None:
            async with open_run(tmp_path, (120, 40)) as viewer:
                await viewer.until_shown("step 77/200")
                for _ in range(5):
                    await viewer.type("tab")
                    await viewer.pilot.pause()

        scenario(work)


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "command", "value"),
        [
            (["p"], "pause", ""),
            (["s"], "save", ""),
            (["x", "y"], "stop", ""),
            (["g", "enter"], "sample", ""),
            (["g", "2", "enter"], "sample", "a fox --s 42"),
            (["r", "backspace", "0", ".", "5", "enter"], "rate", "0.5"),
        ],
    )
    def test_each_leaves_its_command(
        self, run: FakeRun, tmp_path: Path, keys: list[str], command: str, value: str
    ) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.type(*keys)
                await viewer.until(run.commands)
                await viewer.until_shown("left for the run")

        scenario(work)
        assert [(each.name, each.value) for each in Control(run.directory.control).poll()] == [(command, value)]

    def test_a_picture_is_left_out_and_taken_in_again(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.type("i")
                await viewer.until_shown("lately")
                await viewer.type("j", "i")
                await viewer.until(run.commands)
                (command,) = Control(run.directory.control).poll()
                assert command.name == "skip" and command.value in run.images
                run.say(Obeyed("skip", run.done, command.value))
                await viewer.until_shown("left out", f"after step 76: leaves out {command.value}")
                marked = ("▶", command.value, "left out")
                await viewer.until(lambda: any(all(part in line for part in marked) for line in viewer.shown()))
                await viewer.type("i")
                await viewer.until(run.commands)
                (command,) = Control(run.directory.control).poll()
                assert command.name == "unskip"

        scenario(work)

    def test_p_goes_on_after_a_pause(self, run: FakeRun, tmp_path: Path) -> None:
        run.say(Paused(76, "It was told to wait."))
        run.stand("paused")

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("‖ paused")
                await viewer.type("p")
                await viewer.until(run.commands)
                assert run.commands() == ["resume"]
                run.say(Continued(76, 3.0), Obeyed("resume", 76))
                run.stand("running")
                await viewer.until_shown("● running", "after step 76: goes on")

        scenario(work)

    def test_a_stop_is_asked_for_and_a_wrong_factor_refused(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.type("x")
                await viewer.until_shown("Stop after the step in hand", "y stop and save")
                await viewer.type("n")
                await viewer.until_shown("nothing was done")
                await viewer.type("r", "backspace", "0", "enter")
                await viewer.until_shown("A factor is a number from 0.001 to 1000")
                await viewer.type("d")
                await viewer.until_shown("It has a process of its own already")
                await viewer.type("c")
                await viewer.until_shown("There is nothing to go on with: the run is running.")
                assert run.commands() == []

        scenario(work)

    def test_a_read_only_view_sends_nothing(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path, read_only=True) as viewer:
                await viewer.until_shown("read-only")
                for key in "psgxird":
                    await viewer.type(key)
                    await viewer.until_shown("This is a read-only view")
                assert run.commands() == []

        scenario(work)

    def test_a_read_only_view_trains_nothing(self, run: FakeRun, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        before = sorted((tmp_path / "runs").iterdir())

        async def work() -> None:
            async with open_run(tmp_path, read_only=True) as viewer:
                for start in (
                    lambda: viewer.app.start(config),
                    lambda: viewer.app.start_detached(config),
                    lambda: viewer.app.resume(run.directory, detached=True),
                ):
                    with pytest.raises(LoratoryError, match="read-only view"):
                        start()

        scenario(work)
        assert sorted((tmp_path / "runs").iterdir()) == before

    @pytest.mark.parametrize(("key", "detached"), [("h", False), ("d", True)])
    def test_c_goes_on_here_or_detached(
        self, run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, detached: bool
    ) -> None:
        run.stand("running", alive=False)
        asked: list[tuple[Path, bool]] = []

        def resume(_: LoratoryApp, run: RunDirectory, *, detached: bool) -> None:
            asked.append((run.path, detached))

        monkeypatch.setattr(LoratoryApp, "resume", resume)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("✗ crashed")
                await viewer.type("c")
                await viewer.until_shown("h here   d in a process of its own   any other key: nothing")
                await viewer.type(key)
                assert asked == [(run.directory.path, detached)]

        scenario(work)

    def test_o_goes_on_with_what_takes_less_memory(
        self, run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run.say(Finished("failed", 76, "The GPU ran out of memory at batch size 4.", "Try less."))
        run.stand("failed")
        asked: list[bool] = []

        def resume(_: LoratoryApp, run: RunDirectory, *, detached: bool) -> None:
            asked.append(detached)

        monkeypatch.setattr(LoratoryApp, "resume", resume)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("o shows what to change for less memory")
                await viewer.type("o")
                await viewer.until_shown("training.gradient_checkpointing = true")
                await viewer.type("enter")
                await viewer.until(lambda: asked)

        scenario(work)
        assert asked == [False]
        assert load_config(run.directory.config).training.gradient_checkpointing
        assert not make_config(tmp_path).training.gradient_checkpointing

    def test_d_stops_the_run_here_and_goes_on_with_it_detached(
        self, run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = OwnRun(run.directory)
        asked: list[bool] = []

        def resume(_: LoratoryApp, run: RunDirectory, *, detached: bool) -> None:
            asked.append(detached)

        monkeypatch.setattr(LoratoryApp, "resume", resume)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                viewer.app.own_run = own  # pyright: ignore[reportAttributeAccessIssue]
                await viewer.type("d")
                await viewer.until_shown("y move it")
                await viewer.type("y")
                await viewer.until(run.commands)
                assert run.commands() == ["stop"] and not asked
                own.is_alive, own.finished = False, Finished("stopped", 76)
                await viewer.until(lambda: asked == [True])

        scenario(work)

    def test_the_help_tells_every_key(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path, (100, 60)) as viewer:
                await viewer.type("?")
                await viewer.until_shown("save the adapter now", "draw a sample now", "scale the learning rates")

        scenario(work)


class TestViewers:
    def test_two_viewers_see_the_same_and_both_are_obeyed(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as one, open_run(tmp_path, (120, 40)) as other:
                await one.type("s")
                await other.type("p")
                assert run.commands() == ["save", "pause"]
                run.say(Obeyed("save", 76), Obeyed("pause", 76), Paused(76, "It was told to wait."))
                run.stand("paused")
                for viewer in (one, other):
                    await viewer.until_shown("‖ paused", "It was told to wait.")

        scenario(work)

    def test_nothing_is_read_while_another_pane_is_in_front(self, run: FakeRun, tmp_path: Path) -> None:
        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                await viewer.until_shown("step 76/200")
                follower = viewer.pane.follower
                assert follower is not None
                await viewer.app.push_screen(ModalScreen[None]())
                assert not follower.is_looked_at
                run.steps(5)
                viewer.app.pop_screen()
                await viewer.until_shown("step 81/200")
                assert follower.is_looked_at

        scenario(work)

    def test_other_runs_lie_over_this_one_or_take_its_place(self, run: FakeRun, tmp_path: Path) -> None:
        other = FakeRun(tmp_path)
        other.start()
        other.steps(20)

        async def work() -> None:
            async with open_run(tmp_path) as viewer:
                viewer.app.show_run(run.directory)
                await viewer.until_shown("step 76/200")
                viewer.pane.overlay([run.directory, other.directory])
                await viewer.type("tab")
                await viewer.until_shown(f" a {run.directory.name}", f" b {other.directory.name}")
                viewer.app.show_run(other.directory)
                await viewer.until_shown("step 20/200")
                assert not viewer.pane.others
                await viewer.type("R")
                await viewer.until_shown(run.directory.name, other.directory.name, "overlay")

        scenario(work)

    def test_only_what_changed_is_sent(self) -> None:
        plain, bold = Style(), Style(bold=True)
        old = Strip([Segment("step 12 of 日本 500", plain)])
        assert changed_cells(old, Strip([Segment("step 13 of 日本 500", plain)]), 19) == [(6, 7)]
        assert changed_cells(old, Strip([Segment("step 12 of 日木 500", plain)]), 19) == [(13, 15)]
        assert changed_cells(old, Strip([Segment("step 12", plain), Segment(" of 日本 500", plain)]), 19) == []
        assert changed_cells(old, Strip([Segment("step ", bold), Segment("12 of 日本 501", plain)]), 19) == [
            (0, 5),
            (18, 19),
        ]
