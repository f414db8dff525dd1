"""Two processes that train one adapter together, on the CPU (gloo)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loratory.runs.events import Obeyed, StateSaved, Step
from loratory.runs.store import EventReader, RunDirectory
from loratory.training.distributed import Ranks
from material import make_set, write_config

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "loratory"]
ALONE = [sys.executable, "-m", "loratory"]


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def write(folder: Path, name: str, batch: int, **training: object) -> Path:
    # In each epoch 8 visits in two buckets: the last batch of a bucket is too small for two processes.
    if not (folder / "set").exists():
        make_set(folder / "set", {"2_fox": 3, "1_cat": 2})
    path = write_config(
        folder,
        # A trained model: gradients of the tests' random ones differ by per cents with the size of the batch.
        model={"pretrained_model_name_or_path": "nano"},
        training={"train_batch_size": batch, "max_train_epochs": None, "max_train_steps": 6} | training,
        dataset={"flip_aug": True, "validation_split": 0.34},
        caption={"shuffle_caption": True},
        output={"output_name": name, "state_every_n_steps": 2, "save_every_n_steps": 3},
    )
    return path.rename(folder / f"{name}.toml")


def largest_difference(folder: Path, first: str, second: str) -> float:
    a, b = (load_file(folder / "output" / f"{name}.safetensors") for name in (first, second))
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def events_of(folder: Path, name: str) -> list:
    (run,) = (folder / "runs").glob(f"{name}-*")
    return [timed.event for timed in EventReader(run / "events.jsonl").read()]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path: Path, accumulation: int) -> None:
    write(tmp_path, "one", 4, gradient_accumulation_steps=accumulation)
    write(tmp_path, "two", 2, gradient_accumulation_steps=accumulation)
    assert call([*ALONE, "train", "one.toml"], tmp_path).returncode == 0
    together = call([*TOGETHER, "train", "two.toml"], tmp_path)
    assert together.returncode == 0, together.stderr
    # One step moves a weight by up to 1e-3.
    assert largest_difference(tmp_path, "one", "two") < 1e-4
    assert largest_difference(tmp_path, "one-step00000003", "two-step00000003") < 5e-5
    one, two = ([e for e in events_of(tmp_path, name) if isinstance(e, Step)] for name in ("one", "two"))
    assert [step.loss for step in two] == pytest.approx([step.loss for step in one], rel=1e-3)
    assert [step.grad_norm for step in two] == pytest.approx([step.grad_norm for step in one], rel=2e-2)
    for mine, theirs in zip(two, one, strict=True):
        assert [(s.image, s.timestep) for s in mine.samples] == [(s.image, s.timestep) for s in theirs.samples]
        assert [s.loss for s in mine.samples] == pytest.approx([s.loss for s in theirs.samples], rel=1e-3)
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
def test_killed_and_resumed_together_ends_in_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, "whole", 2, max_train_steps=24)
    write(tmp_path, "cut", 2, max_train_steps=24)
    assert call([*TOGETHER, "train", "whole.toml"], tmp_path).returncode == 0
    process = subprocess.Popen(
        [*TOGETHER, "train", "cut.toml", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"kind":"state_saved"' in line and '"step":4' in line:
            break
    (run,) = (tmp_path / "runs").glob("cut-*")
    record = RunDirectory(run).read_record()
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)  # the launcher ends the other one
    process.communicate(timeout=120)
    assert not (tmp_path / "output" / "cut.safetensors").exists()  # killed in the middle
    resumed = call([*TOGETHER, "train", "--resume", str(run)], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert largest_difference(tmp_path, "whole", "cut") == 0.0
    assert [e.step for e in events_of(tmp_path, "cut") if isinstance(e, StateSaved)][-1] == 24


@pytest.mark.slow
def test_a_stop_reaches_every_process_and_one_can_go_on_alone(tmp_path: Path) -> None:
    write(tmp_path, "stopped", 2, max_train_steps=24)
    process = subprocess.Popen(
        [*TOGETHER, "train", "stopped.toml", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"kind":"step"' in line:
            break
    (run,) = (tmp_path / "runs").glob("stopped-*")
    assert call([*ALONE, "runs", "stop", str(run)], tmp_path).returncode == 0
    process.communicate(timeout=120)
    assert process.returncode != 0  # a run that was stopped has not been finished
    assert any(isinstance(event, Obeyed) for event in events_of(tmp_path, "stopped"))
    # Alone, at the same size of the whole batch, the run goes on where it was.
    settings = run / "config.toml"
    settings.write_text(settings.read_text().replace("train_batch_size = 2", "train_batch_size = 4"))
    resumed = call([*ALONE, "train", "--resume", str(run)], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    steps = [event.step for event in events_of(tmp_path, "stopped") if isinstance(event, Step)]
    assert steps == list(range(1, 25))


@pytest.mark.slow
def test_what_the_first_process_refuses_is_said_once(tmp_path: Path) -> None:
    write(tmp_path, "refused", 2)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "refused.safetensors").write_bytes(b"mine")
    result = call([*TOGETHER, "train", "refused.toml"], tmp_path)
    assert result.returncode != 0
    assert result.stderr.count("would replace what is there") == 1
    assert (tmp_path / "output" / "refused.safetensors").read_bytes() == b"mine"


def test_one_process_is_alone() -> None:
    ranks = Ranks.join(torch.device("cpu"))
    assert ranks.is_first and ranks.size == 1
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    assert ranks.tell("word") == "word"
    numbers = torch.ones(2)
    assert ranks.sum_gradients([], numbers) is numbers


def test_shares_cover_a_batch() -> None:
    for size in (2, 3):
        for count in range(6):
            shares = [Ranks(rank, size).share(range(count)) for rank in range(size)]
            assert sorted(item for share in shares for item in share) == list(range(count))


def test_detaching_is_left_to_the_launcher(tmp_path: Path) -> None:
    write(tmp_path, "x", 2)
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "RANK": "0"}
    result = subprocess.run(
        [*ALONE, "train", "x.toml", "--detach"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "tmux" in result.stderr
