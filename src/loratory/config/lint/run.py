"""Rules about precision, length, what a run leaves behind, and the advice itself."""

from collections.abc import Iterator

from loratory.config.lint.base import Facts, Rule, Said, idle
from loratory.config.schema import Config

_SIGNIFICANT_BITS = {"full_fp16": 11, "full_bf16": 8}
_LONG_RUN = 500


def _full_precision(config: Config, facts: Facts) -> Iterator[Said]:
    for key, bits in _SIGNIFICANT_BITS.items():
        if getattr(config.training, key):
            yield Said(
                f"training.{key}",
                f"training.{key} holds the adapter with {bits} significant bits instead of 24, so the small updates of "
                "a late step can be rounded away. Use it only where memory or speed demand it.",
            )


def _save_precision(config: Config, facts: Facts) -> Iterator[Said]:
    if config.output.save_precision == "bf16" and config.training.mixed_precision != "bf16":
        yield Said(
            "output.save_precision",
            'output.save_precision = "bf16" keeps 8 significant bits of what is trained with more. "fp16" keeps 11 in '
            "a file of the same size.",
        )


def _seed(config: Config, facts: Facts) -> Iterator[Said]:
    if config.training.seed == 0:
        yield Said(
            "training.seed",
            "training.seed = 0 is a seed like any other here: each run gives the same adapter. In the kohya GUI 0 "
            "means a random one; for another run set another number.",
        )


def _ema(config: Config, facts: Facts) -> Iterator[Said]:
    decay, total = config.training.ema_decay, facts.total_steps
    # The decay in use after n updates is (1 + n) / (10 + n), until that reaches the setting.
    if decay and total is not None and (at_end := total / (total + 9)) < decay:
        yield Said(
            "training.ema_decay",
            f"training.ema_decay = {decay:g} is never reached: the running mean starts short, and after {total} steps "
            f"its decay is {at_end:.4g}. A larger value changes nothing; a smaller one averages over fewer steps.",
        )


def _one_save(config: Config, facts: Facts) -> Iterator[Said]:
    output, total = config.output, facts.total_steps
    if total is not None and total >= _LONG_RUN and not output.save_every_n_epochs and not output.save_every_n_steps:
        yield Said(
            "output.save_every_n_epochs",
            f"The run of {total} steps leaves its last adapter only, and the best one is often earlier. "
            "output.save_every_n_epochs keeps some to compare.",
        )


def _late_intervals(config: Config, facts: Facts) -> Iterator[Said]:
    total, epoch = facts.total_steps, facts.steps_per_epoch
    for table, key, what in (("output", "save", "saved"), ("sample", "sample", "drawn")):
        for unit, unit_steps in (("epochs", epoch), ("steps", 1)):
            count = getattr(getattr(config, table), f"{key}_every_n_{unit}")
            if count and unit_steps and total is not None and count * unit_steps >= total:
                setting = f"{table}.{key}_every_n_{unit}"
                yield Said(
                    setting,
                    f"{setting} = {count} is as long as the run or longer ({total / unit_steps:.4g} {unit}), so "
                    f"nothing is {what} on the way. Lower it.",
                )


def _idle_prompts(config: Config, facts: Facts) -> Iterator[Said]:
    sample = config.sample
    drawn = (sample.sample_every_n_epochs, sample.sample_every_n_steps, sample.sample_at_first, sample.sample_at_end)
    if (sample.prompts or sample.sample_prompts is not None) and not any(drawn):
        key = "prompts" if sample.prompts else "sample_prompts"
        yield Said(
            f"sample.{key}",
            f"sample.{key} does nothing: no sample_every_n_epochs or sample_every_n_steps is set, and sample_at_first "
            "and sample_at_end are off.",
        )


def _idle_metadata(config: Config, facts: Facts) -> Iterator[Said]:
    output = config.output
    if output.no_metadata:
        keys = tuple(key for key in type(output).model_fields if key.startswith("metadata_"))
        yield from idle(output, "output", (*keys, "training_comment"), "output.no_metadata is true")


RUN_RULES = (
    Rule("full-precision", "note", "an adapter trained in half precision", _full_precision),
    Rule("save-precision", "note", "saved in bf16 though trained more exactly", _save_precision),
    Rule("ema-long", "note", "a running mean over more steps than the run has", _ema),
    Rule("one-save", "note", "a long run that saves at its end only", _one_save),
    Rule("late-interval", "warning", "saves or samples that come after the end", _late_intervals),
    Rule("seed-zero", "note", "the seed 0, which is no random one", _seed),
    Rule("idle-prompts", "warning", "prompts that are never drawn", _idle_prompts),
    Rule("idle-metadata", "warning", "metadata that are not written", _idle_metadata),
)
