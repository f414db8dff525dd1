"""What the documents tell a person to type exists, and what they link to is there."""

import random
import re
import shlex
from pathlib import Path

import click
import pytest
from PIL import Image

from loratory.cli.main import VERBS, cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Folders that the documents open in the editor: `loratory DIR` has no verb.
EDITED = ("DIR", "fox-set", "hearts", "fox.toml", "./runs")
COMMAND = re.compile(r"(?:^|`|bin/)loratory ([^`\n#]+)", re.MULTILINE)


def commands_in(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`(loratory [^`]+)`", page.read_text("utf-8"))
    return [match[1] for text in [*lines, *spans] for match in COMMAND.finditer(text) if "…" not in match[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_these_options(page: Path) -> None:
    for text in commands_in(page):
        words = shlex.split(text)
        if words[0] in EDITED:
            words.insert(0, "edit")
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, text
            command = found
        # Parsing only: the files named in a document need not be there.
        if words:
            command.make_parser(click.Context(command)).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert all(f"loratory {verb}" in text for verb in VERBS)


def test_the_two_commands_of_the_readme() -> None:
    """The first is what the wheel test does in a clean environment; the second is this gate."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/loratory demo" in text
    assert (ROOT / "scripts" / "check").stat().st_mode & 0o111


def test_the_way_from_raw_pictures_to_a_set_worth_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 1 to 4 as they stand there; the originals stay what they were."""
    raw = tmp_path / "Raw"
    raw.mkdir()
    for index in range(9):
        # Patches all over: nothing that a fix would crop and then have enlarged, which takes seconds.
        patches = Image.frombytes("RGB", (14, 13), random.Random(index).randbytes(14 * 13 * 3))
        picture = patches.resize((560, 520), Image.Resampling.NEAREST).convert("RGBA")
        if index % 2:
            picture.paste((0, 0, 0, 0), (0, 0, 400, 260))
        picture.save(raw / f"{index:03}.webp", lossless=True)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))
    text = (ROOT / "README.md").read_text("utf-8")
    tour = text[text.index("**1. Pictures.**") : text.index("**5. A config**")]
    lines = [line for block in re.findall(r"```console\n(.*?)```", tour, re.DOTALL) for line in block.splitlines()]
    run = [line for line in lines if line.split()[1] in VERBS and not line.startswith("loratory vocab")]
    assert len(run) > 7
    for line in run:
        code = cli.main(shlex.split(line)[1:], standalone_mode=False)
        # A check says by its exit code that there is something to say.
        assert (code or 0) in ((0, 1) if line == "loratory check fox-set" else (0,)), f"{line}: {capsys.readouterr()}"
    made = tmp_path / "fox-set" / "10_sks fox"
    assert sorted(path.name for path in made.glob("*.png")) == [f"{index:03}.png" for index in range(9)]
    assert (made / "001.txt").read_text().startswith("sks, fox, white background")
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.suffix == ".webp"} == before
