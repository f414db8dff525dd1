"""A run killed at any instant and resumed ends in the same bytes as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from loratory.runs.events import Started, StateSaved, Step
from loratory.runs.store import EventReader, RunDirectory, liveness
from material import make_set, write_config

HERE = Path(__file__).parent
OPTIMIZERS = {
    "adamw": {"optimizer_type": "AdamW", "learning_rate": 1e-3},
    "prodigy": {
        "optimizer_type": "Prodigy",
        "learning_rate": 1.0,
        "text_encoder_lr": 0.5,
        "optimizer_args": "decouple=True weight_decay=0.1 betas=0.9,0.99 d0=1e-4",
    },
}


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def config_in(folder: Path, optimizer: dict) -> Path:
    make_set(folder / "set", {"2_fox": 3, "1_cat": 2})
    return write_config(
        folder,
        optimizer=optimizer,
        dataset={"flip_aug": True},
        caption={"shuffle_caption": True, "keep_tokens": 1, "caption_tag_dropout_rate": 0.2}
        | {"caption_dropout_rate": 0.1},
        network={"network_type": "locon", "conv_dim": 2, "network_dropout": 0.2, "rank_dropout": 0.1}
        | {"module_dropout": 0.1},
        training={"gradient_accumulation_steps": 2, "max_train_epochs": 5, "train_batch_size": 1},
        output={"state_every_n_steps": 2, "save_every_n_epochs": 2},
    )


def drive(config: Path, kills: list[dict[str, int]], tell: list[list[object]] | None = None) -> list[dict]:
    driver = [sys.executable, str(HERE / "kill_driver.py"), str(config), json.dumps(kills), json.dumps(tell or [])]
    result = subprocess.run(driver, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def files_of(folder: Path) -> dict[str, tuple[str, dict[str, torch.Tensor]]]:
    found = {}
    for path in sorted((folder / "output").iterdir()):
        with safe_open(path, "pt") as file:
            found[path.name] = (file.metadata()["sshs_model_hash"], load_file(path))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    drive(config_in(tmp_path / "whole", OPTIMIZERS[name]), [])
    instants = random.Random(name)
    kills = [
        {"after_step": 1},  # before the first state
        {"at_state": 2},  # half a state on the disk
        {"after_step": instants.randrange(3, 8)},
        {"at_fsync": instants.randrange(1, 6)},
        {"at_fsync": instants.randrange(1, 6)},
        {"after_step": instants.randrange(10, 16)},
        {"at_verify": 2},  # the final file is there, but nothing says yet that it is ours and whole
    ]
    ends = drive(config_in(tmp_path / "killed", OPTIMIZERS[name]), kills)
    assert sum(end["killed"] for end in ends) >= 4 and not ends[-1]["killed"]

    whole, killed = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert list(whole) == list(killed) and "fox.safetensors" in whole and "fox-000002.safetensors" in whole
    for file in whole:
        assert whole[file][0] == killed[file][0], file
        assert all(torch.equal(whole[file][1][key], killed[file][1][key]) for key in whole[file][1]), file

    (run,) = (tmp_path / "killed" / "runs").iterdir()
    events = [timed.event for timed in EventReader(run / "events.jsonl").read()]
    resumed_from = [event.from_step for event in events if isinstance(event, Started)]
    assert len(resumed_from) >= 4 and len(set(resumed_from)) >= 3
    # What a reader that follows the rule of `Started` sees is one unbroken row of steps.
    row: list[int] = []
    for event in events:
        if isinstance(event, Started):
            row = row[: event.from_step]
        elif isinstance(event, Step):
            row.append(event.step)
    assert row == list(range(1, 21))
    assert not list(Path(run).rglob("*.tmp"))


@pytest.mark.slow
def test_ctrl_c_stops_resumably_and_resume_goes_on(tmp_path: Path) -> None:
    config = config_in(tmp_path, OPTIMIZERS["adamw"])
    command = [sys.executable, "-m", "loratory", "train"]
    process = subprocess.Popen(
        [*command, str(config), "--json"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["kind"] == "step" and events[-1]["step"] == 3:
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert events[-1]["kind"] == "finished" and events[-1]["status"] == "stopped"
    (path,) = (tmp_path / "runs").iterdir()
    run = RunDirectory(path)
    assert liveness(run.read_record()) == "stopped"
    saved = [t.event.step for t in EventReader(run.events).read() if isinstance(t.event, StateSaved)]
    assert saved[-1] == events[-1]["step"] >= 3

    again = subprocess.run([*command, "--resume", str(path)], env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "output" / "fox.safetensors").exists()
    started = [t.event for t in EventReader(run.events).read() if isinstance(t.event, Started)]
    assert started[-1].from_step == saved[-1]
    once_more = subprocess.run([*command, "--resume", str(path)], env=environment(), capture_output=True, text=True)
    assert once_more.returncode == 2 and "is done" in once_more.stderr
