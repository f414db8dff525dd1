"""The program in a pseudo-terminal that a test reads, leaves unread, resizes or closes."""

import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

from terminal import ENVIRONMENT, PROGRAM, wait_for

_LATEST_BYTES = 100_000


class PtyScreen:
    """The program with its screens in a pseudo-terminal; a thread reads what it writes, while `reads` says so."""

    def __init__(self, arguments: Sequence[str], size: tuple[int, int] = (80, 24)) -> None:
        self.said = bytearray()
        self._may_read = threading.Event()
        self._may_read.set()
        self._is_closed = False
        environment = os.environ | ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            # The size before the program: one that it has to be told of later makes it draw twice.
            _set_size(0, size)
            os.execve(PROGRAM[0], [*PROGRAM, *arguments, "--preview", "off"], environment)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the program has ended, or the terminal was closed
            while not self._is_closed:
                self._may_read.wait()
                if self._is_closed:
                    return
                self.said += os.read(self._terminal, 1 << 16)

    def stall(self) -> None:
        """From here on nobody reads, but for what the reader has waited for already."""
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    def close_terminal(self) -> None:
        """Takes the terminal away, as the end of a connection does."""
        self._is_closed = True
        self._may_read.set()
        with suppress(OSError):  # wakes the reader: a descriptor is not closed while another thread reads from it
            self.press("j")
        self._reader.join(10)
        assert not self._reader.is_alive()
        os.close(self._terminal)

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def resize(self, size: tuple[int, int]) -> None:
        _set_size(self._terminal, size)

    def shows(self, text: str) -> bool:
        """Whether the text was written in one piece lately."""
        return text.encode() in self.said[-_LATEST_BYTES:]

    def wait_for(self, text: str, within_s: float = 120) -> None:
        limit = time.monotonic() + within_s
        while not self.shows(text):
            assert time.monotonic() < limit, f"{text!r} never came; last: {bytes(self.said[-2000:])!r}"
            time.sleep(0.02)

    def is_blocked(self) -> bool:
        """Whether the thread that draws has stood still for longer than its clock lets it."""
        before = self._turns()
        time.sleep(1.6)  # its clock ticks every half second
        return self._turns() == before

    def _turns(self) -> str:
        """How often the first thread has waited, and computed so far."""
        status = Path(f"/proc/{self.pid}/task/{self.pid}/status").read_text()
        return status.partition("voluntary_ctxt_switches:")[2].split()[0]

    def exit_status(self, within_s: float = 120) -> int:
        """Waits for the process to end; its exit code, negative for a signal."""
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        wait_for(has_ended, within_s)
        return ended[0]

    def end(self) -> None:
        """Ends the program, whatever it is doing; for the end of a test."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        self._may_read.set()
        self._reader.join(10)
        with suppress(OSError):
            os.close(self._terminal)


def _set_size(terminal: int, size: tuple[int, int]) -> None:
    columns, rows = size
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
