"""A draft as files for kohya's sd-scripts."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratory.atomic import write_text
from loratory.config.kohya.export import Exported, Folder, Model, export
from loratory.config.schema import Config
from loratory.dataset.scan import scan_dataset
from loratory.errors import FAILED, LoratoryError

_OPTIONS = (
    ("config", "sd-scripts.toml", "--config_file"),
    ("dataset", "dataset.toml", "--dataset_config"),
    ("prompts", "prompts.txt", "--sample_prompts"),
)


def exported(config: Config, plan: Mapping[str, Any]) -> Exported:
    """The files that train the same; plan: that of `config`. Raises LoratoryError if the pictures cannot be read."""
    model = plan["model"]
    scanned = scan_dataset(config.dataset, config.caption)
    folders = [Folder(each.path, each.repeats, each.class_tokens, each.is_reg) for each in scanned.folders]
    kind = Model(model["family"], model["prediction_type"] == "v_prediction", model["zero_terminal_snr"])
    return export(config, kind, None if config.target_exposure is None else plan["epochs"], folders)


def files_of(export: Exported, folder: Path, stem: str) -> dict[Path, str]:
    """Path -> text of each file that is not empty."""
    return {folder / f"{stem}.{ending}": text for name, ending, _ in _OPTIONS if (text := getattr(export, name))}


def command_of(export: Exported, folder: Path, stem: str) -> str:
    """The command that trains with those files."""
    words = ["accelerate", "launch", f"{export.script}.py"]
    for name, ending, option in _OPTIONS:
        words += [option, str(folder / f"{stem}.{ending}")] if getattr(export, name) else []
    return shlex.join(words)


def write_files(files: Mapping[Path, str]) -> None:
    """Writes them, each whole or not at all. Raises LoratoryError."""
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except OSError as error:
            raise LoratoryError(f"Cannot write {path}: {error.strerror}.", exit_code=FAILED) from error
