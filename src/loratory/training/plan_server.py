"""Plans for a program that must not wait: a process of its own, a JSON object a line in and out.

In: {"id", "toml", "path"}, `path` being where the configuration's file would lie; with "measure": true a few steps are
tried too. Out, first {"ready": true}; then for a request {"id", "plan", "facts"} with what `loratory plan --json`
gives, or {"id", "error", "hint"}; while it measures {"id", "phase"} as well. Of requests that wait only the newest is
answered, and a newer one ends a measurement. The process ends when its input does, whatever it is doing.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from loratory.errors import LoratoryError
from loratory.telemetry.memory import peak_resident_bytes

_MOST_RESIDENT_BYTES = 4_000_000_000
"""A server that ever held more ends after its answer; the next one begins afresh."""

_FAILED = "The plan cannot be made: a defect of Loratory"


class _Newest:
    """The request that waits."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._request: Mapping[str, Any] | None = None

    def put(self, request: Mapping[str, Any]) -> None:
        with self._arrived:
            self._request = request
            self._arrived.notify()

    def take(self) -> Mapping[str, Any]:
        with self._arrived:
            while self._request is None:
                self._arrived.wait()
            request, self._request = self._request, None
            return request

    @property
    def waits(self) -> bool:
        return self._request is not None


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answers until the input ends, and with it the process."""
    newest = _Newest()
    threading.Thread(target=_read, args=(requests, newest), name="requests", daemon=True).start()
    import loratory.training.plan as _  # takes seconds, once  # noqa: F401

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, allow_nan=True) + "\n")
        answers.flush()

    say({"ready": True})
    while True:
        request = newest.take()
        number = request.get("id")
        try:
            _answer(request, lambda message, n=number: say({"id": n, **message}), lambda: newest.waits)
        except LoratoryError as error:
            say({"id": number, "error": error.message, "hint": error.hint})
        except Exception as error:  # noqa: BLE001 - a configuration that breaks the planner must not end it
            say({"id": number, "error": f"{_FAILED}: {type(error).__name__}: {error}", "hint": ""})
        if peak_resident_bytes() > _MOST_RESIDENT_BYTES:
            os._exit(0)


def _read(requests: TextIO, newest: _Newest) -> None:
    for line in requests:
        newest.put(json.loads(line))
    os._exit(0)  # whoever asked is gone


def _answer(request: Mapping[str, Any], say: Callable[[dict[str, Any]], None], is_outdated: Callable[[], bool]) -> None:
    from loratory.config.load import resolve
    from loratory.config.toml_files import parse_toml
    from loratory.training.facts import facts_of
    from loratory.training.measure import Measured, measure
    from loratory.training.plan import make_plan
    from loratory.training.plan_report import facts_report, measured_report, plan_report

    path = Path(request["path"])
    plan = make_plan(resolve(parse_toml(request["toml"], path), path))
    report = plan_report(plan)
    if request.get("measure"):
        for progress in measure(plan):
            if is_outdated():
                return
            if isinstance(progress, Measured):
                report["measured"] = measured_report(plan, progress)
            else:
                count = f" {progress.done}/{progress.total}" if progress.total > 1 else ""
                say({"phase": f"{progress.name}{count}"})
    say({"plan": report, "facts": facts_report(facts_of(plan))})


def main() -> None:
    """Speaks with whoever started the process; what libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # pyright: ignore[reportAttributeAccessIssue] - it is a TextIOWrapper
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
