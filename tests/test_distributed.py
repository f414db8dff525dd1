"""Two processes that train one adapter together, on the CPU (gloo)."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loratory.runs.events import Obeyed, StateSaved, Step
from loratory.runs.store import EventReader, RunDirectory
from loratory.training import distributed
from loratory.training.distributed import Ranks
from two_processes import ALONE, ENVIRONMENT, TOGETHER, begun, call, write


def largest_difference(folder: Path, first: str, second: str) -> float:
    a, b = (load_file(folder / "output" / f"{name}.safetensors") for name in (first, second))
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def share_of_difference(folder: Path, first: str, second: str) -> float:
    """The length of the difference against that of what was learnt: of the matrices that begin as zeros."""
    a, b = (load_file(folder / "output" / f"{name}.safetensors") for name in (first, second))
    learnt = [key for key in a if key.endswith("lora_up.weight")]
    apart = sum((a[key] - b[key]).double().square().sum().item() for key in learnt)
    return (apart / sum(a[key].double().square().sum().item() for key in learnt)) ** 0.5


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
    assert share_of_difference(tmp_path, "one", "two") < 5e-3
    assert largest_difference(tmp_path, "one-step00000003", "two-step00000003") < 5e-5
    assert share_of_difference(tmp_path, "one-step00000003", "two-step00000003") < 5e-3
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
    cut = write(tmp_path, "cut", 2, max_train_steps=24)
    assert call([*TOGETHER, "train", "whole.toml"], tmp_path).returncode == 0
    process, _ = begun(cut, lambda line: '"kind":"state_saved"' in line and '"step":4' in line)
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
    config = write(tmp_path, "stopped", 2, max_train_steps=24)
    process, _ = begun(config, lambda line: '"kind":"step"' in line)
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


def test_a_parameter_that_no_process_trained_keeps_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs, nobodys = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    mine.grad = torch.tensor([1.0, 2.0])

    def add_the_other(flat: torch.Tensor) -> None:
        gradients, has_gradient, loss = [0, 0, 3, 4, 0, 0], [0, 1, 0], [0.25]
        flat += torch.tensor([*gradients, *has_gradient, *loss])

    monkeypatch.setattr(distributed.dist, "all_reduce", add_the_other)
    total = Ranks(0, 2).sum_gradients([mine, theirs, nobodys], torch.tensor([0.5]))
    assert mine.grad.tolist() == [1, 2] and theirs.grad is not None and theirs.grad.tolist() == [3, 4]
    assert nobodys.grad is None
    assert total.tolist() == [0.75]


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
