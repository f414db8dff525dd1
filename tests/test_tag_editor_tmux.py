"""The tag editor in a real terminal, by its keys alone: a set tagged from end to end, and what may happen meanwhile."""

import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageOps

from loratory.tags.journal import Journal
from terminal import PROGRAM, Terminal, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]
ROOT = Path(__file__).parent.parent
DEMO = ROOT / "src" / "loratory" / "demo" / "pictures" / "10_hrt"
PAGE = ROOT / "docs" / "key-presses.md"
HINTS = "asdfghjklewruiop"

GLOBALS = ["mizutsune", "feral", "nude", "blue eyes", "side view"]
ADDED = ["action pose", "bubble", "soap", "grin"]
# What is typed for each of ADDED before Tab.
TYPED = ["act", "bub", "soa", "gri"]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class Keyboard:
    """Presses keys in a terminal and counts them: `counted[step]` is (keys, characters of text)."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.counted: dict[str, tuple[int, int]] = {}
        self._keys = self._characters = 0

    def press(self, *keys: str) -> None:
        self.terminal("send-keys", *keys)
        self._keys += len(keys)

    def write(self, text: str) -> None:
        self.terminal("send-keys", "-l", text)
        self._characters += len(text)

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Counts what is pressed within; a step done again counts as its longest."""
        self._keys = self._characters = 0
        yield
        self.counted[name] = max(self.counted.get(name, (0, 0)), (self._keys, self._characters), key=sum)


def make_demo_set(folder: Path, count: int) -> list[str]:
    """The demo's pictures, each cut, sized and coloured in a way of its own, without captions; their stems."""
    folder.mkdir(parents=True)
    sources = sorted(DEMO.glob("*.webp"))
    stems: list[str] = []
    for index in range(count):
        source = sources[index % len(sources)]
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
        if index >= len(sources):
            picture = ImageOps.mirror(ImageOps.invert(picture))
        box = (index % 7, index % 5, picture.width - index % 11, picture.height - index % 3)
        stems.append(f"{index + 1:02}_{source.stem}")
        picture.crop(box).resize((96 + 8 * (index % 9), 96 + 8 * (index % 6))).save(folder / f"{stems[-1]}.png")
    return stems


def side(lines: list[str]) -> list[str]:
    """The right-hand column: facts, tags, findings, suggestions; the picture in half blocks stands before it."""
    return [line.partition("│")[2].lstrip(" ▀▄█").rstrip() for line in lines]


def wait_for_tags(terminal: Terminal, tags: list[str]) -> None:
    """Waits until the screen shows exactly these tags, in this order, each with its hint."""

    wanted = [f"{hint} {tag} " for hint, tag in zip(HINTS, tags, strict=False)]

    def shown(lines: list[str]) -> bool:
        chips = [row for row in side(lines) if re.match(r"[a-z] \S.*\d$", row)]
        return len(chips) == len(wanted) and all(map(str.startswith, chips, wanted))

    terminal.until(shown, 20, ", ".join(tags))


def editor_process(terminal: Terminal) -> psutil.Process:
    """The editor itself, below the shell of the terminal's window."""
    shell = psutil.Process(int(terminal("display-message", "-p", "#{pane_pid}")))
    (editor,) = shell.children()
    return editor


