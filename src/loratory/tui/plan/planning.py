"""The plan that belongs to a draft, and what is being done for it."""

from collections.abc import Callable, Mapping
from typing import Any

from loratory.config.draft import Draft
from loratory.config.lint import Facts
from loratory.training.plan_report import facts_from
from loratory.tui.delivery import Delivery
from loratory.tui.plan.planner import Answer, Planner


class Planning:
    """Asks for plans and measurements, and keeps the last of each.

    deliver: hands work over to the screen's thread. changed: called there when there is something new. failed: called
    there with the reason for which a measurement came to nothing. measured: called there when one is done.
    """

    def __init__(
        self,
        deliver: Delivery,
        changed: Callable[[], object],
        failed: Callable[[str], object],
        measured: Callable[[], object],
    ) -> None:
        self._changed = changed
        self._failed = failed
        self._has_measured = measured
        self._deliver = deliver
        self._answer: Answer | None = None
        self._measured: Answer | None = None
        self.answers = 0  # so many were taken, of either kind
        self.waits_for = ""
        self.measures = ""
        self._planner = Planner(lambda a: self._deliver(lambda: self._planned(a)), self._note_waits)
        self._measurer = Planner(lambda a: self._deliver(lambda: self._tried(a)), self._note_measures, measures=True)

    def want(self, draft: Draft) -> None:
        """Has a draft planned; one with problems is not, nor is what went before it."""
        if draft.problems:
            self._planner.cancel()
        elif not self._is_known(draft):
            self._planner.ask(draft.toml(), draft.place)

    def measure(self, draft: Draft) -> None:
        """Has a few steps of a draft tried."""
        self._measurer.ask(draft.toml(), draft.place)

    def stop_measuring(self) -> bool:
        """Ends a measurement; whether there was one."""
        was_busy = self._measurer.is_busy
        self._measurer.cancel()
        return was_busy

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return self._planner.is_busy or self._measurer.is_busy or bool(self.waits_for or self.measures)

    def plan_of(self, draft: Draft) -> Mapping[str, Any]:
        """The plan of this very draft, with its measurement where there is one; {} while there is none."""
        answer, measured = self._answer, self._measured
        if answer is None or not answer.plan or not _is_of(answer, draft):
            return {}
        if measured is not None and _is_of(measured, draft):
            return {**answer.plan, "measured": measured.plan["measured"]}
        return answer.plan

    def error_of(self, draft: Draft) -> str:
        """Why this very draft cannot be planned, "" while that is not known."""
        answer = self._answer
        return "" if answer is None or not _is_of(answer, draft) else f"{answer.error} {answer.hint}".strip()

    @property
    def facts(self) -> Facts:
        """What the last plan knew of pictures and model."""
        answer = self._answer
        return facts_from(answer.facts) if answer is not None and answer.facts else Facts()

    def forget(self) -> None:
        """What is known belongs to other pictures."""
        self._answer = self._measured = None

    def end(self) -> None:
        """Ends all that is under way; from any thread."""
        self._planner.end()
        self._measurer.end()

    def _is_known(self, draft: Draft) -> bool:
        return self._answer is not None and _is_of(self._answer, draft) and not self._planner.is_busy

    def _planned(self, answer: Answer) -> None:
        self._answer = answer
        self.answers += 1
        self._changed()

    def _tried(self, answer: Answer) -> None:
        if answer.error:
            self._failed(f"{answer.error} {answer.hint}".strip())
            return
        self._measured = answer
        self.answers += 1
        self._has_measured()

    def _note_waits(self, what: str) -> None:
        def note() -> None:
            self.waits_for = what
            self._changed()

        self._deliver(note)

    def _note_measures(self, what: str) -> None:
        def note() -> None:
            self.measures = what
            self._changed()

        self._deliver(note)


def _is_of(answer: Answer, draft: Draft) -> bool:
    return answer.toml == draft.toml() and answer.path == draft.place
