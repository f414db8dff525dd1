"""Which argument of sd-scripts is which setting here, and what the arguments without one are."""

from loratory.config.schema.network import OF_BLOCKS, LycorisPreset


def names(text: str) -> list[str]:
    """Names that are written with spaces between them."""
    return text.split()


_SAME = {
    "model": "pretrained_model_name_or_path vae no_half_vae clip_skip base_weights base_weights_multiplier",
    "dataset": "train_data_dir reg_data_dir enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps "
    "bucket_no_upscale resize_interpolation flip_aug color_aug random_crop alpha_mask conditioning_data_dir "
    "cache_latents cache_latents_to_disk vae_batch_size cache_text_encoder_outputs "
    "cache_text_encoder_outputs_to_disk validation_split validation_seed max_data_loader_n_workers",
    "caption": "caption_extension shuffle_caption keep_tokens keep_tokens_separator caption_separator "
    "secondary_separator enable_wildcard caption_prefix caption_suffix caption_dropout_rate "
    "caption_dropout_every_n_epochs caption_tag_dropout_rate token_warmup_min token_warmup_step max_token_length "
    "weighted_captions",
    "network": "network_dim network_alpha network_dropout scale_weight_norms network_train_unet_only "
    "network_train_text_encoder_only network_weights dim_from_weights",
    "optimizer": "learning_rate unet_lr text_encoder_lr lr_scheduler_num_cycles lr_scheduler_power "
    "lr_scheduler_min_lr_ratio lr_decay_steps lr_scheduler_timescale lr_scheduler_type max_grad_norm "
    "loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio",
    "training": "train_batch_size max_train_epochs max_train_steps gradient_accumulation_steps "
    "gradient_checkpointing mixed_precision full_fp16 full_bf16 fp8_base fp8_base_unet seed torch_compile "
    "dynamo_backend validate_every_n_epochs validate_every_n_steps max_validation_steps",
    "loss": "loss_type huber_schedule huber_c huber_scale min_snr_gamma debiased_estimation_loss "
    "scale_v_pred_loss_like_noise_pred v_pred_like_loss prior_loss_weight masked_loss",
    "noise": "noise_offset noise_offset_random_strength adaptive_noise_scale multires_noise_iterations "
    "multires_noise_discount ip_noise_gamma ip_noise_gamma_random_strength min_timestep max_timestep",
    "output": "output_dir output_name save_every_n_epochs save_every_n_steps save_last_n_epochs save_last_n_steps "
    "save_precision training_comment metadata_title metadata_author metadata_description metadata_license "
    "metadata_tags no_metadata log_with logging_dir",
    "sample": "sample_prompts sample_every_n_epochs sample_every_n_steps sample_at_first sample_sampler",
}

SETTING_OF: dict[str, str] = {name: f"{table}.{name}" for table, names in _SAME.items() for name in names.split()}
"""Arguments of sd-scripts that are a setting of the same name."""

CONVERTED: dict[str, str] = {
    "v2": "model.family",
    "v_parameterization": "model.v_parameterization",
    "zero_terminal_snr": "noise.zero_terminal_snr",
    "resolution": "dataset.resolution",
    "dataset_config": "dataset.subsets",
    "network_module": "network.network_type",
    "network_args": "network.*",
    "optimizer_type": "optimizer.optimizer_type",
    "use_8bit_adam": "optimizer.optimizer_type",
    "use_lion_optimizer": "optimizer.optimizer_type",
    "optimizer_args": "optimizer.optimizer_args",
    "lr_scheduler": "optimizer.lr_scheduler",
    "lr_scheduler_args": "optimizer.lr_scheduler_args",
    "lr_warmup_steps": "optimizer.lr_warmup_steps",
    "sdpa": "training.cross_attention",
    "xformers": "training.cross_attention",
    "mem_eff_attn": "training.cross_attention",
    "save_model_as": "output.save_model_as",
}
"""Arguments of sd-scripts that become a setting of another name, type or meaning."""

