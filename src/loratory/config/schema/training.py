"""Length and precision of the run, its loss and its noise: tables `[training]`, `[loss]` and `[noise]`."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from loratory.config.schema.base import (
    Conflict,
    OptionalAmount,
    OptionalCount,
    SettingsTable,
    ZeroIsOff,
    changed,
)

LENGTHS = ("exposure", "max_train_epochs", "max_train_steps")
"""The three ways to say how long a run is; at most one may be given."""


class TrainingSettings(SettingsTable):
    """`[training]`: how long, in which batches, in which precision."""

    train_batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pictures per step. 1 gives the best detail, at most 4; 1 for several concepts."""

    max_train_epochs: Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, ZeroIsOff] = None
    """Number of passes over the dataset, repeats included; instead of `exposure`."""

    max_train_steps: Annotated[Annotated[int, Field(ge=1, le=10_000_000)] | None, ZeroIsOff] = None
    """Number of optimizer steps; instead of `exposure`. sd-scripts' default is 1600. Steps mean little: they depend on
    the number of pictures."""

    exposure: Annotated[Annotated[float, Field(gt=0, le=1_000_000)] | None, ZeroIsOff] = None
    """How often each picture is trained in the whole run, repeats times epochs; the number of epochs follows from it.
    Left out with epochs and steps, 100, or 35 for the goal "style". Not in sd-scripts."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients are added up for one step. Like a larger batch, without its memory."""

    gradient_checkpointing: bool = False
    """Computes activations again instead of keeping them: much less memory, somewhat slower, same result."""

    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    """Number format of the calculation; the adapter itself stays in 32-bit floats. fp16 is finer, bf16 has the larger
    range and needs a card made since 2020 or a CPU."""

    full_fp16: bool = False
    """Keeps the adapter in fp16 too: faster, coarser. Needs mixed_precision "fp16"."""

    full_bf16: bool = False
    """Keeps the adapter in bf16 too: faster, coarser. Needs mixed_precision "bf16"."""

    fp8_base: bool = False
    """Holds the frozen UNet and text encoders in 8-bit floats to save memory: half of bf16, somewhat slower, a little
    coarser."""

    fp8_base_unet: bool = False
    """Holds the UNet alone in 8-bit floats."""

    int8_base: bool = False
    """Holds the frozen UNet and text encoders as 8-bit integers with a scale per output: as small as `fp8_base` and
    more exact. Not in sd-scripts."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Start of all randomness: the same seed and settings give the same adapter. sd-scripts' default is random."""

    cross_attention: Literal["sdpa", "xformers", "none"] = "sdpa"
    """Implementation of attention: PyTorch's own, xformers, or the plain formula. The kohya GUI: CrossAttention. "sdpa"
    is as fast as xformers today."""

    torch_compile: bool = False
    """Compiles the UNet's blocks when they first run: a slow start, then faster steps. Not with stored or swapped
    weights."""

    dynamo_backend: str = "inductor"
    """The compiler of `torch_compile`."""

    blocks_to_swap: Annotated[int, Field(ge=0)] = 0
    """Number of UNet blocks, the largest first, whose frozen weights stay in main memory until they are needed: less
    graphics memory, slower steps."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a running mean of the adapter that is saved beside it, such as 0.999; 0 is off. Not in sd-scripts."""

    validate_every_n_epochs: OptionalCount = None
    """Measures the validation loss after every n-th epoch; left out, after each one where `dataset.validation_split`
    holds pictures back."""

    validate_every_n_steps: OptionalCount = None
    """Measures the validation loss after every n-th step too."""

    max_validation_steps: OptionalCount = None
    """Most pictures a measurement of the validation loss takes; left out, all that are held back."""

    def conflicts(self) -> Iterator[Conflict]:
        for key, precision in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
            if getattr(self, key) and self.mixed_precision != precision:
                yield Conflict(key, f'needs mixed_precision = "{precision}"')
        given = [key for key in LENGTHS if getattr(self, key) is not None]
        for key in given[1:]:
            yield Conflict(key, f"contradicts {given[0]}: give one of {', '.join(LENGTHS)}")
        if self.int8_base and (self.fp8_base or self.fp8_base_unet):
            yield Conflict("int8_base", "excludes fp8_base and fp8_base_unet")
        if self.dynamo_backend != "inductor" and not self.torch_compile:
            yield Conflict("dynamo_backend", "does nothing without torch_compile")


