"""The training loop, from top to bottom: load, cache, inject, then step after step until the plan is done.

It knows nothing of terminals. It tells what happens in events, asks `control` once a step what is wanted of it, and
keeps a state from which any later process goes on as if nothing had happened.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import loratory
from loratory import atomic
from loratory.adapters.lora import Adapter, inject
from loratory.config.schema import Config
from loratory.dataset.epochs import Visit, epoch_batches
from loratory.errors import FAILED, LoratoryError
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import TextConditioning, encode_ids, encode_text
from loratory.paths import cache_dir
from loratory.randomness import derive_seed
from loratory.runs.control import Control
from loratory.runs.events import Finished, Notice, Obeyed, Phase, Started, StateSaved
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory
from loratory.training.batches import Batch, BatchMaker, prefetched
from loratory.training.cache import EncodedText, LatentCache, LatentEncoder, Picture, TextCache
from loratory.training.device import compute_dtype, device_name, pick_device
from loratory.training.noise import make_schedule
from loratory.training.optimizers import Optimizers, TrainedPart
from loratory.training.outputs import Outputs, refuse_overwriting, remove_leftovers, start_hashing
from loratory.training.plan import Plan, identity_of
from loratory.training.readback import Numbers, PendingStep, StepLog
from loratory.training.schedule import lr_multiplier
from loratory.training.state import TrainingState, load_newest, save_state
from loratory.training.step import forward_losses


def train(plan: Plan, run: RunDirectory, control: Control, recorder: Recorder) -> Finished:
    """Trains what `plan` says in `run`, from its newest state if it has one, and returns how it ended.

    Raises LoratoryError when the work cannot be done; states and files written so far stay.
    """
    config, length = plan.config, plan.length
    refuse_overwriting(config, run)
    doubts = [finding.message for finding in plan.dataset.findings if finding.severity == "warning"]
    for sentence in (*plan.warnings, *doubts):
        recorder.write(Notice("warning", sentence))
    device = pick_device()
    dtype = compute_dtype(config.training, device)
    mixed = dtype != torch.float32
    hashes = start_hashing(plan.info)

    recorder.write(Phase("loading the base model", 0, 1))
    base = load_base_model(plan.info, config.model)

    latents = _latent_cache(plan, base, device, dtype)
    pictures = _pictures(plan)
    for ready in latents.fill(pictures):
        recorder.write(Phase("caching latents", ready, len(pictures)))
        if control.waits("stop"):
            return Finished("stopped", recorder.step, "Stopped while caching latents, before this process trained.")
    if latents.keep:
        torch.nn.Module.to(base.vae, "cpu")  # needed again only for previews; the space belongs to the UNet
    adapter = inject(
        base.unet,
        base.text_encoders,
        plan.info.family,
        config.network,
        seed=config.training.seed,
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

    keeper = _StateKeeper(plan, run, recorder, adapter, optimizers, scaler, identity_of(plan, base.identity))
    outputs = Outputs(plan, run, recorder, control, base, adapter, device, dtype, hashes)
    log = StepLog(recorder, scaled=scaler.is_enabled())
    start = keeper.restore()
    name = device_name(device)
    recorder.write(Started(start, length.total_steps, length.epochs, plan.steps_per_epoch, name, loratory.__version__))
    if start == 0 and outputs.samples_due(0):
        outputs.draw_samples(0)
    final = config.output.output_dir / f"{config.output.output_name}.safetensors"
    if start == length.total_steps and not final.exists():
        outputs.save(config.output.output_name, start)

    maker = BatchMaker(plan, base, latents, texts)
    windows = prefetched(_windows(plan, maker, start, pin=device.type == "cuda"))
    step_began = time.perf_counter()
    for done in range(start, length.total_steps):
        for command in control.poll():
            log.settle()
            if command == "stop":
                keeper.save(done)
                recorder.write(Obeyed("stop", done))
                return Finished("stopped", done, f"Stopped at step {done} of {length.total_steps}; the state is saved.")
            outputs.save(outputs.step_name(done), done)
            recorder.write(Obeyed(command, done))
            step_began = time.perf_counter()

        waiting = time.perf_counter()
        window = next(windows)
        data_s = time.perf_counter() - waiting
        optimizers.set_multiplier(lr_multiplier(config.optimizer, done, length.total_steps))
        totals: list[torch.Tensor] = []
        unweighted: list[torch.Tensor] = []
        for micro, batch in enumerate(window):
            # The dropouts of the adapter draw from the global generators; nothing else does.
            torch.manual_seed(derive_seed(config.training.seed, "network_dropout", done, micro))
            moved = batch.to(device)
            with torch.autocast(device.type, dtype, enabled=mixed):
                text = moved.text or encode_ids(base, moved.ids, clip_skip=config.model.clip_skip)
                losses = forward_losses(
                    base.unet,
                    moved,
                    text,
                    schedule,
                    config.loss,
                    v_prediction=plan.info.prediction_type == "v_prediction",
                )
            scaler.scale(losses.total / config.training.gradient_accumulation_steps).backward()
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

        step, now = done + 1, time.perf_counter()
        log.push(
            PendingStep(
                numbers=Numbers.fetch(torch.cat([torch.stack(totals).mean()[None], grad_norm[None], *unweighted])),
                step=step,
                epoch=done // plan.steps_per_epoch + 1,
                images=[image for batch in window for image in batch.images],
                timesteps=[timestep for batch in window for timestep in batch.timesteps.tolist()],
                lr=optimizers.rates(),
                effective_lr=optimizers.effective_rates(),
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
        if file_name or state_due or outputs.samples_due(step):
            log.settle()
            # Files before the state: a run killed between the two writes them again, the other way round never.
            if file_name:
                outputs.save(file_name, step)
            if state_due:
                keeper.save(step)
            # Pictures last: no preview is worth losing a state for.
            if outputs.samples_due(step):
                outputs.draw_samples(step)
            step_began = time.perf_counter()
    return Finished("done", length.total_steps, f"Trained {length.total_steps} steps.")


@dataclass
class _StateKeeper:
    """Writes the resumable state, and finds the way back into it."""

    plan: Plan
    run: RunDirectory
    recorder: Recorder
    adapter: Adapter
    optimizers: Optimizers
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    identity: dict[str, str]
    saved_at: int | None = None

    def save(self, step: int) -> None:
        """Keeps the state after `step` steps, unless it is on the disk already."""
        if step == self.saved_at:
            return
        state = TrainingState(
            step, self.adapter.raw_state(), self.optimizers.state_dict(), self.scaler.state_dict(), self.identity
        )
        path = save_state(self.run.state, state, self.plan.config.output.state_keep)
        self.saved_at = step
        self.recorder.write(StateSaved(step, str(path.relative_to(self.run.path))))

    def restore(self) -> int:
        """Loads the newest state, if there is one, and returns the number of steps that are done."""
        atomic.remove_leftovers(self.run.state, "*")
        remove_leftovers(self.plan.config)
        state, problems = load_newest(self.run.state)
        for problem in problems:
            self.recorder.write(Notice("warning", problem))
        if state is None:
            return 0
        changed = [name for name, value in self.identity.items() if state.identity.get(name) != value]
        if changed:
            raise LoratoryError(
                f"This run cannot go on as if nothing had happened, because {' and '.join(changed)} changed since it "
                f"was stopped at step {state.step}.",
                hint="Put back what was there (pictures, sizes, folder names included), or start a new run.",
                exit_code=FAILED,
            )
        self.adapter.load_raw_state(state.adapter)
        self.optimizers.load_state_dict(state.optimizers)
        self.scaler.load_state_dict(state.scaler)
        self.saved_at = state.step
        return state.step


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
        for encoder in base.text_encoders if config.trains_text_encoder else ():
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


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Clips the gradients to `max_norm` (0: leaves them) and returns their norm before, without waiting for it."""
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
