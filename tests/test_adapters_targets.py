import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from adapter_models import real_size_models, text_encoder, tiny_models, tiny_unet
from loratory.adapters.keys import key_component, module_key, sdxl_original_path
from loratory.adapters.targets import find_targets
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

DATA = Path(__file__).parent / "data"


def reference(name):
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


def both(unet, encoders, family, **network):
    return find_targets(unet, encoders, family, NetworkSettings(**network), train_unet=True, train_text_encoder=True)


@pytest.fixture(scope="module")
def sd15():
    return real_size_models("sd1")


@pytest.fixture(scope="module")
def sdxl():
    return real_size_models("sdxl")


def test_the_modules_of_sd15_are_those_that_sd_scripts_names(sd15):
    targets = both(*sd15, "sd1", network_type="lora", network_dim=8, network_alpha=4)
    assert {target.key for target in targets} == set(reference("keys_sd15_lora_dim8.json.gz"))
    assert {target.scale for target in targets} == {0.5}
    assert not any(target.is_conv for target in targets)


def test_locon_adds_the_convolution_blocks_that_sd_scripts_names():
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(32, 64, 64, 64), cross_attention_dim=64)
    targets = both(unet, [text_encoder(32, 3)], "sd1", network_type="locon", network_dim=8, conv_dim=4, conv_alpha=1)
    assert {target.key for target in targets} == set(reference("keys_sd15_locon.json.gz"))
    for target in targets:
        assert target.rank == (4 if target.is_conv else 8)
    by_key = {target.key: target for target in targets}
    assert by_key["lora_unet_up_blocks_0_resnets_0_conv1"].is_conv
    assert by_key["lora_unet_mid_block_attentions_0_proj_in"].rank == 8
    assert by_key["lora_unet_up_blocks_0_resnets_0_conv_shortcut"].rank == 8
    assert by_key["lora_unet_up_blocks_0_resnets_0_time_emb_proj"].rank == 8


def test_the_modules_of_sdxl_have_the_names_of_the_original_release(sdxl):
    unet, (first, _) = sdxl
    targets = both(unet, [first, text_encoder(32, 3, projection=32)], "sdxl", network_type="lora")
    assert {target.key for target in targets} == set(reference("keys_sdxl_lora.json.gz"))


def test_module_counts_of_sdxl(sdxl):
    targets = both(*sdxl, "sdxl", network_type="lora")
    counts = {name: sum(target.component == name for target in targets) for name in ("unet", "te1", "te2")}
    assert counts == {"unet": 722, "te1": 72, "te2": 192}
    assert len({target.key for target in both(*sdxl, "sdxl", network_type="locon")}) == 788 + 264


@pytest.mark.parametrize(
    ("path", "original"),
    [
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        ("down_blocks.1.downsamplers.0.conv", "input_blocks.6.0.op"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("mid_block.attentions.0.norm", "middle_block.1.norm"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
        ("time_embedding.linear_2", "time_embed.2"),
    ],
)
def test_original_names_of_sdxl_modules(path, original):
    assert sdxl_original_path(path) == original


def test_text_encoder_keys_name_text_model_however_the_model_nests():
    flat = module_key("te1", "encoder.layers.0.mlp.fc1", "sd1")
    nested = module_key("te1", "text_model.encoder.layers.0.mlp.fc1", "sd1")
    assert flat == nested == "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert module_key("te2", "encoder.layers.0.mlp.fc1", "sdxl").startswith("lora_te2_text_model_")
    assert key_component(flat) == "te1"
    assert key_component("lora_te2_text_model_x") == "te2"
    assert key_component("lora_transformer_x") is None


@pytest.mark.parametrize(
    ("settings", "linear_scale", "conv"),
    [
        ({"network_dim": 16, "network_alpha": 8}, 0.5, (16, 0.5)),
        ({"network_dim": 16}, 1.0, (16, 1.0)),
        ({"network_dim": 16, "network_alpha": 8, "conv_dim": 4}, 0.5, (4, 0.25)),
        ({"network_dim": 16, "network_alpha": 8, "conv_dim": 4, "conv_alpha": 2}, 0.5, (4, 0.5)),
        ({"network_dim": 16, "network_alpha": 8, "rs_lora": True}, 2.0, (16, 2.0)),
        ({"network_dim": 16, "conv_dim": 4, "conv_alpha": 4, "rs_lora": True}, 4.0, (4, 2.0)),
    ],
)
def test_ranks_and_scales_of_locon(settings, linear_scale, conv):
    targets = both(tiny_unet(), [], "sd1", network_type="locon", **settings)
    assert {target.scale for target in targets if not target.is_conv} == {linear_scale}
    assert {(target.rank, target.scale) for target in targets if target.is_conv} == {conv}


def test_only_locon_and_dora_with_a_rank_adapt_convolution_blocks():
    def has_convolutions(**network):
        return any("resnets" in target.path for target in both(tiny_unet(), [], "sd1", **network))

    assert not has_convolutions(network_type="lora")
    assert not has_convolutions(network_type="dora")
    assert has_convolutions(network_type="dora", conv_dim=8)
    assert has_convolutions(network_type="locon")


def test_components_are_chosen_by_the_caller():
    unet, encoders = tiny_models("sdxl")
    network = NetworkSettings(network_type="lora")

    def components(train_unet, train_text_encoder):
        found = find_targets(
            unet, encoders, "sdxl", network, train_unet=train_unet, train_text_encoder=train_text_encoder
        )
        return {target.component for target in found}

    assert components(True, False) == {"unet"}
    assert components(False, True) == {"te1", "te2"}
    with pytest.raises(LoratoryError, match="Nothing to train"):
        components(False, False)
