"""`loratory doctor`: what this machine and this terminal can do."""

import os
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, TextIO

import click
from rich.console import Console

import loratory
from loratory import paths
from loratory.cli import output
from loratory.errors import FAILED, LoratoryError

State = Literal["ok", "note", "fails"]

_GLYPHS = {"ok": "✓", "note": "·", "fails": "✗"}
_LIBRARIES = ("textual", "rich", "pillow", "numpy", "torch", "diffusers", "transformers", "peft")
_COLOURS = {"truecolor": "16 million", "256": "256", "standard": "16"}
_LONG_ESCAPE_MS = 50
_BUSY = 0.7  # of the cores


@dataclass(frozen=True)
class Check:
    """One thing looked at: `note` is worth knowing, `fails` names something that will not work."""

    about: str
    state: State
    text: str
    hint: str = ""


@click.command()
@click.option("--gpu", is_flag=True, help="Look for graphics cards too; loading torch takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(gpu: bool, as_json: bool) -> int:
    """What this machine and this terminal can do, and what to change.

    Asks the terminal anew how it can show pictures. Exits with 1 when something will not work.
    """
    env = dict(os.environ)
    checks = [*_program(), *_terminal(env), *_pictures(env), *_machine(env, gpu), *_folders(), *_vocabularies()]
    if as_json:
        output.data_json({"version": loratory.__version__, "checks": [asdict(check) for check in checks]})
    else:
        width = max(len(check.about) for check in checks)
        for check in checks:
            first = f"{_GLYPHS[check.state]} {check.about:{width}}  "
            _print(output.one_line(check.text), first, " " * len(first))
            for line in check.hint.splitlines():
                _print(output.one_line(line), " " * (len(first) + 2), " " * (len(first) + 2))
    return FAILED if any(check.state == "fails" for check in checks) else 0


def _print(text: str, first: str, others: str) -> None:
    """A line of the result; on a terminal broken between words, every part under the first."""
    if not sys.stdout.isatty():
        output.data(first + text)
        return
    columns = max(len(first) + 20, shutil.get_terminal_size().columns)
    wrapped = textwrap.wrap(
        text, columns, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    for line in wrapped:
        output.data(line)


def _program() -> Iterator[Check]:
    yield Check(
        "program",
        "ok",
        f"Loratory {loratory.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()} {platform.machine()}",
    )
    versions: list[str] = []
    missing: list[str] = []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("libraries", "ok", ", ".join(versions))
    if missing:
        yield Check("libraries", "fails", f"not installed: {', '.join(missing)}", "Install Loratory again.")


def _terminal(env: Mapping[str, str]) -> Iterator[Check]:
    from loratory.terminal.modes import multiplexer, names_unicode, over_ssh

    term = env.get("TERM", "")
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
        yield Check("terminal", "note", "none: input or error output is redirected", "The tag editor needs one.")
    elif term in ("", "dumb"):
        what = "TERM is not set" if not term else "TERM=dumb"
        yield Check("terminal", "fails", f"{what}: the tag editor cannot draw", "Set TERM to what the terminal is.")
    else:
        columns, lines = _size()
        between = {"tmux": ", in tmux", "screen": ", in GNU screen", "": ""}[multiplexer(env)]
        ssh = ", over SSH" if over_ssh(env) else ""
        small = columns < 60 or lines < 16
        yield Check(
            "terminal",
            "note" if small else "ok",
            f"TERM={term}{between}{ssh}, {columns}x{lines}",
            "Too small: the tag editor is made for 80x24." if small else "",
        )
    yield from _colours(env)
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or "not set"
    if names_unicode(env):
        yield Check("characters", "ok", f"locale {locale}")
    else:
        yield Check(
            "characters",
            "note",
            f"locale {locale} is not UTF-8: pictures are drawn in ASCII",
            "Set LANG to a UTF-8 one such as C.UTF-8, if the terminal shows UTF-8.",
        )
    delay_ms = env.get("ESCDELAY", "")
    wait = f"ESCDELAY={delay_ms} ms" if delay_ms.isdecimal() and int(delay_ms) else "100 ms (ESCDELAY)"
    yield Check("escape key", "ok", f"taken as a key of its own after {wait}")
    yield from _tmux(env)


def _colours(env: Mapping[str, str]) -> Iterator[Check]:
    system = Console(file=sys.stderr, force_terminal=True).color_system
    if env.get("NO_COLOR") is not None:
        yield Check("colours", "note", "none: NO_COLOR is set")
    elif system == "truecolor":
        yield Check("colours", "ok", "16 million")
    else:
        yield Check(
            "colours",
            "note",
            _COLOURS.get(system or "", "none"),
            "If the terminal has more, `export COLORTERM=truecolor` says so; ssh does not hand it on by itself.",
        )


def _tmux(env: Mapping[str, str]) -> Iterator[Check]:
    from loratory.terminal import tmux
    from loratory.terminal.modes import multiplexer

    if multiplexer(env) != "tmux":
        return
    said = tmux.ask(env, "allow-passthrough", "client_termfeatures", "escape-time")
    if said is None:
        yield Check(
            "tmux",
            "note",
            "runs on another machine, or does not answer; for pictures and colours it needs in ~/.tmux.conf",
            "set -g allow-passthrough on\nset -ga terminal-features ',*:RGB'\nset -sg escape-time 10",
        )
        return
    passing, features, escape_ms = said
    lines: list[str] = []
    wait = ""
    if passing in ("off", "0", ""):
        lines.append("set -g allow-passthrough on")
    if "RGB" not in features.split(","):
        lines.append("set -ga terminal-features ',*:RGB'")
    if escape_ms.isdecimal() and int(escape_ms) > _LONG_ESCAPE_MS:
        lines.append("set -sg escape-time 10")
        wait = f"; it holds Esc back for {escape_ms} ms"
    if lines:
        yield Check("tmux", "note", f"better with these lines in ~/.tmux.conf{wait}", "\n".join(lines))
    else:
        yield Check("tmux", "ok", "lets pictures and 24-bit colours through")


def _pictures(env: Mapping[str, str]) -> Iterator[Check]:
    from loratory.terminal.modes import choose, read_setting, terminal_name
    from loratory.terminal.probe import detect, measured_cell_px

    try:
        setting = read_setting(None, env)
    except LoratoryError as wrong:
        yield Check("pictures", "fails", wrong.message, wrong.hint)
        return
    answers = detect(env, anew=True)
    choice = choose(setting, answers, env)
    cell_px = measured_cell_px() or answers.cell_px
    facts = [f"{choice.mode}: {choice.why}"]
    if name := terminal_name(answers, env):
        facts.append(f"the terminal is {name}")
    if cell_px:
        facts.append(f"a cell has {cell_px[0]}x{cell_px[1]} px")
    yield Check("pictures", "ok", "; ".join(facts), "LORATORY_PREVIEW=kitty, sixel, half, ascii or off overrules this.")


def _machine(env: Mapping[str, str], gpu: bool) -> Iterator[Check]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    load = os.getloadavg()[0]
    busy = load > _BUSY * cores and env.get("OMP_WAIT_POLICY", "").lower() != "passive"
    yield Check(
        "machine",
        "note" if busy else "ok",
        f"{cores} core{'s' if cores > 1 else ''}, load {load:.1f}, "
        f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free",
        "Busy: training on the CPU goes faster here with `export OMP_WAIT_POLICY=passive`." if busy else "",
    )
    if not gpu:
        yield Check("graphics card", "note", "not looked for", "`loratory doctor --gpu` does.")
        return
    try:
        import torch

        from loratory.training.device import device_name, pick_device

        device = pick_device()
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            formats = "bf16 and fp16" if torch.cuda.is_bf16_supported() else "fp16"
            others = torch.cuda.device_count() - 1
            more = f", and {others} more" if others else ""
            memory_text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            yield Check("graphics card", "ok", f"{device_name(device)}{more}, {memory_text}, {formats}")
        elif device.type == "cpu":
            text = f"none that torch {torch.__version__} can use: training runs on the CPU"
            yield Check("graphics card", "note", text)
        else:
            yield Check("graphics card", "ok", device_name(device))
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("graphics card", "fails", f"torch cannot be used ({error})", "Install torch anew for this machine.")


def _folders() -> Iterator[Check]:
    for about, folder in (
        ("settings", paths.config_dir()),
        ("data", paths.data_dir()),
        ("cache", paths.cache_dir()),
    ):
        if (reason := _unwritable(folder)) is None:
            yield Check(about, "ok", str(folder))
        else:
            yield Check(about, "fails", f"{folder}: {reason}", "LORATORY_HOME moves all of them to another folder.")


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in `folder`, which may not be there yet; None when one can."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"


def _vocabularies() -> Iterator[Check]:
    from loratory.tags.vocabulary.model import SITES
    from loratory.tags.vocabulary.store import open_vocabulary

    for site in SITES:
        try:
            vocabulary = open_vocabulary(site)
            sources = [Path(source.file).name for source in vocabulary.sources()]
            count = f"{len(vocabulary):_}".replace("_", " ")
            origin = f"from {', '.join(sources)}" if sources else "the starter pack"
            yield Check(f"tags {site}", "ok", f"{count} tags, {origin}")
        except LoratoryError as wrong:
            yield Check(f"tags {site}", "fails", wrong.message, wrong.hint)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, OSError):  # it is closed
        return False


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(2)
    except OSError:
        return 0, 0
    return size.columns, size.lines
