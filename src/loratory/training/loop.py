"""The training loop, from top to bottom: load, cache, inject, then step after step until the plan is done.

It knows nothing of terminals. It tells what happens in events, asks `control` once a step what is wanted of it, and
keeps a state from which any later process goes on as if nothing had happened.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

import loratory
from loratory import atomic
from loratory.adapters.lora import Adapter, inject
from loratory.config.schema import Config
from loratory.dataset.epochs import Visit, epoch_batches
from loratory.errors import FAILED, LoratoryError
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import TextConditioning, encode_text
from loratory.paths import cache_dir
from loratory.randomness import derive_seed
from loratory.runs.control import Control
from loratory.runs.events import Finished, Notice, Obeyed, Phase, SampleLoss, Started, StateSaved, Step
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory
from loratory.training.batches import Batch, BatchMaker, prefetched
from loratory.training.cache import EncodedText, LatentCache, LatentEncoder, Picture, TextCache
from loratory.training.device import compute_dtype, device_name, pick_device
from loratory.training.noise import make_schedule
from loratory.training.optimizers import Optimizers, TrainedPart
from loratory.training.outputs import Outputs, model_hashes, refuse_overwriting
from loratory.training.plan import Plan, dataset_digest, make_plan
from loratory.training.schedule import lr_multiplier
from loratory.training.state import TrainingState, load_newest, save_state
from loratory.training.step import forward_losses


def train(config: Config, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
    """Trains what `config` says in `run`, from its newest state if it has one, and returns how it ended.

    Raises LoratoryError when the work cannot be done; states and files written so far stay.
    """
    recorder.write(Phase("reading the dataset", 0, 1))
    refuse_overwriting(config, run)
    plan = make_plan(config)
    doubts = [finding.message for finding in plan.dataset.findings if finding.severity == "warning"]
    for sentence in (*plan.warnings, *doubts):
        recorder.write(Notice("warning", sentence))
    device = pick_device()
    dtype = compute_dtype(config.training, device)
    seed = config.training.seed
    hashes = ThreadPoolExecutor(1).submit(model_hashes, plan.info)

    recorder.write(Phase("loading the base model", 0, 1))
    base = load_base_model(plan.info, config.model)

    latents = _latent_cache(plan, base, device, dtype)
    pictures = _pictures(plan)
    for ready in latents.fill(pictures):
        recorder.write(Phase("caching latents", ready, len(pictures)))
        if "stop" in control.poll():
            return Finished("stopped", 0, "Stopped while caching latents; no step was trained by this process.")
    if latents.keep:
        torch.nn.Module.to(base.vae, "cpu")  # needed again only for previews; the space belongs to the UNet
    adapter = inject(
        base.unet,
        base.text_encoders,
        plan.info.family,
        config.network,
        seed=seed,
        train_unet=config.trains_unet,
        train_text_encoder=config.trains_text_encoder,
    )
    _place(base, device, dtype, config)
    texts = _text_cache(plan, base, device, dtype) if config.caches_text else None

    trained = [
        TrainedPart(part.name, [p for name in part.components for p in adapter.parameters(name)], part.lr)
        for part in plan.trained
    ]
    optimizers = Optimizers(trained, config.optimizer)
    parameters = [parameter for part in trained for parameter in part.parameters]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)  # pyright: ignore[reportPrivateImportUsage]
    schedule = make_schedule(
        zero_terminal_snr=plan.info.zero_terminal_snr, kohya_compatible=config.compatibility == "kohya"
    ).to(device)

    start = _restore(run, plan, adapter, optimizers, scaler, recorder)
    outputs = Outputs(config, plan, run, recorder, base, adapter, device, dtype, hashes)
    length = plan.length
    recorder.write(
        Started(
            start, length.total_steps, length.epochs, plan.steps_per_epoch, device_name(device), loratory.__version__
        )
    )
    if config.sample.sample_at_first and start == 0:
        outputs.draw_samples(0)
    maker = BatchMaker(
        config, plan.images, plan.placements, latents, base.vae_scale, plan.info.family == "sdxl", length.total_steps
    )
    accumulation = config.training.gradient_accumulation_steps
    pending: _Pending | None = None
    saved_state_at = start
    step_began = time.perf_counter()

    windows = prefetched(_windows(plan, maker, start, pin=device.type == "cuda"))
    for step in range(start, length.total_steps):
        wanted = control.poll()
        if "save" in wanted:
            _settle(pending, recorder)
            pending = None
            outputs.save_step(step)
            recorder.write(Obeyed("save", step))
        if "stop" in wanted:
            _settle(pending, recorder)
            if step > saved_state_at or step == 0:
                _keep(run, plan, step, adapter, optimizers, scaler, recorder)
            recorder.write(Obeyed("stop", step))
            return Finished("stopped", step, f"Stopped at step {step} of {length.total_steps}; the state is saved.")

        waiting = time.perf_counter()
        window = next(windows)
        data_s = time.perf_counter() - waiting
        optimizers.set_multiplier(lr_multiplier(config.optimizer, step, length.total_steps))
        totals: list[torch.Tensor] = []
        unweighted: list[torch.Tensor] = []
        for micro, batch in enumerate(window):
            # The dropouts of the adapter draw from the global generators; nothing else does.
            torch.manual_seed(derive_seed(seed, "network_dropout", step, micro))
            moved = batch.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                if texts is not None:
                    text = _cached(texts, batch.captions, device)
                else:
                    text = _encode(base, config, batch.captions)
                losses = forward_losses(
                    base.unet,
                    moved,
                    text,
                    schedule,
                    config.loss,
                    v_prediction=plan.info.prediction_type == "v_prediction",
                )
            scaler.scale(losses.total / accumulation).backward()
            totals.append(losses.total.detach())
            unweighted.append(losses.unweighted.detach())
        for optimizer in optimizers.all:
            scaler.unscale_(optimizer)
        grad_norm = _clip(parameters, config.optimizer.max_grad_norm)
        for optimizer in optimizers.all:
            scaler.step(optimizer)
        scaler.update()
        optimizers.zero_grad()
        norms = adapter.apply_max_norm(config.network.scale_weight_norms) if config.network.scale_weight_norms else None

        finished = step + 1
        epoch = step // plan.steps_per_epoch + 1
        now = time.perf_counter()
        latest = _Pending(
            numbers=_fetch(torch.cat([torch.stack(totals).mean()[None], grad_norm[None], *unweighted])),
            step=finished,
            epoch=epoch,
            images=[image for batch in window for image in batch.images],
            timesteps=[t for batch in window for t in batch.timesteps.tolist()],
            lr=optimizers.rates(),
            effective_lr=optimizers.effective_rates(),
            step_s=now - step_began,
            data_s=data_s,
            keys_scaled=norms.keys_scaled if norms else None,
            mean_weight_norm=norms.mean_norm if norms else None,
            max_weight_norm=norms.max_norm if norms else None,
        )
        step_began = now
        # Read one step late: while these numbers are fetched, the device already works on the next step.
        _settle(pending, recorder)
        pending = latest

        epoch_ends = finished % plan.steps_per_epoch == 0
        last = finished == length.total_steps
        state_due = finished % config.output.state_every_n_steps == 0
        if last or state_due or outputs.due(finished, epoch, epoch_ends=epoch_ends):
            _settle(pending, recorder)
            pending = None
            # Files before the state: a run killed between the two writes them again, the other way round never.
            outputs.write(finished, epoch, epoch_ends=epoch_ends, last=last)
            if last or state_due:
                _keep(run, plan, finished, adapter, optimizers, scaler, recorder)
                saved_state_at = finished
            step_began = time.perf_counter()
    return Finished("done", length.total_steps, f"Trained {length.total_steps} steps.")


@dataclass(frozen=True)
class _Numbers:
    """Values on their way from the device."""

    values: torch.Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


def _fetch(values: torch.Tensor) -> _Numbers:
    """Starts copying `values` to the CPU. Waiting for this copy does not wait for work queued after it."""
    if values.device.type != "cuda":
        return _Numbers(values.cpu(), None)
    landing = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    landing.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _Numbers(landing, arrived)


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers (loss, gradient norm, loss of each sample) have not been read yet."""

    numbers: _Numbers
    step: int
    epoch: int
    images: list[str]
    timesteps: list[int]
    lr: dict[str, float]
    effective_lr: dict[str, float]
    step_s: float
    data_s: float
    keys_scaled: int | None
    mean_weight_norm: float | None
    max_weight_norm: float | None


