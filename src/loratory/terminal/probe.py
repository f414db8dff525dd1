"""Asks the terminal, before anything is drawn, what it can show; what it said is remembered for a day.

All questions go out in one write. The last one, for the primary device attributes, is answered by every terminal, and
answers come in the order of the questions: when it is answered, nothing else will come. tmux answers it itself, before
the terminal around it is heard; there the answer to kitty's query is waited for as long as the budget lasts, unless
tmux says that it lets nothing through.
"""

import fcntl
import json
import os
import re
import select
import struct
import termios
import time
import tty
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from loratory import atomic, paths
from loratory.terminal import tmux
from loratory.terminal.modes import (
    DEFAULT_CELL_PX,
    Answers,
    Graphics,
    choose,
    multiplexer,
    name_of_term,
    needs_answers,
    over_ssh,
    read_setting,
)

BUDGET_S = 1.0
_GRACE_S = 0.25  # more, for an answer of which a part has come
_KEPT_S = 24 * 3600

# Textual reads the one and writes the other.
STDIN, STDERR = 0, 2

_KITTY_OK = re.compile(rb"\x1b_Gi=31;OK\x1b\\")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_CELL = re.compile(rb"\x1b\[6;(\d{1,4});(\d{1,4})t")
_NAME = re.compile(rb"\x1bP>\|([^\x1b]{0,100})\x1b\\")
_UNFINISHED = re.compile(rb"\x1b(?:\[[\d;?]*|[P_][^\x1b]*\x1b?)?$")
_ANSWER = re.compile(rb"\x1b(?:[P_][^\x1b]*\x1b\\|\[[\d;?]*[ct])")

Typed = Callable[[bytes], object]


def _forget(_: bytes) -> None:
    pass


def settle(option: str | None, env: Mapping[str, str], typed: Typed = _forget) -> Graphics:
    """How pictures are shown in this terminal; asks it where that is not settled otherwise. Raises LoratoryError.

    To be called before Textual starts. Takes up to a second the first time in a terminal that does not answer.
    typed: is given the keys that were pressed meanwhile, as the terminal sends them.
    """
    setting = read_setting(option, env)
    answers = detect(env, typed=typed) if needs_answers(setting, env) else Answers()
    choice = choose(setting, answers, env)
    return Graphics(
        choice.mode,
        choice.why,
        measured_cell_px() or answers.cell_px or DEFAULT_CELL_PX,
        in_tmux=multiplexer(env) == "tmux",
        over_ssh=over_ssh(env),
    )


def detect(env: Mapping[str, str], *, anew: bool = False, typed: Typed = _forget) -> Answers:
    """What this terminal answered within the last day, else what it answers now."""
    key = "|".join((env.get("TERM", ""), env.get("TERM_PROGRAM", ""), multiplexer(env), "ssh" if over_ssh(env) else ""))
    remembered = _remembered()
    if not anew and key in remembered:
        return remembered[key][1]
    answers = ask(env, typed=typed)
    if answers.asked:
        _remember(remembered | {key: (time.time(), answers)})
    return answers


def kitty_query() -> str:
    """Asks whether the protocol is known, with a picture of one pixel that is not kept: answered by `i=31;OK`."""
    return "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"


def ask(
    env: Mapping[str, str],
    *,
    input_fd: int = STDIN,
    output_fd: int = STDERR,
    budget_s: float = BUDGET_S,
    typed: Typed = _forget,
) -> Answers:
    """Asks the terminal, and leaves its settings as they were; what else there was to be read goes to `typed`.

    `Answers()` where there is none to ask: not a terminal on either side, one that takes no questions (dumb), one
    without a size, or this process in the background, where a read would stop it.
    """
    if not _can_be_asked(env, input_fd, output_fd):
        return Answers()
    between = multiplexer(env)
    outer_name, passes = _tmux_says(env) if between == "tmux" else ("", True)
    questions = ""
    # Apple's Terminal and the Linux console print what they do not know. GNU screen's answer would not be kitty's.
    if between != "screen" and env.get("TERM") != "linux" and env.get("TERM_PROGRAM") != "Apple_Terminal":
        if between == "tmux":
            questions += tmux.passthrough(kitty_query()) if passes else ""
        else:
            # The name would be tmux's there.
            questions += kitty_query() + "\x1b[>q"
    wait_for_kitty = between == "tmux" and bool(questions)
    questions += "\x1b[16t\x1b[c"
    try:
        heard = _converse(input_fd, output_fd, questions.encode(), budget_s, wait_for_kitty)
    except (OSError, termios.error):
        return Answers()
    if keys := _UNFINISHED.sub(b"", _ANSWER.sub(b"", heard)):
        typed(keys)
    attributes = _ATTRIBUTES.search(heard)
    cell = _CELL.search(heard)
    name = _NAME.search(heard)
    height_px, width_px = (int(cell[1]), int(cell[2])) if cell else (0, 0)
    return Answers(
        asked=True,
        answered=attributes is not None,
        kitty=_KITTY_OK.search(heard) is not None,
        attributes=tuple(int(number) for number in attributes[1].split(b";") if number) if attributes else (),
        cell_px=(width_px, height_px) if width_px and height_px else None,
        name=outer_name or (name[1].decode("ascii", "replace") if name else ""),
    )


