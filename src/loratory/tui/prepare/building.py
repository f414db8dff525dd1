"""Building what is pending: where it goes, how it starts and ends, what is told of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset.balance import MOST_REPEATS
from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures
from loratory.errors import LoratoryError
from loratory.tui.prepare.snapshot import Snapshot
from loratory.tui.prepare.verb import Verb
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk


class Building(Verb):
    """Starts and stops builds, and asks once where their pictures go."""

    def run(self) -> None:
        """Builds what is pending, by the changes that are still being written too."""
        state, work = self._state, self._screen.work
        pending = [entry for entry in state.entries if state.is_pending(entry)]
        if work.is_building:
            self._tell("it is being built already: R stops it")
        elif work.is_writing:
            work.when_written(self.run)
        elif not pending:
            self._tell("nothing is to be built")
        elif self._is_open():
            self._with_place(lambda: self._build(None, len(pending)))

    def run_one(self) -> None:
        """Builds the current picture."""
        entry, work = self._current(), self._screen.work
        if work.is_building:
            self._tell("something is being built already: R stops it")
        elif work.is_writing:
            work.when_written(self.run_one)
        elif entry is not None and self._is_open():
            self._with_place(lambda: self._build(entry.name, 1))

    def _build(self, name: str | None, count: int) -> None:
        self._screen.work.build(name, count, self._built)
        snapshot = self._screen.snapshot
        place = None if snapshot is None else snapshot.destination
        into = "; the originals are kept" if place is None else f" into {shown(place.name)}"
        self._tell(f"building {pictures(count)}{into} · R stops it, all else goes on")
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
            self._ask_place(snapshot, go_on)

    def set_up(self) -> None:
        """Asks where pictures go, and what they are called there."""
        snapshot = self._screen.snapshot
        if snapshot is None or not self._is_open():
            return
        if snapshot.is_dataset:
            self._tell("these pictures lie in a training folder already: they stay there")
            return
        self._ask_place(snapshot, lambda: self._tell("r builds what is pending"))

    def _ask_place(self, snapshot: Snapshot, go_on: Callable[[], None]) -> None:
        """Asks for the training folder, the token, the class, the repeats and the resolution, and writes them down."""
        screen, prepare = self._screen, snapshot.prepare
        name = screen.session.directory.name
        told: dict[str, str] = {}

        def ask(number: int, why: str, label: str, text: str, answered: Callable[[str], object]) -> None:
            self._tell(f"{number} of 5: {why}")
            screen.ask(label, text, answered)

        def ask_token(text: str) -> None:
            told["destination"] = text.strip() or f"../{name}-train"
            why = "the word to prompt with; the concept folder is named by it"
            ask(2, why, "token", prepare.token, ask_class)

        def ask_class(text: str) -> None:
            told["token"] = text.strip()
            ask(3, "what it is, such as mammal or woman; may be empty", "class", prepare.class_token, ask_repeats)

        def ask_repeats(text: str) -> None:
            told["class_token"] = text.strip()
            repeats = prepare.repeats if prepare.repeats > 1 else 10
            ask(4, "how often an epoch trains each picture", "repeats", str(repeats), ask_resolution)

        def ask_resolution(text: str) -> None:
            repeats = int(text) if _is_number(text) else 0
            if not 1 <= repeats <= MOST_REPEATS:
                self._tell(f"4 of 5: repeats are a whole number from 1 to {MOST_REPEATS}", wrong=True)
                screen.ask("repeats", text, ask_resolution)
                return
            width, height = snapshot.trained_by.resolution_wh
            now = str(width) if width == height else f"{width}x{height}"
            settled = replace(prepare, repeats=repeats, **told)
            why = "px that it is trained at, 1024 for SDXL; smaller pictures are enlarged to it"
            ask(5, why, "resolution", now, lambda text: take(settled, text))

        def take(settled: "Prepare", text: str) -> None:
            resolution = _resolution(text)
            if resolution is None:
                self._tell("5 of 5: a resolution is 1024, or 832x1216", wrong=True)
                screen.ask("resolution", text, lambda text: take(settled, text))
            else:
                self._remember(settled, resolution, go_on)

        why = f"where the training folder is, seen from {shown(name)}"
        ask(1, why, "training folder", prepare.destination or f"../{name}-train", ask_token)

    def _remember(self, prepare: "Prepare", resolution: tuple[int, int], go_on: Callable[[], None]) -> None:
        directory = self._screen.session.directory

        def write(desk: "Desk") -> None:
            from loratory.preparation.places import check_folders

            check_folders(directory, Path(directory, Path(prepare.destination).expanduser()))
            desk.set_up(prepare, replace(desk.defaults, resolution=resolution))
            # Where they go decides which file and which dataset they belong to.
            desk.rescan()

        def done(result: "tuple[None, Snapshot] | LoratoryError") -> None:
            if isinstance(result, LoratoryError):
                self._screen.tell(Told.of(result))
                return
            self._screen.load(result[1])
            go_on()

        self._screen.work.use_desk(write, done)


def _is_number(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdecimal() and len(text.strip()) < 9


def _resolution(text: str) -> tuple[int, int] | None:
    """(width, height) in px of "512" or "640x448"; None for anything else."""
    sides = text.strip().lower().split("x")
    if len(sides) not in (1, 2) or not all(_is_number(side) and 64 <= int(side) <= 8192 for side in sides):
        return None
    return int(sides[0]), int(sides[-1])


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