def _settle(pending: _Pending | None, recorder: Recorder) -> None:
    """Reads a step's numbers and records it. A loss that is not a number ends the run: what follows is worthless."""
    if pending is None:
        return
    loss, grad_norm, *sample_losses = pending.numbers.read()
    samples = [
        SampleLoss(image, timestep, value)
        for image, timestep, value in zip(pending.images, pending.timesteps, sample_losses, strict=True)
    ]
    recorder.write(
        Step(
            step=pending.step,
            epoch=pending.epoch,
            loss=loss,
            lr=pending.lr,
            effective_lr=pending.effective_lr,
            grad_norm=grad_norm,
            step_s=pending.step_s,
            data_s=pending.data_s,
            samples=samples,
            keys_scaled=pending.keys_scaled,
            mean_weight_norm=pending.mean_weight_norm,
            max_weight_norm=pending.max_weight_norm,
        )
    )
    if not loss - loss == 0.0:  # NaN or infinite
        raise LoratoryError(
            f"The loss became {loss} at step {pending.step} (pictures: {', '.join(dict.fromkeys(pending.images))}).",
            hint="Lower the learning rate, or train in bf16 instead of fp16; the last state from before is kept.",
            exit_code=FAILED,
        )


def _windows(plan: Plan, maker: BatchMaker, start: int, *, pin: bool) -> Iterator[list[Batch]]:
    """The batches of each optimizer step from `start` on: as many as are accumulated, fewer at an epoch's end."""
    training, length = plan.config.training, plan.length
    buckets = [placement.bucket for placement in plan.placements]
    repeats = [image.repeats for image in plan.images]
    order: list[tuple[Visit, ...]] = []
    for step in range(start, length.total_steps):
        index, position = divmod(step, plan.steps_per_epoch)
        if step == start or position == 0:
            order = epoch_batches(buckets, repeats, training.train_batch_size, seed=training.seed, epoch=index + 1)
        begin = position * training.gradient_accumulation_steps
        visits = order[begin : begin + training.gradient_accumulation_steps]
        batches = [maker.make(batch, index + 1, step) for batch in visits]
        yield [batch.pinned() for batch in batches] if pin else batches


