"""What the table of compatibility says of the loaders that are within reach is what they do."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from lycoris.kohya import create_network_from_weights
from safetensors.torch import save_file

import lycoris_files
from adapter_models import fill, tiny_models, token_ids, unet_inputs
from loratory.adapters.compatibility import LOADERS, SUPPORT, features, spoken, support
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.summary import read_modules
from loratory.config.schema import NetworkSettings

KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def lycoris_file(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("lycoris"), {}

    def make(name):
        if name not in made:
            made[name] = lycoris_files.write(folder / f"{name}.safetensors", name)
        return made[name]

    return make


def answers(path, family="sd1"):
    return support(features(read_modules(path), family))


def pipeline(family):
    unet, encoders = tiny_models(family)
    return StableDiffusionPipeline(
        vae=None,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=encoders[0],
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def outputs(unet, encoder):
    return unet(**unet_inputs()).sample, encoder(input_ids=token_ids()).last_hidden_state


@pytest.mark.parametrize("name", lycoris_files.NETWORKS)
def test_the_loader_of_lycoris_does_what_is_said_of_sd_scripts(lycoris_file, name):
    path = lycoris_file(name)
    _, unet, encoder = lycoris_files.trained(name)
    expected = outputs(unet, encoder)
    unet, encoder = lycoris_files.models()
    untrained = outputs(unet, encoder)

    def load():
        network, _ = create_network_from_weights(1.0, str(path), None, encoder, unet)
        network.apply_to(encoder, unet, True, True)
        network.eval()

    if answers(path)["sd-scripts"].verdict == "no":
        with pytest.raises((TypeError, RuntimeError)):
            load()
        return
    load()
    for found, meant, base in zip(outputs(unet, encoder), expected, untrained, strict=True):
        assert torch.allclose(found, meant, atol=1e-4)
        assert not torch.allclose(found, base, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in lycoris_files.NETWORKS if name not in ("locon", "dylora")])
def test_diffusers_refuses_what_is_said(lycoris_file, name):
    path = lycoris_file(name)
    if name in ("dora", "dora per input"):
        assert answers(path)["diffusers"].verdict == "partly"
        state, _ = StableDiffusionPipeline.lora_state_dict(str(path))
        assert not any("dora" in key or "magnitude" in key for key in state)
    else:
        assert answers(path)["diffusers"].verdict == "no"
        with pytest.raises(ValueError, match="not been correctly renamed"):
            StableDiffusionPipeline.lora_state_dict(str(path))


@pytest.mark.parametrize(
    ("family", "network", "verdict"),
    [("sd1", "lora", "yes"), ("sd1", "locon", "yes"), ("sd1", "dora", "partly"), ("sd2", "lora", "no")],
)
def test_diffusers_loads_files_of_ours_as_is_said(tmp_path, family, network, verdict):
    unet, encoders = tiny_models(family)
    settings = NetworkSettings(network_type=network, network_dim=4, network_alpha=2)
    adapter = inject(unet, encoders, family, settings, seed=1, train_unet=True, train_text_encoder=False)
    fill(adapter)
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")
    assert answers(path, family)["diffusers"].verdict == verdict
    pipe = pipeline(family)
    if verdict == "no":
        with pytest.raises(RuntimeError, match="size mismatch"):
            pipe.load_lora_weights(str(path))
        return
    pipe.load_lora_weights(str(path))
    found, meant = outputs(pipe.unet, encoders[0])[0], outputs(unet, encoders[0])[0]
    assert torch.allclose(found, meant, atol=1e-5) == (verdict == "yes")


def test_diffusers_refuses_the_convolutions_of_lycoris_dylora(lycoris_file):
    path = lycoris_file("dylora")
    assert answers(path)["diffusers"].verdict == "no"
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipeline("sd1").load_lora_weights(str(path))


# -- the table


def module_file(path, key=KEY, **tensors):
    save_file({f"{key}.{role.replace('__', '.')}": tensor for role, tensor in tensors.items()}, path)
    return path


def pair(**others):
    return {"lora_down__weight": torch.ones(2, 8), "lora_up__weight": torch.ones(8, 2), **others}


def matrices(**shapes):
    return {f"{name}__weight": torch.ones(shape) for name, shape in shapes.items()}


ALPHA = torch.tensor(1.0)
CASES = {
    "a LoRA is read by all": (pair(alpha=ALPHA), dict.fromkeys(LOADERS, "yes")),
    "magnitudes per output": (
        pair(dora_scale=torch.ones(8, 1)),
        {"diffusers": "partly", "sd-scripts": "yes", "AUTOMATIC1111": "no", "ComfyUI": "partly", "Forge": "partly"},
    ),
    "magnitudes per input": (
        pair(dora_scale=torch.ones(1, 8)),
        {"diffusers": "partly", "sd-scripts": "no", "AUTOMATIC1111": "yes", "ComfyUI": "yes", "Forge": "yes"},
    ),
    "ia3 of a linear layer": (
        {"weight": torch.ones(8), "on_input": torch.tensor(0)},
        {"diffusers": "no", "sd-scripts": "no", "AUTOMATIC1111": "yes", "ComfyUI": "no", "Forge": "no"},
    ),
    "a rotation": (
        {"oft_blocks": torch.ones(2, 4, 4), "alpha": torch.tensor(0)},
        {"diffusers": "no", "sd-scripts": "yes", "AUTOMATIC1111": "yes", "ComfyUI": "yes", "Forge": "no"},
    ),
    "a rotation with a constraint": (
        {"oft_blocks": torch.ones(2, 4, 4), "alpha": ALPHA},
        {"diffusers": "no", "sd-scripts": "yes", "AUTOMATIC1111": "yes", "ComfyUI": "partly", "Forge": "no"},
    ),
    "a rescaled butterfly": (
        {"oft_blocks": torch.ones(1, 2, 4, 4), "rescale": torch.ones(8, 1), "alpha": torch.tensor(0)},
        {"diffusers": "no", "sd-scripts": "yes", "AUTOMATIC1111": "yes", "ComfyUI": "yes", "Forge": "no"},
    ),
    "glora": (
        matrices(a1=(8, 2), a2=(2, 8), b1=(6, 2), b2=(2, 8)),
        {"diffusers": "no", "sd-scripts": "yes", "AUTOMATIC1111": "no", "ComfyUI": "yes", "Forge": "yes"},
    ),
    "glora in the old layout": (
        matrices(a1=(2, 8), a2=(8, 2), b1=(2, 8), b2=(6, 2)),
        {"diffusers": "no", "sd-scripts": "no", "AUTOMATIC1111": "yes", "ComfyUI": "yes", "Forge": "yes"},
    ),
    "norms without a bias": (
        {"w_norm": torch.ones(8)},
        {"diffusers": "no", "sd-scripts": "yes", "AUTOMATIC1111": "no", "ComfyUI": "yes", "Forge": "yes"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_each_kind(tmp_path, case):
    tensors, expected = CASES[case]
    found = answers(module_file(tmp_path / "a.safetensors", **tensors))
    assert {loader: answer.verdict for loader, answer in found.items()} == expected


def test_a_kind_that_is_left_out_beside_one_that_is_read_is_part_of_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    other = KEY.replace("to_q", "to_k")
    save_file(
        {
            f"{KEY}.weight": torch.ones(8),
            f"{KEY}.on_input": torch.tensor(0),
            f"{other}.diff": torch.ones(8, 8),
        },
        path,
    )
    found = answers(path)
    assert found["ComfyUI"].verdict == "partly"
    assert found["AUTOMATIC1111"].verdict == "yes"
    assert found["sd-scripts"].verdict == "no"


@pytest.mark.parametrize(("parts", "verdict"), [("q k v out", "yes"), ("k v", "partly")])
def test_the_web_ui_needs_all_of_the_attention_of_openclip(tmp_path, parts, verdict):
    path = tmp_path / "a.safetensors"
    layer = "lora_te2_text_model_encoder_layers_0_self_attn"
    shapes = {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)}
    save_file(
        {f"{layer}_{part}_proj.{role}": torch.ones(shape) for part in parts.split() for role, shape in shapes.items()},
        path,
    )
    assert answers(path, "sdxl")["AUTOMATIC1111"].verdict == verdict


def test_nothing_is_promised_for_a_file_that_is_not_understood():
    assert {answer.verdict for answer in support(()).values()} == {"no"}


def test_every_restriction_is_said_in_words():
    for loader, rows in SUPPORT.items():
        for feature, answer in rows.items():
            assert answer.how, (loader, feature)
            assert spoken(answer).startswith(answer.verdict)
