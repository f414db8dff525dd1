"""What a rule about settings is, what it may know beside them, and how it says what it found."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from loratory.config.schema import Config, SettingsTable, changed

AdviceSeverity = Literal["warning", "note"]
Family = Literal["sd1", "sd2", "sdxl"]
Component = Literal["unet", "te1", "te2"]


@dataclass(frozen=True)
class Advice:
    """What a rule says about a configuration.

    rule: the stable id, as in `lint.silence`. severity: "warning" changes what is trained in a way few people mean,
    "note" is worth knowing. key: the setting it is about, as `table.key`. message: what, why and what to do, in one or
    two sentences that stand alone.
    """

    rule: str
    severity: AdviceSeverity
    key: str
    message: str


@dataclass(frozen=True)
class FolderFacts:
    """One concept folder, regularization left out.

    name: printable, as are the tags. repeats: visits of each picture in an epoch. exposure: visits of each picture in
    the whole run. tags: how many of its captions hold each tag; empty when unknown.
    """

    name: str
    images: int
    repeats: int
    exposure: float
    tags: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Facts:
    """What is known beside the configuration; None is unknown, and rules that need it stay silent.

    family, prediction_type, zero_terminal_snr: of the base model as it will be trained, settings included.
    declared_prediction_type: what the model's own files say. native_resolution_px: the side of the square that the base
    model was made for (512 for Stable Diffusion 1.x and 2 base, 768 for 2-v, 1024 for SDXL; None for the embedded
    model). trained: the parts that get an adapter. concepts: different concepts among the folders. folders: concept
    folders. mirrored_folders: names of those that `flip_aug` mirrors. buckets: visits of each bucket (width, height) in
    an epoch. train_images, reg_images: numbers of pictures. validation_images: pictures held back. steps_per_epoch,
    total_steps: optimizer steps.
    """

    family: Family | None = None
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    declared_prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None
    native_resolution_px: int | None = None
    trained: frozenset[Component] | None = None
    concepts: int | None = None
    folders: tuple[FolderFacts, ...] | None = None
    mirrored_folders: tuple[str, ...] | None = None
    buckets: Mapping[tuple[int, int], int] | None = None
    train_images: int | None = None
    reg_images: int | None = None
    validation_images: int | None = None
    steps_per_epoch: int | None = None
    total_steps: int | None = None


class Said(NamedTuple):
    """What a check found: the setting it is about, and the message."""

    key: str
    message: str


Check = Callable[[Config, Facts], Iterator[Said]]


@dataclass(frozen=True)
class Rule:
    """One thing that is checked. rule: the stable id. title: one line for the list of rules."""

    rule: str
    severity: AdviceSeverity
    title: str
    check: Check


def family_of(config: Config, facts: Facts) -> Family | None:
    """The base model's family, as detected or as set."""
    if facts.family is not None:
        return facts.family
    return None if config.model.family == "auto" else config.model.family


def predicts_noise(config: Config, facts: Facts) -> bool | None:
    """Whether the base model predicts noise (True) or velocity (False); None when unknown."""
    if facts.prediction_type is not None:
        return facts.prediction_type == "epsilon"
    setting = config.model.v_parameterization
    return None if setting is None else not setting


def ends_in_noise(config: Config, facts: Facts) -> bool | None:
    """Whether the schedule has zero terminal SNR; None when unknown."""
    return config.noise.zero_terminal_snr if facts.zero_terminal_snr is None else facts.zero_terminal_snr


def trains_text_encoder(config: Config, facts: Facts) -> bool:
    """Whether a text encoder gets an adapter."""
    return config.trains_text_encoder if facts.trained is None else bool(facts.trained - {"unet"})


def trains_unet(config: Config, facts: Facts) -> bool:
    """Whether the UNet gets an adapter."""
    return config.trains_unet if facts.trained is None else "unet" in facts.trained


def trained_rates(config: Config, facts: Facts) -> list[tuple[str, float]]:
    """(setting, learning rate) of each part that is trained; the settings are those the rates come from."""
    optimizer = config.optimizer
    rates: list[tuple[str, float]] = []
    if trains_unet(config, facts):
        own = "learning_rate" if optimizer.unet_lr is None else "unet_lr"
        rates.append((f"optimizer.{own}", optimizer.effective_unet_lr))
    if trains_text_encoder(config, facts):
        own = "learning_rate" if optimizer.text_encoder_lr is None else "text_encoder_lr"
        rates.append((f"optimizer.{own}", optimizer.effective_text_encoder_lr))
    return list(dict.fromkeys(rates))


def folder_values(config: Config, key: str) -> set[object]:
    """The values that a setting of `[caption]` or `[dataset]` may have for a folder, settings of subsets included."""
    table: SettingsTable = config.caption if key in type(config.caption).model_fields else config.dataset
    own = {getattr(subset, key) for subset in config.dataset.subsets}
    others = config.dataset.train_data_dir is not None or config.dataset.reg_data_dir is not None or not own
    return own - {None} | ({getattr(table, key)} if others or None in own else set())


def idle(settings: SettingsTable, table: str, keys: tuple[str, ...], why: str) -> Iterator[Said]:
    """Says of each of `keys` that is changed from its default that it does nothing."""
    for key in keys:
        if changed(settings, key):
            yield Said(f"{table}.{key}", f"{table}.{key} does nothing: {why}.")


def joined(names: list[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"; of more than four the rest is counted."""
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def percent(share: float) -> str:
    """A share of 0 to 1 as a percentage."""
    return f"{100 * share:.3g} %"
