"""The picture pane in a running program, and what it writes to the terminal."""

import asyncio
import codecs
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image
from rich.segment import Segment
from textual.app import App, ComposeResult
from textual.widgets import Input

from loratory.imaging import pixels
from loratory.terminal.modes import Graphics, Mode
from loratory.tui.graphics.kitty import MARKS
from loratory.tui.graphics.newest import NewestFirst
from loratory.tui.widgets import preview
from loratory.tui.widgets.preview import Preview

RED, BLUE = (255, 0, 0), (0, 0, 255)
RED_HEX = "#ff0000"


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textual.constants.COLOR_SYSTEM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def tmux_folder() -> Iterator[str]:
    """Where a tmux server of the test has its socket, whose path may have 107 bytes; the server is ended."""
    folder = tempfile.mkdtemp(prefix="loratory-")
    yield folder
    subprocess.run(["tmux", "-S", f"{folder}/socket", "kill-server"], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


class Viewer(App[None]):
    CSS = "Preview { background: #101010; } Input { dock: bottom; }"

    def __init__(self, graphics: Graphics) -> None:
        super().__init__()
        self.preview = Preview(graphics)

    def compose(self) -> ComposeResult:
        yield self.preview
        yield Input()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (200, 100)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def ground(segment: Segment) -> str:
    return segment.style.bgcolor.get_truecolor().hex


def ink(segment: Segment) -> str:
    return segment.style.color.get_truecolor().hex if segment.text.startswith("▀") else ""


def grounds(viewer: Viewer) -> list[list[str]]:
    """The ground of every cell of the pane, as it is painted."""
    lines = map(viewer.preview.render_line, range(viewer.preview.size.height))
    return [[ground(segment) for segment in line for _ in segment.text] for line in lines]


def words(viewer: Viewer) -> str:
    return " ".join(" ".join(viewer.preview.render_line(y).text for y in range(viewer.preview.size.height)).split())


@pytest.mark.parametrize("size", [(10, 6), (33, 17), (80, 24), (120, 43)])
def test_shows_a_picture_in_the_middle_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    async def main() -> None:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=size, notifications=True):
            viewer.preview.show(picture(tmp_path / "a.png", RED, (400, 300)))
            await viewer.until(lambda: viewer.preview.drawn)
            columns, rows = viewer.preview.size
            painted = [
                [RED_HEX in (ground(segment), ink(segment)) for segment in line for _ in segment.text]
                for line in map(viewer.preview.render_line, range(rows))
            ]
            assert {len(row) for row in painted} == {columns} == {size[0]}
            width, height = max(map(sum, painted)), sum(map(any, painted))
            assert width == columns or height == rows
            assert abs(width * 300 / 400 - 2 * height) <= 1.5
            above = [any(row) for row in painted].index(True)
            left = painted[rows // 2].index(True)
            assert (above, left) == ((rows - height) // 2, (columns - width) // 2)
            viewer.preview.show(None)
            assert set(chain(*grounds(viewer))) == {"#101010"}

    asyncio.run(main())


def test_follows_the_size_of_the_pane_and_of_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=(40, 20)) as pilot:
            path = picture(tmp_path / "a.png", RED)
            viewer.preview.show(path)
            await viewer.until(lambda: viewer.preview.drawn)
            await pilot.resize_terminal(20, 10)
            await viewer.until(lambda: viewer.preview.drawn and grounds(viewer)[3].count(RED_HEX) == 20)
            picture(tmp_path / "other.png", BLUE, (300, 100)).replace(path)
            viewer.preview.show(path)  # what was drawn is shown at once, then compared with the file
            assert RED_HEX in grounds(viewer)[3]
            await viewer.until(lambda: "#0000ff" in grounds(viewer)[3])
            path.unlink()
            viewer.preview.show(path)
            await viewer.until(lambda: "cannot be opened" in words(viewer))

    asyncio.run(main())


def test_a_picture_that_takes_long_delays_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, started = threading.Event(), threading.Event()
    read: list[str] = []

    def slow(path: Path) -> Image.Image:
        read.append(path.name)
        started.set()
        if path.name == "slow.png":
            assert held.wait(20)
        return Image.new("RGB", (8, 8), BLUE)

    async def main() -> None:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=(40, 20)) as pilot:
            monkeypatch.setattr(pixels, "open_rgb", slow)
            viewer.preview.show(tmp_path / "slow.png")
            await viewer.until(started.is_set)
            await pilot.press("h", "i")
            assert viewer.query_one(Input).value == "hi"
            for index in range(50):
                viewer.preview.show(tmp_path / f"{index}.png")
            assert not viewer.preview.drawn
            held.set()
            await viewer.until(lambda: viewer.preview.drawn)
            assert "#0000ff" in grounds(viewer)[10]

    asyncio.run(main())
    # Of those that were passed by while the first was read, none was.
    assert read == ["slow.png", "49.png"]


