"""The Prepare and Statistics panes in a real terminal, by keys alone: from originals to a balanced training folder."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from loratory.imaging.recipe import Recipe
from loratory.imaging.recipe_toml import read_recipes
from prepare_app import RECIPES, subject
from terminal import PROGRAM, Terminal, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def open_pane(terminal: Terminal, folder: Path, digit: str, width: int = 80, height: int = 24) -> None:
    """Starts the program on a folder and goes to a pane by its keys."""
    terminal.run([*PROGRAM, str(folder)], width, height)
    terminal.wait_for("NORMAL ")
    terminal("send-keys", "g", digit)


def quit_program(terminal: Terminal) -> None:
    terminal("send-keys", "C-q")
    terminal.ends_with(0)


def answer(terminal: Terminal, question: str, text: str) -> None:
    """Writes over what a question offers."""
    terminal.wait_for(rf"^ +{question} ›")
    terminal("send-keys", "C-u")
    terminal("send-keys", "-l", text)
    # The line scrolls where it is longer.
    terminal.wait_for(re.escape(text[-20:]))
    terminal("send-keys", "Enter")


def family_of(terminal: Terminal) -> list[psutil.Process]:
    """The program below the shell of the terminal's window, and all it has started."""
    (program,) = psutil.Process(int(terminal("display-message", "-p", "#{pane_pid}"))).children()
    return [program, *program.children(recursive=True)]


def folders_in(training: Path) -> set[str]:
    return {path.name for path in training.iterdir() if path.name != ".loratory"}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 48)])
def test_originals_become_a_balanced_set_by_keys_alone(
    terminal: Terminal, tmp_path: Path, width: int, height: int
) -> None:
    # A name that means something to a terminal, to markup and to a shell.
    raw = tmp_path / "my [b]originals"
    raw.mkdir()
    for index, name in enumerate(("a", "b", "c", "d")):
        subject((1200 + 8 * index, 900), (300 + 90 * index, 200, 900, 700)).save(raw / f"{name}.webp", lossless=True)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    training = tmp_path / "training"
    other = training / "10_wolf"
    other.mkdir(parents=True)
    for index in range(2):
        subject((640, 640), (100 + 50 * index, 90, 500, 560), "green").save(other / f"w{index}.png")
        (other / f"w{index}.txt").write_text("wolf, animal")

    open_pane(terminal, raw, "2", width, height)
    terminal.wait_for(r"PREPARE .* 4 to be built · \d+ with findings")
    terminal("send-keys", "c", "1", "0", "0", "l", "j", "Tab", "2", "0", "0", "h", "1", "0", "0", "k")
    terminal.wait_for("900x700 px")
    terminal("send-keys", "Enter")
    terminal.wait_for("crop to 900x700 · u undoes it")
    terminal("send-keys", "j", "x")
    terminal.wait_for("flip · u undoes it")
    terminal("send-keys", "j", "d")
    terminal.wait_for("leave out · u undoes it")
    terminal("send-keys", "u")
    terminal.wait_for("undone: leave out")
    terminal("send-keys", "r")
    answer(terminal, "training folder", "../training")
    answer(terminal, "token", "fox")
    answer(terminal, r"class", "")
    answer(terminal, "repeats", "10")
    answer(terminal, "resolution", "512")
    lines = terminal.wait_for("4 pictures built")
    assert not any(re.search("failed|left alone", line) for line in lines)
    terminal.wait_for(r"PREPARE .* 0 to be built · \d+ with findings")
    quit_program(terminal)

    recipes = read_recipes(raw / "recipes.toml").recipes
    assert recipes == {"a.webp": Recipe(crop=(100, 100, 1000, 800)), "b.webp": Recipe(flip=True)}
    sizes: dict[str, tuple[int, int]] = {}
    for path in (training / "10_fox").glob("*.png"):
        with Image.open(path) as made:
            sizes[path.name] = made.size
    assert sizes == {"a.png": (900, 700), "b.png": (1208, 900), "c.png": (1216, 900), "d.png": (1224, 900)}
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.suffix == ".webp"} == before
    terminal.close()

    terminal = Terminal()
    try:
        open_pane(terminal, training, "3", width, height)
        terminal.wait_for(r"10_fox +4 +10 +40 +66.7%")
        terminal("send-keys", "b")
        terminal.wait_for(r"10_wolf +2 +10 → 20 +40 +50.0%")
        assert folders_in(training) == {"10_fox", "10_wolf"}, "nothing is renamed before a"
        terminal("send-keys", "a")
        terminal.wait_for("1 folder renamed; u takes it back")
        assert folders_in(training) == {"10_fox", "20_wolf"}
        terminal.wait_for(r"20_wolf +2 +20 +40 +50.0%")
        # The pictures of a row in the tag editor, and back.
        terminal("send-keys", "G", "Enter")
        terminal.wait_for(r"NORMAL .*image 1/2\b")
        terminal("send-keys", "g", "3")
        terminal.wait_for(r"▶ 20_wolf")
        terminal("send-keys", "u")
        terminal.wait_for("the folders have their old names again")
        assert folders_in(training) == {"10_fox", "10_wolf"}
        assert (other / "w0.txt").read_text() == "wolf, animal"
        quit_program(terminal)
    finally:
        terminal.close()


