"""Hosting the engine in this process: signals, library output, and the last word of a run.

Ctrl-C or SIGTERM once: save the state and stop. Twice: stop at once. When the terminal goes away (SIGHUP) the run goes
on without it, with its output in log.txt.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.runs.control import Control
from loratory.runs.events import Finished, Notice, Phase
from loratory.runs.interruption import last_words, put_off
from loratory.runs.ladder import ladder
from loratory.runs.launch import process_count
from loratory.runs.loading import let_go, load_engine
from loratory.runs.recorder import Recorder
from loratory.runs.resume import is_expected, open_for_resume
from loratory.runs.store import RunDirectory, is_full_disk, newest_state
from loratory.runs.tensorboard import following
from loratory.runs.way_back import resume_command
from loratory.telemetry.hardware import Beat

if TYPE_CHECKING:
    from loratory.training.plan import Plan

__all__ = ["host", "host_follower", "open_for_resume"]


def host(
    config: Config,
    run: RunDirectory,
    hung_up: threading.Event,
    stopping: threading.Event | None = None,
    plan: "Plan | None" = None,
) -> Finished:
    """Trains in the calling thread until the run is done, stopped or failed.

    plan: that of `config`, where it has been made already. Sets `hung_up` on SIGHUP, and `stopping` when a signal asks
    for a stop; signals are heard in the main thread only. Whatever happens is recorded in the run before it is raised:
    LoratoryError for what a person can act on, any other exception for a defect, with its traceback in log.txt. What
    the engine held, on the graphics card too, is free when the last event is written.
    """
    control = Control(run.control)
    expected = is_expected(run.read_record())
    signals = _signals(control, run.log, hung_up, stopping or threading.Event())
    with (
        last_words() as begin_last_words,  # however often a stop is asked for, how the run ended is recorded
        signals,
        Recorder(run, control) as recorder,
        Beat(recorder),
        _logging_to(run.log),
        following(run, config, lambda sentence: recorder.mention(Notice("warning", sentence))),
    ):
        if not expected:  # else what waits was meant for this process
            control.discard()
        try:
            # Imported here: it takes seconds, and a problem with it belongs into the run's record too.
            recorder.write(Phase("loading PyTorch", 0, 1))
            load_engine()
            from loratory.training.loop import train
            from loratory.training.plan import make_plan

            recorder.write(Phase("reading the dataset", 0, 1))
            finished = train(plan or make_plan(config, process_count()), run, control, recorder)
            begin_last_words()
        except KeyboardInterrupt as interrupt:
            begin_last_words()
            _release(interrupt)
            finished = Finished("stopped", recorder.step, "Stopped at once; the last saved state is kept.")
        except Exception as error:
            begin_last_words()
            problem = _explained(error, config, run)
            if problem is not error:
                _append(run.log, traceback.format_exc())
            _release(error)
            _free_memory()
            with suppress(OSError):  # the disk, or what it is connected by, has failed altogether
                message = problem.message if problem else f"{type(error).__name__}: {error}"
                hint = problem.hint if problem else f"The traceback is in {run.log}."
                _tell_of_the_rest(control, recorder)
                recorder.write(Finished("failed", recorder.step, message, hint))
            if problem is None:
                raise
            raise problem from error
        _free_memory()
        _tell_of_the_rest(control, recorder)
        recorder.write(finished)
    return finished


def _tell_of_the_rest(control: Control, recorder: Recorder) -> None:
    """Says which commands came too late for a run that ends now; a stop is none of them."""
    late = [f"{command.name} {command.value}".strip() for command in control.poll() if command.name != "stop"]
    if late:
        recorder.mention(Notice("warning", f"Not carried out, as the run has ended: {', '.join(late)}."))


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
    resume = f"`{resume_command(run)}` goes on."
    if is_full_disk(error):
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
    if _is_out_of_memory(error):
        return _out_of_memory(error, config, run)
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has a class of its own for its allocator's word, but none for that of the driver, of cuBLAS and of Apple's
    # GPUs, and for main memory.
    words = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator", "can't allocate memory")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _out_of_memory(error: BaseException, config: Config, run: RunDirectory) -> LoratoryError:
    """What ran out where, and the commands that go on with less, from what costs least to what costs most."""
    in_main = isinstance(error, MemoryError) or "CPUAllocator" in str(error)
    trained = newest_state(run)
    rungs = ladder(config, trained=trained is not None)
    commands = [f"`{rung.command(run.path)}`\n    {rung.sentence}" for rung in rungs]
    since = f"from step {trained.step}" if trained else "from its first step"
    hint = [f"One of these goes on with the run {since}; what costs least comes first:", *commands]
    if not commands:
        hint = [
            "Every setting that saves memory and can change now is in force. Close other programs that use it, then "
            f"`{resume_command(run)}` goes on {since}."
        ]
    if in_main:
        hint.insert(0, "Close other programs that use much of it first.")
    resolution = "x".join(map(str, config.dataset.resolution_wh))
    return LoratoryError(
        f"{'Main memory ran out' if in_main else 'The GPU ran out of memory'} at batch size "
        f"{config.training.train_batch_size} and resolution {resolution}.",
        hint="\n".join(hint),
        exit_code=FAILED,
    )


def _release(error: BaseException) -> None:
    """Empties the frames that the tracebacks of `error` hold: in them lie the model, its gradients and its states."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            waiting += [each.__cause__, each.__context__]


def _free_memory() -> None:
    """Collects what the engine left in circles, and gives the card back what torch keeps for later."""
    let_go()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


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
    captured = warnings.showwarning.__module__ == logging.__name__
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(captured)
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
        if stopping.is_set() and not put_off(threading.get_ident()):
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
