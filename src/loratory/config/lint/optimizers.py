"""Rules about the optimizer, its rates, and their course over the run."""

from collections.abc import Iterator

from loratory.config.lint.base import Facts, Rule, Said, trained_rates, trains_text_encoder, trains_unet
from loratory.config.schema import Config, changed

_ADAM_FAMILY = frozenset(
    {
        "adamw",
        "adamw8bit",
        "pagedadamw",
        "pagedadamw8bit",
        "pagedadamw32bit",
        "lion",
        "lion8bit",
        "pagedlion8bit",
        "radamschedulefree",
        "adamwschedulefree",
    }
)
_ADAPTIVE_RATES = (0.1, 2.0)
_HIGHEST_RATE = 0.1
_HIGHEST_LION_RATE = 1e-4
_SHORTEST_CYCLE = 20


def is_adaptive(optimizer_type: str) -> bool:
    """Whether an optimizer finds the size of its steps by itself: Prodigy, DAdaptation, and classes named so."""
    name = _class_of(optimizer_type)
    return name.startswith(("dadapt", "prodigy"))


def is_plain(optimizer_type: str) -> bool:
    """Whether an optimizer is AdamW or Lion, in one of their forms: each step moves a weight by about the rate."""
    return _class_of(optimizer_type) in _ADAM_FAMILY


def _class_of(optimizer_type: str) -> str:
    return optimizer_type.rpartition(".")[2].lower()


def _rate_adaptive(config: Config, facts: Facts) -> Iterator[Said]:
    name = config.optimizer.optimizer_type
    low, high = _ADAPTIVE_RATES
    if not is_adaptive(name):
        return
    for key, rate in trained_rates(config, facts):
        if rate <= low or rate > high:
            effect = "hardly learn" if rate <= low else "overshoot"
            yield Said(
                key,
                f"{key} = {rate:g}: {name} finds its own rate, and this is only a factor on it, so it will {effect}. "
                "Set it to 1.",
            )


def _rate_high(config: Config, facts: Facts) -> Iterator[Said]:
    name = config.optimizer.optimizer_type
    if not is_plain(name):
        return
    for key, rate in trained_rates(config, facts):
        if rate >= _HIGHEST_RATE:
            yield Said(
                key,
                f"{key} = {rate:g}: with {name} each step moves every weight by about that much, which destroys the "
                "adapter. A rate of 1 is for Prodigy and DAdaptation; start from 1e-4.",
            )


def _rate_lion(config: Config, facts: Facts) -> Iterator[Said]:
    name = config.optimizer.optimizer_type
    if "lion" not in _class_of(name) or not is_plain(name) or config.network.network_type == "ia3":
        return
    for key, rate in trained_rates(config, facts):
        if _HIGHEST_LION_RATE <= rate < _HIGHEST_RATE:
            yield Said(
                key,
                f"{key} = {rate:g}: every step of Lion has full size, and its authors use rates 3 to 10 times below "
                "those of AdamW. Start from 3e-5.",
            )


