"""What the prepare pane does beside the screen: reading, looking at pictures, checking, writing recipes, building.

Whatever a thread finds comes to the screen through `deliver`, which never waits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loratory.errors import LoratoryError
from loratory.imaging.facts import PictureFacts
from loratory.tui.delivery import Delivery
from loratory.tui.prepare.snapshot import Snapshot, snapshot_of
from loratory.tui.prepare.state import Progress
from loratory.tui.told import Told
from loratory.tui.writer import Writer

if TYPE_CHECKING:
    from loratory.config.schema import DatasetSettings
    from loratory.editing.checks.finding import CaptionFinding
    from loratory.editing.checks.picture_context import PictureContext
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk, Entry
    from loratory.tui.prepare.screen import PrepareScreen

# Facts are handed over so often, and findings made anew while pictures are still looked at.
_HAND_OVER_EVERY_S = 0.25
_CHECK_EVERY_S = 4.0
# So long nothing may be changed before what was changed is checked.
_SETTLED_AFTER_S = 0.3
# So long the end waits for the picture in hand. A build that is cut off there goes on at the next one.
_BUILD_ENDS_WITHIN_S = 3.0

_Result = TypeVar("_Result")


class Work:
    """The threads of the pane. Made on the screen's thread.

    One thread at a time uses the desk. What is to be written while a build goes on has the build pause after the
    picture in hand, and the build goes on behind it with the recipes as they are then.
    """

    def __init__(self, screen: "PrepareScreen") -> None:
        self._screen = screen
        self.deliver = Delivery(screen)
        self.built: deque[str] = deque()  # names that a build came to, for the screen to take
        self.progress: Progress | None = None
        self.is_surveying = False
        self._context: PictureContext | None = None
        self._trained_by: DatasetSettings | None = None  # None before the desk is open
        self._desk: Desk | None = None
        self._desk_free = threading.Condition()
        self._waiting = 0  # for the desk, before a build that goes on
        self._building = False  # a build has the desk at this moment
        self._writer = Writer(self.deliver)
        self._build: threading.Thread | None = None
        self._stop_build = threading.Event()
        self._pause_build = threading.Event()
        self._stop_survey = threading.Event()

    # --- beginning and ending ---

    def open(self, directory: Path, done: Callable[[Snapshot], None]) -> None:
        """Opens the desk of a folder; `done` gets what is on it."""

        def opened(result: "tuple[Desk, Snapshot]") -> None:
            self._desk = result[0]
            done(result[1])

        def work() -> "tuple[Desk, Snapshot]":
            from loratory.preparation.desk import Desk

            desk = Desk(directory)
            return desk, self._snapshot(desk)

        self.run(work, opened)

    @property
    def is_open(self) -> bool:
        return self._desk is not None

    def end(self) -> None:
        """Ends the threads: recipes that were shown are written, a build ends after the picture in hand."""
        self._stop_build.set()
        self._pause_build.set()
        self._stop_survey.set()
        if self._build is not None:
            self._build.join(_BUILD_ENDS_WITHIN_S)
        self._writer.close()

    def run(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        """Does reading work on a thread that nobody waits for at the end."""
        threading.Thread(target=lambda: self._attempt(work, done), daemon=True, name="prepare").start()

    def _attempt(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - a defect must not leave the pane waiting for ever
            told = told_of(error)
            self.deliver(lambda: self._screen.failed(told))
            return
        self.deliver(lambda: done(result))

    # --- the desk ---

    def use_desk(
        self, work: "Callable[[Desk], _Result]", done: "Callable[[tuple[_Result, Snapshot] | LoratoryError], None]"
    ) -> None:
        """Has something written after all that was given before; `done` gets the result and what is on the desk then,
        or why it was not done."""
        self._writer.put(lambda: self._on_desk(work), done)

    @property
    def is_writing(self) -> bool:
        return self._writer.pending > 0

    def when_written(self, go_on: Callable[[], None]) -> None:
        """Goes on once every change that was asked for is written."""
        self._writer.put(lambda: None, lambda nothing: go_on())

    def _on_desk(self, work: "Callable[[Desk], _Result]") -> "tuple[_Result, Snapshot]":
        desk = self._desk
        assert desk is not None
        with self._desk_free:
            self._waiting += 1
            self._pause_build.set()
            self._desk_free.wait_for(lambda: not self._building)
            try:
                result = work(desk)
                return result, self._snapshot(desk)
            finally:
                self._waiting -= 1
                self._desk_free.notify_all()

    def _snapshot(self, desk: "Desk") -> Snapshot:
        session = self._screen.session
        snapshot = snapshot_of(desk, session.settings.dataset_settings(session.root))
        self._trained_by = snapshot.trained_by
        return snapshot

    # --- facts and findings ---

    def survey(self, entries: "Sequence[Entry]", known: Mapping[Path, PictureFacts] | None = None) -> None:
        """Looks at every picture that is not `known`, and checks all; in place of a survey that goes on.

        Without `known` the files are looked at anew (what has not changed is told at once), and the settings too.
        """
        self._stop_survey.set()
        self._stop_survey = stop = threading.Event()
        self.is_surveying = True
        facts = None if known is None else dict(known)
        threading.Thread(target=lambda: self._survey(list(entries), facts, stop), daemon=True, name="survey").start()

    def _survey(
        self, entries: "list[Entry]", facts_known: dict[Path, PictureFacts] | None, stop: threading.Event
    ) -> None:
        from loratory.imaging.survey import survey

        # One change follows another while somebody types: only the last is looked into.
        if facts_known is not None and stop.wait(_SETTLED_AFTER_S):
            return
        known = facts_known or {}
        wanted = dict.fromkeys(path for entry in entries for path in (entry.source, *looked_at(entry)))
        fresh: dict[Path, PictureFacts] = {}
        handed_s = time.monotonic()
        check_at_s = handed_s + _CHECK_EVERY_S
        try:
            check = self._checker(entries, anew=facts_known is None)
            for path, facts in survey([path for path in wanted if path not in known], stop=stop):
                known[path] = fresh[path] = facts
                now_s = time.monotonic()
                if now_s - handed_s > _HAND_OVER_EVERY_S:
                    handed_s, handed, fresh = now_s, fresh, {}
                    self.deliver(lambda handed=handed: self._screen.take_facts(handed))
                if now_s > check_at_s:
                    self._hand_findings(check(known), stop, complete=False)
                    # Looking goes on first: no more than a tenth of the time is spent on what is not all yet.
                    check_at_s = time.monotonic() + max(_CHECK_EVERY_S, 10 * (time.monotonic() - now_s))
                if stop.is_set():
                    return
            self.deliver(lambda: self._screen.take_facts(fresh))
            self._hand_findings(check(known), stop, complete=True)
        except Exception as error:  # noqa: BLE001 - as above
            told = told_of(error)
            self.deliver(lambda: self._screen.failed(told))
        finally:
            if not stop.is_set():
                self.deliver(self._surveyed)

    def _surveyed(self) -> None:
        self.is_surveying = False

    def _hand_findings(
        self, findings: "dict[str, tuple[CaptionFinding, ...]]", stop: threading.Event, *, complete: bool
    ) -> None:
        if not stop.is_set():
            self.deliver(lambda: self._screen.take_findings(findings, complete=complete))

    def _checker(
        self, entries: "list[Entry]", *, anew: bool
    ) -> "Callable[[Mapping[Path, PictureFacts]], dict[str, tuple[CaptionFinding, ...]]]":
        """Finds what is wrong with the pictures whose facts are known, by the names of their entries.

        anew: what the checks go by is read again, which takes a second.
        """
        from loratory.editing.checks.context import session_context
        from loratory.editing.checks.dataset_pictures import check_pictures
        from loratory.editing.checks.picture_context import Pictured, picture_context

        session = self._screen.session
        context = self._context
        if context is None or anew:
            context = self._context = picture_context(session, session_context(session))
        if self._trained_by is not None:
            context = replace(context, dataset=self._trained_by)
        items = items_of(entries, session)

        def check(known: Mapping[Path, PictureFacts]) -> "dict[str, tuple[CaptionFinding, ...]]":
            pictured = [Pictured(item, known[path]) for path, (_, item) in items.items() if path in known]
            names = {item.name: entry.name for entry, item in items.values()}
            findings: dict[str, list[CaptionFinding]] = {}
            for finding in check_pictures(pictured, context):
                findings.setdefault(names.get(finding.item, ""), []).append(finding)
            return {name: tuple(found) for name, found in findings.items()}

        return check

    # --- building ---

    @property
    def is_building(self) -> bool:
        return self._build is not None

    def build(
        self, name: str | None, count: int, done: "Callable[[list[Report], Told | None, Snapshot | None], None]"
    ) -> None:
        """Builds the picture of that name, or for None all that are pending.

        count: how many those are. done: gets a report for each stretch between pauses, what went wrong, and what is on
        the desk then, None where that cannot be told.
        """
        started_s = time.monotonic()
        self._stop_build = threading.Event()
        self.progress = Progress(0, count, "", started_s, started_s)
        self._build = threading.Thread(target=lambda: self._run_build(name, done), daemon=True, name="build")
        self._build.start()

    def _run_build(
        self, name: str | None, done: "Callable[[list[Report], Told | None, Snapshot | None], None]"
    ) -> None:
        desk = self._desk
        assert desk is not None
        reports: list[Report] = []
        wrong: Told | None = None
        while True:
            with self._desk_free:
                self._desk_free.wait_for(lambda: not self._waiting)
                self._pause_build = threading.Event()
                self._building = True
            try:
                reports.append(self._build_on(desk, name))
            except Exception as error:  # noqa: BLE001 - a defect must not leave the pane waiting for ever
                wrong = told_of(error)
            try:
                snapshot = self._snapshot(desk)
            except Exception as error:  # noqa: BLE001 - as above
                wrong, snapshot = wrong or told_of(error), None
            with self._desk_free:
                self._building = False
                self._desk_free.notify_all()
            if wrong is not None or self._stop_build.is_set() or not self._pause_build.is_set():
                break
        self.deliver(lambda: self._built(done, reports, wrong, snapshot))

    def _build_on(self, desk: "Desk", name: str | None) -> "Report":
        """One stretch of a build, up to its end or to the next pause."""
        entries = desk.pending() if name is None else [entry for entry in desk.entries if entry.name == name]
        before = self.progress
        assert before is not None
        stop = _Either(self._stop_build, self._pause_build)

        begun_s = time.monotonic()
        started_s = before.started_s

        def progressed(finished: int, total: int, at: str) -> None:
            now_s = time.monotonic()
            stopping = self._stop_build.is_set()
            self.progress = Progress(
                before.done + finished, before.done + total, at, started_s, now_s, stopping=stopping
            )
            self.built.append(at)

        def looked(finished: int, total: int, at: str) -> None:
            nonlocal started_s
            # How fast pictures are made does not go by the time before the first of them.
            started_s = before.started_s + time.monotonic() - begun_s
            looking = (finished, total) if finished < total else None
            self.progress = replace(
                before, name=at if looking else "", looked=looking, stopping=self._stop_build.is_set()
            )

        return desk.build(entries, progress=progressed, looking=looked, stop=stop)

    def _built(
        self,
        done: "Callable[[list[Report], Told | None, Snapshot | None], None]",
        reports: "list[Report]",
        wrong: Told | None,
        snapshot: Snapshot | None,
    ) -> None:
        self.progress = self._build = None
        done(reports, wrong, snapshot)

    def stop_build(self) -> None:
        """Has the build end after the picture in hand."""
        self._stop_build.set()
        if self.progress is not None:
            self.progress = replace(self.progress, stopping=True)


class _Either(threading.Event):
    """Set when one of two others is."""

    def __init__(self, one: threading.Event, other: threading.Event) -> None:
        super().__init__()
        self._one, self._other = one, other

    def is_set(self) -> bool:
        return self._one.is_set() or self._other.is_set()


def told_of(error: Exception) -> Told:
    """An error as a sentence, whatever it is."""
    if isinstance(error, LoratoryError):
        return Told.of(error)
    if isinstance(error, OSError):
        return Told(f"{error.strerror or error}: {error.filename or 'while reading'}.", wrong=True)
    return Told(f"This is a defect of Loratory: {type(error).__name__}: {error}", wrong=True)


def looked_at(entry: "Entry") -> tuple[Path, ...]:
    """The pictures that findings of an entry are about: what was made of it, else the original."""
    return (
        entry.outputs if entry.state in ("made", "as it is", "changed by hand") and entry.outputs else (entry.source,)
    )


def items_of(entries: "Sequence[Entry]", session: "Session") -> "dict[Path, tuple[Entry, Item]]":
    """Each picture that findings may be about, with its entry and its item: that of the tag editor where it has one."""
    from loratory.dataset.listing import parse_folder_name, stem
    from loratory.editing.items import Item

    known = {item.image: item for item in session.items}
    items: dict[Path, tuple[Entry, Item]] = {}
    for entry in entries:
        for path in looked_at(entry):
            item = known.get(path)
            if item is None:
                tokens = parse_folder_name(path.parent.name)
                caption = stem(path.name) + session.settings.caption_extension
                item = Item(path.parent, path.name, caption, str(path), "" if tokens[2] else tokens[1], is_reg=False)
            items[path] = entry, item
    return items
