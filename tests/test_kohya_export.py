"""Configurations written for sd-scripts, and read back."""

import json
import re
import struct
import tomllib
from pathlib import Path
from typing import Any

import pytest

from loratory.cli.main import main
from loratory.config.fields import FIELDS
from loratory.config.kohya.export import Folder, Model, export
from loratory.config.kohya.importing import import_file
from loratory.config.kohya.settings import CONVERTED, GUI_CONVERTED, GUI_NAMES, NETWORK_ARGS, SETTING_OF
from loratory.config.load import resolve
from loratory.config.presets import list_presets, shipped_folder
from loratory.config.schema import Config
from loratory.training.metadata import network_metadata

DOC = Path(__file__).parents[1] / "docs" / "kohya.md"
PRESETS = sorted(path.stem for path in shipped_folder().glob("*.toml"))

# What sd-scripts has no word for; exposure is written as epochs.
NOT_SAID = {"dataset.goal", "training.exposure", "training.max_train_epochs", "output.runs_dir", "output.logging_dir"}


NETWORKS: list[dict[str, Any]] = [
    {"network_type": "lora", "network_dim": 16, "block_dims": [2] * 25, "down_lr_weight": "cosine"},
    {"network_type": "lora", "rank_dropout": 0.1, "module_dropout": 0.2},
    {"network_type": "locon", "conv_dim": 8, "conv_alpha": 4.0, "conv_block_dims": [2] * 25},
    {"network_type": "locon", "conv_dim": 8, "dora_wd": True, "train_norm": True},
    {"network_type": "locon", "lycoris_preset": "attn-mlp", "use_scalar": True, "up_lr_weight": [0.5] * 12},
    {"network_type": "dora", "network_alpha": 1.0},
    {"network_type": "loha", "network_alpha": 4.0, "lycoris_preset": "attn-only", "block_dims": [2] * 25},
    {"network_type": "loha", "dora_wd": True, "wd_on_output": False, "use_tucker": True},
    {"network_type": "lokr", "factor": 8, "full_matrix": True},
    {"network_type": "lokr", "decompose_both": True, "rs_lora": True, "conv_dim": 4},
    {"network_type": "dylora", "network_dim": 64, "network_alpha": 32.0, "block_size": 8},
    {"network_type": "glora", "rank_dropout": 0.1, "rank_dropout_scale": True, "lycoris_preset": "unet-only"},
    {"network_type": "ia3", "module_dropout": 0.1},
    {"network_type": "ia3", "lycoris_preset": "unet-only"},
    {"network_type": "diag-oft", "network_dim": 8, "constraint": 1e-4, "rescaled": True, "conv_dim": 4},
    {"network_type": "boft", "rank_dropout": 0.1},
    {"network_type": "full", "train_norm": True, "lycoris_preset": "transformer-only"},
]


@pytest.fixture(autouse=True)
def _own_state_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))


def configured(**tables: dict[str, Any]) -> Config:
    needed: dict[str, dict[str, Any]] = {
        "model": {"pretrained_model_name_or_path": "/m/base.safetensors"},
        "dataset": {"train_data_dir": "/m/set"},
        "output": {"output_dir": "/m/out"},
    }
    document = {table: needed.get(table, {}) | tables.get(table, {}) for table in needed.keys() | tables.keys()}
    return resolve(document, Path("/m/config.toml"))


def there_and_back(config: Config, folder: Path, family: str = "sd1", epochs: int | None = 7) -> Config:
    written = export(config, Model(family), epochs, [])
    (folder / "c.toml").write_text(written.config)
    (folder / "run.sh").write_text(f"accelerate launch {written.script}.py --config_file c.toml\n")
    imported = import_file(folder / "run.sh")
    assert imported.is_faithful
    return imported.config


def differences(first: Config, second: Config) -> set[str]:
    tables = [name for name, value in first if hasattr(value, "conflicts")]
    return {
        f"{table}.{key}"
        for table in tables
        for key, value in getattr(first, table)
        if value != getattr(getattr(second, table), key)
    }


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back(tmp_path: Path, name: str) -> None:
    preset = next(preset for preset in list_presets() if preset.name == name)
    document = {
        "preset": str(preset.path),
        "model": {"pretrained_model_name_or_path": "/m/base.safetensors"},
        "dataset": {"train_data_dir": "/m/set"},
        "output": {"output_dir": "/m/out"},
    }
    config = resolve(document, Path("/m/config.toml"))
    family = "sd1" if config.model.family == "auto" else config.model.family
    again = there_and_back(config, tmp_path, family)
    assert differences(config, again) <= NOT_SAID
    assert again.training.max_train_epochs == 7