# ----------------------------------------------------------------------------------------------- a set from end to end


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 48)])
def test_thirty_pictures_are_tagged_by_keys_alone(terminal: Terminal, tmp_path: Path, width: int, height: int) -> None:
    folder = tmp_path / "set" / "10_mizutsune"
    stems = make_demo_set(folder, 30)
    keyboard = Keyboard(terminal)
    press, write, step = keyboard.press, keyboard.write, keyboard.step
    terminal.run([*PROGRAM, str(folder)], width, height)
    terminal.wait_for("30 pictures")
    press(":")
    write("vocabulary e621")
    press("Enter")
    # Danbooru has no soap.
    press("a")
    write("soa")
    terminal.until(lambda lines: any(row.startswith("▶ soap ") for row in side(lines)))
    press("Escape")
    terminal.wait_for("NORMAL")

    with step("five tags in order on all pictures"):
        press("P")
        write(", ".join(GLOBALS))
        press("Enter")
    wait_for_tags(terminal, GLOBALS)
    expected = [list(GLOBALS) for _ in stems]

    for index, tags in enumerate(expected):
        if index:
            with step("next picture"):
                press("j")
        # Every third picture shows other eyes, all others another side.
        gone = "blue eyes" if index % 3 == 1 else "side view"
        with step("remove a tag"):
            press("d", HINTS[tags.index(gone)])
        tags.remove(gone)
        with step("replace a tag"):
            press("c", HINTS[tags.index("nude")])
            write("un")
            press("Enter")
        tags[tags.index("nude")] = "underwear"
        if index % 2:
            order = [0, 1, 2, 3] if index % 4 == 1 else [3, 1, 0, 2]
            with step("add four tags from the palette"):
                press(*(str(slot + 1) for slot in order))
            tags += [ADDED[slot] for slot in order]
        else:
            with step("add four tags with completion"):
                press("a")
                for typed in TYPED:
                    write(typed)
                    press("Tab")
                press("Escape")
            tags += ADDED
        wait_for_tags(terminal, tags)
        terminal.wait_for(rf"NORMAL .*image {index + 1}/30\b")
        if index == 0:
            with step("fill the palette, once"):
                for tag in ADDED:
                    press("y", HINTS[tags.index(tag)])
            terminal.wait_for(r"^ 1\Waction pose . 2\Wbubble . 3\Wsoap . 4\Wgrin$")
        if index in (12, 20):
            press("a")
            write("german shepherd,dog,")
            press("Escape")
            tags += ["german shepherd", "dog"]
            wait_for_tags(terminal, tags)

    # Every file is on disk by now or within a moment, and nobody has saved anything.
    wait_for(lambda: [read_tags(folder / f"{stem}.txt") for stem in stems] == expected, 10)

    press("g", "g")
    terminal.wait_for(r"image 1/30\b")
    with step("go to the next finding"):
        press("]", "i")
    terminal.wait_for(r"image 13/30\b")
    terminal.until(lambda lines: "“dog” is implied by “german" in " ".join(side(lines)), 20)
    for index, reviewed in ((12, 1), (20, 2)):
        with step("mend an implied tag"):
            press("f")
        expected[index].remove("dog")
        wait_for_tags(terminal, expected[index])
        with step("mark as reviewed and go to the next finding"):
            press("Space")
        terminal.wait_for(rf"{reviewed}/30( reviewed|✓)")
    terminal.wait_for(r"image \d+/30 .* 0 findings|image \d+/30 .* 0 with findings")

    press("g", "g")
    terminal.wait_for(r"image 1/30\b")
    answers = ["n" if index % 4 == 0 else "y" for index in range(30)]
    with step("ask of one tag on all thirty pictures"):
        press("t", HINTS[expected[0].index("grin")])
        press(*answers)
    terminal.wait_for("“grin” is on 22 of 30 pictures; 8 changed")
    for index, answer in enumerate(answers):
        if answer == "n":
            expected[index].remove("grin")

    with step("filter, and add a tag to what it finds"):
        press("/")
        write('tag:"side view"')
        press("Enter", "A")
        write("white background")
        press("Enter")
    terminal.wait_for("u undoes it · 10 of 10: added “white background”")
    with step("undo"):
        press("u")
    terminal.wait_for(r"und.*: add “white background” \(10 captions\)", 20)
    with step("redo"):
        press("U")
    terminal.wait_for(r"redo.*: add “white background” \(10 captions\)", 20)
    press("Escape")
    terminal.wait_for(r"/30 · CAPITALS all 30")
    for index in range(1, 30, 3):
        expected[index].append("white background")

    press("C-q")
    terminal.ends_with(0)
    assert [read_tags(folder / f"{stem}.txt") for stem in stems] == expected
    assert {path.name for path in folder.iterdir()} == {f"{stem}.{end}" for stem in stems for end in ("png", "txt")}
    assert Journal(folder.parent).pending() is None

    counted = keyboard.counted
    each = [counted[name] for name in ("next picture", "remove a tag", "replace a tag")]
    counted["one picture, with the palette"] = total([*each, counted["add four tags from the palette"]])
    counted["one picture, with completion"] = total([*each, counted["add four tags with completion"]])
    assert counted | {"save": (0, 0)} == page_figures()
    # What was set out before the editor was built: keys without text, then presses of any kind.
    assert counted["five tags in order on all pictures"][0] == 2
    assert [keys for keys, _ in each] == [1, 2, 3] and sum(counted["replace a tag"]) <= 6
    assert counted["add four tags from the palette"] == (4, 0)
    assert sum(counted["add four tags with completion"]) <= 18
    assert sum(counted["one picture, with the palette"]) <= 12
    assert sum(counted["one picture, with completion"]) <= 27


