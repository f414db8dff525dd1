import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from adapter_models import real_size_models, text_encoder, tiny_models, tiny_unet
from loratory.adapters.keys import diffusers_module_key, key_component, module_key, sdxl_original_path
from loratory.adapters.layout import is_known_module
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


# -- presets

ALL_TYPES = ["lora", "locon", "dora", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full"]

# Modules of (SD 1.5, SDXL). The transformers (192, 722), what networks.lora adapts with conv_dim (278, 788) and the
# text encoders (72, 264) are what sd-scripts says when it begins, and LyCORIS for a LoCon. Beside those, LyCORIS' full
# preset has conv_in, conv_out and two layers of the time embedding, and ours two of SDXL's other embedding. Attentions:
# q, k, v and out of two in each of the 16 and 70 transformer blocks; in the encoders of 12 and 32 layers, of one.
FULL = {"unet": (282, 794), "te1": (72, 72), "te2": (0, 192)}
ATTENTION = {"unet": (16 * 8, 70 * 8), "te1": (12 * 4, 12 * 4), "te2": (0, 32 * 4)}
TRANSFORMERS = {"unet": (192, 722)}
COUNTS = {
    "full": FULL,
    "unet-only": {"unet": FULL["unet"]},
    "attn-mlp": FULL | TRANSFORMERS,
    "attn-only": ATTENTION,
    "transformer-only": TRANSFORMERS,
}


def counts_of(targets):
    return {name: sum(target.component == name for target in targets) for name in ("unet", "te1", "te2")}


def expected(counts, family):
    return {name: counts.get(name, (0, 0))[family == "sdxl"] for name in ("unet", "te1", "te2")}


@pytest.mark.parametrize("preset", COUNTS)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_module_counts_of_presets(sd15, sdxl, family, preset):
    models = sdxl if family == "sdxl" else sd15
    for network_type in ("loha", "lokr", "dylora", "glora", "diag-oft", "boft", "full"):
        targets = both(*models, family, network_type=network_type, lycoris_preset=preset)
        assert counts_of(targets) == expected(COUNTS[preset], family)
        assert all(is_known_module(target.key) for target in targets)
    # What stands outside the blocks is not trained by those that select as sd-scripts does.
    for network_type, unet in (("locon", (278, 788)), ("dora", (192, 722)), ("lora", (192, 722))):
        counts = COUNTS[preset] | ({"unet": unet} if preset in ("full", "unet-only") else {})
        targets = both(*models, family, network_type=network_type, lycoris_preset=preset)
        assert counts_of(targets) == expected(counts, family)


def test_ia3_adapts_keys_values_and_the_last_layer_of_feed_forwards(sd15, sdxl):
    # In each transformer block k and v of two attentions, and ff.net.2; in each layer of an encoder k, v and fc2.
    assert counts_of(both(*sd15, "sd1", network_type="ia3")) == {"unet": 16 * 5, "te1": 12 * 3, "te2": 0}
    targets = both(*sdxl, "sdxl", network_type="ia3")
    assert counts_of(targets) == {"unet": 70 * 5, "te1": 12 * 3, "te2": 32 * 3}
    ends = ("_to_k", "_to_v", "_ff_net_2", "_k_proj", "_v_proj", "_mlp_fc2")
    assert {end for target in targets for end in ends if target.key.endswith(end)} == set(ends)
    assert {(target.rank, target.alpha) for target in targets} == {(1, 1.0)}


@pytest.mark.parametrize(
    ("path", "sd1", "sdxl"),
    [
        ("conv_in", "conv_in", "input_blocks_0_0"),
        ("conv_out", "conv_out", "out_2"),
        ("time_embedding.linear_1", "time_embedding_linear_1", "time_embed_0"),
        ("time_embedding.linear_2", "time_embedding_linear_2", "time_embed_2"),
        ("add_embedding.linear_1", None, "label_emb_0_0"),
        ("add_embedding.linear_2", None, "label_emb_0_2"),
    ],
)
def test_what_full_adds_outside_the_blocks(path, sd1, sdxl):
    for family, name in (("sd1", sd1), ("sdxl", sdxl)):
        unet, _ = tiny_models(family)
        keys = {target.path: target.key for target in both(unet, [], family, network_type="loha")}
        assert keys.get(path) == (name and f"lora_unet_{name}")


def test_types_without_conv_dim_give_convolutions_the_size_of_the_others():
    for network_type in ALL_TYPES:
        size = {} if network_type in ("ia3", "full") else {"network_dim": 16}
        targets = both(tiny_unet(), [], "sd1", network_type=network_type, **size)
        convolutions = {target.rank for target in targets if target.is_conv}
        without = network_type in ("lora", "dora", "ia3")
        assert convolutions == (set() if without else {1} if network_type == "full" else {16})


# -- norms


def norms_of(family, models, **network):
    targets = both(*models, family, network_type="loha", train_norm=True, **network)
    plain = both(*models, family, network_type="loha", **network)
    assert [target for target in targets if not target.is_norm] == plain
    return [target for target in targets if target.is_norm]


def test_normalisation_layers_are_trained_where_they_are_asked_for(sd15, sdxl):
    # Resnets hold two, transformers one and their blocks three; encoders two in a layer and one at the end.
    resnets = {"sd1": 22, "sdxl": 17}
    for family, models, transformers, blocks in (("sd1", sd15, 16, 16), ("sdxl", sdxl, 11, 70)):
        encoders = {"te1": 25, "te2": 65 if family == "sdxl" else 0}
        unet = transformers + 3 * blocks
        found = norms_of(family, models)
        assert counts_of(found) == {"unet": unet + 2 * resnets[family], **encoders}
        assert {(target.rank, target.alpha, target.is_conv) for target in found} == {(1, 1.0, False)}
        assert all(is_known_module(target.key) for target in found)
        assert counts_of(norms_of(family, models, lycoris_preset="attn-mlp")) == {"unet": unet, **encoders}
        only = norms_of(family, models, lycoris_preset="transformer-only")
        assert counts_of(only) == {"unet": unet, "te1": 0, "te2": 0}


def test_names_of_normalisation_layers():
    keys = {target.path: target.key for target in norms_of("sdxl", tiny_models("sdxl")) if target.component == "unet"}
    assert keys["down_blocks.0.resnets.0.norm1"] == "lora_unet_input_blocks_1_0_in_layers_0"
    assert keys["down_blocks.0.resnets.0.norm2"] == "lora_unet_input_blocks_1_0_out_layers_0"
    assert keys["down_blocks.1.attentions.0.norm"] == "lora_unet_input_blocks_4_1_norm"
    transformer = "attentions.0.transformer_blocks.0.norm3"
    assert keys[f"mid_block.{transformer}"] == "lora_unet_middle_block_1_transformer_blocks_0_norm3"
    encoders = {target.key for target in norms_of("sd1", tiny_models("sd1")) if target.component == "te1"}
    assert encoders == {"lora_te_text_model_final_layer_norm"} | {
        f"lora_te_text_model_encoder_layers_{layer}_layer_norm{number}" for layer in (0, 1) for number in (1, 2)
    }


def test_norms_that_are_not_there_are_not_trained_in_silence():
    with pytest.raises(LoratoryError, match="train_norm does nothing"):
        norms_of("sd1", tiny_models("sd1"), lycoris_preset="attn-only")


# -- LyCORIS' own choice


@pytest.fixture
def lycoris(monkeypatch):
    """LyCORIS' network; it keeps presets in the class, which is put back."""
    from lycoris.kohya import LycorisNetworkKohya as network  # here, since it imports much

    for name in [name for name in vars(network) if name.isupper()]:
        monkeypatch.setattr(network, name, getattr(network, name))
    return network


def lycoris_preset(name):
    """A preset of LyCORIS 4.1.3 as it is meant: without the class that Anima brought, which holds modules that are
    named a second time, with the attention of diffusers, and with patterns that match whole paths."""
    from lycoris import config

    # Complete: what a preset leaves out stays as the last one of the process had it.
    names = ("unet_target_module", "unet_target_name", "text_encoder_target_module", "text_encoder_target_name")
    complete = {"enable_conv": False, "use_fnmatch": False, "name_algo_map": {}, "module_algo_map": {}}
    complete |= {name: [] for name in (*names, "exclude_name")}
    preset = complete | config.PRESET["unet-transformer-only" if name == "transformer-only" else name]
    preset["unet_target_module"] = [kind for kind in preset["unet_target_module"] if kind != "TimestepEmbedding"]
    if name == "attn-only":
        preset["unet_target_module"] = ["Attention"]
    if name == "ia3":
        preset["unet_target_name"] = [f".*{each}$" for each in preset["unet_target_name"]]
    return preset | {"name_algo_map": {}}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("preset", [*COUNTS, "ia3"])
def test_the_modules_are_those_that_lycoris_means(lycoris, family, preset):
    unet, encoders = tiny_models(family)
    has_norms = preset not in ("attn-only", "ia3")
    network = {"network_type": "ia3"} if preset == "ia3" else {"network_type": "loha", "lycoris_preset": preset}
    ours = both(unet, encoders, family, **network, train_norm=has_norms)
    keys = {diffusers_module_key("unet", target.path, family) for target in ours if target.component == "unet"}
    lycoris.apply_preset(lycoris_preset(preset))
    made = lycoris(encoders, unet, lora_dim=4, conv_lora_dim=4, network_module="locon", train_norm=has_norms)
    theirs = {module.lora_name for module in made.unet_loras}
    added = {key for key in keys if "_add_embedding_" in key}
    assert len(added) == (2 if family == "sdxl" and preset in ("full", "unet-only") else 0)
    assert keys - added == theirs
