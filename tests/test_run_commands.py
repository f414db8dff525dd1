"""What a run does when it is told something while it trains, and what it tells of itself."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from loratory import atomic
from loratory.adapters.lora import PeftLayer
from loratory.errors import LoratoryError
from loratory.runs import recorder
from loratory.runs.control import Command, send
from loratory.runs.events import (
    Continued,
    Hardware,
    NotANumber,
    Notice,
    Obeyed,
    Paused,
    Sampled,
    Saved,
    StateSaved,
    Step,
    Weights,
)
from loratory.runs.store import EventReader, RunDirectory
from loratory.training import commands, loop
from loratory.training.commands import Commands, Order, obey_first
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine
from loratory.training.weights_norm import WeightsNorm
from material import make_set
from test_resume import drive, files_of
from training_runs import engine_of, go_on_from, of_kind, same_bytes, saved, small_config, train
from two_processes import begun
from two_processes import write as write_for_two

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = "--w 64 --h 64 --s 1"


def config_in(folder: Path, pictures: int = 4, **tables: dict[str, Any]) -> Any:
    if not (folder / "set").exists():
        folder.mkdir(exist_ok=True)
        make_set(folder / "set", {"1_fox": pictures})
    tables["optimizer"] = {"learning_rate": 1e-3, "lr_scheduler": "constant"} | tables.get("optimizer", {})
    tables["network"] = {"network_train_unet_only": True, "network_type": "lora"} | tables.get("network", {})
    return small_config(folder, **tables)


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Command]]:
    """Steps done -> what a run is told then, once."""
    told: dict[int, list[Command]] = {}
    obey = Commands.obey

    def told_first(self: Commands, done: int) -> Any:
        for command in told.pop(done, []):
            send(self.control.directory, command)
        return obey(self, done)

    monkeypatch.setattr(Commands, "obey", told_first)
    return told


def pictures_of(events: list[Any]) -> list[list[str]]:
    return [[sample.image for sample in step.samples] for step in of_kind(events, Step)]


def notices(events: list[Any]) -> list[str]:
    return [notice.message for notice in of_kind(events, Notice)]


# -- pause


def test_a_paused_run_waits_and_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: dict[int, list[Command]]
) -> None:
    config = config_in(tmp_path)
    run: list[RunDirectory] = []
    told: Iterator[list[Command]] = iter(
        [[], [Command("pause"), Command("save"), Command("rate", "0.5")], [Command("resume")]]
    )

    def rest(_seconds: float) -> None:
        (directory,) = (tmp_path / "runs").iterdir()
        run.append(RunDirectory(directory))
        record = run[-1].read_record()
        assert record is not None and (record.status, record.step) == ("paused", 2)
        for command in next(told):
            send(run[-1].control, command)

    monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=rest, monotonic=time.monotonic))
    telling[2] = [Command("pause")]
    finished, directory, events = train(config)
    assert finished.status == "done" and len(run) == 3
    kinds = [e for e in events if isinstance(e, Obeyed | Paused | Continued | Step)]
    assert [getattr(e, "command", type(e).__name__) for e in kinds] == (
        ["Step"] * 2 + ["pause", "Paused", "pause", "save", "rate", "resume", "Continued"] + ["Step"] * 2
    )
    (paused,), (continued,) = of_kind(events, Paused), of_kind(events, Continued)
    assert paused.step == continued.step == 2 and paused.reason.endswith(".") and continued.waited_s >= 0
    assert [step.lr["unet"] for step in of_kind(events, Step)] == [1e-3, 1e-3, 5e-4, 5e-4]
    assert (tmp_path / "output" / "fox-step00000002.safetensors").exists()
    record = directory.read_record()
    assert record is not None and record.status == "done"


def test_a_paused_run_can_be_stopped(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    telling[1] = [Command("pause"), Command("stop")]
    finished, run, events = train(config_in(tmp_path))
    assert (finished.status, finished.step) == ("stopped", 1)
    assert [event.command for event in of_kind(events, Obeyed)] == ["pause", "stop"]
    assert (run.state / "00000001.pt").exists()


def test_what_comes_behind_a_stop_is_told_of(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    telling[2] = [Command("stop"), Command("rate", "0.5"), Command("save")]
    finished, _, events = train(config_in(tmp_path))
    assert (finished.status, finished.step) == ("stopped", 2)
    assert [e.command for e in of_kind(events, Obeyed)] == ["stop"]
    assert notices(events)[-1] == "Not carried out, as the run has ended: rate 0.5, save."


def test_a_pause_changes_nothing(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    whole = config_in(tmp_path / "whole")
    train(whole)
    telling[2] = [Command("pause"), Command("resume"), Command("resume")]
    paused = config_in(tmp_path / "paused")
    _, _, events = train(paused)
    assert len(of_kind(events, Continued)) == 1
    assert same_bytes(saved(whole), saved(paused))


def test_other_processes_hear_of_a_pause_and_make_the_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: dict[int, list[Command]]
) -> None:
    said: list[Order] = []

    def tell(_ranks: Ranks, order: Any) -> Any:
        said.extend([order] if isinstance(order, Order) else [])
        return order

    def rest(_seconds: float) -> None:
        if said[-1].word == "wait":
            (directory,) = (tmp_path / "runs").iterdir()
            send(directory / "control", Command("resume"))

    monkeypatch.setattr(Ranks, "tell", tell)
    monkeypatch.setattr(commands, "_REASSURE_EVERY_S", 0.0)
    monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=rest, monotonic=time.monotonic))
    telling[1] = [Command("pause"), Command("rate", "0.5")]
    train(config_in(tmp_path))
    assert [order.word for order in said] == ["go on", "wait", "wait", "go on", "go on", "go on"]

    heard, adopted = iter(said[1:4]), []
    other = SimpleNamespace(tell=lambda _order: next(heard))
    windows = SimpleNamespace(adopt=lambda done, changes: adopted.append((done, changes)))
    assert obey_first(other, windows, 1)  # pyright: ignore[reportArgumentType]
    assert adopted == [(1, (Command("rate", "0.5"),))] and next(heard, None) is None
    assert not obey_first(SimpleNamespace(tell=lambda _order: Order("stop")), windows, 2)  # pyright: ignore[reportArgumentType]


# -- sample


def test_pictures_that_are_asked_for(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    scheduled = {"prompts": [f"a fox {QUICK} --d 3"], "sample_every_n_steps": 2}
    whole = config_in(tmp_path / "whole", sample=scheduled)
    train(whole)
    config = config_in(tmp_path / "asked", sample=scheduled)
    asked = Command("sample", f"a [/b] cat --n dog {QUICK} --d 9 --l 3")
    telling[2] = [asked, asked, Command("sample", "a cat --w 65"), Command("sample"), Command("save")]
    finished, run, events = train(config)
    assert finished.status == "done"
    drawn = of_kind(events, Sampled)
    assert [(event.step, event.index, event.seed) for event in drawn] == [
        (2, 0, 3),
        (2, -1, 9),
        (2, -1, 9),
        (2, 0, 3),
        (4, 0, 3),
    ]
    assert drawn[1].prompt == "a [/b] cat" and all(event.took_s > 0 for event in drawn)
    paths = [run.path / event.path for event in drawn]
    assert len(set(paths)) == 5
    with Image.open(paths[1]) as picture:
        assert picture.size == (64, 64)
        assert "Negative prompt: dog" in picture.text["parameters"] and "CFG scale: 3.0" in picture.text["parameters"]
    assert paths[1].read_bytes() == paths[2].read_bytes()  # the same weights and seed
    assert [event.command for event in of_kind(events, Obeyed)] == ["sample", "sample", "sample", "save"]
    assert any("multiples of 8" in message for message in notices(events))
    assert same_bytes(saved(whole), saved(config))


def test_without_prompts_there_is_nothing_to_draw(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    telling[1] = [Command("sample"), Command("sample", f"fox {QUICK} --zz 3")]
    finished, _, events = train(config_in(tmp_path))
    assert finished.status == "done" and not of_kind(events, Sampled) and not of_kind(events, Obeyed)
    assert any("has no prompts" in message for message in notices(events))
    assert any("--zz is not known" in message for message in notices(events))


def test_what_the_sampler_cannot_draw_is_refused_before_it_begins(
    tmp_path: Path, telling: dict[int, list[Command]]
) -> None:
    telling[1] = [Command("sample", f"fox {QUICK} --ss pndm")]
    finished, _, events = train(config_in(tmp_path))
    assert finished.status == "done" and not of_kind(events, Obeyed)
    assert any("The sampler pndm works with 4 to 1000 steps" in message for message in notices(events))


class Disk:
    """Has no room for pictures until they have been tried a few times. tried: is called each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, tried: Callable[[], None] = lambda: None) -> None:
        self.left, self.replacing, self.tried = times, atomic.replacing, tried
        monkeypatch.setattr(atomic, "replacing", self)
        monkeypatch.setattr(recorder, "RETRY_EVERY_S", 0.02)
        monkeypatch.setattr(recorder, "_LISTEN_EVERY_S", 0.01)

    def __call__(self, path: Path, **options: Any) -> Any:
        if path.suffix == ".png" and self.left:
            self.left -= 1
            self.tried()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.replacing(path, **options)