def measured_cell_px(output_fd: int = STDERR) -> tuple[int, int] | None:
    """(width, height) of a cell from the size the kernel keeps for the terminal; None where it has no pixels."""
    try:
        size = fcntl.ioctl(output_fd, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return None
    rows, columns, width_px, height_px = struct.unpack("4H", size)
    if not rows or not columns or width_px < columns or height_px < rows:
        return None
    return width_px // columns, height_px // rows


def _can_be_asked(env: Mapping[str, str], input_fd: int, output_fd: int) -> bool:
    if env.get("TERM") in (None, "", "dumb"):
        return False
    try:
        if not (os.isatty(input_fd) and os.isatty(output_fd)):
            return False
        if 0 in os.get_terminal_size(output_fd):
            return False
    except OSError:
        return False
    try:
        return os.tcgetpgrp(input_fd) == os.getpgrp()
    except OSError:
        return True  # not the terminal that controls this process: nothing stops a read


def _converse(input_fd: int, output_fd: int, questions: bytes, budget_s: float, wait_for_kitty: bool) -> bytes:
    """Everything that came until the last answer, or until the budget was spent."""
    before = termios.tcgetattr(input_fd)
    heard = b""
    try:
        # Without echo and line by line; keys that send signals keep doing so.
        tty.setcbreak(input_fd, termios.TCSANOW)
        os.write(output_fd, questions)
        limit = time.monotonic() + budget_s
        graced = False
        while not _ATTRIBUTES.search(heard) or (wait_for_kitty and not _KITTY_OK.search(heard)):
            readable, _, _ = select.select([input_fd], [], [], max(0.0, limit - time.monotonic()))
            if readable:
                if not (more := os.read(input_fd, 4096)):
                    break
                heard += more
            elif not graced and _UNFINISHED.search(heard):
                graced = True
                limit += _GRACE_S
            else:
                break
        # What came too late to count is not to be taken for keys either.
        while select.select([input_fd], [], [], 0)[0] and (more := os.read(input_fd, 4096)):
            heard += more
    finally:
        # Not with TCSAFLUSH: it waits until all output is sent, on a stopped terminal for ever.
        termios.tcsetattr(input_fd, termios.TCSANOW, before)
    return heard


def _tmux_says(env: Mapping[str, str]) -> tuple[str, bool]:
    """The name of the terminal around tmux, "" unknown, and whether a wrapped sequence may come through."""
    said = tmux.ask(env, "client_termtype", "client_termname", "allow-passthrough")
    if said is None:
        return "", True
    kind, term, passing = said
    # Before 3.3 tmux had no such option and let everything through.
    return kind or name_of_term(term), passing not in ("off", "0")


def _cache_file() -> Path:
    return paths.cache_dir() / "terminals.json"


def _remembered() -> dict[str, tuple[float, Answers]]:
    """What is not older than a day; nothing where the file is missing or not ours."""
    now = time.time()
    kept: dict[str, tuple[float, Answers]] = {}
    try:
        for key, entry in json.loads(_cache_file().read_text(encoding="utf-8")).items():
            said = entry["answers"]
            answers = Answers(
                asked=True,
                answered=bool(said["answered"]),
                kitty=bool(said["kitty"]),
                attributes=tuple(int(number) for number in said["attributes"]),
                cell_px=(int(said["cell_px"][0]), int(said["cell_px"][1])) if said["cell_px"] else None,
                name=str(said["name"]),
            )
            if 0 <= now - float(entry["time"]) < _KEPT_S:
                kept[key] = (float(entry["time"]), answers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return {}
    return kept


def _remember(entries: Mapping[str, tuple[float, Answers]]) -> None:
    content = {key: {"time": time_s, "answers": asdict(answers)} for key, (time_s, answers) in entries.items()}
    try:
        paths.cache_dir().mkdir(parents=True, exist_ok=True)
        with atomic.replacing(_cache_file(), durable=False) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except OSError:
        return  # asked again next time, which costs less than a word about it
