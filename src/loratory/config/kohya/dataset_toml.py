"""sd-scripts' dataset TOML: `[general]`, `[[datasets]]` and `[[datasets.subsets]]`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from loratory.config.describe import show
from loratory.config.kohya.settings import names
from loratory.config.schema import CAPTION_KEYS, DATASET_KEYS, SubsetSettings
from loratory.config.toml_files import expanded, read_toml
from loratory.errors import LoratoryError

_OF_A_DATASET = {"batch_size": "training.train_batch_size"} | {
    key: f"dataset.{key}"
    for key in names(
        "resolution enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale "
        "resize_interpolation validation_seed"
    )
}
_OF_A_SUBSET = frozenset(SubsetSettings.model_fields)
_WITHOUT_EFFECT = frozenset({"cache_info"})  # a list of sizes kept on disk: the start is faster, the result the same
_INSTEAD = {
    "face_crop_aug_range": "crop the pictures to the faces first",
    "metadata_file": "write captions beside the pictures",
    "network_multiplier": "every dataset trains the adapter at full strength",
    "custom_attributes": "loss.diff_output_preservation is a setting of the whole run",
    "caption_extention": "write caption_extension",
}


class DatasetConfig(NamedTuple):
    """What a dataset TOML says. settings: by full name, for all folders. subsets: tables of `[[dataset.subsets]]`."""

    settings: dict[str, Any]
    subsets: list[dict[str, Any]]


def read_dataset_config(path: Path) -> DatasetConfig:
    """The datasets of an sd-scripts dataset TOML; the nearest of subset, dataset and general wins.

    Folders are absolute, seen from the file's folder. Values are not checked, keys are. Raises LoratoryError, with the
    file, for what is no such file, a key that is not known or not supported, and datasets that differ in what one run
    has one of: resolution, batch size and buckets.
    """
    document = read_toml(path)
    unknown = [key for key in document if key not in ("general", "datasets")]
    if unknown:
        raise LoratoryError(f"{path}: {show(unknown[0])[1:-1]}: a dataset TOML has [general] and [[datasets]] alone.")
    general = _table(document.get("general", {}), "general", path)
    _refuse_unknown(general, "general", path)
    datasets = _tables(document.get("datasets", []), "datasets", path)
    shared = {key: value for key, value in general.items() if key in CAPTION_KEYS | DATASET_KEYS}
    alone = {key: value for key, value in general.items() if key in _OF_A_SUBSET and key not in shared}
    of_datasets: list[dict[str, Any]] = []
    subsets: list[dict[str, Any]] = []
    for number, dataset in enumerate(datasets, 1):
        place = f"datasets[{number}]"
        listed = _tables(dataset.pop("subsets", []), f"{place}.subsets", path)
        _refuse_unknown(dataset, place, path)
        of_datasets.append({key: value for key, value in (general | dataset).items() if key in _OF_A_DATASET})
        inherited = alone | {key: value for key, value in dataset.items() if key in _OF_A_SUBSET}
        for index, subset in enumerate(listed, 1):
            subsets.append(_subset(inherited, subset, f"{place}.subsets[{index}]", path))
    if not subsets:
        raise LoratoryError(f"{path}: names no folder: it needs [[datasets]] with [[datasets.subsets]].")
    _refuse_differences(of_datasets, path)
    settings = {_OF_A_DATASET[key]: value for key, value in of_datasets[0].items()}
    settings |= {f"{'caption' if key in CAPTION_KEYS else 'dataset'}.{key}": value for key, value in shared.items()}
    return DatasetConfig(settings, subsets)


def _subset(inherited: Mapping[str, Any], own: dict[str, Any], place: str, path: Path) -> dict[str, Any]:
    _refuse_unknown(own, place, path, known=_OF_A_SUBSET)
    # Without them sd-scripts has these; the folder's name, which says them in train_data_dir, does not count.
    subset = {"num_repeats": 1, "class_tokens": ""} | dict(inherited) | own
    for key in _WITHOUT_EFFECT:
        subset.pop(key, None)
    if "image_dir" not in own:
        raise LoratoryError(f"{path}: {place}.image_dir: is required: the folder that holds the pictures.")
    for key in ("image_dir", "conditioning_data_dir"):
        folder = subset.get(key)
        if isinstance(folder, str) and folder.strip() and "\0" not in folder:
            subset[key] = str(path.absolute().parent / expanded(folder))
    return subset


def _refuse_unknown(table: Mapping[str, Any], place: str, path: Path, known: frozenset[str] | None = None) -> None:
    allowed = known if known is not None else (_OF_A_SUBSET | frozenset(_OF_A_DATASET)) - {"image_dir", "is_reg"}
    for key, value in table.items():
        if key in allowed or key in _WITHOUT_EFFECT:
            continue
        where = f"{path}: {place}.{show(key)[1:-1]} = {show(value)}"
        if key in _INSTEAD:
            raise LoratoryError(f"{where}: is not supported: {_INSTEAD[key]}.")
        if key in _OF_A_DATASET:
            raise LoratoryError(f"{where}: belongs to the dataset, not to one of its folders.")
        raise LoratoryError(f"{where}: no such key here.")


def _refuse_differences(datasets: list[dict[str, Any]], path: Path) -> None:
    for key in _OF_A_DATASET:
        values = [dataset.get(key) for dataset in datasets]
        if any(value != values[0] for value in values):
            shown = ", ".join("none" if value is None else show(value) for value in values[:4])
            raise LoratoryError(
                f"{path}: the datasets differ in {key} ({shown}): one configuration trains one resolution, one batch "
                "size and one set of buckets.",
                hint="Give all datasets the same, or train one after the other.",
            )


def _table(value: object, place: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LoratoryError(f"{path}: {place}: must be a table: [{place}].")
    return dict(cast("dict[str, Any]", value))


def _tables(value: object, place: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise LoratoryError(f"{path}: {place}: must be a list of tables: [[{place}]].")
    return [_table(each, place, path) for each in cast("list[object]", value)]
