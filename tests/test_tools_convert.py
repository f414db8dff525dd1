import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file
from torch import nn

from adapter_models import fill, real_size_models, tiny_models, token_ids, unet_inputs
from loratory.adapters.files import read_adapter, save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.summary import inspect_file
from loratory.adapters.tools.bake import bake_lora
from loratory.adapters.tools.convert import rename
from loratory.adapters.tools.low_rank import RankRule
from loratory.adapters.tools.naming import (
    ModuleName,
    kernel_of,
    key_of_module,
    module_of_key,
    read_named_adapter,
)
from loratory.adapters.tools.resize import resize_file
from loratory.cli.main import main
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

COMPONENTS = ("unet", "te1", "te2")


def trained(family, *, te=True, **network):
    """Models with an adapter of random values, and the adapter."""
    unet, encoders = tiny_models(family)
    settings = NetworkSettings(**({"network_dim": 4, "network_alpha": 2} | network))
    adapter = inject(unet, encoders, family, settings, seed=1, train_unet=True, train_text_encoder=te)
    fill(adapter)
    return unet, encoders, adapter


@torch.no_grad()
def outputs(unet, encoders, family):
    hidden = [encoder(input_ids=token_ids(), output_hidden_states=True).hidden_states[-1] for encoder in encoders]
    return [unet(**unet_inputs(family)).sample, *hidden]


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


def loaded_outputs(path, family):
    pipe = pipeline(family)
    pipe.load_lora_weights(str(path))
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family == "sdxl" else [])]
    return outputs(pipe.unet, encoders, family)


def equal_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("naming", ["kohya", "kohya-diffusers"])
def test_every_layer_of_the_published_models_has_a_key_that_leads_back_to_it(family, naming):
    unet, encoders = real_size_models(family)
    keys = set()
    count = 0
    for component, model in zip(COMPONENTS, (unet, *encoders), strict=False):
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm):
                module = ModuleName(component, path.removeprefix("text_model."))
                key = key_of_module(module, family, naming)
                assert module_of_key(key) == module
                if not isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                    assert kernel_of(module, family) == tuple(layer.weight.shape[2:])
                keys.add(key)
                count += 1
    assert len(keys) == count > 200