NETWORK_ARGS: dict[str, str] = {
    name: f"network.{name}"
    for name in names(
        "conv_dim conv_alpha rank_dropout module_dropout factor decompose_both full_matrix constraint rescaled "
        "use_tucker use_scalar dora_wd wd_on_output train_norm rank_dropout_scale rs_lora block_dims block_alphas "
        "conv_block_dims conv_block_alphas down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold "
        "block_size"
    )
} | {
    "algo": "network.network_type",
    "preset": "network.lycoris_preset",
    "unit": "network.block_size",
    "use_cp": "network.use_tucker",
    "use_conv_cp": "network.use_tucker",
    "constrain": "network.constraint",
    "dropout": "network.network_dropout",
    "loraplus_lr_ratio": "optimizer.loraplus_lr_ratio",
    "loraplus_unet_lr_ratio": "optimizer.loraplus_unet_lr_ratio",
    "loraplus_text_encoder_lr_ratio": "optimizer.loraplus_text_encoder_lr_ratio",
}
"""The items of `--network_args`."""

OTHER_PRESETS: dict[LycorisPreset, str] = {"transformer-only": "unet-transformer-only"}
"""LyCORIS' names of the selections of layers that have another one here."""

_LORA_PLUS = frozenset(name for name in NETWORK_ARGS if name.startswith("loraplus"))
_LOW_RANK = frozenset(names("conv_dim conv_alpha rank_dropout module_dropout"))

NATIVE_ARGS: dict[str, frozenset[str]] = {
    "networks.lora": _LOW_RANK | _LORA_PLUS | set(OF_BLOCKS),
    "networks.lora_fa": _LOW_RANK | set(OF_BLOCKS),
    # Its convolutions have the alpha of the network, whatever conv_alpha says.
    "networks.dylora": frozenset({"conv_dim", "unit"}) | _LORA_PLUS,
    "networks.loha": _LOW_RANK | {"use_tucker"} | _LORA_PLUS,
    "networks.lokr": _LOW_RANK | {"use_tucker", "factor"} | _LORA_PLUS,
}
"""Those that each of sd-scripts' own modules uses. It takes any other without a word, to no effect."""

SUPERFLUOUS_ARGS: dict[str, str] = {
    "bypass_mode": "the fast way is taken by itself wherever it computes the same",
    "disable_conv_cp": "use_tucker decides",
    "warn_on_unmatched": "how the program talks, not what it trains",
    "train_t5xxl": "is for models other than Stable Diffusion 1, 2 and XL",
    "train_llm_adapter": "is for models other than Stable Diffusion 1, 2 and XL",
    "verbose": "how the program talks, not what it trains",
    "train_on_input": "LyCORIS does not use it either; the type decides for each layer",
}
"""Items of `--network_args` that change nothing about the result, and why."""

_LAYERS = "the network type and network.lycoris_preset decide which layers are trained, and the block settings how"

_REFUSED_OF_LYCORIS: dict[str, str] = {
    "exclude_name": _LAYERS,
    "unbalanced_factorization": "LoKr is split evenly in both dimensions; factor sets how",
}

REFUSED_ARGS: dict[str, str] = {
    **dict.fromkeys(names("exclude_patterns include_patterns network_reg_dims network_reg_lrs"), _LAYERS),
    **_REFUSED_OF_LYCORIS,
}
"""Items of `--network_args` that would change the result and cannot be carried out."""


def is_unused(name: str, module: str) -> bool:
    """Whether one of sd-scripts' own modules passes over an item of `--network_args` that another module uses."""
    is_known = name in NETWORK_ARGS or name in _REFUSED_OF_LYCORIS
    return module in NATIVE_ARGS and is_known and name not in NATIVE_ARGS[module]


_LOGS = "a run keeps its own log, see `loratory watch`"
_STATE = "resumable states are always written, see output.state_every_n_steps"
_MACHINE = "how the program is started; the result does not depend on it"

