"""A real terminal for tests: tmux, on a server of its own."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = [sys.executable, "-m", "loratory"]
ENVIRONMENT = {
    "PYTHONPATH": str(HERE.parent / "src"),
    "OMP_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "PYTHONUTF8": "1",
}


class Terminal:
    """A tmux server of our own with one window, in which a shell runs a program and tells its exit code."""

    def __init__(self) -> None:
        # Not below pytest's folder: the path of a socket may have 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="loratory-tmux-")
        self._tmux = ["tmux", "-u", "-S", f"{self._folder}/socket", "-f", "/dev/null"]

    def run(self, command: list[str], width: int = 80, height: int = 24, **environment: str) -> None:
        """Starts `command`; NAME="" unsets a variable."""
        variables = {"NO_COLOR": "", "FORCE_COLOR": "", "COLUMNS": "", "LINES": ""} | ENVIRONMENT | environment
        unset = [word for name, value in variables.items() if not value for word in ("-u", name)]
        given = [f"{name}={value}" for name, value in variables.items() if value]
        shell = ["sh", "-c", 'trap : INT; "$@"; echo "exit code $?"; read _', "sh"]
        self("new-session", "-d", "-x", str(width), "-y", str(height), "env", *unset, *given, *shell, *command)

    def __call__(self, *command: str) -> str:
        # TMUX: these tests may themselves be run in tmux.
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        done = subprocess.run([*self._tmux, *command], env=environment, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lines(self, *options: str) -> list[str]:
        """What stands on the screen, without the empty lines at its end."""
        return self("capture-pane", "-p", *options).rstrip().splitlines()

    def until(self, condition: Callable[[list[str]], object], within_s: float = 60, what: str = "") -> list[str]:
        """The screen as soon as it is as it should be."""
        limit = time.monotonic() + within_s
        while not condition(lines := self.lines()):
            assert time.monotonic() < limit, f"not yet: {what}\n" + "\n".join(lines)
            time.sleep(0.02)
        return lines

    def wait_for(self, pattern: str, within_s: float = 60) -> list[str]:
        """The screen as soon as one of its lines matches."""
        return self.until(lambda lines: any(re.search(pattern, line) for line in lines), within_s, repr(pattern))

    def shows(self, expected: list[str], within_s: float = 20) -> bool:
        """Whether the screen comes to look like this."""
        limit = time.monotonic() + within_s
        while (lines := self.lines()) != expected:
            assert time.monotonic() < limit, "\n".join(["expected", *expected, "but it shows", *lines])
            time.sleep(0.02)
        return True

    def ends_with(self, code: int) -> None:
        """Waits for the program to end, with this exit code."""
        ended = self.wait_for(r"^exit code \d+$")[-1]
        assert ended == f"exit code {code}", "\n".join(self.lines("-S", "-200"))

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_for(condition: Callable[[], object], within_s: float = 60) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
