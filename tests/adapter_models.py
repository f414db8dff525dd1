"""Models of the real architectures for the adapter tests: tiny with random weights, or real-size on the meta device."""

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SDXL_BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}


def text_encoder(hidden=32, layers=2, *, heads=4, projection=None):
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection or 32,
        eos_token_id=99,
        bos_token_id=98,
        pad_token_id=99,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def tiny_unet(family="sd1", *, context=32):
    shared = {"sample_size": 8, "norm_num_groups": 8, "cross_attention_dim": context, "attention_head_dim": 4}
    if family == "sdxl":
        return UNet2DConditionModel(
            **shared,
            **SDXL_BLOCKS,
            block_out_channels=(16, 32, 32),
            transformer_layers_per_block=(1, 1, 2),
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        )
    return UNet2DConditionModel(
        **shared,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        use_linear_projection=family == "sd2",
    )


def tiny_models(family="sd1", seed=0):
    """UNet and text encoders in eval mode, float32, frozen as a base model is.

    Frozen because PyTorch multiplies a strided batch in another order where the weight wants a gradient: an output
    could differ in its last bit from that of the same model under an adapter.
    """
    torch.manual_seed(seed)
    encoders = [text_encoder()]
    if family == "sdxl":
        encoders.append(text_encoder(projection=32))
    unet = tiny_unet(family, context=64 if family == "sdxl" else 32)
    return unet.eval().requires_grad_(False), [encoder.eval().requires_grad_(False) for encoder in encoders]


def real_size_models(family):
    """UNet and text encoders of the published architectures, without weights."""
    with torch.device("meta"):
        if family == "sd1":
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            return unet, [text_encoder(768, 12, heads=12)]
        unet = UNet2DConditionModel(
            **SDXL_BLOCKS,
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        return unet, [text_encoder(768, 12, heads=12), text_encoder(1280, 32, heads=20, projection=1280)]


def unet_inputs(family="sd1", *, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "sample": torch.randn(batch, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([500] * batch),
        "encoder_hidden_states": torch.randn(batch, 7, 64 if family == "sdxl" else 32, generator=generator),
    }
    if family == "sdxl":
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, 32, generator=generator),
            "time_ids": torch.randint(0, 64, (batch, 6), generator=generator).float(),
        }
    return inputs


def token_ids():
    return torch.tensor([[98, 5, 6, 7, 99, 99], [98, 9, 3, 99, 99, 99]])


def fill(adapter, seed=3, size=0.3):
    """Gives every trained tensor random values, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for component in ("unet", "te1", "te2"):
            for name, parameter in adapter.named_parameters(component):
                noise = torch.randn(parameter.shape, generator=generator) * size
                if name.endswith("dora_scale"):
                    parameter.mul_(1 + noise)
                else:
                    parameter.copy_(noise / parameter[0].numel() ** 0.5)
