"""Pictures in a terminal: the choice of a mode, the probe, and the three encoders."""

import base64
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.color import ColorSystem

from loratory import paths
from loratory.errors import LoratoryError
from loratory.terminal import modes, probe, tmux
from loratory.terminal.modes import Answers, Graphics
from loratory.tui.graphics import drawing, half_block, kitty, sixel

KITTY = {"TERM": "xterm-kitty", "COLORTERM": "truecolor", "KITTY_WINDOW_ID": "1"}
XTERM = {"TERM": "xterm-256color"}
TMUX = {"TERM": "tmux-256color", "TERM_PROGRAM": "tmux", "TMUX": "/tmp/tmux-0/default,1,0"}
SSH = {"SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22", "SSH_TTY": "/dev/pts/1"}


def said(*attributes: int, kitty: bool = False, name: str = "") -> Answers:
    return Answers(asked=True, answered=True, kitty=kitty, attributes=attributes, name=name)


SILENT = Answers(asked=True)


@pytest.mark.parametrize(
    ("terminal", "env", "answers", "expected"),
    [
        ("kitty", KITTY, said(62, 52, kitty=True, name="kitty(0.42.1)"), "kitty"),
        ("ghostty", {"TERM": "xterm-ghostty"}, said(62, 22, kitty=True, name="ghostty 1.2.0"), "kitty"),
        ("foot", {"TERM": "foot"}, said(62, 4, 22, 28, 29, name="foot(1.21.0)"), "sixel"),
        ("WezTerm", XTERM | {"TERM_PROGRAM": "WezTerm"}, said(65, 4, 6, 18, 22, kitty=True), "sixel"),
        ("WezTerm by its answer", XTERM, said(65, 4, kitty=True, name="WezTerm 20240203"), "sixel"),
        ("Konsole", XTERM, said(62, 1, 4, kitty=True, name="Konsole 24.12"), "sixel"),
        ("iTerm2", XTERM | {"TERM_PROGRAM": "iTerm.app"}, said(62, 4), "sixel"),
        ("xterm", {"TERM": "xterm"}, said(64, 1, 2, 6, 9, 15, 18, 21, 22, name="XTerm(398)"), "half"),
        ("xterm -ti vt340", {"TERM": "xterm"}, said(63, 1, 2, 4, 6, name="XTerm(398)"), "sixel"),
        ("Windows Terminal", XTERM | {"WT_SESSION": "x"}, said(61, 4, 6, 7, 14, 21), "sixel"),
        ("Windows Terminal, old", XTERM | {"WT_SESSION": "x"}, said(1, 0), "half"),
        ("tmux in kitty, passthrough", TMUX, said(1, 2, kitty=True, name="kitty(0.42.1)"), "kitty"),
        ("tmux in kitty, none", TMUX, said(1, 2, name="kitty(0.42.1)"), "half"),
        ("tmux in WezTerm, passthrough", TMUX, said(1, 2, 4, kitty=True, name="WezTerm 20240203"), "half"),
        ("tmux with sixel", TMUX, said(1, 2, 4), "half"),
        ("tmux here, ssh in it", {"TERM": "tmux-256color"} | SSH, said(1, 2, kitty=True), "kitty"),
        ("old tmux here, ssh in it", {"TERM": "screen-256color"} | SSH, said(1, 2), "half"),
        ("ssh from kitty", {"TERM": "xterm-kitty"} | SSH, said(62, kitty=True, name="kitty(0.42.1)"), "kitty"),
        ("ssh from what claims to be kitty", {"TERM": "xterm-kitty"} | SSH, said(62), "half"),
        ("VS Code", XTERM | {"TERM_PROGRAM": "vscode"}, said(1, 2), "half"),
        ("VS Code with images", XTERM | {"TERM_PROGRAM": "vscode"}, said(62, 4, 9, 22), "sixel"),
        ("Linux console", {"TERM": "linux"}, said(6), "half"),
        ("GNU screen in kitty", {"TERM": "screen", "STY": "1.x"}, said(1, 2, kitty=True), "half"),
        ("silent", XTERM, SILENT, "half"),
        ("not asked", XTERM, Answers(), "half"),
        ("NO_COLOR in kitty", KITTY | {"NO_COLOR": ""}, said(62, kitty=True, name="kitty"), "ascii"),
        ("dumb", {"TERM": "dumb"}, Answers(), "ascii"),
        ("no TERM", {}, Answers(), "ascii"),
        ("Latin-1", XTERM | {"LANG": "de_DE.ISO-8859-1"}, said(62, 4), "ascii"),
        ("UTF-8", XTERM | {"LC_CTYPE": "de_DE.utf8", "LANG": "de_DE.ISO-8859-1"}, said(62, 4), "sixel"),
        ("C", XTERM | {"LC_ALL": "C"}, said(62), "half"),
    ],
)
def test_chooses_for_every_terminal(terminal: str, env: dict[str, str], answers: Answers, expected: str) -> None:
    choice = modes.choose("auto", answers, env)
    assert choice.mode == expected, terminal
    assert choice.why


