"""What this version cannot do is refused with the nearest thing that works, never ignored."""

from typing import Any

import pytest

from loratory.config.fields import FIELDS
from loratory.config.schema import Config
from loratory.config.unbuilt import UNBUILT_NAMES, refuse_unbuilt, unbuilt_settings
from loratory.errors import LoratoryError


def config(**tables: dict[str, Any]) -> Config:
    tables["model"] = {"pretrained_model_name_or_path": "nano"} | tables.get("model", {})
    tables["dataset"] = {"train_data_dir": "/set"} | tables.get("dataset", {})
    return Config.model_validate(tables)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"network": {"network_type": "locon", "conv_dim": 8, "rs_lora": True, "scale_weight_norms": 1.0}},
        {"network": {"network_type": "lora", "network_dropout": 0.1, "rank_dropout": 0.1, "module_dropout": 0.1}},
        {"network": {"network_type": "dora", "conv_dim": 8, "scale_weight_norms": 1.0}},
        {"optimizer": {"optimizer_type": "prodigy", "learning_rate": 1.0, "optimizer_args": "decouple=True"}},
        {"optimizer": {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3, "lr_warmup_steps": 0.1}},
        {"loss": {"min_snr_gamma": 5.0}, "noise": {"zero_terminal_snr": True, "min_timestep": 10}},
        {"dataset": {"flip_aug": True, "cache_latents_to_disk": True, "bucket_no_upscale": True}},
        {"caption": {"shuffle_caption": True, "enable_wildcard": True, "token_warmup_step": 0.5}},
        {"training": {"mixed_precision": "fp16", "gradient_checkpointing": True, "max_train_steps": 5}},
        {"training": {"cross_attention": "xformers", "torch_compile": True, "ema_decay": 0.99, "full_bf16": True}},
        {"model": {"base_weights": ["/a.safetensors"]}, "network": {"network_weights": "/b.safetensors"}},
        {"dataset": {"reg_data_dir": "/reg", "max_data_loader_n_workers": 2}, "loss": {"loss_type": "huber"}},
        {"optimizer": {"optimizer_type": "AdamW8bit", "text_encoder_lr": [1e-4, 1e-5], "loraplus_lr_ratio": 16.0}},
        {"sample": {"prompts": ["a fox --w 512 --n blurry --ss k_euler"], "sample_sampler": "dpmsolver++"}},
    ],
)
def test_what_works(tables: dict[str, Any]) -> None:
    assert unbuilt_settings(config(**tables)) == []
    refuse_unbuilt(config(**tables))


@pytest.mark.parametrize(
    ("table", "settings", "sentence"),
    [
        (
            "network",
            {"network_type": "loha"},
            'network.network_type = "loha" is not built yet: use "lora", "locon" or "dora".',
        ),
        ("network", {"block_dims": [1, 2]}, "network.block_dims = [1, 2] is not built yet: every block gets"),
        ("network", {"lycoris_preset": "attn-only"}, 'network.lycoris_preset = "attn-only" is not built yet'),
        (
            "network",
            {"down_lr_weight": "cosine"},
            'network.down_lr_weight = "cosine" is not built yet: every block learns',
        ),
    ],
)
def test_what_does_not_work_yet_is_one_sentence(table: str, settings: dict[str, Any], sentence: str) -> None:
    sentences = unbuilt_settings(config(**{table: settings}))
    assert len(sentences) == 1
    assert sentence in sentences[0]
    assert sentences[0].endswith(".")


def test_a_run_is_refused_with_all_of_them() -> None:
    with pytest.raises(LoratoryError) as caught:
        refuse_unbuilt(config(network={"block_dims": [1, 2], "lycoris_preset": "attn-only"}))
    assert caught.value.message.count("is not built yet") == 2


def test_the_names_are_settings() -> None:
    assert set(FIELDS) >= UNBUILT_NAMES
