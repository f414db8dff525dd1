"""The training loop, from top to bottom: assemble, then step after step until the plan is done.

It knows nothing of terminals. It tells what happens in events, asks `control` once a step what is wanted of it, and
keeps a state from which any later process goes on as if nothing had happened.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Parameter

import loratory
from loratory import atomic
from loratory.adapters.max_norm import NormReport
from loratory.dataset.visits import Visit
from loratory.errors import FAILED, LoratoryError
from loratory.randomness import derive_seed
from loratory.runs.control import Control
from loratory.runs.events import Finished, Notice, Obeyed, Started, StateSaved
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory
from loratory.training.batches import Batch
from loratory.training.device import device_name, pick_device
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine, assemble
from loratory.training.outputs import Outputs, refuse_overwriting, remove_leftovers, start_hashing
from loratory.training.plan import Plan, identity_of
from loratory.training.prefetch import prefetched
from loratory.training.readback import Numbers, PendingStep, StepLog
from loratory.training.schedule import lr_multiplier
from loratory.training.state import TrainingState, load_newest, save_state
from loratory.training.validate import validate


def train(plan: Plan, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
    """Trains what `plan` says in `run`, from its newest state if it has one, and returns how it ended.

    Of several processes this is the first one; the others call `follow`. Raises LoratoryError when the work cannot be
    done; states and files written so far stay.
    """
    config, length = plan.config, plan.length
    refuse_overwriting(config, run)
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

    keeper = _StateKeeper(engine, run, recorder, identity_of(plan, engine.base.identity))
    outputs = Outputs(engine, run, recorder, control, hashes)
    log = StepLog(recorder, scaled=engine.scaler.is_enabled())
    state = keeper.find()
    start = _begin(engine, ranks, state)
    name = device_name(device) + (f", {ranks.size} processes" if ranks.size > 1 else "")
    recorder.write(Started(start, length.total_steps, length.epochs, plan.steps_per_epoch, name, loratory.__version__))
    if start == 0 and outputs.samples_due(0):
        outputs.draw_samples(0)
    final = config.output.output_dir / f"{config.output.output_name}.safetensors"
    if start == length.total_steps and not final.exists():
        outputs.save(config.output.output_name, start)

    windows = _windows(engine, ranks, start)
    step_began = time.perf_counter()
    for done in range(start, length.total_steps):
        for command in control.poll():
            log.settle()
            if command.name == "stop":
                keeper.save(done)
                recorder.write(Obeyed("stop", done))
                ranks.tell("stop")
                return Finished("stopped", done, f"Stopped at step {done} of {length.total_steps}; the state is saved.")
            outputs.save(outputs.step_name(done), done)
            recorder.write(Obeyed(command.name, done, command.value))
            step_began = time.perf_counter()
        ranks.tell("go on")

        waiting = time.perf_counter()
        window = next(windows)
        data_s = time.perf_counter() - waiting
        step, epoch = done + 1, length.epoch_of(done + 1)
        numbers, norms = _take_step(engine, ranks, window, done)
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
            )
        )
        step_began = now

        file_name = outputs.file_due(step)
        state_due = step == length.total_steps or step % config.output.state_every_n_steps == 0
        if file_name or state_due or outputs.samples_due(step) or plan.validates_after(step):
            log.settle()
            # Files before the state: a run killed between the two writes them again, the other way round never.
            if file_name:
                outputs.save(file_name, step)
            if plan.validates_after(step):
                for progress in validate(engine, step, epoch):
                    recorder.write(progress)
            if state_due:
                keeper.save(step)
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
    start = _begin(engine, ranks, None)
    windows = _windows(engine, ranks, start)
    for done in range(start, plan.length.total_steps):
        if ranks.tell("") == "stop":
            return
        _take_step(engine, ranks, next(windows), done)
    ranks.leave()


def _begin(engine: Engine, ranks: Ranks, state: TrainingState | None) -> int:
    """Puts every process into the state that the first one found, and returns the steps that are done."""
    state = ranks.tell(state)
    if state is None:
        return 0
    engine.adapter.load_raw_state(state.adapter)
    engine.optimizers.load_state_dict(state.optimizers)
    engine.scaler.load_state_dict(state.scaler)
    if engine.average is not None:
        engine.average.load_state_dict(state.average)
    return state.step


@dataclass(frozen=True)
class _Share:
    """One batch of a window. visits: those of all processes together. batch: this one's part of them, if it has one."""

    visits: Sequence[Visit]
    batch: Batch | None


