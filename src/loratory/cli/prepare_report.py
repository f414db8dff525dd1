"""What `loratory prepare` shows: how far it is, what would be done, what was done."""

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratory.cli import output
from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures
from loratory.errors import FAILED
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.preparation.build import Report
    from loratory.preparation.desk import Desk
    from loratory.preparation.work import Options

_SHOWN = 20


class Bar:
    """What goes on, as a line that is drawn again, or now and then as a line of its own where that cannot be."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=output.talk,
            transient=True,
            auto_refresh=False,
            disable=not output.redraws(),
        )
        self._task: Any = None
        self._what = ""
        self._begun_s = self._drawn_s = 0.0
        self._before = 0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def looking(self, done: int, total: int, name: str) -> None:
        """Shows how many originals have been looked at."""
        self._show("looking at the originals", done, total)

    def making(self, done: int, total: int, name: str) -> None:
        """Shows how many pictures are done."""
        self._show("making", done, total)

    def _show(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=total, pace="")
            # What was there already took no time, and tells nothing of the time that is left.
            self._what, self._begun_s, self._before, self._drawn_s = what, now_s, done - 1, now_s
        often_s = 0.1 if output.redraws() else 10.0
        if now_s - self._drawn_s < often_s and done < total:
            return
        self._drawn_s = now_s
        seconds = max(now_s - self._begun_s, 1e-3)
        per_s = (done - self._before) / seconds
        pace = f"{per_s:.1f} pictures/s"
        if done < total and seconds > 1:
            from loratory.wording import spoken_time

            pace += f" · ETA {spoken_time((total - done) / per_s)}"
        if output.redraws():
            self._progress.update(self._task, completed=done, total=total, pace=output.spelled(pace))
            self._progress.refresh()
        elif done < total:
            output.say(f"{what} {done}/{total} · {pace}")


def print_plan(desk: "Desk", options: "Options", as_json: bool) -> int:
    """What would be made of each picture; the exit code."""
    from loratory.preparation.build import state_of
    from loratory.preparation.plan import spoken

    rows: list[dict[str, Any]] = []
    unchanged = 0
    failed: list[tuple[Path, str]] = []
    notes: list[str] = []
    for arranged in desk.arrange(options):
        failed += arranged.unreadable
        notes += arranged.notes
        for plan in arranged.plans:
            record = desk.manifest.records.get((arranged.shelf.key, plan.original.name))
            state = state_of(desk.root, record, plan)
            is_new = record is None and arranged.shelf.adopted
            if state == "made" and not is_new:
                unchanged += 1
                continue
            targets = [_below(target, desk.root) for target in plan.targets]
            rows.append({"picture": plan.original.name, "outputs": targets, "state": state, "done": spoken(plan)})
        for record, original in arranged.released:
            place = _below(original.folder / original.path.name, desk.root)
            rows.append({"picture": record.name, "outputs": [place], "state": "stale", "done": ["put back as it was"]})
    if as_json:
        told = [{"file": str(path), "why": why} for path, why in failed]
        output.data_json({"dry_run": True, "pictures": rows, "unchanged": unchanged, "failed": told})
        return FAILED if failed else 0
    for row in rows:
        line = (
            f"{shown(row['picture'])} → {', '.join(map(shown, row['outputs'])) or 'nothing'}: {', '.join(row['done'])}"
        )
        by_hand = " (changed by hand: left alone)" if row["state"] == "changed by hand" and not options.force else ""
        output.data(output.one_line(line + by_hand))
    _list("cannot be made", [(_below(path, desk.directory), why) for path, why in failed])
    for note in notes:
        output.say(output.one_line(note))
    output.say(f"{pictures(len(rows))} would be made, {unchanged} are there already. Nothing was written.")
    return FAILED if failed else 0


def print_report(desk: "Desk", report: "Report") -> None:
    """What became of a build, for a person."""
    made = f"{pictures(len(report.made))} made" if report.made else "Nothing had to be made"
    counts = [
        made,
        f"{report.unchanged} there already" if report.unchanged else "",
        f"{len(report.removed)} removed" if report.removed else "",
        f"{len(report.left_alone)} left alone" if report.left_alone else "",
        f"{len(report.failed)} failed" if report.failed else "",
    ]
    where = desk.destination or desk.root
    output.say(f"{', '.join(count for count in counts if count)}: {where}")
    outcome = report.captions
    if outcome is not None:
        merged = f", {len(outcome.merged)} of them joined with what was edited there" if outcome.merged else ""
        output.say(
            f"{_captions(len(outcome.written))} written{merged}; `loratory tag undo {typed(desk.root)}` "
            "takes that back."
        )
        skipped = [(_below(path, desk.root), why) for path, why in outcome.skipped]
        _list("captions left alone", skipped)
    _list("left alone", [(_below(path, desk.root), why) for path, why in report.left_alone])
    if report.left_alone:
        output.say("--force makes them anew.")
    _list("failed", [(_below(path, desk.directory), why) for path, why in report.failed])
    if report.gone:
        names = [(_below(path, desk.root), "its original is gone") for path in report.gone]
        _list("kept", names)
        output.say("--prune removes them.")
    for note in report.notes[:_SHOWN]:
        output.say(output.one_line(note))
    if report.stopped:
        output.say("Stopped before the end; run it again and it goes on.")


def _list(what: str, rows: Sequence[tuple[str, str]]) -> None:
    for name, why in rows[:_SHOWN]:
        output.say(output.one_line(f"{what}: {shown(name)}: {why}"))
    if len(rows) > _SHOWN:
        output.say(f"{what}: and {len(rows) - _SHOWN} more (--json names all)")


def as_data(desk: "Desk", report: "Report") -> dict[str, Any]:
    """What became of a build, for a program."""

    def told(rows: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
        return [{"file": str(path), "why": why} for path, why in rows]

    outcome = report.captions
    return {
        "root": str(desk.root),
        "made": [_below(path, desk.root) for path in report.made],
        "unchanged": report.unchanged,
        "removed": [_below(path, desk.root) for path in report.removed],
        "left_alone": told(report.left_alone),
        "failed": told(report.failed),
        "source_gone": [_below(path, desk.root) for path in report.gone],
        "captions": {
            "written": [] if outcome is None else [_below(change.path, desk.root) for change in outcome.written],
            "merged": [] if outcome is None else [_below(path, desk.root) for path in outcome.merged],
            "skipped": [] if outcome is None else told(outcome.skipped),
        },
        "notes": report.notes,
        "stopped": report.stopped,
    }


def print_history(desk: "Desk", as_json: bool) -> int:
    """The changes of recipes that are in force, oldest first; the exit code."""
    steps = desk.history()
    if as_json:
        output.data_json([{"time": time_s, "label": label, "pictures": count} for time_s, label, count in steps])
        return 0
    if not steps:
        output.say(f"No recipe of {desk.directory} was changed yet.")
    for time_s, label, count in steps:
        when = datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
        output.data(output.one_line(f"{when}  {pictures(count)}: {label}"))
    return 0


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _captions(count: int) -> str:
    return "1 caption" if count == 1 else f"{count} captions"
