"""Loads and holds the engine in a thread without holding up the others: a screen has to answer keys meanwhile.

Three things would hold Python's lock for up to a second each: the linking of torch's libraries, which `import` does
under the lock; the collector, which looks through the hundreds of thousands of objects that imports make; and nothing
but time, every few milliseconds, for each turn that the threads take.
"""

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from loratory.runs.interruption import uninterrupted

# In the order in which they need each other; those that a build of torch lacks are passed over. libtorch_python is left
# to the import itself: it is made for a thread that holds the lock.
_SHARED = "libtorch_global_deps"
_LIBRARIES = ("libc10", "libtorch_cpu", "libc10_cuda", "libtorch_cuda", "libtorch")
# 5 ms by default. A key takes a dozen turns, and a turn costs 0.01 ms.
_TURN_S = 0.0005


def load_engine() -> None:
    """Imports all that a run needs. Takes seconds; other threads wait for no more than some hundredths of one.

    It is not interrupted: torch's import calls Python from C++, and an exception that comes out of there may end the
    whole process. Raises KeyboardInterrupt at its end where that was asked meanwhile.
    """
    was_enabled = gc.isenabled()
    with uninterrupted():
        gc.disable()
        try:
            _link_torch()
            for name in ("loop", "plan"):
                importlib.import_module(f"loratory.training.{name}")
            stay()
        finally:
            if was_enabled:
                gc.enable()


def stay() -> None:
    """Has the collector pass over all that there is now, which is not going to be garbage until `let_go`.

    Looking through the objects of a model and of all that was imported holds Python's lock for 50 to 400 ms.
    """
    gc.freeze()


def let_go() -> None:
    """Collects what has become garbage since, also of that which was told to stay; takes some tenths of a second."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def taking_turns() -> Generator[None]:
    """While it lasts, threads that compute give way to one another ten times as often as by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _link_torch() -> None:
    """Links torch's libraries as its import would, but without Python's lock; what cannot be is left to the import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None or sys.platform == "win32":
        return
    folder = Path(spec.origin).parent / "lib"
    with suppress(OSError, AttributeError):
        # ctypes.CDLL(path) would link under the lock; a function that is called through ctypes runs without it.
        link = ctypes.CDLL(None).dlopen
        link.restype = ctypes.c_void_p
        ending = "dylib" if sys.platform == "darwin" else "so"
        for name, flags in ((_SHARED, os.RTLD_GLOBAL), *((name, 0) for name in _LIBRARIES)):
            path = folder / f"{name}.{ending}"
            if path.exists():
                link(os.fsencode(path), os.RTLD_NOW | flags)
