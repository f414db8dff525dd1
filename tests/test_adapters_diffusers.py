"""The files as another program reads them: diffusers' own loader must give the network that was trained."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from adapter_models import fill, tiny_models, token_ids, unet_inputs
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.config.schema import NetworkSettings


def pipeline(family):
    unet, encoders = tiny_models(family)
    parts = {"vae": None, "unet": unet, "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            **parts, text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=None, tokenizer_2=None
        )
    return StableDiffusionPipeline(
        **parts,
        text_encoder=encoders[0],
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def outputs(unet, encoders, family):
    hidden = [encoder(input_ids=token_ids(), output_hidden_states=True).hidden_states[-1] for encoder in encoders]
    return [unet(**unet_inputs(family)).sample, *hidden]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "network",
    [{"network_type": "lora"}, {"network_type": "lora", "rs_lora": True}, {"network_type": "locon", "conv_dim": 2}],
)
@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_load_lora_weights_gives_the_trained_network(tmp_path, family, network, train_text_encoder):
    base = outputs(*tiny_models(family), family)
    unet, encoders = tiny_models(family)
    settings = NetworkSettings(network_dim=4, network_alpha=2, **network)
    adapter = inject(unet, encoders, family, settings, seed=1, train_unet=True, train_text_encoder=train_text_encoder)
    fill(adapter)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")

    pipe = pipeline(family)
    pipe.load_lora_weights(str(path))
    loaded_encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family == "sdxl" else [])]
    loaded = outputs(pipe.unet, loaded_encoders, family)
    trained = outputs(unet, encoders, family)
    for found, expected in zip(loaded, trained, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    changed = [not torch.equal(after, before) for after, before in zip(trained, base, strict=True)]
    assert changed == [True] + [train_text_encoder] * len(encoders)