def read_tags(path: Path) -> list[str] | None:
    return path.read_text("utf-8").split(", ") if path.exists() else None


def total(steps: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(keys for keys, _ in steps), sum(characters for _, characters in steps)


def page_figures() -> dict[str, tuple[int, int]]:
    """The column of Loratory in docs/key-presses.md: step -> (keys, characters)."""
    found = re.findall(r"^\| ([^|]+?) \| (\d+)(?: \+ (\d+))? \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {step: (int(keys), int(characters or 0)) for step, keys, characters in found}


# --------------------------------------------------------------------------------- processes and terminals that go away


OLD = b"solo, fox"
NEW = b"tok, anthro, solo, fox"


def make_thousand(folder: Path) -> list[Path]:
    """A thousand tiny pictures with captions; the captions."""
    folder.mkdir(parents=True)
    captions: list[Path] = []
    for number in range(1000):
        picture = folder / f"{number:04}.png"
        if number:
            os.link(folder / "0000.png", picture)
        else:
            Image.new("RGB", (2, 2), (200, 60, 40)).save(picture)
        captions.append(picture.with_suffix(".txt"))
        captions[-1].write_bytes(OLD)
    return captions


def begin_batch(terminal: Terminal, folder: Path) -> psutil.Process:
    """Opens the editor and has it put two tags in front of all captions; stopped when some of them are written."""
    terminal.run([*PROGRAM, str(folder), "--preview", "off"])
    terminal.wait_for(r"1000 pictures")
    terminal.wait_for(r"/1000.* \d+ with findings")
    editor = editor_process(terminal)
    terminal("send-keys", "P")
    terminal.wait_for("INSERT")
    terminal("send-keys", "-l", "tok, anthro")
    terminal.wait_for("tok, anthro")
    terminal("send-keys", "Enter")
    limit = time.monotonic() + 30
    while (folder / "0000.txt").stat().st_size != len(NEW):
        assert time.monotonic() < limit
    editor.suspend()
    return editor


def states(captions: list[Path]) -> set[bytes]:
    return {path.read_bytes() for path in captions}


@pytest.mark.parametrize("key", ["f", "r"])
def test_a_killed_batch_is_finished_or_rolled_back_at_the_next_start(
    terminal: Terminal, tmp_path: Path, key: str
) -> None:
    folder = tmp_path / "set" / "10_tok"
    captions = make_thousand(folder)
    editor = begin_batch(terminal, folder)
    assert states(captions) == {OLD, NEW}, "the batch was not caught half way"
    editor.kill()
    terminal.wait_for("exit code 137")
    assert states(captions) == {OLD, NEW}
    pending = Journal(folder.parent).pending()
    assert pending is not None and pending.count == 1000
    terminal.close()

    again = Terminal()
    try:
        again.run([*PROGRAM, str(folder), "--preview", "off"])
        again.wait_for(r"was interrupted")
        again.wait_for(r"f finish it   r roll it back")
        again("send-keys", key)
        again.wait_for(r"(finished|rolled back): .*1000 captions")
        assert states(captions) == {NEW if key == "f" else OLD}
        again.wait_for(r" a tok .* 1000$" if key == "f" else r" a solo .* 1000$")
        again("send-keys", "C-q")
        again.ends_with(0)
    finally:
        again.close()
    assert Journal(folder.parent).pending() is None
    assert len(list(folder.iterdir())) == 2000, "something was left over, or lost"
    assert states(captions) == {NEW if key == "f" else OLD}


def test_an_edit_that_was_shown_survives_a_kill(terminal: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "10_tok"
    (stem,) = make_demo_set(folder, 1)
    terminal.run([*PROGRAM, str(folder)])
    terminal.wait_for("1 picture")
    terminal("send-keys", "a")
    terminal("send-keys", "-l", "tok,")
    editor = editor_process(terminal)
    terminal.wait_for("added “tok” · u undoes it")
    editor.kill()
    terminal.wait_for("exit code 137")
    assert (folder / f"{stem}.txt").read_bytes() == b"tok"
    assert Journal(folder.parent).pending() is None


def test_a_batch_outlives_its_terminal(terminal: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "10_tok"
    captions = make_thousand(folder)
    editor = begin_batch(terminal, folder)
    family = [editor, *editor.children(recursive=True)]
    assert states(captions) == {OLD, NEW}, "the batch was not caught half way"
    terminal("kill-server")
    editor.resume()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    # What was begun was done: the process wrote all that it had shown before it left.
    assert states(captions) == {NEW}
    (batch,) = Journal(folder.parent).batches()
    assert (batch.state, batch.count) == ("done", 1000)
    assert len(list(folder.iterdir())) == 2000


# -------------------------------------------------------------------------------------- terminals that can do less


def test_a_poor_terminal_is_drawn_in_and_left_as_it_was(terminal: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "10_mizutsune"
    stems = make_demo_set(folder, 8)
    (folder / f"{stems[0]}.txt").write_text("mizutsune, feral, blue eyes")
    command = ["env", "-u", "PYTHONUTF8", "NO_COLOR=1", "TERM=screen", "LC_ALL=C", *PROGRAM, str(folder), "--ascii"]
    terminal.run(command)
    terminal.wait_for("8 pictures")
    lines = terminal.wait_for("a mizutsune")
    assert lines[2].startswith(f"> {stems[0]}")
    terminal("send-keys", "A")
    terminal("send-keys", "-l", "white background")
    terminal("send-keys", "Enter")
    terminal.wait_for("u undoes it .* 8 of 8: added .*white background")
    screen = "\n".join(terminal.lines())
    assert screen.isascii(), sorted(set(re.findall(r"[^\x00-\x7f]", screen)))
    # Shades of grey are no colours.
    assert not re.search(r"\x1b\[[\d;]*?(?:[39][1-6]|[34]8|4[1-6]|10[1-6])[;m]", "\n".join(terminal.lines("-e")))
    terminal("send-keys", "C-q")
    terminal.ends_with(0)
    assert terminal.lines() == ["exit code 0"]
    flags = "#{alternate_on} #{mouse_any_flag} #{mouse_button_flag} #{mouse_sgr_flag} #{keypad_flag} #{cursor_flag}"
    assert terminal("display-message", "-p", flags) == "0 0 0 0 0 1\n"
    terminal("send-keys", "-l", "echo after")
    terminal.wait_for("^echo after$")


@pytest.mark.parametrize(("width", "height"), [(40, 10), (20, 5), (3, 2)])
def test_a_tiny_terminal_is_survived_and_growing_it_draws_well(
    terminal: Terminal, tmp_path: Path, width: int, height: int
) -> None:
    folder = tmp_path / "set" / "10_mizutsune"
    stems = make_demo_set(folder, 30)
    (folder / f"{stems[1]}.txt").write_text("mizutsune, feral, blue eyes")
    terminal.run([*PROGRAM, str(folder)], width, height)
    terminal.wait_for("^( L|3)", 30)
    # All at once, as a slow line delivers it: the keys, a table, and a tag on the second picture.
    terminal("send-keys", "j", "?", "q", "T", "Escape", "a", "x", "y", "z", ",")
    wait_for(lambda: (folder / f"{stems[1]}.txt").read_text() == "mizutsune, feral, blue eyes, xyz", 20)
    terminal("send-keys", "Escape")

    terminal("resize-window", "-x", "80", "-y", "24")
    wait_for_tags(terminal, ["mizutsune", "feral", "blue eyes", "xyz"])
    everything = ("NORMAL ", "image 2/30", "added “xyz”", "104x104 · 4 tags · 11 tokens", "▀▀▀▀", "5 to 20", "e621")
    lines = terminal.until(lambda lines: all(part in "\n".join(lines) for part in everything), 20)
    assert len(lines) == 24 and "Loratory" in lines[0] and "quit" in lines[23]
    assert lines[3].startswith(f"▶ {stems[1]}") and all(line[20] == "│" for line in lines[2:21])
    terminal("resize-window", "-x", str(width), "-y", str(height))
    terminal("send-keys", "z", "z", "q")
    terminal("resize-window", "-x", "80", "-y", "24")
    assert terminal.shows(lines)
    terminal("send-keys", "C-q")
    # tmux wraps this where the window was that small when the shell had it last.
    terminal.until(lambda lines: re.search(r"exit ?code 0", "".join(lines)), 20)