IGNORED: dict[str, str] = {
    **dict.fromkeys(
        names(
            "log_prefix log_tracker_name log_tracker_config log_config wandb_api_key "
            "wandb_run_name console_log_level console_log_file console_log_simple use_wandb"
        ),
        _LOGS,
    ),
    **dict.fromkeys(
        names(
            "save_state save_state_on_train_end save_last_n_epochs_state save_last_n_steps_state "
            "save_state_to_huggingface"
        ),
        _STATE,
    ),
    **dict.fromkeys(
        names(
            "num_cpu_threads_per_process num_processes num_machines gpu_ids main_process_port lowram highvram lowvram "
            "skip_cache_check disable_mmap_load_safetensors offload_optimizer_device offload_optimizer_nvme_path "
            "ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph dynamo_mode dynamo_use_fullgraph "
            "dynamo_use_dynamic extra_accelerate_launch_args cpu_offload_checkpointing cache_info "
            "debug_dataset output_config tokenizer_cache_dir"
        ),
        _MACHINE,
    ),
    **dict.fromkeys(
        names(
            "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token async_upload "
            "huggingface_repo_visibility resume_from_huggingface"
        ),
        "nothing is uploaded",
    ),
    **dict.fromkeys(
        names("stop_text_encoder_training stop_text_encoder_training_pct no_token_padding train_on_input"),
        "sd-scripts does not use it for adapters either",
    ),
    "persistent_data_loader_workers": "batches are prepared by threads, which stay for the whole run",
    "model_list": "the GUI's list of models",
    "epoch": "the GUI's own number; max_train_epochs or max_train_steps decides",
}
"""Arguments that change nothing about the result, and why they have no setting."""

REFUSED: dict[str, str] = {
    "resume": "an accelerate state cannot be continued here; `loratory train --resume` continues runs of Loratory",
    "initial_epoch": "a run starts at its first epoch",
    "initial_step": "a run starts at its first step",
    "skip_until_initial_step": "a run starts at its first step",
    "face_crop_aug_range": "crop the pictures to the faces before training",
    "in_json": "metadata files are not read; write captions beside the pictures",
    "token_string": "captions and the folder names say what is learnt",
    "train_inpainting": "inpainting models are not trained",
    "dataset_class": "pictures are read from folders",
    "deepspeed": "several graphics cards train with copies of the model; start them with torchrun",
    "multi_gpu": "leave it out; several graphics cards are started with torchrun or accelerate launch",
    "save_n_epoch_ratio": "use output.save_every_n_epochs",
    "fused_backward_pass": "leave it out; it saves memory in full fine-tuning only",
}
"""Arguments that would change the result and cannot be carried out."""

SD_DEFAULTS: dict[str, object] = {
    "enable_bucket": False,
    "cache_latents": False,
    "caption_extension": ".caption",
    "network_dim": 4,
    "network_alpha": 1.0,
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "max_train_steps": 1600,
    "mixed_precision": "no",
    "output_name": "last",
    "save_precision": "float",
}
"""What sd-scripts does without the argument, where that is not what Loratory does without the setting."""

GUI_DEFAULTS: dict[str, object] = {
    "LoRA_type": "Standard",
    "LyCORIS_preset": "full",
    "bucket_no_upscale": True,
    "cache_latents": True,
    "caption_extension": ".txt",
    "conv_alpha": 1,
    "conv_dim": 1,
    "enable_bucket": True,
    "epoch": 1,
    "learning_rate": 0.0001,
    "lr_scheduler": "cosine",
    "lr_scheduler_num_cycles": 1,
    "lr_warmup": 10,
    "max_bucket_reso": 2048,
    "max_resolution": "512,512",
    "mixed_precision": "fp16",
    "network_alpha": 1,
    "network_dim": 8,
    "noise_offset_type": "Original",
    "optimizer": "AdamW8bit",
    "output_name": "last",
    "sample_sampler": "euler_a",
    "save_every_n_epochs": 1,
    "save_precision": "fp16",
    "text_encoder_lr": 0.0001,
    "unet_lr": 0.0001,
    "unit": 1,
}
"""What the GUI's fields hold before a file is opened, where Loratory's default is another."""

GUI_NAMES: dict[str, str] = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "lora_network_weights": "network_weights",
    "caption_extention": "caption_extension",
    "model_path": "pretrained_model_name_or_path",
}
"""Keys of the GUI that sd-scripts calls by another name."""

GUI_CONVERTED: dict[str, str] = {
    "LoRA_type": "network.network_type",
    "LyCORIS_preset": "network.lycoris_preset",
    "sdxl": "model.family",
    "epoch": "training.max_train_epochs",
    "lr_warmup": "optimizer.lr_warmup_steps",
    "noise_offset_type": "noise.*",
    "additional_parameters": "*",
}
"""Keys of the GUI that it turns into arguments by rules of its own."""
