"""Advice about settings: every rule with a configuration that it speaks about, and one near it that it does not."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loratory.config.factors import factors
from loratory.config.fields import FIELDS
from loratory.config.lint import RULES, Advice, Facts, FolderFacts, lint
from loratory.config.load import load_config
from loratory.config.presets import shipped_folder
from loratory.config.schema import Config

PRESETS = sorted(path.stem for path in shipped_folder().glob("*.toml"))
PRODIGY = {"optimizer.optimizer_type": "Prodigy", "optimizer.learning_rate": 1.0, "network.network_alpha": 1.0}
REG = {"dataset.reg_data_dir": "/reg"}
FOX, CUB = FolderFacts("5_fox", 40, 5, 100.0), FolderFacts("5_cub", 40, 5, 100.0)
V, EPS = Facts(prediction_type="v_prediction"), Facts(prediction_type="epsilon")
STYLE = {"dataset.goal": "style", "network.network_type": "locon", "network.conv_dim": 16}


def config(**settings: Any) -> Config:
    """settings: full names, with `__` or a dot between table and key."""
    tables: dict[str, dict[str, Any]] = {
        "model": {"pretrained_model_name_or_path": "nano"},
        "dataset": {"train_data_dir": "/set"},
    }
    for name, value in settings.items():
        table, key = name.split(".")
        tables.setdefault(table, {})[key] = value
    return Config.model_validate(tables)


def facts(**known: Any) -> Facts:
    return Facts(**known)


class Case(NamedTuple):
    """rule speaks with `settings` and `facts`, and about `key`; with those of `near` it does not."""

    rule: str
    key: str
    settings: dict[str, Any]
    facts: Facts
    near: tuple[dict[str, Any], Facts]


NOTHING = Facts()
SDXL, SD2 = Facts(family="sdxl"), Facts(family="sd2")

CASES = [
    # Base model
    Case("clip-skip-sdxl", "model.clip_skip", {"model.clip_skip": 2}, SDXL, ({"model.clip_skip": 2}, SD2)),
    Case("clip-skip-sdxl", "model.clip_skip", {"model.clip_skip": 2, "model.family": "sdxl"}, NOTHING, ({}, SDXL)),
    Case("clip-skip-sd2", "model.clip_skip", {"model.clip_skip": 2}, SD2, ({"model.clip_skip": 1}, SD2)),
    Case(
        "prediction-type",
        "model.v_parameterization",
        {"model.v_parameterization": True},
        facts(prediction_type="v_prediction", declared_prediction_type="epsilon"),
        (
            {"model.v_parameterization": True},
            facts(prediction_type="v_prediction", declared_prediction_type="v_prediction"),
        ),
    ),
    Case(
        "idle-no-half-vae",
        "model.no_half_vae",
        {"model.no_half_vae": True, "training.mixed_precision": "no"},
        NOTHING,
        ({"model.no_half_vae": True, "training.mixed_precision": "fp16"}, NOTHING),
    ),
    Case(
        "resolution-high",
        "dataset.resolution",
        {"dataset.resolution": 832},
        facts(native_resolution_px=512),
        ({"dataset.resolution": 768}, facts(native_resolution_px=512)),
    ),
    Case(
        "resolution-high",
        "dataset.resolution",
        {"dataset.resolution": [1024, 1152], "dataset.max_bucket_reso": 1536},
        facts(native_resolution_px=1024),
        ({"dataset.resolution": [896, 1152], "dataset.max_bucket_reso": 1536}, facts(native_resolution_px=1024)),
    ),
    Case(
        "resolution-low",
        "dataset.resolution",
        {"dataset.resolution": 512},
        facts(native_resolution_px=1024),
        ({"dataset.resolution": 768}, facts(native_resolution_px=1024)),
    ),
    Case(
        "sdxl-32-bit",
        "training.mixed_precision",
        {"training.mixed_precision": "no"},
        SDXL,
        ({"training.mixed_precision": "no", "training.int8_base": True}, SDXL),
    ),
    Case(
        "zero-terminal-noise",
        "noise.zero_terminal_snr",
        {"noise.zero_terminal_snr": True},
        EPS,
        ({"noise.zero_terminal_snr": True}, V),
    ),
    Case(
        "zero-terminal-debiased",
        "loss.debiased_estimation_loss",
        {"noise.zero_terminal_snr": True, "loss.debiased_estimation_loss": True},
        EPS,
        ({"noise.zero_terminal_snr": True, "loss.debiased_estimation_loss": True}, V),
    ),
    Case(
        "zero-terminal-min-snr",
        "loss.min_snr_gamma",
        {"loss.min_snr_gamma": 5.0},
        facts(prediction_type="v_prediction", zero_terminal_snr=True),
        ({"loss.min_snr_gamma": 5.0}, V),
    ),
    Case(
        "zero-terminal-offset",
        "noise.noise_offset",
        {"noise.noise_offset": 0.05, "noise.zero_terminal_snr": True},
        V,
        ({"noise.noise_offset": 0.05}, V),
    ),
    Case(
        "scale-v-pred",
        "loss.scale_v_pred_loss_like_noise_pred",
        {"loss.scale_v_pred_loss_like_noise_pred": True},
        EPS,
        ({"loss.scale_v_pred_loss_like_noise_pred": True}, V),
    ),
    Case(
        "v-pred-like",
        "loss.v_pred_like_loss",
        {"loss.v_pred_like_loss": 0.5},
        V,
        ({"loss.v_pred_like_loss": 0.5}, EPS),
    ),
    # Adapter
    Case(
        "text-encoder-not-trained",
        "network.network_train_unet_only",
        {"network.network_train_unet_only": True},
        NOTHING,
        ({"network.network_train_text_encoder_only": True}, NOTHING),
    ),
    Case(
        "text-encoder-not-trained",
        "network.lycoris_preset",
        {"network.lycoris_preset": "unet-only", "network.network_type": "loha"},
        facts(trained=frozenset({"unet"})),
        ({}, facts(trained=frozenset({"unet", "te1"}))),
    ),
    Case(
        "one-text-encoder",
        "optimizer.text_encoder_lr",
        {"optimizer.text_encoder_lr": [1e-5, 0.0]},
        SDXL,
        ({"optimizer.text_encoder_lr": [1e-5, 1e-5]}, SDXL),
    ),
    Case(
        "unet-not-trained",
        "optimizer.unet_lr",
        {"optimizer.unet_lr": 0.0},
        NOTHING,
        ({"optimizer.unet_lr": 1e-6}, NOTHING),
    ),
    Case("style-type", "network.network_type", {"dataset.goal": "style"}, NOTHING, (STYLE, NOTHING)),
    Case(
        "glora-subject",
        "network.network_type",
        {"network.network_type": "glora"},
        NOTHING,
        ({"network.network_type": "glora", "dataset.goal": "style"}, NOTHING),
    ),
    Case(
        "dim-high",
        "network.network_dim",
        {"network.network_type": "loha", "network.network_dim": 64},
        NOTHING,
        ({"network.network_type": "loha", "network.network_dim": 32}, NOTHING),
    ),
    Case(
        "dim-high",
        "network.network_dim",
        {"network.network_type": "locon", "network.network_dim": 128},
        NOTHING,
        ({"network.network_type": "lora", "network.network_dim": 128}, NOTHING),
    ),
    Case("style-dim", "network.network_dim", {**STYLE, "network.network_dim": 64}, NOTHING, (STYLE, NOTHING)),
    Case(
        "conv-dim-high",
        "network.conv_dim",
        {"network.network_type": "loha", "network.conv_dim": 32},
        NOTHING,
        ({"network.network_type": "loha", "network.conv_dim": 16}, NOTHING),
    ),
    Case(
        "conv-dim-high",
        "network.conv_dim",
        {"network.network_type": "locon", "network.network_dim": 32},
        NOTHING,
        ({"network.network_type": "locon", "network.network_dim": 16}, NOTHING),
    ),
    Case(
        "alpha-adaptive",
        "network.network_alpha",
        {**PRODIGY, "network.network_alpha": 32.0},
        NOTHING,
        (PRODIGY, NOTHING),
    ),
    Case(
        "alpha-high",
        "network.network_alpha",
        {"network.network_dim": 32, "network.network_alpha": 512.0},
        NOTHING,
        ({"network.network_dim": 64, "network.network_alpha": 512.0}, NOTHING),
    ),
    Case(
        "alpha-high",
        "network.network_alpha",
        {"network.network_dim": 64, "network.network_alpha": 512.0, "network.rs_lora": True},
        NOTHING,
        ({"network.network_dim": 64, "network.network_alpha": 64.0, "network.rs_lora": True}, NOTHING),
    ),
    Case(
        "alpha-low",
        "network.network_alpha",
        {"network.network_dim": 32, "network.network_alpha": 1.0},
        NOTHING,
        ({"network.network_dim": 8, "network.network_alpha": 1.0}, NOTHING),
    ),
    Case(
        "several-type",
        "network.network_type",
        {"network.network_type": "glora", "dataset.goal": "concept"},
        Facts(concepts=2),
        ({"network.network_type": "loha", "dataset.goal": "concept"}, Facts(concepts=2)),
    ),
    Case(
        "detail-type",
        "network.network_type",
        {"network.network_type": "loha"},
        Facts(concepts=1),
        ({"network.network_type": "loha", "dataset.goal": "concept"}, Facts(concepts=1)),
    ),
    Case(
        "dylora-dim",
        "network.network_dim",
        {"network.network_type": "dylora", "network.network_dim": 32},
        NOTHING,
        ({"network.network_type": "dylora", "network.network_dim": 128}, NOTHING),
    ),
    Case(
        "alpha-half",
        "network.network_alpha",
        {"network.network_type": "loha", "network.network_dim": 16, "network.network_alpha": 32.0},
        NOTHING,
        ({"network.network_type": "loha", "network.network_dim": 16, "network.network_alpha": 16.0}, NOTHING),
    ),
    Case(
        "oft-rate",
        "optimizer.learning_rate",
        {"network.network_type": "boft", "optimizer.learning_rate": 1e-3},
        NOTHING,
        ({"network.network_type": "boft", "optimizer.learning_rate": 3e-5}, NOTHING),
    ),
    Case(
        "full-rate",
        "optimizer.unet_lr",
        {"network.network_type": "full", "optimizer.unet_lr": 1e-4},
        NOTHING,
        ({"network.network_type": "full", "optimizer.unet_lr": 1e-5}, NOTHING),
    ),
    Case("full-size", "network.network_type", {"network.network_type": "full"}, SDXL, ({}, SDXL)),
    Case(
        "lokr-whole",
        "network.network_dim",
        {"network.network_type": "lokr", "network.network_dim": 32},
        NOTHING,
        ({"network.network_type": "lokr", "network.network_dim": 16}, NOTHING),
    ),
    Case(
        "idle-dims",
        "network.network_dim",
        {"network.network_type": "lokr", "network.full_matrix": True, "network.network_dim": 8},
        NOTHING,
        ({"network.network_type": "lokr", "network.full_matrix": True}, NOTHING),
    ),
    Case(
        "conv-dim-high",
        "network.conv_dim",
        {"network.network_type": "loha", "network.network_dim": 32},
        NOTHING,
        (
            {"network.network_type": "loha", "network.network_dim": 32, "network.lycoris_preset": "attn-mlp"},
            NOTHING,
        ),
    ),
    Case(
        "dylora-batch",
        "training.train_batch_size",
        {"network.network_type": "dylora", "training.train_batch_size": 2},
        NOTHING,
        ({"network.network_type": "dylora"}, NOTHING),
    ),
    Case(
        "dylora-accumulation",
        "training.gradient_accumulation_steps",
        {"network.network_type": "dylora"},
        NOTHING,
        ({"network.network_type": "dylora", "training.gradient_accumulation_steps": 2}, NOTHING),
    ),
    Case(
        "ia3-rate",
        "optimizer.learning_rate",
        {"network.network_type": "ia3", "optimizer.learning_rate": 1e-4},
        NOTHING,
        ({"network.network_type": "ia3", "optimizer.learning_rate": 1e-2}, NOTHING),
    ),
    Case(
        "lokr-factor",
        "network.factor",
        {"network.network_type": "lokr", "network.factor": 2},
        NOTHING,
        ({"network.network_type": "lokr", "network.factor": 8}, NOTHING),
    ),
    Case(
        "dropout-high",
        "network.module_dropout",
        {"network.module_dropout": 0.5},
        NOTHING,
        ({"network.module_dropout": 0.3}, NOTHING),
    ),
    Case(
        "weight-norms-low",
        "network.scale_weight_norms",
        {"network.scale_weight_norms": 0.5},
        NOTHING,
        ({"network.scale_weight_norms": 1.0}, NOTHING),
    ),
    # Optimizer
    Case(
        "rate-adaptive", "optimizer.learning_rate", {"optimizer.optimizer_type": "Prodigy"}, NOTHING, (PRODIGY, NOTHING)
    ),
    Case(
        "rate-adaptive",
        "optimizer.unet_lr",
        {
            "optimizer.optimizer_type": "dadaptation.DAdaptAdam",
            "optimizer.learning_rate": 1.0,
            "optimizer.unet_lr": 3.0,
        },
        NOTHING,
        ({"optimizer.optimizer_type": "my.Adam", "optimizer.learning_rate": 3.0}, NOTHING),
    ),
    Case(
        "rate-high",
        "optimizer.learning_rate",
        {"optimizer.learning_rate": 1.0},
        NOTHING,
        ({"optimizer.learning_rate": 1e-2}, NOTHING),
    ),
    Case(
        "rate-lion",
        "optimizer.unet_lr",
        {"optimizer.optimizer_type": "Lion", "optimizer.unet_lr": 1e-4, "optimizer.text_encoder_lr": 1e-5},
        NOTHING,
        ({"optimizer.optimizer_type": "Lion", "optimizer.learning_rate": 3e-5}, NOTHING),
    ),
    Case(
        "rate-text-encoder",
        "optimizer.text_encoder_lr",
        {"optimizer.text_encoder_lr": [1e-5, 2e-4]},
        NOTHING,
        ({"optimizer.text_encoder_lr": 1e-4}, NOTHING),
    ),
    Case(
        "idle-part-rate",
        "optimizer.text_encoder_lr",
        {"network.network_train_unet_only": True, "optimizer.text_encoder_lr": 5e-5},
        NOTHING,
        ({"network.network_train_unet_only": True, "optimizer.text_encoder_lr": 0.0}, NOTHING),
    ),
    Case(
        "idle-learning-rate",
        "optimizer.learning_rate",
        {"optimizer.learning_rate": 1e-3, "optimizer.unet_lr": 1e-4, "optimizer.text_encoder_lr": 5e-5},
        NOTHING,
        ({"optimizer.learning_rate": 0.0, "optimizer.unet_lr": 1e-4}, NOTHING),
    ),
    Case(
        "scheduler-adaptive",
        "optimizer.lr_scheduler",
        {**PRODIGY, "optimizer.lr_scheduler": "cosine_with_restarts", "optimizer.lr_scheduler_num_cycles": 3},
        NOTHING,
        ({"optimizer.lr_scheduler": "cosine_with_restarts", "optimizer.lr_scheduler_num_cycles": 3}, NOTHING),
    ),
    Case(
        "one-cycle",
        "optimizer.lr_scheduler_num_cycles",
        {"optimizer.lr_scheduler": "cosine_with_restarts"},
        NOTHING,
        ({"optimizer.lr_scheduler": "cosine_with_restarts", "optimizer.lr_scheduler_num_cycles": 2}, NOTHING),
    ),
    Case(
        "short-cycles",
        "optimizer.lr_scheduler_num_cycles",
        {"optimizer.lr_scheduler": "cosine_with_restarts", "optimizer.lr_scheduler_num_cycles": 3},
        facts(total_steps=50),
        (
            {"optimizer.lr_scheduler": "cosine_with_restarts", "optimizer.lr_scheduler_num_cycles": 3},
            facts(total_steps=60),
        ),
    ),
    Case(
        "decay-missing",
        "optimizer.lr_decay_steps",
        {"optimizer.lr_scheduler": "warmup_stable_decay"},
        NOTHING,
        ({"optimizer.lr_scheduler": "warmup_stable_decay", "optimizer.lr_decay_steps": 0.2}, NOTHING),
    ),
    Case(
        "warmup-whole-run",
        "optimizer.lr_warmup_steps",
        {"optimizer.lr_warmup_steps": 100},
        facts(total_steps=100),
        ({"optimizer.lr_warmup_steps": 100}, facts(total_steps=101)),
    ),
    Case(
        "only-step-zero",
        "optimizer.lr_warmup_steps",
        {"optimizer.lr_warmup_steps": 1},
        facts(total_steps=1),
        ({"optimizer.lr_warmup_steps": 0.5}, facts(total_steps=1)),
    ),
    Case(
        "prodigy-warmup",
        "optimizer.optimizer_args",
        {**PRODIGY, "optimizer.lr_warmup_steps": "5%"},
        NOTHING,
        ({**PRODIGY, "optimizer.lr_warmup_steps": "5%", "optimizer.optimizer_args": "safeguard_warmup=True"}, NOTHING),
    ),
    Case(
        "dadapt-decouple",
        "optimizer.optimizer_args",
        {"optimizer.optimizer_type": "DAdaptAdam", "optimizer.optimizer_args": "weight_decay=0.1"},
        NOTHING,
        (
            {"optimizer.optimizer_type": "DAdaptAdam", "optimizer.optimizer_args": "weight_decay=0.1 decouple=True"},
            NOTHING,
        ),
    ),
    # Pictures
    Case(
        "exposure",
        "training.max_train_epochs",
        {"training.max_train_epochs": 9},
        facts(folders=(FolderFacts("5_fox", 40, 5, 45.0),)),
        ({"training.max_train_epochs": 10}, facts(folders=(FolderFacts("5_fox", 40, 5, 50.0),))),
    ),
    Case(
        "exposure",
        "training.exposure",
        {**STYLE, "training.exposure": 120.0},
        facts(folders=(FolderFacts("1_ink", 150, 1, 120.0),)),
        ({**STYLE, "training.exposure": 35.0}, facts(folders=(FolderFacts("1_ink", 150, 1, 35.0),))),
    ),
    Case(
        "small-folder",
        "dataset.train_data_dir",
        {},
        facts(folders=(FOX, FolderFacts("8_cub", 9, 8, 160.0))),
        ({}, facts(folders=(FOX, FolderFacts("8_cub", 10, 8, 160.0)))),
    ),
    Case(
        "imbalance",
        "dataset.train_data_dir",
        {},
        facts(concepts=2, folders=(FOX, FolderFacts("5_cub", 15, 5, 100.0))),
        ({}, facts(concepts=2, folders=(FOX, FolderFacts("5_cub", 20, 5, 100.0)))),
    ),
    Case(
        "repeats-high",
        "dataset.train_data_dir",
        {},
        facts(folders=(FolderFacts("100_fox", 40, 100, 100.0),)),
        ({}, facts(folders=(FolderFacts("50_fox", 40, 50, 100.0),))),
    ),
    Case(
        "reg-coverage",
        "dataset.reg_data_dir",
        REG,
        facts(train_images=41, reg_images=10),
        (REG, facts(train_images=40, reg_images=10)),
    ),
    Case(
        "batch-size",
        "training.train_batch_size",
        {"training.train_batch_size": 5},
        NOTHING,
        ({"training.train_batch_size": 4}, NOTHING),
    ),
    Case(
        "batch-concepts",
        "training.train_batch_size",
        {"training.train_batch_size": 2},
        facts(concepts=2),
        ({"training.train_batch_size": 2}, facts(concepts=1)),
    ),
    Case(
        "batch-partial",
        "training.train_batch_size",
        {"training.train_batch_size": 4},
        facts(buckets={(512, 512): 9, (448, 576): 5}),
        ({"training.train_batch_size": 4}, facts(buckets={(512, 512): 9, (448, 576): 8})),
    ),
    Case(
        "accumulation",
        "training.gradient_accumulation_steps",
        {"training.gradient_accumulation_steps": 8},
        facts(total_steps=299),
        ({"training.gradient_accumulation_steps": 8}, facts(total_steps=300)),
    ),
    Case(
        "flip-asymmetric",
        "dataset.subsets",
        {"dataset.asymmetric": True, "dataset.subsets": [{"image_dir": "/set/5_fox", "flip_aug": True}]},
        facts(mirrored_folders=("5_fox",)),
        ({"dataset.asymmetric": True}, facts(mirrored_folders=())),
    ),
    Case(
        "flip-tags",
        "dataset.flip_aug",
        {"dataset.flip_aug": True},
        facts(mirrored_folders=("5_fox",), folders=(FolderFacts("5_fox", 40, 5, 100.0, {"single_gauntlet": 20}),)),
        (
            {"dataset.flip_aug": True},
            facts(
                mirrored_folders=("5_fox",),
                folders=(FolderFacts("5_fox", 40, 5, 100.0, {"single_gauntlet": 19, "single horn": 40}),),
            ),
        ),
    ),
    Case(
        "flip-concepts",
        "dataset.flip_aug",
        {"dataset.flip_aug": True},
        facts(concepts=2, mirrored_folders=("5_fox", "5_cub")),
        ({"dataset.flip_aug": True}, facts(concepts=2, mirrored_folders=("5_fox",))),
    ),
    Case(
        "bucket-limit",
        "dataset.max_bucket_reso",
        {"dataset.resolution": 768, "dataset.max_bucket_reso": 768},
        facts(buckets={(768, 768): 30, (512, 768): 10}),
        ({"dataset.resolution": 768, "dataset.max_bucket_reso": 768}, facts(buckets={(768, 768): 30, (704, 768): 10})),
    ),
    Case(
        "uncached-pictures",
        "dataset.color_aug",
        {"dataset.subsets": [{"image_dir": "/set/5_fox", "color_aug": True}]},
        NOTHING,
        ({"dataset.color_aug": True, "dataset.cache_latents": False}, NOTHING),
    ),
    Case(
        "validation-empty",
        "dataset.validation_split",
        {"dataset.validation_split": 0.01},
        facts(validation_images=0),
        ({"dataset.validation_split": 0.01}, facts(validation_images=1)),
    ),
    Case(
        "idle-buckets",
        "dataset.max_bucket_reso",
        {"dataset.enable_bucket": False, "dataset.max_bucket_reso": 768},
        NOTHING,
        ({"dataset.max_bucket_reso": 768}, NOTHING),
    ),
    Case(
        "idle-buckets",
        "dataset.min_bucket_reso",
        {"dataset.bucket_no_upscale": True, "dataset.min_bucket_reso": 320},
        NOTHING,
        ({"dataset.bucket_no_upscale": True, "dataset.bucket_reso_steps": 32}, NOTHING),
    ),
    Case(
        "idle-dims",
        "network.network_dim",
        {"network.network_dim": 8, "network.network_weights": "/a.safetensors", "network.dim_from_weights": True},
        NOTHING,
        ({"network.network_dim": 8, "network.network_weights": "/a.safetensors"}, NOTHING),
    ),
    Case(
        "idle-caches",
        "dataset.vae_batch_size",
        {"dataset.vae_batch_size": 4, "dataset.cache_latents": False},
        NOTHING,
        ({"dataset.vae_batch_size": 4}, NOTHING),
    ),
    Case(
        "idle-validation",
        "training.max_validation_steps",
        {"training.max_validation_steps": 8},
        NOTHING,
        (
            {
                "training.max_validation_steps": 8,
                "dataset.subsets": [{"image_dir": "/set/5_fox", "validation_split": 0.2}],
            },
            NOTHING,
        ),
    ),
    # Captions
    Case(
        "keep-tokens",
        "caption.keep_tokens",
        {"caption.shuffle_caption": True, "caption.keep_tokens": 4},
        NOTHING,
        ({"caption.shuffle_caption": True, "caption.keep_tokens": 3}, NOTHING),
    ),
    Case(
        "keep-tokens-none",
        "caption.keep_tokens",
        {"caption.shuffle_caption": True},
        NOTHING,
        ({"caption.shuffle_caption": True, "caption.keep_tokens_separator": "|||"}, NOTHING),
    ),
    Case(
        "tag-dropout",
        "caption.keep_tokens",
        {"caption.caption_tag_dropout_rate": 0.1},
        NOTHING,
        ({"caption.caption_tag_dropout_rate": 0.1, "caption.keep_tokens": 1}, NOTHING),
    ),
    Case(
        "shuffled-sentences",
        "caption.shuffle_caption",
        {"caption.shuffle_caption": True, "dataset.vocabulary": "natural"},
        NOTHING,
        ({"caption.shuffle_caption": True, "dataset.vocabulary": "e621"}, NOTHING),
    ),
    Case(
        "captions-never-read",
        "caption.caption_dropout_every_n_epochs",
        {"caption.caption_dropout_every_n_epochs": 1},
        NOTHING,
        ({"caption.caption_dropout_every_n_epochs": 2}, NOTHING),
    ),
    Case(
        "captions-never-read",
        "caption.caption_dropout_rate",
        {"caption.caption_dropout_rate": 1.0},
        NOTHING,
        ({"caption.caption_dropout_rate": 0.9}, NOTHING),
    ),
    Case(
        "caption-dropout-high",
        "caption.caption_dropout_rate",
        {"caption.caption_dropout_rate": 0.5},
        NOTHING,
        ({"caption.caption_dropout_rate": 0.1}, NOTHING),
    ),
    Case(
        "token-warmup-long",
        "caption.token_warmup_step",
        {"caption.token_warmup_step": 500.0},
        facts(total_steps=500),
        ({"caption.token_warmup_step": 0.9}, facts(total_steps=1)),
    ),
    Case(
        "idle-captions",
        "caption.keep_tokens",
        {"caption.keep_tokens": 2},
        NOTHING,
        ({"caption.keep_tokens": 2, "caption.token_warmup_step": 0.2}, NOTHING),
    ),
    Case(
        "idle-captions",
        "dataset.subsets",
        {"dataset.subsets": [{"image_dir": "/set/5_fox", "keep_tokens": 2}]},
        NOTHING,
        ({"dataset.subsets": [{"image_dir": "/set/5_fox", "keep_tokens": 2, "shuffle_caption": True}]}, NOTHING),
    ),
    # Loss and noise
    Case(
        "prior-weight",
        "loss.prior_loss_weight",
        {**REG, "loss.prior_loss_weight": 0.5},
        NOTHING,
        (REG, NOTHING),
    ),
    Case(
        "prior-weight-zero",
        "loss.prior_loss_weight",
        {"loss.diff_output_preservation": True, "loss.prior_loss_weight": 0.0},
        NOTHING,
        ({"loss.diff_output_preservation": True, "loss.prior_loss_weight": 0.1}, NOTHING),
    ),
    Case(
        "min-snr-debiased",
        "loss.debiased_estimation_loss",
        {"loss.min_snr_gamma": 5.0, "loss.debiased_estimation_loss": True},
        NOTHING,
        ({"loss.debiased_estimation_loss": True}, NOTHING),
    ),
    Case(
        "min-snr-range",
        "loss.min_snr_gamma",
        {"loss.min_snr_gamma": 50.0},
        NOTHING,
        ({"loss.min_snr_gamma": 20.0}, NOTHING),
    ),
    Case(
        "idle-huber-scale",
        "loss.huber_scale",
        {"loss.loss_type": "huber", "loss.huber_scale": 2.0},
        NOTHING,
        ({"loss.loss_type": "huber", "loss.huber_scale": 2.0, "loss.huber_schedule": "constant"}, NOTHING),
    ),
    Case(
        "huber-high",
        "loss.huber_c",
        {"loss.loss_type": "smooth_l1", "loss.huber_c": 1.0},
        NOTHING,
        (
            {
                "loss.loss_type": "huber",
                "loss.huber_c": 4.0,
                "loss.huber_scale": 0.5,
                "loss.huber_schedule": "exponential",
            },
            NOTHING,
        ),
    ),
    Case(
        "noise-offset-high",
        "noise.noise_offset",
        {"noise.noise_offset": 0.2},
        NOTHING,
        ({"noise.noise_offset": 0.15}, NOTHING),
    ),
    Case(
        "two-noises",
        "noise.multires_noise_iterations",
        {"noise.noise_offset": 0.05, "noise.multires_noise_iterations": 6},
        NOTHING,
        ({"noise.multires_noise_iterations": 6}, NOTHING),
    ),
    Case(
        "input-perturbation-high",
        "noise.ip_noise_gamma",
        {"noise.ip_noise_gamma": 0.5},
        NOTHING,
        ({"noise.ip_noise_gamma": 0.1}, NOTHING),
    ),
    Case("timesteps-cut", "noise.min_timestep", {"noise.min_timestep": 200}, NOTHING, ({}, NOTHING)),
    Case("timesteps-cut", "noise.max_timestep", {"noise.max_timestep": 999}, NOTHING, ({}, NOTHING)),
    # Run
    Case(
        "full-precision",
        "training.full_bf16",
        {"training.full_bf16": True},
        NOTHING,
        ({"training.mixed_precision": "bf16"}, NOTHING),
    ),
    Case(
        "save-precision",
        "output.save_precision",
        {"output.save_precision": "bf16", "training.mixed_precision": "fp16"},
        NOTHING,
        ({"output.save_precision": "bf16", "training.mixed_precision": "bf16"}, NOTHING),
    ),
    Case(
        "ema-long",
        "training.ema_decay",
        {"training.ema_decay": 0.999},
        facts(total_steps=2000),
        ({"training.ema_decay": 0.99}, facts(total_steps=2000)),
    ),
    Case(
        "one-save",
        "output.save_every_n_epochs",
        {},
        facts(total_steps=500),
        ({"output.save_every_n_steps": 100}, facts(total_steps=500)),
    ),
    Case(
        "late-interval",
        "output.save_every_n_epochs",
        {"output.save_every_n_epochs": 10},
        facts(total_steps=200, steps_per_epoch=20),
        ({"output.save_every_n_epochs": 9}, facts(total_steps=200, steps_per_epoch=20)),
    ),
    Case(
        "late-interval",
        "sample.sample_every_n_steps",
        {"sample.sample_every_n_steps": 300, "sample.prompts": ["a fox"]},
        facts(total_steps=200),
        ({"sample.sample_every_n_steps": 100, "sample.prompts": ["a fox"]}, facts(total_steps=200)),
    ),
    Case("seed-zero", "training.seed", {"training.seed": 0}, NOTHING, ({"training.seed": 1}, NOTHING)),
    Case(
        "idle-prompts",
        "sample.prompts",
        {"sample.prompts": ["a fox"], "sample.sample_at_end": False},
        NOTHING,
        ({"sample.prompts": ["a fox"]}, NOTHING),
    ),
    Case(
        "idle-metadata",
        "output.training_comment",
        {"output.no_metadata": True, "output.training_comment": "third try"},
        NOTHING,
        ({"output.training_comment": "third try"}, NOTHING),
    ),
    Case(
        "unknown-rule",
        "lint.silence",
        {"lint.silence": ["batchsize"]},
        NOTHING,
        ({"lint.silence": ["batch-size"]}, NOTHING),
    ),
]


def of_rule(rule: str, settings: dict[str, Any], known: Facts) -> list[Advice]:
    return [advice for advice in lint(config(**settings), known) if advice.rule == rule]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule} {case.key}")
def test_a_rule_speaks_where_it_applies_and_nowhere_near(case: Case) -> None:
    said = of_rule(case.rule, case.settings, case.facts)
    assert [advice.key for advice in said] == [case.key]
    assert of_rule(case.rule, *case.near) == []
    assert of_rule(case.rule, {**case.settings, "lint.silence": [case.rule]}, case.facts) == []


def test_every_rule_is_tried() -> None:
    assert {rule.rule for rule in RULES} == {case.rule for case in CASES}
    assert len({rule.rule for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule} {case.key}")
def test_a_message_stands_alone(case: Case) -> None:
    for advice in of_rule(case.rule, case.settings, case.facts):
        assert advice.key in FIELDS
        assert advice.message.endswith((".", "?"))
        assert "\n" not in advice.message
        assert not {"  ", ",:", " ,", ".."} & {advice.message[at : at + 2] for at in range(len(advice.message))}
        assert 40 < len(advice.message) < 320


def test_messages_word_for_word() -> None:
    def message(rule: str, known: Facts = NOTHING, **settings: Any) -> str:
        return of_rule(rule, settings, known)[0].message

    assert message("prior-weight", **REG, **{"loss.prior_loss_weight": 0.5}) == (
        "loss.prior_loss_weight = 0.5 makes regularization weaker than the usual 1, because the loss of its pictures "
        "is multiplied with it. Nearer 0 is weaker, whatever guides say."
    )
    assert message("imbalance", facts(concepts=2, folders=(FOX, FolderFacts("5_cub", 10, 5, 100.0)))) == (
        "5_fox gets 4 times the visits of 5_cub and will dominate it. Balanced would be 20 repeats for 5_cub instead "
        "of 5."
    )
    assert message("unknown-rule", **{"lint.silence": ["batchsize"]}) == (
        'lint.silence: there is no rule "batchsize", so nothing is silenced. Did you mean batch-size?'
    )


@pytest.mark.parametrize(
    ("settings", "known", "size"),
    [
        ({}, SDXL, "about 6.6 GB"),
        ({}, SD2, "about 2.3 GB"),
        ({}, NOTHING, "about 1.9 GB for Stable Diffusion 1.x to 6.6 GB for SDXL"),
        ({"network.network_train_unet_only": True}, SDXL, "about 5.1 GB"),
        ({"optimizer.text_encoder_lr": [1e-5, 0.0]}, SDXL, "about 5.3 GB"),
        ({}, facts(family="sdxl", trained=frozenset({"unet"})), "about 5.1 GB"),
        ({"network.network_train_text_encoder_only": True}, NOTHING, "about 170 MB for"),
        ({"network.lycoris_preset": "attn-only"}, facts(family="sd1"), "about 240 MB"),
        ({"network.lycoris_preset": "transformer-only"}, SDXL, "about 4.4 GB"),
        ({"network.down_lr_weight": "zeros"}, SDXL, "at most 6.6 GB"),
    ],
)
def test_the_size_of_full_fine_tuning_is_that_of_what_is_trained(
    settings: dict[str, Any], known: Facts, size: str
) -> None:
    advice = lint(config(**{"network.network_type": "full"} | settings), known)
    assert f"each file has {size} " in next(each.message for each in advice if each.rule == "full-size")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("preset", ["full", "attn-mlp", "attn-only", "unet-only", "transformer-only"])
def test_the_size_of_full_fine_tuning_is_that_of_its_layers(family: Any, preset: str) -> None:
    from loratory.adapters.targets import find_targets
    from loratory.models.components import family_config
    from loratory.models.load import build_component

    names = ("unet", "text_encoder", "text_encoder_2") if family == "sdxl" else ("unet", "text_encoder")
    unet, *encoders = (build_component(name, family_config(family, name)) for name in names)
    made = config(**{"network.network_type": "full", "network.lycoris_preset": preset})
    targets = find_targets(unet, encoders, family, made.network, train_unet=True, train_text_encoder=True)
    models = {"unet": unet, **{f"te{number}": encoder for number, encoder in enumerate(encoders, start=1)}}
    modules = [models[target.component].get_submodule(target.path) for target in targets]
    count = sum(parameter.numel() for module in modules for parameter in module.parameters())
    message = next(each.message for each in lint(made, facts(family=family)) if each.rule == "full-size")
    number, unit = message.partition("each file has about ")[2].split()[:2]
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(2 * count, rel=0.05)


def test_advice_comes_in_the_order_of_the_rules() -> None:
    crowd = config(
        **{
            "training.train_batch_size": 8,
            "training.seed": 0,
            "caption.shuffle_caption": True,
            "network.network_dim": 256,
            "model.clip_skip": 2,
        }
    )
    assert [advice.rule for advice in lint(crowd, SDXL)] == [
        "clip-skip-sdxl",
        "dim-high",
        "batch-size",
        "keep-tokens-none",
        "seed-zero",
    ]


def test_the_default_configuration_needs_no_advice() -> None:
    assert lint(config(), NOTHING) == []


@pytest.mark.parametrize("factor", [-1, 1, 4, 7, 8, 16, 3000])
@pytest.mark.parametrize("width", [4, 320, 640, 768, 1280, 2560, 10240, 127])
def test_the_factors_of_lokr_are_those_of_lycoris(width: int, factor: int) -> None:
    from lycoris.functional.general import factorization  # here, since it imports torch

    assert factors(width, factor) == tuple(factorization(width, factor))


@pytest.mark.parametrize("name", PRESETS)
def test_the_guides_setups_give_no_warning(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'preset = "{name}"\n[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'
    )
    loaded = load_config(path)
    exposure = loaded.target_exposure or 0
    sdxl, several = loaded.model.family == "sdxl", name == "multi-concept"
    width, height = loaded.dataset.resolution_wh
    folders = [FolderFacts("1_fox", 40, 1, exposure)]
    folders += [FolderFacts("1_cub", 32, 1, exposure)] if several else []
    steps = math.ceil(sum(f.images for f in folders) / loaded.training.gradient_accumulation_steps)
    said = lint(
        loaded,
        Facts(
            family="sdxl" if sdxl else "sd1",
            prediction_type="v_prediction" if name == "vpred-zsnr" else "epsilon",
            zero_terminal_snr=name == "vpred-zsnr",
            native_resolution_px=1024 if sdxl else 512,
            trained=frozenset({"unet", "te1", "te2"} if sdxl else {"unet", "te1"}),
            concepts=len(folders),
            folders=tuple(folders),
            mirrored_folders=(),
            buckets={(width, height): 30, (width - 128, height + 128): 10},
            train_images=sum(folder.images for folder in folders),
            reg_images=0,
            validation_images=0,
            steps_per_epoch=steps,
            total_steps=int(steps * exposure),
        ),
    )
    assert [advice for advice in said if advice.severity == "warning"] == []
    assert len(said) <= 2


TABLES: dict[str, dict[str, list[Any]]] = {
    "model": {"clip_skip": [1, 2, 12], "family": ["sd1", "sd2", "sdxl"], "v_parameterization": [True, False]},
    "dataset": {
        "resolution": [32, 512, 1024, (640, 832)],
        "goal": ["style", "clothing"],
        "flip_aug": [True],
        "asymmetric": [True],
        "enable_bucket": [False],
        "bucket_no_upscale": [True],
        "validation_split": [0.01, 0.5],
        "subsets": [[{"image_dir": "/a", "flip_aug": True, "keep_tokens": 3}]],
        "reg_data_dir": ["/reg"],
        "cache_latents": [False],
        "color_aug": [True],
        "vocabulary": ["natural"],
    },
    "caption": {
        "shuffle_caption": [True],
        "keep_tokens": [2, 9],
        "caption_dropout_rate": [0.3, 1.0],
        "caption_dropout_every_n_epochs": [1],
        "caption_tag_dropout_rate": [1.0],
        "token_warmup_step": [0.5, 1.0, 1e9],
    },
    "network": {
        "network_type": ["locon", "dora", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full"],
        "network_dim": [4, 4096],
        "network_alpha": [1e-9, 1.0, 1e9],
        "conv_dim": [8, 4096],
        "rs_lora": [True],
        "factor": [1, 8, 99],
        "network_dropout": [0.9],
        "network_train_unet_only": [True],
        "lycoris_preset": ["unet-only"],
    },
    "optimizer": {
        "optimizer_type": ["Prodigy", "Lion", "a.b.C", "DAdaptAdam", "."],
        "learning_rate": [0.0, 1.0, 1e9],
        "unet_lr": [0.0, 1e-3],
        "text_encoder_lr": [0.0, 1e-3, [], [1e-4], [0.0, 1e-5]],
        "optimizer_args": ["weight_decay=0.1"],
        "lr_scheduler": ["constant", "cosine_with_restarts", "warmup_stable_decay", "linear"],
        "lr_warmup_steps": [0, 10, 0.5, "100%"],
        "lr_scheduler_num_cycles": [1, 1000],
    },
    "training": {
        "train_batch_size": [2, 1024],
        "gradient_accumulation_steps": [2],
        "max_train_steps": [1],
        "exposure": [1e-3],
        "ema_decay": [0.9999],
        "seed": [0],
        "mixed_precision": ["no", "fp16"],
    },
    "loss": {
        "loss_type": ["huber"],
        "huber_c": [1e-9, 5.0],
        "min_snr_gamma": [1e-3, 5.0, 1e9],
        "debiased_estimation_loss": [True],
        "prior_loss_weight": [0.0, 0.5, 9.0],
    },
    "noise": {
        "noise_offset": [0.1, 9.0],
        "multires_noise_iterations": [6],
        "zero_terminal_snr": [True],
        "min_timestep": [999],
    },
    "output": {"save_every_n_epochs": [1, 1000], "save_every_n_steps": [5], "no_metadata": [True]},
    "lint": {"silence": [["batch-size", ""], ["\x00" * 99]]},
}
SETTINGS = [
    (f"{table}.{key}", value) for table, keys in TABLES.items() for key, values in keys.items() for value in values
]


@st.composite
def known_facts(draw: st.DrawFn) -> Facts:
    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    names = st.text(max_size=5).filter(str.isprintable)
    tags = st.dictionaries(st.sampled_from(["eyepatch", "fox", ""]), st.integers(0, 5))
    folder = st.builds(FolderFacts, names, st.integers(0, 200), st.integers(1, 200), st.floats(0, 1e6), tags)
    return Facts(
        family=maybe(st.sampled_from(["sd1", "sd2", "sdxl"])),
        prediction_type=maybe(st.sampled_from(["epsilon", "v_prediction"])),
        declared_prediction_type=maybe(st.sampled_from(["epsilon", "v_prediction"])),
        zero_terminal_snr=maybe(st.booleans()),
        native_resolution_px=maybe(st.sampled_from([512, 768, 1024])),
        trained=maybe(st.frozensets(st.sampled_from(["unet", "te1", "te2"]))),
        concepts=maybe(st.integers(0, 5)),
        folders=maybe(st.lists(folder, max_size=6).map(tuple)),
        mirrored_folders=maybe(st.lists(names, max_size=6).map(tuple)),
        buckets=maybe(st.dictionaries(st.tuples(*[st.sampled_from([512, 768, 1024])] * 2), st.integers(1, 99))),
        train_images=maybe(st.integers(0, 99)),
        reg_images=maybe(st.integers(0, 99)),
        validation_images=maybe(st.integers(0, 9)),
        steps_per_epoch=maybe(st.integers(1, 999)),
        total_steps=maybe(st.integers(1, 9999)),
    )


@given(st.lists(st.sampled_from(SETTINGS), max_size=12), known_facts())
def test_no_valid_configuration_raises(settings: list[tuple[str, Any]], known: Facts) -> None:
    try:
        made = config(**dict(settings))
    except ValidationError:
        return
    for advice in lint(made, known):
        assert advice.key in FIELDS
        assert "\n" not in advice.message


def test_the_page_of_rules_is_current() -> None:
    script = Path(__file__).parents[1] / "scripts" / "lint_doc.py"
    check = subprocess.run([sys.executable, script, "--check"], check=False)
    assert check.returncode == 0, "run scripts/lint_doc.py"
