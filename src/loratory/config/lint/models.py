"""Rules about the base model, and about noise and loss weights that must suit it."""

from collections.abc import Iterator

from loratory.config.lint.base import Facts, Rule, Said, ends_in_noise, family_of, predicts_noise
from loratory.config.schema import Config, changed

_KIND = {"epsilon": "noise", "v_prediction": "velocity"}
# SD 1.x was made at 512, and most of its descendants were trained on to 768; the later families were not.
_ROOM_ABOVE_NATIVE = 1.5
_SMALLEST_SHARE_OF_NATIVE = 0.75


def _clip_skip_sdxl(config: Config, facts: Facts) -> Iterator[Said]:
    if family_of(config, facts) == "sdxl" and config.model.clip_skip:
        yield Said(
            "model.clip_skip", "model.clip_skip does nothing with SDXL, which always reads the layer before the last."
        )


def _clip_skip_sd2(config: Config, facts: Facts) -> Iterator[Said]:
    skip = config.model.clip_skip
    if family_of(config, facts) == "sd2" and skip and skip > 1:
        yield Said(
            "model.clip_skip",
            f"The text encoder of Stable Diffusion 2 already ends at the layer before the last, so model.clip_skip = "
            f"{skip} reads an earlier one than the model was made with. Leave it out unless the page of your model "
            "asks for it.",
        )


def _prediction_type(config: Config, facts: Facts) -> Iterator[Said]:
    declared, used = facts.declared_prediction_type, facts.prediction_type
    if config.model.v_parameterization is not None and declared and used and declared != used:
        yield Said(
            "model.v_parameterization",
            f"model.v_parameterization says that the base model predicts {_KIND[used]}, but its own files say "
            f"{_KIND[declared]}. The wrong one unlearns the model: leave the setting out.",
        )


def _scale_v_pred(config: Config, facts: Facts) -> Iterator[Said]:
    if config.loss.scale_v_pred_loss_like_noise_pred and predicts_noise(config, facts):
        yield Said(
            "loss.scale_v_pred_loss_like_noise_pred",
            "loss.scale_v_pred_loss_like_noise_pred is for v-prediction models, and this one predicts noise: its "
            "timesteps have these weights already, and would be weighted twice. Leave it out.",
        )


def _v_pred_like(config: Config, facts: Facts) -> Iterator[Said]:
    if config.loss.v_pred_like_loss and predicts_noise(config, facts) is False:
        yield Said(
            "loss.v_pred_like_loss",
            "loss.v_pred_like_loss is for models that predict noise, and this one predicts velocity, whose "
            "loss is such a loss by itself. Leave it out.",
        )


def _zero_terminal_noise(config: Config, facts: Facts) -> Iterator[Said]:
    if ends_in_noise(config, facts) and predicts_noise(config, facts):
        yield Said(
            "noise.zero_terminal_snr",
            "Zero terminal SNR leaves nothing but noise at the last timestep, where a model that predicts noise only "
            "has to repeat its input: it learns nothing there. Leave noise.zero_terminal_snr out, or set "
            "model.v_parameterization if the base model is a v-prediction one.",
        )


def _zero_terminal_weights(config: Config, facts: Facts) -> Iterator[Said]:
    # sd-scripts weights by the schedule as it was before, whose last timesteps are not so far from the others.
    noise = config.noise
    has_end = ends_in_noise(config, facts) and noise.max_timestep == 1000 and noise.timestep_sampling == "uniform"
    if (
        has_end
        and config.compatibility == "correct"
        and predicts_noise(config, facts)
        and config.loss.debiased_estimation_loss
    ):
        yield Said(
            "loss.debiased_estimation_loss",
            "loss.debiased_estimation_loss weights by 1/sqrt(SNR), which has no limit where zero terminal SNR ends: "
            "the last ten of 1000 timesteps outweigh all others together. Leave one of the two out.",
        )


def _zero_terminal_min_snr(config: Config, facts: Facts) -> Iterator[Said]:
    if ends_in_noise(config, facts) and predicts_noise(config, facts) is False and config.loss.min_snr_gamma:
        yield Said(
            "loss.min_snr_gamma",
            "loss.min_snr_gamma weights a v-prediction by min(SNR, gamma)/(SNR + 1), which is next to 0 at the "
            "noisiest timesteps, where zero terminal SNR teaches true blacks. Leave it out if the results do not get "
            "dark enough.",
        )


