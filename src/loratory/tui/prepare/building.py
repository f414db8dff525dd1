"""Building what is pending: where it goes, how it starts and ends, what is told of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures
from loratory.errors import LoratoryError
from loratory.tui.editor import Told
from loratory.tui.prepare.snapshot import Snapshot
from loratory.tui.prepare.verb import Verb

if TYPE_CHECKING:
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk


class Building(Verb):
    """Starts and stops builds, and asks once where their pictures go."""

    def run(self) -> None:
        """Builds what is pending."""
        state = self._state
        pending = [entry for entry in state.entries if state.is_pending(entry)]
        if self._screen.work.is_building:
            self._tell("it is being built already: R stops it")
        elif not pending:
            self._tell("nothing is to be built")
        elif self._is_open():
            self._with_place(lambda: self._build(None, len(pending)))

    def run_one(self) -> None:
        """Builds the current picture."""
        entry = self._current()
        if self._screen.work.is_building:
            self._tell("something is being built already: R stops it")
        elif entry is not None and self._is_open():
            self._with_place(lambda: self._build(entry.name, 1))

    def _build(self, name: str | None, count: int) -> None:
        self._screen.work.build(name, count, self._built)
        self._tell(f"building {pictures(count)} · R stops it, all else goes on")
        self._screen.watch_build()

    def stop(self) -> None:
        """Stops a build after the picture in hand."""
        if self._screen.work.is_building:
            self._screen.work.stop_build()
            self._tell("stopping after the picture in hand; r goes on another time")
        else:
            self._tell("nothing is being built")

    def _built(self, reports: "Sequence[Report]", wrong: Told | None, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._screen.load(snapshot, anew=True)
        self._screen.panes.reload()
        self._screen.tell(wrong or _told_of_build(reports))

    def _with_place(self, go_on: Callable[[], None]) -> None:
        """Goes on once it is known where the pictures go."""
        snapshot = self._screen.snapshot
        assert snapshot is not None
        if snapshot.is_dataset or snapshot.destination is not None:
            go_on()
        else:
            self._ask_place(snapshot.prepare, go_on)

    def set_up(self) -> None:
        """Asks where pictures go, and what they are called there."""
        snapshot = self._screen.snapshot
        if snapshot is None or not self._is_open():
            return
        if snapshot.is_dataset:
            self._tell("these pictures lie in a training folder already: they stay there")
            return
        self._ask_place(snapshot.prepare, lambda: self._tell("r builds what is pending"))

    def _ask_place(self, prepare: "Prepare", go_on: Callable[[], None]) -> None:
        """Asks for the training folder, the token, the class and the repeats, and writes them down."""
        screen = self._screen
        name = screen.session.directory.name
        told: dict[str, str] = {}

        def ask_token(text: str) -> None:
            told["destination"] = text.strip() or f"../{name}-train"
            screen.ask("token to prompt with", prepare.token, ask_class)

        def ask_class(text: str) -> None:
            told["token"] = text.strip()
            screen.ask("what it is (class), may be empty", prepare.class_token, ask_repeats)

        def ask_repeats(text: str) -> None:
            told["class_token"] = text.strip()
            screen.ask("repeats of the folder", str(prepare.repeats if prepare.repeats > 1 else 10), take)

        def take(text: str) -> None:
            repeats = int(text) if text.strip().isdecimal() else 0
            if not 1 <= repeats <= 10_000:
                self._tell("repeats are a whole number from 1 on: P asks again", wrong=True)
                return
            self._remember(replace(prepare, repeats=repeats, **told), go_on)

        screen.ask("training folder", prepare.destination or f"../{name}-train", ask_token)

    def _remember(self, prepare: "Prepare", go_on: Callable[[], None]) -> None:
        directory = self._screen.session.directory

        def write(desk: "Desk") -> None:
            from loratory.preparation.places import check_folders

            check_folders(directory, Path(directory, Path(prepare.destination).expanduser()))
            desk.set_up(prepare, desk.defaults)
            # Where they go decides which file and which dataset they belong to.
            desk.rescan()

        def done(result: "tuple[None, Snapshot] | LoratoryError") -> None:
            if isinstance(result, LoratoryError):
                self._screen.tell(Told.of(result))
                return
            self._screen.load(result[1])
            go_on()

        self._screen.work.use_desk(write, done)


def _told_of_build(reports: "Sequence[Report]") -> Told:
    """What became of a build, in a sentence or two."""
    made = sum(len(report.made) for report in reports)
    removed = sum(len(report.removed) for report in reports)
    parts = [f"{pictures(made)} built"]
    if removed:
        parts.append(f"{removed} taken away")
    failed = [one for report in reports for one in report.failed]
    left = [one for report in reports for one in report.left_alone]
    for path, why in failed[:1]:
        parts.append(f"{len(failed)} failed: {shown(path.name)} {why}")
    for path, why in left[:1]:
        parts.append(f"{len(left)} left alone: {shown(path.name)} {why}")
    if reports and reports[-1].stopped:
        parts.append("stopped; r goes on")
    return Told(" · ".join(parts), wrong=bool(failed))