def _pictures(plan: Plan) -> list[Picture]:
    """Every picture as it will be encoded: mirrored ones beside the others where they are mirrored at random."""
    sides = (False, True) if plan.config.dataset.flip_aug else (False,)
    return [
        Picture(image, placement, flipped)
        for image, placement in zip(plan.images, plan.placements, strict=True)
        for flipped in sides
    ]


def _latent_cache(plan: Plan, base: BaseModel, device: torch.device, dtype: torch.dtype) -> LatentCache:
    dataset = plan.config.dataset
    # SDXL's VAE overflows in float16, so there it stays float32 whatever is asked.
    full = plan.config.model.no_half_vae or (plan.info.family == "sdxl" and dtype == torch.float16)
    red, green, blue = dataset.alpha_background
    encoder = LatentEncoder(
        vae=torch.nn.Module.to(base.vae, device, torch.float32 if full else dtype),
        identity=base.identity["vae"],
        device=device,
        dtype=torch.float32 if full else dtype,
        background=(red, green, blue),
        interpolation=dataset.resize_interpolation,
    )
    keep = dataset.cache_latents or dataset.cache_latents_to_disk
    directory = cache_dir() / "latents" if dataset.cache_latents_to_disk else None
    return LatentCache(encoder, dataset.vae_batch_size, keep, directory)


