"""`loratory runs show`: how one run stands, what it left, and how it goes on."""

import time
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.runs.store import ALIVE, EventReader, Liveness, RunDirectory, RunRecord, liveness, newest_state
from loratory.runs.way_back import resume_command, what_became
from loratory.wording import spoken_bytes, spoken_pace, spoken_time, typed

if TYPE_CHECKING:
    from loratory.runs.diagnosis import Alarm
    from loratory.runs.progress import Progress

_CONCEPTS_SHOWN = 8


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: str, as_json: bool) -> None:
    """How RUN stands, what it left, how it goes on.

    Step, exposure, newest adapter and state, newest alarm, and the command that goes on with it.
    """
    from loratory.runs.diagnosis import Diagnosis  # with numpy, which `runs --help` does without
    from loratory.runs.progress import Progress

    directory = find_run(run, to_look=True)
    record = directory.read_record()
    state = liveness(record)
    progress, diagnosis = Progress(), Diagnosis()
    with output.working("reading the run"):
        for timed in EventReader(directory.events).events():
            progress.add(timed)
            diagnosis.add(timed)
    alarm = diagnosis.alarms[-1] if diagnosis.alarms else None
    if as_json:
        output.data_json(_document(directory, record, state, progress, alarm))
        return
    rows = _rows(directory, record, state, progress, alarm)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        output.data(f"{name:<{width}}  {output.one_line(text)}")


def _rows(
    run: RunDirectory, record: RunRecord | None, state: Liveness, progress: "Progress", alarm: "Alarm | None"
) -> list[tuple[str, str]]:
    now_s = time.time()
    rows = [("run", str(run.path)), ("state", _state(record, state))]
    if progress.started is not None:
        rows.append(("step", f"{progress.step} of {progress.total_steps}, epoch {progress.epoch} of {progress.epochs}"))
    if state in ALIVE and progress.eta_s is not None:
        rows.append(("left", f"{spoken_time(progress.eta_s)} at {spoken_pace(progress.seconds_per_step)}"))
    concepts = list(progress.concepts.values())
    for concept in concepts[:_CONCEPTS_SHOWN]:
        goal = progress.exposure_goal(concept)
        of = f" of {goal}" if goal is not None else ""
        pictures = "1 picture" if concept.images == 1 else f"{concept.images} pictures"
        rows.append(("exposure", f"{concept.folder}: {concept.exposure:.0f}{of}, {pictures}"))
    if len(concepts) > _CONCEPTS_SHOWN:
        rows.append(("exposure", f"… and {len(concepts) - _CONCEPTS_SHOWN} more folders"))
    if progress.saves:
        _, saved = progress.saves[-1]
        rows.append(("adapter", f"{saved.path} ({spoken_bytes(saved.size_bytes)}), step {saved.step}"))
    kept = newest_state(run)
    if kept is not None:
        rows.append(("saved state", f"step {kept.step}, {spoken_time(max(0.0, now_s - kept.time_s))} ago"))
    if alarm is not None:
        rows.append(("alarm", f"{alarm.severity} at step {alarm.step}: {alarm.sentence}"))
    if state != "done":
        way = "resumed by" if state not in ALIVE else "followed by"
        rows.append((way, resume_command(run) if state not in ALIVE else f"loratory watch {typed(run.path)}"))
    return rows


def _state(record: RunRecord | None, state: Liveness) -> str:
    if state == "crashed":
        return f"crashed: {what_became(record)}"
    assert record is not None
    who = f" (pid {record.pid} on {record.host})" if state in ALIVE else ""
    return f"{state}{who}" + (f": {record.message}" if record.message else "")


def _document(
    run: RunDirectory, record: RunRecord | None, state: Liveness, progress: "Progress", alarm: "Alarm | None"
) -> dict[str, Any]:
    kept = newest_state(run)
    return {
        "path": str(run.path),
        "state": state,
        "message": record.message if record else "",
        "step": progress.step,
        "total_steps": progress.total_steps,
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "seconds_per_step": progress.seconds_per_step,
        "eta_s": progress.eta_s if state in ALIVE else None,
        "exposure": {concept.folder: concept.exposure for concept in progress.concepts.values()},
        "adapter": progress.saves[-1][1].path if progress.saves else None,
        "saved_state": None if kept is None else {"step": kept.step, "time_s": kept.time_s},
        "alarm": None if alarm is None else {"step": alarm.step, "rule": alarm.rule, "sentence": alarm.sentence},
        "resume": None if state == "done" or state in ALIVE else resume_command(run),
    }
