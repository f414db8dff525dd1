"""How a terminal can show pictures, and which way is taken: a pure choice from what it answered and the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from loratory.errors import LoratoryError

Mode = Literal["kitty", "sixel", "half", "ascii", "off"]
Setting = Literal["auto", "kitty", "sixel", "half", "ascii", "off"]
Multiplexer = Literal["", "tmux", "screen"]

SETTING_VARIABLE = "LORATORY_PREVIEW"

# Where neither the terminal nor its size in pixels tells: the cell of xterm's and tmux's own assumption, 1:2.
DEFAULT_CELL_PX = (10, 20)

# They answer kitty's query, but draw pictures beside the cells only: Unicode placeholders show as boxes in them.
_WITHOUT_PLACEHOLDERS = ("wezterm", "konsole", "iterm", "warp", "vscode", "xterm.js", "mintty")


@dataclass(frozen=True)
class Answers:
    """What a terminal said about itself."""

    asked: bool = False  # there was a terminal that could be asked
    answered: bool = False  # its primary device attributes came in time
    kitty: bool = False  # kitty's graphics query was answered with OK; in tmux: through the passthrough
    attributes: tuple[int, ...] = ()  # of the primary device attributes; 4 is sixel
    cell_px: tuple[int, int] | None = None  # (width, height) of a cell
    name: str = ""  # as it calls itself, or as tmux names the terminal around it; "" unknown


@dataclass(frozen=True)
class Choice:
    """A mode and the clause that says why it was taken."""

    mode: Mode
    why: str


@dataclass(frozen=True)
class Graphics:
    """All that drawing a picture needs to know of the terminal."""

    mode: Mode
    why: str = ""
    cell_px: tuple[int, int] = DEFAULT_CELL_PX
    in_tmux: bool = False
    over_ssh: bool = False


def read_setting(option: str | None, env: Mapping[str, str]) -> Setting:
    """The mode a person asked for: the option, else $LORATORY_PREVIEW, else "auto". Raises LoratoryError."""
    value, where = (option, "the preview option") if option else (env.get(SETTING_VARIABLE, ""), f"${SETTING_VARIABLE}")
    if not value:
        return "auto"
    if value.lower() not in get_args(Setting):
        raise LoratoryError(
            f"“{value}” in {where} is not a way to show pictures.", hint=f"One of {', '.join(get_args(Setting))}."
        )
    return cast(Setting, value.lower())


def multiplexer(env: Mapping[str, str]) -> Multiplexer:
    """What sits between the program and the terminal.

    $TMUX is not set where tmux runs on another machine and ssh inside it; then only $TERM tells. TERM=screen is taken
    for tmux's old default unless $STY says that GNU screen runs here.
    """
    if env.get("TMUX"):
        return "tmux"
    if env.get("STY"):
        return "screen"
    return "tmux" if env.get("TERM", "").startswith(("tmux", "screen")) else ""


def over_ssh(env: Mapping[str, str]) -> bool:
    """Whether the terminal is at the other end of an SSH link."""
    return bool(env.get("SSH_CONNECTION") or env.get("SSH_TTY"))


def needs_answers(setting: Setting, env: Mapping[str, str]) -> bool:
    """Whether `choose` would make anything of the terminal's answers."""
    return setting in ("kitty", "sixel") or (setting == "auto" and _plain(env) is None)


def choose(setting: Setting, answers: Answers, env: Mapping[str, str]) -> Choice:
    """The mode to show pictures in.

    What a person asks for is done, except that half blocks and kitty's cells are made of colours, which $NO_COLOR
    takes away. By itself, "auto" takes kitty's protocol where the terminal proved it, sixel where the terminal
    offers it and no multiplexer is in between, and half blocks everywhere else.
    """
    if setting != "auto":
        if setting in ("kitty", "half") and env.get("NO_COLOR") is not None:
            return Choice("ascii", f"{setting} was asked for, but NO_COLOR is set")
        return Choice(setting, "it was asked for")
    if (plain := _plain(env)) is not None:
        return plain
    between = multiplexer(env)
    if between == "screen":
        return Choice("half", "GNU screen lets no picture through")
    if answers.kitty:
        name = terminal_name(answers, env)
        if any(known in name.lower() for known in _WITHOUT_PLACEHOLDERS):
            if between == "" and 4 in answers.attributes:
                return Choice("sixel", f"{name} offers sixel, and kitty's pictures not as cells")
            return Choice("half", f"{name} has kitty's pictures, but not as cells")
        through = " through tmux" if between else ""
        return Choice("kitty", f"the terminal answered kitty's query{through}")
    if between == "tmux":
        return Choice("half", "in tmux, and no answer came through it: pictures need `set -g allow-passthrough on`")
    if 4 in answers.attributes:
        return Choice("sixel", "the terminal says that it has sixel")
    if not answers.answered:
        return Choice("half", "the terminal did not answer in time" if answers.asked else "no terminal could be asked")
    return Choice("half", "the terminal offers no pictures of its own")


def terminal_name(answers: Answers, env: Mapping[str, str]) -> str:
    """The best name there is for the terminal; "" when nothing tells."""
    if answers.name:
        return answers.name
    program = env.get("TERM_PROGRAM", "")
    if program and program != "tmux":
        return program
    if env.get("WT_SESSION"):
        return "Windows Terminal"
    return name_of_term(env.get("TERM", ""))


def name_of_term(term: str) -> str:
    """The terminal that a $TERM belongs to alone; "" for one that many take, such as xterm-256color."""
    return {"xterm-kitty": "kitty", "xterm-ghostty": "ghostty", "foot": "foot", "linux": "the Linux console"}.get(
        term, ""
    )


def fitted(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) with the proportions of `size` inside `box`, at least 1x1; all in one unit."""
    (width, height), (box_width, box_height) = size, box
    if width * box_height >= height * box_width:
        return box_width, max(1, min(box_height, round(height * box_width / width)))
    return max(1, min(box_width, round(width * box_height / height))), box_height


def _plain(env: Mapping[str, str]) -> Choice | None:
    """ASCII, where the environment leaves nothing else."""
    if env.get("NO_COLOR") is not None:
        return Choice("ascii", "NO_COLOR is set")
    if env.get("TERM") in (None, "", "dumb"):
        return Choice("ascii", "TERM names no terminal with colours")
    if not names_unicode(env):
        return Choice("ascii", "the locale is not UTF-8")
    return None


def names_unicode(env: Mapping[str, str]) -> bool:
    """Whether the locale leaves room for Unicode: only one that names another encoding does not."""
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    _, dot, encoding = locale.partition(".")
    return not dot or encoding.lower().replace("-", "").startswith("utf8")
