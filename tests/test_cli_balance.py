"""`loratory balance`: what it prints, what it renames, and its exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loratory.cli.balance import balance
from loratory.dataset.renaming import renamings
from loratory.errors import LoratoryError

SIZES = {"10_hunter, plate": 51, "10_hunter, leather": 43, "10_hunter, cloth": 32}


def make_set(root: Path, sizes: dict[str, int]) -> Path:
    """Folders of empty files: nothing here looks into them."""
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").touch()
    return root


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_set(tmp_path / "set", SIZES)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(balance, [str(argument) for argument in arguments], standalone_mode=False)


def found(*arguments: object) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout)


def refused(*arguments: object) -> LoratoryError:
    error = run(*arguments).exception
    assert isinstance(error, LoratoryError)
    return error


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name[0] != ".")


def test_the_table(dataset: Path) -> None:
    done = run(dataset)
    assert done.exception is None
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[:5] == [
        "concept folder      images  repeats  per epoch  share  exposure at 10 epochs",
        "10_hunter, cloth        32  10 → 16        512  33.3%                  160 !",
        "10_hunter, leather      43  10 → 12        516  33.6%                    120",
        "10_hunter, plate        51       10        510  33.2%                    100",
        "                                          1538  ±0.7%",
    ]
    assert "Visits differ from their mean by up to ±0.7%; as it is, by ±23.8%." in lines
    assert "common divisor 2 → 8, 6, 5 with 20 epochs for the same exposure (--divide)" in lines
    assert "! 10_hunter, cloth: 32 images, trained 1.6 times as often as those of the largest folder: watch for" in (
        done.stdout
    )
    assert max(map(len, lines[:5])) <= 80
    assert "--apply" in done.stderr
    assert names(dataset) == sorted(SIZES)


def test_only_apply_renames_and_undo_takes_it_back(dataset: Path) -> None:
    done = run(dataset, "--apply", "--divide")
    assert "3 folders renamed: 10_hunter, cloth → 8_hunter, cloth; " in done.stderr
    assert names(dataset) == ["5_hunter, plate", "6_hunter, leather", "8_hunter, cloth"]
    again = run(dataset, "--apply")
    assert again.exception is None and "nothing to do" in again.stderr
    assert len(renamings(dataset)) == 1
    assert "undone: 8_hunter, cloth → 10_hunter, cloth" in run(dataset, "--undo").stderr
    assert names(dataset) == sorted(SIZES)
    assert "left to undo" in refused(dataset, "--undo").message


def test_json_tells_the_same(dataset: Path) -> None:
    told = found(dataset, "--exposure", 50)
    assert [folder["repeats"] for folder in told["folders"]] == [16, 12, 10]
    assert told["folders"][0]["becomes"] == "16_hunter, cloth"
    assert (told["epochs"], told["divisor"], told["renamed"]) == (5, 2, [])
    assert told["residual"] < 0.01 < told["residual_before"]
    assert found(dataset, "--apply")["renamed"][0] == ["10_hunter, cloth", "16_hunter, cloth"]


def test_the_goal_sets_the_exposure(dataset: Path) -> None:
    assert found(dataset)["epochs"] == 10
    assert found(dataset, "--goal", "style")["epochs"] == 4
    assert found(dataset, "--epochs", 7)["folders"][2]["exposure"] == 70


def test_a_better_number_of_repeats_is_told(dataset: Path) -> None:
    told = found(dataset, "--repeats", 1)
    assert told["finer"]["repeats"] == 5
    assert "--repeats 5 would leave ±0.7%." in run(dataset, "--repeats", 1).stdout
    assert found(dataset)["finer"] is None


def test_repeats_that_a_person_sets(dataset: Path) -> None:
    told = found(dataset, "--set", "hunter, cloth=3", "--set", "10_hunter, plate=20")
    assert {folder["name"]: folder["repeats"] for folder in told["folders"]} == {
        "10_hunter, cloth": 3,
        "10_hunter, leather": 24,
        "10_hunter, plate": 20,
    }
    error = refused(dataset, "--set", "fox=3")
    assert "no folder 'fox'" in error.message and "10_hunter, cloth" in error.hint
    for wrong in ("hunter", "hunter=x", "hunter=0", "10_hunter, cloth=10001"):
        assert "write FOLDER=N" in str(run(dataset, "--set", wrong).exception)


def test_regularization_is_told_and_left_as_it_is(dataset: Path) -> None:
    make_set(dataset / "reg", {"1_hunter": 40})
    told = found(dataset)
    assert len(told["folders"]) == 3
    assert told["regularization"] == {
        "images": 40,
        "visits": 1538,
        "per_image": pytest.approx(384.5),
        "epochs_to_all": 1,
        "never": 0,
    }
    assert "regularization: 40 images, 1538 visits an epoch" in run(dataset, "--apply").stdout
    assert names(dataset / "reg") == ["1_hunter"]


def test_a_regularization_set_elsewhere(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", {"2_fox": 5})
    reg = make_set(tmp_path / "Regularization" / "RegFox", {"1_fox": 25})
    told = found(root, "--epochs", 1, "--reg", reg)["regularization"]
    assert (told["images"], told["never"], told["epochs_to_all"]) == (25, 15, 3)
    assert "15 of them never seen in 1 epoch" in run(root, "--epochs", 1, "--reg", reg).stdout
    assert "No regularization folder" in refused(root, "--reg", make_set(tmp_path / "x", {"other": 1})).message


def test_one_folder_and_empty_folders(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", {"3_fox": 4, "1_empty": 0})
    done = run(root)
    assert "One concept folder: there is nothing to balance it with." in done.stdout
    assert "1_empty: no pictures, left out." in done.stdout
    assert "nothing to do" in done.stderr
    run(root, "--repeats", 5, "--apply")
    assert names(root) == ["1_empty", "5_fox"]


def test_few_pictures_that_are_repeated_much(tmp_path: Path) -> None:
    done = run(make_set(tmp_path / "set", {"10_fox": 51, "1_hat": 5}))
    assert "! 1_hat: only 5 images, trained 10 times as often" in done.stdout
    assert "1_hat: 102 repeats make epochs long" in done.stdout


def test_too_many_repeats_are_refused(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", {"8000_fox": 6, "1_hat": 2})
    error = refused(root, "--apply")
    assert "24000 repeats" in error.message
    assert names(root) == ["1_hat", "8000_fox"]


def test_folders_of_one_name_but_their_repeats_cannot_become_the_same(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", {"10_fox": 6, "5_fox": 6})
    assert "10_fox exists already" in refused(root, "--apply").message
    assert "Two folders would be called 7_fox" in refused(root, "--apply", "--repeats", 7).message
    assert names(root) == ["10_fox", "5_fox"]


@pytest.mark.parametrize("inside", ["set/10_hunter, plate", "."])
def test_other_folders_are_explained(dataset: Path, tmp_path: Path, inside: str) -> None:
    error = refused(tmp_path / inside)
    assert str(dataset.resolve()) in error.hint


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", {"10_[b] :fox: [@click=app.quit]x": 9, "1_\x1b[31m🦊\n\u202eabc": 3})
    done = run(root, "--apply")
    assert done.exception is None
    assert "\x1b" not in done.output and "[b] :fox: [@click=app.quit]x" in done.output
    assert names(root) == ["10_[b] :fox: [@click=app.quit]x", "30_\x1b[31m🦊\n\u202eabc"]


def test_a_folder_that_cannot_be_written(dataset: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    dataset.chmod(0o500)
    try:
        assert "cannot be renamed" in refused(dataset, "--apply").message
    finally:
        dataset.chmod(0o700)


def test_options_that_contradict_each_other(dataset: Path) -> None:
    assert "choose" in str(run(dataset, "--apply", "--undo").exception)
    assert "--exposure or --epochs" in str(run(dataset, "--exposure", 10, "--epochs", 3).exception)