def test_a_picture_waits_for_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: dict[int, list[Command]]
) -> None:
    Disk(monkeypatch, times=2)
    telling[2] = [Command("sample", f"a fox {QUICK}")]
    finished, run, events = train(config_in(tmp_path))
    assert finished.status == "done" and len(of_kind(events, Sampled)) == 1 == len(list(run.samples.iterdir()))
    (paused,), _ = of_kind(events, Paused), of_kind(events, Continued)
    assert "disk is full: a picture could not be written" in paused.reason
    assert not any("could not be drawn" in message for message in notices(events))


def test_a_run_that_waits_for_room_for_a_picture_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: dict[int, list[Command]]
) -> None:
    def stop() -> None:
        (directory,) = (tmp_path / "runs").iterdir()
        send(directory / "control", Command("stop"))

    Disk(monkeypatch, times=100, tried=stop)
    telling[2] = [Command("sample", f"a fox {QUICK}")]
    with pytest.raises(LoratoryError, match="disk is full"):
        train(config_in(tmp_path))


# -- skip, unskip, rate


def test_a_picture_is_left_out_and_taken_back(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    config = config_in(tmp_path, training={"max_train_epochs": 3, "train_batch_size": 2})

    def by_epoch(events: list[Any]) -> list[list[str]]:
        names = pictures_of(events)
        return [sorted(names[start] + names[start + 1]) for start in (0, 2, 4)]

    whole = by_epoch(train(config)[2])
    assert whole == [[f"1_fox/0{number}.png" for number in range(4)]] * 3
    (tmp_path / "output" / "fox.safetensors").unlink()
    telling[2] = [Command("skip", "1_fox/01.png"), Command("skip", "1_fox/09.png"), Command("unskip", "no such")]
    telling[4] = [Command("unskip", "1_fox/01.png")]
    finished, _, events = train(config)
    assert finished.status == "done"
    without = [name for name in whole[0] if name != "1_fox/01.png"]
    assert by_epoch(events) == [whole[0], without, whole[0]]
    assert [(e.command, e.step, e.value) for e in of_kind(events, Obeyed)] == [
        ("skip", 2, "1_fox/01.png"),
        ("unskip", 4, "1_fox/01.png"),
    ]
    assert sum("No picture that is trained is called" in message for message in notices(events)) == 2


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_step_without_pictures_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telling: dict[int, list[Command]], precision: str
) -> None:
    config = config_in(
        tmp_path,
        pictures=2,
        model={"no_half_vae": True},
        optimizer={"optimizer_type": "AdamW", "optimizer_args": "weight_decay=0.1"},
        network={"scale_weight_norms": 1.0},
        training={"max_train_epochs": 3, "mixed_precision": precision, "ema_decay": 0.9},
    )
    telling[0] = [Command("skip", "1_fox/01.png"), Command("skip", "1_fox/00.png")]
    take_step, unchanged = loop.take_step, []

    def watched(engine: Engine, ranks: Any, window: Any, *rest: Any) -> Any:
        before = [parameter.detach().clone() for parameter in engine.parameters]
        result = take_step(engine, ranks, window, *rest)
        unchanged.append(all(torch.equal(a, b) for a, b in zip(before, engine.parameters, strict=True)))
        assert unchanged[-1] == (not window)
        return result

    monkeypatch.setattr(loop, "take_step", watched)
    finished, _, events = train(config)
    assert finished.status == "done"
    steps = of_kind(events, Step)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6] and sum(unchanged) == 3
    assert all(step.samples or (step.loss, step.grad_norm) == (0.0, 0.0) for step in steps)
    assert {name for names in pictures_of(events) for name in names} == {"1_fox/00.png"}
    assert any("it is the last picture" in message for message in notices(events))
    assert [event.value for event in of_kind(events, Obeyed)] == ["1_fox/01.png"]


