"""What to change when memory runs out: in order, only what is not in force, only what the run can go on with."""

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from loratory.config.fields import FIELDS
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.runs.events import Notice
from loratory.runs.ladder import RESUMABLE, changed_settings, ladder, may_change_on_resume
from loratory.runs.recorder import Recorder
from loratory.runs.resume import open_for_resume
from loratory.runs.store import EventReader, RunDirectory
from loratory.runs.way_back import gone, resume_command, way_back
from material import make_set, write_config


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 2})


def config_of(folder: Path, **tables: dict[str, object]) -> Config:
    large = {"resolution": 512, "min_bucket_reso": 256, "max_bucket_reso": 1024}
    return load_config(write_config(folder, dataset=large | tables.pop("dataset", {}), **tables))


def keys(config: Config, trained: bool) -> list[str]:
    return [" ".join(name.rpartition(".")[2] for name in rung.settings) for rung in ladder(config, trained)]


def test_from_what_costs_least_to_what_costs_most(tmp_path: Path) -> None:
    assert keys(config_of(tmp_path), trained=False) == [
        "gradient_checkpointing",
        "train_batch_size gradient_accumulation_steps",
        "int8_base",
        "blocks_to_swap",
        "resolution",
        "network_train_unet_only",
    ]


def test_a_run_that_has_trained_keeps_what_its_state_was_trained_with(tmp_path: Path) -> None:
    assert keys(config_of(tmp_path), trained=True) == ["gradient_checkpointing", "int8_base", "blocks_to_swap"]


def test_what_is_in_force_is_not_told_again(tmp_path: Path) -> None:
    training = {
        "gradient_checkpointing": True,
        "train_batch_size": 1,
        "int8_base": True,
        "blocks_to_swap": 36,
    }
    network = {"network_train_unet_only": True}
    assert keys(config_of(tmp_path, training=training, network=network), trained=True) == []
    small = config_of(tmp_path, training=training, network=network, dataset={"resolution": 320})
    assert keys(small, trained=False) == []


def test_caches_and_attention_where_they_are_not_used(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        dataset={"cache_latents": False, "cache_text_encoder_outputs": False, "vae_batch_size": 4},
        training={"cross_attention": "none", "gradient_checkpointing": True},
        network={"network_train_unet_only": True},
    )
    expected = ["vae_batch_size", "cache_latents", "cache_text_encoder_outputs", "cross_attention"]
    assert keys(config, trained=True)[:4] == expected
    varying = config_of(tmp_path, dataset={"cache_latents": False, "color_aug": True})
    assert "cache_latents" not in keys(varying, trained=True)


@pytest.mark.parametrize(
    ("network", "whole"),
    [
        ({"network_type": "dora"}, True),
        ({"network_type": "locon", "dora_wd": True}, True),
        ({"network_type": "glora"}, True),
        ({"network_type": "ia3"}, True),
        ({"network_type": "boft"}, True),
        ({"network_type": "full"}, True),
        ({"network_type": "diag-oft"}, False),
        ({"network_type": "loha"}, False),
    ],
)
def test_a_network_that_reads_the_base_keeps_it_whole(tmp_path: Path, network: dict[str, Any], whole: bool) -> None:
    smaller = ["int8_base", "blocks_to_swap"]
    ranks: dict[str, None] = dict.fromkeys(("network_dim", "network_alpha"))
    config = config_of(tmp_path, network=ranks | network)
    assert keys(config, trained=True) == ["gradient_checkpointing", *([] if whole else smaller)]


def test_a_compiled_run_gives_up_compiling_for_smaller_weights(tmp_path: Path) -> None:
    rungs = ladder(config_of(tmp_path, training={"torch_compile": True}), trained=True)
    assert {"training.torch_compile": False, "training.int8_base": True} in [dict(rung.settings) for rung in rungs]


def test_as_many_pictures_a_step_as_before(tmp_path: Path) -> None:
    config = config_of(tmp_path, training={"train_batch_size": 4, "gradient_accumulation_steps": 3})
    (rung,) = (rung for rung in ladder(config, False) if "training.train_batch_size" in rung.settings)
    assert rung.settings == {"training.train_batch_size": 1, "training.gradient_accumulation_steps": 12}


def test_a_smaller_resolution_takes_the_buckets_along(tmp_path: Path) -> None:
    config = config_of(tmp_path, dataset={"resolution": [512, 768], "min_bucket_reso": 448})
    (rung,) = (rung for rung in ladder(config, False) if "dataset.resolution" in rung.settings)
    assert rung.settings == {"dataset.resolution": [384, 576], "dataset.min_bucket_reso": 384}


