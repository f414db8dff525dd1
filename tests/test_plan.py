"""What `loratory plan` says of a run: curves, advice, regularization, and a trial of a few steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loratory.cli.main import cli
from loratory.config.load import load_config
from loratory.errors import LoratoryError
from loratory.training.plan import make_plan
from material import make_set, write_config


def plan(path: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["plan", str(path), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def as_json(path: Path, *arguments: str) -> dict:
    return json.loads(plan(path, "--json", *arguments).stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_set(tmp_path / "set", {"2_fox": 6, "1_cat": 4})
    make_set(tmp_path / "reg", {"1_animal": 5, "3_cub": 2})
    return tmp_path


def test_regularization_is_counted_and_its_use_told(folder: Path) -> None:
    path = write_config(
        folder,
        dataset={"reg_data_dir": "reg"},
        loss={"prior_loss_weight": 0.5},
        training={"max_train_epochs": 11, "train_batch_size": 1},
    )
    made = as_json(path)
    # 16 visits to the concepts and as many to the class: 5 pictures once and 2 of them three times as often.
    assert (made["steps_per_epoch"], made["total_steps"]) == (32, 352)
    assert made["regularization"] == {
        "images": 7,
        "visits_per_epoch": 16,
        "used": 7,
        "fewest_visits": 16,
        "most_visits": 48,
        "epochs": 11,
        "weight": 0.5,
    }
    shown = plan(path).stdout
    assert "16 visits an epoch to 7 regularization pictures, weighted 0.5" in shown
    assert "7 of them are used in this run, each 16 to 48 times" in shown
    assert any(each["rule"] == "prior-weight" for each in made["advice"])


def test_the_curves(folder: Path) -> None:
    path = write_config(
        folder,
        optimizer={"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2, "lr_warmup_steps": "10%"},
        loss={"min_snr_gamma": 5},
        training={"max_train_epochs": None, "max_train_steps": 1000},
    )
    curves = as_json(path)["curves"]
    rates, weights = curves["learning_rate_factor"], curves["loss_weight_by_timestep"]
    assert len(rates) == len(weights) == 200
    assert rates[0] == 0.0 and max(rates) == 1.0
    assert rates[109] < 0.02 and rates[110] == 1.0  # warm-up to step 100, and a restart half-way through the rest
    # min-SNR: little weight where there is little noise, 1 from where the SNR is 5.
    assert weights[0] < 0.02 and weights[-1] == 1.0 and weights == sorted(weights)
    shown = plan(path).stdout
    assert "learning rate over the run" in shown and "how much a timestep counts" in shown
    assert "⠉" in shown or "⣀" in shown
    plain = plan(path, "--ascii").stdout
    chart = plain[plain.index("learning rate over") : plain.index("saves")]
    assert chart.isascii()
    assert all(len(line) <= 80 for line in chart.splitlines())


def test_a_flat_weight_is_not_drawn(folder: Path) -> None:
    assert "how much a timestep counts" not in plan(write_config(folder)).stdout


def test_the_density_of_timesteps_is_part_of_the_curve(folder: Path) -> None:
    path = write_config(folder, noise={"timestep_sampling": "logit_normal"})
    weights = as_json(path)["curves"]["loss_weight_by_timestep"]
    assert weights[100] > 1.5 > 0.1 > weights[0]


def test_advice_is_shown_with_its_rule_and_can_be_silenced(folder: Path) -> None:
    path = write_config(folder, training={"train_batch_size": 8})
    advice = {each["rule"]: each for each in as_json(path)["advice"]}
    assert advice["batch-size"]["severity"] == "warning"
    talk = plan(path).stderr
    assert "warning: " in talk and "[batch-size]" in talk
    quiet = write_config(folder, training={"train_batch_size": 8}, lint={"silence": ["batch-size"]})
    assert "[batch-size]" not in plan(quiet).stderr


def test_a_trial_measures_time_and_memory_and_leaves_nothing(folder: Path) -> None:
    path = write_config(folder, training={"max_train_epochs": 10})
    before = sorted(folder.rglob("*"))
    made = as_json(path, "--measure")
    measured = made["measured"]
    assert measured["bucket"] == [64, 64] and measured["device"].startswith("CPU")
    assert 0 < measured["step_s"] < 60 and measured["peak_bytes"] > 50_000_000
    assert measured["expected_s"] == pytest.approx(
        measured["load_s"] + measured["step_s"] * made["total_steps"], rel=1e-6
    )
    assert sorted(folder.rglob("*")) == before


def test_processes_share_a_batch(folder: Path) -> None:
    path = write_config(folder, training={"train_batch_size": 2})
    assert as_json(path)["steps_per_epoch"] == 8
    assert as_json(path, "--processes", "2")["steps_per_epoch"] == 4


def test_pictures_held_back(folder: Path) -> None:
    path = write_config(folder, dataset={"validation_split": 0.5}, training={"train_batch_size": 1})
    made = as_json(path)
    assert made["held_back"] == 5
    assert made["steps_per_epoch"] == 3 * 2 + 2
    assert "5 pictures held back" in plan(path).stdout


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"optimizer": {"text_encoder_lr": [1e-4, 1e-5]}}, "has 2 rates; this base model has one text encoder"),
        ({"optimizer": {"optimizer_type": "Adamm"}}, "Adamm"),
        ({"training": {"full_fp16": True, "mixed_precision": "fp16"}}, "float16"),
        ({"training": {"blocks_to_swap": 1000}}, "blocks"),
        ({"network": {"network_type": "dora"}, "training": {"int8_base": True}}, "dora"),
        ({"loss": {"masked_loss": True}}, "needs mask pictures"),
        ({"dataset": {"subsets": [{"image_dir": "nowhere"}]}}, "subsets[1].image_dir"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(folder: Path, tables: dict, said: str) -> None:
    with pytest.raises(LoratoryError) as caught:
        make_plan(load_config(write_config(folder, **tables)))
    assert said in caught.value.message


def test_each_text_encoder_of_sdxl_has_its_rate(folder: Path) -> None:
    path = write_config(folder, "sdxl", optimizer={"text_encoder_lr": [5e-5, 0.0], "unet_lr": 1e-4})
    parts = {part["part"]: part for part in as_json(path)["network"]}
    assert parts["unet"]["learning_rate"] == 1e-4
    assert parts["text_encoder_1"]["learning_rate"] == 5e-5 and parts["text_encoder_1"]["modules"] > 0
    assert parts["text_encoder_2"]["modules"] == 0
    shared = write_config(folder, "sdxl", optimizer={"text_encoder_lr": 5e-5, "unet_lr": 1e-4})
    parts = {part["part"]: part for part in as_json(shared)["network"]}
    assert set(parts) == {"unet", "text_encoder"}


def test_ranks_and_scales_are_told_where_they_mean_something(folder: Path) -> None:
    def unet(**network: Any) -> dict[str, Any]:
        return as_json(write_config(folder, network=network))["network"][0]

    plain = unet(network_type="lokr", network_dim=4, network_alpha=2)
    assert (plain["rank"], plain["scale"], plain["rank_varies"]) == (4, 0.5, False)
    for network in ({"network_type": "diag-oft", "network_alpha": None}, {"network_type": "lokr", "full_matrix": True}):
        turned = unet(**network)
        assert (turned["rank"], turned["scale"], turned["rank_varies"]) == (None, None, False)
    dims: dict[str, Any] = {"network_type": "loha", "block_dims": [4] * 24 + [8]}
    assert unet(**dims)["rank_varies"] and "by layer" in plan(write_config(folder, network=dims)).output
