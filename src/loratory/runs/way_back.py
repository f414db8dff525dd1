"""What is left of a run that no process has in hand, and the command that goes on with it."""

import time

from loratory.runs.store import RunDirectory, RunRecord, newest_state
from loratory.wording import spoken_time, typed


def gone(run: RunDirectory, now_s: float | None = None) -> tuple[str, str]:
    """What a person is told of a run that has crashed: what became of it, and how it goes on."""
    record = run.read_record()
    reached = f", after step {record.step} of {record.total_steps}" if record and record.total_steps else ""
    return f"{run.path} crashed: {what_became(record)}{reached}.", way_back(run, now_s)


def what_became(record: RunRecord | None) -> str:
    """What is known of the process of a run that has crashed. The step in its record is some seconds old."""
    who = f" (pid {record.pid} on {record.host})" if record else ""
    return f"the process that trained it{who} is gone without a word"


def way_back(run: RunDirectory, now_s: float | None = None) -> str:
    """The command that goes on with `run`, and from where."""
    state = newest_state(run)
    if state is None:
        return f"`{resume_command(run)}` begins from its first step: no state was saved yet."
    ago = spoken_time(max(0.0, (time.time() if now_s is None else now_s) - state.time_s))
    return f"`{resume_command(run)}` goes on from step {state.step}, whose state was saved {ago} ago."


def resume_command(run: RunDirectory) -> str:
    """The command line that goes on with `run`, as a shell takes it."""
    return f"loratory train --resume {typed(run.path)}"