def _take_step(engine: Engine, ranks: Ranks, window: Sequence[_Share], done: int) -> tuple[Tensor, NormReport | None]:
    """One optimizer step.

    Returns the loss, the gradient's norm, then the unweighted loss of each visit, still on the device; and what
    scale_weight_norms did.
    """
    config, optimizers, scaler = engine.plan.config, engine.optimizers, engine.scaler
    optimizers.set_multiplier(lr_multiplier(config.optimizer, done, engine.plan.length.total_steps))
    totals: list[Tensor] = []
    unweighted: list[Tensor] = []
    scaler.scale(torch.zeros((), device=engine.device))  # it must have seen a loss, also where no picture falls to us
    for micro, share in enumerate(window):
        # The dropouts of the adapter draw from the global generators.
        who = (ranks.rank,) if ranks.rank else ()
        torch.manual_seed(derive_seed(config.training.seed, "network_dropout", done, micro, *who))
        of_visits = torch.zeros(len(share.visits), device=engine.device)
        if share.batch is not None:
            losses = engine.losses(share.batch.to(engine.device))
            scaler.scale(losses.total / config.training.gradient_accumulation_steps).backward()
            totals.append(losses.total.detach())
            of_visits[ranks.rank :: ranks.size] = losses.unweighted.detach()[: len(share.batch.images)]
        unweighted.append(of_visits)
    # Sums over the window, then over the processes: the mean loss of a batch is the sum of its shares'.
    loss = torch.stack(totals).sum() if totals else torch.zeros((), device=engine.device)
    summed = ranks.sum_gradients(engine.parameters, torch.cat([loss[None], *unweighted]))
    if scaler.is_enabled() and len(optimizers.all) > 1:
        _spread_overflow(engine.parameters)
    for optimizer in optimizers.all:
        scaler.unscale_(optimizer)
    grad_norm = _clip(engine.parameters, config.optimizer.max_grad_norm)
    # So do optimizers that round at random; in every process alike.
    torch.manual_seed(derive_seed(config.training.seed, "optimizer", done))
    for optimizer in optimizers.all:
        scaler.step(optimizer)
    scaler.update()
    optimizers.zero_grad()
    limit = config.network.scale_weight_norms
    norms = engine.adapter.apply_max_norm(limit) if limit else None
    if engine.average is not None:
        engine.average.update()
    return torch.cat([summed[:1] / len(window), grad_norm[None].float(), summed[1:]]), norms


def _spread_overflow(parameters: Sequence[Parameter]) -> None:
    """Makes every gradient NaN if one is infinite or NaN, so that all optimizers leave the step out together.

    The scaler looks at each optimizer's gradients alone, and clipping would carry the overflow of one to another.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    largest = torch.nn.utils.get_total_norm(gradients, float("inf"))
    torch._foreach_mul_(gradients, torch.where(largest.isfinite(), 1.0, float("nan")))  # pyright: ignore


def _windows(engine: Engine, ranks: Ranks, start: int) -> Iterator[list[_Share]]:
    """The batches of each optimizer step from `start` on: as many as are accumulated, fewer at an epoch's end."""
    plan, maker, pin = engine.plan, engine.maker, engine.device.type == "cuda"
    accumulation = plan.config.training.gradient_accumulation_steps
    order_of = lru_cache(maxsize=2)(plan.order.batches)  # at an epoch's end, workers are in two of them

    def window(step: int) -> list[_Share]:
        epoch = plan.length.epoch_of(step + 1)
        begin = (step - plan.length.epoch_start(epoch)) * accumulation
        shares: list[_Share] = []
        for visits in order_of(epoch)[begin : begin + accumulation]:
            mine = ranks.share(visits)
            batch = maker.make(mine, epoch, step, len(visits)) if mine else None
            shares.append(_Share(visits, batch.pinned() if batch and pin else batch))
        return shares

    workers = max(1, plan.config.dataset.max_data_loader_n_workers)
    return prefetched(window, range(start, plan.length.total_steps), workers=workers)


@dataclass
class _StateKeeper:
    """Writes the resumable state, and finds the way back into it."""

    engine: Engine
    run: RunDirectory
    recorder: Recorder
    identity: dict[str, str]
    saved_at: int | None = None

    def save(self, step: int) -> None:
        """Keeps the state after `step` steps, unless it is on the disk already."""
        if step == self.saved_at:
            return
        engine = self.engine
        state = TrainingState(
            step,
            engine.adapter.raw_state(),
            engine.optimizers.state_dict(),
            engine.scaler.state_dict(),
            self.identity,
            engine.average.state_dict() if engine.average else {},
        )
        path = save_state(self.run.state, state, engine.plan.config.output.state_keep)
        self.saved_at = step
        self.recorder.write(StateSaved(step, str(path.relative_to(self.run.path))))

    def find(self) -> TrainingState | None:
        """The newest state of the run, if there is one."""
        atomic.remove_leftovers(self.run.state, "*")
        remove_leftovers(self.engine.plan.config)
        state, problems = load_newest(self.run.state)
        for problem in problems:
            self.recorder.write(Notice("warning", problem))
        if state is None:
            return None
        changed = [name for name, value in self.identity.items() if state.identity.get(name, "") != value]
        if changed:
            raise LoratoryError(
                f"This run cannot go on as if nothing had happened, because {' and '.join(changed)} changed since it "
                f"was stopped at step {state.step}.",
                hint="Put back what was there (pictures, sizes, folder names included), or start a new run.",
                exit_code=FAILED,
            )
        self.saved_at = state.step
        return state


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Clips the gradients to `max_norm` (0: leaves them) and returns their norm before, without waiting for it."""
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