def test_a_picture_that_never_comes_leaves_an_empty_pane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    async def main() -> float:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=(40, 20)):
            viewer.preview.show(picture(tmp_path / "a.png", RED))
            await viewer.until(lambda: viewer.preview.drawn)
            monkeypatch.setattr(pixels, "open_rgb", lambda path: held.wait(20) and None)
            viewer.preview.show(tmp_path / "b.png")
            assert RED_HEX in grounds(viewer)[10]  # no flicker
            await viewer.until(lambda: set(chain(*grounds(viewer))) == {"#101010"})
            return time.monotonic()

    left_s = asyncio.run(main())
    assert time.monotonic() - left_s < 5  # the thread that hangs is not waited for
    held.set()


def test_prefetches_and_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(path: Path) -> Image.Image:
        read.append(path.name)
        return Image.new("RGB", (8, 8), RED)

    async def main() -> None:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=(40, 20)):
            monkeypatch.setattr(pixels, "open_rgb", reading)
            viewer.preview.show(tmp_path / "0")
            await viewer.until(lambda: viewer.preview.drawn)
            viewer.preview.prefetch(tmp_path / "1")
            await viewer.until(lambda: len(viewer.preview._drawings) == 2)
            viewer.preview.show(tmp_path / "1")
            assert viewer.preview.drawn  # at once
            for index in range(2, 40):
                viewer.preview.show(tmp_path / str(index))
                await viewer.until(lambda: viewer.preview.drawn)
            assert len(viewer.preview._drawings) == 32
            viewer.preview.show(tmp_path / "39")
            viewer.preview.show(tmp_path / "0")
            await viewer.until(lambda: viewer.preview.drawn)
            monkeypatch.setattr(preview, "_KEPT_BYTES", 1)
            viewer.preview.show(tmp_path / "40")
            await viewer.until(lambda: viewer.preview.drawn)
            assert len(viewer.preview._drawings) <= 2

    asyncio.run(main())
    assert read == [*map(str, range(40)), "0", "40"]


def test_over_ssh_a_held_key_draws_only_where_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(path: Path) -> Image.Image:
        read.append(path.name)
        return Image.new("RGB", (8, 8), RED)

    async def main() -> None:
        viewer = Viewer(Graphics("half", over_ssh=True))
        async with viewer.run_test(size=(40, 20)):
            monkeypatch.setattr(pixels, "open_rgb", reading)
            monkeypatch.setattr(preview, "_DEBOUNCE_S", 0.3)
            viewer.preview.show(tmp_path / "0")
            await viewer.until(lambda: viewer.preview.drawn)
            for index in range(1, 9):
                viewer.preview.show(tmp_path / str(index))
                await asyncio.sleep(0)
            await viewer.until(lambda: viewer.preview.drawn)

    asyncio.run(main())
    assert read == ["0", "8"]


def test_a_defect_in_drawing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> Image.Image:
        raise ZeroDivisionError("[/b] by zero")

    async def main() -> None:
        viewer = Viewer(Graphics("half"))
        async with viewer.run_test(size=(60, 20)):
            monkeypatch.setattr(pixels, "open_rgb", broken)
            viewer.preview.show(tmp_path / "[b].png")
            await viewer.until(lambda: viewer.preview.drawn)
            assert words(viewer) == "[b].png: cannot be shown (ZeroDivisionError: [/b] by zero)"
            monkeypatch.setattr(pixels, "open_rgb", lambda path: Image.new("RGB", (8, 8), RED))
            viewer.preview.show(tmp_path / "b")  # the thread lives
            await viewer.until(lambda: RED_HEX in grounds(viewer)[10])

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["kitty", "half"])
def test_without_colours_it_draws_in_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def main() -> None:
        viewer = Viewer(Graphics(mode))
        async with viewer.run_test(size=(40, 20)):
            viewer.preview.show(picture(tmp_path / "a.png", (255, 255, 255)))
            await viewer.until(lambda: viewer.preview.drawn)
            assert "@" * 40 in words(viewer).split()
            viewer.theme = "textual-light"  # dark letters: white is none
            await viewer.until(lambda: words(viewer) == "")

    asyncio.run(main())


