"""One process at a time changes the captions of a dataset: a lock that the system takes back when its holder dies."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from loratory.errors import FAILED, LoratoryError

WAIT_S = 10.0
_LOOK_EVERY_S = 0.02


@contextmanager
def holding(path: Path) -> Generator[None]:
    """Holds the lock file at `path`, which is made if it is missing.

    Waits up to WAIT_S for another holder (also another thread), then raises LoratoryError naming its process. Raises
    OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until_s = time.monotonic() + WAIT_S
        while not _take(descriptor):
            if time.monotonic() > until_s:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                raise LoratoryError(
                    f"Process {holder or 'unknown'} has been changing captions in {path.parent.parent} for more than "
                    f"{WAIT_S:.0f} seconds; nothing was changed.",
                    hint="Try again when it is done.",
                    exit_code=FAILED,
                )
            time.sleep(_LOOK_EVERY_S)
        with suppress(OSError):  # only for the message above; a full disk need not stop anybody here
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def holding_if_free(path: Path) -> Generator[bool]:
    """Holds the lock without waiting; yields whether nobody else does. True where there is no lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        yield _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network disks have no locks: two processes at once are then kept apart by reading before writing
    return True
