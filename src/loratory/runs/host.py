"""Hosting the engine in this process: signals, library output, and the last word of a run.

Ctrl-C or SIGTERM once: save the state and stop. Twice: stop at once. When the terminal goes away (SIGHUP) the run goes
on without it, with its output in log.txt.
"""

import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from loratory.config.load import load_config
from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.runs.control import Control
from loratory.runs.events import Finished, Phase
from loratory.runs.launch import process_count
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory, RunRecord, liveness

if TYPE_CHECKING:
    from loratory.training.plan import Plan


def open_for_resume(run: RunDirectory) -> Config:
    """The config of a run that can go on. Raises LoratoryError when it is being trained, or done."""
    record = run.read_record()
    state = liveness(record) if record else None
    # A silent run has not been heard of for so long that its process, on another host, is taken to be dead.
    if record is not None and state in ("starting", "running", "paused") and not _is_expected(record):
        raise LoratoryError(
            f"{run.path} is being trained already (pid {record.pid} on {record.host}).",
            hint=f"`loratory watch {run.path}` shows it, `loratory runs stop {run.path}` stops it.",
        )
    if state == "done":
        raise LoratoryError(f"{run.path} is done; there is nothing to resume.")
    return load_config(run.config)


def _is_expected(record: RunRecord | None) -> bool:
    """Whether this process is the one that `train --detach` announced in the run's record when it started it."""
    return record is not None and record.status == "starting" and record.pid == os.getpid()


def host(
    config: Config,
    run: RunDirectory,
    hung_up: threading.Event,
    stopping: threading.Event | None = None,
    plan: "Plan | None" = None,
) -> Finished:
    """Trains in the calling (main) thread until the run is done, stopped or failed.

    plan: that of `config`, where it has been made already. Sets `hung_up` on SIGHUP, and `stopping` when a signal asks
    for a stop. Whatever happens is recorded in the run before it is raised: LoratoryError for what a person can act on,
    any other exception for a defect, with its traceback in log.txt.
    """
    control = Control(run.control)
    expected = _is_expected(run.read_record())
    signals = _signals(control, run.log, hung_up, stopping or threading.Event())
    with Recorder(run) as recorder, _logging_to(run.log), signals:
        if not expected:  # else what waits was meant for this process
            control.discard()
        try:
            # Imported here: it takes seconds, and a problem with it belongs into the run's record too.
            from loratory.training.loop import train
            from loratory.training.plan import make_plan

            recorder.write(Phase("reading the dataset", 0, 1))
            finished = train(plan or make_plan(config, process_count()), run, control, recorder)
        except KeyboardInterrupt:
            finished = Finished("stopped", recorder.step, "Stopped at once; the last saved state is kept.")
        except Exception as error:
            problem = _explained(error, config, run)
            if problem is not error:
                _append(run.log, traceback.format_exc())
            with suppress(OSError):  # a full disk cannot take this event either
                message = problem.message if problem else f"{type(error).__name__}: {error}"
                hint = problem.hint if problem else f"The traceback is in {run.log}."
                recorder.write(Finished("failed", recorder.step, message, hint))
            if problem is None:
                raise
            raise problem from error
        recorder.write(finished)
    return finished


def host_follower(config: Config) -> None:
    """Trains beside the first process of several (see `training.distributed`); returns when that one ends the run.

    Once they have met, signals are the first process's business: it saves, and tells the others to stop.
    """
    from loratory.training.device import pick_device
    from loratory.training.distributed import Ranks
    from loratory.training.loop import follow
    from loratory.training.plan import make_plan

    try:
        plan = make_plan(config, process_count())
        ranks = Ranks.join(pick_device())
        names = ["SIGINT", "SIGTERM", "SIGHUP"]
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            signal.signal(number, signal.SIG_IGN)
        follow(plan, ranks)
    except RuntimeError as error:
        if "onnection" not in str(error):
            raise
        raise LoratoryError(
            "The first process of the run has gone.", hint="Its messages say why.", exit_code=FAILED
        ) from error


def _explained(error: Exception, config: Config, run: RunDirectory) -> LoratoryError | None:
    """What a person is told about `error`; None if it is a defect of the program."""
    resume = f"`loratory train --resume {run.path}` goes on."
    if _is_full_disk(error):
        what = error.message if isinstance(error, LoratoryError) else "The disk is full."
        return LoratoryError(
            f"{what} Training has stopped; what was saved before is whole.",
            hint=f"Make room, then {resume}",
            exit_code=FAILED,
        )
    if isinstance(error, LoratoryError):
        return error
    if isinstance(error, OSError) and error.errno:
        where = f" ({error.filename})" if error.filename else ""
        return LoratoryError(f"{error.strerror}{where}. Training has stopped.", hint=resume, exit_code=FAILED)
    if process_count() > 1 and isinstance(error, RuntimeError) and "onnection" in str(error):
        hint = f"Its messages say why; {resume}"
        return LoratoryError("Another process of the run has gone.", hint=hint, exit_code=FAILED)
    if type(error).__name__ == "OutOfMemoryError":
        return LoratoryError(
            f"The GPU ran out of memory at batch size {config.training.train_batch_size} and resolution "
            f"{'x'.join(map(str, config.dataset.resolution_wh))}.",
            hint="In this order: training.gradient_checkpointing = true, train_batch_size = 1 with "
            "gradient_accumulation_steps, training.int8_base = true, network.network_train_unet_only = true, a smaller "
            "dataset.resolution, training.blocks_to_swap.",
            exit_code=FAILED,
        )
    return None


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether `error` is, or was raised from, the system's word that nothing more fits."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        pass  # a full disk: the default prints a traceback to the terminal for every line that is lost


@contextmanager
def _logging_to(path: Path) -> Generator[None]:
    """Sends what the libraries log and warn to `path`: a terminal shows the run, not their chatter."""
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _signals(control: Control, log: Path, hung_up: threading.Event, stopping: threading.Event) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; a thread's host has its own ways to ask for a stop
        return
    # Asked now: a terminal that has gone is none. What is a pipe or a file stays one.
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        control.request("stop")

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        hung_up.set()
        with suppress(OSError):  # without a log there is still the run
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for stream in terminals:
                os.dup2(descriptor, stream)
            os.close(descriptor)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if sys.platform != "win32":
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _append(path: Path, text: str) -> None:
    with suppress(OSError), path.open("a", encoding="utf-8") as log:
        log.write(text)
