"""`loratory check`: what it prints, what it mends, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loratory.cli.check import check
from loratory.editing.checks.rules import RULES
from loratory.editing.session import open_session
from loratory.errors import LoratoryError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four pictures (empty files: nothing here looks into them) with captions."""
    captions = {
        "1": b"foxlora, anthro, blue eyes, eyes, side view",
        "2": b"anthro, foxlora, spread legs, legs, blue eyes, eyes",
        "3": b"foxlora, anthro, solo, sitting, duo, duo",
        "4": "foxlora, anthro, café, sitting, solo".encode("cp1252"),
    }
    for name, caption in captions.items():
        folder = tmp_path / "set" / "10_foxlora"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").touch()
        (folder / f"{name}.txt").write_bytes(caption)
    return tmp_path / "set"


def run(*arguments: object) -> Result:
    # standalone_mode: the program itself turns the value into the exit code.
    return CliRunner().invoke(check, [str(argument) for argument in arguments], standalone_mode=False)


def found(*arguments: object) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout)


def test_findings_by_rule_the_worst_first(dataset: Path) -> None:
    done = run(dataset)
    assert done.return_value == 1
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    severities = [head.split(" · ")[0] for head in heads]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert "warning · instance-misplaced · 1" in heads
    assert "note · redundant · 3" in heads
    assert "  10_foxlora/2.png: “legs” looks redundant beside “spread legs”" in done.stdout
    assert "warnings" in done.stderr
    assert "in 4 pictures" in done.stderr


def test_notes_alone_are_no_failure(dataset: Path) -> None:
    done = run(dataset, "--rule", "redundant")
    assert done.return_value == 0
    assert len(done.stdout.splitlines()) == 4  # the rule, “eyes” on two pictures and their names, “legs” on one
    assert run(dataset, "--rule", "single-tag").stdout == ""
    assert "Nothing found" in run(dataset, "--rule", "single-tag").stderr


def test_json_has_everything(dataset: Path) -> None:
    report = found(dataset, "--vocabulary", "e621")
    assert report["vocabulary"] == "e621"
    assert report["captions"] == 4
    finding = next(each for each in report["findings"] if each["rule"] == "instance-misplaced")
    assert finding["picture"] == "10_foxlora/2.png"
    assert finding["path"].endswith("10_foxlora/2.txt")
    assert finding["tags"] == ["foxlora"]
    assert finding["fixes"] == [{"label": "move “foxlora” to the front", "scope": "image", "automatic": True}]
    assert {each["rule"] for each in report["findings"]} <= set(RULES)


def test_a_query_picks_captions(dataset: Path) -> None:
    report = found(dataset, "--where", "issue:redundant AND NOT issue:instance-misplaced")
    assert {each["picture"] for each in report["findings"]} == {"10_foxlora/1.png"}


def test_the_first_few_of_a_rule_and_how_to_see_the_others(dataset: Path) -> None:
    for number in range(20):
        (dataset / "10_foxlora" / f"x{number}.png").touch()
        (dataset / "10_foxlora" / f"x{number}.txt").write_text(
            f"foxlora, anthro, odd{number} ears, ears, blue eyes, eyes"
        )
    lines = run(dataset, "--rule", "redundant").stdout.splitlines()
    assert lines[0] == "note · redundant · 43"
    assert lines[1].startswith("  22 pictures: “eyes” looks redundant beside “blue eyes”")
    assert lines[2].startswith("    10_foxlora/1.png, 10_foxlora/2.png, ")
    assert lines[2].count("10_foxlora/x") == 20
    assert len(lines) == 1 + 2 + 21
    short = run(dataset).stdout.splitlines()
    assert "  and 12 more: --rule redundant shows all" in short
    assert (
        "    10_foxlora/1.png, 10_foxlora/2.png, 10_foxlora/x0.png, 10_foxlora/x1.png, 10_foxlora/x10.png and 17 more"
        in short
    )


