"""Runs beside each other: on the command line, and as a list on the screen."""

import asyncio
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from command_line import Call
from loratory.config.load import dump_config, load_config
from loratory.errors import LoratoryError
from loratory.runs.compare import Difference, glance, loss_series, settings_diff, summary
from loratory.runs.events import SampleLoss, Saved, Started, Step, encode
from loratory.runs.store import RunDirectory, new_record
from loratory.tui.project import Project
from loratory.tui.run.runs_list import RunsScreen
from loratory.tui.screens.overlays import TextScreen
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.table import Table

_CONFIG = """
[model]
pretrained_model_name_or_path = "owner/name"
[dataset]
train_data_dir = "set"
[training]
max_train_steps = 20
"""


def make_run(folder: Path, name: str = "fox", losses: tuple[float, ...] = (), **changes: str) -> RunDirectory:
    """A run that is done, with two epochs of equal length."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(_CONFIG, "utf-8")
    settings = [f"output.output_name={name}", *(f"{key}={value}" for key, value in changes.items())]
    run = RunDirectory.create(folder / "runs", name, dump_config(load_config(folder / "config.toml", settings)))
    half = max(1, len(losses) // 2)
    events: list[Any] = [Started(0, len(losses), 2, half, "CPU", "1")]
    for step, loss in enumerate(losses, 1):
        sample = SampleLoss("1_fox/a.png", 500, loss)
        events.append(Step(step, 1 + (step > half), loss, {"unet": 1e-3}, {"unet": 1e-3}, 1.0, 0.1, 0.0, [sample]))
    events.append(Saved(len(losses), 2, f"/out/{name}.safetensors", 9, 0.0))
    run.events.write_text("\n".join(map(encode, events)) + "\n", "utf-8")
    record = replace(new_record(), status="done", step=len(losses), total_steps=len(losses))
    run.write_record(replace(record, heartbeat_s=record.started_s + 90))
    return run


LOSSES = (0.4, 0.3, 0.2, 0.2, 0.1, 0.1, math.nan, 0.1)


def test_only_settings_that_differ_and_names_last(tmp_path: Path) -> None:
    a = make_run(tmp_path, "fox", (), **{"training.seed": "7"})
    b = make_run(tmp_path / "b", "hare", (), **{"training.seed": "8", "optimizer.learning_rate": "1e-3"})
    keys = [difference.key for difference in settings_diff(a, b)]
    assert keys.index("optimizer.learning_rate") < keys.index("dataset.train_data_dir")
    assert keys.index("training.seed") < min(keys.index("output.output_name"), keys.index("output.output_dir"))
    assert "network.network_dim" not in keys
    assert settings_diff(a, a) == []


def test_settings_of_other_versions_and_of_subsets(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "fox"), make_run(tmp_path, "hare")
    a.config.write_text("[training]\nnew_thing = 1\n[[dataset.subsets]]\nnum_repeats = 2\n", "utf-8")
    b.config.write_text("[[dataset.subsets]]\nnum_repeats = 3\n[[dataset.subsets]]\nnum_repeats = 1\n", "utf-8")
    assert settings_diff(a, b) == [
        Difference("dataset.subsets[1].num_repeats", 2, 3),
        Difference("dataset.subsets[2].num_repeats", None, 1),
        Difference("training.new_thing", 1, None),
    ]
    b.config.write_text("no toml", "utf-8")
    with pytest.raises(LoratoryError, match="line 1"):
        settings_diff(a, b)


def test_a_summary(tmp_path: Path) -> None:
    told = summary(make_run(tmp_path, losses=LOSSES))
    assert (told.state, told.step, told.total_steps, told.epoch, told.epochs) == ("done", 8, 8, 2, 2)
    assert told.loss == pytest.approx(0.1) and told.best_loss == pytest.approx(0.1)
    assert told.exposures == {"1_fox": 8.0} and told.output == "/out/fox.safetensors"
    assert told.lasted_s == pytest.approx(90) and told.normalised is not None
    empty = summary(make_run(tmp_path / "b"))
    assert empty.loss is None and empty.best_loss is None and empty.normalised is None


def test_a_glance_reads_the_end_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, losses=LOSSES)
    assert glance(run).loss == pytest.approx(0.1) and glance(run, with_loss=False).loss is None
    step = encode(Step(1, 1, 0.5, {}, {}, 1.0, 1.0, 0.0))
    empty = encode(Step(2, 1, 0.0, {}, {}, 0.0, 1.0, 0.0))  # all of its pictures are left out
    run.events.write_text("x" * 10**6 + "\n" + f"{step}\n{empty}\n" * 10 + '{"v":1,"t":1,"kind":"st', "utf-8")
    assert glance(run).loss == pytest.approx(0.5)
    run.record.unlink()
    run.events.unlink()
    assert (glance(run).state, glance(run).loss, glance(run).lasted_s) == ("crashed", None, None)


def test_losses_for_a_chart_are_few_and_tell_of_broken_steps(tmp_path: Path) -> None:
    series = loss_series(make_run(tmp_path, losses=LOSSES * 100), most=50)
    assert len(series.steps) == len(series.values) <= 50 and series.steps == sorted(series.steps)
    assert series.broken and all(math.isfinite(value) for value in series.values)


def test_diff_on_the_command_line(loratory: Call, tmp_path: Path) -> None:
    a = make_run(tmp_path, "fox", LOSSES)
    b = make_run(tmp_path, "hare", LOSSES, **{"caption.caption_prefix": "[/b]\x1b[2J "})
    code, out, err = loratory("runs", "diff", a.path, b.path)
    assert (code, err) == (0, "") and "caption.caption_prefix" in out and "[/b]" in out and "\x1b" not in out
    assert "8 of 8" in out and "/out/hare.safetensors" in out and f"a {a.name}, b {b.name}" in out and "×" in out
    code, out, _ = loratory("runs", "diff", a.path, b.path, "--json")
    told = json.loads(out)
    assert code == 0 and [run["name"] for run in told["runs"]] == [a.name, b.name]
    assert {setting["key"] for setting in told["settings"]} == {"caption.caption_prefix", "output.output_name"}
    assert loratory("runs", "diff", a.path, a.path)[2] == "Both were trained with the same settings.\n"
    assert loratory("runs", "diff", a.path, tmp_path)[0] == 2


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_runs_diff_breaks_no_word(
    loratory: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    a = make_run(tmp_path / "a", "arctic_fox_of_the_north_v1", LOSSES, **{"caption.caption_tag_dropout_rate": "0.1"})
    b = make_run(tmp_path / "b", "arctic_fox_of_the_north_v2", LOSSES)
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = loratory("runs", "diff", a.path, b.path)
    assert (code, err) == (0, "")
    for word in (a.name, b.name, "/out/arctic_fox_of_the_north_v1.safetensors", "caption_tag_dropout_rate"):
        assert word in out
    lines = out.splitlines()
    beside = [line for line in lines if a.name in line and b.name in line and "loss" not in line]
    assert len(beside) == (columns == 200)
    if columns == 80:
        assert max(map(len, lines[: lines.index("")])) <= 80
        assert [line for line in lines if line.split() == ["a", "b"]]


# ---------------------------------------------------------------------------------------------- on the screen


class FakePanes:
    """The program, as far as the list asks for it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.run_shown: RunDirectory | None = None
        self.shown: list[tuple[str, Path]] = []

    def show_run(self, run: RunDirectory) -> None:
        self.shown.append(("run", run.path))

    def plan_config(self, path: Path) -> None:
        self.shown.append(("plan", path))


