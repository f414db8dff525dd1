"""What each table accepts, refuses and computes."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from loratory.config.describe import describe_field, show
from loratory.config.fields import FIELDS, nearest
from loratory.config.network_types import ABOUT
from loratory.config.schema import (
    CaptionSettings,
    Config,
    DatasetSettings,
    LossSettings,
    ModelSettings,
    NetworkSettings,
    NetworkType,
    NoiseSettings,
    OptimizerSettings,
    OutputSettings,
    SampleSettings,
    TrainingSettings,
    parse_arguments,
)

MODEL = ModelSettings(pretrained_model_name_or_path="nano")
DATASET = DatasetSettings(train_data_dir=Path("/set"))


def config(**tables: object) -> Config:
    return Config.model_validate({"model": MODEL, "dataset": DATASET, **tables})


def test_no_optional_setting_has_another_default_than_none() -> None:
    # A written configuration leaves None out, so an unset value must come back as the default.
    for name, field in FIELDS.items():
        optional = type(None) in get_args(field.annotation)
        assert not optional or field.default is None, name


def test_every_setting_is_documented() -> None:
    assert [name for name, field in FIELDS.items() if len(field.description or "") < 10] == []


def test_the_settings_page_is_current() -> None:
    script = Path(__file__).parents[1] / "scripts" / "settings_doc.py"
    check = subprocess.run([sys.executable, script, "--check"], check=False)
    assert check.returncode == 0, "run scripts/settings_doc.py"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        DATASET.resolution = 768


@pytest.mark.parametrize(
    ("key", "table", "settings"),
    [
        ("min_bucket_reso", DatasetSettings, {"train_data_dir": "/a", "resolution": 128}),
        ("max_bucket_reso", DatasetSettings, {"train_data_dir": "/a", "resolution": [768, 1280]}),
        ("resolution", DatasetSettings, {"train_data_dir": "/a", "resolution": 500, "enable_bucket": False}),
        ("flip_aug", DatasetSettings, {"train_data_dir": "/a", "flip_aug": True, "asymmetric": True}),
        ("train_data_dir", DatasetSettings, {"resolution": 512}),
        (
            "subsets",
            DatasetSettings,
            {"train_data_dir": "/a", "subsets": [{"image_dir": "/b"}], "dataset_config": "/c.toml"},
        ),
        (
            "cache_latents_to_disk",
            DatasetSettings,
            {"train_data_dir": "/a", "cache_latents": False, "cache_latents_to_disk": True},
        ),
        (
            "cache_text_encoder_outputs_to_disk",
            DatasetSettings,
            {"train_data_dir": "/a", "cache_text_encoder_outputs": False},
        ),
        ("network_dropout", NetworkSettings, {"network_type": "dora", "network_dropout": 0.1}),
        ("module_dropout", NetworkSettings, {"network_type": "dora", "module_dropout": 0.1}),
        ("secondary_separator", CaptionSettings, {"secondary_separator": ","}),
        ("token_warmup_min", CaptionSettings, {"token_warmup_min": 3}),
        ("base_weights_multiplier", ModelSettings, {"pretrained_model_name_or_path": "nano"}),
        ("full_fp16", TrainingSettings, {"full_fp16": True}),
        ("full_bf16", TrainingSettings, {"full_bf16": True, "mixed_precision": "fp16"}),
        ("max_train_steps", TrainingSettings, {"max_train_steps": 10, "max_train_epochs": 2}),
        ("max_train_epochs", TrainingSettings, {"max_train_epochs": 10, "exposure": 100}),
        ("dynamo_backend", TrainingSettings, {"dynamo_backend": "eager"}),
        ("network_train_text_encoder_only", NetworkSettings, {"network_train_unet_only": True}),
        ("dim_from_weights", NetworkSettings, {"dim_from_weights": True}),
        ("conv_alpha", NetworkSettings, {"network_type": "locon", "conv_alpha": 4.0}),
        ("block_size", NetworkSettings, {"network_type": "dylora", "network_dim": 6}),
        ("block_size", NetworkSettings, {"network_type": "dylora", "conv_dim": 6}),
        ("block_size", NetworkSettings, {"network_type": "dylora", "block_dims": [4, 6]}),
        ("rank_dropout", NetworkSettings, {"network_type": "loha", "dora_wd": True, "rank_dropout": 0.1}),
        ("network_dropout", NetworkSettings, {"network_type": "locon", "dora_wd": True, "network_dropout": 0.1}),
        ("module_dropout", NetworkSettings, {"network_type": "lokr", "dora_wd": True, "module_dropout": 0.1}),
        ("dora_wd", NetworkSettings, {"network_type": "dora", "dora_wd": True}),
        ("wd_on_output", NetworkSettings, {"network_type": "loha", "wd_on_output": False}),
        ("rank_dropout_scale", NetworkSettings, {"network_type": "loha", "rank_dropout_scale": True}),
        ("decompose_both", NetworkSettings, {"network_type": "lokr", "full_matrix": True, "decompose_both": True}),
        ("use_tucker", NetworkSettings, {"network_type": "lokr", "full_matrix": True, "use_tucker": True}),
        ("use_tucker", NetworkSettings, {"network_type": "locon", "lycoris_preset": "attn-mlp", "use_tucker": True}),
        ("conv_dim", NetworkSettings, {"network_type": "loha", "lycoris_preset": "attn-only", "conv_dim": 4}),
        (
            "conv_block_dims",
            NetworkSettings,
            {"network_type": "dora", "lycoris_preset": "attn-mlp", "conv_block_dims": [1]},
        ),
        ("conv_dim", NetworkSettings, {"network_type": "full", "conv_dim": 4}),
        ("lycoris_preset", NetworkSettings, {"lycoris_preset": "unet-only", "network_train_text_encoder_only": True}),
        ("down_lr_weight", NetworkSettings, {"down_lr_weight": "cosine", "network_train_text_encoder_only": True}),
        ("huber_c", LossSettings, {"huber_c": 0.3}),
        ("min_timestep", NoiseSettings, {"min_timestep": 500, "max_timestep": 500}),
        ("multires_noise_discount", NoiseSettings, {"multires_noise_discount": 0.5}),
        ("adaptive_noise_scale", NoiseSettings, {"adaptive_noise_scale": 0.01}),
        ("lr_scheduler_num_cycles", OptimizerSettings, {"lr_scheduler_num_cycles": 3}),
        ("lr_warmup_steps", OptimizerSettings, {"lr_warmup_steps": 10, "lr_scheduler": "constant"}),
        ("lr_warmup_steps", OptimizerSettings, {"lr_warmup_steps": "ten"}),
        ("optimizer_args", OptimizerSettings, {"optimizer_args": "weight_decay"}),
        ("save_last_n_epochs", OutputSettings, {"save_last_n_epochs": 2}),
        ("sample_every_n_epochs", SampleSettings, {"sample_every_n_epochs": 1}),
        ("sample_prompts", SampleSettings, {"prompts": ["a fox"], "sample_prompts": "/p.txt"}),
    ],
)
def test_settings_that_disagree_are_refused(key: str, table: type, settings: dict[str, object]) -> None:
    doubled = {
        "base_weights_multiplier": [1.0],
        "network_train_text_encoder_only": True,
        "cache_text_encoder_outputs_to_disk": True,
    }
    if key in doubled:
        settings = settings | {key: doubled[key]}
    with pytest.raises(ValidationError, match=f"{key}: "):
        table.model_validate(settings)


@pytest.mark.parametrize(
    ("network_type", "key", "value"),
    [
        ("lora", "factor", 8),
        ("lora", "conv_dim", 8),
        ("locon", "block_size", 8),
        ("dora", "rescaled", True),
        ("ia3", "network_dim", 8),
        ("diag-oft", "network_alpha", 8.0),
        ("loha", "network_dropout", 0.1),
        ("full", "rs_lora", True),
        ("full", "rank_dropout", 0.1),
        ("glora", "use_tucker", True),
        ("glora", "dora_wd", True),
        ("boft", "rank_dropout_scale", True),
        ("lora", "train_norm", True),
        ("loha", "dim_from_weights", True),
    ],
)
def test_what_a_network_type_does_not_read_is_refused(network_type: str, key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f'{key}: does nothing with network_type = "{network_type}"'):
        NetworkSettings.model_validate({"network_type": network_type, key: value})


@pytest.mark.parametrize("network_type", get_args(NetworkType))
def test_every_network_type_is_told_what_it_is_good_for(network_type: str) -> None:
    settings = NetworkSettings.model_validate({"network_type": network_type, "scale_weight_norms": 1.0})
    assert settings.decomposes == (network_type == "dora")
    assert settings.has_convolutions == (network_type not in ("lora", "dora", "ia3"))
    assert ABOUT[settings.network_type].endswith(".")


def test_what_a_selection_of_layers_leaves_out() -> None:
    tables = {"model": {"pretrained_model_name_or_path": "nano"}, "dataset": {"train_data_dir": "/a"}}
    for preset, convolutions, text in (("full", True, True), ("unet-only", True, False), ("attn-mlp", False, True)):
        config = Config.model_validate(tables | {"network": {"network_type": "loha", "lycoris_preset": preset}})
        assert (config.network.has_convolutions, config.trains_text_encoder) == (convolutions, text)


def test_conv_dim_under_lora_says_that_locon_is_meant() -> None:
    with pytest.raises(ValidationError, match="locon"):
        NetworkSettings.model_validate({"network_type": "lora", "conv_dim": 16})


def test_alpha_equals_the_rank_unless_given() -> None:
    assert NetworkSettings(network_dim=8).network_alpha == 8.0
    assert NetworkSettings(network_dim=8, network_alpha=1.0).network_alpha == 1.0


def test_zero_switches_an_optional_number_off() -> None:
    assert NetworkSettings(network_type="locon", conv_dim=0).conv_dim is None
    assert LossSettings(min_snr_gamma=0).min_snr_gamma is None
    with pytest.raises(ValidationError):
        LossSettings.model_validate({"min_snr_gamma": False})


def test_conflicts_between_tables() -> None:
    with pytest.raises(ValidationError, match="leaves nothing to train"):
        config(optimizer={"learning_rate": 0})
    with pytest.raises(ValidationError, match=r"prior_loss_weight: does nothing without dataset\.reg_data_dir"):
        config(loss={"prior_loss_weight": 0.5})
    cached = {"train_data_dir": "/set", "cache_text_encoder_outputs": True}
    with pytest.raises(ValidationError, match="while the text encoder is trained"):
        config(dataset=cached)
    assert not config(dataset=cached, optimizer={"text_encoder_lr": 0}).trains_text_encoder
    assert not config(dataset=cached, network={"network_train_unet_only": True}).trains_text_encoder
    with pytest.raises(
        ValidationError, match=r"loraplus_unet_lr_ratio: has no upper halves .* take dora, dylora, locon"
    ):
        config(optimizer={"loraplus_unet_lr_ratio": 4.0}, network={"network_type": "loha"})
    config(optimizer={"loraplus_unet_lr_ratio": 4.0}, network={"network_type": "dylora"})


def test_resolution_as_one_number_or_two() -> None:
    assert DATASET.resolution_wh == (512, 512)
    assert DatasetSettings.model_validate({"train_data_dir": "/a", "resolution": [640, 512]}).resolution_wh == (
        640,
        512,
    )


def test_exposure_follows_the_goal_unless_the_length_is_given() -> None:
    style = {"train_data_dir": "/set", "goal": "style"}
    assert config().target_exposure == 100
    assert config(dataset=style).target_exposure == 35
    assert config(dataset=style, training={"exposure": 50}).target_exposure == 50
    assert config(training={"max_train_epochs": 3}).target_exposure is None
    assert config(training={"max_train_steps": 3}).target_exposure is None


def test_own_rates_win_over_the_common_one_and_zero_is_not_trained() -> None:
    both = OptimizerSettings(learning_rate=1e-3)
    assert (both.effective_unet_lr, both.effective_text_encoder_lr) == (1e-3, 1e-3)
    own = OptimizerSettings(learning_rate=1e-3, unet_lr=1e-4, text_encoder_lr=0)
    assert (own.effective_unet_lr, own.effective_text_encoder_lr) == (1e-4, 0)
    assert OptimizerSettings(text_encoder_lr=(1e-5, 0.0)).effective_text_encoder_lr == 1e-5


@pytest.mark.parametrize(
    ("warmup", "steps"), [(0, 0), (25, 25), (0.1, 50), ("10%", 50), ("2.5%", 12), ("100%", 500), (0.0, 0)]
)
def test_warmup_in_steps(warmup: int | float | str, steps: int) -> None:
    assert OptimizerSettings(lr_warmup_steps=warmup).warmup_steps(500) == steps


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ("", {}),
        (
            "decouple=True weight_decay=0.1 betas=0.9,0.99",
            {"decouple": True, "weight_decay": 0.1, "betas": (0.9, 0.99)},
        ),
        ("betas=(0.9, 0.99)   eps=1e-8", {"betas": (0.9, 0.99), "eps": 1e-8}),
        (["betas=0.9,0.99", "d_coef = 0.5"], {"betas": (0.9, 0.99), "d_coef": 0.5}),
        ({"betas": [0.9, 0.99], "decouple": True}, {"betas": (0.9, 0.99), "decouple": True}),
        ("mode='a b' x=None", {"mode": "a b", "x": None}),
    ],
)
def test_optimizer_arguments(arguments: str | list[str] | dict[str, object], parsed: dict[str, object]) -> None:
    assert parse_arguments(arguments) == parsed
    assert OptimizerSettings.model_validate({"optimizer_args": arguments}).parsed_optimizer_args == parsed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("weight_decay", "name=value"),
        ("=3", "name=value"),
        ("a=1, b=2", "separated by spaces"),
        ("decouple=true", "write True"),
        ("eps=__import__('os')", "eps is not a number"),
        ("a=" + "(" * 2000, "a is not a number"),
        ("a=1 a=2", "given twice"),
    ],
)
def test_wrong_optimizer_arguments_are_named(arguments: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_arguments(arguments)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("network.network_dim", "a whole number from 1 to 4096"),
        ("dataset.resolution", "a whole number from 32 to 8192 or a list of 2 whole numbers from 32 to 8192"),
        ("training.seed", "a whole number, 0 or more, below 2^63"),
        ("training.mixed_precision", 'one of "no", "fp16", "bf16"'),
        ("output.save_model_as", '"safetensors"'),
        ("sample.prompts", "a list of texts"),
        ("optimizer.optimizer_args", "text or a list of texts or a table"),
        ("model.v_parameterization", "true or false"),
    ],
)
def test_what_a_setting_may_be_in_words(name: str, words: str) -> None:
    assert describe_field(FIELDS[name]) == words


def test_values_are_shown_short_and_harmless() -> None:
    assert show(True) == "true"
    assert show("[/b]") == '"[/b]"'
    assert show("\x1b[31mred") == '"\\x1b[31mred"'
    assert len(show("x" * 10_000)) < 80
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(show(deep)) < 80


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("loss.min_snr_gama", "loss.min_snr_gamma"),
        ("training.min_snr_gama", "loss.min_snr_gamma"),
        ("dataset.max_resolution", "dataset.resolution"),
        ("training.epoch", "training.max_train_epochs"),
        ("network.xformers", "training.cross_attention"),
        ("network.zzzzzzzz", ""),
        ("network." + "a" * 1_000_000, ""),
    ],
)
def test_the_nearest_setting(wrong: str, right: str) -> None:
    assert nearest(wrong) == right


@pytest.mark.parametrize("name", ["a/b", "..", "", "x\n", "é" * 101])
def test_an_output_name_is_a_file_name(name: str) -> None:
    with pytest.raises(ValidationError):
        OutputSettings(output_name=name)


@pytest.mark.parametrize("ending", ["txt", ".", ".a/b", ". txt"])
def test_a_caption_extension_has_its_dot(ending: str) -> None:
    with pytest.raises(ValidationError, match="with its dot"):
        CaptionSettings(caption_extension=ending)
