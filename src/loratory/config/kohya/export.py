"""A configuration as the arguments of sd-scripts that train the same."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from loratory import __version__
from loratory.config.describe import show
from loratory.config.fields import FIELDS, TABLES
from loratory.config.kohya.export_network import network_arguments
from loratory.config.kohya.settings import SD_DEFAULTS, SETTING_OF, names
from loratory.config.schema import EMBEDDED_MODEL, Config, SubsetSettings, changed, parse_arguments

_HANDLED = frozenset(
    names(
        "model.family model.v_parameterization noise.zero_terminal_snr dataset.resolution dataset.subsets "
        "dataset.conditioning_data_dir optimizer.optimizer_type optimizer.optimizer_args optimizer.lr_scheduler "
        "optimizer.lr_scheduler_args optimizer.lr_warmup_steps training.cross_attention training.exposure "
        "output.save_model_as output.log_with output.logging_dir sample.prompts sample.width sample.height "
        "sample.steps sample.guidance_scale sample.seed sample.negative_prompt"
    )
)
_ABOUT_LORATORY = frozenset(
    names(
        "preset compatibility dataset.goal dataset.vocabulary dataset.asymmetric output.overwrite output.runs_dir "
        "output.state_every_n_steps output.state_keep lint.silence"
    )
)
_SAMPLE_FLAGS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance_scale",
}


class Model(NamedTuple):
    """What the base model is, as far as it is known."""

    family: str
    v_prediction: bool = False
    zero_terminal_snr: bool = False


class Folder(NamedTuple):
    """One folder of pictures as a scan of the dataset finds it."""

    path: Path
    repeats: int
    class_tokens: str
    is_reg: bool


class Exported(NamedTuple):
    """script: the program of sd-scripts, without ".py". config, dataset, prompts: contents of its files; the last two
    "" where it needs none. remarks: what it will do otherwise."""

    script: str
    config: str
    dataset: str
    prompts: str
    remarks: list[str]


_MASKS = (
    "conditioning_data_dir: sd-scripts takes mask pictures in datasets without class_tokens and is_reg alone; put the "
    "masks into the pictures' transparency and use alpha_mask, or write that dataset by hand."
)


def export(config: Config, model: Model, epochs: int | None, folders: Sequence[Folder] | None) -> Exported:
    """The files for sd-scripts, and a sentence for each setting that it has no equivalent for.

    epochs: those that come to `config.target_exposure`; None where they cannot be counted. folders: those of
    train_data_dir and reg_data_dir; None where they cannot be read.
    """
    remarks = list(_without_equivalent(config))
    if config.model.pretrained_model_name_or_path == EMBEDDED_MODEL:
        remarks.append("The embedded model is part of Loratory: sd-scripts needs a model file.")
    arguments = dict(_same(config, remarks))
    arguments |= dict(_of_model(config, model))
    arguments |= dict(_of_optimizer(config))
    if config.output.log_with != "none":  # it logs as soon as a folder is named, and only then
        arguments |= {"log_with": config.output.log_with, "logging_dir": str(config.output.logging_dir)}
    for name in ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"):
        if model.family != "sdxl" and arguments.pop(name, False):
            remarks.append(f"{name}: sd-scripts has it for SDXL alone; the captions are encoded at each step.")
    arguments |= dict(_length(config, epochs, remarks))
    arguments |= network_arguments(config, remarks)
    needs_dataset = bool(config.dataset.subsets)
    if config.dataset.conditioning_data_dir is not None and not needs_dataset:
        remarks.append(_MASKS)
    dataset = _dataset(config, folders, remarks) if needs_dataset else ""
    prompts = "".join(f"{_with_flags(prompt, config)}\n" for prompt in config.sample.prompts)
    header = f"# Written by Loratory {__version__} for sd-scripts.\n"
    return Exported(
        "sdxl_train_network" if model.family == "sdxl" else "train_network",
        header + tomli_w.dumps(dict(sorted(arguments.items()))),
        header + dataset if dataset else "",
        prompts,
        remarks,
    )


def _value(config: Config, setting: str) -> Any:
    table, _, key = setting.rpartition(".")
    return getattr(getattr(config, table), key)


def _without_equivalent(config: Config) -> Iterator[str]:
    known = frozenset(SETTING_OF.values()) | _HANDLED | _ABOUT_LORATORY
    for name in FIELDS:
        table, _, key = name.rpartition(".")
        if table not in TABLES or table == "network" or name in known:
            continue
        if changed(getattr(config, table), key):
            yield f"{name} = {show(_value(config, name))}: sd-scripts has no such setting; it trains without."


def _same(config: Config, remarks: list[str]) -> Iterator[tuple[str, object]]:
    """Arguments of the same name whose value is not what sd-scripts does by itself."""
    for name, setting in SETTING_OF.items():
        if setting.startswith("network.network_") or setting in _HANDLED or name.startswith("loraplus"):
            continue
        value = _value(config, setting)
        table, _, key = setting.rpartition(".")
        field_default = type(getattr(config, table)).model_fields[key].get_default()
        if name == "cache_latents" and value and (config.dataset.color_aug or config.dataset.random_crop):
            remarks.append("cache_latents: sd-scripts cannot cache with color_aug or random_crop; it does not.")
        elif value is None or (name == "cache_text_encoder_outputs" and not value):
            continue
        elif name == "seed" or value != SD_DEFAULTS.get(name, field_default):
            yield name, _plain(value)
    steps = config.dataset.bucket_reso_steps
    if config.dataset.enable_bucket and steps % 32:
        remarks.append(f"dataset.bucket_reso_steps = {steps}: sd-scripts wants a multiple of 64, for SDXL of 32.")


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def _of_model(config: Config, model: Model) -> Iterator[tuple[str, object]]:
    width, height = config.dataset.resolution_wh
    yield "resolution", f"{width},{height}"
    if model.family == "sd2":
        yield "v2", True
    if config.model.v_parameterization or (config.model.v_parameterization is None and model.v_prediction):
        yield "v_parameterization", True
    zero_snr = config.noise.zero_terminal_snr
    if zero_snr or (zero_snr is None and model.zero_terminal_snr):
        yield "zero_terminal_snr", True
    if config.training.cross_attention != "none":
        yield config.training.cross_attention, True


def _of_optimizer(config: Config) -> Iterator[tuple[str, object]]:
    optimizer = config.optimizer
    yield "optimizer_type", optimizer.optimizer_type
    if optimizer.lr_scheduler != SD_DEFAULTS["lr_scheduler"]:
        yield "lr_scheduler", optimizer.lr_scheduler
    for name in ("optimizer_args", "lr_scheduler_args"):
        keywords = parse_arguments(getattr(optimizer, name))
        if keywords:
            yield name, [f"{key}={_literal(value)}" for key, value in keywords.items()]
    warmup = optimizer.lr_warmup_steps
    if warmup not in (0, "0%"):
        # sd-scripts reads a percentage on its command line alone; in a file it has to be the share.
        yield "lr_warmup_steps", float(warmup.rstrip("%")) / 100 if isinstance(warmup, str) else warmup


def _literal(value: object) -> str:
    if isinstance(value, tuple) and value:
        return ",".join(repr(each) for each in value) if len(value) > 1 else repr(value).replace(" ", "")
    return repr(value).replace(" ", "") if not isinstance(value, str) else repr(value)


def _length(config: Config, epochs: int | None, remarks: list[str]) -> Iterator[tuple[str, object]]:
    exposure = config.target_exposure
    if exposure is None:
        return  # epochs or steps are arguments of the same name
    if epochs is None:
        remarks.append(
            f"An exposure of {exposure:g} cannot be made epochs, because the pictures cannot be read: sd-scripts "
            "trains 1600 steps unless max_train_epochs is added."
        )
    else:
        remarks.append(f"An exposure of {exposure:g} is {epochs} epochs with these folders.")
        yield "max_train_epochs", epochs


def _dataset(config: Config, folders: Sequence[Folder] | None, remarks: list[str]) -> str:
    """The dataset TOML: the folders of train_data_dir and reg_data_dir, which sd-scripts does not read beside it, and
    the subsets."""
    if folders is None:
        remarks.append("The folders of train_data_dir cannot be read: add them to the dataset TOML.")
    found = {folder.path: folder for folder in folders or ()}
    by_path = {subset.image_dir: subset for subset in config.dataset.subsets}
    masks = config.dataset.conditioning_data_dir
    masked = False
    tables: list[dict[str, Any]] = []
    for path in [*found, *(path for path in by_path if path not in found)]:
        table = _subset(by_path.get(path), found.get(path) or _by_name(path))
        if table.pop("conditioning_data_dir", None) is not None or (masks is not None and not table.get("is_reg")):
            masked = True
        tables.append(table)
    if masked:
        remarks.append(_MASKS)
    width, height = config.dataset.resolution_wh
    datasets = {"resolution": [width, height], "batch_size": config.training.train_batch_size, "subsets": tables}
    return tomli_w.dumps({"datasets": [datasets]})


def _by_name(path: Path) -> Folder:
    number, _, rest = path.name.partition("_")
    is_named = number.isdecimal() and int(number) > 0
    return Folder(path, int(number) if is_named else 1, rest if is_named else path.name, False)


def _subset(subset: SubsetSettings | None, folder: Folder) -> dict[str, Any]:
    own: Mapping[str, Any] = {} if subset is None else subset.model_dump(mode="json", exclude_none=True)
    table = {"image_dir": str(folder.path), "num_repeats": folder.repeats, "class_tokens": folder.class_tokens}
    return table | ({"is_reg": True} if folder.is_reg else {}) | dict(own)


def _with_flags(prompt: str, config: Config) -> str:
    """A prompt with the flags that make sd-scripts draw it as it is drawn here."""
    width, height = config.dataset.resolution_wh
    sizes = {"width": config.sample.width or width, "height": config.sample.height or height}
    for flag, key in _SAMPLE_FLAGS.items():
        value = str(sizes.get(key) or getattr(config.sample, key))
        if value and not re.search(rf"(^|\s)--{flag}\s", prompt):
            prompt += f" --{flag} {value}"
    return prompt.replace("\n", " ")