@pytest.mark.parametrize("setting", ["kitty", "sixel", "half", "ascii", "off"])
def test_does_what_was_asked_for(setting: modes.Setting) -> None:
    assert modes.choose(setting, Answers(), TMUX).mode == setting
    colourless = modes.choose(setting, Answers(), KITTY | {"NO_COLOR": "1"}).mode
    assert colourless == ("ascii" if setting in ("kitty", "half") else setting)


def test_reads_the_setting() -> None:
    assert modes.read_setting(None, {}) == "auto"
    assert modes.read_setting(None, {"LORATORY_PREVIEW": "Sixel"}) == "sixel"
    assert modes.read_setting("half", {"LORATORY_PREVIEW": "sixel"}) == "half"
    with pytest.raises(LoratoryError, match=r"“pretty” in \$LORATORY_PREVIEW"):
        modes.read_setting(None, {"LORATORY_PREVIEW": "pretty"})


@given(*(st.integers(1, 30000) for _ in range(2)), *(st.integers(1, 400) for _ in range(2)))
def test_fits_and_keeps_proportions(width: int, height: int, box_width: int, box_height: int) -> None:
    fitted_width, fitted_height = modes.fitted((width, height), (box_width, box_height))
    assert 1 <= fitted_width <= box_width
    assert 1 <= fitted_height <= box_height
    assert fitted_width == box_width or fitted_height == box_height
    scale = min(box_width / width, box_height / height)
    assert abs(fitted_width - max(1, width * scale)) <= 0.5 + 1e-6
    assert abs(fitted_height - max(1, height * scale)) <= 0.5 + 1e-6


# Half blocks


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 120),
    st.integers(1, 40),
    st.sampled_from(["truecolor", "256", "16", "none"]),
)
def test_half_blocks_fill_the_pane_exactly(
    width: int, height: int, columns: int, rows: int, colours: half_block.Colours
) -> None:
    image = Image.effect_noise((width, height), 90).convert("RGB")
    strips = half_block.strips(image, columns, rows, colours)
    assert len(strips) == rows
    for strip in strips:
        assert strip.cell_length == columns == sum(cell_len(segment.text) for segment in strip)
        assert colours != "none" or (strip.text.isascii() and not any(segment.style for segment in strip))


def cells(strips: list) -> list[list[tuple[str, str | None, str | None]]]:
    """(character, upper colour, ground) of every cell."""

    def name(colour: object) -> str | None:
        return None if colour is None else colour.get_truecolor().hex

    return [
        [
            (letter, name(segment.style and segment.style.color), name(segment.style and segment.style.bgcolor))
            for segment in strip
            for letter in segment.text
        ]
        for strip in strips
    ]


def test_half_blocks_show_two_pixels_a_cell() -> None:
    image = Image.new("RGB", (2, 4))
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    image.putdata([red, green, blue, green, blue, blue, (1, 2, 3), blue])
    blank = (" ", None, None)
    assert cells(half_block.strips(image, 4, 2, "truecolor")) == [
        [blank, ("▀", "#ff0000", "#0000ff"), (" ", None, "#00ff00"), blank],
        [blank, ("▀", "#0000ff", "#010203"), (" ", None, "#0000ff"), blank],
    ]


