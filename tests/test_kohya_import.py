"""Configurations of sd-scripts and the kohya_ss GUI, read."""

import json
import struct
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loratory.cli.main import main
from loratory.config.fields import FIELDS, holds_path
from loratory.config.kohya.gui_json import KNOWN_KEYS
from loratory.config.kohya.importing import Imported, import_file
from loratory.config.kohya.render import render
from loratory.config.kohya.settings import CONVERTED, GUI_DEFAULTS, NETWORK_ARGS, SETTING_OF
from loratory.config.load import dump_config, load_config, resolve
from loratory.errors import LoratoryError

DATA = Path(__file__).parent / "data" / "kohya"
NEEDED = '[model]\npretrained_model_name_or_path = "nano"\n'


@pytest.fixture(autouse=True)
def _own_state_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))


def gui(tmp_path: Path, **fields: Any) -> Imported:
    path = tmp_path / "preset.json"
    path.write_text(json.dumps({"LoRA_type": "Standard"} | fields))
    return import_file(path)


def command(tmp_path: Path, text: str) -> Imported:
    path = tmp_path / "train.txt"
    path.write_text(text)
    return import_file(path)


def entry(imported: Imported, key: str) -> Any:
    found = [each for each in imported.entries if each.key == key]
    assert len(found) == 1, f"{key} is reported {len(found)} times"
    return found[0]


def reloaded(imported: Imported, folder: Path) -> Any:
    """What load_config would read from the written file, with stand-ins for what is to be filled in."""
    document = tomllib.loads(render(imported, "x"))
    if "model.pretrained_model_name_or_path" in imported.missing:
        document.setdefault("model", {})["pretrained_model_name_or_path"] = "nano"
    if "dataset.train_data_dir" in imported.missing:
        document.setdefault("dataset", {})["train_data_dir"] = "set"
    return resolve(document, folder / "c.toml")


def test_a_gui_file_of_2023() -> None:
    imported = import_file(DATA / "gui_2023.json")
    config = imported.config
    assert config.model.pretrained_model_name_or_path == "D:/models/base.safetensors"
    assert config.model.v_parameterization is True
    assert config.model.clip_skip == 2
    assert config.network.network_type == "lora"
    assert config.network.conv_dim is None
    assert config.network.network_train_unet_only
    assert config.network.rank_dropout == 0.2
    assert config.optimizer.optimizer_type == "AdamW8bit"
    assert config.optimizer.parsed_optimizer_args == {"weight_decay": 0.1, "betas": (0.9, 0.99)}
    assert config.optimizer.lr_warmup_steps == "5%"
    assert config.optimizer.lr_scheduler_num_cycles == 12
    assert config.training.max_train_epochs == 12
    assert config.training.train_batch_size == 2
    assert config.training.cross_attention == "sdpa"
    assert config.caption.keep_tokens == 3
    assert config.caption.max_token_length == 150
    assert config.caption.caption_tag_dropout_rate == 0.1
    assert config.noise.noise_offset is None
    assert config.noise.multires_noise_iterations == 8
    assert config.noise.multires_noise_discount == 0.2
    assert config.noise.zero_terminal_snr is True
    assert config.loss.prior_loss_weight == 1.0
    assert config.sample.prompts == ("a fox --w 512", "red fox --n blurry")
    assert (config.sample.width, config.sample.sample_every_n_epochs) == (512, 2)
    assert config.dataset.resolution == 768
    assert config.dataset.max_bucket_reso == 2048
    assert imported.defaults["dataset.max_bucket_reso"] == 2048
    assert imported.missing == []
    assert imported.is_faithful


def test_the_report_of_a_gui_file_of_2023() -> None:
    imported = import_file(DATA / "gui_2023.json")
    outcomes = {each.key: each.outcome for each in imported.entries}
    assert outcomes["epoch"] == outcomes["lr_warmup"] == outcomes["save_model_as"] == "changed"
    assert outcomes["text_encoder_lr"] == outcomes["xformers"] == "changed"
    assert outcomes["pretrained_model_name_or_path"] == "changed"
    assert outcomes["noise_offset"] == outcomes["conv_dim"] == outcomes["prior_loss_weight"] == "ignored"
    assert outcomes["train_data_dir"] == outcomes["use_8bit_adam"] == "mapped"
    assert outcomes["additional_parameters.--zero_terminal_snr"] == "mapped"
    assert any("seed" in hint for hint in imported.hints)
    document = json.loads((DATA / "gui_2023.json").read_text())
    reported = {each.key.partition(".")[0] for each in imported.entries}
    assert reported == set(document)


