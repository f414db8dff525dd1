"""The training loop, from top to bottom: assemble, then step after step until the plan is done.

It knows nothing of terminals. It tells what happens in events, asks `control` once a step what is wanted of it, and
keeps a state from which any later process goes on as if nothing had happened.
"""

import time
from contextlib import closing

import loratory
from loratory.runs.adjustments import history
from loratory.runs.control import Command, Control
from loratory.runs.events import Finished, Notice, Obeyed, Saved, Saving, Started, Timed
from loratory.runs.loading import stay
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory
from loratory.training.commands import Commands, obey_first, spoken_adjustments
from loratory.training.device import device_name, pick_device
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine, assemble
from loratory.training.first_nan import first_layer
from loratory.training.keeper import StateKeeper, restore
from loratory.training.outputs import Outputs, refuse_overwriting, start_hashing
from loratory.training.plan import Plan, identity_of
from loratory.training.readback import Numbers, PendingStep, PendingWeights, StepLog
from loratory.training.state import TrainingState
from loratory.training.update import take_step
from loratory.training.validate import validate
from loratory.training.weights_norm import WeightsNorm, weights_due
from loratory.training.windows import Windows


def train(plan: Plan, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
    """Trains what `plan` says in `run`, from its newest state if it has one, and returns how it ended.

    Of several processes this is the first one; the others call `follow`. Raises LoratoryError when the work cannot be
    done; states and files written so far stay.
    """
    config, length = plan.config, plan.length
    past = _past(run)
    refuse_overwriting(config, past)
    doubts = [finding.message for finding in plan.dataset.findings if finding.severity == "warning"]
    advice = [each.message for each in plan.advice if each.severity == "warning"]
    for sentence in (*plan.warnings, *advice, *doubts):
        recorder.write(Notice("warning", sentence))
    device = pick_device()
    ranks = Ranks.join(device)
    hashes = start_hashing(plan.info)
    engine = None
    for progress in assemble(plan, device):
        if isinstance(progress, Engine):
            engine = progress
            break
        recorder.write(progress)
        if ranks.size == 1 and control.waits("stop"):
            return Finished("stopped", recorder.step, "Stopped while caching, before this process trained.")
    assert engine is not None

    keeper = StateKeeper(engine, run, recorder, identity_of(plan, engine.base.identity))
    outputs = Outputs(engine, run, recorder, control, hashes, past)
    start, changes = _begin(engine, ranks, keeper.find(), history(timed.event for timed in past))
    windows = Windows(engine, ranks, changes)
    norm = WeightsNorm(engine)
    log = StepLog(
        recorder,
        scaled=engine.scaler.is_enabled(),
        first_layer=lambda step: first_layer(keeper, windows, step, lambda: control.waits("stop")),
    )
    commands = Commands(control, recorder, log, outputs, keeper, windows)
    name = device_name(device) + (f", {ranks.size} processes" if ranks.size > 1 else "")
    recorder.write(Started(start, length.total_steps, length.epochs, plan.steps_per_epoch, name, loratory.__version__))
    if told := spoken_adjustments(windows.adjustments(start)):
        recorder.write(Notice("note", told))
    if start == 0 and outputs.samples_due(0):
        outputs.draw_samples(0)
    final = config.output.output_dir / f"{config.output.output_name}.safetensors"
    if start == length.total_steps and not final.exists():
        recorder.patiently(lambda: outputs.save(config.output.output_name, start), "the adapter")

    stay()
    step_began = time.perf_counter()
    with closing(windows):
        for done in range(start, length.total_steps):
            order = commands.obey(done)
            if order == "stop":
                return Finished("stopped", done, f"Stopped at step {done} of {length.total_steps}; the state is saved.")
            if order == "go on later":
                step_began = time.perf_counter()

            waiting = time.perf_counter()
            window = windows.take(done)
            data_s = time.perf_counter() - waiting
            step, epoch = done + 1, length.epoch_of(done + 1)
            numbers, norms = take_step(engine, ranks, window, done, windows.adjustments(done).rate)
            weights = PendingWeights(norm.names, Numbers.fetch(norm.measure())) if weights_due(length, step) else None
            now = time.perf_counter()
            visits = [visit for share in window for visit in share.visits]
            sizes = engine.optimizers.step_sizes()
            log.push(
                PendingStep(
                    numbers=Numbers.fetch(numbers),
                    step=step,
                    epoch=epoch,
                    images=[engine.maker.name(visit) for visit in visits],
                    timesteps=[engine.maker.timestep(visit, epoch) for visit in visits],
                    lr=engine.optimizers.rates(),
                    effective_lr=engine.optimizers.effective_rates() if sizes is None else {},
                    step_sizes=None if sizes is None else Numbers.fetch(sizes),
                    step_s=now - step_began,
                    data_s=data_s,
                    keys_scaled=norms.keys_scaled if norms else None,
                    mean_weight_norm=norms.mean_norm if norms else None,
                    max_weight_norm=norms.max_norm if norms else None,
                    weights=weights,
                )
            )
            step_began = now

            file_name = outputs.file_due(step)
            state_due = step == length.total_steps or step % config.output.state_every_n_steps == 0
            if file_name or state_due or outputs.samples_due(step) or plan.validates_after(step):
                log.settle()
                # Files before the state: a run killed between the two writes them again, the other way round never.
                if file_name:
                    recorder.patiently(lambda name=file_name, step=step: outputs.save(name, step), "the adapter")
                if plan.validates_after(step):
                    for progress in validate(engine, step, epoch):
                        recorder.write(progress)
                if state_due:
                    recorder.patiently(lambda step=step: keeper.save(step), "the state")
                # Pictures last: no preview is worth losing a state for.
                if outputs.samples_due(step):
                    outputs.draw_samples(step)
                step_began = time.perf_counter()
    ranks.leave()
    return Finished("done", length.total_steps, f"Trained {length.total_steps} steps.")


def follow(plan: Plan, ranks: Ranks) -> None:
    """The work of every process but the first: the same steps on its own share of each batch, and nothing written."""
    device = pick_device()
    engine = next(progress for progress in assemble(plan, device) if isinstance(progress, Engine))
    start, changes = _begin(engine, ranks, None, [])
    with closing(Windows(engine, ranks, changes)) as windows:
        for done in range(start, plan.length.total_steps):
            if not obey_first(ranks, windows, done):
                return
            take_step(engine, ranks, windows.take(done), done, windows.adjustments(done).rate)
    ranks.leave()


def _past(run: RunDirectory) -> list[Timed]:
    """Of a run's events so far the first one, and those that tell of its files and of what it was told; read once,
    since a run of ten thousand steps takes half a second."""
    return [
        timed
        for number, timed in enumerate(EventReader(run.events).read())
        if number == 0 or isinstance(timed.event, Saving | Saved | Obeyed)
    ]


def _begin(
    engine: Engine, ranks: Ranks, state: TrainingState | None, changes: list[tuple[int, Command]]
) -> tuple[int, list[tuple[int, Command]]]:
    """Puts every process into the state that the first one found; the steps that are done, and the changes made."""
    state, changes = ranks.tell((state, changes))
    if state is None:
        return 0, changes
    restore(engine, state)
    return state.step, changes
