"""The command line without a training run: what is imported, what is refused and how, how a run is shown."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from command_line import Call, Said
from loratory.adapters.files import save_adapter
from loratory.cli.progress import lay_out
from loratory.config.load import dump_config, load_config
from loratory.runs.control import Command, Control
from loratory.runs.events import Finished, Notice, Phase, SampleLoss, Saved, Started, Step, Validated
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory, new_record
from loratory.wording import spoken_bytes, spoken_pace, spoken_time
from material import make_set, write_config

HERE = Path(__file__).parent
HEAVY = ["torch", "diffusers", "transformers", "peft", "textual", "accelerate"]
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a set, and a config that trains on it."""
    make_set(tmp_path / "set", {"2_fox": 2, "1_cat": 1})
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def subprocess_environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE.parent / "src"), "OMP_NUM_THREADS": "1"} | more


# ------------------------------------------------------------------------------------------------ what is imported


def test_what_needs_no_model_imports_no_torch(tmp_path: Path) -> None:
    state = {"lora_unet_x.lora_down.weight": torch.ones(4, 6), "lora_unet_x.lora_up.weight": torch.ones(5, 4)}
    save_adapter(tmp_path / "fox.safetensors", state | {"lora_unet_x.alpha": torch.tensor(2.0)}, {}, "fp16")
    calls = [
        ["--help"],
        ["--version"],
        ["runs", "--help"],
        ["train", "--help"],
        ["plan", "--help"],
        ["watch", "--help"],
        ["demo", "--help"],
        ["presets", "list"],
        ["presets", "show", "character-adamw"],
        ["runs", "list"],
        ["lora", "inspect", "--quick", str(tmp_path / "fox.safetensors")],
        ["train", "missing.toml"],
        ["plan", "missing.toml"],
        ["train", "--resume", "missing"],
    ]
    script = f"""
import contextlib, io, json, sys
from loratory.cli.main import main
for call in {calls!r}:
    sys.argv = ["loratory", *call]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([call, code, [name for name in {HEAVY!r} if name in sys.modules], "rich" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=subprocess_environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == calls
    assert [row[0] for row in rows if row[2]] == []
    assert [row[1] or 0 for row in rows] == [0] * 11 + [2] * 3
    assert not rows[0][3]  # the first paint: not even what draws tables


# --------------------------------------------------------------------------------------------- what is wrong use


def corrupt_picture(project: Path) -> None:
    (project / "set" / "2_fox" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def nul_caption(project: Path) -> None:
    (project / "set" / "2_fox" / "00.txt").write_bytes(b"fox\0red")


def lora_as_model(project: Path) -> None:
    key = "lora_unet_mid_block_attentions_0_proj_in"
    state = {f"{key}.lora_down.weight": torch.ones(4, 6), f"{key}.lora_up.weight": torch.ones(5, 4)}
    save_adapter(project / "model.safetensors", state | {f"{key}.alpha": torch.tensor(2.0)}, {}, "fp16")


def truncated_model(project: Path) -> None:
    lora_as_model(project)
    os.truncate(project / "model.safetensors", 200)


def pickle_model(project: Path) -> None:
    (project / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")


def nothing(project: Path) -> None:
    pass


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda project: (project / name).write_text(text)


WRONG_KEYS = """
[network]
network_dimm = 4
network_type = "lor"
[training]
max_train_epochs = -1
"""
MODEL = "model.pretrained_model_name_or_path"
REFUSED = {
    "missing config": (nothing, ["nowhere.toml"], ["nowhere.toml does not exist"]),
    "folder as config": (nothing, ["set"], ["set is a folder"]),
    "broken TOML": (write("c.toml", "[model]\nx = [1,\n\n"), ["c.toml"], ["c.toml, line 2"]),
    "wrong keys": (
        write("c.toml", WRONG_KEYS),
        ["c.toml"],
        [
            "did you mean network.network_dim?",
            'did you mean "lora"?',
            "max_train_epochs = -1",
            "train_data_dir: is req",
        ],
    ),
    "wrong --set": (nothing, ["config.toml", "--set", "seeed=3", "--set", "nonsense"], ["seeed", "nonsense"]),
    "idle setting": (
        nothing,
        ["config.toml", "--set", "network_type=loha", "--set", "network_dropout=0.1"],
        ["network.network_dropout", 'does nothing with network_type = "loha"'],
    ),
    "no dataset folder": (nothing, ["config.toml", "--set", "train_data_dir=none"], ["none does not exist"]),
    "empty dataset": (
        lambda project: (project / "empty").mkdir(),
        ["config.toml", "--set", "train_data_dir=empty"],
        ["No concept folder found"],
    ),
    "a concept folder": (
        nothing,
        ["config.toml", "--set", "train_data_dir=set/2_fox"],
        ["is itself a concept folder", "Give the folder that holds it"],
    ),
    "corrupt picture": (corrupt_picture, ["config.toml"], ["1 error", "2_fox/00.png"]),
    "NUL in a caption": (nul_caption, ["config.toml"], ["2_fox/00.txt", "NUL"]),
    "missing model": (nothing, ["config.toml", "--set", f"{MODEL}=./no.safetensors"], ["There is no model"]),
    "LoRA as model": (lora_as_model, ["config.toml", "--set", f"{MODEL}=model.safetensors"], ["is a LoRA"]),
    "truncated model": (truncated_model, ["config.toml", "--set", f"{MODEL}=model.safetensors"], ["model.safetensors"]),
    "pickled model": (pickle_model, ["config.toml", "--set", f"{MODEL}=model.ckpt"], ["model.ckpt", "pickle"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_said_once_and_leaves_nothing_behind(loratory: Call, project: Path, case: str) -> None:
    spoil, arguments, said = REFUSED[case]
    spoil(project)
    for verb in (["plan"], ["train"], ["train", "--json"], ["train", "--detach"]):
        result = loratory(*verb, *arguments)
        assert (result.code, result.out) == (2, ""), verb
        assert result.err.count("error: ") == 1 and "Traceback" not in result.err
        assert all(words in result.err for words in said), result.err
    assert not (project / "runs").exists()


def test_wrong_words_on_the_command_line(loratory: Call, project: Path) -> None:
    run = RunDirectory.create(project / "runs", "fox", dump_config(load_config("config.toml")))
    for arguments, said in {
        ("trian", "config.toml"): "Did you mean 'train'?",
        ("xyzzy",): "No such command 'xyzzy'",
        ("runs", "explode"): "No such command 'explode'",
        ("train", "config.toml", "--frobnicate"): "No such option",
        ("train",): "Give a CONFIG, or --resume RUN",
        ("train", "config.toml", "--resume", run.name): "Give a CONFIG, or --resume RUN",
        ("train", "--resume", run.name, "--set", "seed=1"): "could be training.seed or sample.seed",
        ("train", "config.toml", "--detach", "--json"): "--detach returns at once",
        ("plan",): "Missing argument 'CONFIG'",
        ("runs", "list", "elsewhere"): "elsewhere is not there",
    }.items():
        result = loratory(*arguments)
        assert (result.code, result.out) == (2, ""), arguments
        assert said in result.err and "Traceback" not in result.err, result.err


def test_a_caption_in_another_encoding_is_a_finding_and_no_failure(loratory: Call, project: Path) -> None:
    (project / "set" / "2_fox" / "00.txt").write_bytes("fox, caf\xe9".encode("latin-1"))
    result = loratory("plan", "config.toml")
    assert result.code == 0
    assert "warning: 2_fox/00.txt: is not UTF-8" in result.err and "UTF-8" not in result.out
    found = json.loads(loratory("plan", "config.toml", "--json").out)
    assert [finding["rule"] for finding in found["findings"]] == ["caption-encoding"]


def test_an_adapter_that_is_there_is_not_replaced(loratory: Call, project: Path) -> None:
    (project / "output").mkdir()
    (project / "output" / "fox.safetensors").write_text("hours of work")
    for verb in (["train"], ["train", "--detach"]):
        result = loratory(*verb, "config.toml")
        assert (result.code, result.out) == (2, "")
        assert "fox.safetensors exists already" in result.err and "output.overwrite = true" in result.err
    assert not (project / "runs").exists()
    assert (project / "output" / "fox.safetensors").read_text() == "hours of work"


def test_a_run_directory_that_cannot_be_made(loratory: Call, project: Path) -> None:
    (project / "runs").write_text("")
    result = loratory("train", "config.toml")
    assert (result.code, result.out) == (1, "")
    assert f"Cannot make a run directory in {project / 'runs'}: it is a file" in result.err
    assert "output.runs_dir" in result.err and result.err.count("error: ") == 1


def test_plan_tells_the_true_numbers(loratory: Call, project: Path) -> None:
    result = loratory("plan", "config.toml", "--set", "gradient_accumulation_steps=2")
    assert result.code == 0
    assert all(line.startswith(("note: ", "warning: ")) for line in result.err.splitlines())
    lines = result.out.splitlines()
    assert any(re.fullmatch(r"2_fox +2 +2 +4 +4 *", line) for line in lines)
    assert "steps  5 images an epoch, 3 batches, 2 steps at batch 2 x 2" in lines
    assert "       2 epochs, 4 steps in all" in lines
    made = json.loads(loratory("plan", "config.toml", "--json", "--captions").out)
    assert (made["steps_per_epoch"], made["total_steps"], made["saves"]) == (3, 6, 1)
    assert len(made["captions"]["2_fox/00.png"]) == 10


# ------------------------------------------------------------------------------------------- runs, as they stand


def make_run(folder: Path, name: str = "fox", *events: object, config: str = "") -> RunDirectory:
    run = RunDirectory.create(folder, name, config)
    with Recorder(run) as recorder:
        for event in events:
            recorder.write(event)
    return run


STARTED = Started(0, 4, 2, 2, "CPU", "0")


def step(number: int, loss: float = 0.5) -> Step:
    return Step(number, 1 + number // 3, loss, {"unet": 1e-4}, {"unet": 1e-4}, 1.0, 1.42, 0.0)


def rewrite(run: RunDirectory, **changes: object) -> None:
    run.write_record(dataclasses.replace(run.read_record(), **changes))


def test_runs_list_says_how_each_run_stands(loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loratory("runs", "list") == Said(0, "", "No runs in runs.\n")
    expected = {
        "alive": (STARTED, step(1)),
        "done": (STARTED, Finished("done", 4)),
        "halted": (STARTED, Finished("stopped", 2)),
        "broken": (STARTED, Finished("failed", 2, "why")),
    }
    for name, events in expected.items():
        make_run(Path("runs"), name, *events)
    gone = make_run(Path("runs"), "gone", STARTED)
    rewrite(gone, pid_started_s=1.0)
    RunDirectory.create(Path("runs"), "killed-at-once", "")
    lines = [line.split() for line in loratory("runs", "list").out.splitlines()]
    rows = {re.sub(r"-\d{8}-\d{6}$", "", name): marks for *marks, name in (line[:3] for line in lines)}
    assert rows == {
        "alive": ["●", "running"],
        "done": ["✓", "done"],
        "halted": ["■", "stopped"],
        "broken": ["✗", "failed"],
        "gone": ["✗", "crashed"],
        "killed-at-once": ["✗", "crashed"],
    }
    listed = json.loads(loratory("runs", "list", "--json").out)
    assert {Path(row["path"]).name.rsplit("-", 2)[0]: row["state"] for row in listed} == {
        name: state for name, (_, state) in rows.items()
    }


def test_a_run_that_is_not_being_trained_takes_no_commands(loratory: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", STARTED, Finished("done", 4))
    for command in ("stop", "save"):
        result = loratory("runs", command, run.path)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"error: {run.path} is not being trained: it is done.\n"
    assert Control(run.control).poll() == []


def test_commands_reach_a_run_that_is_being_trained(loratory: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", STARTED)
    assert loratory("runs", "save", run.path).code == 0
    assert loratory("runs", "stop", run.path).code == 0
    assert Control(run.control).poll() == [Command("save"), Command("stop")]


def test_resume_refuses_what_runs_and_what_is_done(loratory: Call, project: Path) -> None:
    config = dump_config(load_config("config.toml"))
    alive = make_run(project / "runs", "alive", STARTED, config=config)
    done = make_run(project / "runs", "done", STARTED, Finished("done", 4), config=config)
    for name, said in {
        alive.name: f"is being trained already (pid {os.getpid()} on ",
        "done": "is done; there is nothing to resume",
        "a": "is being trained already",
        "none": "There is no run “none” here",
        "./none": "none does not exist",
        str(project): "is not a run directory",
        str(done.path): "is done",
    }.items():
        for detach in ([], ["--detach"]):
            result = loratory("train", "--resume", name, *detach)
            assert (result.code, result.out) == (2, "")
            assert said in result.err and result.err.count("error: ") == 1


def test_a_run_is_found_by_the_beginning_of_its_name(loratory: Call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fox", "fox-2", "cat"):
        make_run(Path("runs"), name, STARTED, Finished("done", 4, f"I am {name}."))
    Path("cat").mkdir()  # a folder of the same name is not meant
    assert "I am cat." in loratory("watch", "cat").err
    assert "I am fox-2." in loratory("watch", "fox-2-").err
    assert "I am fox." in loratory("watch", "fox").err
    result = loratory("watch", "fo")
    assert result.code == 2 and "could be any of fox-" in result.err and result.err.count("error: ") == 1
    Path("dog").mkdir()
    assert "dog is not a run directory" in loratory("watch", "dog").err


# ------------------------------------------------------------------------------------------------ how it is shown


def test_watch_in_a_pipe_prints_plain_lines(loratory: Call, tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        "fox",
        Phase("reading the dataset", 0, 1),
        *(Phase("caching latents", done, 9) for done in range(1, 10)),
        STARTED,
        *(step(number) for number in (1, 2, 3, 4)),
        Validated(4, 2, 0.125, [SampleLoss("2_fox/00.png", 200, 0.1)]),
        Saved(4, 2, "/out/fox.safetensors", 489_000, 0.0),
        Notice("warning", "Look at this."),
        Finished("done", 4, "Trained 4 steps."),
    )
    result = loratory("watch", run.path)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "reading the dataset",
        "caching latents 1/9",
        "training from step 0 to 4 on CPU",
        "epoch 2/2 · step 4/4 · 1.42 s/step · loss 0.5000",
        "validation loss 0.1250 after step 4",
        "saved /out/fox.safetensors (489 kB), read back and compared",
        "warning: Look at this.",
        "Trained 4 steps.",
    ]


def test_watch_as_json_prints_the_events_as_they_were_written(loratory: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", STARTED, step(1, float("nan")), Notice("note", "füchse 🦊"), Finished("stopped", 1))
    result = loratory("watch", run.path, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.out == run.events.read_text("utf-8")


def test_watch_tells_how_a_run_ended(loratory: Call, tmp_path: Path) -> None:
    failed = loratory("watch", make_run(tmp_path, "a", STARTED, Finished("failed", 2, "It broke.", "Mend it.")).path)
    assert failed.code == 1 and "error: It broke.\nMend it.\n" in failed.err
    gone = make_run(tmp_path, "b", STARTED)
    rewrite(gone, pid_started_s=1.0)
    crashed = loratory("watch", gone.path)
    assert crashed.code == 1 and "is gone without a word" in crashed.err and "--resume" in crashed.err
    never = loratory("watch", RunDirectory.create(tmp_path, "c", "").path)
    assert never.code == 1 and "is gone without a word" in never.err


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
facts = st.fixed_dictionaries(
    {"step": st.from_regex(r"step \d{1,6}/\d{1,6}", fullmatch=True)},
    optional={
        "epoch": st.from_regex(r"epoch \d{1,4}/\d{1,4}", fullmatch=True),
        "pace": st.just("1.42 s/step"),
        "loss": st.just("loss 0.0871"),
        "eta": st.just("ETA 7 min 29 s"),
    },
)


@given(names, facts, st.integers(1, 250))
def test_a_progress_line_fits(name: str, facts: dict[str, str], width: int) -> None:
    layout = lay_out(name, facts, width)
    used = sum(cell_len(part) + 1 for part in (layout.name, layout.facts) if part) + layout.bar - (layout.bar == 0)
    assert facts["step"] in layout.facts
    assert layout.bar == 0 or 10 <= layout.bar <= 40
    # What is left when nothing more can be left out is cut off when it is drawn.
    assert used <= width or (layout.bar == 0 and layout.facts == facts["step"])


def test_a_narrow_terminal_does_without_the_less_important() -> None:
    facts = {
        "epoch": "epoch 4/10",
        "step": "step 194/510",
        "pace": "1.42 s/step",
        "loss": "loss 0.0871",
        "eta": "ETA 7 min 29 s",
    }
    assert lay_out("training", facts, 159) == (
        "training",
        40,
        "epoch 4/10 · step 194/510 · 1.42 s/step · loss 0.0871 · ETA 7 min 29 s",
    )
    narrow = "step 194/510 · 1.42 s/step · loss 0.0871 · ETA 7 min 29 s"
    assert lay_out("training", facts, 79) == ("training", 12, narrow)
    assert lay_out("training", facts, 70) == ("", 12, narrow)
    assert lay_out("training", facts, 40) == ("", 10, "step 194/510 · ETA 7 min 29 s")
    assert lay_out("training", facts, 10) == ("", 0, "step 194/510")
    assert lay_out("caching latents", {"step": "12/24"}, 79) == ("caching latents", 40, "12/24")
    assert lay_out("reading the dataset", {}, 79) == ("reading the dataset", 0, "")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (spoken_time(0), "0 s"),
        (spoken_time(59.6), "1 min 00 s"),
        (spoken_time(449), "7 min 29 s"),
        (spoken_time(3599.7), "1 h 00 min"),
        (spoken_time(11_100), "3 h 05 min"),
        (spoken_pace(1.417), "1.42 s/step"),
        (spoken_pace(0.0853), "85 ms/step"),
        (spoken_bytes(999), "999 bytes"),
        (spoken_bytes(880_400), "880 kB"),
        (spoken_bytes(6_912_000_000), "6.9 GB"),
        (spoken_bytes(37_200_000), "37 MB"),
    ],
)
def test_numbers_have_units(said: str, expected: str) -> None:
    assert said == expected


# ------------------------------------------------------------------------------------------ hostile text, odd streams


def test_hostile_names_and_captions_are_text(loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "set", {"3_[red]x[b]": 1, "1_[@click=app.quit]y\x1b[2J\nz": 1})
    evil = tmp_path / "set" / "3_[red]x[b]"
    (evil / "00.txt").write_text("[/b], [@click=app.quit]x, \x1b[31mred\x07, " + "very long, " * 80)
    for ending in ("png", "txt"):
        (evil / f"00.{ending}").rename(evil / f"a\x1b[2J\nerror: b[bold].{ending}")
    (evil / "note\x1b.gif").write_bytes(b"")
    write_config(tmp_path)
    result = loratory("plan", "config.toml", "--captions")
    assert result.code == 0
    for text in (result.out, result.err):
        assert not CONTROL_CHARACTERS.search(text), text
    assert "3_[red]x[b]" in result.out and "1_[@click=app.quit]y" in result.out
    assert "[/b], [@click=app.quit]x, " in result.out
    assert "note\\x1b.gif" in result.err and "captions are longer" in result.err
    # No line of ours begins with what a file is called.
    assert not any(line.startswith("error") for line in result.err.splitlines())
    (evil / "broken\x1b[2J.png").write_bytes(b"no picture")
    refused = loratory("train", "config.toml")
    assert refused.code == 2 and not CONTROL_CHARACTERS.search(refused.err)


def test_hostile_runs_are_text(loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(
        Path("runs"),
        "fox",
        Phase("[blink]\x1b[2Jphase", 1, 3),
        dataclasses.replace(STARTED, device="GPU\x1b[31m\nerror: x"),
        Notice("warning", "[/b] [@click=app.quit]x\x1b[0m\nerror: forged"),
        Saved(1, 1, "/out/[red]\x9b31m.safetensors", 1, 0.0),
        Finished("failed", 1, "[/b]\x1b]0;title\x07", "[@click=x]\x1b[2J"),
    )
    evil = run.path.rename(run.path.with_name("[red]x[b]\x1b[2J\nnew line"))
    for arguments in (["runs", "list"], ["watch", evil], ["runs", "stop", evil], ["watch", "[red]"]):
        result = loratory(*arguments)
        assert not CONTROL_CHARACTERS.search(result.out + result.err), arguments
        assert "[red]x[b]" in result.out + result.err or "[/b] [@click=app.quit]x" in result.err
        assert not any(line.startswith("error: forged") for line in result.err.splitlines())
    assert len(loratory("runs", "list").out.splitlines()) == 1
    assert json.loads(loratory("runs", "list", "--json").out)[0]["path"] == str(evil)


@pytest.fixture
def run_of_today(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs", "füchse", STARTED, Notice("note", "“très” · 🦊"), Finished("done", 4, "Done…"))


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = f"{sys.executable} -m loratory"
    return subprocess.run(
        ["bash", "-c", "set -o pipefail\n" + command.replace("loratory", program)],
        cwd=folder,
        env=subprocess_environment(**environment),
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_a_terminal_that_knows_only_ascii(run_of_today: RunDirectory, environment: dict[str, str]) -> None:
    folder = run_of_today.path.parent.parent
    done = shell("loratory runs list && loratory watch runs/*; loratory runs list --json", folder, **environment)
    assert done.returncode == 0, done.stderr
    (row, listed) = done.stdout.decode("ascii").split("\n", 1)
    assert re.match(r"v done      f(\\xfc|\?\?)chse-", row)
    assert json.loads(listed)[0]["path"].startswith("runs/f")
    assert done.stderr.decode("ascii").splitlines()[-2:] == ['note: "tr\\xe8s" - \\U0001f98a', "Done..."]


def test_streams_that_are_closed_or_close(run_of_today: RunDirectory) -> None:
    folder = run_of_today.path.parent.parent
    for command, out in {
        "loratory runs list <&-": True,
        "loratory runs list >&-": False,
        "loratory watch runs/* 2>&-": False,
        "loratory watch runs/* <&- >&- 2>&-": False,
        "loratory watch runs/* --json | head -1": True,
        "loratory watch runs/* 2>&1 | true": False,
        "loratory presets list | true": False,
        "loratory --help | true": False,
    }.items():
        done = shell(command, folder)
        assert done.returncode == 0, (command, done.stderr)
        assert bool(done.stdout) == out, command
        assert b"Error" not in done.stderr and b"Exception" not in done.stderr, (command, done.stderr)


def test_the_record_of_a_starting_process_is_not_a_crash(loratory: Call, tmp_path: Path) -> None:
    """`train --detach` writes the record of the process it started, which takes a second to do so itself."""
    run = RunDirectory.create(tmp_path, "fox", "")
    child = subprocess.Popen(["sleep", "60"])
    try:
        run.write_record(new_record(child.pid))
        assert loratory("runs", "list", tmp_path).out.split()[1] == "starting"
        assert loratory("runs", "stop", run.path).code == 0
    finally:
        child.kill()
        child.wait()
    assert loratory("runs", "list", tmp_path).out.split()[1] == "crashed"