def test_the_rate_is_a_factor_on_all_rates(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    config = config_in(
        tmp_path,
        optimizer={"learning_rate": 1e-3, "text_encoder_lr": 4e-4, "lr_scheduler": "linear"},
        network={"network_train_unet_only": False},
    )
    telling[1] = [Command("rate", "0.5"), Command("rate", "much"), Command("rate", "1e9")]
    telling[3] = [Command("rate", "2")]
    _, _, events = train(config)
    steps = of_kind(events, Step)
    factors = [1.0, 0.75 * 0.5, 0.5 * 0.5, 0.25 * 2]
    assert [step.lr["unet"] for step in steps] == pytest.approx([1e-3 * factor for factor in factors])
    assert [step.lr["text_encoder"] for step in steps] == pytest.approx([4e-4 * factor for factor in factors])
    assert [step.effective_lr for step in steps] == [step.lr for step in steps]
    assert sum("is no factor" in message for message in notices(events)) == 2


def test_an_optimizer_with_a_rate_of_its_own_keeps_it(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    optimizer = {"optimizer_type": "AdaFactor", "optimizer_args": "relative_step=True", "lr_scheduler": "adafactor"}
    telling[1] = [Command("rate", "0.5")]
    _, _, events = train(config_in(tmp_path, optimizer=optimizer))
    assert not of_kind(events, Obeyed) and any("sets its own" in message for message in notices(events))


def test_a_run_taken_up_again_makes_the_same_changes(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    config = config_in(tmp_path, training={"max_train_epochs": 3}, output={"state_every_n_steps": 4, "state_keep": 9})
    telling[4] = [Command("rate", "0.5")]
    telling[6] = [Command("skip", "1_fox/00.png"), Command("skip", "1_fox/02.png")]
    telling[9] = [Command("unskip", "1_fox/02.png"), Command("rate", "3")]
    _, run, first = train(config)
    whole = saved(config)
    for step in (8, 4):
        events = go_on_from(config, run, step)
        assert same_bytes(whole, saved(config)), step
        again = [e for e in events[len(first) :] if isinstance(e, Step)][-(12 - step) :]
        assert [(e.lr, e.samples) for e in again] == [(e.lr, e.samples) for e in of_kind(first, Step)[step:]]
    assert any("Goes on as it was told before: the learning rates times 0.5." in text for text in notices(events))
    assert len(of_kind(events, Obeyed)) == 5  # made again, not told again


def test_what_is_said_last_holds_where_it_differs(tmp_path: Path, telling: dict[int, list[Command]]) -> None:
    config = config_in(tmp_path, training={"max_train_epochs": 2}, output={"state_every_n_steps": 2, "state_keep": 9})
    telling[5] = [Command("rate", "0.5"), Command("skip", "1_fox/00.png")]
    _, run, _ = train(config)
    telling[4] = [Command("rate", "2")]
    events = go_on_from(config, run, 4)
    assert [step.lr["unet"] for step in of_kind(events, Step)[-4:]] == [2e-3] * 4
    second = saved(config)
    go_on_from(config, run, 4)
    assert same_bytes(second, saved(config))


@pytest.mark.slow
def test_killed_with_changes_equals_uninterrupted(tmp_path: Path) -> None:
    tell = [
        [5, "skip", "1_fox/01.png"],
        [5, "rate", "0.25"],
        [6, "skip", "1_fox/03.png"],
        [7, "unskip", "1_fox/01.png"],
    ]
    for name in ("whole", "killed"):
        config = config_in(
            tmp_path / name, training={"max_train_epochs": 4}, output={"state_every_n_steps": 4, "state_keep": 2}
        )
        assert config.training.max_train_epochs == 4
    (whole,) = drive(tmp_path / "whole" / "config.toml", [], tell)
    assert not whole["killed"]
    # Killed half way through writing the state after step 8: it is taken up again from the one after step 4.
    ends = drive(tmp_path / "killed" / "config.toml", [{"at_state": 2}, {"after_step": 14}], tell)
    assert ends[0]["killed"] and not ends[-1]["killed"]
    one, other = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert one["fox.safetensors"][0] == other["fox.safetensors"][0]
    (run,) = (tmp_path / "killed" / "runs").iterdir()
    events = [timed.event for timed in EventReader(run / "events.jsonl").read()]
    assert [e.step for e in of_kind(events, Obeyed)] == [5, 5, 6, 7]
    fifth = [e for e in of_kind(events, Step) if e.step == 6]
    assert len(fifth) == 2 and fifth[0].samples == fifth[1].samples and fifth[0].lr == fifth[1].lr == {"unet": 2.5e-4}


@pytest.mark.slow
def test_all_processes_make_the_same_changes(tmp_path: Path) -> None:
    config = write_for_two(tmp_path, "both", 2, max_train_steps=30)
    config.write_text(config.read_text().replace("[optimizer]", '[optimizer]\nlr_scheduler = "constant"'))
    process, line = begun(config, lambda line: '"kind":"step"' in line and json.loads(line)["samples"])
    (path,) = (tmp_path / "runs").glob("both-*")
    name = json.loads(line)["samples"][0]["image"]
    for command in (
        Command("skip", name),
        Command("rate", "0.5"),
        Command("pause"),
        Command("sample", f"a fox {QUICK}"),
        Command("resume"),
    ):
        send(path / "control", command)
    _, problems = process.communicate(timeout=240)
    assert process.returncode == 0, problems
    events = [timed.event for timed in EventReader(path / "events.jsonl").read()]
    obeyed = of_kind(events, Obeyed)
    assert [e.command for e in obeyed] == ["skip", "rate", "pause", "sample", "resume"]
    after = [step for step in of_kind(events, Step) if step.step > obeyed[-1].step]
    assert after and after[-1].step == 30
    assert all(sample.image != name for step in after for sample in step.samples)
    assert all(step.lr["unet"] == 5e-4 for step in after)


# -- what a run tells


def test_events_tell_how_long_things_took(tmp_path: Path) -> None:
    _, _, events = train(config_in(tmp_path))
    assert all(event.took_s > 0 for event in (*of_kind(events, Saved), *of_kind(events, StateSaved)))


def test_how_far_the_weights_have_come_is_told(tmp_path: Path) -> None:
    config = config_in(tmp_path, network={"network_train_unet_only": False}, training={"max_train_epochs": 2})
    _, _, events = train(config)
    told = of_kind(events, Weights)
    assert [event.step for event in told] == [1, 4, 8]
    assert all(event.norms.keys() == {"unet", "text_encoder"} for event in told)
    assert 0 < told[0].norms["unet"] < told[1].norms["unet"] < told[2].norms["unet"]
    final = saved(config)
    changes = [
        (final[f"{key}.alpha"] / final[f"{key}.lora_down.weight"].shape[0])
        * (final[f"{key}.lora_up.weight"].flatten(1) @ final[f"{key}.lora_down.weight"].flatten(1))
        for key in {name.partition(".")[0] for name in final if name.startswith("lora_unet")}
    ]
    assert told[-1].norms["unet"] == pytest.approx(sum(float((c**2).sum()) for c in changes) ** 0.5, rel=1e-5)


def explicit_change(layer: PeftLayer) -> Tensor:
    """What a layer adds to its base weight, as a matrix in float64."""
    weight = layer.base.weight.detach().flatten(1).double()
    change = layer.target.scale * (layer.up.detach().flatten(1).double() @ layer.down.detach().flatten(1).double())
    if layer.magnitude is None:
        return change
    changed = weight + change
    norms = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
    return layer.magnitude.detach().flatten()[:, None].double() * changed / norms - weight


@pytest.mark.parametrize("spread", [1e-5, 1e-1])
@pytest.mark.parametrize("network", [{}, {"network_type": "locon"}, {"network_type": "dora", "conv_dim": 3}])
def test_norms_are_those_of_the_matrices(tmp_path: Path, network: dict[str, Any], spread: float) -> None:
    settings = {"network_train_unet_only": False, "network_dim": 5, "network_alpha": 3} | network
    engine = engine_of(config_in(tmp_path, network=settings))
    norm = WeightsNorm(engine)
    assert norm.names == ["unet", "text_encoder"]
    assert norm.measure().tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in engine.parameters:
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    for value, component in zip(norm.measure().tolist(), ("unet", "te1"), strict=True):
        changes = [explicit_change(layer) for layer in engine.adapter.layers if layer.target.component == component]
        assert any(layer.target.is_conv for layer in engine.adapter.layers) == bool(network)
        expected = sum(float((change**2).sum()) for change in changes) ** 0.5
        assert value == pytest.approx(expected, rel=1e-4)


# -- where the numbers ended


def broken_run(config: Any, monkeypatch: pytest.MonkeyPatch, harm: Any) -> tuple[NotANumber, str]:
    """Trains with an engine that `harm` was done to: the event, and what the run says at its end."""
    assemble = loop.assemble

    def harmed(*arguments: Any) -> Iterator[Any]:
        for progress in assemble(*arguments):
            if isinstance(progress, Engine):
                harm(progress)
            yield progress

    monkeypatch.setattr(loop, "assemble", harmed)
    with pytest.raises(LoratoryError) as caught:
        train(config)
    (run,) = config.output.runs_dir.iterdir()
    events = [timed.event for timed in EventReader(run / "events.jsonl").read()]
    (told,) = of_kind(events, NotANumber)
    # The search takes seconds on a slow machine, and what tells of that speaks in between.
    spoken = [type(event).__name__ for event in events if not isinstance(event, Hardware)]
    assert spoken[-2:] == ["NotANumber", "Finished"]
    assert told.images and all(image in caught.value.message for image in told.images)
    assert not (config.output.output_dir / "fox.safetensors").exists()
    return told, caught.value.message


MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"


def test_a_parameter_of_the_model_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(engine: Engine) -> None:
        with torch.no_grad():
            engine.base.unet.get_submodule(MIDDLE).base_layer.weight[0, 0] = float("inf")

    told, message = broken_run(config_in(tmp_path), monkeypatch, harm)
    assert (told.step, told.what, told.layer) == (1, "The loss became nan", f"unet.{MIDDLE}.weight")
    assert f"The first layer that gave no number is unet.{MIDDLE}.weight." in message


@pytest.mark.parametrize(
    ("network_type", "name"), [("lora", "lora_down.weight"), ("loha", "hada_w1_a"), ("dylora", "lora_down.weight.0")]
)
def test_a_parameter_of_the_network_that_is_no_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network_type: str, name: str
) -> None:
    def harm(engine: Engine) -> None:
        (layer,) = (layer for layer in engine.adapter.layers if layer.target.path == MIDDLE)
        with torch.no_grad():
            layer.tensors()[name][0, 0] = float("inf")

    told, _ = broken_run(config_in(tmp_path, network={"network_type": network_type}), monkeypatch, harm)
    assert (told.step, told.layer) == (1, f"unet.{MIDDLE} {name}")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_layer_of_a_later_step_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """The third step breaks, in one layer, by what it is given and the steps before it have made of the weights."""
    calls: list[float] = []
    given: dict[float, int] = {}

    def harm(engine: Engine) -> None:
        layer = engine.base.unet.get_submodule(MIDDLE).lora_B["default"]

        def third(_module: Any, inputs: Any, output: Tensor) -> Tensor:
            value = float(inputs[0].detach().double().sum())
            calls.append(value)
            number = given.setdefault(value, len(given))
            return output * float("nan") if number == 2 else output

        layer.register_forward_hook(third)

    config = config_in(tmp_path, training={"gradient_checkpointing": checkpointing})
    told, _ = broken_run(config, monkeypatch, harm)
    assert (told.step, told.layer) == (3, f"unet.{MIDDLE} lora_up")
    assert sum(value == value for value in given) <= 4  # the steps before were taken again with the very same numbers


def test_a_gradient_that_is_no_number_is_told_from_the_layer_it_came_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harm(engine: Engine) -> None:
        def after(_module: Any, _inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient * float("nan"))

        engine.base.unet.get_submodule(MIDDLE).register_forward_hook(after)

    told, _ = broken_run(config_in(tmp_path), monkeypatch, harm)
    assert told.what == "The gradient became nan"
    assert told.layer.startswith(f"unet.{MIDDLE}") and told.layer.endswith(" (gradient)")


def test_a_rate_that_is_far_too_high_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(
        tmp_path,
        optimizer={"optimizer_type": "SGDNesterov", "learning_rate": 1e30, "max_grad_norm": 0},
        training={"max_train_epochs": 3},
        output={"state_every_n_steps": 2},
    )
    told, _ = broken_run(config, monkeypatch, lambda _engine: None)
    assert told.layer.startswith("unet.")