class Lister(App[None]):
    def __init__(self, runs_dir: Path, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.fake = FakePanes(Project(runs_dir.parent, runs_dir))
        self.list = RunsScreen(self.fake, glyphs)  # pyright: ignore[reportArgumentType]
        self.answer: object = "none yet"

    def on_mount(self) -> None:
        self.push_screen(self.list, lambda answer: setattr(self, "answer", answer))


def text_of(app: Lister) -> str:
    table = app.list.query_one(Table)
    return "\n".join("  ".join(line.cells) for line in table.view.lines)


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        await pilot.pause(0.01)


def listed(app: Lister, *keys: str, size: tuple[int, int] = (80, 24), read: int = 1) -> str:
    """Opens the list, waits until so many rows are read, presses keys: the text that was shown before."""

    async def scenario() -> str:
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: text_of(app).count("step") or len(app.list.runs) >= read)
            await until(
                pilot, lambda: sum(bool(line.cells[1]) for line in app.list.query_one(Table).view.lines) >= read
            )
            text = text_of(app)
            await pilot.press(*keys)
            await pilot.pause()
            if isinstance(app.screen, TextScreen):
                text = "\n".join(line.plain for line in app.screen._lines)
            return f"{text}\n{app.list.message}"

    return asyncio.run(scenario())


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Three runs, the newest named owl, whose learning rate is another."""
    for age, name in enumerate(("owl", "hare", "fox")):
        run = make_run(tmp_path, name, LOSSES, **{"training.seed": "8" if name == "owl" else "7"})
        os.utime(run.config, (1e9 - age, 1e9 - age))
    return tmp_path / "runs"


@pytest.mark.parametrize(("glyphs", "done"), [(UNICODE, "✓ done"), (ASCII, "v done")])
def test_the_list_of_runs(runs_dir: Path, glyphs: Glyphs, done: str) -> None:
    rows = listed(Lister(runs_dir, glyphs), read=3).splitlines()
    assert [row.split("-")[0].rpartition(" ")[2] for row in rows[:3]] == ["owl", "hare", "fox"]
    assert all(done in row and "8/8" in row and "1 min 30 s" in row and "0.1000" in row for row in rows[:3])


def test_keys_of_the_list(runs_dir: Path) -> None:
    app = Lister(runs_dir)
    listed(app, "j", "enter")
    assert app.answer is None and app.fake.shown == [("run", app.list.runs[1].path)]
    app = Lister(runs_dir)
    listed(app, "G", "c")
    assert app.fake.shown == [("plan", app.list.runs[2].config)]
    app = Lister(runs_dir)
    listed(app, "space", "j", "space", "o")
    assert app.answer == [app.list.runs[0], app.list.runs[2]]
    app = Lister(runs_dir)
    listed(app, "q")
    assert app.answer is None and app.fake.shown == []


def test_settings_of_two_marked_runs(runs_dir: Path) -> None:
    text = listed(Lister(runs_dir), "space", "space", "=")
    assert "training.seed" in text and "a  owl" in text and "b  hare" in text
    assert "Mark two runs" in listed(Lister(runs_dir), "=")


def test_no_runs(tmp_path: Path) -> None:
    app = Lister(tmp_path / "none")

    async def scenario() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "No runs in" in app.list.query_one(Table).view.empty)
            await pilot.press("space", "=", "o", "enter", "j", "G", "?", "escape")
            assert app.screen is app.list and app.answer == "none yet"

    asyncio.run(scenario())


def test_damaged_runs_and_hostile_names(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("[red][@click=app.quit]x", "\x1b[2J\u202eevil", os.fsdecode(b"a\xffb"), "x" * 200):
        (runs / name / "state").mkdir(parents=True)
        (runs / name / "config.toml").write_text("no toml", "utf-8")
        (runs / name / "run.json").write_text("[1]", "utf-8")
        (runs / name / "events.jsonl").write_bytes(b"\xff\n[]\n{}\n")
    odd = {"status": "done", "pid": 1, "pid_started_s": 1, "host": "x", "started_s": 1e300, "heartbeat_s": "now"}
    (runs / ("x" * 200) / "run.json").write_text(json.dumps(odd), "utf-8")
    for size in ((80, 24), (40, 8), (160, 48)):
        text = listed(Lister(runs), "space", "space", "=", "?", "escape", "escape", size=size, read=4)
        assert "not started" in text


def test_a_thousand_runs_are_listed_at_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number in range(1000):
        (runs / f"run-{number:04}" / "state").mkdir(parents=True)
        (runs / f"run-{number:04}" / "config.toml").touch()
    app = Lister(runs)
    listed(app, "G", size=(160, 48), read=40)
    assert len(app.list._glances) < 250, "rows that nobody looks at are not read"