class LossSettings(SettingsTable):
    """`[loss]`: what counts as wrong, and how much."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """The distance between prediction and target."""

    huber_schedule: Literal["snr", "exponential", "constant"] = "snr"
    """How the turning point of "huber" and "smooth_l1" depends on the timestep."""

    huber_c: Annotated[float, Field(gt=0)] = 0.1
    """Turning point of "huber" and "smooth_l1" from square to straight."""

    huber_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on that turning point."""

    min_snr_gamma: OptionalAmount = None
    """Limits the weight of timesteps with little noise, which learns faster; left out or 0, off. 5 is a good value. Not
    the same thing as zero terminal SNR."""

    debiased_estimation_loss: bool = False
    """Weights timesteps by 1/sqrt(SNR), against colour drift. It multiplies with `min_snr_gamma`; the plan shows the
    combined curve."""

    scale_v_pred_loss_like_noise_pred: bool = False
    """Gives the loss of a v-prediction model the timestep weights of a noise-prediction one."""

    v_pred_like_loss: Annotated[float, Field(ge=0)] = 0.0
    """Adds a v-prediction-like loss with this weight to a noise-prediction model; 0 is off."""

    prior_loss_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the regularization pictures in the loss. Nearer 0 means WEAKER regularization; the guide has it the
    other way round."""

    masked_loss: bool = False
    """Counts only what the mask of a picture shows."""

    diff_output_preservation: bool = False
    """Regularizes towards the base model's own prediction instead of towards pictures: with a regularization set for
    its pictures, without one for a twin of each picture that is captioned with the class alone. Weighted by
    `prior_loss_weight`. sd-scripts: a custom attribute, with a set only."""

    diff_output_preservation_class: str = ""
    """The caption of those twins; left out, the class token of the concept folder (`10_name class`), or no text where
    it has none. Not in sd-scripts."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.loss_type not in ("huber", "smooth_l1"):
            for key in ("huber_schedule", "huber_c", "huber_scale"):
                if changed(self, key):
                    yield Conflict(key, f'does nothing with loss_type = "{self.loss_type}"')
        if self.diff_output_preservation_class and not self.diff_output_preservation:
            yield Conflict("diff_output_preservation_class", "does nothing without diff_output_preservation")


class NoiseSettings(SettingsTable):
    """`[noise]`: what is added to the latents, and at which timesteps."""

    noise_offset: OptionalAmount = None
    """Shifts the noise of a whole channel by this much, for darker and brighter results; left out or 0, off. Off gives
    the best results in the guide's experience."""

    noise_offset_random_strength: bool = False
    """Draws the strength between 0 and `noise_offset` on each visit."""

    adaptive_noise_scale: Annotated[float | None, ZeroIsOff] = None
    """Adds this share of the latent's mean to `noise_offset`."""

    multires_noise_iterations: OptionalCount = None
    """Number of coarser noise layers added; left out or 0, off. 6 to 10 where it is used."""

    multires_noise_discount: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """How much weaker each coarser layer is."""

    ip_noise_gamma: OptionalAmount = None
    """Strength of an input perturbation that the target ignores; left out or 0, off. Around 0.1."""

    ip_noise_gamma_random_strength: bool = False
    """Draws that strength between 0 and `ip_noise_gamma` on each visit."""

    min_timestep: Annotated[int, Field(ge=0, le=999)] = 0
    """First timestep trained, of 0 to 999; small ones hold detail."""

    max_timestep: Annotated[int, Field(ge=1, le=1000)] = 1000
    """First timestep no longer trained, 1 to 1000."""

    timestep_sampling: Literal["uniform", "logit_normal", "mode", "cosmap"] = "uniform"
    """How timesteps are drawn between the two: evenly; most in the middle ("logit_normal"); or as the other two curves
    of Stable Diffusion 3. sd-scripts: uniform for Stable Diffusion."""

    logit_mean: float = 0.0
    """Centre of "logit_normal": above 0 more noise, below 0 more detail."""

    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """Width of "logit_normal"."""

    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] = 1.29
    """Strength of "mode": above 0 favours the middle, below 0 the ends."""

    zero_terminal_snr: bool | None = None
    """Whether the last timestep is pure noise, which allows perfect blacks; left out, it is detected. The SNR weights
    follow it; those of sd-scripts do not. Only for base models trained that way."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.min_timestep >= self.max_timestep:
            yield Conflict("min_timestep", f"must be below max_timestep = {self.max_timestep}")
        for key, sampling in (("logit_mean", "logit_normal"), ("logit_std", "logit_normal"), ("mode_scale", "mode")):
            if self.timestep_sampling != sampling and changed(self, key):
                yield Conflict(key, f'does nothing without timestep_sampling = "{sampling}"')
        needs = (
            ("noise_offset_random_strength", "noise_offset"),
            ("adaptive_noise_scale", "noise_offset"),
            ("multires_noise_discount", "multires_noise_iterations"),
            ("ip_noise_gamma_random_strength", "ip_noise_gamma"),
        )
        for key, master in needs:
            if getattr(self, master) is None and changed(self, key):
                yield Conflict(key, f"does nothing without {master}")
