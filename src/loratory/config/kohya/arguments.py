"""Arguments of sd-scripts as settings. The semantics are those of its train_network.py and sdxl_train_network.py."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from loratory.config.kohya.dataset_toml import read_dataset_config
from loratory.config.kohya.networks import translate_network
from loratory.config.kohya.rates import translate_rates
from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import IGNORED, REFUSED, SD_DEFAULTS, SETTING_OF
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import is_empty, is_off, whole, writable
from loratory.config.schema import Scheduler, parse_arguments
from loratory.config.toml_files import expanded
from loratory.errors import LoratoryError

_OPTIONAL_RATIOS = frozenset(name for name in SETTING_OF if name.startswith("loraplus"))
_FLAGS = frozenset({"sdpa", "xformers", "mem_eff_attn", "use_8bit_adam", "use_lion_optimizer"})
_ATTENTION = {
    "xformers": "sdpa, PyTorch's own, computes the same as fast and needs no package",
    "mem_eff_attn": "sdpa saves as much memory and is faster",
}


def translate(
    given: Mapping[str, Given], network: Mapping[str, Given], to: Translation, *, with_defaults: bool = True
) -> None:
    """Turns arguments and the items of `--network_args` into settings, and reports each.

    Beside sd-scripts' own arguments: "sdxl" (the SDXL script) and "prompts" (a list of them).
    with_defaults: a missing argument means sd-scripts' default; else it is not known, and ours holds.
    """
    arguments = _without_empty(given, to)
    if with_defaults:
        _fill_in(arguments)
    is_sdxl = _translate_model(arguments, to)
    _translate_dataset(arguments, to)
    _translate_length(arguments, to)
    _translate_optimizer(arguments, to)
    translate_rates(arguments, to)
    translate_network(arguments, network, to)
    _translate_samples(arguments, to, with_defaults=with_defaults)
    _translate_logs(arguments, to)
    _translate_others(arguments, to, is_sdxl=is_sdxl)
    if "seed" not in given and "training.seed" not in to.settings:
        to.hints.append("No seed is named, which means a random one; here the seed is 42 unless training.seed is set.")


def _without_empty(given: Mapping[str, Given], to: Translation) -> dict[str, Given]:
    arguments: dict[str, Given] = {}
    for name, each in given.items():
        if is_empty(each.value) and name != "xformers":
            to.drop(each, "empty")
        elif not writable(each.value):
            to.refuse(each, "is not valid text")
        else:
            arguments[name] = each
    return arguments


def _fill_in(arguments: dict[str, Given]) -> None:
    for name, default in SD_DEFAULTS.items():
        arguments.setdefault(name, Given("", default))


def _translate_model(arguments: dict[str, Given], to: Translation) -> bool:
    """Family and prediction type; returns whether it is an SDXL model."""
    is_sdxl = False
    for name, family in (("sdxl", "sdxl"), ("v2", "sd2")):
        each = arguments.pop(name, None)
        if each is None:
            continue
        if not to.is_on(each):
            to.drop(each, "the family is read from the model")
        elif is_sdxl:
            to.drop(each, "the model is an SDXL one")
        else:
            to.put(each, "model.family", family)
            is_sdxl = is_sdxl or family == "sdxl"
    for name, setting in (
        ("v_parameterization", "model.v_parameterization"),
        ("zero_terminal_snr", "noise.zero_terminal_snr"),
    ):
        each = arguments.pop(name, None)
        if each is not None and to.is_on(each):
            to.put(each, setting, True)
        elif each is not None:
            to.drop(each, f"it is read from the model; {setting} = false forces it off")
    return is_sdxl


def _translate_dataset(arguments: dict[str, Given], to: Translation) -> None:
    config = arguments.pop("dataset_config", None)
    if config is not None:
        _expand_dataset_config(config, arguments, to)
    resolution = arguments.pop("resolution", None)
    if resolution is not None:
        try:
            to.put(resolution, "dataset.resolution", _resolution(resolution.value))
        except ValueError:
            to.refuse(resolution, 'must be a size in pixels such as "768" or "768,512"')
    to_disk = arguments.get("cache_latents_to_disk")
    if to_disk is not None and to.is_on(to_disk) and not to.is_on(arguments.get("cache_latents")):
        kept = arguments.pop("cache_latents", Given("", False))
        to.put(Given(kept.key, True, "cache_latents_to_disk implies it", kept.value), "dataset.cache_latents")


def _expand_dataset_config(config: Given, arguments: dict[str, Given], to: Translation) -> None:
    path = to.folder / expanded(str(config.value))
    try:
        read = read_dataset_config(path)
    except LoratoryError as error:
        to.refuse(config, error.message)
        return
    to.settings |= read.settings
    to.settings["dataset.subsets"] = read.subsets
    to.note(config, "changed", "dataset.subsets", f"{len(read.subsets)} folders", "its contents are taken over")
    named = set(read.settings)
    for name in list(arguments):
        is_named = SETTING_OF.get(name, f"dataset.{name}") in named
        if is_named or name in ("train_data_dir", "reg_data_dir"):
            to.drop(arguments.pop(name), "dataset_config decides")


def _resolution(value: object) -> object:
    """One number, or [width, height], from "768", "768,512", 768 or a list. Raises ValueError."""
    if isinstance(value, str):
        parts: list[object] = [part for part in re.split(r"[\s,x×()\[\]]+", value) if part]
    elif isinstance(value, list | tuple):
        parts = list(cast("list[object]", value))
    else:
        parts = [value]
    sides = [whole(part) for part in parts]
    if len(sides) not in (1, 2):
        raise ValueError
    return sides[0] if len(set(sides)) == 1 else sides


def _translate_length(arguments: dict[str, Given], to: Translation) -> None:
    chosen = False
    for name in ("max_train_epochs", "max_train_steps"):
        each = arguments.pop(name, None)
        if each is None:
            continue
        try:
            count = whole(each.value)
        except ValueError as problem:
            to.refuse(each, str(problem), setting=f"training.{name}")
            continue
        if chosen:
            to.drop(each, "max_train_epochs decides")
        elif count < 1:
            to.drop(each, "not set")
        else:
            to.put(each, f"training.{name}", count)
            chosen = True
    if not chosen:
        to.hints.append("The length of the run is not named: each picture is trained about 100 times.")


def _translate_optimizer(arguments: dict[str, Given], to: Translation) -> None:
    named = arguments.pop("optimizer_type", None)
    if named is not None:
        to.put(named, "optimizer.optimizer_type")
    for name, optimizer in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        each = arguments.pop(name, None)
        if each is not None and to.is_on(each) and named is None:
            to.put(each, "optimizer.optimizer_type", optimizer)
        elif each is not None:
            to.drop(each, "optimizer_type decides" if named else "off")
    for name in ("optimizer_args", "lr_scheduler_args"):
        each = arguments.pop(name, None)
        if each is not None:
            _translate_keywords(each, f"optimizer.{name}", to)
    scheduler = arguments.pop("lr_scheduler", None)
    if scheduler is None:
        return
    name, _, rest = str(scheduler.value).strip().lower().partition(":")
    if name not in get_args(Scheduler):
        to.refuse(scheduler, f"no such schedule here; the schedules are {', '.join(get_args(Scheduler))}")
    else:
        to.put(scheduler, "optimizer.lr_scheduler", name, "the rate is learning_rate" if rest else "")


def _translate_keywords(each: Given, setting: str, to: Translation) -> None:
    """`name=value` pairs, as a list or in one text."""
    value = each.value
    items = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    text = " ".join(str(item).replace('"', "").strip() for item in items)
    try:
        parse_arguments(text)
    except (ValueError, RecursionError) as problem:
        to.refuse(each, str(problem), setting=setting)
        return
    to.settings[setting] = text
    to.note(each, "changed" if each.reason else "mapped", setting, text, each.reason)


def _translate_samples(arguments: dict[str, Given], to: Translation, *, with_defaults: bool) -> None:
    lines, file = arguments.pop("prompts", None), arguments.pop("sample_prompts", None)
    if lines is not None and not _are_lines(lines.value):
        to.refuse(lines, "not known here", important=False)
    elif lines is not None:
        to.settings["sample.prompts"] = lines.value
        to.note(lines, "changed", "sample.prompts", lines.value, "one item for each line")
    elif file is not None and Path(str(file.value)).suffix.lower() in (".toml", ".json"):
        to.refuse(file, "prompts are read from text files; write one prompt a line", important=False)
    elif file is not None:
        to.put(file, "sample.sample_prompts")
    draws = "sample.prompts" in to.settings or "sample.sample_prompts" in to.settings
    for name in [name for name in arguments if name.startswith("sample_") and name in SETTING_OF]:
        if not draws:
            to.drop(arguments.pop(name), "there are no prompts to draw")
    if draws and with_defaults:
        to.settings |= {"sample.width": 512, "sample.height": 512}


def _translate_logs(arguments: dict[str, Given], to: Translation) -> None:
    """A folder alone asks for TensorBoard, and without a folder nothing is logged."""
    folder, tool = arguments.pop("logging_dir", None), arguments.pop("log_with", None)
    named = "tensorboard" if tool is None else str(tool.value).lower()
    if folder is None or named not in ("tensorboard", "all"):
        reason = "there is no logging_dir" if folder is None else "a run keeps its own log, see `loratory watch`"
        for each in filter(None, (folder, tool)):
            to.drop(each, reason)
        return
    to.put(folder, "output.logging_dir")
    # Where the folder is one that no setting can hold, the report has said so.
    if "output.logging_dir" in to.settings:
        reason = "only TensorBoard's logs are written" if named == "all" else ""
        to.put(tool or Given("", ""), "output.log_with", "tensorboard", reason)


def _are_lines(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in cast("list[object]", value))


def _translate_others(arguments: dict[str, Given], to: Translation, *, is_sdxl: bool) -> None:
    for name, each in arguments.items():
        if name in _FLAGS:
            _translate_attention(name, each, to)
        elif name == "clip_skip" and is_sdxl:
            to.drop(each, "has no effect on SDXL")
        elif name == "save_model_as":
            is_ours = str(each.value).lower() == "safetensors"
            to.put(each, "output.save_model_as", "safetensors", "" if is_ours else "pickle files are not written")
        elif name in _OPTIONAL_RATIOS and is_off(each.value):
            to.drop(each, "off")
        elif name == "caption_extension" and not str(each.value).startswith("."):
            to.put(each, "caption.caption_extension", f".{str(each.value).strip()}", "an ending has its dot here")
        elif name == "bucket_reso_steps":
            _translate_bucket_steps(each, to)
        elif name == "cache_text_encoder_outputs" and is_off(each.value):
            to.drop(each, "captions are kept whenever that changes nothing")
        elif name in SETTING_OF:
            to.put(each, SETTING_OF[name])
        elif name in IGNORED:
            to.drop(each, IGNORED[name])
        elif is_off(each.value):
            to.drop(each, "off")
        elif name in REFUSED:
            to.refuse(each, REFUSED[name])
        else:
            to.refuse(each, "not known here", important=False)


def _translate_bucket_steps(each: Given, to: Translation) -> None:
    try:
        steps = whole(each.value)
    except ValueError:
        steps = 0
    if 0 < steps < 512 and steps % 8:
        to.put(
            each, "dataset.bucket_reso_steps", -(-steps // 8) * 8, "sizes are multiples of 8 pixels, as in the latents"
        )
    else:
        to.put(each, "dataset.bucket_reso_steps")


def _translate_attention(name: str, each: Given, to: Translation) -> None:
    text = str(each.value).strip().lower()
    if text == "none":
        to.put(each, "training.cross_attention", "sdpa", "the plain formula computes the same, slower")
    elif text in ("sdpa", "xformers"):
        to.put(each, "training.cross_attention", "sdpa", _ATTENTION["xformers"] if text == "xformers" else "")
    elif not to.is_on(each):
        to.drop(each, "off")
    else:
        to.put(each, "training.cross_attention", "sdpa", _ATTENTION.get(name, ""))