def test_off_shows_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        viewer = Viewer(Graphics("off"))
        async with viewer.run_test(size=(40, 20)):
            viewer.preview.show(picture(tmp_path / "a.png", RED))
            assert viewer.preview.drawn
            assert words(viewer) == ""

    asyncio.run(main())


def test_the_newest_job_comes_first_and_idle_ones_last() -> None:
    done: list[str] = []
    started, held, finished = threading.Event(), threading.Event(), threading.Event()

    def work(job: str) -> None:
        done.append(job)
        started.set()
        assert held.wait(10)
        if job == "idle 2":
            finished.set()

    newest = NewestFirst[str](work, "test")
    newest.want("first")
    assert started.wait(10)
    for job in ("second", "third"):
        newest.want(job)
    for job in ("idle 1", "idle 2"):
        newest.when_idle(job)
    held.set()
    assert finished.wait(10)
    assert done == ["first", "third", "idle 2"]
    newest.close()
    newest.want("never")
    assert done == ["first", "third", "idle 2"]


# What reaches a terminal

PROGRAM = """
import os
import sys
from pathlib import Path
from textual.app import App
from textual.screen import ModalScreen
from textual.widgets import Static
from loratory.terminal.modes import Graphics
from loratory.terminal.probe import settle
from loratory.tui.widgets.preview import Preview

mode, *pictures = sys.argv[1:]
graphics = settle(None, os.environ) if mode == "asked" else Graphics(mode)

class Dialogue(ModalScreen):
    BINDINGS = [("x", "dismiss", "")]
    def compose(self):
        yield Static("a dialogue", markup=False)

class Viewer(App):
    CSS = "Static { dock: bottom; height: 1; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [("q", "quit", ""), ("j", "next", ""), ("m", "ask", "")]
    def compose(self):
        yield Preview(graphics)
        yield Static("ready", markup=False)
    def on_mount(self):
        self.action_next()
    def action_next(self):
        self.query_one(Preview).show(Path(pictures.pop(0)))
    def action_ask(self):
        self.push_screen(Dialogue())

Viewer().run()
"""
ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parent.parent / "src"),
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
    "LC_ALL": "C.UTF-8",
    "PATH": os.environ["PATH"],
}


