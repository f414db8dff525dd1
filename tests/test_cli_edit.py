"""`loratory DIR`: what opens the editor, and what is told instead of a traceback where it cannot open."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from editor_app import make_pictures, open_editor
from fake_run import FakeRun
from loratory.cli import main
from loratory.tui import start
from loratory.tui.app import LoratoryApp
from loratory.tui.crash import crash_file


def loratory(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loratory", *map(str, arguments)],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set"], "needs a terminal"),
        (["./set"], "needs a terminal"),
        (["missing/"], "needs a terminal"),
        (["missing"], "No such command 'missing'"),
        (["trian"], "Did you mean 'train'?"),
        (["set", "--preview", "colourful"], "needs a terminal"),
        (["set", "other"], "unexpected extra argument"),
    ],
)
def test_without_a_terminal_it_says_what_to_do(tmp_path: Path, arguments: list[str], says: str) -> None:
    make_pictures(tmp_path / "set", {"a": "fox"})
    done = loratory(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "set" / ".loratory").exists()


def test_a_verb_comes_before_a_folder_of_its_name(tmp_path: Path) -> None:
    make_pictures(tmp_path / "presets", {"a": "fox"})
    assert "needs a terminal" not in loratory("presets", "list", cwd=tmp_path).stderr
    assert "needs a terminal" in loratory("./presets", cwd=tmp_path).stderr


def test_help_names_it(tmp_path: Path) -> None:
    said = loratory("--help", cwd=tmp_path).stdout
    assert "PATH" in said and "Open the screens" in said


def test_alone_in_a_terminal_it_opens_what_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["loratory"])
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    opened: list[Path] = []
    monkeypatch.setattr("loratory.cli.edit.open_screens", lambda path, **_: opened.append(path) or 0)
    assert main._run(debug=False) == 0
    assert opened == [Path()]


@pytest.mark.parametrize(("holds", "first"), [("nothing", "plan"), ("a run", "run"), ("a configuration", "plan")])
def test_which_pane_is_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: str, first: str) -> None:
    opened: list[str] = []

    class Screens(LoratoryApp):
        def run(self, *_: object, **__: object) -> None:
            opened.append(self._first)

    path = tmp_path
    if holds == "a run":
        FakeRun(tmp_path).start()
    elif holds == "a configuration":
        path = tmp_path / "fox.toml"
        path.touch()
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((80, 24)))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)
    monkeypatch.setattr(start, "LoratoryApp", Screens)
    monkeypatch.chdir(tmp_path)
    start.run(path)
    assert opened == [first]


def test_the_traceback_of_a_defect_is_kept_until_the_next_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"a": "fox"})

    async def opened(defect: str = "") -> None:
        async with open_editor(tmp_path) as typist:
            if defect:
                typist.app._exit_renderables.append(defect)

    asyncio.run(opened("first [/b]"))
    assert crash_file().read_text() == "first [/b]\n"
    asyncio.run(opened())
    assert crash_file().read_text() == "first [/b]\n"
    asyncio.run(opened("second"))
    assert crash_file().read_text() == "second\n"