def test_keys_that_no_model_has_lead_nowhere():
    for key in ("lora_unet_down_blocks_0_attentions_0_xyz", "lora_te_up", "lora_unet_", "lora_transformer_x", "x"):
        assert module_of_key(key) is None


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    "network",
    [
        {"network_type": "lora"},
        {"network_type": "lora", "network_alpha": 3},
        {"network_type": "locon", "conv_dim": 2},
        {"network_type": "dora", "conv_dim": 2},
    ],
)
def test_diffusers_gives_the_trained_output_from_the_converted_file(tmp_path, family, network):
    unet, encoders, adapter = trained(family, **network)
    source, converted = tmp_path / "kohya.safetensors", tmp_path / "diffusers.safetensors"
    save_adapter(source, adapter.kohya_state_dict(), {"ss_network_dim": "4"}, "float")
    rename(source, converted, "diffusers", family=family)
    for found, expected in zip(loaded_outputs(converted, family), outputs(unet, encoders, family), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("network_type", ["lora", "locon", "dora"])
def test_there_and_back_the_function_is_the_same_to_the_bit(tmp_path, family, network_type):
    convolutions = {} if network_type == "lora" else {"conv_dim": 4, "conv_alpha": 1}
    _, _, adapter = trained(family, network_type=network_type, network_alpha=1, **convolutions)
    source, there, back = (tmp_path / f"{name}.safetensors" for name in ("source", "there", "back"))
    save_adapter(source, adapter.kohya_state_dict(), {}, "float")
    assert rename(source, there, "diffusers", family=family).folded == len(adapter.layers)
    rename(there, back, "kohya", family=family)
    before, after = read_adapter(source).state_dict, read_adapter(back).state_dict
    assert before.keys() == after.keys()
    for key in {name.partition(".")[0] for name in before}:
        pairs = [(state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"]) for state in (before, after)]
        scales = [float(state[f"{key}.alpha"]) / 4 for state in (before, after)]
        (up, down), (new_up, new_down) = pairs
        assert (up.shape, down.shape) == (new_up.shape, new_down.shape)
        # Powers of two moved between the halves: each value keeps its digits.
        factor = new_up.flatten()[0] / up.flatten()[0]
        assert torch.equal(new_up, up * factor)
        assert torch.equal(new_down * factor * scales[1], down * scales[0])
        if network_type == "dora":
            assert torch.equal(before[f"{key}.dora_scale"], after[f"{key}.dora_scale"])


def test_where_alpha_is_the_rank_the_tensors_stay_as_they_are(tmp_path):
    _, _, adapter = trained("sdxl", network_type="locon", network_alpha=4, conv_dim=2, conv_alpha=2)
    source, there, back = (tmp_path / f"{name}.safetensors" for name in ("source", "there", "back"))
    save_adapter(source, adapter.kohya_state_dict(), {}, "fp16")
    assert rename(source, there, "diffusers").folded == 0
    rename(there, back, "kohya")
    assert equal_tensors(read_adapter(source).state_dict, read_adapter(back).state_dict)


def test_a_file_in_half_precision_stays_one_with_its_magnitudes_as_they_are(tmp_path):
    key, prefix = "lora_unet_mid_block_attentions_0_proj_in", "unet.mid_block.attentions.0.proj_in"
    scale = torch.rand(8, 1)
    state = {f"{key}.lora_up.weight": torch.rand(8, 2), f"{key}.lora_down.weight": torch.rand(2, 4)}
    source, there, back = (tmp_path / f"{name}.safetensors" for name in ("source", "there", "back"))
    save_adapter(source, state | {f"{key}.dora_scale": scale}, {}, "bf16")
    rename(source, there, "diffusers", family="sdxl")
    rename(there, back, "kohya", family="sdxl")
    assert load_file(there)[f"{prefix}.lora_B.weight"].dtype == torch.bfloat16
    assert torch.equal(load_file(there)[f"{prefix}.lora_magnitude_vector.weight"], scale.flatten())
    name = key_of_module(ModuleName("unet", "mid_block.attentions.0.proj_in"), "sdxl", "kohya")
    assert torch.equal(load_file(back)[f"{name}.dora_scale"], scale)
    assert load_file(back)[f"{name}.lora_up.weight"].dtype == torch.bfloat16


def test_folding_keeps_small_values_in_the_range_of_fp16(tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    up, down = 1e-4 * (1 + torch.rand(8, 64)), 0.1 * (1 + torch.rand(64, 8))
    state = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(1.0)}
    source, there = tmp_path / "source.safetensors", tmp_path / "there.safetensors"
    save_adapter(source, state, {}, "fp16")
    rename(source, there, "diffusers", family="sd1")
    found = load_file(there)
    prefix = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    up, down = up.half().double(), down.half().double()
    change = found[f"{prefix}.lora_B.weight"].double() @ found[f"{prefix}.lora_A.weight"].double()
    # up / 64 alone would be below the normal numbers of fp16.
    assert torch.allclose(change, up @ down / 64, rtol=1e-6, atol=0)


def test_both_namings_of_sdxl_and_back_are_the_same_file(tmp_path):
    _, _, adapter = trained("sdxl", network_type="locon", conv_dim=2)
    source, there, back = (tmp_path / f"{name}.safetensors" for name in ("source", "there", "back"))
    save_adapter(source, adapter.kohya_state_dict(), {"ss_output_name": "fox"}, "bf16")
    assert rename(source, there, "kohya-diffusers").naming == "kohya"
    names = load_file(there)
    assert "lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight" in names
    assert not any("input_blocks" in name for name in names)
    rename(there, back, "kohya")
    assert back.read_bytes() == source.read_bytes()


def test_any_kind_of_network_may_change_between_the_kohya_namings(tmp_path):
    source, there = tmp_path / "source.safetensors", tmp_path / "there.safetensors"
    key = "lora_unet_input_blocks_4_1_proj_in"
    state = {f"{key}.{role}": torch.rand(4, 4) for role in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}
    save_adapter(source, state, {}, "float")
    rename(source, there, "kohya-diffusers")
    other = "lora_unet_down_blocks_1_attentions_0_proj_in"
    assert equal_tensors(load_file(there), {name.replace(key, other): tensor for name, tensor in state.items()})
    with pytest.raises(LoratoryError, match="diffusers' naming holds LoRA") as refused:
        rename(source, there, "diffusers")
    assert "--bake lora" in refused.value.hint


def test_diffusers_own_conversion_finds_the_same_tensors(tmp_path):
    _, _, adapter = trained("sdxl", te=False, network_type="locon", network_alpha=4, conv_dim=4, conv_alpha=4)
    source, theirs, ours = (tmp_path / f"{name}.safetensors" for name in ("source", "theirs", "ours"))
    save_adapter(source, adapter.kohya_state_dict(), {}, "float")
    rename(source, theirs, "diffusers")
    rename(source, ours, "kohya-diffusers")
    found = convert_state_dict_to_kohya(load_file(theirs))
    assert equal_tensors({name: tensor.float() for name, tensor in found.items()}, load_file(ours))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_diffusers_saved_is_read_with_the_alpha_of_its_metadata(tmp_path, family):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = pipeline(family)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_out.0", "proj_in"], alpha_pattern={"proj_in": 2})
    text_config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"])
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(text_config)
    torch.manual_seed(2)
    for model in (pipe.unet, pipe.text_encoder):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.1)
    layers = {
        "unet_lora_layers": get_peft_model_state_dict(pipe.unet),
        "text_encoder_lora_layers": get_peft_model_state_dict(pipe.text_encoder),
        "unet_lora_adapter_metadata": config.to_dict(),
        "text_encoder_lora_adapter_metadata": text_config.to_dict(),
    }
    layers["unet_lora_adapter_metadata"]["target_modules"] = sorted(config.target_modules)
    layers["text_encoder_lora_adapter_metadata"]["target_modules"] = sorted(text_config.target_modules)
    pipe.save_lora_weights(tmp_path, weight_name="saved.safetensors", **layers)
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family == "sdxl" else [])]
    expected = outputs(pipe.unet, encoders, family)

    converted = tmp_path / "kohya.safetensors"
    rename(tmp_path / "saved.safetensors", converted, "kohya", family=family)
    found = read_adapter(converted)
    prefix = "lora_unet_input_blocks_4_1" if family == "sdxl" else "lora_unet_down_blocks_0_attentions_0"
    assert float(found.state_dict[f"{prefix}_proj_in.alpha"]) == 2
    assert float(found.state_dict[f"{prefix}_transformer_blocks_0_attn1_to_q.alpha"]) == 6
    te = "lora_te1" if family == "sdxl" else "lora_te"
    assert float(found.state_dict[f"{te}_text_model_encoder_layers_0_self_attn_q_proj.alpha"]) == 8
    assert found.metadata["ss_network_dim"] == "Dynamic"
    assert "lora_adapter_metadata" not in found.metadata
    for one, other in zip(loaded_outputs(converted, family), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


OLD_NAMES = {
    "unet.{}.attn1.processor.to_q_lora.down.weight": "{}.attn1.to_q.lora_down.weight",
    "unet.{}.attn1.processor.to_q_lora.up.weight": "{}.attn1.to_q.lora_up.weight",
    "unet.{}.attn1.processor.to_out_lora.down.weight": "{}.attn1.to_out.0.lora_down.weight",
    "unet.{}.attn1.processor.to_out_lora.up.weight": "{}.attn1.to_out.0.lora_up.weight",
    "unet.{}.attn2.to_k.lora.down.weight": "{}.attn2.to_k.lora_down.weight",
    "unet.{}.attn2.to_k.lora.up.weight": "{}.attn2.to_k.lora_up.weight",
    "base_model.model.{}.attn2.to_v.lora_A.weight": "{}.attn2.to_v.lora_down.weight",
    "base_model.model.{}.attn2.to_v.lora_B.weight": "{}.attn2.to_v.lora_up.weight",
    "{}.ff.net.2.lora_A.default.weight": "{}.ff.net.2.lora_down.weight",
    "{}.ff.net.2.lora_B.default.weight": "{}.ff.net.2.lora_up.weight",
}


def test_every_older_way_of_naming_is_read(tmp_path):
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    values = {name: torch.rand(4, 4) for name in OLD_NAMES}
    tensors = {name.format(block): values[name] for name in OLD_NAMES}
    layer = "encoder.layers.1.self_attn.out_proj"
    tensors[f"text_encoder.text_model.{layer}.lora_linear_layer.down.weight"] = torch.rand(4, 4)
    tensors[f"text_encoder.text_model.{layer}.lora_linear_layer.up.weight"] = torch.rand(4, 4)
    path, output = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file(tensors, path)
    rename(path, output, "kohya", family="sd1")
    found = load_file(output)
    for old, new in OLD_NAMES.items():
        key, _, role = new.format(block).rpartition(".lora_")
        assert torch.equal(found[f"lora_unet_{key.replace('.', '_')}.lora_{role}"], values[old])
    assert f"lora_te_text_model_{layer.replace('.', '_')}.lora_up.weight" in found
    assert sum(name.endswith(".alpha") for name in found) == 6


@pytest.mark.parametrize(
    "described",
    [
        "not json",
        "[1]",
        '{"unet.lora_alpha": "x"}',
        '{"unet.lora_alpha": NaN}',
        f'{{"unet.lora_alpha": 1{"0" * 400}}}',
        '{"unet.alpha_pattern": {"(a+)+$": 4, "[": 2}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_metadata_of_strangers_does_no_harm(tmp_path, described):
    path, output = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": torch.rand(2, 4), f"{name}.lora_B.weight": torch.rand(8, 2)}
    save_file(tensors, path, {"lora_adapter_metadata": described})
    rename(path, output, "kohya", family="sd2")
    assert float(load_file(output)["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 2


@pytest.mark.parametrize(
    ("up", "down", "alpha"), [((8, 3), (2, 4), ()), ((8,), (2, 4), ()), ((8, 2), None, ()), ((8, 2), (2, 4), (2,))]
)
def test_halves_that_do_not_fit_are_named(tmp_path, up, down, alpha):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    state = {f"{key}.lora_up.weight": torch.rand(up), f"{key}.alpha": torch.ones(alpha)}
    if down is not None:
        state[f"{key}.lora_down.weight"] = torch.rand(down)
    path = tmp_path / "file.safetensors"
    save_adapter(path, state, {}, "float")
    with pytest.raises(LoratoryError, match="proj_in"):
        rename(path, tmp_path / "out.safetensors", "diffusers", family="sd1")
    rule = RankRule("fixed", most=1)
    with pytest.raises(LoratoryError, match="proj_in"):
        resize_file(path, tmp_path / "out.safetensors", rule, rule)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "roles",
    [
        {"lora_up.weight": (8, 4, 1, 1), "lora_down.weight": (4, 8, 1, 1), "lora_mid.weight": (6, 5, 3, 3)},
        {"lora_up.weight": (8, 4), "lora_down.weight": (4, 0)},
        {"lora_up.weight": (8, 0), "lora_down.weight": (0, 4)},
    ],
)
def test_what_is_no_lora_module_is_named(tmp_path, roles):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    path, output, rule = tmp_path / "file.safetensors", tmp_path / "out.safetensors", RankRule("fixed", most=1)
    save_adapter(path, {f"{key}.{role}": torch.rand(shape) for role, shape in roles.items()}, {}, "float")
    for write in (
        lambda: resize_file(path, output, rule, rule),
        lambda: bake_lora(path, output, rule, rule, family="sd1"),
    ):
        with pytest.raises(LoratoryError, match=r"file\.safetensors.*proj_in"):
            write()
    assert not output.exists()


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_named(tmp_path, alpha):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    path = tmp_path / "file.safetensors"
    state = {f"{key}.lora_up.weight": torch.rand(8, 2), f"{key}.lora_down.weight": torch.rand(2, 4)}
    save_adapter(path, state | {f"{key}.alpha": torch.tensor(alpha)}, {}, "float")
    with pytest.raises(
        LoratoryError, match=r"file\.safetensors: unet.*proj_in holds NaN or an infinite number as its alpha"
    ):
        rename(path, tmp_path / "out.safetensors", "diffusers", family="sd1")


@pytest.mark.parametrize(
    ("value", "said"), [(1e5, "values up to 1e.05, which F16 cannot hold"), (float("nan"), "holds NaN")]
)
def test_what_a_file_cannot_hold_is_not_written(tmp_path, value, said):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    path, output, rule = tmp_path / "file.safetensors", tmp_path / "out.safetensors", RankRule("fixed", most=2)
    state = {f"{key}.lora_up.weight": torch.full((8, 2), value), f"{key}.lora_down.weight": torch.rand(2, 4)}
    save_adapter(path, state, {}, "float")
    for write in (
        lambda: rename(path, output, "kohya", family="sd1", precision="fp16"),
        lambda: resize_file(path, output, rule, rule, "fp16"),
        lambda: bake_lora(path, output, rule, rule, family="sd1", precision="fp16"),
    ):
        with pytest.raises(LoratoryError, match=f"proj_in.*{said}"):
            write()
    assert not output.exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te_encoder_layers_0_mlp_fc1"),
        ("lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in"),
    ],
)
def test_one_layer_under_two_names_is_refused(tmp_path, one, other):
    path = tmp_path / "file.safetensors"
    roles = {"lora_up.weight": torch.rand(8, 2), "lora_down.weight": torch.rand(2, 4)}
    state = {f"{key}.{role}": tensor for key in (one, other) for role, tensor in roles.items()}
    save_adapter(path, state, {}, "float")
    with pytest.raises(LoratoryError, match="of one layer twice") as refused:
        read_named_adapter(path)
    assert one in refused.value.message and other in refused.value.message


@pytest.mark.parametrize(("outputs", "inputs"), [(8, 8), (1, 4), (4, 1)])
def test_magnitudes_per_input_are_not_taken_for_those_per_output(tmp_path, outputs, inputs):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    state = {f"{key}.lora_up.weight": torch.rand(outputs, 2), f"{key}.lora_down.weight": torch.rand(2, inputs)}
    path, output = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    save_adapter(path, state | {f"{key}.dora_scale": torch.rand(1, inputs)}, {}, "float")
    with pytest.raises(LoratoryError, match=f"magnitudes per input, \\[1, {inputs}\\]"):
        rename(path, output, "diffusers", family="sd2")
    save_adapter(path, state | {f"{key}.dora_scale": torch.rand(outputs, 1)}, {}, "float")
    rename(path, output, "diffusers", family="sd2")
    assert load_file(output)["unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight"].shape == (outputs,)


def test_text_encoder_keys_without_text_model_are_put_right(tmp_path):
    path, output = tmp_path / "wrong.safetensors", tmp_path / "right.safetensors"
    key = "lora_te1_encoder_layers_0_mlp_fc1"
    save_adapter(
        path, {f"{key}.lora_up.weight": torch.rand(8, 2), f"{key}.lora_down.weight": torch.rand(2, 4)}, {}, "float"
    )
    rename(path, output, "kohya", family="sdxl")
    assert set(load_file(output)) == {
        f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{half}.weight" for half in ("up", "down")
    }


def test_the_family_is_told_by_structure_and_width(tmp_path):
    def family(name, width, metadata=None):
        path = tmp_path / "file.safetensors"
        save_adapter(
            path,
            {f"{name}.lora_up.weight": torch.rand(8, 2), f"{name}.lora_down.weight": torch.rand(2, width)},
            metadata or {},
            "float",
        )
        return read_named_adapter(path).family

    block = "lora_unet_down_blocks_1_attentions_0_transformer_blocks"
    assert family(f"{block}_0_attn2_to_k", 768) == "sd1"
    assert family(f"{block}_0_attn2_to_k", 1024) == "sd2"
    assert family(f"{block}_0_attn2_to_k", 2048) == "sdxl"
    assert family(f"{block}_1_attn1_to_k", 64) == "sdxl"
    assert family(f"{block}_0_attn1_to_k", 64) is None
    assert family(f"{block}_0_attn1_to_k", 64, {"ss_base_model_version": "sd_v2_v"}) == "sd2"
    assert family("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024) == "sd2"


def test_the_family_is_the_one_that_inspecting_tells(tmp_path):
    path, output = tmp_path / "file.safetensors", tmp_path / "out.safetensors"
    halves = {"lora_up.weight": torch.rand(8, 2), "lora_down.weight": torch.rand(2, 8)}
    hada = {
        f"hada_w{n}_{side}": torch.rand(shape) for n in (1, 2) for side, shape in (("a", (320, 2)), ("b", (2, 768)))
    }
    block = "lora_unet_down_blocks_1_attentions_0_transformer_blocks"
    for key, own, family in (
        (f"{block}_0_attn2_to_k", hada, "sd1"),
        (f"{block}_1_attn1_to_k", halves, "sdxl"),
        ("lora_unet_add_embedding_linear_1", halves, "sdxl"),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", halves, "sdxl"),
    ):
        save_adapter(path, {f"{key}.{role}": tensor for role, tensor in own.items()}, {}, "float")
        assert inspect_file(path).family == read_named_adapter(path).family == family
    rename(path, output, "kohya")
    assert all(name.startswith("lora_te1_") for name in load_file(output))


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["loratory", "lora", "convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def file(tmp_path):
    _, _, adapter = trained("sdxl", network_type="lora", network_dim=8, network_alpha=4)
    path = tmp_path / "fox.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "fp16")
    return path


def test_the_command_converts_and_reports(capsys, monkeypatch, tmp_path, file):
    target = tmp_path / "diffusers.safetensors"
    code, out, _ = run(capsys, monkeypatch, file, "-o", target, "--to", "diffusers")
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert code == 0
    assert rows["naming"] == "diffusers, from kohya"
    assert "folded into" in rows["alpha"]
    code, out, _ = run(capsys, monkeypatch, target, "-o", tmp_path / "back.safetensors", "--to", "kohya", "--json")
    assert code == 0
    assert json.loads(out)["from"] == "diffusers"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--to"),
        (("--to", "diffusers", "--rank", 4), "--bake lora"),
        (("--to", "kohya", "--base", "x"), "--base goes with --bake"),
        (("--bake", "lora"), "--rank"),
        (("--bake", "diff", "--to", "diffusers"), "whole differences"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_use(capsys, monkeypatch, tmp_path, file, arguments, said):
    code, _, err = run(capsys, monkeypatch, file, "-o", tmp_path / "a.safetensors", *arguments)
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "a.safetensors").exists()


def test_unknown_layers_and_base_models_are_refused_by_name(capsys, monkeypatch, tmp_path):
    path = tmp_path / "x.safetensors"
    for tensors, said in (
        ({"lora_unet_[/b]_blocks.lora_up.weight": torch.zeros(2, 2)}, "no layer"),
        ({"model.diffusion_model.x.weight": torch.zeros(1)}, "base model"),
        ({"unet.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 2)}, "no layer"),
    ):
        save_file(tensors, path)
        code, out, err = run(capsys, monkeypatch, path, "-o", tmp_path / "a.safetensors", "--to", "kohya")
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())
