"""`loratory check`: what it prints, what it mends, and its exit codes."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hostile_pictures import BAD, GOOD
from loratory.cli.check import check
from loratory.editing.checks.rules import PICTURE_RULES, RULES
from loratory.editing.session import open_session
from loratory.errors import LoratoryError
from loratory.preparation.desk import Desk


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


def test_a_class_goes_behind_an_instance_that_is_added_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "3_fox badge"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").touch()
        (folder / f"{number}.txt").write_text(f"fox, badge, round, tag {number}" if number else "red fox, old, badge")
    assert run(tmp_path, "--no-pictures", "--fix", "all").return_value == 0
    assert (folder / "0.txt").read_text() == "fox, badge, red fox, old"


def test_an_encoding_is_mended_though_no_text_changes(dataset: Path) -> None:
    dry = run(dataset, "--fix", "caption-encoding", "--dry-run")
    assert b"-foxlora, anthro, caf\xe9, sitting, solo" in dry.stdout_bytes
    assert b"+foxlora, anthro, caf\xc3\xa9, sitting, solo" in dry.stdout_bytes
    report = found(dataset, "--fix", "caption-encoding")
    assert report == {
        "rules": ["caption-encoding"],
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


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Eight pictures that are well but for one of each kind of mistake, with captions."""
    folder = tmp_path / "set" / "10_foxlora"
    folder.mkdir(parents=True)
    noise = random.Random(1)
    for number in range(7):
        made = Image.effect_noise((64, 64), 90).convert("RGB")
        made.paste((noise.randrange(256), noise.randrange(256), 90), (8 * (number % 7), 20, 60, 40))
        made.resize((520, 520)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("foxlora, anthro, solo, side view, sitting")
    Image.open(folder / "0.png").convert("CMYK").save(folder / "0.tif")
    clear = Image.open(folder / "1.png").convert("RGBA")
    clear.paste((255, 0, 0, 0), (0, 0, 300, 300))
    clear.save(folder / "1.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:2000])
    Image.open(folder / "3.png").resize((300, 300)).save(folder / "3.png")
    return tmp_path / "set"


def test_pictures_are_looked_at(drawn: Path) -> None:
    report = found(drawn)
    by_rule = {each["rule"]: each for each in report["findings"]}
    assert by_rule["image-unreadable"]["severity"] == "error"
    assert by_rule["image-unreadable"]["picture"] == "10_foxlora/2.png"
    assert by_rule["transparent"]["severity"] == "warning"
    assert by_rule["image-format"]["picture"] == "10_foxlora/0.tif"
    assert by_rule["low-resolution"]["picture"] == "10_foxlora/3.png"
    assert {each["rule"] for each in report["findings"]} <= set(RULES)
    captions_only = {each["rule"] for each in found(drawn, "--no-pictures")["findings"]}
    assert captions_only.isdisjoint(PICTURE_RULES)
    assert run(drawn, "--no-pictures").return_value == 0


def test_a_query_asks_for_what_is_said_of_pictures(drawn: Path) -> None:
    report = found(drawn, "--where", "issue:transparent")
    assert {each["picture"] for each in report["findings"]} == {"10_foxlora/1.png"}


def test_pictures_are_mended_and_given_back(drawn: Path) -> None:
    folder = drawn / "10_foxlora"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    dry = run(drawn, "--fix", "transparent", "--fix", "image-unreadable", "--dry-run")
    assert "10_foxlora/1.png: background = white" in dry.stdout
    assert "10_foxlora/2.png: skip = yes" in dry.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (drawn / ".loratory").exists()

    done = run(drawn, "--fix", "transparent", "--fix", "image-unreadable")
    assert done.return_value == 0
    assert "1 picture made anew, 1 picture left out" in done.stderr
    assert "loratory prepare " in done.stderr
    assert not (folder / "2.png").exists()
    with Image.open(folder / "1.png") as flat:
        assert (flat.mode, flat.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    assert "white background" in (folder / "1.txt").read_text()
    assert {each["rule"] for each in found(drawn)["findings"]}.isdisjoint({"transparent", "image-unreadable"})

    desk = Desk(drawn)
    desk.undo()
    desk.build()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_fixing_all_leaves_what_needs_a_person(drawn: Path) -> None:
    (drawn / ".loratory").mkdir()
    (drawn / ".loratory" / "dataset.toml").write_text("[dataset]\nresolution = 256\n")
    report = found(drawn, "--fix", "all", "--vocabulary", "e621")
    assert report["rules"] == ["all"]
    assert report["skipped"] == []
    left = found(drawn, "--vocabulary", "e621")["findings"]
    assert not any(fix["automatic"] for each in left for fix in each["fixes"][:1])
    assert {each["rule"] for each in left if each["severity"] != "note"} <= {"image-count"}


def test_settings_of_a_training(drawn: Path, tmp_path: Path) -> None:
    config = tmp_path / "fox.toml"
    config.write_text(
        f'model = {{ pretrained_model_name_or_path = "nano" }}\noutput = {{ output_name = "fox" }}\n'
        f'dataset = {{ train_data_dir = "{drawn}", resolution = 1024, goal = "style" }}\n'
        "training = { train_batch_size = 2 }\n"
    )
    small = found("--config", config, "--rule", "low-resolution")["findings"]
    assert len(small) == 7  # all but the damaged one
    assert len(found(drawn, "--rule", "low-resolution")["findings"]) == 1
    assert "50 to 200" in found(drawn, "--config", config, "--rule", "image-count")["findings"][0]["message"]


def test_every_hostile_picture_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "4_foxlora"
    folder.mkdir(parents=True)
    for name, (write, _) in BAD.items():
        write(folder / name)
    good = [write(folder / name) for name, write in GOOD.items() if not name.startswith("scans")]
    before = {path: path.lstat() for path in folder.iterdir()}
    report = found(tmp_path / "set")
    told = {each["picture"] for each in report["findings"] if each["rule"] == "image-unreadable"}
    readable = {path.name for path in good}
    listed = {path.name for path in before if not path.is_dir() and path.suffix in (".png", ".jpg", ".webp", ".avif")}
    if os.geteuid() == 0:
        readable.add("forbidden.png")  # nothing is forbidden to root
    assert {f"4_foxlora/{name}" for name in listed - readable} <= told
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == {
        path: status.st_mtime_ns for path, status in before.items()
    }
    assert all(line.isprintable() for line in run(tmp_path / "set").stdout.splitlines())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dataset]\nresolutio = 512", "Did you mean resolution?"),
        ("[dataset]\nresolution = 1536", "max_bucket_reso"),
        ("[dataset]\ncolor_aug = true", "Known are resolution"),
        ("train_batch_size = 0", "a number from 1 on"),
        ("dataset = 3", "must be a table"),
    ],
)
def test_settings_of_a_dataset_that_are_wrong(dataset: Path, text: str, words: str) -> None:
    (dataset / ".loratory").mkdir()
    (dataset / ".loratory" / "dataset.toml").write_text(text)
    done = run(dataset)
    assert isinstance(done.exception, LoratoryError)
    assert words in f"{done.exception.message} {done.exception.hint}"
    assert "dataset.toml" in done.exception.message


