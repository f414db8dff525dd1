import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import lycoris_files
from loratory.adapters.deltas import delta
from loratory.adapters.norms import BlockNorm, block_norms, block_of, grouped, measure
from loratory.adapters.shapes import module_form
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.verify import verify_file
from loratory.errors import LoratoryError
from tiny_models import shared_tiny_model

KEY = "lora_unet_mid_block_attentions_0_proj_in"


def stored(path):
    """The tensors of a file by module and role."""
    modules = {}
    for name, tensor in load_file(path).items():
        key, _, role = name.partition(".")
        modules.setdefault(key, {})[role] = tensor
    return modules


def base_weights(network):
    """The weights that the modules of LyCORIS' network adapt, by their keys in files."""
    modules = network.unet_loras + network.text_encoder_loras
    return {module.lora_name: module.org_module[0].weight.detach() for module in modules}


@pytest.mark.parametrize(
    "name",
    ["locon", "locon tucker", "dylora", "loha", "loha tucker", "lokr", "lokr low-rank", "lokr tucker", "lokr whole"],
)
def test_a_block_has_the_norm_of_the_changes_in_it(tmp_path, name):
    network, _, _ = lycoris_files.trained(name)
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), torch.float32, {})
    squares = {}
    files = stored(path)
    for key, weight in base_weights(network).items():
        change = delta(files[key], weight).weight.double().square().sum()
        place = ("unet" if key.startswith("lora_unet") else "te1", block_of(key))
        squares[place] = squares.get(place, 0.0) + float(change)
    found = block_norms(path)
    assert not found.left_out
    assert {(block.component, block.block) for block in found.blocks} == squares.keys()
    for block in found.blocks:
        assert block.measure == "change"
        assert block.norm == pytest.approx(math.sqrt(squares[block.component, block.block]), rel=1e-4)


@pytest.mark.parametrize(
    "name", ["locon", "dora", "dora per input", "loha dora", "glora", "ia3", "diag-oft rescaled", "boft"]
)
def test_with_the_base_weight_every_kind_is_measured_exactly(tmp_path, name):
    network, _, _ = lycoris_files.trained(name)
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), torch.float32, {})
    files = stored(path)
    for key, weight in list(base_weights(network).items())[::9]:
        found = measure(form_of(files[key]), files[key], weight)
        expected = float(delta(files[key], weight).weight.double().norm())
        assert found == ("change", pytest.approx(expected, rel=1e-4), pytest.approx(float(weight.norm()), rel=1e-5))


def test_numbers_of_8_bits_are_measured():
    tensors = {"weight": torch.full((4,), 0.5).to(torch.float8_e4m3fn), "on_input": torch.tensor(False)}
    assert measure(form_of(tensors), tensors, None).norm == 0.5


@pytest.mark.parametrize("name", ["lora_unet_conv_in.", "lora_unet_conv_in"])
def test_a_name_that_tells_no_role_does_no_harm(tmp_path, name):
    path = tmp_path / "a.safetensors"
    pair = {f"{KEY}.lora_down.weight": torch.ones(2, 8), f"{KEY}.lora_up.weight": torch.ones(8, 2)}
    save_file(pair | {name: torch.ones(2)}, path)
    assert set(block_norms(path).left_out) == {name}
    assert any(finding.rule == "unknown-tensor" and name in finding.message for finding in verify_file(path))


def form_of(tensors):
    return module_form({role: tuple(tensor.shape) for role, tensor in tensors.items()})


