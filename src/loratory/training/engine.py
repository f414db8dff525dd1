"""What a step needs, put together from a plan: models, caches, adapter, optimizers."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from loratory.adapters.adapter import Adapter
from loratory.adapters.base_weights import merge_base_weights
from loratory.adapters.files import read_adapter
from loratory.adapters.inject import inject
from loratory.adapters.network_weights import sizes_from_weights
from loratory.adapters.targets import rate_factors
from loratory.config.schema import Config
from loratory.dataset.captions import draw_caption, plain_caption
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import TextConditioning, encode_ids, encode_text
from loratory.paths import cache_dir
from loratory.runs.events import Phase
from loratory.training.attention import choose_attention
from loratory.training.batches import Batch, BatchMaker, class_token
from loratory.training.cache import EncodedText, LatentCache, LatentEncoder, Picture, TextCache
from loratory.training.compilation import compile_blocks
from loratory.training.device import compute_dtype
from loratory.training.ema import MovingAverage
from loratory.training.frozen import offload_blocks, release, store_weights, swappable_blocks
from loratory.training.noise import Schedule, make_schedule
from loratory.training.optimizers import Optimizers, trained_parts
from loratory.training.plan import Plan
from loratory.training.scaling import cast_adapter, make_scaler
from loratory.training.step import Losses, forward_losses, predict


@dataclass
class Engine:
    """Everything that takes part in a step. average: the moving average of the adapter, where one is asked for."""

    plan: Plan
    base: BaseModel
    adapter: Adapter
    optimizers: Optimizers
    parameters: list[Parameter]
    scaler: torch.amp.GradScaler
    schedule: Schedule
    maker: BatchMaker
    average: MovingAverage | None
    device: torch.device
    dtype: torch.dtype

    @property
    def v_prediction(self) -> bool:
        return self.plan.info.prediction_type == "v_prediction"

    def losses(self, batch: Batch) -> Losses:
        """The losses of a batch on the device, in the run's precision."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            rows = batch.preserved
            preserved = None if rows is None else self._base_prediction(batch.preserved_part(rows))
            return forward_losses(
                self.base.unet,
                batch,
                self._text(batch),
                self.schedule,
                self.plan.config.loss,
                v_prediction=self.v_prediction,
                preserved=preserved,
            )

    @torch.no_grad()
    def _base_prediction(self, batch: Batch) -> torch.Tensor:
        with self.adapter.disabled():
            return predict(self.base.unet, batch, self._text(batch), self.schedule)

    def _text(self, batch: Batch) -> TextConditioning:
        clip_skip = self.plan.config.model.clip_skip
        return batch.text or encode_ids(self.base, batch.ids, clip_skip=clip_skip, weights=batch.token_weights)

    @contextmanager
    def judged(self) -> Generator[None]:
        """Inside, the adapter is as it would be used: without dropouts, with the weights that are saved."""
        modules: list[torch.nn.Module] = [self.base.unet, *self.base.text_encoders]
        before = [module.training for module in modules]
        self.optimizers.eval_mode()
        try:
            for module in modules:
                module.eval()
            yield
        finally:
            for module, training in zip(modules, before, strict=True):
                module.train(training)
            self.optimizers.train_mode()


def assemble(plan: Plan, device: torch.device) -> Iterator[Phase | Engine]:
    """Loads, caches and injects, telling how far it is; the last thing it yields is the engine."""
    config, dtype = plan.config, compute_dtype(plan.config.training, device)
    yield Phase("loading the base model", 0, 1)
    base = load_base_model(plan.info, config.model, dtype=None if dtype == torch.float32 else dtype)
    if config.model.base_weights:
        base.identity["base_weights"] = merge_base_weights(
            config.model.base_weights,
            config.model.base_weights_multiplier,
            base.unet,
            base.text_encoders,
            plan.info.family,
        )
    latents = _latent_cache(plan, base, device, dtype)
    pictures = _pictures(plan)
    kept = [picture for picture in pictures if not picture.image.treatment.varies_pixels]
    for ready in latents.fill(kept):
        yield Phase("caching latents", ready, len(kept))
    if latents.keep and len(kept) == len(pictures):
        torch.nn.Module.to(base.vae, "cpu")  # needed again only for previews; the space belongs to the UNet
    rates = config.text_encoder_rates(len(base.text_encoders))
    adapter = inject(
        base.unet,
        base.text_encoders,
        plan.info.family,
        config.network,
        seed=config.training.seed,
        train_unet=config.trains_unet,
        train_text_encoder=[rate > 0 for rate in rates],
        sizes=sizes_from_weights(config.network, plan.info.family),
    )
    if config.network.network_weights is not None:
        adapter.load_kohya_state_dict(read_adapter(config.network.network_weights).state_dict)
    if config.training.full_fp16 or config.training.full_bf16:
        cast_adapter(adapter, dtype)
    _place(base, device, dtype, config)
    texts = None
    if config.caches_text:
        texts = _text_cache(plan, base, device, dtype)
        captions = _captions(plan)
        if captions:
            for ready, caption in enumerate(captions):
                yield Phase("encoding captions", ready, len(captions))
                texts.get(caption)
            if texts.holds(captions):  # nothing is left for the encoders to do
                for encoder in base.text_encoders:
                    release(encoder, device)
    factors = rate_factors(plan.targets, config.network, plan.info.family)
    parts = [
        each
        for part in plan.trained
        for each in trained_parts(
            part.name,
            [named for component in part.components for named in adapter.named_parameters(component)],
            part.lr,
            config.optimizer,
            factors,
        )
    ]
    parameters = [parameter for part in parts for parameter in part.parameters]
    named = dict(named for part in plan.trained for c in part.components for named in adapter.named_parameters(c))
    decay = config.training.ema_decay
    maker = BatchMaker(plan, base, latents, texts)
    maker.read_masks()
    yield Engine(
        plan=plan,
        base=base,
        adapter=adapter,
        optimizers=Optimizers(parts, config.optimizer),
        parameters=parameters,
        scaler=make_scaler(device.type, enabled=dtype == torch.float16, half_parameters=config.training.full_fp16),
        schedule=make_schedule(
            zero_terminal_snr=plan.info.zero_terminal_snr, kohya_compatible=config.compatibility == "kohya"
        ).to(device),
        maker=maker,
        average=MovingAverage(named, decay) if decay else None,
        device=device,
        dtype=dtype,
    )