def _noise_offset_zero_terminal(config: Config, facts: Facts) -> Iterator[Said]:
    if not ends_in_noise(config, facts):
        return
    for key, what in (("noise_offset", "an offset"), ("multires_noise_iterations", "coarse noise")):
        if getattr(config.noise, key):
            yield Said(
                f"noise.{key}",
                f"noise.{key} adds {what} so that pictures get darker and brighter, which zero terminal SNR does by "
                "itself. Leave it out.",
            )


def _resolution_high(config: Config, facts: Facts) -> Iterator[Said]:
    native = facts.native_resolution_px
    if native is None:
        return
    side, most = _side_px(config), native * _ROOM_ABOVE_NATIVE if native < 768 else native
    if side > most:
        beyond = f" (many of its descendants manage {most:.0f})" if most > native else ""
        yield Said(
            "dataset.resolution",
            f"dataset.resolution has the area of {side:.0f}x{side:.0f} pixels, and the base model was made for "
            f"{native}x{native}{beyond}. Training beyond what it can draw makes results worse: use {most:.0f} or less.",
        )


def _resolution_low(config: Config, facts: Facts) -> Iterator[Said]:
    native = facts.native_resolution_px
    if native is not None and _side_px(config) < _SMALLEST_SHARE_OF_NATIVE * native:
        side = _side_px(config)
        yield Said(
            "dataset.resolution",
            f"dataset.resolution has the area of {side:.0f}x{side:.0f} pixels, far below the {native}x{native} that "
            "the base model was made for: it draws small pictures badly, and the adapter learns that. Use "
            f"{int(_SMALLEST_SHARE_OF_NATIVE * native)} or more.",
        )


def _full_precision_sdxl(config: Config, facts: Facts) -> Iterator[Said]:
    training = config.training
    small = training.fp8_base or training.fp8_base_unet or training.int8_base or training.blocks_to_swap
    if family_of(config, facts) == "sdxl" and training.mixed_precision == "no" and not small:
        yield Said(
            "training.mixed_precision",
            'training.mixed_precision = "no" keeps SDXL in 32-bit floats, more than 13 GB of weights. On a graphics '
            'card "bf16" and "fp16" take half of that and are faster.',
        )


def _idle_no_half_vae(config: Config, facts: Facts) -> Iterator[Said]:
    training = config.training
    if config.model.no_half_vae and training.mixed_precision == "no" and changed(config.model, "no_half_vae"):
        yield Said(
            "model.no_half_vae",
            'model.no_half_vae does nothing: training.mixed_precision = "no" computes everything in 32-bit floats.',
        )


def _side_px(config: Config) -> float:
    """The side of the square that has the resolution's area."""
    width, height = config.dataset.resolution_wh
    return (width * height) ** 0.5


MODEL_RULES = (
    Rule("clip-skip-sdxl", "warning", "clip skip does nothing with SDXL", _clip_skip_sdxl),
    Rule("clip-skip-sd2", "warning", "clip skip on Stable Diffusion 2 reads one layer too early", _clip_skip_sd2),
    Rule("prediction-type", "warning", "v_parameterization contradicts the model's own files", _prediction_type),
    Rule("idle-no-half-vae", "warning", "no_half_vae where nothing is halved", _idle_no_half_vae),
    Rule("resolution-high", "warning", "the resolution is above what the base model can draw", _resolution_high),
    Rule("resolution-low", "warning", "the resolution is far below what the base model was made for", _resolution_low),
    Rule("sdxl-32-bit", "note", "SDXL in 32-bit floats", _full_precision_sdxl),
    Rule("zero-terminal-noise", "warning", "zero terminal SNR on a model that predicts noise", _zero_terminal_noise),
    Rule("zero-terminal-debiased", "warning", "zero terminal SNR with debiased weights", _zero_terminal_weights),
    Rule("zero-terminal-min-snr", "note", "zero terminal SNR with min-SNR on v-prediction", _zero_terminal_min_snr),
    Rule("zero-terminal-offset", "note", "zero terminal SNR with offset noise", _noise_offset_zero_terminal),
    Rule("scale-v-pred", "warning", "a weight for v-prediction on a model that predicts noise", _scale_v_pred),
    Rule("v-pred-like", "warning", "a weight for noise prediction on a v-prediction model", _v_pred_like),
)
