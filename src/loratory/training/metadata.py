"""What an adapter file says of its own making: kohya's `ss_*` keys and the `modelspec.*` standard (SAI 1.0.1)."""

import json
from collections import Counter
from datetime import UTC, datetime

import loratory
from loratory.config.kohya.export_network import described_network
from loratory.config.schema import Config
from loratory.dataset.scan import ConceptFolder
from loratory.training.plan import Plan

_ARCHITECTURE = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base"}
_VOCABULARY = {
    "natural": "Prompt it in sentences.",
    "danbooru": "Prompt it with Danbooru tags.",
    "e621": "Prompt it with e621 tags.",
}
_BASE_VERSION = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def adapter_metadata(
    config: Config,
    plan: Plan,
    *,
    step: int,
    epoch: int,
    started_s: float,
    finished_s: float,
    model_hashes: dict[str, str],
) -> dict[str, str]:
    """Metadata of a file saved after `step` steps in `epoch` (from 1); all values are strings, as the format demands.

    model_hashes: `ss_sd_model_hash` and `ss_new_sd_model_hash` where the base model is one file. Hashes of the adapter
    itself are added by `adapters.files`.
    """
    network: dict[str, object] = {
        "ss_v2": plan.info.family == "sd2",
        "ss_base_model_version": _base_version(plan),
        **network_metadata(config),
    }
    # Front ends read these to load a file; the rest is history and can be left out.
    values: dict[str, object] = network if config.output.no_metadata else network | _history(config, plan, step, epoch)
    if not config.output.no_metadata:
        values |= {
            "ss_training_started_at": started_s,
            "ss_training_finished_at": finished_s,
            "modelspec.date": datetime.fromtimestamp(finished_s, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            **_modelspec(config, plan),
            **model_hashes,
        }
    return {key: str(value) for key, value in values.items()}


def network_metadata(config: Config) -> dict[str, object]:
    """Module, sizes and arguments of the network under the names of sd-scripts and LyCORIS, as their tools read them.

    A type without ranks has None for them, and a network whose layers have ranks of their own "Dynamic", as sd-scripts'
    resizing writes it. `ss_network_args` holds all that it takes to train the same again.
    """
    described = described_network(config)
    own_sizes = config.network.dim_from_weights
    return {
        "ss_network_module": described.module,
        "ss_network_dim": "Dynamic" if own_sizes else described.dim,
        "ss_network_alpha": "Dynamic" if own_sizes else described.alpha,
        "ss_network_args": json.dumps(described.items),
    }


def _base_version(plan: Plan) -> str:
    version = _BASE_VERSION[plan.info.family]
    v_prediction = plan.info.prediction_type == "v_prediction"
    return f"{version}_v" if v_prediction and plan.info.family == "sd2" else version


def _history(config: Config, plan: Plan, step: int, epoch: int) -> dict[str, object]:
    dataset, caption, optimizer = config.dataset, config.caption, config.optimizer
    training, noise, loss = config.training, config.noise, config.loss
    folders = [folder for folder in plan.dataset.folders if not folder.is_reg]
    regularization = [folder for folder in plan.dataset.folders if folder.is_reg]
    return {
        "ss_output_name": config.output.output_name,
        "ss_sd_model_name": plan.info.path.name,
        "ss_training_comment": config.output.training_comment,
        "ss_loratory_version": loratory.__version__,
        "ss_steps": step,
        "ss_epoch": epoch,
        "ss_num_epochs": plan.length.epochs,
        "ss_max_train_steps": plan.length.total_steps,
        "ss_num_train_images": plan.images_per_epoch,
        "ss_num_validation_images": len(plan.held_back),
        "ss_num_reg_images": len(plan.order.reg_visits(1)),
        "ss_num_batches_per_epoch": plan.batches_per_epoch,
        "ss_batch_size_per_device": training.train_batch_size,
        "ss_total_batch_size": plan.order.batch_size * training.gradient_accumulation_steps,
        "ss_gradient_accumulation_steps": training.gradient_accumulation_steps,
        "ss_gradient_checkpointing": training.gradient_checkpointing,
        "ss_seed": training.seed,
        "ss_mixed_precision": training.mixed_precision,
        "ss_full_fp16": training.full_fp16,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.unet_lr,
        "ss_text_encoder_lr": optimizer.text_encoder_lr,
        "ss_optimizer": f"{optimizer.optimizer_type}({_spelled(optimizer.parsed_optimizer_args)})",
        "ss_lr_scheduler": optimizer.lr_scheduler,
        "ss_lr_warmup_steps": optimizer.warmup_steps(plan.length.total_steps),
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_network_dropout": config.network.network_dropout or None,
        "ss_scale_weight_norms": config.network.scale_weight_norms or None,
        "ss_network_train_unet_only": config.network.network_train_unet_only or None,
        "ss_network_train_text_encoder_only": config.network.network_train_text_encoder_only or None,
        "ss_clip_skip": config.model.clip_skip,
        "ss_max_token_length": caption.max_token_length,
        "ss_shuffle_caption": caption.shuffle_caption,
        "ss_keep_tokens": caption.keep_tokens,
        "ss_caption_dropout_rate": caption.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": caption.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": caption.caption_tag_dropout_rate,
        "ss_resolution": str(dataset.resolution_wh),
        "ss_enable_bucket": dataset.enable_bucket,
        "ss_bucket_no_upscale": dataset.bucket_no_upscale,
        "ss_min_bucket_reso": dataset.min_bucket_reso,
        "ss_max_bucket_reso": dataset.max_bucket_reso,
        "ss_bucket_info": json.dumps(_bucket_info(plan)),
        "ss_cache_latents": dataset.cache_latents,
        "ss_flip_aug": dataset.flip_aug,
        "ss_color_aug": dataset.color_aug,
        "ss_random_crop": dataset.random_crop,
        "ss_min_snr_gamma": loss.min_snr_gamma or None,
        "ss_loss_type": loss.loss_type,
        "ss_prior_loss_weight": loss.prior_loss_weight,
        "ss_huber_schedule": loss.huber_schedule if loss.loss_type in ("huber", "smooth_l1") else None,
        "ss_huber_c": loss.huber_c if loss.loss_type in ("huber", "smooth_l1") else None,
        "ss_huber_scale": loss.huber_scale if loss.loss_type in ("huber", "smooth_l1") else None,
        "ss_debiased_estimation": loss.debiased_estimation_loss,
        "ss_noise_offset": noise.noise_offset,
        "ss_noise_offset_random_strength": noise.noise_offset_random_strength,
        "ss_adaptive_noise_scale": noise.adaptive_noise_scale,
        "ss_multires_noise_iterations": noise.multires_noise_iterations,
        "ss_multires_noise_discount": noise.multires_noise_discount if noise.multires_noise_iterations else None,
        "ss_ip_noise_gamma": noise.ip_noise_gamma,
        "ss_ip_noise_gamma_random_strength": noise.ip_noise_gamma_random_strength,
        "ss_validation_split": dataset.validation_split,
        "ss_validation_seed": dataset.validation_seed,
        "ss_fp8_base": training.fp8_base,
        "ss_fp8_base_unet": training.fp8_base_unet,
        **({"ss_ema_decay": training.ema_decay} if training.ema_decay else {}),
        "ss_zero_terminal_snr": plan.info.zero_terminal_snr,
        "ss_dataset_dirs": json.dumps(_directories(folders)),
        "ss_reg_dataset_dirs": json.dumps(_directories(regularization)),
        "ss_tag_frequency": json.dumps({folder.name: _tag_frequency(folder) for folder in folders}),
    }


def _spelled(arguments: dict[str, object]) -> str:
    return ",".join(f"{key}={value}" for key, value in arguments.items())


def _directories(folders: list[ConceptFolder]) -> dict[str, dict[str, int]]:
    return {f.name: {"n_repeats": f.repeats, "img_count": len(f.images)} for f in folders}


def _tag_frequency(folder: ConceptFolder) -> dict[str, int]:
    # Split at commas and lower-cased whatever the separator setting is, as every reader of this key expects.
    tags = (tag.strip().lower() for image in folder.images for tag in image.caption.split(","))
    return dict(Counter(tag for tag in tags if tag))


def _bucket_info(plan: Plan) -> dict[str, object]:
    buckets = {
        str(index): {"resolution": list(bucket), "count": count} for index, (bucket, count) in enumerate(plan.buckets)
    }
    errors = [placement.ar_error for placement in plan.placements]
    return {"buckets": buckets, "mean_img_ar_error": sum(errors) / len(errors)}


def _modelspec(config: Config, plan: Plan) -> dict[str, object]:
    output, (width, height) = config.output, config.dataset.resolution_wh
    architecture = _ARCHITECTURE[plan.info.family]
    if plan.info.family == "sd2":
        architecture += "-768-v" if plan.info.prediction_type == "v_prediction" else "-512"
    optional = {
        "modelspec.trigger_phrase": "; ".join(
            dict.fromkeys(image.class_tokens for image in plan.images if not image.is_reg)
        ),
        "modelspec.author": output.metadata_author,
        "modelspec.description": output.metadata_description,
        "modelspec.license": output.metadata_license,
        "modelspec.tags": output.metadata_tags,
    }
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if plan.info.family == "sdxl"
        else "diffusers",
        "modelspec.usage_hint": _VOCABULARY[config.dataset.vocabulary],
        "modelspec.title": output.metadata_title or output.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if plan.info.prediction_type == "v_prediction" else "epsilon",
        **{key: value for key, value in optional.items() if value},
    }