def _pictures(plan: Plan) -> list[Picture]:
    """Every picture as it will be encoded: mirrored ones beside the others where they are mirrored at random."""
    trained = [
        Picture(image, placement, flipped)
        for image, placement in zip(plan.images, plan.placements, strict=True)
        for flipped in ((False, True) if image.treatment.flip_aug else (False,))
    ]
    held_back = zip(plan.held_back, plan.held_back_placements, strict=True)
    return trained + [Picture(image, placement, flipped=False) for image, placement in held_back]


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
        kohya_compatible=plan.config.compatibility == "kohya",
    )
    keep = dataset.cache_latents or dataset.cache_latents_to_disk
    directory = cache_dir() / "latents" if dataset.cache_latents_to_disk else None
    return LatentCache(encoder, dataset.vae_batch_size, keep, directory)


def _place(base: BaseModel, device: torch.device, dtype: torch.dtype, config: Config) -> None:
    """Moves the networks to the device: frozen weights in the compute dtype, or smaller, where they are asked to be."""
    training = config.training
    kind = "int8" if training.int8_base else "fp8" if training.fp8_base or training.fp8_base_unet else None
    modules: list[torch.nn.Module] = [base.unet, *base.text_encoders]
    # Before anything is moved: the model never lies on the device as a whole.
    if training.blocks_to_swap:
        for name in swappable_blocks(base.unet)[: training.blocks_to_swap] if kind else ():
            store_weights(base.unet.get_submodule(name), kind or "int8", device, dtype)
        offload_blocks(base.unet, training.blocks_to_swap, device, dtype)
    for module in modules:
        if kind and (module is base.unet or training.fp8_base or training.int8_base):
            store_weights(module, kind, device, dtype)
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        module.to(device).train()
    choose_attention(base.unet, training.cross_attention)
    if training.torch_compile:
        compile_blocks(base.unet, training.dynamo_backend)
    if training.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        for encoder in base.text_encoders if config.trains_text_encoder else ():
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _text_cache(plan: Plan, base: BaseModel, device: torch.device, dtype: torch.dtype) -> TextCache:
    """Captions are encoded once and kept, since the encoders do not change."""
    config = plan.config
    for encoder in base.text_encoders:
        encoder.eval()

    @torch.no_grad()
    def encode(caption: str) -> EncodedText:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            text = _encode(base, config, [caption])
        pooled = None if text.pooled is None else text.pooled[0].to(dtype).cpu()
        return EncodedText(text.hidden[0].to(dtype).cpu(), pooled)

    training = config.training
    prefix = repr(
        (
            [value for name, value in base.identity.items() if name not in ("vae", "unet")],
            config.model.clip_skip,
            config.caption.max_token_length,
            config.caption.weighted_captions,
            dtype,
            (training.fp8_base, training.int8_base),
        )
    )
    on_disk = config.dataset.cache_text_encoder_outputs_to_disk
    return TextCache(encode, prefix, cache_dir() / "text" if on_disk else None)


def _captions(plan: Plan) -> Sequence[str]:
    """Every caption the run will see; none where they are drawn anew at each visit, and met on the way."""
    images = [*plan.images, *plan.held_back]
    if any(image.treatment.caption.varies for image in images):
        return ()
    captions: dict[str, None] = {}
    for image in images:
        settings = image.treatment.caption
        if settings.caption_dropout_rate or settings.caption_dropout_every_n_epochs:
            captions[""] = None
        plain = plain_caption(settings)
        captions[draw_caption(image.caption, plain, seed=0, epoch=1, visit=(0,), step=1, max_steps=1)] = None
        if plan.config.loss.diff_output_preservation:
            captions[plan.config.loss.diff_output_preservation_class or class_token(image)] = None
    return list(captions)


def _encode(base: BaseModel, config: Config, captions: list[str]) -> TextConditioning:
    return encode_text(
        base,
        captions,
        clip_skip=config.model.clip_skip,
        max_token_length=config.caption.max_token_length,
        weighted_captions=config.caption.weighted_captions,
    )