def test_every_command_can_be_typed_as_it_is_told(tmp_path: Path) -> None:
    """Through a shell and `--set`, for a run whose folder has a name that shells make much of."""
    config = config_of(tmp_path, dataset={"resolution": [512, 768], "vae_batch_size": 2})
    run = RunDirectory(Path("/runs/a fox's & more"))
    for rung in ladder(config, trained=False):
        verb, train, option, path, *rest = shlex.split(rung.command(run.path))
        assert (verb, train, option, path) == ("loratory", "train", "--resume", str(run.path))
        assert rest[::2] == ["--set"] * len(rung.settings)
        changed = changed_settings(config, load_config(tmp_path / "config.toml", rest[1::2]))
        assert changed.keys() == rung.settings.keys()


def test_settings_are_named_as_they_are() -> None:
    assert FIELDS.keys() >= RESUMABLE
    assert may_change_on_resume("training.int8_base") and not may_change_on_resume("training.seed")


# ------------------------------------------------------------------------------------ going on with other settings


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    config = config_of(tmp_path)
    return RunDirectory.create(tmp_path / "runs", "fox", dump_config(config))


def with_state(run: RunDirectory, step: int = 200) -> RunDirectory:
    (run.state / f"{step:08d}.pt").write_bytes(b"")
    return run


def notices(run: RunDirectory) -> list[str]:
    return [timed.event.message for timed in EventReader(run.events).read() if isinstance(timed.event, Notice)]


def test_less_memory_for_a_run_that_has_trained(run: RunDirectory) -> None:
    with_state(run)
    config = open_for_resume(run, ["training.gradient_checkpointing=true", "blocks_to_swap=12"])
    assert config.training.gradient_checkpointing and config.training.blocks_to_swap == 12
    assert load_config(run.config) == config
    assert notices(run) == [
        "Settings changed for what follows: training.gradient_checkpointing = true (was false), "
        "training.blocks_to_swap = 12 (was 0)."
    ]
    # What is so already is no change.
    assert open_for_resume(run, ["training.blocks_to_swap=12"]) == config and len(notices(run)) == 1


@pytest.mark.parametrize("assignment", ["training.seed=7", "dataset.resolution=256", "train_batch_size=1"])
def test_what_a_state_was_trained_with_stays(run: RunDirectory, assignment: str) -> None:
    before = with_state(run).config.read_bytes()
    with pytest.raises(LoratoryError, match="cannot change in the middle of a run") as caught:
        open_for_resume(run, [assignment, "training.int8_base=true"])
    assert assignment.partition("=")[0] in caught.value.message and "int8_base" not in caught.value.message
    assert "up to step 200" in caught.value.message and "gradient_checkpointing" in caught.value.hint
    assert run.config.read_bytes() == before and not run.events.exists()


def test_a_run_that_has_not_trained_may_change_everything(run: RunDirectory) -> None:
    config = open_for_resume(run, ["training.seed=7", "train_batch_size=1"])
    assert (config.training.seed, config.training.train_batch_size) == (7, 1)
    assert tomllib.loads(run.config.read_text("utf-8"))["training"]["seed"] == 7


def test_a_value_that_is_none_changes_nothing(run: RunDirectory) -> None:
    before = run.config.read_bytes()
    with pytest.raises(LoratoryError, match="blocks_to_swap"):
        open_for_resume(run, ["training.blocks_to_swap=many"])
    assert run.config.read_bytes() == before


def test_the_settings_of_a_run_at_work_are_left_alone(run: RunDirectory) -> None:
    with Recorder(run):
        run.record.unlink()  # whatever it says: the lock is held
        with pytest.raises(LoratoryError, match="another process"):
            open_for_resume(run, ["training.int8_base=true"])


def test_the_way_back(run: RunDirectory) -> None:
    assert way_back(run) == f"`{resume_command(run)}` begins from its first step: no state was saved yet."
    with_state(run, 100)
    with_state(run, 200)
    saved_s = (run.state / "00000200.pt").stat().st_mtime
    assert way_back(run, saved_s + 90) == (
        f"`{resume_command(run)}` goes on from step 200, whose state was saved 1 min 30 s ago."
    )
    assert gone(run, saved_s)[0] == f"{run.path} crashed: the process that trained it is gone without a word."
