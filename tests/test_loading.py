"""Loading the engine beside something that must not stand still."""

import subprocess
import sys

import pytest

from loratory.runs.loading import taking_turns
from terminal import ENVIRONMENT

_CHILD = """
import gc, os, sys, threading, time
from pathlib import Path
from loratory.runs.loading import load_engine

assert "torch" not in sys.modules
thread = threading.Thread(target=load_engine)
thread.start()
longest = 0.0
def robbed():
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
before, waited = time.perf_counter(), robbed()
while thread.is_alive():
    time.sleep(0.001)
    now, wait = time.perf_counter(), robbed()
    longest = max(longest, now - before - (wait - waited))
    before, waited = time.perf_counter(), robbed()
import torch
assert "loratory.training.loop" in sys.modules and "loratory.training.plan" in sys.modules
assert torch.equal(torch.ones(2, 2) @ torch.ones(2, 2), torch.full((2, 2), 2.0))
assert gc.isenabled() and gc.get_freeze_count() > 100_000
print(longest)
"""

_INTERRUPTED = """
import threading
from loratory.runs.interruption import put_off
from loratory.runs.loading import load_engine

ended = []
def load():
    try:
        load_engine()
    except KeyboardInterrupt:
        ended.append(threading.get_ident())

thread = threading.Thread(target=load)
assert not put_off(threading.get_ident())
thread.start()
while thread.is_alive() and not put_off(thread.ident):
    pass
thread.join()
assert ended == [thread.ident] and not put_off(thread.ident)
import torch
from loratory.training.loop import train
load_engine()  # nothing of it is left
"""


@pytest.mark.slow
def test_an_interruption_waits_until_the_engine_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_engine_is_loaded_beside_a_living_thread() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # 0.04 s on a machine that has nothing else to do; without care it is a second or more.
    assert float(done.stdout.splitlines()[-1]) < 0.4


def test_turns_are_shorter_only_while_asked_for() -> None:
    before = sys.getswitchinterval()
    with taking_turns():
        assert sys.getswitchinterval() < before / 5
    assert sys.getswitchinterval() == before
