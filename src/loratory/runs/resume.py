"""The way back into a run that was stopped or killed, with other settings where that is possible."""

import os
from collections.abc import Sequence

from loratory import atomic
from loratory.config.describe import show
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.runs.events import Notice
from loratory.runs.ladder import changed_settings, may_change_on_resume, value_of
from loratory.runs.recorder import held
from loratory.runs.store import EventWriter, RunDirectory, RunRecord, liveness, newest_state
from loratory.wording import typed


def open_for_resume(run: RunDirectory, overrides: Sequence[str] = ()) -> Config:
    """The config of a run that can go on. Raises LoratoryError when it is being trained, or done.

    overrides: `table.key=value`, as `load_config` takes them. Where a state exists, only settings that leave it open
    what is trained in which step (see `runs.ladder`). They are written into the run's config.toml, and a notice tells.
    """
    record = run.read_record()
    state = liveness(record) if record else None
    # A silent run has not been heard of for so long that its process, on another host, is taken to be dead.
    if record is not None and state in ("starting", "running", "paused") and not is_expected(record):
        raise LoratoryError(
            f"{run.path} is being trained already (pid {record.pid} on {record.host}).",
            hint=f"`loratory watch {typed(run.path)}` shows it, "
            f"`loratory runs stop {typed(run.path)}` has it stop after its step.",
        )
    if state == "done":
        raise LoratoryError(f"{run.path} is done; there is nothing to resume.")
    if not overrides:
        return load_config(run.config)
    with held(run):
        return _changed(run, overrides)


def is_expected(record: RunRecord | None) -> bool:
    """Whether the run was announced for this process: by `train --detach`, which started it, or by a thread in it."""
    return record is not None and record.status == "starting" and record.pid == os.getpid()


def _changed(run: RunDirectory, overrides: Sequence[str]) -> Config:
    before, after = load_config(run.config), load_config(run.config, overrides)
    changes = changed_settings(before, after)
    trained = newest_state(run)
    refused = [name for name in changes if not may_change_on_resume(name)] if trained else []
    if trained and refused:
        raise LoratoryError(
            "\n".join(f"--set {name}: cannot change in the middle of a run." for name in refused)
            + f"\nWhat the run was trained with up to step {trained.step} would not be what it goes on with.",
            hint="How it is computed may change: training.gradient_checkpointing, int8_base, fp8_base, blocks_to_swap, "
            "cross_attention, torch_compile, and what is cached. For the rest, start a new run.",
        )
    if not changes:
        return after
    told = ", ".join(
        f"{name} = {_shown(value)} (was {_shown(value_of(before, name))})" for name, value in changes.items()
    )
    atomic.write_text(run.config, dump_config(after))
    writer = EventWriter(run.events)
    try:
        writer.write(Notice("note", f"Settings changed for what follows: {told}."))
    finally:
        writer.close()
    return after


def _shown(value: object) -> str:
    return "not set" if value is None else show(value)
