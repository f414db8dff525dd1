#!/bin/bash
# the script of a two-year-old run
MODEL="/data/models/anime v2.safetensors"
export OUT=/data/out
accelerate launch --num_cpu_threads_per_process=2 --mixed_precision bf16 \
  "/opt/sd-scripts/sdxl_train_network.py" \
  --pretrained_model_name_or_path="$MODEL" --train_data_dir /data/img \
  --output_dir=${OUT} --output_name 'my fox' \
  --network_module=lycoris.kohya --network_args "algo=lokr" "preset=full" "factor=8" --network_dim 32 \
  --resolution=1024 --enable_bucket --xformers --optimizer_type Prodigy \
  --optimizer_args "decouple=True" "betas=0.9,0.99" --learning_rate 1 --text_encoder_lr 0 \
  --lr_warmup_steps 0.1 --lr_scheduler cosine --max_train_epochs 10 --caption_extension=".txt" \
  --cache_latents_to_disk --save_every_n_epochs 2 --save_state; echo done