def rotation(outputs=64, size=8, spread=0.1):
    generator = torch.Generator().manual_seed(1)
    return {
        "oft_blocks": torch.randn(outputs // size, size, size, generator=generator) * spread,
        "alpha": torch.tensor(0.0),
    }


def test_without_the_base_a_rotation_is_measured_against_the_average_weight():
    tensors = rotation(640, 16)
    relative = measure(form_of(tensors), tensors, None)
    weight = torch.randn(640, 320, generator=torch.Generator().manual_seed(5))
    exact = measure(form_of(tensors), tensors, weight)
    assert relative.measure == "relative"
    assert relative.norm == pytest.approx(exact.norm / exact.base_norm, rel=0.02)


def test_without_the_base_ia3_is_the_mean_square_of_its_numbers():
    tensors = {"weight": torch.tensor([0.1, -0.3, 0.2, 0.0]), "on_input": torch.tensor(0)}
    relative = measure(form_of(tensors), tensors, None)
    assert relative == ("relative", pytest.approx(math.sqrt(0.14 / 4)), None)


def test_without_the_base_dora_is_measured_before_its_magnitudes():
    pair = {"lora_down.weight": torch.randn(2, 8), "lora_up.weight": torch.randn(6, 2), "alpha": torch.tensor(1.0)}
    dora = {**pair, "dora_scale": torch.rand(6, 1)}
    plain, part = measure(form_of(pair), pair, None), measure(form_of(dora), dora, None)
    assert (plain.measure, part.measure) == ("change", "part")
    assert part.norm == plain.norm


def test_a_module_that_does_not_fit_is_told_and_the_rest_is_measured(tmp_path):
    path = tmp_path / "a.safetensors"
    good = {f"{KEY}.diff": torch.full((3, 4), 2.0)}
    save_file({**good, "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4)}, path)
    found = block_norms(path)
    assert [(block.block, block.norm) for block in found.blocks] == [("mid", pytest.approx(math.sqrt(48)))]
    assert "do not fit" in found.left_out["lora_unet_conv_in"]
    with pytest.raises(LoratoryError, match="shape"):
        measure(form_of({"diff": torch.ones(3, 4)}), {"diff": torch.ones(3, 4)}, torch.ones(4, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_values_beyond_all_bounds_are_infinite_at_worst(tmp_path, value):
    path = tmp_path / "a.safetensors"
    save_file({f"{KEY}.lora_down.weight": torch.full((2, 4), value), f"{KEY}.lora_up.weight": torch.ones(4, 2)}, path)
    (block,) = block_norms(path).blocks
    assert block.norm == (math.inf if not math.isfinite(value) else pytest.approx(math.sqrt(16) * 2e30))


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "down_1"),
        ("lora_unet_mid_block_resnets_0_conv1", "mid"),
        ("lora_unet_up_blocks_3_upsamplers_0_conv", "up_3"),
        ("lora_unet_input_blocks_4_1_proj_in", "input_blocks_4"),
        ("lora_unet_middle_block_1_proj_in", "middle_block"),
        ("lora_unet_output_blocks_0_0_in_layers_2", "output_blocks_0"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "layer_11"),
        ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", "layer_3"),
        ("lora_unet_time_embedding_linear_1", "other"),
        ("lora_unet_conv_in", "other"),
        ("lora_te_text_model_final_layer_norm", "other"),
    ],
)
def test_blocks_have_the_names_of_the_file(key, block):
    assert block_of(key) == block


def test_layers_of_encoders_are_taken_together_by_their_squares():
    def layer(number, norm, measure="change"):
        return BlockNorm("te1", f"layer_{number}", measure, 6, norm, 2.0)

    blocks = [BlockNorm("unet", "mid", "change", 2, 1.0, None), layer(0, 3.0), layer(3, 4.0), layer(4, 1.0)]
    assert grouped(blocks) == [
        blocks[0],
        BlockNorm("te1", "layers_0-3", "change", 12, 5.0, pytest.approx(math.sqrt(8))),
        BlockNorm("te1", "layers_4-7", "change", 6, 1.0, 2.0),
    ]
    (mean,) = grouped([layer(0, 3.0, "relative"), layer(1, 4.0, "relative")])
    assert mean.norm == pytest.approx(math.sqrt(12.5))


def test_blocks_stand_in_the_order_of_the_model(tmp_path):
    path = tmp_path / "a.safetensors"
    keys = (
        "lora_te2_text_model_encoder_layers_10_mlp_fc1",
        "lora_te2_text_model_encoder_layers_2_mlp_fc1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_output_blocks_1_0_in_layers_2",
        "lora_unet_middle_block_1_proj_in",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_unet_time_embed_0",
    )
    save_file({f"{key}.diff": torch.ones(2, 2) for key in keys}, path)
    assert [f"{block.component} {block.block}" for block in block_norms(path).blocks] == [
        "unet input_blocks_4",
        "unet middle_block",
        "unet output_blocks_1",
        "unet other",
        "te1 layer_0",
        "te2 layer_2",
        "te2 layer_10",
    ]


def test_a_base_model_gives_shares_of_its_weights(tmp_path):
    base = shared_tiny_model("sd1")
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    with Checkpoint(base) as checkpoint:
        outputs = checkpoint.by_key()[key].weight.shape[0]
    path = tmp_path / "a.safetensors"
    unknown = "lora_unet_down_blocks_9_attentions_0_proj_in"
    save_file(
        {
            f"{key}.weight": torch.full((outputs,), 0.25),
            f"{key}.on_input": torch.tensor(0),
            f"{unknown}.diff": torch.ones(2, 2),
        },
        path,
    )
    told = []
    found = block_norms(path, base, lambda done, total: told.append((done, total)))
    (block,) = found.blocks
    assert block.measure == "change"
    assert block.norm / block.base_norm == pytest.approx(0.25, rel=1e-5)
    assert found.left_out == {unknown: "The base model has no such module."}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == 2


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_base_model_of_another_family_is_told(tmp_path, family):
    base = shared_tiny_model(family)
    with Checkpoint(base) as checkpoint:
        layers = {key: layer.weight.shape for key, layer in checkpoint.by_key().items() if key.startswith("lora_unet")}
    path = tmp_path / "a.safetensors"
    save_file({f"{key}.diff": torch.ones(tuple(shape)) for key, shape in layers.items()}, path)
    assert not block_norms(path, base).left_out
    with pytest.raises(LoratoryError, match=r"is no base model for a\.safetensors: it fits"):
        block_norms(path, shared_tiny_model({"sd1": "sdxl", "sdxl": "sd1"}[family]))
