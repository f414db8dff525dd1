"""Starts the program in this terminal, and says how it ended."""

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loratory.errors import FAILED, LoratoryError
from loratory.paths import config_dir
from loratory.terminal.probe import settle
from loratory.tui.app import LoratoryApp
from loratory.tui.crash import crash_file, keep_crash
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import open_project
from loratory.tui.text import ASCII, UNICODE

if TYPE_CHECKING:
    from loratory.runs.host_thread import RunThread


class Left(NamedTuple):
    """What there is when the screens have ended. run: still trains in this process, and goes on while that lives.
    problem: what went wrong, to be told."""

    run: "RunThread | None"
    problem: LoratoryError | None


def run(
    path: Path,
    *,
    first: str = "",
    preview: str | None = None,
    mouse: bool = True,
    ascii_only: bool = False,
    read_only: bool = False,
) -> Left:
    """Opens what lies at `path` until the person leaves: a folder of pictures, a run, a folder of runs, or a config.

    first: the pane to begin with, where it is no folder of pictures. read_only: runs are shown and told nothing.
    Raises LoratoryError before it starts if it cannot.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):  # it draws on the last of them
        raise LoratoryError("This needs a terminal.", hint="Without one, use the verbs: `loratory --help` lists them.")
    size = os.get_terminal_size(sys.stdout.fileno())
    if (size.columns, size.lines) < (1, 1):
        raise LoratoryError("The terminal says it has no size.", hint="`stty rows 24 columns 80` tells it.")
    project = open_project(path)
    session = None
    if project.dataset is not None:
        from loratory.editing.session import open_session

        session = open_session(project.dataset)
    keymaps = Keymaps(config_dir() / "keys.toml")
    encoding = (sys.stdout.encoding or "").lower()
    ascii_only = ascii_only or not encoding.startswith("utf")
    typed: list[bytes] = []
    graphics = settle("ascii" if ascii_only and preview is None else preview, os.environ, typed.append)
    glyphs = ASCII if ascii_only else UNICODE
    if not first:
        has_run = session is None and project.config is None and project.newest_run() is not None
        first = "run" if has_run else "plan"
    app = LoratoryApp(session, keymaps, graphics, glyphs, project=project, first=first, read_only=read_only)
    app.typed_ahead = b"".join(typed).decode("utf-8", "replace")
    problem: LoratoryError | None = None
    try:
        app.run(mouse=mouse)
    except Exception:
        if app.own_run is None:
            raise
        keep_crash(traceback.format_exc())  # a run must not end with the screens, whatever ended these
        problem = _broken_off()
    finally:
        app.close()
    if app.return_code:  # without this a crash would look like a good end
        problem = _broken_off()
    elif session is not None and app.editor_screen.last_words:
        problem = LoratoryError("\n".join(app.editor_screen.last_words), exit_code=FAILED)
    thread = app.own_run
    # One that ended while the terminal went has told nobody how: that goes to its log.
    if thread is None or not (thread.is_alive or app.hung_up):
        return Left(None, problem)
    if app.hung_up:
        _leave_terminal(thread.run.log)
    return Left(thread, problem)


def _broken_off() -> LoratoryError:
    return LoratoryError(
        "The program broke off: a defect of Loratory. Every change that it told of is on disk.",
        hint=f"{crash_file()} says where; please report it with that.",
        exit_code=FAILED,
    )


def _leave_terminal(log: Path) -> None:
    """Sends what would go to a terminal that is gone to `log`."""
    with suppress(OSError):  # without a log there is still the run
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
