"""The gallery under the pilot: paging, comparing, what appears by itself, and what nothing may break."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fake_run import FakeRun
from hostile import TAGS as HOSTILE
from loratory.errors import LoratoryError
from loratory.runs.control import Control
from loratory.runs.events import Sampled, Started, Timed
from loratory.sampling.prompts import Prompt, parameters_text
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.gallery.screen import GalleryScreen
from loratory.tui.gallery.shelf import Finder, Shelf
from loratory.tui.gallery.sources import Difference, Thumbnails, psnr_db
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import Project
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.preview import Preview
from pane_app import Person


class Visitor(Person):
    """A gallery in a program of its own."""

    @property
    def pane(self) -> GalleryScreen:
        pane = self.app.panes["gallery"]
        assert isinstance(pane, GalleryScreen)
        return pane

    @property
    def name(self) -> str:
        path = self.pane.standing.path
        return path.name if path else ""

    def preview(self, name: str) -> Preview:
        return self.pane.query_one(f"#gallery-{name}", Preview)


@asynccontextmanager
async def visit(
    root: Path,
    size: tuple[int, int] = (80, 24),
    *,
    mode: str = "half",
    glyphs: Glyphs = UNICODE,
    read_only: bool = False,
) -> AsyncGenerator[Visitor]:
    app = LoratoryApp(
        None,
        Keymaps(None),
        Graphics(mode),  # pyright: ignore[reportArgumentType]
        glyphs,
        project=Project(root, root / "runs"),
        first="gallery",
        read_only=read_only,
    )
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            visitor = Visitor(app, pilot)
            await visitor.until(lambda: visitor.pane.is_mounted and visitor.pane.has_looked)
            yield visitor
    finally:
        app.close()


def sample(
    run: FakeRun, step: int, index: int, prompt: str, *, grey: int = 0, size: tuple[int, int] = (64, 64)
) -> Path:
    """A picture of one colour, and the event that tells of it."""
    path = run.directory.samples / f"step{step:08d}-{index:02d}-7.png"
    info = PngInfo()
    settings = Prompt(prompt, "bad", *size, 7, 20, 6.5, "euler_a")
    info.add_text("parameters", parameters_text(settings, f"fox at step {step}"))
    Image.new("RGB", size, (grey, grey, grey)).save(path, pnginfo=info)
    run.say(Sampled(step, 1 + step // 20, str(path.relative_to(run.directory.path)), prompt, index, 7))
    return path


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """Two prompts at steps 0, 20 and 40; the second also at 30."""
    run = FakeRun(tmp_path)
    run.start()
    for step in (0, 20, 40):
        sample(run, step, 0, "a fox [/b]", grey=step)
        sample(run, step, 1, "a cat", grey=2 * step)
        if step == 20:
            sample(run, 30, 1, "a cat", grey=70)
    return run


class TestPaging:
    def test_steps_and_prompts(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                await visitor.until_shown("step 40 · epoch 3 · 3 of 3 · prompt 1 of 2", "a fox [/b]", "samples 7")
                await visitor.type("j", "h")
                await visitor.until_shown("step 30", "3 of 4 · prompt 2 of 2", "a cat  · seed 7")
                await visitor.type("k")  # the step of this prompt that is nearest
                await visitor.until_shown("prompt 1 of 2")
                assert visitor.name == "step00000020-00-7.png"
                await visitor.type("home", "left", "o")
                await visitor.until(lambda: "step00000000-00-7.png" in visitor.pane.message)
                await visitor.type("G")
                assert visitor.name == "step00000040-00-7.png"
                await visitor.type("f")
                await visitor.until(lambda: visitor.preview("one").size.height == 24)
                await visitor.type("escape")
                await visitor.until(lambda: visitor.preview("one").size.height == 19)

        asyncio.run(scenario())

    def test_pictures_that_come_appear_and_who_stands_at_the_newest_follows(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                sample(run, 60, 0, "a fox [/b]")
                await visitor.until_shown("step 60", "4 of 4", "samples 8")
                await visitor.type("h", "h")
                sample(run, 80, 0, "a fox [/b]")
                await visitor.until_shown("samples 9")
                assert visitor.name == "step00000020-00-7.png"
                folder = run.directory.path / "grids"
                folder.mkdir()
                Image.new("RGB", (80, 60)).save(folder / "grid-00-abc.png")
                await visitor.until_shown("grids 1")
                await visitor.type("tab")
                await visitor.until_shown("1 of 1", "grid-00-abc.png")
                await visitor.type("space")
                assert "for samples" in visitor.pane.message

        asyncio.run(scenario())

    def test_a_list_where_there_are_no_pictures(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario(mode: str, glyphs: Glyphs) -> None:
            async with visit(tmp_path, mode=mode, glyphs=glyphs) as visitor:
                await visitor.until_shown("a fox [/b] (seed 7)", "samples/step00000040-00-7.png")
                await visitor.type("j")
                await visitor.until_shown("> " if glyphs is ASCII else "▶ ")
                assert visitor.name == "step00000040-01-7.png"
                await visitor.type("v")
                if mode == "off":
                    assert "switched off" in visitor.pane.message and visitor.pane.lists
                else:
                    assert not visitor.pane.lists

        asyncio.run(scenario("off", UNICODE))
        asyncio.run(scenario("ascii", ASCII))

    @pytest.mark.parametrize("size", [(160, 48), (40, 12), (20, 5)])
    def test_other_sizes(self, run: FakeRun, tmp_path: Path, size: tuple[int, int]) -> None:
        async def scenario() -> None:
            async with visit(tmp_path, size) as visitor:
                await visitor.type("j", "space", "equals_sign", "t", "v", "v", "f", "f", "tab", "tab", "escape")
                await visitor.until(lambda: visitor.name == "step00000040-01-7.png")
                if size[0] == 160:
                    await visitor.until_shown("a cat (seed 7)")
                    assert visitor.preview("one").size.width > 110

        asyncio.run(scenario())


class TestComparing:
    def test_beside_the_first_and_what_is_other(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                await visitor.type("space")
                await visitor.until_shown("left: step 0")
                await visitor.until(lambda: visitor.preview("other").size.width > 30)
                first = visitor.preview("other").source
                assert isinstance(first, Path) and first.name == "step00000000-00-7.png"
                await visitor.type("equals_sign")
                # 40 levels apart everywhere: 20 log10(255 / 40).
                await visitor.until(lambda: "PSNR 16.1 dB, against step 0" in visitor.pane.message)
                assert isinstance(visitor.preview("one").source, Difference)
                await visitor.type("home")
                await visitor.until(lambda: "the same picture" in visitor.pane.message)
                await visitor.type("t")
                await visitor.until_shown("all steps")
                sheet = visitor.preview("one").source
                assert isinstance(sheet, Thumbnails) and len(sheet.pictures) == 3 and sheet.here == 0
                await visitor.type("l")
                await visitor.until(lambda: getattr(visitor.preview("one").source, "here", None) == 1)
                await visitor.type("escape")
                await visitor.until(lambda: isinstance(visitor.preview("one").source, Path))

        asyncio.run(scenario())

    def test_pictures_of_other_sizes_and_pictures_that_are_gone(self, run: FakeRun, tmp_path: Path) -> None:
        sample(run, 60, 0, "a fox [/b]", size=(96, 64))
        gone = sample(run, 80, 0, "a fox [/b]")
        gone.unlink()

        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                await visitor.type("i")
                await visitor.until(lambda: "cannot be read" in visitor.pane.message)
                await visitor.type("h", "equals_sign")
                await visitor.until(lambda: "The sizes differ: 96x64 and 64x64" in visitor.pane.message)
                await visitor.type("t")
                await visitor.until(lambda: visitor.preview("one").drawn)

        asyncio.run(scenario())

    def test_sources(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{level}.png" for level in (10, 30, 200)]
        for path in paths:
            Image.new("RGB", (32, 32), (int(path.stem),) * 3).save(path)
        assert np.asarray(Difference(paths[1], paths[0]).open((9, 9))).max() == 60
        assert np.asarray(Difference(paths[2], paths[0]).open((9, 9))).max() == 255
        assert psnr_db(paths[0], paths[0]) == float("inf")
        sheet = Thumbnails(tuple((path, "x") for path in paths), 1).open((300, 100))
        assert sheet.size == (300, 100)
        assert {10, 30, 200} <= set(np.asarray(sheet).reshape(-1, 3)[:, 2].tolist())
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"\x89PNG")
        Thumbnails(((broken, "x"),), 0).open((10, 4))
        with pytest.raises(LoratoryError, match=r"broken\.png"):
            psnr_db(broken, paths[0])


class TestAsking:
    def test_the_settings_of_a_picture(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                await visitor.type("i")
                await visitor.until_shown(
                    "Sampler: Euler a, CFG scale: 6.5, Seed: 7", "Negative prompt: bad", "a fox [/b]"
                )
                await visitor.type("escape")
                await visitor.until(lambda: visitor.app.screen is visitor.pane)

        asyncio.run(scenario())

    def test_a_sample_now(self, run: FakeRun, tmp_path: Path) -> None:
        control = Control(run.directory.control)

        async def scenario() -> None:
            async with visit(tmp_path) as visitor:
                await visitor.type("g")
                await visitor.until(lambda: visitor.pane.is_asking)
                await visitor.type("space", "minus", "minus", "q", "enter")
                assert "--q is not known" in visitor.pane.message and not control.poll()
                await visitor.type("g")
                await visitor.until(lambda: visitor.pane.is_asking)
                await visitor.type("enter")
                assert "asked for" in visitor.pane.message
                (command,) = control.poll()
                asked = "a fox [/b] --n bad --w 64 --h 64 --d 7 --s 20 --l 6.5 --ss euler_a"
                assert (command.name, command.value) == ("sample", asked)
                run.stand("done")
                await visitor.type("g")
                assert "the run is done" in visitor.pane.message

        asyncio.run(scenario())

    def test_a_read_only_view_asks_for_nothing(self, run: FakeRun, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with visit(tmp_path, read_only=True) as visitor:
                await visitor.type("g")
                assert "read-only" in visitor.pane.message and not visitor.pane.is_asking

        asyncio.run(scenario())

    def test_empty_states_say_how_pictures_come_about(self, tmp_path: Path) -> None:
        async def scenario(*texts: str) -> None:
            async with visit(tmp_path) as visitor:
                await visitor.until_shown(*texts[:1])
                await visitor.type("i")
                assert "no picture yet" in visitor.pane.message
                await visitor.type("tab")
                await visitor.until_shown(*texts[1:])

        asyncio.run(scenario("No run in", "No run in"))
        run = FakeRun(tmp_path)
        run.start()
        asyncio.run(scenario("has drawn no samples yet", "has no grids yet", "loratory grid"))


def test_hostile_prompts_show_as_themselves(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.start()
    for index, prompt in enumerate(HOSTILE):
        path = run.directory.samples / f"step00000000-{index:02d}-7.png"
        Image.new("RGB", (8, 8)).save(path)
        run.say(Sampled(0, 1, str(path.relative_to(run.directory.path)), prompt, index, 7))

    async def scenario(mode: str) -> None:
        async with visit(tmp_path, (160, 48), mode=mode) as visitor:
            for _ in HOSTILE:
                await visitor.type("j")
            await visitor.type("i")
            await visitor.until(lambda: visitor.app.screen is not visitor.pane)
            await visitor.type("escape", "t", "g", "escape")
            assert not any("\x1b" in line for line in visitor.shown())

    asyncio.run(scenario("half"))
    asyncio.run(scenario("off"))


class TestShelf:
    def told(self, run: FakeRun, step: int, index: int = 0, prompt: str = "fox", tail: str = "") -> Timed:
        name = f"step{step:08d}-{tail or f'{index:02d}-7'}.png"
        return Timed(0.0, Sampled(step, 1, f"samples/{name}", prompt, index, 7))

    def test_what_was_lost_is_forgotten_and_what_is_drawn_again_stands_once(self, tmp_path: Path) -> None:
        run = FakeRun(tmp_path)
        shelf = Shelf(run.directory)
        for step in (0, 10, 20, 30):
            shelf.add(self.told(run, step))
        shelf.add(self.told(run, 30, 1, "cat"))
        shelf.add(Timed(0.0, Started(10, 100, 1, 100, "cpu", "1")))
        assert [[picture.step for picture in row.pictures] for row in shelf.rows] == [[0, 10]]
        shelf.add(self.told(run, 10))
        shelf.add(self.told(run, 20))
        assert [picture.step for picture in shelf.rows[0].pictures] == [0, 10, 20]

    def test_one_row_for_each_prompt_and_seed(self, tmp_path: Path) -> None:
        run = FakeRun(tmp_path)
        shelf = Shelf(run.directory)
        shelf.add(self.told(run, 10, 0))
        shelf.add(self.told(run, 10, 0, tail="asked1-00-7"))  # the same prompt, asked for
        shelf.add(self.told(run, 10, 1, tail="01-8"))  # the same words, another seed
        shelf.add(self.told(run, 20, -1, tail="asked1-own-7"))
        shelf.add(self.told(run, 30, -1, tail="asked1-own-7"))
        assert [(len(row.pictures), row.seed) for row in shelf.rows] == [(2, 7), (1, 8), (2, 7)]

    def test_the_finder_reads_on_and_notices_another_file(self, tmp_path: Path) -> None:
        run = FakeRun(tmp_path)
        finder = Finder(run.directory)
        run.start()
        run.steps(50)
        sample(run, 10, 0, "fox")
        events, is_other = finder.new_events()
        assert [type(timed.event) for timed in events] == [Started, Sampled] and not is_other
        with run.directory.events.open("ab") as file:
            file.write(b'{"kind":"sampled","t":1,"st')  # being written
        assert finder.new_events() == ([], False)
        run.directory.events.write_bytes(b"")
        assert finder.new_events() == ([], True)
        run.directory.events.unlink()
        assert finder.new_events() == ([], False)