@pytest.mark.parametrize(
    ("tables", "lost"),
    [
        ({"network": {"network_train_unet_only": True}, "optimizer": {"unet_lr": 2e-4}}, set[str]()),
        ({"optimizer": {"text_encoder_lr": [1e-5, 2e-5], "lr_warmup_steps": 0.1}}, set[str]()),
        ({"optimizer": {"lr_warmup_steps": "10%"}}, {"optimizer.lr_warmup_steps"}),
        ({"optimizer": {"text_encoder_lr": 0.0}}, {"optimizer.text_encoder_lr", "network.network_train_unet_only"}),
        ({"noise": {"noise_offset": 0.05, "adaptive_noise_scale": 0.01, "max_timestep": 900}}, set[str]()),
        ({"noise": {"multires_noise_iterations": 6, "ip_noise_gamma": 0.1}}, set[str]()),
        ({"loss": {"loss_type": "huber", "huber_c": 0.2, "v_pred_like_loss": 0.1}}, set[str]()),
        ({"network": {"block_dims": [2] * 25, "down_lr_weight": [0.5] * 12, "mid_lr_weight": 0.5}}, set[str]()),
        ({"network": {"network_type": "locon", "conv_dim": 8, "conv_alpha": 2.0}}, set[str]()),
        ({"network": {"network_type": "locon"}}, {"network.conv_dim", "network.conv_alpha"}),
        ({"network": {"network_type": "lokr", "factor": 8, "full_matrix": True}}, set[str]()),
        ({"network": {"network_type": "boft", "constraint": 0.1, "rescaled": True}}, set[str]()),
        ({"network": {"network_type": "full", "train_norm": True}}, set[str]()),
        ({"network": {"network_type": "lokr", "factor": 8, "conv_dim": 4, "decompose_both": True}}, set[str]()),
        ({"network": {"network_type": "loha", "dora_wd": True, "wd_on_output": False, "rs_lora": True}}, set[str]()),
        ({"network": {"network_type": "locon", "conv_dim": 8, "use_tucker": True, "use_scalar": True}}, set[str]()),
        ({"network": {"network_type": "locon", "conv_dim": 8, "dora_wd": True}}, set[str]()),
        ({"network": {"network_type": "dora"}}, set[str]()),
        ({"network": {"network_type": "dora", "conv_dim": 4}}, {"network.network_type", "network.dora_wd"}),
        ({"network": {"network_type": "lora", "dora_wd": True}}, {"network.network_type", "network.dora_wd"}),
        ({"network": {"network_type": "lora", "lycoris_preset": "attn-only"}}, {"network.network_type"}),
        ({"network": {"network_type": "dylora", "network_dim": 16, "block_size": 2}}, set[str]()),
        ({"network": {"network_type": "glora", "rank_dropout": 0.1, "rank_dropout_scale": True}}, set[str]()),
        ({"network": {"network_type": "diag-oft", "network_dim": 8, "conv_dim": 4}}, set[str]()),
        ({"network": {"network_type": "ia3"}}, set[str]()),
        (
            {
                "network": {
                    "network_type": "loha",
                    "lycoris_preset": "transformer-only",
                    "network_train_unet_only": True,
                }
            },
            set[str](),
        ),
        ({"network": {"network_type": "loha", "lycoris_preset": "attn-mlp"}}, set[str]()),
        ({"network": {"network_dim": 16, "rs_lora": True}}, {"network.rs_lora", "network.network_alpha"}),
        ({"optimizer": {"loraplus_unet_lr_ratio": 16.0}}, set[str]()),
        ({"output": {"save_every_n_epochs": 2, "save_last_n_epochs": 4, "training_comment": "a, b"}}, set[str]()),
        ({"caption": {"caption_prefix": "x ", "secondary_separator": ";;;", "max_token_length": 225}}, set[str]()),
        ({"dataset": {"resolution": [512, 768], "bucket_no_upscale": True, "cache_latents": False}}, set[str]()),
        ({"training": {"max_train_steps": 500, "full_fp16": True, "mixed_precision": "fp16"}}, set[str]()),
        ({"model": {"family": "sd2", "v_parameterization": True}}, {"model.family"}),
        ({"training": {"cross_attention": "xformers"}}, {"training.cross_attention"}),
    ],
)
def test_settings_come_back(tmp_path: Path, tables: dict[str, dict[str, Any]], lost: set[str]) -> None:
    config = configured(**tables)
    again = there_and_back(config, tmp_path)
    assert differences(config, again) - NOT_SAID == lost


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network.values()))[:40])
def test_a_file_says_how_its_network_was_trained(tmp_path: Path, network: dict[str, Any]) -> None:
    config = configured(network=network)
    metadata = network_metadata(config) | {"ss_loratory_version": "1", "ss_network_dropout": None}
    header = json.dumps({"__metadata__": {key: str(value) for key, value in metadata.items()}}).encode()
    (tmp_path / "fox.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    imported = import_file(tmp_path / "fox.safetensors")
    assert imported.is_faithful
    assert imported.config.network == config.network


def test_a_file_names_its_network_as_lycoris_does() -> None:
    said = network_metadata(configured(network={"network_type": "lokr", "factor": 8, "conv_dim": 4, "conv_alpha": 2.0}))
    assert said["ss_network_module"] == "lycoris.kohya"
    assert json.loads(str(said["ss_network_args"])) == {
        "algo": "lokr",
        "preset": "full",
        "conv_dim": "4",
        "conv_alpha": "2.0",
        "factor": "8",
    }
    plain = network_metadata(configured(network={"network_type": "locon", "conv_dim": 8}))
    assert plain["ss_network_module"] == "networks.lora"
    assert json.loads(str(plain["ss_network_args"])) == {"conv_dim": "8", "conv_alpha": "1.0"}
    assert network_metadata(configured(network={"network_type": "ia3"}))["ss_network_dim"] is None


def test_what_lycoris_cannot_say_is_remarked() -> None:
    config = configured(network={"network_type": "loha", "block_dims": [2] * 25, "lycoris_preset": "transformer-only"})
    written = export(config, Model("sd1"), 1, [])
    text = "\n".join(written.remarks)
    assert "block_dims: LyCORIS has no such argument" in text
    assert "preset=unet-transformer-only" in tomllib.loads(written.config)["network_args"]
    assert "block_dims" not in written.config
    dylora = export(configured(network={"network_type": "dylora"}), Model("sd1"), 1, [])
    assert any("too weak" in remark for remark in dylora.remarks)


def test_what_sd_scripts_cannot_say_is_remarked() -> None:
    config = configured(
        training={"ema_decay": 0.99},
        noise={"timestep_sampling": "logit_normal"},
        network={"rs_lora": True, "network_dim": 16, "network_alpha": 1.0},
    )
    written = export(config, Model("sd1"), None, None)
    text = "\n".join(written.remarks)
    for word in ("training.ema_decay = 0.99", "noise.timestep_sampling", "network_alpha = 4", "exposure of 100"):
        assert word in text
    assert tomllib.loads(written.config)["network_alpha"] == 4.0
    assert "max_train_epochs" not in written.config


def read_by_networks_lora(arguments: dict[str, Any], count: int) -> list[tuple[float, float]]:
    """The scale of the linear layers and of the convolutions of each block, as sd-scripts computes it; 0: none."""
    items = dict(item.split("=", 1) for item in arguments.get("network_args", []))
    dim, alpha = arguments.get("network_dim", 4), arguments.get("network_alpha", 1.0)

    def listed(key: str, otherwise: float) -> list[float]:
        return [float(each) for each in items[key].split(",")] if key in items else [otherwise] * count

    dims, alphas = [dim] * count, [alpha] * count
    conv_dims, conv_alphas = [float(items.get("conv_dim", 0))] * count, [float(items.get("conv_alpha", 1.0))] * count
    if "block_dims" in items:
        dims, alphas = listed("block_dims", dim), listed("block_alphas", alpha)
        if "conv_block_dims" in items:
            conv_dims, conv_alphas = listed("conv_block_dims", 0), listed("conv_block_alphas", conv_alphas[0])
    return [
        ((a or d) / d if d else 0.0, (ca or cd) / cd if cd else 0.0)
        for d, a, cd, ca in zip(dims, alphas, conv_dims, conv_alphas, strict=True)
    ]


DIMS, ALPHAS = [2, 0, *range(3, 26)], [1.0, 1.0, 0.0, *([2.0] * 22)]


@pytest.mark.parametrize("rs_lora", [False, True])
@pytest.mark.parametrize(
    "network",
    [
        {"network_type": "lora", "network_dim": 16, "block_dims": DIMS},
        {"network_type": "lora", "network_dim": 16, "block_dims": DIMS, "block_alphas": ALPHAS},
        {"network_type": "lora", "network_dim": 16, "block_alphas": ALPHAS},
        {"network_type": "locon", "network_dim": 16, "block_dims": DIMS},
        {"network_type": "locon", "network_dim": 16, "block_dims": DIMS, "conv_dim": 8, "conv_alpha": 2.0},
        {"network_type": "locon", "network_dim": 16, "block_dims": DIMS, "conv_block_dims": DIMS[::-1]},
        {"network_type": "locon", "conv_dim": 8, "conv_alpha": 4.0, "conv_block_dims": DIMS},
        {"network_type": "locon", "conv_dim": 8, "conv_block_alphas": ALPHAS, "network_alpha": 3.0},
        {"network_type": "locon", "conv_block_alphas": ALPHAS},
    ],
    ids=lambda network: "-".join(map(str, network)) if isinstance(network, dict) else None,
)
def test_blocks_are_exported_with_the_strength_they_have_here(
    tmp_path: Path, network: dict[str, Any], rs_lora: bool
) -> None:
    from loratory.adapters.blocks import block_sizes

    config = configured(network=network | {"rs_lora": rs_lora, "network_alpha": network.get("network_alpha", 5.0)})
    here = block_sizes(config.network, "sd1", convolutions=config.network.has_convolutions)
    scales = [tuple(size.alpha / size.rank if size else 0.0 for size in sizes) for sizes in here]
    written = tomllib.loads(export(config, Model("sd1"), 1, []).config)
    for ours, theirs in zip(scales, read_by_networks_lora(written, 25), strict=True):
        assert theirs == pytest.approx(ours)
    again = there_and_back(config, tmp_path).network
    assert not again.rs_lora
    for one, other in zip(here, block_sizes(again, "sd1", convolutions=again.has_convolutions), strict=True):
        assert [size and tuple(size) for size in other] == [size and pytest.approx(tuple(size)) for size in one]


@pytest.mark.parametrize("kind", ["dylora", "glora", "lora", "locon"])
def test_a_file_says_the_alphas_of_blocks_with_rs_lora_in_them(tmp_path: Path, kind: str) -> None:
    from loratory.adapters.blocks import block_sizes

    blocks = {"block_dims": [4, 8] * 12 + [4], "block_alphas": ALPHAS, "conv_block_alphas": ALPHAS}
    blocks = {key: value for key, value in blocks.items() if kind != "lora" or "conv" not in key}
    config = configured(network={"network_type": kind, "rs_lora": True} | blocks)
    metadata = network_metadata(config) | {"ss_loratory_version": "1"}
    header = json.dumps({"__metadata__": {key: str(value) for key, value in metadata.items()}}).encode()
    (tmp_path / "fox.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    again = import_file(tmp_path / "fox.safetensors").config.network
    assert not again.rs_lora
    sizes = [block_sizes(each, "sd1", convolutions=kind != "lora") for each in (config.network, again)]
    for one, other in zip(*sizes, strict=True):
        assert [size and tuple(size) for size in other] == [size and pytest.approx(tuple(size)) for size in one]


def test_rs_lora_of_a_lokr_is_exported_as_alpha() -> None:
    network = {"network_type": "lokr", "network_dim": 16, "network_alpha": 2.0, "rs_lora": True, "conv_dim": 4}
    written = export(configured(network=network), Model("sd1"), 1, [])
    values = tomllib.loads(written.config)
    assert "rs_lora" not in "".join(values["network_args"])
    assert (values["network_alpha"], "conv_alpha=2.0" in values["network_args"]) == (8.0, True)
    assert any("rs_lora: written as network_alpha = 8" in remark for remark in written.remarks)


def test_lists_that_nobody_gave_are_not_remarked() -> None:
    network = {"network_type": "dylora", "block_dims": [4] * 25, "rs_lora": True}
    remarks = export(configured(network=network), Model("sd1"), 1, []).remarks
    assert [remark.partition(":")[0] for remark in remarks if "no such argument" in remark] == ["block_dims"]


def test_a_detected_prediction_type_is_said() -> None:
    written = export(configured(), Model("sdxl", v_prediction=True, zero_terminal_snr=True), 3, [])
    values = tomllib.loads(written.config)
    assert written.script == "sdxl_train_network"
    assert values["v_parameterization"] is values["zero_terminal_snr"] is True
    assert values["max_train_epochs"] == 3
    assert values["resolution"] == "512,512"


def test_folders_with_settings_of_their_own(tmp_path: Path) -> None:
    config = configured(
        dataset={"subsets": [{"image_dir": "/m/set/10_fox red", "flip_aug": True}, {"image_dir": "/other"}]}
    )
    folders = [Folder(Path("/m/set/10_fox red"), 10, "fox red", False), Folder(Path("/m/reg/2_fox"), 2, "fox", True)]
    written = export(config, Model("sd1"), 1, folders)
    (dataset,) = tomllib.loads(written.dataset)["datasets"]
    assert (dataset["resolution"], dataset["batch_size"]) == ([512, 512], 1)
    first, second, third = dataset["subsets"]
    assert first == {"image_dir": "/m/set/10_fox red", "num_repeats": 10, "class_tokens": "fox red", "flip_aug": True}
    assert second == {"image_dir": "/m/reg/2_fox", "num_repeats": 2, "class_tokens": "fox", "is_reg": True}
    assert third["image_dir"] == "/other"
    (tmp_path / "c.toml").write_text(written.config)
    (tmp_path / "d.toml").write_text(written.dataset)
    (tmp_path / "run.sh").write_text("python train_network.py --config_file c.toml --dataset_config d.toml")
    again = import_file(tmp_path / "run.sh").config
    assert [subset.num_repeats for subset in again.dataset.subsets] == [10, 2, 1]
    assert again.dataset.subsets[1].is_reg
    assert again.dataset.train_data_dir is None


def test_prompts_carry_the_sizes_of_the_config() -> None:
    config = configured(sample={"prompts": ["a fox --w 640"], "height": 768, "negative_prompt": "blurry"})
    written = export(config, Model("sd1"), 1, [])
    assert written.prompts == "a fox --w 640 --n blurry --h 768 --d 42 --s 30 --l 7.5\n"


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[object, str, str]:
    monkeypatch.setattr("sys.argv", ["loratory", "kohya", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_command_writes_files_and_prints_what_uses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    (tmp_path / "set" / "5_fox").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "set" / "5_fox" / "a.png")
    path = tmp_path / "fox.toml"
    path.write_text(
        '[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'
        '[sample]\nprompts = ["a fox"]\n'
    )
    code, out, err = call(capsys, monkeypatch, "export", path, "-o", tmp_path)
    assert code == 0, err
    assert out == (
        f"accelerate launch train_network.py --config_file {tmp_path}/fox.sd-scripts.toml "
        f"--sample_prompts {tmp_path}/fox.prompts.txt\n"
    )
    assert tomllib.loads((tmp_path / "fox.sd-scripts.toml").read_text())["max_train_epochs"] == 20
    assert "exposure of 100 is 20 epochs" in err
    assert "sd-scripts needs a model file" in err
    code, _, err = call(capsys, monkeypatch, "export", path, "-o", tmp_path)
    assert (code, "exists already" in err) == (2, True)
    code, out, _ = call(capsys, monkeypatch, "export", path, "-o", "-")
    assert (code, "max_train_epochs = 20" in out) == (0, True)


def test_an_unreadable_model_needs_its_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fox.toml"
    path.write_text(
        '[model]\npretrained_model_name_or_path = "/no/model.safetensors"\n[dataset]\ntrain_data_dir = "s"\n'
    )
    code, _, err = call(capsys, monkeypatch, "export", path, "-o", "-")
    assert code == 2
    assert "--sdxl or --sd" in err
    code, out, _ = call(capsys, monkeypatch, "export", path, "-o", "-", "--sdxl")
    assert code == 0
    assert "accelerate launch sdxl_train_network.py --config_file fox.sd-scripts.toml" in out


def test_the_tables_of_the_documentation_are_the_mapping() -> None:
    text = DOC.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`\[]+)` \| `([^`]+)` \|$", text, re.MULTILINE)
    arguments = SETTING_OF | CONVERTED
    gui = GUI_CONVERTED | {key: arguments[name] for key, name in GUI_NAMES.items()}
    assert rows == [*CONVERTED.items(), *NETWORK_ARGS.items(), *gui.items()]
    listed = {
        f"{table}.{name}"
        for table, names in re.findall(r"^\| `\[(\w+)\]` \| (.+) \|$", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == set(SETTING_OF.values())
    single = {setting for setting in (*arguments.values(), *NETWORK_ARGS.values(), *gui.values()) if "*" not in setting}
    assert single <= set(FIELDS)
