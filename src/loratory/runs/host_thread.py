"""A run in a thread of a program that has other things to do: it waits for nobody, and goes on when the rest ends."""

import ctypes
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from loratory.config.schema import Config
from loratory.runs.control import Command, Control, send
from loratory.runs.events import Finished
from loratory.runs.interruption import put_off
from loratory.runs.loading import taking_turns
from loratory.runs.store import RunDirectory, new_record

if TYPE_CHECKING:
    from loratory.training.plan import Plan


class RunThread:
    """Trains `run` in a daemon thread once it is started. Whoever wants to know how it goes reads the run's folder."""

    def __init__(self, config: Config, run: RunDirectory, plan: "Plan | None" = None) -> None:
        self.run = run
        self._config = config
        self._plan = plan
        self.finished: Finished | None = None
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)

    def start(self) -> None:
        """Begins. Whoever looks sees from now on that the run is in hand, and can tell it things. Raises OSError."""
        Control(self.run.control).discard()  # from here on, commands are meant for this process
        self.run.write_record(new_record())
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until the run has ended, at most so long; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Asks the run to save its state and stop after the step in hand; from anywhere, a signal handler too."""
        with suppress(OSError):
            send(self.run.control, Command("stop"))

    def stop_at_once(self) -> None:
        """Ends the run without another step or state, as a second Ctrl-C does; it is told so in the run."""
        thread = self._thread.ident
        if thread is not None and self._thread.is_alive() and not put_off(thread):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))

    def _train(self) -> None:
        # Imported here: the engine takes seconds to load, and nobody is to wait for it.
        from loratory.runs.host import host

        # What went wrong is in the run's last event, and a defect's traceback in its log.
        with suppress(Exception, KeyboardInterrupt), taking_turns():
            self.finished = host(self._config, self.run, threading.Event(), plan=self._plan)
