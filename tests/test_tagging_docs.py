"""docs/tagging.md, panes.md and dashboard.md are true: the commands run, the keys are those of the panes, the files can
be read, the pictures are of the panes as they are."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from editor_app import make_pictures
from loratory.cli.main import cli
from loratory.editing.settings import read_settings
from loratory.tui.keymaps import Keymaps, actions_of
from loratory.tui.keys import ACTIONS, PANES, read_keymap
from loratory.tui.prepare.actions import BOX_ACTIONS
from loratory.tui.stats.sections import SECTIONS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tagging.md").read_text("utf-8")
PANES_PAGE = (ROOT / "docs" / "panes.md").read_text("utf-8")
DASHBOARD_PAGE = (ROOT / "docs" / "dashboard.md").read_text("utf-8")


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def table_of(page: str, name: str) -> list[str]:
    """The rows between the marks of a table of keys."""
    return page.split(f"<!-- keys of {name}:")[1].split(f"<!-- end of keys of {name} -->")[0].splitlines()


@pytest.fixture
def fox_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    captions = {
        "001": "dog, tabby, blue eyed, white background, simple background",
        "002": "day, sketch, white_background",
        "003": "sketch, white background, side view",
        "004": "day, sketch, side view",
        "005": "day, sketch, night",
        "006": "day, sketch, day",
        "007": None,
    }
    make_pictures(tmp_path / "fox-set" / "10_sks fox", captions)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))
    return tmp_path / "fox-set"


def invoke(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command, and all that it says."""
    program, *words = shlex.split(line)
    assert program == "loratory"
    code = cli.main(words, standalone_mode=False)
    said = capsys.readouterr()
    return code or 0, said.out + said.err


def test_the_commands_run(fox_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) > 10
    for line in lines:
        code, said = invoke(line, capsys)
        # A check says by its exit code that there is something to say.
        assert code == (1 if line == "loratory check fox-set" else 0), f"{line}: {said}"
    assert (fox_set / "10_sks fox" / "001.txt").read_text() == "sks, fox, collar, tabby, blue eyes, white background"


def test_an_answer_is_the_one_shown(fox_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^\$ (loratory .*)\n(.*)$", PAGE, re.MULTILINE)
    assert shown
    for line, answer in shown:
        assert invoke(line, capsys)[1].splitlines()[-1] == answer


def test_tables_of_keys_are_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "keys_doc.py"), "--check"])
    assert done.returncode == 0, "run scripts/keys_doc.py"


@pytest.mark.parametrize("name", [*PANES, "boxes"])
def test_every_action_stands_in_its_table_with_its_keys(name: str) -> None:
    page = PAGE if name == "tags" else DASHBOARD_PAGE if name in ("plan", "run", "gallery") else PANES_PAGE
    rows = table_of(page, name)
    for action in BOX_ACTIONS if name == "boxes" else actions_of(name):
        row = next(line for line in rows if line.startswith(f"| `{action.id}` |"))
        assert all(f"`{keys}`" in row for keys in action.keys)


def test_keys_in_the_text_are_keys() -> None:
    """Every key of one character or sequence that the page names before its table is somebody's."""
    prose = PAGE[: PAGE.index("## Keys")]
    known = {keys for action in ACTIONS for keys in action.keys} | {"=", ",", "n", "y", "r", "f"}
    named = set(re.findall(r"`([^\s`:]|[gyz\]\[] [^\s`])`", prose)) - {"○", "✓"}
    assert len(named) > 25
    assert named <= known


@pytest.mark.parametrize(
    ("title", "names", "least"),
    [
        ("# The panes", ["tags", "prepare", "stats"], 6),
        ("## Prepare", ["prepare"], 11),
        ("### Crop, split, mask", ["prepare", "boxes"], 10),
        ("## Stats", ["stats"], 7),
    ],
)
def test_keys_in_the_text_about_panes_are_keys(title: str, names: list[str], least: int) -> None:
    """Every single key or sequence that a section names is a key of the pane it is about."""
    begin = PANES_PAGE.index(title)
    prose = re.split(r"\n#", PANES_PAGE[begin + 1 :], maxsplit=1)[0]
    actions = [action for name in names for action in (BOX_ACTIONS if name == "boxes" else actions_of(name))]
    known = {keys for action in actions for keys in action.keys}
    signs = re.findall(r"^\| `(.)` \|", prose, re.MULTILINE)
    prose = re.sub(r"^\|.*", "", prose, flags=re.MULTILINE)
    named = set(re.findall(r"`([^\s`:]|[gz\]\[] [^\s`])`", prose))
    assert len(signs) == (7 if title == "## Prepare" else 0)
    assert least <= len(named)
    assert named - {"p", "!"} <= known  # a key of the list of findings in the tag editor, and the sign of a finding


def test_every_section_of_the_statistics_is_told_of() -> None:
    rows = [line for line in PANES_PAGE[PANES_PAGE.index("## Stats") :].splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2 : 2 + len(SECTIONS)]] == list(SECTIONS)


def test_the_key_file_for_panes_is_one(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(blocks("toml", PANES_PAGE)[0], encoding="utf-8")
    keymaps = Keymaps(tmp_path / "keys.toml")
    assert keymaps("prepare").keys_of("skip") == "d"
    assert keymaps("stats").keys_of("apply") == "A"


def test_the_key_file_shown_is_one(tmp_path: Path) -> None:
    block = next(block for block in blocks("toml") if "[keys]" in block)
    (tmp_path / "keys.toml").write_text(block, encoding="utf-8")
    keymap = read_keymap(tmp_path / "keys.toml")
    assert [action.id for action in keymap.actions if "enter" in action.keys] == ["accept"]
    assert keymap.keys_of("next-finding") == "-"
    assert keymap.keys_of("replay") == ""


def test_the_settings_shown_are_read_and_name_every_key(tmp_path: Path) -> None:
    block = next(block for block in blocks("toml") if "vocabulary" in block)
    (tmp_path / ".loratory").mkdir()
    (tmp_path / ".loratory" / "dataset.toml").write_text(block, encoding="utf-8")
    settings = read_settings(tmp_path)
    assert (settings.vocabulary, settings.goal) == ("e621", "character")
    assert settings.palette == ["side view", "", "white background"]
    assert settings.kept == {"implied": ["anthro"], "few-tags": ["*"]}
    assert settings.caption_settings().keep_tokens == 2
    assert all(f"\n{name} =" in block or f"\n[{name}]" in block for name in vars(settings))


@pytest.mark.slow
def test_the_screenshots_show_the_editor_as_it_is() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "screenshots.py"), "--check"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_screenshots_need_no_network_and_name_no_machine(path: Path) -> None:
    svg = path.read_text("utf-8")
    assert not re.search(r"url\(\"?http|@font-face|@import", svg)
    assert not re.search(r"/(tmp|home|root|var|Users)/", svg)
    assert "hearts" in svg
