"""What the loop does where things go wrong in one part, or where there is nothing for a process to do."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from loratory.errors import LoratoryError
from loratory.runs.events import Notice, Saved, Step
from loratory.training import loop, update
from loratory.training.distributed import Ranks
from loratory.training.windows import Share
from material import make_set
from training_runs import engine_of, of_kind, small_config, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 2})


def test_an_overflow_in_one_part_is_one_in_all() -> None:
    healthy, broken = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    healthy.grad, broken.grad = torch.full((3,), 0.5), torch.tensor([1.0, 2.0])
    update.spread_overflow([healthy, broken])
    assert healthy.grad.tolist() == [0.5] * 3 and broken.grad.tolist() == [1.0, 2.0]
    broken.grad[0] = float("inf")
    update.spread_overflow([healthy, broken])
    assert healthy.grad.isnan().all() and broken.grad.isnan().all()


def test_a_part_is_not_harmed_by_the_overflow_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two instances of Prodigy in float16: NaN gradients of one must not reach the other by way of clipping."""
    config = small_config(
        tmp_path,
        model={"no_half_vae": True},
        optimizer={"optimizer_type": "Prodigy", "learning_rate": 1.0, "text_encoder_lr": 0.5},
        training={"mixed_precision": "fp16", "max_train_epochs": None, "max_train_steps": 4},
    )
    spread, calls = update.spread_overflow, []

    def breaking(parameters: list[Parameter]) -> None:
        calls.append(len(parameters))
        if len(calls) == 2:
            next(p.grad for p in parameters if p.grad is not None).view(-1)[0] = float("nan")
        spread(parameters)

    monkeypatch.setattr(update, "spread_overflow", breaking)
    finished, run, events = train(config)
    assert finished.status == "done" and len(calls) == 4
    state = torch.load(sorted(run.state.glob("*.pt"))[-1], weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["adapter"].values())
    norms = [step.grad_norm for step in of_kind(events, Step)]
    assert norms[1] != norms[1] and all(norm == norm for norm in (norms[0], norms[2], norms[3]))


def test_a_process_without_a_picture_takes_the_step_too(tmp_path: Path) -> None:
    config = small_config(tmp_path, model={"no_half_vae": True}, training={"mixed_precision": "fp16"})
    engine = engine_of(config)
    before = [parameter.detach().clone() for parameter in engine.parameters]
    share = Share(visits=engine.plan.order.batches(1)[0], batch=None)
    for parameter in engine.parameters:  # what the other processes would have sent
        parameter.grad = torch.full_like(parameter, 1e-3)
    numbers, _ = update.take_step(engine, Ranks(), [share], 1)
    assert numbers.isfinite().all()
    assert any(not torch.equal(a, b) for a, b in zip(before, engine.parameters, strict=True))


def test_a_changed_unet_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(
        tmp_path, training={"max_train_epochs": None, "max_train_steps": 4}, output={"state_every_n_steps": 2}
    )
    _, run, _ = train(config)
    identity = torch.load(run.state / "00000002.pt", weights_only=True)["identity"]
    engine = engine_of(config)
    assert "unet" in engine.base.identity
    changed = loop.identity_of(engine.plan, {**engine.base.identity, "unet": "another"})
    differing = {name for name in identity if identity[name] != changed[name]}
    assert differing == {"model.pretrained_model_name_or_path"}


def test_a_file_that_another_run_wrote_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path, training={"max_train_epochs": None, "max_train_steps": 2})
    take_step = loop.take_step

    def meanwhile(*arguments: object) -> object:
        (tmp_path / "output" / "fox.safetensors").write_bytes(b"hours of work")
        return take_step(*arguments)

    monkeypatch.setattr(loop, "take_step", meanwhile)
    finished, run, events = train(config)
    assert finished.status == "done"
    assert (tmp_path / "output" / "fox.safetensors").read_bytes() == b"hours of work"
    (saved,) = of_kind(events, Saved)
    assert Path(saved.path).name == f"fox-{run.path.name[-15:]}.safetensors"
    assert any("written by another run" in notice.message for notice in of_kind(events, Notice))


def test_a_damaged_mask_is_told_before_the_first_step(tmp_path: Path) -> None:
    masks = tmp_path / "masks" / "2_fox"
    masks.mkdir(parents=True)
    for name in ("00.png", "01.png"):
        shutil.copy(tmp_path / "set" / "2_fox" / name, masks / name)
    whole = (masks / "01.png").read_bytes()
    (masks / "01.png").write_bytes(whole[: len(whole) // 2])
    config = small_config(
        tmp_path, dataset={"conditioning_data_dir": str(tmp_path / "masks")}, loss={"masked_loss": True}
    )
    with pytest.raises(LoratoryError, match=r"masks.*01\.png"):
        train(config)
    events = (next((tmp_path / "runs").iterdir()) / "events.jsonl").read_text()
    assert '"kind":"started"' not in events
