"""Small sets of pictures with captions, and configs to train on them, for tests."""

from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

from tiny_models import Family, shared_tiny_model

TAGS = "fox, animal, red fur, sitting, [/b], white background"


def make_set(folder: Path, folders: dict[str, int], size: tuple[int, int] = (64, 64)) -> Path:
    """Writes `folders` (name -> number of pictures) below `folder`: seeded noise, each with a caption."""
    random = np.random.default_rng(7)
    for name, count in folders.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (size[1] + 16 * (index % 2), size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
            (folder / name / f"{index:02d}.txt").write_text(f"{TAGS}, picture {index}", "utf-8")
    return folder


def write_config(folder: Path, family: Family = "sd1", **tables: dict[str, object]) -> Path:
    """Writes a config that trains for a few steps on a tiny model; `tables` override it key by key."""
    config: dict[str, dict[str, object]] = {
        "model": {"pretrained_model_name_or_path": str(shared_tiny_model(family))},
        "dataset": {
            "train_data_dir": "set",
            "resolution": 64,
            "min_bucket_reso": 64,
            "max_bucket_reso": 128,
            "bucket_reso_steps": 64 if family != "sdxl" else 32,
        },
        "network": {"network_type": "lora", "network_dim": 4, "network_alpha": 2},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"max_train_epochs": 2, "train_batch_size": 2, "mixed_precision": "no"},
        "output": {"output_name": "fox", "save_precision": "float"},
        "lint": {"silence": ["exposure"]},  # a few steps teach nobody anything
    }
    for name, table in tables.items():
        merged = config.get(name, {}) | table
        config[name] = {key: value for key, value in merged.items() if value is not None}
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path
