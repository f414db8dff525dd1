"""The `ss_*` metadata of an adapter file as the arguments that it was trained with."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from loratory.config.kohya.gui_json import Arguments
from loratory.config.kohya.networks import LYCORIS, OWN_NETWORK
from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import SETTING_OF, names
from loratory.config.kohya.translation import Translation
from loratory.errors import LoratoryError

_LARGEST_HEADER_BYTES = 100_000_000

_NAMES = {
    "ss_num_epochs": "max_train_epochs",
    "ss_batch_size_per_device": "train_batch_size",
    "ss_debiased_estimation": "debiased_estimation_loss",
    "ss_resolution": "resolution",
    "ss_v2": "v2",
    "ss_zero_terminal_snr": "zero_terminal_snr",
    "ss_network_module": "network_module",
    "ss_lr_scheduler": "lr_scheduler",
    "ss_lr_warmup_steps": "lr_warmup_steps",
}
_OF_THE_FILES = frozenset(
    names(
        "ss_session_id ss_training_started_at ss_training_finished_at ss_num_train_images ss_num_validation_images "
        "ss_num_reg_images ss_num_batches_per_epoch ss_total_batch_size ss_tag_frequency ss_bucket_info ss_steps "
        "ss_epoch ss_sd_scripts_commit_hash ss_sd_model_hash ss_new_sd_model_hash ss_vae_hash ss_new_vae_hash "
        "ss_lowram ss_loratory_version"
    )
)
_OF_A_DATASET = names(
    "batch_size_per_device resolution enable_bucket bucket_no_upscale min_bucket_reso max_bucket_reso"
)
_OF_A_FOLDER = names("flip_aug color_aug random_crop shuffle_caption keep_tokens caption_dropout_rate")
_OPTIMIZERS = {
    "adafactor": "AdaFactor",
    "dadaptadampreprint": "DAdaptAdamPreprint",
    "dadaptadagrad": "DAdaptAdaGrad",
    "dadaptadam": "DAdaptAdam",
    "dadaptadan": "DAdaptAdan",
    "dadaptadanip": "DAdaptAdanIP",
    "dadaptlion": "DAdaptLion",
    "dadaptsgd": "DAdaptSGD",
    **{
        name.lower(): name
        for name in names(
            "AdamW AdamW8bit PagedAdamW PagedAdamW8bit PagedAdamW32bit Lion Lion8bit PagedLion8bit Prodigy "
            "AdamWScheduleFree SGDScheduleFree RAdamScheduleFree"
        )
    },
}


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form metadata in the header of a safetensors file.

    Raises LoratoryError when the file cannot be read, its header is damaged, or it has no `ss_*` metadata.
    """
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > _LARGEST_HEADER_BYTES:
                raise LoratoryError(f"{path} is not a safetensors file.")
            text = file.read(header_bytes)
    except OSError as error:
        raise LoratoryError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(text) < header_bytes:
        raise LoratoryError(f"{path} is cut short: its header of {header_bytes:,} bytes is not all there.")
    try:
        metadata = json.loads(text).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise LoratoryError(f"{path} is not a safetensors file: its header is damaged.") from error
    if not isinstance(metadata, dict) or not any(key.startswith("ss_") for key in cast("dict[str, object]", metadata)):
        raise LoratoryError(
            f"{path} does not say how it was trained: it has no ss_* metadata.",
            hint="Other programs, and `no_metadata`, leave them out.",
        )
    return {key: str(value) for key, value in cast("dict[str, object]", metadata).items()}


def metadata_arguments(metadata: Mapping[str, str], to: Translation) -> Arguments:
    """The arguments an adapter file says it was trained with; what says none is reported in `to`."""
    arguments: dict[str, Given] = {}
    network: dict[str, Given] = {}
    for key, text in metadata.items():
        given = Given(key, text)
        name = _NAMES.get(key, key.removeprefix("ss_"))
        if not key.startswith("ss_"):
            _other(given, arguments, to)
        elif key == "ss_datasets":
            _datasets(given, arguments, to)
        elif key in _OF_THE_FILES:
            to.drop(given, "about that run's files, not a setting")
        elif key in ("ss_dataset_dirs", "ss_reg_dataset_dirs"):
            _folders(given, to)
        elif key == "ss_network_module" and text in LYCORIS and "ss_loratory_version" in metadata:
            arguments[name] = Given(key, OWN_NETWORK, written=text)
        elif key == "ss_network_args":
            network = {item: Given(f"{key}.{item}", value) for item, value in _json_table(text).items()}
            if not network:
                to.drop(given, "empty")
        elif key == "ss_optimizer":
            _optimizer(given, arguments)
        elif key == "ss_sd_model_name":
            to.refuse(given, "the name alone; write where the base model is", important=False)
            to.hints.append(f"The base model was called {text}.")
        elif key == "ss_vae_name":
            to.refuse(given, "the name alone; set model.vae to its file", important=False)
        elif key == "ss_base_model_version":
            _base_version(given, arguments, to)
        elif key == "ss_num_epochs" and _ends_inside_an_epoch(metadata):
            to.drop(given, "ss_max_train_steps decides: the run ended inside an epoch")
        elif key == "ss_max_train_steps" and "ss_num_epochs" in metadata and not _ends_inside_an_epoch(metadata):
            to.drop(given, "ss_num_epochs decides")
        elif key == "ss_text_encoder_lr" and text.startswith("["):
            arguments[name] = Given(key, _literal(text))
        elif name in arguments:
            to.drop(given, f"{arguments[name].key} decides")
        elif name in SETTING_OF or key in _NAMES:
            arguments[name] = given
        else:
            to.refuse(given, "not known here", important=False)
    to.hints.append("The file does not say which ending its captions had; .txt is assumed.")
    return Arguments(arguments, network)