def test_half_blocks_of_an_odd_picture_end_within_a_cell() -> None:
    image = Image.new("RGB", (4, 3), (10, 20, 30))
    rows = cells(half_block.strips(image, 4, 5, "truecolor"))
    blank = [(" ", None, None)] * 4
    assert rows == [blank, [(" ", None, "#0a141e")] * 4, [("▀", "#0a141e", None)] * 4, blank, blank]


def test_256_colours_are_those_of_the_terminal() -> None:
    image = Image.effect_noise((40, 40), 120).convert("RGB")
    image.paste((250, 90, 3), (0, 0, 20, 20))
    levels = {"00", "5f", "87", "af", "d7", "ff"}
    greys = {f"{8 + 10 * step:02x}" * 3 for step in range(24)}
    for row in cells(half_block.strips(image, 40, 20, "256")):
        for letter, above, below in row:
            for colour in (above, below) if letter == "▀" else (below,):
                assert colour is not None
                assert colour[1:] in greys or {colour[1:3], colour[3:5], colour[5:7]} <= levels


def test_ascii_is_brighter_where_the_picture_is() -> None:
    image = Image.new("RGB", (20, 20))
    image.paste((255, 255, 255), (10, 0, 20, 20))
    dark = [strip.text for strip in half_block.strips(image, 20, 10, "none")]
    light = [strip.text for strip in half_block.strips(image, 20, 10, "none", on_light=True)]
    assert dark == [" " * 10 + "@" * 10] * 10
    assert light == ["@" * 10 + " " * 10] * 10


# kitty


def test_kitty_sends_the_exact_bytes() -> None:
    assert probe.kitty_query() == "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
    assert kitty.transmit(42, b"abc", 8, 3, in_tmux=False) == "\x1b_Ga=T,U=1,q=2,f=100,t=d,i=42,c=8,r=3,m=0;YWJj\x1b\\"
    assert kitty.delete(42, in_tmux=False) == "\x1b_Ga=d,d=I,q=2,i=42\x1b\\"


def test_kitty_is_wrapped_for_tmux() -> None:
    assert kitty.delete(7, in_tmux=True) == "\x1bPtmux;\x1b\x1b_Ga=d,d=I,q=2,i=7\x1b\x1b\\\x1b\\"
    assert kitty.transmit(7, b"abc", 1, 2, in_tmux=True) == (
        "\x1bPtmux;\x1b\x1b_Ga=T,U=1,q=2,f=100,t=d,i=7,c=1,r=2,m=0;YWJj\x1b\x1b\\\x1b\\"
    )


@pytest.mark.parametrize("in_tmux", [False, True])
def test_kitty_sends_long_pictures_in_chunks(in_tmux: bool) -> None:
    data = bytes(range(256)) * 40  # 10 240 bytes, 13 656 base64 characters
    sent = kitty.transmit(0x102030, data, 80, 24, in_tmux=in_tmux)
    if in_tmux:
        wrapped = re.findall(r"\x1bPtmux;((?:\x1b\x1b|[^\x1b])*)\x1b\\", sent)
        assert len(wrapped) == 4
        sent = "".join(wrapped).replace("\x1b\x1b", "\x1b")
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sent)
    assert [keys for keys, _ in chunks] == [
        "a=T,U=1,q=2,f=100,t=d,i=1056816,c=80,r=24,m=1",
        "q=2,m=1",
        "q=2,m=1",
        "q=2,m=0",
    ]
    assert [len(payload) for _, payload in chunks] == [4096, 4096, 4096, 1368]
    assert base64.b64decode("".join(payload for _, payload in chunks)) == data


def test_kitty_cells_say_their_row_column_and_picture() -> None:
    first, second, third = kitty.strips(2 << 24 | 40, 2, 2, 4, 3)
    assert first.text == " \U0010eeee\u0305\u0305\u030e\U0010eeee\u0305\u030d\u030e "
    assert second.text == " \U0010eeee\u030d\u0305\u030e\U0010eeee\u030d\u030d\u030e "
    assert third.text == "    "
    assert [strip.cell_length for strip in (first, second, third)] == [4, 4, 4]
    [style] = {segment.style for segment in first if segment.text.strip()}
    assert style.render("x", color_system=ColorSystem.TRUECOLOR) == "\x1b[38;5;40mx\x1b[0m"
    assert style.render("x", color_system=ColorSystem.EIGHT_BIT) == "\x1b[38;5;40mx\x1b[0m"