def _text_encoder_rate(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    unet, text = optimizer.effective_unet_lr, optimizer.effective_text_encoder_lr
    if trains_unet(config, facts) and trains_text_encoder(config, facts) and text > unet:
        key = "optimizer.learning_rate" if optimizer.text_encoder_lr is None else "optimizer.text_encoder_lr"
        yield Said(
            key,
            f"The text encoder learns at {text:g}, faster than the UNet at {unet:g}, although it overfits first. Set "
            "optimizer.text_encoder_lr to half of the UNet's rate.",
        )


def _idle_part_rate(config: Config, facts: Facts) -> Iterator[Said]:
    parts = (
        ("text_encoder_lr", "network_train_unet_only", "the text encoder"),
        ("unet_lr", "network_train_text_encoder_only", "the UNet"),
    )
    for key, only, part in parts:
        if getattr(config.network, only) and getattr(config.optimizer, key):
            yield Said(
                f"optimizer.{key}",
                f"optimizer.{key} does nothing: network.{only} leaves {part} alone. Remove one of the two.",
            )


def _idle_rate(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    excluded = (config.network.network_train_text_encoder_only, config.network.network_train_unet_only)
    if optimizer.lr_scheduler == "polynomial" or _is_custom(config):
        return  # these measure their course by learning_rate
    own = [key for key, out in zip(("unet_lr", "text_encoder_lr"), excluded, strict=True) if not out]
    if changed(optimizer, "learning_rate") and all(getattr(optimizer, key) is not None for key in own):
        yield Said(
            "optimizer.learning_rate",
            f"optimizer.learning_rate = {optimizer.learning_rate:g} does nothing: "
            f"{' and '.join(own)} overrule{'s' if len(own) == 1 else ''} it.",
        )


def _scheduler_adaptive(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    restarts = optimizer.lr_scheduler == "cosine_with_restarts" and optimizer.lr_scheduler_num_cycles > 1
    if restarts and is_adaptive(optimizer.optimizer_type) and not _is_custom(config):
        yield Said(
            "optimizer.lr_scheduler",
            f'optimizer.lr_scheduler = "cosine_with_restarts": {optimizer.optimizer_type} measures how far it has '
            'come to find its rate, and a restart throws it back to full size late in the run. Use "cosine".',
        )


def _one_cycle(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    one = optimizer.lr_scheduler == "cosine_with_restarts" and optimizer.lr_scheduler_num_cycles == 1
    if one and not _is_custom(config):
        yield Said(
            "optimizer.lr_scheduler_num_cycles",
            'optimizer.lr_scheduler = "cosine_with_restarts" has one cycle, so it never restarts and is "cosine". Set '
            "lr_scheduler_num_cycles to 3.",
        )


def _short_cycles(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer, total = config.optimizer, facts.total_steps
    if total is None or optimizer.lr_scheduler != "cosine_with_restarts" or _is_custom(config):
        return
    cycles = optimizer.lr_scheduler_num_cycles
    length = (total - optimizer.warmup_steps(total)) / cycles
    if cycles > 1 and 0 < length < _SHORTEST_CYCLE:
        yield Said(
            "optimizer.lr_scheduler_num_cycles",
            f"optimizer.lr_scheduler_num_cycles = {cycles} in a run of {total} steps: a cycle of {length:.3g} steps "
            "starts again before it has learnt anything. Use fewer cycles, or train longer.",
        )


def _warmup(config: Config, facts: Facts) -> Iterator[Said]:
    total = facts.total_steps
    if total is None or total == 1 or _is_custom(config):
        return
    warmup = config.optimizer.warmup_steps(total)
    if warmup >= total:
        yield Said(
            "optimizer.lr_warmup_steps",
            f"The warm-up of {warmup} steps is as long as the run of {total}: the learning rate never reaches its "
            "value. Lower optimizer.lr_warmup_steps to a tenth of the run.",
        )


def _only_step(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    starts_above_0 = optimizer.lr_scheduler == "warmup_stable_decay" and optimizer.lr_scheduler_min_lr_ratio
    if facts.total_steps == 1 and optimizer.warmup_steps(1) > 0 and not starts_above_0 and not _is_custom(config):
        yield Said(
            "optimizer.lr_warmup_steps",
            "The only step of this run is one of the warm-up and has a learning rate of 0: nothing will be learned. "
            "Set optimizer.lr_warmup_steps = 0.",
        )


def _prodigy_warmup(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    is_warmed = optimizer.lr_scheduler != "constant" and optimizer.lr_warmup_steps not in (0, 0.0, "0%")
    guarded = optimizer.parsed_optimizer_args.get("safeguard_warmup")
    if _class_of(optimizer.optimizer_type) == "prodigy" and is_warmed and not guarded:
        yield Said(
            "optimizer.optimizer_args",
            "Prodigy's estimate of its rate suffers from a warm-up unless it knows of it: set "
            "optimizer.lr_warmup_steps = 0, or add safeguard_warmup=True to optimizer.optimizer_args.",
        )


def _dadapt_decouple(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    arguments = optimizer.parsed_optimizer_args
    named = _class_of(optimizer.optimizer_type) == "dadaptadam"
    if named and arguments.get("weight_decay") and not arguments.get("decouple"):
        yield Said(
            "optimizer.optimizer_args",
            "DAdaptAdam mixes weight_decay into the gradient unless it is told otherwise, which distorts the rate it "
            "finds. Add decouple=True to optimizer.optimizer_args.",
        )


def _decay_missing(config: Config, facts: Facts) -> Iterator[Said]:
    optimizer = config.optimizer
    if optimizer.lr_scheduler == "warmup_stable_decay" and not optimizer.lr_decay_steps and not _is_custom(config):
        yield Said(
            "optimizer.lr_decay_steps",
            'optimizer.lr_scheduler = "warmup_stable_decay" has no decay: lr_decay_steps is 0. Set it to a share of '
            "the run, such as 0.2.",
        )


def _is_custom(config: Config) -> bool:
    return bool(config.optimizer.lr_scheduler_type)


OPTIMIZER_RULES = (
    Rule("rate-adaptive", "warning", "a learning rate far from 1 under Prodigy or DAdaptation", _rate_adaptive),
    Rule("rate-high", "warning", "a learning rate for Prodigy under AdamW or Lion", _rate_high),
    Rule("rate-lion", "note", "a learning rate for AdamW under Lion", _rate_lion),
    Rule("rate-text-encoder", "warning", "the text encoder learns faster than the UNet", _text_encoder_rate),
    Rule("idle-part-rate", "warning", "a learning rate of a part that is not trained", _idle_part_rate),
    Rule("idle-learning-rate", "note", "learning_rate that other rates overrule", _idle_rate),
    Rule("scheduler-adaptive", "warning", "restarts under Prodigy or DAdaptation", _scheduler_adaptive),
    Rule("one-cycle", "note", "restarts without a restart", _one_cycle),
    Rule("short-cycles", "warning", "cycles of a few steps", _short_cycles),
    Rule("decay-missing", "warning", "a schedule with a final decay of no steps", _decay_missing),
    Rule("warmup-whole-run", "warning", "the warm-up is as long as the run", _warmup),
    Rule("only-step-zero", "warning", "the only step has a learning rate of 0", _only_step),
    Rule("prodigy-warmup", "note", "Prodigy with a warm-up it does not know of", _prodigy_warmup),
    Rule("dadapt-decouple", "note", "DAdaptAdam with coupled weight decay", _dadapt_decouple),
)
