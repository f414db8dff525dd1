"""Where the program keeps its own state. `LORATORY_HOME` moves all of it to one folder."""

import os
from pathlib import Path


def _base(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "loratory"


def cache_dir() -> Path:
    """Things that can be made again: latents, text-encoder outputs."""
    home = os.environ.get("LORATORY_HOME")
    return Path(home) / "cache" if home else _base("XDG_CACHE_HOME", ".cache")


def config_dir() -> Path:
    """The person's own presets and key map."""
    home = os.environ.get("LORATORY_HOME")
    return Path(home) / "config" if home else _base("XDG_CONFIG_HOME", ".config")


def data_dir() -> Path:
    """What was imported and cannot be made again without its source: vocabularies."""
    home = os.environ.get("LORATORY_HOME")
    return Path(home) / "data" if home else _base("XDG_DATA_HOME", ".local/share")
