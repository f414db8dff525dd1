"""Rules about what the loss counts, and about noise and timesteps."""

from collections.abc import Iterator

from loratory.config.lint.base import Facts, Rule, Said, percent
from loratory.config.schema import Config, changed

_MOST_NOISE_OFFSET = 0.15
_MOST_INPUT_PERTURBATION = 0.3
_MIN_SNR_RANGE = (1.0, 20.0)
_ALL_TIMESTEPS = 1000


def _min_snr_and_debiased(config: Config, facts: Facts) -> Iterator[Said]:
    if config.loss.min_snr_gamma and config.loss.debiased_estimation_loss:
        yield Said(
            "loss.debiased_estimation_loss",
            "loss.min_snr_gamma and loss.debiased_estimation_loss multiply, and both turn down the timesteps with "
            "little noise: fine detail counts least. Look at the combined curve in the plan, and leave one out if the "
            "results lack detail.",
        )


def _min_snr_range(config: Config, facts: Facts) -> Iterator[Said]:
    gamma = config.loss.min_snr_gamma
    low, high = _MIN_SNR_RANGE
    if gamma is not None and not low <= gamma <= high:
        effect = (
            "limits hardly any timestep" if gamma > high else "turns down far more than the timesteps with little noise"
        )
        yield Said(
            "loss.min_snr_gamma", f"loss.min_snr_gamma = {gamma:g} {effect}. 5 is the value known to work; 0 is off."
        )


def _prior_weight(config: Config, facts: Facts) -> Iterator[Said]:
    weight = config.loss.prior_loss_weight
    has_prior = config.has_reg or config.loss.diff_output_preservation
    if has_prior and weight not in (0, 1):
        effect = "weaker" if weight < 1 else "stronger"
        yield Said(
            "loss.prior_loss_weight",
            f"loss.prior_loss_weight = {weight:g} makes regularization {effect} than the usual 1, because the loss of "
            "its pictures is multiplied with it. Nearer 0 is weaker, whatever guides say.",
        )


def _prior_weight_zero(config: Config, facts: Facts) -> Iterator[Said]:
    has_prior = config.has_reg or config.loss.diff_output_preservation
    if has_prior and config.loss.prior_loss_weight == 0:
        yield Said(
            "loss.prior_loss_weight",
            "loss.prior_loss_weight = 0 switches regularization off, and its pictures still take their share of the "
            "steps. Nearer 0 is weaker, whatever guides say: set it to 1.",
        )


def _huber_scale(config: Config, facts: Facts) -> Iterator[Said]:
    loss = config.loss
    if loss.loss_type in ("huber", "smooth_l1") and loss.huber_schedule == "snr" and changed(loss, "huber_scale"):
        yield Said("loss.huber_scale", 'loss.huber_scale does nothing: loss.huber_schedule = "snr" does not read it.')


def _huber_high(config: Config, facts: Facts) -> Iterator[Said]:
    loss = config.loss
    lowest = {
        "constant": loss.huber_c * loss.huber_scale,
        "exponential": min(1.0, loss.huber_c) * loss.huber_scale,
        "snr": min(1.0, loss.huber_c),
    }[loss.huber_schedule]
    if loss.loss_type in ("huber", "smooth_l1") and lowest >= 1:
        yield Said(
            "loss.huber_c",
            f"loss.huber_c = {loss.huber_c:g} keeps the turning point of the loss at 1 or above, which few errors "
            f'reach: loss.loss_type = "{loss.loss_type}" then works like "l2". Start from 0.1.',
        )


def _noise_offset(config: Config, facts: Facts) -> Iterator[Said]:
    offset = config.noise.noise_offset
    if offset is not None and offset > _MOST_NOISE_OFFSET:
        yield Said(
            "noise.noise_offset",
            f"noise.noise_offset = {offset:g} is so strong that pictures can drift to all dark or all bright. 0.05 to "
            "0.1 is usual, and 0 gives the best results in the guide's experience.",
        )


def _two_noises(config: Config, facts: Facts) -> Iterator[Said]:
    if config.noise.noise_offset and config.noise.multires_noise_iterations:
        yield Said(
            "noise.multires_noise_iterations",
            "noise.noise_offset and noise.multires_noise_iterations both make pictures darker and brighter, and here "
            "their effects add up. Leave one of them out.",
        )


def _input_perturbation(config: Config, facts: Facts) -> Iterator[Said]:
    gamma = config.noise.ip_noise_gamma
    if gamma is not None and gamma > _MOST_INPUT_PERTURBATION:
        yield Said(
            "noise.ip_noise_gamma",
            f"noise.ip_noise_gamma = {gamma:g} disturbs the input far more than the target admits, which blurs what is "
            "learnt. Around 0.1 is usual.",
        )


def _timesteps(config: Config, facts: Facts) -> Iterator[Said]:
    low, high = config.noise.min_timestep, config.noise.max_timestep
    if low == 0 and high == _ALL_TIMESTEPS:
        return
    places = (("fine detail is decided below", low > 0), ("composition is decided above", high < _ALL_TIMESTEPS))
    lost = " and ".join(text for text, is_cut in places if is_cut)
    yield Said(
        "noise.min_timestep" if low else "noise.max_timestep",
        f"Only timesteps {low} to {high - 1} are trained, {percent((high - low) / _ALL_TIMESTEPS)} of them: {lost}, "
        "and stays as in the base model.",
    )


LOSS_RULES = (
    Rule("prior-weight", "note", "the direction of prior_loss_weight: nearer 0 is weaker", _prior_weight),
    Rule("prior-weight-zero", "warning", "regularization that counts for nothing", _prior_weight_zero),
    Rule("min-snr-debiased", "note", "min-SNR and debiased weights together", _min_snr_and_debiased),
    Rule("min-snr-range", "note", "min_snr_gamma so high or low that it is another thing", _min_snr_range),
    Rule("idle-huber-scale", "warning", "huber_scale where it does nothing", _huber_scale),
    Rule("huber-high", "note", "a Huber loss that works like the plain one", _huber_high),
    Rule("noise-offset-high", "warning", "a strong noise offset", _noise_offset),
    Rule("two-noises", "warning", "offset noise and multi-resolution noise together", _two_noises),
    Rule("input-perturbation-high", "warning", "a strong input perturbation", _input_perturbation),
    Rule("timesteps-cut", "note", "timesteps that are not trained", _timesteps),
)
