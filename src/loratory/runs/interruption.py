"""When a run may be ended at once, and when not: an exception must not come out of everything that a thread does."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

# Threads that are not to be interrupted now -> whether they are to be later.
_protected: dict[int, bool] = {}


def put_off(thread: int) -> bool:
    """Whether the thread (its `ident`) must not be interrupted now; it is when it may be. Also for signal handlers."""
    if thread not in _protected:
        return False
    _protected[thread] = True
    return True


@contextmanager
def uninterrupted() -> Generator[None]:
    """While it lasts the calling thread is not interrupted; raises KeyboardInterrupt at its end if that was asked."""
    thread = threading.get_ident()
    _protected[thread] = False
    try:
        yield
    finally:
        is_wanted = _protected.pop(thread)
    if is_wanted:
        raise KeyboardInterrupt


@contextmanager
def last_words() -> Generator[Callable[[], None]]:
    """Gives a function; from its call to the end of the context the calling thread is not interrupted any more."""
    thread = threading.get_ident()
    try:
        yield lambda: _protected.update({thread: False})
    finally:
        _protected.pop(thread, None)