def _ends_inside_an_epoch(metadata: Mapping[str, str]) -> bool:
    """Whether the steps of a run are fewer than those of its epochs; False where the file does not say."""
    try:
        epochs, steps, batches = (
            int(metadata[f"ss_{name}"]) for name in ("num_epochs", "max_train_steps", "num_batches_per_epoch")
        )
        accumulated = max(1, int(metadata.get("ss_gradient_accumulation_steps", "1")))
    except (KeyError, ValueError):
        return False
    return steps < epochs * -(-batches // accumulated)


def _datasets(given: Given, arguments: dict[str, Given], to: Translation) -> None:
    """The datasets of a run with a dataset TOML: the first one's sizes, and what all its folders have in common."""
    try:
        datasets = json.loads(str(given.value))
    except (ValueError, RecursionError):
        datasets = None
    if not isinstance(datasets, list) or not datasets or not isinstance(datasets[0], dict):
        to.drop(given, "empty")
        return
    first = cast("dict[str, Any]", datasets[0])
    known = set(arguments)
    subsets = [cast("dict[str, Any]", subset) for subset in first.get("subsets") or [] if isinstance(subset, dict)]
    for key in _OF_A_DATASET:
        if key in first:
            name = "train_batch_size" if key == "batch_size_per_device" else key
            arguments.setdefault(name, Given(f"{given.key}.{key}", first[key]))
    for key in _OF_A_FOLDER:
        values = [subset.get(key) for subset in subsets]
        if values and all(value is not None and value == values[0] for value in values):
            arguments.setdefault(key, Given(f"{given.key}.{key}", values[0]))
    if known == set(arguments):
        to.drop(given, "nothing in it is a setting")
    if len(cast("list[object]", datasets)) > 1:
        to.refuse(given, "several datasets: those after the first are left out")


def _other(given: Given, arguments: dict[str, Given], to: Translation) -> None:
    if given.key == "modelspec.prediction_type" and given.value == "v":
        arguments["v_parameterization"] = Given(given.key, True, "v means velocity", given.value)
    else:
        to.drop(given, "not about the training")


def _base_version(given: Given, arguments: dict[str, Given], to: Translation) -> None:
    if str(given.value).startswith("sdxl"):
        arguments["sdxl"] = Given(given.key, True, "an SDXL model", given.value)
    elif str(given.value).startswith(("sd_v1", "sd_v2")):
        to.drop(given, "the family is read from the model")
    else:
        to.refuse(given, "only Stable Diffusion 1, 2 and XL are trained here")


def _folders(given: Given, to: Translation) -> None:
    folders = _json_table(str(given.value))
    if not folders:
        to.drop(given, "empty")
        return
    shown = ", ".join(
        f"{name} ({cast('dict[str, Any]', folder).get('img_count', '?')} pictures)"
        for name, folder in list(folders.items())[:20]
        if isinstance(folder, dict)
    )
    which = "regularization folders" if "reg" in given.key else "folders"
    to.refuse(given, "names without their place; write where the folders are", important=False)
    to.hints.append(f"It was trained with the {which} {shown}.")


def _optimizer(given: Given, arguments: dict[str, Given]) -> None:
    """`prodigyopt.prodigy.Prodigy(decouple=True,betas=(0.9, 0.99))`: the class, and its arguments."""
    path, _, rest = str(given.value).partition("(")
    name = path.rpartition(".")[2]
    known = _OPTIMIZERS.get(name.lower())
    reason = "the class by its name in sd-scripts" if known and known != path else ""
    arguments["optimizer_type"] = Given(given.key, known or path, reason, given.value)
    pieces = re.split(r",\s*(?=[A-Za-z_]\w*\s*=)", rest.removesuffix(")"))
    if any(piece.strip() for piece in pieces):
        arguments["optimizer_args"] = Given(given.key, pieces, reason or "its arguments", given.value)


def _json_table(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