def test_kitty_marks_are_the_protocols() -> None:
    # The figures are those of kitty's table at these places.
    at = {
        0: 0x305,
        1: 0x30D,
        2: 0x30E,
        9: 0x34A,
        29: 0x36F,
        34: 0x487,
        63: 0x658,
        84: 0x6EC,
        89: 0x736,
        100: 0x7EB,
        120: 0x823,
    }
    assert {index: ord(kitty.MARKS[index]) for index in at} == at
    assert len(kitty.MARKS) == len(set(kitty.MARKS)) == 250
    assert list(kitty.MARKS) == sorted(kitty.MARKS)
    assert all(cell_len(kitty.PLACEHOLDER + 3 * mark) == 1 for mark in kitty.MARKS)


def test_kitty_numbers_are_palette_indices_of_this_program() -> None:
    numbers = [kitty.new_number() for _ in range(240)]
    assert {number & 255 for number in numbers} == set(range(16, 256))
    [rest] = {number >> 8 for number in numbers}
    assert 1 <= rest >> 16 < len(kitty.MARKS)
    assert rest & 0xFFFF == 0


# Sixel


def decode_sixel(sequence: str) -> np.ndarray:
    """(height, width, 3) in percent; -1 where nothing was drawn."""
    body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', sequence, re.DOTALL)
    assert body is not None
    width, height = int(body[1]), int(body[2])
    picture = np.full((height + 6, width, 3), -1)
    colours: dict[int, tuple[int, ...]] = {}
    colour, x, top = 0, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", body[3]):
        if token[1] and token[2]:
            colours[int(token[1])] = tuple(int(token[group]) for group in (2, 3, 4))
        elif token[1]:
            colour = int(token[1])
        elif token[8]:
            x, top = 0, top + 6 * (token[8] == "-")
        else:
            count, bits = (int(token[5]), ord(token[6]) - 63) if token[5] else (1, ord(token[7]) - 63)
            for row in range(6):
                if bits >> row & 1:
                    picture[top + row, x : x + count] = colours[colour]
            x += count
    assert (picture[height:] == -1).all()
    return picture[:height]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_sixel_draws_the_quantized_picture(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = 200  # runs
    picture = sixel.quantized(Image.fromarray(pixels))
    expected = np.rint(np.asarray(picture.convert("RGB")) / 2.55)
    assert (decode_sixel(sixel.encode(picture)) == expected).all()


def test_sixel_is_drawn_at_a_cell() -> None:
    assert sixel.placed("\x1bPq\x1b\\", 4, 2) == "\x1b7\x1b[3;5H\x1bPq\x1b\\\x1b8"


# Drawings


@pytest.mark.parametrize("size", [(300, 300), (1, 20000), (20000, 1), (1, 1), (640, 480)])
@pytest.mark.parametrize("mode", ["half", "ascii", "kitty", "sixel"])
def test_draws_every_shape(tmp_path, mode: modes.Mode, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 30, 40)).save(tmp_path / "p.png")
    for columns, rows in [(10, 3), (33, 17), (120, 40), (1, 1)]:
        drawn = drawing.draw(tmp_path / "p.png", columns, rows, Graphics(mode), "truecolor")
        assert len(drawn.strips) == rows
        assert {strip.cell_length for strip in drawn.strips} == {columns}
        assert mode in ("kitty", "sixel") or not drawn.transmission + drawn.overlay
        if mode == "sixel":
            height, width = decode_sixel(drawn.overlay).shape[:2]
            assert drawn.overlay_at[0] * 10 + width <= columns * 10
            assert drawn.overlay_at[1] * 20 + height <= rows * 20
        if mode == "kitty":
            png = re.findall(r";([^\x1b]*)\x1b", drawn.transmission)
            sent = Image.open(io.BytesIO(base64.b64decode("".join(png))))
            assert max(sent.size) <= max(size)


