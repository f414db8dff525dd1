"""The end of the screens with a run still going in this process: it goes on in a plain terminal, or without any."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

from loratory.cli import output
from loratory.cli.progress import Viewer
from loratory.errors import FAILED
from loratory.runs.host_thread import RunThread
from loratory.runs.store import liveness
from loratory.runs.way_back import resume_command


def carry_on(thread: RunThread) -> int:
    """Shows the run until it ends; the exit code.

    Ctrl-C or SIGTERM once: save the state and stop; twice: stop at once. When the terminal goes away the run goes on,
    with what is told in its log.
    """
    run, stopping = thread.run, threading.Event()
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            thread.stop_at_once()
        stopping.set()
        thread.stop()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            descriptor = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for stream in terminals:
                os.dup2(descriptor, stream)
            os.close(descriptor)

    for number, handler in ((signal.SIGINT, stop), (signal.SIGTERM, stop), (signal.SIGHUP, hang_up)):
        signal.signal(number, handler)
    output.say(f"{run.path} goes on in this process: closing the terminal does it no harm, Ctrl-C saves and stops it.")
    offset = run.events.stat().st_size if run.events.exists() else 0
    viewer = Viewer(run, as_json=False, from_offset=offset, stopping=stopping)
    viewer.start()
    while not thread.wait(0.2):
        pass
    viewer.close()
    finished = thread.finished
    if finished is None:
        record = run.read_record()
        output.error(f"{run.path} has {liveness(record)}.", record.message if record else "")
        return FAILED
    output.say(finished.message)
    if finished.status == "stopped":
        output.say(f"`{resume_command(run)}` goes on.")
    return 0 if finished.status == "done" else FAILED