class Terminal:
    """A pseudo-terminal in which the program runs; `heard` is all that it wrote."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=ENVIRONMENT | {"LORATORY_HOME": os.environ["LORATORY_HOME"]} | environment,
            start_new_session=True,
        )
        os.close(slave)
        self.heard = ""
        # A tmux that finds its terminal too slow breaks off within a character, and draws everything anew.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def until(self, pattern: str, since: int = 0) -> int:
        """Listens until `pattern` was heard after `since`; where it ended."""
        limit = time.monotonic() + 20
        while not (match := re.compile(pattern, re.DOTALL).search(self.heard, since)):
            assert time.monotonic() < limit, ascii(self.heard[-1500:])
            self._listen()
        return match.end()

    def leave(self) -> None:
        self.press("q")
        while self._listen():
            pass
        assert self._process.wait(10) == 0, self.heard

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _listen(self) -> bool:
        if not select.select([self._master], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.heard += self._decoder.decode(data)
        return bool(data)


@contextmanager
def running(*arguments: object, within: Sequence[str] = (), **environment: str) -> Iterator[Terminal]:
    terminal = Terminal([*within, sys.executable, "-c", PROGRAM, *map(str, arguments)], environment)
    try:
        yield terminal
    finally:
        terminal.close()


# Over SSH, TERM is handed on and COLORTERM is not: then the program writes 256 colours.
@pytest.mark.parametrize("environment", [{}, {"TERM": "xterm-kitty", "COLORTERM": ""}])
def test_kitty_is_sent_each_picture_once_before_its_cells(tmp_path: Path, environment: dict[str, str]) -> None:
    first, second = picture(tmp_path / "a.png", RED), picture(tmp_path / "b.png", BLUE)
    with running("kitty", first, second, first, **environment) as terminal:
        sent = terminal.until(r"\x1b_Ga=T,U=1,q=2,f=100,t=d,i=\d+,c=80,r=20,m=0;[^\x1b]+\x1b\\")
        number = int(re.findall(r"i=(\d+)", terminal.heard)[0])
        byte = MARKS[number >> 24]
        cells = rf"\x1b\[38;5;{number & 255}[;\d]*m\U0010eeee\u0305\u0305{byte}\U0010eeee\u0305\u030d{byte}"
        shown = terminal.until(cells, sent)
        terminal.press("m")
        asked = terminal.until("a dialogue", shown)
        terminal.press("x")
        again = terminal.until(cells, asked)
        terminal.press("j")
        other = terminal.until(r"\x1b_Ga=T[^\x1b]+\x1b\\.*\U0010eeee", again)
        terminal.press("j")
        terminal.until(cells, other)
        terminal.leave()
    assert terminal.heard.count("\x1b_Ga=T") == 2
    deleted = re.findall(r"\x1b_Ga=d,d=I,q=2,i=(\d+)\x1b\\", terminal.heard)
    assert sorted(deleted) == sorted(re.findall(r"a=T[^;]*i=(\d+)", terminal.heard))


def test_sixel_is_drawn_after_its_cells_and_again_when_a_dialogue_closes(tmp_path: Path) -> None:
    drawn = r"\x1b7\x1b\[\d+;\d+H\x1bP0;1q[^\x1b]*\x1b\\\x1b8"
    with running("sixel", picture(tmp_path / "a.png", RED)) as terminal:
        first = terminal.until(drawn)
        terminal.until("ready")
        terminal.press("m")
        asked = terminal.until("a dialogue", first)
        terminal.press("x")
        terminal.until(drawn, asked)
        terminal.leave()
    covered = terminal.heard[first:asked]
    assert "\x1bP" not in covered.partition("a dialogue")[2]
    width, height = map(int, re.findall(r'"1;1;(\d+);(\d+)', terminal.heard)[0])
    row, column = map(int, re.findall(r"\x1b7\x1b\[(\d+);(\d+)H", terminal.heard)[0])
    assert (column - 1) * 10 + width <= 80 * 10
    assert (row - 1) * 20 + height <= 23 * 20  # above the line at the bottom


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")
@pytest.mark.parametrize("passes", [True, False])
def test_through_tmux_the_terminal_around_it_is_asked_and_gets_the_picture(
    tmp_path: Path, tmux_folder: str, passes: bool
) -> None:
    settings = Path(tmux_folder) / "tmux.conf"
    settings.write_text(f"set -g allow-passthrough {'on' if passes else 'off'}\n")
    tmux = ["tmux", "-u", "-S", f"{tmux_folder}/socket", "-f", str(settings), "new-session"]
    with running("asked", picture(tmp_path / "a.png", RED), within=tmux) as terminal:
        if passes:
            terminal.until(r"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\")
            terminal.press("\x1b_Gi=31;OK\x1b\\")
            sent = terminal.until(r"\x1b_Ga=T,U=1,q=2,f=100,t=d,i=\d+,c=79,r=20,m=0;[^\x1b]+\x1b\\")
            number = int(re.findall(r"U=1[^;]*i=(\d+)", terminal.heard)[0])
            # tmux writes a cell anew for each of its marks, after a step back.
            byte = MARKS[number >> 24]
            unfinished = r"(?:\U0010eeee(?:[\x08\r]|\u0305.?[\x08\r]))*"
            row = "".join(rf"{unfinished}\U0010eeee\u0305{mark}{byte}" for mark in MARKS[1:79])
            terminal.until(rf"\x1b\[38;5;{number & 255}m.*{row}[^\U0010eeee]*\U0010eeee", sent)
        else:
            terminal.until(r"48;5;196m")  # what tmux makes of red without RGB among its terminal-features
            assert "\x1b_G" not in terminal.heard
        terminal.leave()
    assert terminal.heard.count("\x1b_Ga=T") == passes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")
def test_in_tmux_the_colours_are_on_the_screen(tmp_path: Path, tmux_folder: str) -> None:
    image = Image.new("RGB", (160, 92), RED)
    image.paste(BLUE, (80, 0, 160, 92))
    image.save(tmp_path / "a.png")
    tmux = ["tmux", "-u", "-S", f"{tmux_folder}/socket", "-f", "/dev/null"]
    environment = [f"{name}={value}" for name, value in ENVIRONMENT.items() if name != "TERM"]
    program = [sys.executable, "-c", PROGRAM, "half", str(tmp_path / "a.png")]
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "80", "-y", "24", "env", "-u", "COLUMNS", *environment, *program],
        check=True,
        env={name: value for name, value in os.environ.items() if name != "TMUX"},
    )
    limit = time.monotonic() + 20
    expected = r"\x1b\[[^m]*48;2;255;0;0m {40}\x1b\[[^m]*48;2;0;0;255m *\n"
    while True:
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True, check=True)
        if len(re.findall(expected, shown.stdout)) == 23:
            break
        assert time.monotonic() < limit, ascii(shown.stdout)
        time.sleep(0.05)
    assert "ready" in shown.stdout.splitlines()[23]