def _place(base: BaseModel, device: torch.device, dtype: torch.dtype, config: Config) -> None:
    """Moves the networks to the device: frozen weights in the compute dtype, the adapter's own in float32."""
    modules: list[torch.nn.Module] = [base.unet, *base.text_encoders]
    for module in modules:
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)  # on the CPU: float32 need not fit on the device
        module.to(device).train()
    if config.training.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        for encoder in base.text_encoders:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _text_cache(plan: Plan, base: BaseModel, device: torch.device, dtype: torch.dtype) -> TextCache:
    """Captions are encoded at their first visit and kept, since the encoders do not change."""
    config = plan.config
    for encoder in base.text_encoders:
        encoder.eval()

    @torch.no_grad()
    def encode(caption: str) -> EncodedText:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            text = _encode(base, config, [caption])
        pooled = None if text.pooled is None else text.pooled[0].to(dtype).cpu()
        return EncodedText(text.hidden[0].to(dtype).cpu(), pooled)

    prefix = repr(
        (
            [value for name, value in base.identity.items() if name != "vae"],
            config.model.clip_skip,
            config.caption.max_token_length,
            dtype,
        )
    )
    on_disk = config.dataset.cache_text_encoder_outputs_to_disk
    return TextCache(encode, prefix, cache_dir() / "text" if on_disk else None)


def _encode(base: BaseModel, config: Config, captions: list[str]) -> TextConditioning:
    return encode_text(
        base, captions, clip_skip=config.model.clip_skip, max_token_length=config.caption.max_token_length
    )


def _cached(texts: TextCache, captions: list[str], device: torch.device) -> TextConditioning:
    entries = [texts.get(caption) for caption in captions]
    pooled = [entry.pooled for entry in entries if entry.pooled is not None]
    return TextConditioning(
        torch.stack([entry.hidden for entry in entries]).to(device, non_blocking=True),
        torch.stack(pooled).to(device, non_blocking=True) if pooled else None,
    )


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Clips the gradients to `max_norm` (0: leaves them) and returns their norm before, without waiting for it."""
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _keep(
    run: RunDirectory,
    plan: Plan,
    step: int,
    adapter: Adapter,
    optimizers: Optimizers,
    scaler: torch.amp.GradScaler,  # pyright: ignore[reportPrivateImportUsage]
    recorder: Recorder,
) -> None:
    state = TrainingState(step, adapter.raw_state(), optimizers.state_dict(), scaler.state_dict(), dataset_digest(plan))
    path = save_state(run.state, state, plan.config.output.state_keep)
    recorder.write(StateSaved(step, str(path.relative_to(run.path))))


def _restore(
    run: RunDirectory,
    plan: Plan,
    adapter: Adapter,
    optimizers: Optimizers,
    scaler: torch.amp.GradScaler,  # pyright: ignore[reportPrivateImportUsage]
    recorder: Recorder,
) -> int:
    """Loads the newest state, if there is one, and returns the step to go on from."""
    atomic.remove_leftovers(run.state)
    atomic.remove_leftovers(plan.config.output.output_dir, plan.config.output.output_name)
    state, problems = load_newest(run.state)
    for problem in problems:
        recorder.write(Notice("warning", problem))
    if state is None:
        return 0
    if state.dataset != dataset_digest(plan):
        raise LoratoryError(
            f"The pictures in {plan.config.dataset.train_data_dir} are not those this run was trained on: some were "
            "added, removed, resized or moved, so it cannot go on as if nothing had happened.",
            hint="Put them back, or start a new run.",
            exit_code=FAILED,
        )
    adapter.load_raw_state(state.adapter)
    optimizers.load_state_dict(state.optimizers)
    scaler.load_state_dict(state.scaler)
    return state.step
