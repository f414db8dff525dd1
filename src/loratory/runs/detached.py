"""A run in a process of its own, which no terminal can end."""

import subprocess
import sys

from loratory.runs.control import Control
from loratory.runs.store import RunDirectory, new_record


def start_detached(run: RunDirectory) -> int:
    """Trains `run`, a new one or one that is to go on, in a process of its own session: its pid. Raises OSError."""
    Control(run.control).discard()  # from here on, commands are meant for the new process
    # A new run without a state is resumed from its first step: one way into the engine for both.
    # -P: a file named like a module, in the folder we are in, is not that module.
    command = [sys.executable, "-P", "-m", "loratory", "train", "--resume", str(run.path)]
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    # The new process takes a second to say so itself, and may be looked for or stopped before.
    run.write_record(new_record(process.pid))
    return process.pid