def test_mending_is_one_batch_that_can_be_undone(dataset: Path) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*.txt")}
    dry = run(dataset, "--fix", "redundant", "--dry-run")
    assert dry.return_value == 0
    assert "-anthro, foxlora, spread legs, legs, blue eyes, eyes" in dry.stdout
    assert "+anthro, foxlora, spread legs, blue eyes" in dry.stdout
    assert {path: path.read_bytes() for path in dataset.rglob("*.txt")} == before
    assert not (dataset / ".loratory").exists()

    done = run(dataset, "--fix", "redundant")
    assert done.return_value == 0
    assert "2 captions changed" in done.stderr
    assert (dataset / "10_foxlora" / "2.txt").read_text() == "anthro, foxlora, spread legs, blue eyes"
    assert found(dataset, "--rule", "redundant")["findings"] == []

    open_session(dataset).journal.undo()
    assert {path: path.read_bytes() for path in dataset.rglob("*.txt")} == before


def test_an_encoding_is_mended_though_no_text_changes(dataset: Path) -> None:
    dry = run(dataset, "--fix", "caption-encoding", "--dry-run")
    assert b"-foxlora, anthro, caf\xe9, sitting, solo" in dry.stdout_bytes
    assert b"+foxlora, anthro, caf\xc3\xa9, sitting, solo" in dry.stdout_bytes
    report = found(dataset, "--fix", "caption-encoding")
    assert report == {
        "rule": "caption-encoding",
        "dry_run": False,
        "files": ["10_foxlora/4.txt"],
        "skipped": [],
        "left": 0,
    }
    assert (dataset / "10_foxlora" / "4.txt").read_text("utf-8") == "foxlora, anthro, café, sitting, solo"


def test_a_fix_of_the_whole_set(dataset: Path) -> None:
    (dataset / "10_foxlora" / "3.txt").write_text("foxlora, anthro, blue_eyes, solo, duo")
    assert run(dataset, "--fix", "spelling").return_value == 0
    assert (dataset / "10_foxlora" / "3.txt").read_text() == "foxlora, anthro, blue eyes, solo, duo"


def test_what_has_no_certain_fix_is_left_to_a_person(dataset: Path) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*.txt")}
    (dataset / "10_foxlora" / "5.png").touch()
    done = run(dataset, "--fix", "caption-missing")
    assert "1 of 1 findings need a person" in done.stderr
    assert {path: path.read_bytes() for path in dataset.rglob("*.txt")} == before


def test_tags_kept_on_purpose(dataset: Path) -> None:
    (dataset / ".loratory").mkdir()
    (dataset / ".loratory" / "dataset.toml").write_text('[kept]\nredundant = ["eyes"]\n')
    assert [each["tags"][0] for each in found(dataset, "--rule", "redundant")["findings"]] == ["legs"]


def test_file_names_are_no_commands_to_the_terminal(dataset: Path) -> None:
    (dataset / "10_foxlora" / "[red]\x1b[31m\n.png").touch()
    done = run(dataset)
    assert "\x1b" not in done.stdout
    assert "[red]\\x1b[31m\\n.png" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rule", "implid"], "Did you mean implied?"),
        (["--fix", "x"], "--list-rules"),
        (["--where", "tag:("], ""),
    ],
)
def test_wrong_use(dataset: Path, arguments: list[str], words: str) -> None:
    done = run(dataset, *arguments)
    assert isinstance(done.exception, LoratoryError)
    assert done.exception.exit_code == 2
    assert words in done.exception.hint


def test_arguments_that_do_not_go_together(dataset: Path) -> None:
    assert "Missing argument" in str(run().exception)
    assert "--dry-run goes with --fix" in str(run(dataset, "--dry-run").exception)


def test_the_rules_can_be_listed() -> None:
    lines = run("--list-rules").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(RULES)
    assert [each["rule"] for each in json.loads(run("--list-rules", "--json").stdout)] == list(RULES)
