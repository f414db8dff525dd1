"""What the editor does between and beside key presses: reading, checking, watching the disk, loading what it knows."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from loratory.editing.facts import trained_line
from loratory.errors import LoratoryError
from loratory.tui.delivery import Delivery
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.editing.checks.context import CheckContext
    from loratory.editing.checks.finding import CaptionFinding
    from loratory.tui.screens.tags import TagsScreen

# How long the screen's thread works at a time on what is not asked for yet: so short that no key waits for it
# noticeably, and longer while nobody types.
_SLICE_S = 0.006
_IDLE_SLICE_S = 0.03
_IDLE_AFTER_S = 0.6
_SLICES_EVERY_S = 0.01
_LOOK_EVERY_S = 0.25
_LOOK_AT_DISK_EVERY_S = 3.0
_SURVEY_EVERY_S = 2.0

_Result = TypeVar("_Result")


class Background:
    """The threads of a screen, and the slices of work on its own thread.

    Whatever a thread finds comes to the screen through `deliver`, which never waits.
    """

    def __init__(self, screen: "TagsScreen") -> None:
        self._screen = screen
        self._session = screen.session
        self._hand_over = Delivery(screen)
        self.stopping = threading.Event()
        self.has_begun = False
        self.context: CheckContext | None = None
        self._read = 0  # so many captions are read
        self._lessons = 0
        self._late: list[Callable[[], None]] = []
        self._wants_facts = threading.Event()
        self.picture_findings: dict[str, tuple[CaptionFinding, ...]] = {}
        self.is_looking = False
        self._looked_s = self._surveyed_s = self._pressed_s = 0.0
        self._slices = screen.set_interval(_SLICES_EVERY_S, self._slice, pause=True)

    @property
    def is_ready(self) -> bool:
        """Whether captions, vocabulary and findings are all there."""
        has_all = self._read == len(self._session.items) and self.context is not None
        return has_all and self._screen.findings.is_complete

    def begin(self) -> None:
        """Starts all that the first paint need not wait for."""
        self.has_begun = True
        self.note_key()
        self._slices.resume()
        for work in (self._watch_disk, self._find_facts):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def end(self) -> None:
        """Ends the threads; from any thread. What came of writing after this waits for `take_late`."""
        self.stopping.set()
        self._wants_facts.set()

    def take_late(self) -> None:
        """Does what came of writing after the end."""
        while self._late:
            self._late.pop(0)()

    def note_key(self) -> None:
        """Somebody types: slices are short for a while."""
        self._pressed_s = time.monotonic()

    def note_look(self) -> None:
        """The screen was drawn."""
        self._looked_s = time.monotonic()

    def note_work(self) -> None:
        """There may be captions to check."""
        self._slices.resume()

    # --- on threads ---

    def want_facts(self) -> None:
        """Has size and token count of the current picture found out."""
        self._wants_facts.set()

    def run(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        """Does reading work on a thread that nobody waits for at the end."""
        threading.Thread(target=lambda: self._run(work, done), daemon=True).start()

    def learn(self) -> None:
        """Loads anew what is known of the tags, by the settings of the dataset as they are now."""
        self._lessons += 1
        lesson = self._lessons

        def taught(learnt: Callable[[], None]) -> None:
            if lesson == self._lessons:  # else the settings have changed again
                learnt()

        self.run(self._knowledge, taught)

    def look_at_pictures(self) -> bool:
        """Has every picture looked at, and their findings join those of the captions; whether that is begun.

        Not done unasked: the first time it decodes all of them.
        """
        context = self.context
        if context is None or self.is_looking:
            return False
        self.is_looking = True

        def work() -> "list[CaptionFinding]":
            from loratory.editing.checks.looking import check_session_pictures, look_at_pictures

            try:
                return check_session_pictures(
                    self._session, look_at_pictures(self._session, context, stop=self.stopping)
                )
            finally:
                self.is_looking = False

        self.run(work, self._know_pictures)
        return True

    def _know_pictures(self, found: "list[CaptionFinding]") -> None:
        by_item: defaultdict[str, list[CaptionFinding]] = defaultdict(list)
        for finding in found:
            by_item[finding.item].append(finding)
        self.picture_findings = {name: tuple(findings) for name, findings in by_item.items()}
        if self.context is not None:
            self.check_by(self.context)
        self._screen.tell(Told(f"the pictures are looked at: {len(found)} findings of them"))

    def _run(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        try:
            result = work()
        except LoratoryError as error:
            told = Told.of(error)
            self.deliver(lambda: self._screen.tell(told))
            return
        self.deliver(lambda: done(result))

    def _knowledge(self) -> Callable[[], None]:
        """Vocabulary, tokenizer, the indexes of typos and completion; what is returned puts them to use."""
        from loratory.editing.checks.context import session_context
        from loratory.editing.checks.near import known_names
        from loratory.tags.completion.completer import Completer

        context = session_context(self._session)
        known_names(self._session.vocabulary)
        completer = Completer(self._session.vocabulary)
        # The first call learns the dataset's tags; here it keeps no key press waiting.
        completer.complete("", uses=dict(self._screen.editor.uses))

        def use() -> None:
            self._screen.insert.use(completer)
            self.check_by(context)
            self._screen.look()

        return use

    def _watch_disk(self) -> None:
        while not self.stopping.wait(_LOOK_AT_DISK_EVERY_S):
            if self._read < len(self._session.items):
                continue
            changed = [item for item in self._session.items if self.stopping.is_set() or item.has_changed()]
            if changed:
                self.deliver(lambda changed=changed: self._screen.take_over(changed))

    def _find_facts(self) -> None:
        """Size and token count of whatever picture is current when the last ones are known."""
        while self._wants_facts.wait() and not self.stopping.is_set():
            self._wants_facts.clear()
            item = self._screen.editor.current
            if item is not None:
                self._session.facts.size(item)
                self._session.facts.tokens(trained_line(item))
                self.deliver(self._screen.look)

    # --- back on the screen's thread ---

    def deliver(self, work: Callable[[], None]) -> None:
        """Hands work over to the screen's thread and never waits; dropped when the screen is gone."""
        self._hand_over(lambda: None if self.stopping.is_set() else work())

    def deliver_written(self, work: Callable[[], None]) -> None:
        """`deliver` for what came of writing: kept for `take_late` when the screen is going."""

        def keep() -> None:
            self._late.append(work)

        self._hand_over(lambda: keep() if self.stopping.is_set() else work(), keep)

    # --- slices ---

    def check_by(self, context: "CheckContext") -> None:
        """Looks at every caption again, as `context` has it."""
        from loratory.editing.checks.caption import check_caption

        self.context = context
        findings = self._screen.findings
        of_pictures = self.picture_findings
        findings.replace_check(
            lambda item: [*check_caption(item, context), *of_pictures.get(item.name, ())], self._session.items
        )
        self._session.facts.issues_of = lambda item: frozenset(found.rule for found in findings.of(item))
        self._surveyed_s = time.monotonic()
        self.note_work()

    def read_anew(self) -> None:
        """Counts captions that were all read at once; what the pictures look like may have changed too."""
        self.picture_findings = {}
        self._read = len(self._session.items)
        self._screen.editor.recount()
        self.learn()

    def _slice(self) -> None:
        """A slice of reading captions and finding what is wrong with them."""
        items, now, screen = self._session.items, time.monotonic(), self._screen
        is_idle = now - self._pressed_s > _IDLE_AFTER_S
        slice_s = _IDLE_SLICE_S if is_idle else _SLICE_S
        if self._read < len(items):
            while self._read < len(items) and time.monotonic() < now + slice_s:
                _ = items[self._read].keys
                self._read += 1
            if self._read == len(items):
                screen.editor.count(items)
                screen.editor.judge_style()
                self.learn()
            self._look_sometimes(self._read == len(items))
        elif screen.findings.work(slice_s):
            self._look_sometimes(screen.findings.is_complete)
        elif screen.editor.changed_since_survey and self.context is not None:
            # Which tags are rare, and what the first tags of a folder are, hangs on all captions together.
            if is_idle and now - self._surveyed_s > _SURVEY_EVERY_S:
                screen.editor.changed_since_survey = False
                self.check_by(self.context.surveyed(items))
        else:
            self._slices.pause()

    def _look_sometimes(self, at_once: bool) -> None:
        if at_once or time.monotonic() - self._looked_s > _LOOK_EVERY_S:
            self._screen.look()