def test_draws_every_kind_of_picture(tmp_path) -> None:
    path = tmp_path / "p"
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(path, "JPEG")
    assert cells(drawing.draw(path, 9, 9, Graphics("half"), "truecolor").strips)[4][4][2] in ("#fe0000", "#ff0000")
    Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16)).save(path, "PNG")
    assert cells(drawing.draw(path, 9, 9, Graphics("half"), "truecolor").strips)[4][4][2] == "#ffffff"
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(path, "PNG")
    assert cells(drawing.draw(path, 9, 9, Graphics("half"), "truecolor").strips)[4][4][2] == "#ffffff"
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(path, "JPEG", exif=exif)
    drawn = cells(drawing.draw(path, 20, 10, Graphics("half"), "truecolor").strips)
    assert [sum(ground is not None for _, _, ground in row) for row in drawn] == [10] * 10


def test_says_why_there_is_no_picture(tmp_path) -> None:
    def words(path) -> str:
        drawn = drawing.draw(path, 40, 6, Graphics("half"), "truecolor")
        assert {strip.cell_length for strip in drawn.strips} == {40}
        return " ".join(" ".join(strip.text for strip in drawn.strips).split())

    whole = io.BytesIO()
    Image.effect_noise((99, 99), 50).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:3000])
    (tmp_path / "none.png").touch()
    (tmp_path / "[b]\x1b[2J字.png").write_text("not a picture")
    assert words(tmp_path / "gone.png") == "gone.png: cannot be opened (No such file or directory)"
    assert words(tmp_path) == f"{tmp_path.name}: cannot be opened (Is a directory)"
    assert words(tmp_path / "half.png").startswith("half.png: the picture is cut off")
    assert words(tmp_path / "none.png") == "none.png: the file is empty (0 bytes)"
    assert words(tmp_path / "[b]\x1b[2J字.png").startswith("[b]\N{REPLACEMENT CHARACTER}[2J字.png: not a PNG")
    assert words(tmp_path / ("x" * 300)).replace(" ", "").startswith("x" * 240)  # all of the pane


@given(st.text(max_size=200), st.integers(1, 120), st.integers(1, 40))
def test_words_fill_the_pane_exactly(text: str, columns: int, rows: int) -> None:
    strips = drawing.notice(text, columns, rows).strips
    assert len(strips) == rows
    for strip in strips:
        assert sum(cell_len(segment.text) for segment in strip) == columns
        assert strip.text.isprintable()


# The probe


