"""Work in several processes: what comes back, what a dead worker costs, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from loratory.errors import LoratoryError
from loratory.imaging import workers
from loratory.imaging.workers import Failure, mapped


def double(number: int) -> int:
    return 2 * number


def process_of(_number: int) -> int:
    return os.getpid()


def picky(number: int) -> int:
    if number == 3:
        raise LoratoryError("Three is refused.")
    if number == 4:
        raise MemoryError
    if number == 5:
        raise ValueError("five")
    return number


def deadly(number: int) -> int:
    if number % 10 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 10 == 7:
        os._exit(5)
    return number


def unpicklable(number: int) -> object:
    return (lambda: number) if number == 3 else number


def slow(folder: Path) -> int:
    (folder / f"{os.getpid()}").touch()
    time.sleep(60)
    return 0


def chatty(number: int) -> int:
    print("on standard output")
    sys.stderr.write("on standard error\n")
    sys.stdin.read()
    return number


def crosses_paths(name: Path) -> Path:
    return name / "a"


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_argument_comes_back_with_its_result() -> None:
    assert sorted(mapped(double, range(500), workers=2)) == [(number, 2 * number) for number in range(500)]


def test_other_processes_do_the_work() -> None:
    processes = {result for _, result in mapped(process_of, range(50), workers=2)}

    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


@pytest.mark.parametrize(("count", "workers_"), [(8, 2), (50, 1)])
def test_few_arguments_and_one_worker_stay_in_this_process(count: int, workers_: int) -> None:
    assert {result for _, result in mapped(process_of, range(count), workers=workers_)} == {os.getpid()}


@pytest.mark.parametrize("workers_", [1, 2])
def test_an_exception_costs_only_its_argument(workers_: int) -> None:
    results = dict(mapped(picky, range(20), workers=workers_))

    assert results.pop(3) == Failure("Three is refused.")
    assert results.pop(4) == Failure("MemoryError")
    assert results.pop(5) == Failure("ValueError: five")
    assert results == {number: number for number in range(20) if number not in (3, 4, 5)}


def test_a_dead_worker_costs_only_its_argument() -> None:
    results = dict(mapped(deadly, range(30), workers=2))

    assert len(results) == 30
    for number in range(30):
        if number % 10 == 3:
            assert results[number] == Failure("its process was killed (SIGKILL)")
        elif number % 10 == 7:
            assert results[number] == Failure("its process ended with exit code 5")
        else:
            assert results[number] == number


def test_a_result_that_cannot_be_sent_is_a_failure() -> None:
    results = dict(mapped(unpicklable, range(20), workers=2))

    assert isinstance(results.pop(3), Failure)
    assert results == {number: number for number in range(20) if number != 3}


def test_output_of_a_worker_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert dict(mapped(chatty, range(12), workers=2)) == {number: number for number in range(12)}
    assert capfd.readouterr() == ("", "")


def test_few_arguments_are_taken_ahead() -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            yield taken
            taken += 1

    results = mapped(double, endless(), workers=2)
    for returned in range(1, 200):
        next(results)
        assert taken - returned <= 16
    results.close()


def test_stop_ends_the_work_early() -> None:
    stop = Event()
    count = 0
    for _ in mapped(double, iter(int, 1), workers=2, stop=stop):
        count += 1
        if count == 20:
            stop.set()
    assert count < 60


def test_leaving_the_loop_leaves_no_process() -> None:
    seen: set[int] = set()
    for _, result in mapped(process_of, range(1000), workers=2):
        assert isinstance(result, int)
        seen.add(result)
        if len(seen) == 2:
            break
    deadline_s = time.monotonic() + 10
    while any(is_alive(process) for process in seen):
        assert time.monotonic() < deadline_s


def test_a_worker_at_work_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_LET_FINISH_S", 0.1)
    stop = Event()

    def stop_once_all_work() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        stop.set()

    watcher = Thread(target=stop_once_all_work, daemon=True)
    watcher.start()

    assert list(mapped(slow, [tmp_path] * 20, workers=2, stop=stop)) == []
    assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())


def test_without_any_worker_this_process_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert dict(mapped(process_of, range(20), workers=2)) == dict.fromkeys(range(20), os.getpid())


def test_workers_that_die_at_their_start_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_CHILD", "raise SystemExit(3)")

    assert dict(mapped(process_of, range(20), workers=2)) == dict.fromkeys(range(20), os.getpid())


def test_standard_error_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Captured:
        def fileno(self) -> int:
            return -1

        def write(self, _text: str) -> None: ...

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Captured())

    assert len(dict(mapped(double, range(20), workers=2))) == 20


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import signal, sys; sys.path.insert(0, sys.argv[2])\n"
        # Where the tests run in the background, a child would ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from loratory.imaging import workers\n"
        "import test_workers\n"
        "workers._LET_FINISH_S = 0.1\n"
        "for _ in workers.mapped(test_workers.slow, [Path(sys.argv[1])] * 20, workers=2): pass\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=environment) as process:
        deadline_s = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())


def test_undecodable_names_travel() -> None:
    names = [Path(os.fsdecode(b"\xff%d" % number)) for number in range(20)]

    assert dict(mapped(crosses_paths, names, workers=2)) == {name: name / "a" for name in names}