def test_settings_of_a_dataset_are_kept(dataset: Path) -> None:
    (dataset / ".loratory").mkdir()
    (dataset / ".loratory" / "dataset.toml").write_text("train_batch_size = 4\n[dataset]\nresolution = [640, 512]\n")
    session = open_session(dataset)
    session.settings.keep("implied", "anthro")
    session.save_settings()
    again = open_session(dataset).settings
    assert (again.train_batch_size, again.dataset_settings(dataset).resolution_wh) == (4, (640, 512))
    assert again.kept == {"implied": ["anthro"]}


def test_what_no_run_trains_is_not_spoken_of(dataset: Path) -> None:
    alone = found(dataset, "--no-pictures")
    originals = dataset / "Raw"
    originals.mkdir()
    for number in range(3):
        (originals / f"{number}.png").touch()
    assert found(dataset, "--no-pictures") == alone
    assert found(dataset, "--no-pictures", "--where", "untagged")["findings"] == []


def test_other_formats_in_regularization_sets_are_told(tmp_path: Path) -> None:
    for folder, name in (("1_fox", "a.png"), ("reg/1_dog", "b.png"), ("reg/1_dog", "c.gif")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (600, 600), 128).save(tmp_path / folder / name)
    said = [(each["picture"], each["rule"]) for each in found(tmp_path)["findings"] if each["picture"]]
    assert [rule for name, rule in said if name == "reg/1_dog/c.gif"] == ["image-format"]
