"""What `loratory doctor` finds out, and whether it says so with its exit code."""

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loratory import paths
from loratory.cli import doctor as doctor_module
from loratory.cli.doctor import doctor
from loratory.errors import LoratoryError
from loratory.terminal import probe, tmux
from loratory.terminal.modes import Answers

NOWHERE = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "COLORTERM": "truecolor"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMUX", "STY", "NO_COLOR", "SSH_CONNECTION", "SSH_TTY", "LC_ALL", "LC_CTYPE", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, arguments, standalone_mode=False)


def checks() -> dict[str, dict[str, str]]:
    return {check["about"]: check for check in json.loads(run("--json").stdout)["checks"]}


def test_all_is_well_without_a_terminal() -> None:
    result = run()
    assert result.return_value == 0, result.stdout
    assert "✗" not in result.stdout
    assert re.search(r"^✓ program +Loratory \S+, Python 3\.", result.stdout, re.MULTILINE)
    assert re.search(r"^· terminal +none: ", result.stdout, re.MULTILINE)
    assert re.search(r"^✓ pictures +half: no terminal could be asked", result.stdout, re.MULTILINE)
    assert not paths.config_dir().exists()  # it only looks


def test_says_the_same_in_json() -> None:
    found = checks()
    assert {check["state"] for check in found.values()} <= {"ok", "note"}
    assert found["colours"]["text"] == "16 million"
    assert found["characters"]["text"] == "locale C.UTF-8"
    assert str(paths.data_dir()) == found["data"]["text"]


@pytest.mark.parametrize(
    ("variable", "value", "about", "state", "text"),
    [
        ("NO_COLOR", "1", "colours", "note", "none: NO_COLOR is set"),
        ("NO_COLOR", "1", "pictures", "ok", "ascii: NO_COLOR is set"),
        ("COLORTERM", "", "colours", "note", "256"),
        ("LANG", "de_DE.ISO-8859-1", "characters", "note", "locale de_DE.ISO-8859-1 is not UTF-8"),
        ("ESCDELAY", "25", "escape key", "ok", "taken as a key of its own after ESCDELAY=25 ms"),
        ("LORATORY_PREVIEW", "ascii", "pictures", "ok", "ascii: it was asked for"),
        ("LORATORY_PREVIEW", "fancy", "pictures", "fails", "“fancy” in $LORATORY_PREVIEW is not a way"),
    ],
)
def test_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, about: str, state: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = checks()[about]
    assert (found["state"], found["text"][: len(text)]) == (state, text)
    assert run().return_value == (state == "fails")


def test_asks_the_terminal_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(("foot(1.21.0)", "kitty(0.42.1)"))
    monkeypatch.setattr(probe, "ask", lambda env, typed: Answers(True, True, True, (62, 4), (9, 18), next(names)))
    monkeypatch.setattr(probe, "measured_cell_px", lambda: None)
    assert "foot(1.21.0)" in checks()["pictures"]["text"]
    assert checks()["pictures"]["text"] == (
        "kitty: the terminal answered kitty's query; the terminal is kitty(0.42.1); a cell has 9x18 px"
    )


def test_names_the_lines_that_tmux_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "tmux-256color")
    elsewhere = checks()["tmux"]
    assert elsewhere["text"].startswith("runs on another machine")
    assert "set -g allow-passthrough on" in elsewhere["hint"]

    values = {"allow-passthrough": "0", "client_termfeatures": "256,title", "escape-time": "500"}
    monkeypatch.setattr(tmux, "ask", lambda env, *names: tuple(values.get(name, "") for name in names))
    found = checks()["tmux"]
    assert found["text"] == "better with these lines in ~/.tmux.conf; it holds Esc back for 500 ms"
    assert found["hint"].splitlines() == [
        "set -g allow-passthrough on",
        "set -ga terminal-features ',*:RGB'",
        "set -sg escape-time 10",
    ]
    values.update({"allow-passthrough": "1", "client_termfeatures": "256,RGB,title", "escape-time": "10"})
    assert checks()["tmux"]["state"] == "ok"
    assert checks()["tmux"]["hint"] == ""


def test_fails_where_a_folder_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "file"))
    result = run()
    assert result.return_value == 1
    assert re.search(r"^✗ settings +\S+: cannot be written \(Not a directory\)", result.stdout, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fails_where_a_vocabulary_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(site: str) -> None:
        raise LoratoryError(f"{site}.sqlite is \x1b[2Jdamaged.", hint="Import it again.")

    monkeypatch.setattr("loratory.tags.vocabulary.store.open_vocabulary", damaged)
    result = run()
    assert result.return_value == 1
    assert "e621.sqlite is \N{REPLACEMENT CHARACTER}[2Jdamaged." in result.stdout


def test_fails_where_a_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_LIBRARIES", ("rich", "no-such-library"))
    found = [check for check in json.loads(run("--json").stdout)["checks"] if check["about"] == "libraries"]
    assert [check["state"] for check in found] == ["ok", "fails"]
    assert found[1]["text"] == "not installed: no-such-library"


def test_busy_machines_get_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert "OMP_WAIT_POLICY=passive" in checks()["machine"]["hint"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert checks()["machine"]["state"] == "ok"


@pytest.mark.slow
def test_looks_for_graphics_cards_when_asked() -> None:
    found = json.loads(run("--gpu", "--json").stdout)["checks"]
    [card] = [check for check in found if check["about"] == "graphics card"]
    assert card["state"] in ("ok", "note")
    assert card["text"] != "not looked for"
