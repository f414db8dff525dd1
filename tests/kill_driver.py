"""Trains a config in child processes, each killed as told, until one comes to the end.

    python kill_driver.py CONFIG '[{"after_step": 3}, {"at_fsync": 5}, …]' ['[[2, "rate", "0.5"], …]']

Children are forked from a process that has imported everything and computed nothing: starting one takes no time.
after_step: SIGKILL as soon as that step stands in the events. at_fsync: SIGKILL inside the n-th fsync, which is in the
middle of saving something. at_state: SIGKILL half way through writing the n-th state. at_verify: SIGKILL when the n-th
adapter file is in its place and about to be compared. The last argument: what the run is told after so many steps,
unless its events say that it has obeyed that already.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

import loratory.training.loop
import loratory.training.outputs
import loratory.training.state
from loratory import atomic
from loratory.config.load import dump_config, load_config
from loratory.runs.control import Command, send
from loratory.runs.events import Obeyed, Step
from loratory.runs.host import host, open_for_resume
from loratory.runs.store import EventReader, RunDirectory
from loratory.training.commands import Commands


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(module: object, name: str, number: int) -> None:
    original, calls = getattr(module, name), 0

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            die()
        return original(*args, **kwargs)

    setattr(module, name, counting)


def die_in_state(number: int) -> None:
    original, calls = atomic.write_bytes, 0

    def counting(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += path.suffix == ".pt"
        if calls == number:
            path.with_name(f".{path.name}.0.tmp").write_bytes(data[: len(data) // 2])
            die()
        original(path, data)

    loratory.training.state.atomic.write_bytes = counting


def tell(run: RunDirectory, orders: list[tuple[int, str, str]]) -> None:
    obey = Commands.obey
    events = [timed.event for timed in EventReader(run.events).read()]
    obeyed = [(e.step, e.command, e.value) for e in events if isinstance(e, Obeyed)]

    def told_first(self: Commands, done: int) -> object:
        for step, name, value in orders:
            if step == done and (step, name, value) not in obeyed:
                send(run.control, Command(name, value))
        return obey(self, done)

    Commands.obey = told_first


def child(run: RunDirectory, plan: dict[str, int], orders: list[tuple[int, str, str]]) -> None:
    torch.set_num_threads(1)
    tell(run, orders)
    if "at_fsync" in plan:
        die_at_call(os, "fsync", plan["at_fsync"])
    if "at_state" in plan:
        die_in_state(plan["at_state"])
    if "at_verify" in plan:
        die_at_call(loratory.training.outputs, "compare_with_live", plan["at_verify"])
    host(open_for_resume(run), run, threading.Event())


def main() -> None:
    config = load_config(sys.argv[1])
    run = RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
    orders = [tuple(order) for order in json.loads(sys.argv[3])] if len(sys.argv) > 3 else []
    for plan in [*json.loads(sys.argv[2]), {}]:
        reader = EventReader(run.events, run.events.stat().st_size if run.events.exists() else 0)
        pid = os.fork()
        if pid == 0:
            try:
                child(run, plan, orders)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status, done = 0, 0
        while not done:
            done, status = os.waitpid(pid, os.WNOHANG)
            seen = [timed.event.step for timed in reader.read() if isinstance(timed.event, Step)]
            if not done and seen and seen[-1] >= plan.get("after_step", 10**9):
                os.kill(pid, signal.SIGKILL)
                plan = {}
            time.sleep(0.002)
        print(json.dumps({"killed": os.WIFSIGNALED(status), "status": status}), flush=True)


if __name__ == "__main__":
    main()
