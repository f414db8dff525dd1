"""Two processes that train one adapter together, on the CPU (gloo): what starts them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from material import make_set, write_config

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ALONE = [sys.executable, "-m", "loratory"]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "loratory"]


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def begun(config: Path, is_far_enough: Callable[[str], object]) -> tuple[subprocess.Popen[str], str]:
    """Both train `config`: what they run in, and the first event, as a line of JSON, of which that is so."""
    process = subprocess.Popen(
        [*TOGETHER, "train", config.name, "--json"],
        cwd=config.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, next(line for line in process.stdout if is_far_enough(line))


def write(folder: Path, name: str, batch: int, **training: object) -> Path:
    """The config `NAME.toml` for a set of two buckets."""
    # In each epoch 8 visits in two buckets: the last batch of a bucket is too small for two processes.
    if not (folder / "set").exists():
        make_set(folder / "set", {"2_fox": 3, "1_cat": 2})
    path = write_config(
        folder,
        # A trained model: gradients of the tests' random ones differ by per cents with the size of the batch.
        model={"pretrained_model_name_or_path": "nano"},
        # AdamW moves a weight by its rate however small the gradient: with this eps not where that is rounding alone.
        optimizer={"optimizer_args": ["eps=1e-5"]},
        training={"train_batch_size": batch, "max_train_epochs": None, "max_train_steps": 6} | training,
        dataset={"flip_aug": True, "validation_split": 0.34},
        caption={"shuffle_caption": True},
        output={"output_name": name, "state_every_n_steps": 2, "save_every_n_steps": 3},
    )
    return path.rename(folder / f"{name}.toml")