@contextmanager
def fake_terminal(answer: Callable[[int, bytes], None]) -> Iterator[int]:
    """A pseudo-terminal of 80x24; `answer` is called with the terminal's side and what it was asked."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))

    def play() -> None:
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(master, 4096)
        answer(master, asked)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        yield slave
    finally:
        thread.join(5)
        os.close(slave)
        os.close(master)


def ask(slave: int, env: dict[str, str] = XTERM, budget_s: float = 5) -> tuple[Answers, float]:
    """The answers, the seconds they took; asserts that the terminal is as it was and nothing is left to be read."""
    before = termios.tcgetattr(slave)
    start = time.monotonic()
    answers = probe.ask(env, input_fd=slave, output_fd=slave, budget_s=budget_s)
    took_s = time.monotonic() - start
    assert termios.tcgetattr(slave) == before
    termios.tcsetattr(slave, termios.TCSANOW, [*before[:3], before[3] & ~termios.ICANON, *before[4:]])
    assert select.select([slave], [], [], 0)[0] == []
    return answers, took_s


WHOLE = b"\x1b_Gi=31;OK\x1b\\\x1bP>|kitty(0.42.1)\x1b\\\x1b[6;18;9t\x1b[?62;52;c"


def test_asks_once_and_hears_everything() -> None:
    asked: list[bytes] = []

    def answer(terminal: int, question: bytes) -> None:
        asked.append(question)
        os.write(terminal, WHOLE)

    with fake_terminal(answer) as slave:
        answers, took_s = ask(slave)
    assert asked == [b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[>q\x1b[16t\x1b[c"]
    assert answers == Answers(True, True, True, (62, 52), (9, 18), "kitty(0.42.1)")
    assert took_s < 2.5  # not the whole budget


def test_hears_through_garbage_and_in_pieces() -> None:
    def answer(terminal: int, question: bytes) -> None:
        os.write(terminal, b"jjj\x1b[A\x1b\xff" + WHOLE[:4])
        for byte in WHOLE[4:]:
            os.write(terminal, bytes([byte]))

    with fake_terminal(answer) as slave:
        answers, _ = ask(slave)
    assert answers == Answers(True, True, True, (62, 52), (9, 18), "kitty(0.42.1)")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"jj" + WHOLE, b"jj"),
        (WHOLE + b"\x1b[B\xc3\xa9", b"\x1b[B\xc3\xa9"),
        (WHOLE[:12] + b"a" + WHOLE[12:], b"a"),
        (b"jj\x1b[?62;", b"jj"),
        (WHOLE, b""),
    ],
)
def test_what_is_typed_meanwhile_is_handed_on(sent: bytes, kept: bytes) -> None:
    typed: list[bytes] = []
    with fake_terminal(lambda terminal, question: os.write(terminal, sent)) as slave:
        probe.ask(XTERM, input_fd=slave, output_fd=slave, budget_s=0.2, typed=typed.append)
    assert b"".join(typed) == kept


def test_waits_for_a_late_answer() -> None:
    def answer(terminal: int, question: bytes) -> None:
        threading.Event().wait(0.2)  # the link is slow
        os.write(terminal, WHOLE[:-3])
        threading.Event().wait(0.2)
        os.write(terminal, WHOLE[-3:])

    with fake_terminal(answer) as slave:
        answers, took_s = ask(slave, budget_s=0.3)  # over before the last bytes: an answer begun is waited for
    assert answers.answered
    assert answers.kitty
    assert took_s < 2


def test_gives_up_on_a_terminal_that_never_answers() -> None:
    with fake_terminal(lambda terminal, question: None) as slave:
        answers, took_s = ask(slave, budget_s=0.1)
    assert answers == SILENT
    assert 0.1 <= took_s < 1


def test_leaves_nothing_of_an_answer_that_breaks_off() -> None:
    with fake_terminal(lambda terminal, question: os.write(terminal, b"\x1b_Gi=31;OK\x1b\\\x1b[?62;")) as slave:
        answers, took_s = ask(slave, budget_s=0.1)
    assert answers == Answers(asked=True, kitty=True)
    assert took_s < 1


def test_what_may_harm_is_not_asked() -> None:
    asked: list[bytes] = []

    def answer(terminal: int, question: bytes) -> None:
        asked.append(question)
        os.write(terminal, b"\x1b[?6c")

    for env in ({"TERM": "linux"}, XTERM | {"TERM_PROGRAM": "Apple_Terminal"}, {"TERM": "screen", "STY": "1.pts"}):
        with fake_terminal(answer) as slave:
            assert ask(slave, env)[0] == Answers(asked=True, answered=True, attributes=(6,))
    assert asked == [b"\x1b[16t\x1b[c"] * 3


def test_in_tmux_the_answer_from_around_it_is_waited_for() -> None:
    asked: list[bytes] = []

    def answer(terminal: int, question: bytes) -> None:
        asked.append(question)
        os.write(terminal, b"\x1b[?1;2c")  # tmux's own, at once
        threading.Event().wait(0.1)
        os.write(terminal, b"\x1b_Gi=31;OK\x1b\\")

    with fake_terminal(answer) as slave:
        answers, took_s = ask(slave, {"TERM": "tmux-256color"})
    assert asked == [b"\x1bPtmux;\x1b\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\x1b\\\x1b\\\x1b[16t\x1b[c"]
    assert answers == Answers(asked=True, answered=True, kitty=True, attributes=(1, 2))
    assert took_s < 2.5


def test_in_tmux_that_lets_nothing_through_kitty_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tmux, "ask", lambda env, *names: ("kitty(0.42.1)", "xterm-kitty", "0"))
    asked: list[bytes] = []

    def answer(terminal: int, question: bytes) -> None:
        asked.append(question)
        os.write(terminal, b"\x1b[?1;2c")

    with fake_terminal(answer) as slave:
        answers, took_s = ask(slave, TMUX)
    assert asked == [b"\x1b[16t\x1b[c"]
    assert answers == Answers(asked=True, answered=True, attributes=(1, 2), name="kitty(0.42.1)")
    assert took_s < 2.5


def test_does_not_ask_where_nothing_can_answer() -> None:
    reading, writing = os.pipe()
    master, slave = pty.openpty()
    try:
        for env, ends in [
            (XTERM, (reading, slave)),
            (XTERM, (slave, writing)),
            ({"TERM": "dumb"}, (slave, slave)),
            ({}, (slave, slave)),
            (XTERM, (slave, slave)),  # its size is 0x0
            (XTERM, (997, 998)),  # not open
        ]:
            assert probe.ask(env, input_fd=ends[0], output_fd=ends[1]) == Answers()
        assert select.select([master], [], [], 0)[0] == []
    finally:
        for descriptor in (reading, writing, master, slave):
            os.close(descriptor)


def test_knows_the_size_of_a_cell() -> None:
    import fcntl

    master, slave = pty.openpty()
    try:
        assert probe.measured_cell_px(slave) is None
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 720, 432))
        assert probe.measured_cell_px(slave) == (9, 18)
    finally:
        os.close(master)
        os.close(slave)
    assert probe.measured_cell_px(998) is None


def test_answers_are_remembered_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = said(62, 4, kitty=True, name="foot")
    calls: list[str] = []

    def answering(env, **_) -> Answers:
        calls.append(env["TERM"])
        return heard

    monkeypatch.setattr(probe, "ask", answering)
    assert probe.detect(XTERM) == probe.detect(XTERM) == heard
    assert calls == ["xterm-256color"]
    assert probe.detect(XTERM | SSH) == heard
    assert probe.detect({"TERM": "foot"}) == heard
    assert len(calls) == 3
    probe.detect(XTERM, anew=True)
    assert len(calls) == 4
    kept = paths.cache_dir() / "terminals.json"
    entries = json.loads(kept.read_text())
    for entry in entries.values():
        entry["time"] -= 24 * 3600 + 1
    kept.write_text(json.dumps(entries))
    probe.detect(XTERM)
    assert len(calls) == 5
    for damaged in ("", "[]", '{"a": 1}', '{"a": {"time": "x", "answers": {}}}', "\x00"):
        kept.write_text(damaged)
        assert probe.detect(XTERM) == heard


def test_an_unwritable_cache_only_costs_time(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(probe, "ask", lambda env, **_: SILENT)
    assert probe.detect(XTERM) == SILENT


def test_settles_without_asking_where_the_answer_would_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ask", lambda env, **_: pytest.fail("asked"))
    assert probe.settle("half", XTERM).mode == "half"
    assert probe.settle(None, KITTY | {"NO_COLOR": "1"}).mode == "ascii"
    assert probe.settle(None, XTERM | {"LORATORY_PREVIEW": "off"}).mode == "off"
    monkeypatch.setattr(probe, "ask", lambda env, **_: Answers(asked=True, answered=True, kitty=True, cell_px=(8, 17)))
    settled = probe.settle("auto", TMUX | SSH)
    assert (settled.mode, settled.in_tmux, settled.over_ssh) == ("kitty", True, True)


IN_THE_BACKGROUND = """
import os, sys
from loratory.terminal import probe
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if sys.argv[1] == "background":
    os.setpgid(0, 0)
os.write(int(sys.argv[2]), repr(probe.ask({"TERM": "xterm"}, budget_s=0.1)).encode())
os._exit(0)
"""


@pytest.mark.parametrize(("place", "expected"), [("background", Answers()), ("foreground", SILENT)])
def test_a_program_in_the_background_does_not_ask(place: str, expected: Answers) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", IN_THE_BACKGROUND, place, str(writing)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "src")},
            pass_fds=[writing],
            preexec_fn=lambda: os.login_tty(slave),
        )
        assert process.wait(20) == 0
        assert os.read(reading, 4096).decode() == repr(expected)
    finally:
        for descriptor in (master, slave, reading, writing):
            os.close(descriptor)