def noise(folder: Path, count: int) -> None:
    """Originals that take their time: each is written as a PNG that cannot be made small."""
    folder.mkdir()
    for index in range(count):
        Image.effect_noise((1600, 1200 + index), 90).convert("RGB").save(folder / f"n{index:02}.bmp")


def test_a_killed_run_is_gone_on_with(terminal: Terminal, tmp_path: Path) -> None:
    raw, concept = tmp_path / "raw", tmp_path / "train" / "3_fox"
    noise(raw, 12)
    (raw / "recipes.toml").write_text(RECIPES)
    open_pane(terminal, raw, "2")
    terminal.wait_for(r"PREPARE .* 12 to be built")
    terminal("send-keys", "r")
    wait_for(lambda: len(list(concept.glob("*.png"))) >= 2)
    for process in family_of(terminal):
        process.kill()
    terminal.wait_for("exit code 137")
    made = {path.name: path.stat().st_mtime_ns for path in concept.glob("*.png")}
    assert 2 <= len(made) < 12, "the run was not caught half way"
    terminal.close()

    terminal = Terminal()
    try:
        open_pane(terminal, raw, "2")
        # Those that were done are known to be.
        lines = terminal.wait_for(r"PREPARE .* [1-9]\d* to be built")
        pending = int(re.findall(r"(\d+) to be built", "\n".join(lines))[0])
        assert 12 - len(made) <= pending < 12
        terminal("send-keys", "r")
        terminal.wait_for(rf"{pending} pictures built")
        quit_program(terminal)
    finally:
        terminal.close()
    assert {path.name for path in concept.iterdir()} == {f"n{index:02}.png" for index in range(12)}
    for index in range(12):
        with Image.open(raw / f"n{index:02}.bmp") as source, Image.open(concept / f"n{index:02}.png") as result:
            assert result.tobytes() == source.tobytes()
    kept = {path.name for path in concept.iterdir() if made.get(path.name) == path.stat().st_mtime_ns}
    assert len(kept) >= 12 - pending, "what was made is not made again"


def test_a_terminal_that_goes_away_and_one_that_can_do_less(terminal: Terminal, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    noise(raw, 6)
    (raw / "recipes.toml").write_text(RECIPES)
    terminal.run(["env", "NO_COLOR=1", "TERM=screen", "LC_ALL=C", *PROGRAM, str(raw), "--ascii"])
    terminal.wait_for("NORMAL ")
    terminal("send-keys", "g", "2")
    terminal.wait_for(r"PREPARE .* 6 to be built")
    terminal.wait_for("1600x1200 ->")
    terminal("send-keys", "c", "a", "l")
    # The box is shown, and the picture beside what is told of it.
    lines = terminal.until(lambda lines: "1575x1200 px" in "\n".join(lines) and sum("++" in line for line in lines) > 8)
    screen = "\n".join(lines)
    assert "CROP " in screen
    assert screen.isascii(), sorted(set(re.findall(r"[^\x00-\x7f]", screen)))
    # The window is made small and large again while boxes are marked.
    for width, height in ((30, 8), (80, 24)):
        terminal("resize-window", "-x", str(width), "-y", str(height))
    assert terminal.shows(lines)
    terminal("send-keys", "Escape")
    terminal.wait_for("the picture stays as it was")
    terminal("send-keys", "f", "r")
    terminal.wait_for(r"building|0/6|\d% ")
    family = family_of(terminal)
    terminal("kill-server")
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "the program and its workers end with their terminal"