@pytest.mark.parametrize(
    ("fields", "setting", "value"),
    [
        ({"noise_offset": 0.1}, "noise.noise_offset", 0.1),
        ({"noise_offset": 0.1, "noise_offset_type": "Multires"}, "noise.noise_offset", None),
        ({"multires_noise_iterations": 6}, "noise.multires_noise_iterations", None),
        ({"multires_noise_iterations": 6, "noise_offset_type": "Multires"}, "noise.multires_noise_iterations", 6),
        ({"text_encoder_lr": 0, "unet_lr": 1e-4}, "network.network_train_unet_only", True),
        ({"text_encoder_lr": 1e-4, "unet_lr": "0"}, "network.network_train_text_encoder_only", True),
        ({"lr_warmup": 10, "lr_warmup_steps": 77}, "optimizer.lr_warmup_steps", 77),
        ({"lr_warmup": 10, "lr_scheduler": "constant"}, "optimizer.lr_warmup_steps", 0),
        ({"lr_warmup": "10"}, "optimizer.lr_warmup_steps", "10%"),
        ({"max_resolution": "512"}, "dataset.resolution", 512),
        ({"max_resolution": "512, 768"}, "dataset.resolution", (512, 768)),
        ({"max_resolution": "512,650", "enable_bucket": False}, "dataset.resolution", (512, 648)),
        ({"epoch": "8"}, "training.max_train_epochs", 8),
        ({"epoch": 8, "max_train_epochs": 5}, "training.max_train_epochs", 5),
        ({"epoch": 8, "max_train_epochs": "", "max_train_steps": "0"}, "training.max_train_epochs", 8),
        ({"epoch": 8, "max_train_steps": "113"}, "training.max_train_steps", 113),
        ({"LoRA_type": "LoCon"}, "network.network_type", "locon"),
        ({"LoRA_type": "Kohya LoCon", "conv_dim": 8}, "network.conv_dim", 8),
        ({"LoRA_type": "LyCORIS/LoCon", "conv_dim": 0}, "network.network_type", "lora"),
        ({"LoRA_type": "LyCORIS/LoCon", "dora_wd": True}, "network.network_type", "locon"),
        ({"LoRA_type": "LyCORIS/LoCon", "dora_wd": True}, "network.dora_wd", True),
        ({"LoRA_type": "LyCORIS/LoCon", "dora_wd": True, "conv_dim": 0}, "network.network_type", "dora"),
        ({"LoRA_type": "LyCORIS/LoCon", "train_norm": True, "conv_dim": 0}, "network.lycoris_preset", "attn-mlp"),
        ({"LoRA_type": "LyCORIS/LoHa", "dora_wd": True}, "network.dora_wd", True),
        ({"LoRA_type": "LyCORIS/LoHa", "conv_dim": 0}, "network.lycoris_preset", "attn-mlp"),
        ({"LoRA_type": "LyCORIS/LoHa", "bypass_mode": True}, "network.network_type", "loha"),
        (
            {"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "unet-transformer-only"},
            "network.lycoris_preset",
            "transformer-only",
        ),
        ({"LoRA_type": "Kohya LoHa", "conv_dim": 0}, "network.lycoris_preset", "attn-mlp"),
        ({"LoRA_type": "Kohya LoKr", "conv_dim": 4, "rank_dropout": 0.1}, "network.rank_dropout_scale", True),
        ({"LoRA_type": "LyCORIS/Native Fine-Tuning"}, "network.network_type", "full"),
        ({"LoRA_type": "LyCORIS/LoKr", "network_dim": 100000, "conv_dim": 100000}, "network.full_matrix", True),
        ({"LoRA_type": "LyCORIS/LoKr", "network_dim": 16, "conv_dim": 100000}, "network.full_matrix", False),
        ({"LoRA_type": "LyCORIS/LoKr", "network_dim": 16, "conv_dim": 100000}, "network.conv_dim", 4096),
        ({"LoRA_type": "LyCORIS/LoKr", "use_cp": True}, "network.use_tucker", True),
        ({"LoRA_type": "LyCORIS/LoHa", "use_cp": True}, "network.use_tucker", False),
        ({"LoRA_type": "LyCORIS/Diag-OFT", "constrain": 0.1}, "network.constraint", 0.1),
        ({"LoRA_type": "LyCORIS/DyLoRA", "unit": 2, "conv_dim": 4}, "network.block_size", 2),
        ({"LoRA_type": "LyCORIS/DyLoRA", "unit": 2, "conv_dim": 1}, "network.block_size", 1),
        ({"LoRA_type": "Standard", "train_norm": True}, "network.train_norm", False),
        ({"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "attn-mlp"}, "network.lycoris_preset", "attn-mlp"),
        ({"block_dims": "2,4,8"}, "network.block_dims", (2, 4, 8)),
        ({"down_lr_weight": "0.5,1"}, "network.down_lr_weight", (0.5, 1.0)),
        ({"down_lr_weight": "cosine"}, "network.down_lr_weight", "cosine"),
        ({"max_token_length": 75}, "caption.max_token_length", 75),
        ({"clip_skip": "2"}, "model.clip_skip", 2),
        ({"clip_skip": "2", "sdxl": True}, "model.clip_skip", None),
        ({"sdxl": True}, "model.family", "sdxl"),
        ({"v2": True}, "model.family", "sd2"),
        ({"sdxl_no_half_vae": True}, "model.no_half_vae", False),
        ({"sdxl_no_half_vae": True, "sdxl": True}, "model.no_half_vae", True),
        ({"cache_latents": False, "cache_latents_to_disk": True}, "dataset.cache_latents", True),
        ({"max_grad_norm": 0}, "optimizer.max_grad_norm", 1.0),
        ({"max_grad_norm": 0.5}, "optimizer.max_grad_norm", 0.5),
        ({"seed": "1234"}, "training.seed", 1234),
        ({"seed": 0}, "training.seed", 42),
        ({"bucket_reso_steps": 1}, "dataset.bucket_reso_steps", 8),
        ({"loraplus_unet_lr_ratio": 0}, "optimizer.loraplus_unet_lr_ratio", None),
        ({"additional_parameters": "--lr_scheduler_type CAWR --seed=7", "seed": 3}, "training.seed", 7),
        ({"additional_parameters": "--optimizer_type=Lion"}, "optimizer.optimizer_type", "Lion"),
        ({"caption_extension": ""}, "caption.caption_extension", ".caption"),
        ({}, "caption.caption_extension", ".txt"),
        ({}, "network.network_dim", 8),
        ({}, "training.mixed_precision", "fp16"),
        ({"min_snr_gamma": 0}, "loss.min_snr_gamma", None),
        ({"dynamo_backend": "no"}, "training.torch_compile", False),
        ({"dynamo_backend": "inductor"}, "training.torch_compile", True),
        ({"sample_prompts": "a, b", "sample_every_n_steps": "50"}, "sample.prompts", ("a, b",)),
        ({"sample_prompts": "", "sample_every_n_steps": "50"}, "sample.sample_every_n_steps", None),
        ({"xformers": "none"}, "training.cross_attention", "sdpa"),
    ],
)
def test_what_a_field_of_the_gui_means(tmp_path: Path, fields: dict[str, Any], setting: str, value: object) -> None:
    imported = gui(tmp_path, **fields)
    table, _, key = setting.rpartition(".")
    assert getattr(getattr(imported.config, table), key) == value
    again = getattr(getattr(reloaded(imported, tmp_path), table), key)
    assert again == value
    assert {each.key.partition(".")[0] for each in imported.entries} == {"LoRA_type", *fields}


def test_both_rates_0_mean_the_common_one(tmp_path: Path) -> None:
    config = gui(tmp_path, text_encoder_lr=0, unet_lr=0, learning_rate=3e-4).config
    assert config.optimizer.effective_unet_lr == config.optimizer.effective_text_encoder_lr == 3e-4
    assert config.trains_unet
    assert config.trains_text_encoder


@pytest.mark.parametrize(
    "fields",
    [
        {"LoRA_type": "Flux1"},
        {"LoRA_type": "LoRA-FA"},
        {"resume": "/state"},
        {"optimizer_args": "weight_decay=high"},
        {"learning_rate": float("nan")},
        {"train_batch_size": "many"},
        {"lr_scheduler": "rex"},
        {"train_inpainting": True},
        {"flux1_checkbox": True},
        {"output_name": "a/b"},
        {"additional_parameters": "--a 'open"},
        {"dataset_config": "none-there.toml"},
        {"mixed_precision": ["fp16", {"x": 1}]},
    ],
)
def test_what_cannot_be_carried_out_is_important(tmp_path: Path, fields: dict[str, Any]) -> None:
    imported = gui(tmp_path, **fields)
    key = next(iter(fields))
    assert entry(imported, key).outcome == "not honoured"
    assert not imported.is_faithful
    assert f"NOT HONOURED: {key}" in render(imported, "x")
    reloaded(imported, tmp_path)


@pytest.mark.parametrize("off", [False, 0, 0.0, "FALSE", "false ", "0", "0.0"])
def test_a_switch_that_is_off_is_off_however_it_is_spelt(tmp_path: Path, off: object) -> None:
    imported = gui(tmp_path, multi_gpu=off, loraplus_lr_ratio=off)
    assert (entry(imported, "multi_gpu").outcome, entry(imported, "loraplus_lr_ratio").reason) == ("ignored", "off")
    assert imported.is_faithful


def test_a_shell_script() -> None:
    imported = import_file(DATA / "train.sh")
    config = imported.config
    assert config.model.family == "sdxl"
    assert config.model.pretrained_model_name_or_path == "/data/models/anime v2.safetensors"
    assert config.output.output_dir == Path("/data/out")
    assert config.output.output_name == "my fox"
    assert (config.network.network_type, config.network.factor, config.network.network_dim) == ("lokr", 8, 32)
    assert config.network.conv_dim is None  # those of the network, as in LyCORIS
    assert config.network.network_train_unet_only
    assert config.optimizer.optimizer_args == "decouple=True betas=0.9,0.99"
    assert config.optimizer.lr_warmup_steps == 0.1
    assert config.training.max_train_epochs == 10
    assert config.training.mixed_precision == "no"  # that of accelerate does not count
    assert config.dataset.cache_latents
    assert config.output.save_precision == "float"
    assert imported.is_faithful
    assert entry(imported, "--save_state").outcome == "ignored"
    assert entry(imported, "accelerate --mixed_precision").outcome == "ignored"


def test_defaults_of_sd_scripts_are_written_out(tmp_path: Path) -> None:
    imported = command(tmp_path, "train_network.py --network_module networks.lora --train_data_dir /d\n")
    config = imported.config
    assert not config.dataset.enable_bucket
    assert not config.dataset.cache_latents
    assert config.caption.caption_extension == ".caption"
    assert (config.network.network_dim, config.network.network_alpha) == (4, 1.0)
    assert config.optimizer.lr_scheduler == "constant"
    assert config.optimizer.learning_rate == 2e-6
    assert config.training.max_train_steps == 1600
    assert config.output.output_name == "last"
    assert imported.missing == ["model.pretrained_model_name_or_path"]
    text = render(imported, "x")
    for line in ("enable_bucket = false", 'caption_extension = ".caption"', "max_train_steps = 1600"):
        assert line in text
    assert "# pretrained_model_name_or_path = " in text


def test_windows_continuations_and_paths(tmp_path: Path) -> None:
    imported = command(
        tmp_path, 'accelerate launch train_network.py ^\r\n  --train_data_dir="D:\\lora\\img" ^\r\n  --seed=5\r\n'
    )
    assert imported.settings["dataset.train_data_dir"] == "D:\\lora\\img"
    assert imported.config.training.seed == 5
    assert entry(imported, "--train_data_dir").outcome == "changed"


@pytest.mark.parametrize(
    ("arguments", "item", "outcome", "reason"),
    [
        ("algo=loha bypass_mode=True", "bypass_mode", "ignored", "the fast way is taken by itself"),
        ("algo=loha block_dims=1,2", "block_dims", "ignored", "LyCORIS has no such argument"),
        ("algo=loha exclude_name=x", "exclude_name", "not honoured", "decide which layers"),
        ("algo=lokr unbalanced_factorization=True", "unbalanced_factorization", "not honoured", "evenly"),
        ("algo=lokr unbalanced_factorization=False", "unbalanced_factorization", "ignored", "off"),
        ("algo=full rank_dropout=0.1", "rank_dropout", "not honoured", "no ranks"),
        ("algo=full rank_dropout=0", "rank_dropout", "mapped", ""),
        ("algo=glora use_tucker=True", "use_tucker", "not honoured", "plain convolutions"),
        ("algo=glora dora_wd=True", "dora_wd", "ignored", "either"),
        ("algo=loha dora_wd=True rank_dropout=0.1", "rank_dropout", "not honoured", "does not go with DoRA"),
        ("algo=ia3 preset=full", "preset", "not honoured", "a list of layers of its own"),
        ("algo=ia3 preset=ia3", "preset", "ignored", "decides"),
        ("algo=ia3", "algo", "not honoured", "a list of layers of its own"),
        ("algo=ia3 preset=", "algo", "not honoured", "a list of layers of its own"),
        ("algo=ia3 preset=ia3", "algo", "mapped", ""),
        ("algo=ia3 preset=attn-mlp", "preset", "changed", "a list of layers of its own"),
        ("algo=ia3 preset=unet-transformer-only", "preset", "changed", "a list of layers of its own"),
        ("algo=dylora rs_lora=True", "rs_lora", "ignored", "does not use it"),
        ("algo=loha preset=full-lin", "preset", "changed", "without convolutions"),
        ("algo=loha preset=unet-convblock-only", "preset", "not honoured", "no such selection"),
        ("algo=tlora", "algo", "not honoured", "no such algorithm"),
    ],
)
def test_arguments_of_lycoris(tmp_path: Path, arguments: str, item: str, outcome: str, reason: str) -> None:
    imported = command(
        tmp_path, f"python train_network.py --network_module lycoris.kohya --network_args {arguments} --seed 1"
    )
    found = next(each for each in imported.entries if each.key.endswith(item))
    assert (found.outcome, reason in found.reason) == (outcome, True)


@pytest.mark.parametrize("preset", [{}, {"LyCORIS_preset": "full"}])
def test_ia3_without_a_preset_is_said_to_differ_as_with_full(tmp_path: Path, preset: dict[str, str]) -> None:
    imported = gui(tmp_path, LoRA_type="LyCORIS/iA3", **preset)
    assert imported.config.network.network_type == "ia3"
    assert not imported.is_faithful
    assert "a list of layers of its own" in render(imported, "x")
    assert gui(tmp_path, LoRA_type="LyCORIS/iA3", LyCORIS_preset="ia3").is_faithful


def test_sd_scripts_own_types_have_convolutions_only_when_told(tmp_path: Path) -> None:
    start = "python train_network.py --network_module networks.loha --network_dim 8 --seed 1"
    without = command(tmp_path, start).config.network
    assert (without.lycoris_preset, without.conv_dim, without.has_convolutions) == ("attn-mlp", None, False)
    imported = command(tmp_path, f"{start} --network_args conv_dim=4 rank_dropout=0.1 block_dims=1,2")
    network = imported.config.network
    assert (network.lycoris_preset, network.conv_dim, network.rank_dropout_scale) == ("full", 4, True)
    assert "conv_in" in next(each for each in imported.entries if each.key.endswith("network_module")).reason
    assert next(each for each in imported.entries if each.key.endswith("block_dims")).outcome == "ignored"


OF_LYCORIS = (
    "algo=loha preset=attn-mlp rs_lora=True dora_wd=True wd_on_output=False use_cp=True use_conv_cp=True "
    "use_scalar=True train_norm=True rank_dropout_scale=True full_matrix=True decompose_both=True constraint=0.1 "
    "constrain=0.1 rescaled=True block_size=2 dropout=0.3 exclude_name=x unbalanced_factorization=True"
)


@pytest.mark.parametrize(
    ("module", "own", "unused"),
    [
        ("networks.lora", "conv_dim=8 conv_alpha=2 rank_dropout=0.1", "factor=4 unit=2 use_tucker=True"),
        ("networks.lora", "", "factor=4 unit=2 use_tucker=True"),
        ("networks.dylora", "conv_dim=8 unit=2 loraplus_lr_ratio=4", "factor=4 rank_dropout=0.1 mid_lr_weight=0.5"),
        ("networks.loha", "conv_dim=4 use_tucker=True module_dropout=0.1", "factor=4 unit=2 block_alphas=1,2"),
        ("networks.lokr", "use_tucker=True conv_dim=4 factor=4", "unit=2 block_dims=1,2"),
    ],
)
def test_what_a_module_of_sd_scripts_does_not_use_does_nothing(
    tmp_path: Path, module: str, own: str, unused: str
) -> None:
    start = f"python train_network.py --network_module {module} --network_dim 8 --network_args {own}"
    unused = f"{OF_LYCORIS} {unused}"
    imported, plain = command(tmp_path, f"{start} {unused} --seed 1"), command(tmp_path, f"{start} --seed 1")
    assert imported.config == plain.config
    assert imported.is_faithful
    for item in unused.split():
        found = next(each for each in imported.entries if each.key.endswith(f".{item.partition('=')[0]}"))
        assert (found.outcome, found.reason) == ("ignored", f"{module} does not use it")


def test_dylora_of_sd_scripts_has_one_alpha_and_no_dropout(tmp_path: Path) -> None:
    start = "python train_network.py --network_module networks.dylora --network_dim 8 --network_alpha 2 --seed 1"
    imported = command(tmp_path, f"{start} --network_dropout 0.1 --network_args conv_dim=8 conv_alpha=4")
    network = imported.config.network
    assert (network.conv_dim, network.conv_alpha, network.network_dropout) == (8, 2.0, 0.0)
    assert entry(imported, "--network_dropout").outcome == "ignored"


def test_convolutions_by_block_make_a_locon(tmp_path: Path) -> None:
    ranks = ",".join(["2"] * 25)
    start = "python train_network.py --network_module networks.lora --seed 1 --network_args"
    network = command(tmp_path, f"{start} block_dims={ranks} conv_block_dims={ranks}").config.network
    assert (network.network_type, network.conv_block_dims) == ("locon", (2,) * 25)
    alone = command(tmp_path, f"{start} conv_block_dims={ranks}").config.network
    assert (alone.network_type, alone.conv_block_dims) == ("lora", ())


def test_lora_fa_is_read_with_the_blocks_of_networks_lora(tmp_path: Path) -> None:
    start = "python train_network.py --network_module networks.lora_fa --network_args"
    network = command(tmp_path, f"{start} block_dims={','.join(['2'] * 25)} rs_lora=True").config.network
    assert (network.block_dims, network.rs_lora) == ((2,) * 25, False)


def test_lycoris_takes_what_is_missing_for_convolutions_from_the_network(tmp_path: Path) -> None:
    start = "python train_network.py --network_module lycoris.kohya --network_dim 8 --network_alpha 2 --seed 1"
    neither = command(tmp_path, f"{start} --network_args algo=loha").config.network
    assert (neither.conv_dim, neither.has_convolutions) == (None, True)
    rank = command(tmp_path, f"{start} --network_args algo=loha conv_dim=4").config.network
    alpha = command(tmp_path, f"{start} --network_args algo=loha conv_alpha=4").config.network
    assert ((rank.conv_dim, rank.conv_alpha), (alpha.conv_dim, alpha.conv_alpha)) == ((4, 2.0), (8, 4.0))


@pytest.mark.parametrize(
    "given",
    [
        "networks.lora --network_args conv_dim=4 conv_alpha=0",
        "lycoris.kohya --network_args algo=loha conv_dim=4 conv_alpha=0",
        "lycoris.kohya --network_alpha 0 --network_args algo=loha conv_dim=4",
    ],
)
def test_an_alpha_of_0_is_the_rank_of_the_convolutions_too(tmp_path: Path, given: str) -> None:
    imported = command(tmp_path, f"train_network.py --network_dim 8 --seed 1 --network_module {given}")
    assert (imported.config.network.conv_dim, imported.config.network.conv_alpha) == (4, 4.0)
    assert imported.is_faithful


def test_a_file_whose_layers_have_ranks_of_their_own(tmp_path: Path) -> None:
    said = {"ss_network_module": "networks.lora", "ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    imported = import_file(adapter(tmp_path / "a", **said))
    assert entry(imported, "ss_network_dim").outcome == "ignored"
    assert imported.is_faithful and imported.config.network.network_dim == 32


def test_a_toml_with_sections_and_a_config_file_below_a_command(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        '[a]\nnetwork_module = "networks.lora"\nnetwork_args = ["conv_dim=4"]\n[b]\nseed = 3\nlearning_rate = 1e-4\n'
    )
    plain = import_file(tmp_path / "base.toml")
    assert (plain.config.network.network_type, plain.config.network.conv_dim) == ("locon", 4)
    above = command(tmp_path, "python train_network.py --config_file base.toml --seed 9")
    assert above.config.training.seed == 9
    assert above.config.network.conv_dim == 4
    assert entry(above, "seed").outcome == "ignored"
    assert entry(above, "--seed").outcome == "mapped"


def adapter(path: Path, **metadata: object) -> Path:
    header = json.dumps({"__metadata__": {key: str(value) for key, value in metadata.items()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_an_adapter_says_how_it_was_trained(tmp_path: Path) -> None:
    path = adapter(
        tmp_path / "fox.bin",
        ss_network_module="lycoris.kohya",
        ss_network_dim=16,
        ss_network_alpha=8.0,
        ss_network_args=json.dumps({"algo": "loha", "conv_dim": "4", "conv_alpha": "2"}),
        ss_optimizer="prodigyopt.prodigy.Prodigy(decouple=True,betas=(0.9, 0.99))",
        ss_learning_rate=1.0,
        ss_text_encoder_lr="None",
        ss_unet_lr="None",
        ss_num_epochs=12,
        ss_max_train_steps=1200,
        ss_resolution="(768, 768)",
        ss_base_model_version="sdxl_base_v1-0",
        ss_zero_terminal_snr=False,
        ss_dataset_dirs=json.dumps({"10_fox": {"n_repeats": 10, "img_count": 24}}),
        ss_sd_model_name="base.safetensors",
        ss_seed=7,
        ss_keep_tokens=2,
        sshs_model_hash="abc",
    )
    imported = import_file(path)
    config = imported.config
    assert (config.network.network_type, config.network.network_dim, config.network.conv_dim) == ("loha", 16, 4)
    assert config.optimizer.optimizer_type == "Prodigy"
    assert config.optimizer.parsed_optimizer_args == {"decouple": True, "betas": (0.9, 0.99)}
    assert (config.training.max_train_epochs, config.training.max_train_steps) == (12, None)
    assert (config.dataset.resolution, config.model.family, config.training.seed) == (768, "sdxl", 7)
    assert config.dataset.enable_bucket  # not recorded here: ours, not that of sd-scripts
    assert imported.missing == ["model.pretrained_model_name_or_path", "dataset.train_data_dir"]
    assert any("10_fox (24 pictures)" in hint for hint in imported.hints)
    assert "10_fox (24 pictures)" in render(imported, "x")


def test_an_adapter_of_our_own_is_not_said_to_differ(tmp_path: Path) -> None:
    network = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "locon", "conv_dim": "4"}'}
    ours = import_file(adapter(tmp_path / "a", ss_loratory_version="1", **network))
    theirs = import_file(adapter(tmp_path / "b", **network))
    assert ours.config.network == theirs.config.network
    assert entry(ours, "ss_network_module").outcome == "mapped"
    assert "time embedding" in entry(theirs, "ss_network_module").reason


def test_an_adapter_trained_with_a_dataset_toml(tmp_path: Path) -> None:
    folders = [{"keep_tokens": 2, "flip_aug": True}, {"keep_tokens": 2, "flip_aug": False}]
    datasets = [{"batch_size_per_device": 3, "resolution": [640, 768], "enable_bucket": False, "subsets": folders}]
    imported = import_file(adapter(tmp_path / "a", ss_network_dim=8, ss_datasets=json.dumps(datasets)))
    config = imported.config
    assert (config.training.train_batch_size, config.dataset.resolution) == (3, (640, 768))
    assert (config.dataset.enable_bucket, config.caption.keep_tokens, config.dataset.flip_aug) == (False, 2, False)


def test_a_dataset_toml(tmp_path: Path) -> None:
    imported = import_file(DATA / "dataset.toml")
    first, second = imported.config.dataset.subsets
    assert (first.image_dir, second.image_dir) == (DATA / "fox", Path("/data/reg"))
    assert (first.num_repeats, first.class_tokens, first.keep_tokens, first.flip_aug) == (10, "a fox", 2, True)
    assert (second.num_repeats, second.class_tokens, second.keep_tokens, second.is_reg) == (3, "", 0, True)
    assert imported.config.caption.shuffle_caption
    assert (imported.config.dataset.resolution, imported.config.training.train_batch_size) == (640, 2)
    assert imported.missing == ["model.pretrained_model_name_or_path"]
    assert reloaded(imported, tmp_path).dataset.subsets == imported.config.dataset.subsets


def test_a_config_takes_a_dataset_toml_over(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text((DATA / "dataset.toml").read_text())
    path = tmp_path / "config.toml"
    path.write_text(
        NEEDED + '[dataset]\ndataset_config = "set.toml"\nresolution = 512\n[caption]\nkeep_tokens = 5\n'
        "[training]\ntrain_batch_size = 1\n"
    )
    config = load_config(path, ["training.train_batch_size=3"])
    assert config.dataset.dataset_config is None
    assert config.dataset.resolution == 640
    assert config.caption.keep_tokens == 1
    assert config.training.train_batch_size == 3
    assert [subset.image_dir for subset in config.dataset.subsets] == [tmp_path / "fox", Path("/data/reg")]
    again = tmp_path / "again.toml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='a'\nface_crop_aug_range='1,2'\n", "face_crop_aug_range"),
        ("[[datasets]]\nnetwork_multiplier=0.5\n[[datasets.subsets]]\nimage_dir='a'\n", "datasets[1].network_multi"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='a'\nresolution=512\n", "belongs to the dataset"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats=2\n", "subsets[1].image_dir: is required"),
        ("[general]\nshuffel=true\n", "general.shuffel = true: no such key"),
        ("[general]\n", "names no folder"),
        ("datasets=3\n", "must be a list of tables"),
        (
            "[[datasets]]\n[[datasets.subsets]]\nimage_dir='a'\nnum_repeats='2'\n",
            "set.toml: dataset.subsets[1].num_repe",
        ),
        (
            "[[datasets]]\nresolution=512\n[[datasets.subsets]]\nimage_dir='a'\n"
            "[[datasets]]\nresolution=768\n[[datasets.subsets]]\nimage_dir='b'\n",
            "differ in resolution (512, 768)",
        ),
    ],
)
def test_a_wrong_dataset_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.toml").write_text(text)
    path = tmp_path / "config.toml"
    path.write_text(NEEDED + '[dataset]\ndataset_config = "set.toml"\n')
    with pytest.raises(LoratoryError) as caught:
        load_config(path)
    assert message in caught.value.message
    assert "set.toml" in caught.value.message


def test_a_dataset_toml_beside_subsets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text((DATA / "dataset.toml").read_text())
    path = tmp_path / "config.toml"
    path.write_text(NEEDED + '[dataset]\ndataset_config = "set.toml"\nsubsets = [{image_dir = "a"}]\n')
    with pytest.raises(LoratoryError, match="stands beside dataset_config"):
        load_config(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b'{"a": 1}',
        b"{" * 5000,
        b'{"LoRA_type": ',
        b"\xff\xfe\x00",
        b"hello there",
        b"a = 1\n",
        b"accelerate launch flux_train_network.py --x 1",
        b"train_network.py --a 'open",
        struct.pack("<Q", 10) + b"{",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 1 << 39) + b"{",
        b'[model]\npretrained_model_name_or_path = "nano"\n[network]\nnetwork_type = "lora"\n',
    ],
)
def test_other_files_are_refused_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    monkeypatch.setattr("sys.argv", ["loratory", "kohya", "import", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "defect" not in error


def test_the_command_writes_a_file_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "fox.toml"
    monkeypatch.setattr("sys.argv", ["loratory", "kohya", "import", str(DATA / "train.sh"), "-o", str(out), "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    assert stopped.value.code == 0
    report = json.loads(captured.out)
    assert report["settings"]["network"]["network_type"] == "lokr"
    assert any(each["key"] == "--network_args.factor" for each in report["report"])
    assert {each["outcome"] for each in report["report"]} == {"mapped", "changed", "ignored"}
    assert "Wrote" in captured.err
    assert load_config(out).network.factor == 8


WORDS = [
    "",
    "0",
    "1",
    "-1",
    "0.5",
    "768,768",
    "true",
    "None",
    "nan",
    "1e400",
    "a=b",
    "a b=1",
    "fp16",
    "cosine",
    "\0",
    "\ud800",
]
WORDS += [
    "constant",
    "LyCORIS/LoKr",
    "LyCORIS/DyLoRA",
    "LyCORIS/iA3",
    "Kohya LoCon",
    "Multires",
    "--seed",
    "%",
    "9" * 5000,
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2000),
    st.sampled_from([10**30, -(10**400), 0.5, 1.0, -0.0, float("nan"), float("inf"), 1e-5, 65.5]),
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.recursive(st.integers(0, 9) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
KEYS = sorted(KNOWN_KEYS | set(GUI_DEFAULTS) | {"xformers", "use_cp", "unknown"})


def same_but_for_paths(imported: Imported, folder: Path) -> None:
    again, before = reloaded(imported, folder), imported.config
    for name, field in FIELDS.items():
        table, _, key = name.rpartition(".")
        if not table or holds_path(field) or name in ("dataset.subsets", "model.pretrained_model_name_or_path"):
            continue
        assert getattr(getattr(again, table), key) == getattr(getattr(before, table), key), name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=14))
def test_any_gui_file_becomes_a_config_that_loads(tmp_path: Path, fields: dict[str, Any]) -> None:
    imported = gui(tmp_path, **fields)
    keys = [each.key for each in imported.entries]
    assert len(keys) == len(set(keys))
    assert {key.partition(".")[0] for key in keys} >= {"LoRA_type", *fields}
    same_but_for_paths(imported, tmp_path)


ARGUMENTS = sorted({*SETTING_OF, *CONVERTED} - {"network_args"})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=st.dictionaries(st.sampled_from(ARGUMENTS), st.sampled_from(WORDS[:17]), max_size=10),
    items=st.dictionaries(st.sampled_from(sorted(NETWORK_ARGS)), st.sampled_from(WORDS[:12]), max_size=5),
    module=st.sampled_from(["networks.lora", "lycoris.kohya", "networks.dylora", "other"]),
)
def test_any_command_line_becomes_a_config_that_loads(
    tmp_path: Path, options: dict[str, str], items: dict[str, str], module: str
) -> None:
    words = [f"--{name}='{value}'" for name, value in options.items() if value.isprintable()]
    words += ["--network_args", *(f"'{name}={value}'" for name, value in items.items() if value.isprintable())]
    imported = command(tmp_path, f"train_network.py --network_module {module} {' '.join(words)}")
    same_but_for_paths(imported, tmp_path)


METADATA = sorted({f"ss_{name}" for name in SETTING_OF} | {"ss_optimizer", "ss_datasets", "ss_network_args", "ss_v2"})
METADATA += [
    "ss_resolution",
    "ss_network_module",
    "ss_dataset_dirs",
    "ss_base_model_version",
    "ss_text_encoder_lr",
    "x",
]
TEXTS = [*WORDS, "[1]", "{", "[[]]", '{"algo": "dylora", "conv_dim": 0}', '{"a": {"img_count": [1]}, "b": 3}', "AdamW("]
TEXTS += ["x(a=1,a=2)", "[5e-5, 0]", "(768, 512)", "lycoris.kohya", '[{"subsets": [1, {}], "resolution": [1]}]']


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(st.sampled_from(METADATA), st.sampled_from(TEXTS), max_size=10))
def test_any_metadata_become_a_config_that_loads(tmp_path: Path, metadata: dict[str, str]) -> None:
    imported = import_file(adapter(tmp_path / "a.safetensors", **({"ss_network_dim": "8"} | metadata)))
    assert {each.key.partition(".")[0] for each in imported.entries} >= set(metadata)
    same_but_for_paths(imported, tmp_path)


PIECES = ["train_network.py", "--a", "--seed", "=", "'", '"', "\n", "\\", "A=b", "$A", "[x]", "#", "1", "x=1", "{", ";"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=12).map(lambda p: " ".join(p).encode()))
def test_any_file_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    try:
        imported = import_file(tmp_path / "file")
    except LoratoryError:
        return
    same_but_for_paths(imported, tmp_path)
