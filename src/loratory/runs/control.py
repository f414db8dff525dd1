"""The one door through which commands reach a run: small files in its `control/` folder, removed when obeyed."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from loratory import atomic

Command = Literal["stop", "save"]
COMMANDS: tuple[Command, ...] = get_args(Command)


def send(directory: Path, command: Command) -> None:
    """Leaves `command` in a run's control folder. Commands are obeyed in the order they were sent."""
    directory.mkdir(exist_ok=True)
    atomic.write_text(directory / f"{time.time_ns():020d}-{command}.json", json.dumps({"command": command}))


@dataclass
class Control:
    """What the loop asks once a step: commands from the folder and from this process (a signal, a key)."""

    directory: Path
    _requested: list[Command] = field(default_factory=list[Command])

    def request(self, command: Command) -> None:
        """Safe to call from a signal handler or another thread."""
        self._requested.append(command)

    def poll(self) -> list[Command]:
        """Takes the commands that wait. Files that are not commands are removed and ignored."""
        commands: list[Command] = []
        while self._requested:
            commands.append(self._requested.pop(0))
        for path in sorted(self.directory.glob("*.json")):
            word = path.stem.partition("-")[2]
            commands.extend(command for command in COMMANDS if command == word)
            path.unlink(missing_ok=True)
        return commands

    def waits(self, command: Command) -> bool:
        """Whether `command` is among those that `poll` would take."""
        return command in self._requested or any(self.directory.glob(f"*-{command}.json"))

    def discard(self) -> None:
        """Forgets commands meant for a process that is no more: a resumed run must not stop at once."""
        for path in self.directory.glob("*.json"):
            path.unlink(missing_ok=True)
