"""Every setting of a training run, with its type, range, default and documentation.

Names, meanings and units are those of kohya's sd-scripts wherever it has the setting.
"""

from collections.abc import Iterator
from typing import Literal

from loratory.config.schema.base import CONFLICT, Conflict, SettingsTable, changed
from loratory.config.schema.data import (
    EMBEDDED_MODEL,
    CaptionSettings,
    DatasetSettings,
    Goal,
    ModelSettings,
)
from loratory.config.schema.network import WITH_UPPER_HALVES, WITHOUT_TEXT_ENCODERS, NetworkSettings, NetworkType
from loratory.config.schema.optimizer import OptimizerSettings, Scheduler, parse_arguments
from loratory.config.schema.output import LintSettings, OutputSettings, SampleSettings
from loratory.config.schema.subsets import CAPTION_KEYS, DATASET_KEYS, SubsetSettings
from loratory.config.schema.training import LENGTHS, LossSettings, NoiseSettings, TrainingSettings

EXPOSURE = 100.0
"""The guide's starting point: each picture is trained about 100 times."""

STYLE_EXPOSURE = 35.0
"""The middle of the guide's 30 to 40 for styles."""


class Config(SettingsTable):
    """A whole configuration."""

    preset: str | None = None
    """The preset the configuration starts from: a name from `loratory presets list`, or the path of a TOML file."""

    compatibility: Literal["correct", "kohya"] = "correct"
    """"correct" does the right thing where sd-scripts has a known defect; "kohya" does as sd-scripts does, for
    comparisons."""

    model: ModelSettings
    dataset: DatasetSettings
    caption: CaptionSettings = CaptionSettings()
    network: NetworkSettings = NetworkSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    loss: LossSettings = LossSettings()
    noise: NoiseSettings = NoiseSettings()
    output: OutputSettings = OutputSettings()
    sample: SampleSettings = SampleSettings()
    lint: LintSettings = LintSettings()

    @property
    def has_reg(self) -> bool:
        """Whether there is a regularization set."""
        return self.dataset.reg_data_dir is not None or any(subset.is_reg for subset in self.dataset.subsets)

    @property
    def trains_unet(self) -> bool:
        """Whether the UNet gets an adapter."""
        return not self.network.network_train_text_encoder_only and self.optimizer.effective_unet_lr > 0

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the text encoder gets an adapter."""
        left_out = self.network.network_train_unet_only or self.network.lycoris_preset in WITHOUT_TEXT_ENCODERS
        return not left_out and self.optimizer.effective_text_encoder_lr > 0

    def text_encoder_rates(self, encoders: int) -> tuple[float, ...]:
        """The learning rate of each of `encoders` text encoders; 0 for one that is not trained."""
        rate = self.optimizer.text_encoder_lr
        if not self.trains_text_encoder:
            return (0.0,) * encoders
        if isinstance(rate, tuple) and len(rate) > 1:
            return rate[:encoders]
        return (self.optimizer.effective_text_encoder_lr,) * encoders

    @property
    def caches_text(self) -> bool:
        """Whether captions are encoded once and kept."""
        wanted = self.dataset.cache_text_encoder_outputs
        if wanted is None:
            wanted = self.dataset.cache_text_encoder_outputs_to_disk or not self.caption.varies
        return wanted and not self.trains_text_encoder

    @property
    def target_exposure(self) -> float | None:
        """How often each picture is to be trained; None when epochs or steps say how long the run is."""
        training = self.training
        if training.exposure is not None:
            return training.exposure
        if training.max_train_epochs is not None or training.max_train_steps is not None:
            return None
        return STYLE_EXPOSURE if self.dataset.goal == "style" else EXPOSURE

    def conflicts(self) -> Iterator[Conflict]:
        if not self.trains_unet and not self.trains_text_encoder:
            key = "unet_lr" if self.optimizer.unet_lr == 0 else "learning_rate"
            yield Conflict(f"optimizer.{key}", "leaves nothing to train: the rate of what is trained is 0")
        for key in ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"):
            if self.trains_text_encoder and getattr(self.dataset, key):
                yield Conflict(
                    f"dataset.{key}",
                    "cannot be used while the text encoder is trained; set network.network_train_unet_only = true",
                )
        has_prior = self.has_reg or self.loss.diff_output_preservation
        if not has_prior and changed(self.loss, "prior_loss_weight") and self.dataset.dataset_config is None:
            yield Conflict(
                "loss.prior_loss_weight", "does nothing without dataset.reg_data_dir or loss.diff_output_preservation"
            )
        masks = self.dataset.conditioning_data_dir or any(s.conditioning_data_dir for s in self.dataset.subsets)
        transparent = self.dataset.alpha_mask or any(subset.alpha_mask for subset in self.dataset.subsets)
        if self.loss.masked_loss and not masks and not transparent and self.dataset.dataset_config is None:
            yield Conflict("loss.masked_loss", "needs mask pictures: set dataset.conditioning_data_dir or alpha_mask")
        if masks and not self.loss.masked_loss:
            yield Conflict("loss.masked_loss", "is off, so conditioning_data_dir does nothing")
        if self.training.ema_decay and self.optimizer.is_schedule_free:
            yield Conflict("training.ema_decay", "averages weights that a schedule-free optimizer averages already")
        for key in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"):
            if getattr(self.optimizer, key) is not None and self.network.network_type not in WITH_UPPER_HALVES:
                yield Conflict(
                    f"optimizer.{key}",
                    f'has no upper halves to act on in network.network_type = "{self.network.network_type}"; leave it '
                    f"out, or take {', '.join(sorted(WITH_UPPER_HALVES))}",
                )
        if self.loss.scale_v_pred_loss_like_noise_pred and self.model.v_parameterization is False:
            yield Conflict("loss.scale_v_pred_loss_like_noise_pred", "is for v-prediction models only")
        if self.loss.v_pred_like_loss and self.model.v_parameterization is True:
            yield Conflict("loss.v_pred_like_loss", "is for noise-prediction models only")


__all__ = [
    "CAPTION_KEYS",
    "CONFLICT",
    "DATASET_KEYS",
    "EMBEDDED_MODEL",
    "EXPOSURE",
    "LENGTHS",
    "STYLE_EXPOSURE",
    "CaptionSettings",
    "Config",
    "Conflict",
    "DatasetSettings",
    "Goal",
    "LintSettings",
    "LossSettings",
    "ModelSettings",
    "NetworkSettings",
    "NetworkType",
    "NoiseSettings",
    "OptimizerSettings",
    "OutputSettings",
    "SampleSettings",
    "Scheduler",
    "SettingsTable",
    "SubsetSettings",
    "TrainingSettings",
    "changed",
    "parse_arguments",
]
