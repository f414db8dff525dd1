"""`loratory runs …` and `train --resume` from another terminal: commands, how a run stands, the way back."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import Call
from loratory.config.load import dump_config, load_config
from loratory.runs.control import Command, Control, send
from loratory.runs.events import Finished, Notice, Paused, SampleLoss, Saved, Started, Step
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory, find_runs, new_record
from material import make_set, write_config

STARTED = Started(0, 12, 3, 4, "CPU", "0")
ODD = "[@click=app.quit]x [/b]"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    make_set(tmp_path / "set", {"2_fox": 2, f"3_{ODD.replace('/', '')}": 1})
    config = load_config(write_config(tmp_path))
    return RunDirectory.create(tmp_path / "runs", "fox", dump_config(config))


@pytest.fixture
def recorder(run: RunDirectory) -> Iterator[Recorder]:
    """This process trains the run, as far as anybody can tell."""
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        yield recorder


def step(number: int, *images: str) -> Step:
    losses = [SampleLoss(image, 500, 0.1) for image in images]
    return Step(number, 1 + (number - 1) // 4, 0.1, {"unet": 1e-4}, {"unet": 1e-4}, 1.0, 2.0, 0.0, losses)


def crash(run: RunDirectory) -> None:
    run.write_record(dataclasses.replace(run.read_record(), pid_started_s=1.0))


def sent(run: RunDirectory) -> list[Command]:
    return Control(run.control).poll()


def test_a_name_is_that_of_the_output_before_it_is_the_beginning_of_another(
    loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {name: RunDirectory.create(Path("runs"), name, "") for name in ("fox", "fox2", "fox2-old")}
    for run in runs.values():
        run.write_record(dataclasses.replace(new_record(), status="done"))
    for name, found in (("fox", "fox"), ("fox2", "fox2"), ("fox2-o", "fox2-old")):
        assert loratory("runs", "stop", name)[2].startswith(f"error: {runs[found].path} is not being trained")
    RunDirectory.create(Path("runs"), "fox", "")
    said = loratory("runs", "stop", "fox")[2]
    assert "“fox” could be any of" in said and "fox2" not in said
    newest = next(run for run in find_runs(Path("runs")) if run.name.startswith("fox-"))
    assert newest.name in loratory("runs", "show", "fox")[1]


def test_what_cannot_be_removed_is_not_obeyed_at_every_step(run: RunDirectory) -> None:
    (run.control / "1-pause.json").mkdir()
    send(run.control, Command("save"))
    assert sent(run) == [Command("save")] and sent(run) == []
    Control(run.control).discard()
    assert (run.control / "1-pause.json").is_dir()


# ----------------------------------------------------------------------------------------------------- commands


@pytest.mark.usefixtures("recorder")
def test_commands_and_what_they_are_given(loratory: Call, run: RunDirectory) -> None:
    odd = f"3_{ODD.replace('/', '')}"
    for arguments, command in [
        (["pause", run.path], Command("pause")),
        (["resume", run.path], Command("resume")),
        (["sample", run.path], Command("sample")),
        (["sample", run.path, "a fox --w 64 --d 7 --n [/b]"], Command("sample", "a fox --w 64 --d 7 --n [/b]")),
        (["skip", run.path, "2_fox/00.png"], Command("skip", "2_fox/00.png")),
        (["skip", run.path, run.path.parent.parent / "set" / odd / "00.png"], Command("skip", f"{odd}/00.png")),
        (["unskip", run.path, "01.png"], Command("unskip", "2_fox/01.png")),
        (["unskip", run.path, "01"], Command("unskip", "2_fox/01.png")),
        (["rate", run.path, "0.5"], Command("rate", "0.5")),
        (["stop", run.path], Command("stop")),
    ]:
        code, out, err = loratory("runs", *arguments)
        assert (code, out) == (0, ""), err
        assert err.startswith(f"{command.name}{' ' if command.value else ''}{command.value} is left for {run.name}; ")
        if command.name != "pause":  # what waits is what `resume` may undo
            expected = [Command("pause"), command] if command.name == "resume" else [command]
            assert sent(run) == expected


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rate", "fast"], "FACTOR fast: must be a number from 0.001 to 1000."),
        (["rate", "0"], "must be a number from"),
        (["rate", "nan"], "must be a number from"),
        (["skip", "00.png"], "could be 2_fox/00.png or 3_[@click=app.quit]x [b]/00.png"),
        (["skip", "2_fox/02.png"], "Did you mean 2_fox/0"),
        (["skip", "nothing\x1b[2J at all"], "The run trains no picture “nothing"),
        (["unskip", "wolf.png"], "The run trains no picture “wolf.png”."),
        (["sample", "a fox --w wide"], "PROMPT"),
        (["resume"], "is not paused: it is running"),
    ],
)
def test_what_makes_no_sense_is_not_sent(loratory: Call, run: RunDirectory, arguments: list[str], said: str) -> None:
    verb, *values = arguments
    code, out, err = loratory("runs", verb, run.path, *values)
    assert (code, out) == (2, "") and said in err and err.count("error: ") == 1 and "\x1b" not in err
    assert sent(run) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "sample", "save", "stop"])
def test_who_is_told_how_a_run_goes_on_that_nobody_trains(loratory: Call, run: RunDirectory, verb: str) -> None:
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        recorder.write(Finished("stopped", 2))
    (run.state / "00000002.pt").write_bytes(b"")
    code, _, err = loratory("runs", verb, run.path)
    assert code == 2 and f"{run.path} is not being trained: it is stopped." in err
    assert f"`loratory train --resume {run.path}` goes on from step 2" in err
    run.write_record(dataclasses.replace(run.read_record(), status="running"))
    crash(run)
    code, _, err = loratory("runs", verb, run.path)
    assert code == 2 and "crashed: the process that trained it (pid " in err
    assert f"`loratory train --resume {run.path}` goes on from step 2" in err
    assert sent(run) == []


# ----------------------------------------------------------------------------------------------- how a run stands


def test_a_run_that_trains(loratory: Call, run: RunDirectory, recorder: Recorder) -> None:
    for number in range(1, 6):
        recorder.write(step(number, "2_fox/00.png", "2_fox/01.png"))
    recorder.write(Saved(4, 1, "/output/[b]fox.safetensors", 489_000, 0.0))
    (run.state / "00000004.pt").write_bytes(b"")
    code, out, err = loratory("runs", "show", run.path)
    assert (code, err) == (0, "")
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines())
    assert lines["run"] == str(run.path)
    assert re.fullmatch(r"running \(pid \d+ on \S+\)", lines["state"])
    assert lines["step"] == "5 of 12, epoch 2 of 3"
    assert lines["exposure"] == "2_fox: 5 of 6, 2 pictures"
    assert lines["adapter"] == "/output/[b]fox.safetensors (489 kB), step 4"
    assert re.fullmatch(r"step 4, \d+ s ago", lines["saved state"])
    assert lines["followed by"] == f"loratory watch {run.path}"
    recorder.write(Paused(5, "The disk is full: \x1b[2J"))
    assert re.search(
        r"^state +paused \(pid .*\): The disk is full: .\[2J$", loratory("runs", "show", run.path)[1], re.M
    )
    code, out, err = loratory("runs", "list", run.path.parent)
    assert out.startswith("‖ paused ") and "waits: The disk is full" in err


def test_a_run_whose_process_is_gone(loratory: Call, run: RunDirectory) -> None:
    with Recorder(run) as recorder:
        recorder.write(STARTED)
        recorder.write(step(1))
        recorder.write(step(2, "2_fox/00.png"))
        recorder.write(dataclasses.replace(step(3, "2_fox/00.png"), loss=float("nan")))
    crash(run)
    (run.state / "00000002.pt").write_bytes(b"")
    lines = loratory("runs", "show", run.path)[1].splitlines()
    assert re.match(r"state +crashed: the process that trained it \(pid \d+ on .*\) is gone without a word$", lines[1])
    assert re.fullmatch(rf"resumed by +loratory train --resume {re.escape(str(run.path))}", lines[-1])
    assert any(re.match(r"saved state +step 2, \d+ s ago", line) for line in lines)
    assert any(re.match(r"alarm +error at step 3: .*00\.png", line) for line in lines)
    told = json.loads(loratory("runs", "show", run.path, "--json")[1])
    assert (told["state"], told["step"], told["saved_state"]["step"]) == ("crashed", 3, 2)
    assert told["resume"] == f"loratory train --resume {run.path}" and told["alarm"]["rule"] == "nan"
    _, out, err = loratory("runs", "list", run.path.parent)
    assert out.startswith("✗ crashed ")
    assert re.fullmatch(rf"`loratory train --resume {re.escape(str(run.path))}` goes on from step 2, .* ago\.\n", err)


def test_a_run_that_never_began(loratory: Call, run: RunDirectory) -> None:
    code, out, err = loratory("runs", "show", run.path)
    assert (code, err) == (0, "")
    assert "crashed" in out and out.splitlines()[-1].endswith(f"loratory train --resume {run.path}")
    assert "begins from its first step" in loratory("runs", "list", run.path.parent)[2]


def test_every_command_is_listed_with_a_whole_sentence(loratory: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = loratory("runs", "--help")
    listed = re.findall(r"^  (\w+) +(\S.*)$", out.partition("Commands:")[2], re.M)
    names = {name for name, _ in listed}
    assert names >= {"list", "show", "diff", "stop", "save", "pause", "resume", "sample", "skip", "unskip", "rate"}
    mine = names - {"diff", "tensorboard"}
    assert all(sentence.endswith(".") and "..." not in sentence for name, sentence in listed if name in mine)


# ------------------------------------------------------------------------------------ going on with other settings


def test_resume_with_settings_that_may_not_change(loratory: Call, run: RunDirectory) -> None:
    (run.state / "00000002.pt").write_bytes(b"")
    before = run.config.read_bytes()
    for detach in ([], ["--detach"]):
        code, out, err = loratory("train", "--resume", run.path, "--set", "training.seed=7", *detach)
        assert (code, out) == (2, "")
        assert "error: --set training.seed: cannot change in the middle of a run." in err and "step 2" in err
    assert run.config.read_bytes() == before


@pytest.mark.slow
def test_resume_in_less_memory_ends_in_the_same_weights(loratory: Call, tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 2})
    training = {"max_train_epochs": None, "max_train_steps": 4, "train_batch_size": 1}
    config = write_config(tmp_path, training=training, output={"state_every_n_steps": 2})
    assert loratory("train", config)[0] == 0
    (path,) = (tmp_path / "runs").iterdir()
    run, final = RunDirectory(path), tmp_path / "output" / "fox.safetensors"
    whole = load_file(final)
    (run.state / "00000004.pt").unlink()
    final.unlink()
    run.write_record(dataclasses.replace(run.read_record(), status="failed"))
    code, _, err = loratory("train", "--resume", run.path, "--set", "training.gradient_checkpointing=true")
    assert code == 0, err
    assert "gradient_checkpointing = true (was false)" in err
    again = load_file(final)
    assert again.keys() == whole.keys() and all(torch.allclose(again[key], whole[key], atol=1e-6) for key in whole)
    assert load_config(run.config).training.gradient_checkpointing
    events = [timed.event for timed in EventReader(run.events).read()]
    assert [event.from_step for event in events if isinstance(event, Started)] == [0, 2]
    assert any(isinstance(event, Notice) and "Settings changed" in event.message for event in events)
