"""The one door through which commands reach a run: small files in its `control/` folder, removed when obeyed."""

import errno
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from loratory import atomic

CommandName = Literal["stop", "save", "pause", "resume", "sample", "skip", "unskip", "rate"]
COMMANDS: tuple[CommandName, ...] = get_args(CommandName)


@dataclass(frozen=True)
class Command:
    """What a run is told.

    value: of sample the prompt with its flags, "" for those of the config; of skip and unskip a picture's path below
    the training folder; of rate the factor on the learning rates, as text.
    """

    name: CommandName
    value: str = ""


def send(directory: Path, command: Command) -> None:
    """Leaves `command` in a run's control folder. Commands are obeyed in the order they were sent. Raises OSError."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{time.time_ns():020d}-{command.name}.json"
    try:
        atomic.write_text(path, json.dumps({"command": command.name, "value": command.value}))
    except OSError as error:
        if command.value or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path.touch()  # its name says it all, and takes no room on a disk whose lack of it the command may be about


@dataclass
class Control:
    """What the loop asks once a step: commands from the folder and from this process (a signal, a key)."""

    directory: Path
    _requested: list[Command] = field(default_factory=list[Command])

    def request(self, name: CommandName, value: str = "") -> None:
        """Safe to call from a signal handler or another thread."""
        self._requested.append(Command(name, value))

    def poll(self) -> list[Command]:
        """Takes the commands that wait. Files that are not commands are removed and ignored."""
        commands: list[Command] = []
        while self._requested:
            commands.append(self._requested.pop(0))
        for path in sorted(self.directory.glob("*.json")):
            command = _read(path)
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # a folder, or what we may not remove: it would be obeyed again and again
            if command is not None:
                commands.append(command)
        return commands

    def waits(self, name: CommandName) -> bool:
        """Whether a command of that name is among those that `poll` would take."""
        return any(command.name == name for command in self._requested) or any(self.directory.glob(f"*-{name}.json"))

    def discard(self) -> None:
        """Forgets commands meant for a process that is no more: a resumed run must not stop at once."""
        for path in self.directory.glob("*.json"):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Command | None:
    word = path.stem.partition("-")[2]
    name: CommandName | None = next((name for name in COMMANDS if name == word), None)
    if name is None:
        return None
    try:
        body: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        body = None
    value: Any = body.get("value", "") if isinstance(body, dict) else ""
    return Command(name, value if isinstance(value, str) else "")
