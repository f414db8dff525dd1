"""Plans from a process of their own, so that no key waits for them and this process needs no torch."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loratory.paths import cache_dir

COMMAND = (sys.executable, "-P", "-m", "loratory.training.plan_server")
"""Starts the process; -P: a file named like a module, in the folder we are in, is not that module."""

_ORDERLY_END_S = 1.0
_STARTING, _READING, _TRYING = "starting the planner", "reading pictures and model", "loading the model"


@dataclass(frozen=True)
class Answer:
    """toml, path: what was asked about. plan, facts: as the server gives them; {} where error says why there are none.

    hint: what to do about the error, "" for nothing.
    """

    toml: str
    path: Path
    plan: Mapping[str, Any]
    facts: Mapping[str, Any]
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _Request:
    number: int
    toml: str
    path: Path


class Planner:
    """Asks for plans, the newest wish first.

    answered: gets each answer; waits: gets what is being waited for, "" for nothing. Both are called in the planner's
    thread. measures: a few steps are tried too, each time in a process that ends with them and gives their memory back.
    """

    def __init__(
        self, answered: Callable[[Answer], object], waits: Callable[[str], object], *, measures: bool = False
    ) -> None:
        self._answered = answered
        self._waits = waits
        self._measures = measures
        self._numbers = itertools.count(1)
        self._arrived = threading.Condition()
        self._wanted: _Request | None = None
        self._in_hand: _Request | None = None
        self._process: subprocess.Popen[str] | None = None
        self._has_ended = False
        self._is_cancelled = False
        self._thread: threading.Thread | None = None

    def ask(self, toml: str, path: Path) -> None:
        """Asks for the plan of a configuration that would lie at `path`; an older wish that still waits is forgotten,
        and a measurement is ended for a newer one."""
        with self._arrived:
            self._wanted = _Request(next(self._numbers), toml, path)
            if self._measures:
                self._kill()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="planner", daemon=True)
                self._thread.start()
            self._arrived.notify()

    def cancel(self) -> None:
        """Ends what is under way without an answer."""
        with self._arrived:
            self._wanted = None
            if self._in_hand is not None:
                self._is_cancelled = True
                self._kill()

    @property
    def is_busy(self) -> bool:
        """Whether an answer is still to come."""
        return self._wanted is not None or self._in_hand is not None

    def end(self) -> None:
        """Ends thread and process; from any thread, at once."""
        with self._arrived:
            self._has_ended = True
            self._kill()
            self._arrived.notify()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()

    def _work(self) -> None:
        while True:
            with self._arrived:
                while self._wanted is None and not self._has_ended:
                    self._arrived.wait()
                if self._has_ended:
                    break
                request, self._wanted = cast(_Request, self._wanted), None
                self._in_hand, self._is_cancelled = request, False
            answer = self._answer(request)
            with self._arrived:
                self._in_hand = None
                is_last = self._wanted is None
            if self._has_ended:
                break
            if answer is not None:
                self._answered(answer)
            if is_last:
                self._waits("")
        self._close()

    @property
    def _is_unwanted(self) -> bool:
        """Whether what is in hand was ended on purpose."""
        return self._has_ended or self._is_cancelled or (self._measures and self._wanted is not None)

    def _answer(self, request: _Request) -> Answer | None:
        """The answer to a request; None where it was ended for a newer one."""
        for is_last in (False, True):
            process = self._running()
            if isinstance(process, str):
                return Answer(request.toml, request.path, {}, {}, process)
            try:
                answer = self._spoken(process, request)
            except (OSError, ValueError):  # it ended while it was spoken to, or what it said was cut
                answer = None
            code = self._close() if self._measures or answer is None else 0
            if self._is_unwanted:
                return None
            if answer is not None:
                return answer
            # Once may be the end that a full memory asks for; twice is its fault. Trials are dear: one is enough.
            if is_last or self._measures:
                return Answer(request.toml, request.path, {}, {}, *_death(code))
        raise AssertionError("the last try has an answer")

    def _running(self) -> "subprocess.Popen[str] | str":
        """The server, or why there is none."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._close()
        self._waits(_STARTING)
        try:
            log_file().parent.mkdir(parents=True, exist_ok=True)
            with log_file().open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    errors="surrogateescape",
                    start_new_session=True,  # Ctrl-C is for the program, not for its planner
                )
        except OSError as error:
            return f"No process can be started for the plan: {error.strerror}."
        with self._arrived:
            self._process = process
            if self._is_unwanted:
                self._kill()
        return process

    def _spoken(self, process: "subprocess.Popen[str]", request: _Request) -> Answer | None:
        """Asks and listens until there is an answer; None when the process ended instead."""
        assert process.stdin is not None and process.stdout is not None
        message = {"id": request.number, "toml": request.toml, "path": str(request.path), "measure": self._measures}
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if said.get("ready"):
                self._waits(_TRYING if self._measures else _READING)
            elif said.get("id") != request.number:
                continue
            elif "phase" in said:
                self._waits(said["phase"])
            elif "error" in said:
                return Answer(request.toml, request.path, {}, {}, said["error"], said["hint"])
            else:
                return Answer(request.toml, request.path, said["plan"], said["facts"])
        return None

    def _close(self) -> int:
        """Ends the process, if it has not, and gives its exit status."""
        with self._arrived:
            process, self._process = self._process, None
        if process is None:
            return 0
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()  # at the end of its input it ends by itself
        try:
            code = process.wait(_ORDERLY_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return code


def log_file() -> Path:
    """Where the planner's process leaves what it has to say beside its answers."""
    return cache_dir() / "planner.log"


def _death(code: int) -> tuple[str, str]:
    """Why there is no plan where its process died, and what to do."""
    if code == -9:
        return "The process that plans was killed, as happens when memory runs out.", "Close what else needs memory."
    return f"The process that plans broke off with status {code}.", f"{log_file()} says where."
