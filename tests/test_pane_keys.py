"""From every pane to every other by its keys, with a dataset and without one."""

import asyncio
from pathlib import Path

import pytest

from editor_app import make_pictures, open_editor
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.keymaps import Keymaps
from loratory.tui.keys import PANES
from loratory.tui.project import Project, open_project


def test_every_pane_leads_to_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(_through_all_panes(tmp_path))


async def _through_all_panes(tmp_path: Path) -> None:
    async with open_editor(make_pictures(tmp_path / "1_fox", {"a": "fox, [/b]"})) as typist:
        for number, name in enumerate(PANES, start=1):
            for target, other in enumerate(PANES, start=1):
                typist.app.show_pane(name)
                await typist.until(lambda name=name: typist.app.current_mode == name)
                keys = ("g", str(target)) if name == "tags" else (str(target),)
                if target != number:
                    await typist.type(*keys)
                await typist.until(lambda other=other: typist.app.current_mode == other)


def test_without_a_dataset_its_panes_say_so(tmp_path: Path) -> None:
    asyncio.run(_without_a_dataset(tmp_path))


async def _without_a_dataset(tmp_path: Path) -> None:
    app = LoratoryApp(None, Keymaps(), Graphics("half"), project=Project(tmp_path, tmp_path / "runs"), first="run")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        for key in "123":
            await pilot.press(key)
            await pilot.pause()
            assert app.current_mode == "run"
            assert "No dataset is open" in app.panes["run"].message
        await pilot.press("4")
        await pilot.pause()
        assert app.current_mode == "plan"
    app.close()


@pytest.mark.parametrize(
    ("made", "opened", "expected"),
    [
        (["1_fox/"], "", "dataset"),
        (["fox.toml"], "fox.toml", "config"),
        (["runs/a/config.toml", "runs/a/state/", "runs/a/events.jsonl"], "runs/a", "run"),
        (["runs/a/config.toml", "runs/a/state/", "runs/a/events.jsonl"], "runs", "runs"),
        (["runs/a/config.toml", "runs/a/state/", "runs/a/events.jsonl"], "", "runs"),
        (["runs/a/config.toml", "runs/a/state/", "runs/a/events.jsonl", "1_fox/"], "", "dataset"),
    ],
)
def test_what_a_path_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str], opened: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in made:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    project = open_project(tmp_path / opened)
    found = {
        "config": project.config,
        "run": project.run,
        "dataset": project.dataset,
    }
    kind = next((name for name, value in found.items() if value is not None), "runs")
    assert kind == expected
    if expected == "runs":
        assert project.runs_dir == tmp_path / "runs" and project.newest_run() is not None
