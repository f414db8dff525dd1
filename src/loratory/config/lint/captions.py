"""Rules about captions: what is kept in front, what is left out, and what is never read."""

from collections.abc import Iterator

from loratory.config.lint.base import Facts, Rule, Said, folder_values, idle, joined, percent
from loratory.config.schema import Config

_MANY_KEPT = 4
_MOST_DROPOUT = 0.25


def _keep_tokens(config: Config, facts: Facts) -> Iterator[Said]:
    kept = config.caption.keep_tokens
    if kept >= _MANY_KEPT and kept in folder_values(config, "keep_tokens") and _tags_move(config):
        yield Said(
            "caption.keep_tokens",
            f"caption.keep_tokens = {kept} keeps the first {kept} tags in place: it counts tags, not the commas "
            "between them. To keep the instance and the class token set it to 2.",
        )


def _nothing_kept(config: Config, facts: Facts) -> Iterator[Said]:
    caption = config.caption
    if not _is_for_all(config) or caption.keep_tokens or caption.keep_tokens_separator:
        return
    if caption.shuffle_caption and not caption.caption_tag_dropout_rate and config.dataset.goal != "style":
        yield Said(
            "caption.keep_tokens",
            "caption.shuffle_caption moves the instance token with all other tags. caption.keep_tokens = 1, or 2 with "
            "the class token, keeps it in front, where you will prompt it.",
        )


def _token_dropped(config: Config, facts: Facts) -> Iterator[Said]:
    caption = config.caption
    rate = caption.caption_tag_dropout_rate
    if _is_for_all(config) and rate and not caption.keep_tokens and not caption.keep_tokens_separator:
        yield Said(
            "caption.keep_tokens",
            f"caption.caption_tag_dropout_rate = {rate:g} also leaves out the instance token on {percent(rate)} of the "
            "visits. caption.keep_tokens = 1, or 2 with the class token, keeps it.",
        )


def _shuffled_sentences(config: Config, facts: Facts) -> Iterator[Said]:
    if config.dataset.vocabulary == "natural" and True in folder_values(config, "shuffle_caption"):
        yield Said(
            "caption.shuffle_caption",
            'caption.shuffle_caption cuts captions at their commas and mixes the pieces, but dataset.vocabulary = "'
            'natural" says that they are sentences. Leave one of them out.',
        )


def _never_read(config: Config, facts: Facts) -> Iterator[Said]:
    caption = config.caption
    if not _is_for_all(config):
        return
    if caption.caption_dropout_every_n_epochs == 1:
        yield Said(
            "caption.caption_dropout_every_n_epochs",
            "caption.caption_dropout_every_n_epochs = 1 drops the captions in every epoch: nothing is learnt about "
            "words. Use 0 for never.",
        )
    elif caption.caption_dropout_rate == 1:
        yield Said(
            "caption.caption_dropout_rate",
            "caption.caption_dropout_rate = 1 drops the caption on every visit: nothing is learnt about words. Use "
            "0.05 to 0.1, or 0 for never.",
        )


def _dropout(config: Config, facts: Facts) -> Iterator[Said]:
    rate = config.caption.caption_dropout_rate
    if _MOST_DROPOUT < rate < 1 and _is_for_all(config):
        yield Said(
            "caption.caption_dropout_rate",
            f"caption.caption_dropout_rate = {rate:g} trains {percent(rate)} of the visits without a caption, where "
            "the instance token cannot be learnt. 0.05 to 0.1 is usual.",
        )


def _token_warmup(config: Config, facts: Facts) -> Iterator[Said]:
    warmup, total = config.caption.token_warmup_step, facts.total_steps
    if total is not None and warmup >= 1 and warmup >= total and _is_for_all(config):
        yield Said(
            "caption.token_warmup_step",
            f"caption.token_warmup_step = {warmup:g} is as long as the run of {total} steps: the last tags of long "
            "captions are never read. Lower it; below 1 it is a share of the run.",
        )


def _idle_captions(config: Config, facts: Facts) -> Iterator[Said]:
    if config.dataset.dataset_config is not None or _tags_move(config):
        return
    why = "tags are neither shuffled nor dropped"
    keys = ("keep_tokens", "keep_tokens_separator")
    yield from idle(config.caption, "caption", keys, why)
    for number, subset in enumerate(config.dataset.subsets, start=1):
        idle_here = [key for key in keys if getattr(subset, key)]
        if idle_here:
            yield Said(
                "dataset.subsets",
                f"{joined([f'dataset.subsets[{number}].{key}' for key in idle_here])} "
                f"{'do' if len(idle_here) > 1 else 'does'} nothing: {why}.",
            )


def _tags_move(config: Config) -> bool:
    """Whether tags of any folder are shuffled, dropped or held back, so that it matters which are kept."""
    keys = ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
    return any(value for key in keys for value in folder_values(config, key))


def _is_for_all(config: Config) -> bool:
    """Whether `[caption]` alone says how captions are read."""
    return config.dataset.dataset_config is None and not config.dataset.subsets


CAPTION_RULES = (
    Rule("keep-tokens", "note", "keep_tokens counts tags, not commas", _keep_tokens),
    Rule("keep-tokens-none", "note", "shuffling that moves the instance token", _nothing_kept),
    Rule("tag-dropout", "warning", "tag dropout that drops the instance token", _token_dropped),
    Rule("shuffled-sentences", "warning", "shuffling sentences", _shuffled_sentences),
    Rule("captions-never-read", "warning", "every caption is dropped", _never_read),
    Rule("caption-dropout-high", "note", "captions are dropped often", _dropout),
    Rule("token-warmup-long", "warning", "the token warm-up is as long as the run", _token_warmup),
    Rule("idle-captions", "warning", "caption settings that do nothing", _idle_captions),
)
