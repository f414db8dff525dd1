"""Adapters of every kind baked to LoRA and to whole differences: the same change of the weights, judged by `delta`."""

import json

import pytest
import torch

from loratory.adapters.deltas import delta
from loratory.adapters.files import read_adapter, save_adapter
from loratory.adapters.tools.bake import bake_diff, bake_lora
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.convert import rename
from loratory.adapters.tools.low_rank import RankRule
from loratory.cli.main import main
from loratory.errors import LoratoryError
from loratory.models.header import read_header
from tiny_models import shared_tiny_model

# 32 in, 32 out; 3x3 convolution; 1x1 convolution.
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
PROJECTION = "lora_unet_down_blocks_0_attentions_0_proj_in"
NORM = "lora_unet_down_blocks_0_resnets_0_norm1"
WIDTH = 32


def module(key, **roles):
    generator = torch.Generator().manual_seed(3)
    return {
        f"{key}.{role.replace('__', '.')}": 0.2 * torch.randn(shape, generator=generator)
        for role, shape in roles.items()
    } | {f"{key}.alpha": torch.tensor(2.0)}


def loha(key, inputs):
    return module(key, hada_w1_a=(WIDTH, 2), hada_w1_b=(2, inputs), hada_w2_a=(WIDTH, 2), hada_w2_b=(2, inputs))


LORA = module(LINEAR, lora_up__weight=(WIDTH, 4), lora_down__weight=(4, WIDTH))
KINDS = {
    "lora": LORA,
    "tucker": module(
        CONV, lora_up__weight=(WIDTH, 3, 1, 1), lora_down__weight=(3, WIDTH, 1, 1), lora_mid__weight=(3, 3, 3, 3)
    ),
    "projection": module(PROJECTION, lora_up__weight=(WIDTH, 4, 1, 1), lora_down__weight=(4, WIDTH, 1, 1)),
    "loha": loha(LINEAR, WIDTH) | loha(CONV, WIDTH * 9) | loha(PROJECTION, WIDTH),
    "loha tucker": module(
        CONV,
        hada_w1_a=(2, WIDTH),
        hada_w1_b=(2, WIDTH),
        hada_w2_a=(2, WIDTH),
        hada_w2_b=(2, WIDTH),
        hada_t1=(2, 2, 3, 3),
        hada_t2=(2, 2, 3, 3),
    ),
    "lokr": module(LINEAR, lokr_w1=(4, 4), lokr_w2=(8, 8))
    | module(CONV, lokr_w1=(4, 4), lokr_w2_a=(8, 2), lokr_w2_b=(2, 72)),
    "full": module(LINEAR, diff=(WIDTH, WIDTH)) | module(CONV, diff=(WIDTH, WIDTH, 3, 3), diff_b=(WIDTH,)),
}
ON_BASE = {
    "dora": LORA | {f"{LINEAR}.dora_scale": 1 + torch.rand(WIDTH, 1)},
    "glora": module(LINEAR, a1__weight=(WIDTH, 2), a2__weight=(2, WIDTH), b1__weight=(WIDTH, 2), b2__weight=(2, WIDTH)),
    "ia3": {f"{LINEAR}.weight": 0.1 * torch.randn(WIDTH), f"{LINEAR}.on_input": torch.tensor(False)},
    "oft": module(LINEAR, oft_blocks=(4, 8, 8)) | {f"{LINEAR}.alpha": torch.tensor(0.0)},
}


def save(tmp_path, state, precision="float"):
    path = tmp_path / "source.safetensors"
    save_adapter(path, state, {"ss_training_comment": "a fox"}, precision)
    return path


@torch.no_grad()
def changes(state):
    """The change of weight and bias by key, on the tiny model."""
    with Checkpoint(shared_tiny_model("sd1")) as base:
        layers = base.by_key()
        found = {}
        for key in {name.partition(".")[0] for name in state}:
            own = {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith(f"{key}.")}
            found[key] = delta(own, base.read(layers[key].weight))
        return found


@pytest.mark.parametrize("kind", [*KINDS, *ON_BASE])
@pytest.mark.parametrize("with_base", [False, True])
def test_whole_differences_are_the_same_change(tmp_path, kind, with_base):
    state = (KINDS | ON_BASE)[kind]
    if kind in ON_BASE and not with_base:
        with pytest.raises(LoratoryError, match="depends on the weights") as refused:
            bake_diff(save(tmp_path, state), tmp_path / "diff.safetensors", family="sd1")
        assert "--base" in refused.value.hint
        return
    output = tmp_path / "diff.safetensors"
    base = shared_tiny_model("sd1") if with_base else None
    bake_diff(save(tmp_path, state), output, base=base, family="sd1")
    found = read_adapter(output)
    shapes = {
        f"{LINEAR}.diff": (WIDTH, WIDTH),
        f"{CONV}.diff": (WIDTH, WIDTH, 3, 3),
        f"{PROJECTION}.diff": (WIDTH, WIDTH, 1, 1),
    }
    for name, tensor in found.state_dict.items():
        assert tensor.shape == shapes.get(name, (WIDTH,))
    before, after = changes(state), changes(found.state_dict)
    assert before.keys() == after.keys()
    for key, change in before.items():
        assert torch.equal(after[key].weight, change.weight)
        assert (after[key].bias is None) == (change.bias is None)
        assert change.bias is None or torch.equal(after[key].bias, change.bias)
    assert found.metadata["ss_network_args"] == '{"algo": "full"}'
    assert found.metadata["ss_training_comment"].startswith("baked to whole differences")


@pytest.mark.parametrize("kind", [*KINDS, *ON_BASE])
def test_a_lora_of_full_rank_is_the_same_change(tmp_path, kind):
    state = (KINDS | ON_BASE)[kind]
    output = tmp_path / "lora.safetensors"
    rule = RankRule("fixed", most=WIDTH * 9)
    converted = bake_lora(save(tmp_path, state), output, rule, rule, base=shared_tiny_model("sd1"))
    found = read_adapter(output).state_dict
    assert {name.partition(".")[2] for name in found} <= {
        "lora_up.weight",
        "lora_down.weight",
        "lora_mid.weight",
        "alpha",
    }
    for key, change in changes(found).items():
        expected = changes(state)[key].weight
        assert float((change.weight - expected).norm()) < 2e-6 * float(expected.norm())
    assert converted.lost_biases == (kind == "full")


def test_peft_writes_the_magnitudes_of_convolutions_per_output_too(tmp_path):
    state = module(CONV, lora_up__weight=(WIDTH, 4, 1, 1), lora_down__weight=(4, WIDTH, 3, 3)) | {
        f"{CONV}.dora_scale": 1 + torch.rand(WIDTH, 1, 1, 1)
    }
    diffusers, output = tmp_path / "diffusers.safetensors", tmp_path / "diff.safetensors"
    rename(save(tmp_path, state), diffusers, "diffusers", family="sd1")
    prefix = "unet.down_blocks.0.resnets.0.conv1"
    assert read_header(diffusers).tensors[f"{prefix}.lora_magnitude_vector.weight"].shape == (1, WIDTH, 1, 1)
    bake_diff(diffusers, output, base=shared_tiny_model("sd1"))
    found, expected = changes(read_adapter(output).state_dict)[CONV].weight, changes(state)[CONV].weight
    assert float((found - expected).norm()) < 1e-6 * float(expected.norm())


@pytest.mark.parametrize("kind", ["lora", "tucker", "loha", "lokr", "glora"])
def test_the_error_of_a_lower_rank_is_what_it_says(tmp_path, kind):
    state = (KINDS | ON_BASE)[kind]
    output = tmp_path / "lora.safetensors"
    rule = RankRule("fixed", most=2)
    converted = bake_lora(save(tmp_path, state, "fp16"), output, rule, rule, base=shared_tiny_model("sd1"))
    halves = {name: tensor if name.endswith("alpha") else tensor.half() for name, tensor in state.items()}
    before, after = changes(halves), changes(read_adapter(output).state_dict)
    for cut in converted.cuts:
        assert cut.rank == 2
        lost = float((before[cut.key].weight - after[cut.key].weight).norm())
        assert cut.error == pytest.approx(lost, rel=1e-3)
        best = torch.linalg.svdvals(before[cut.key].weight.flatten(1).double())[2:].norm()
        assert lost < 1.01 * float(best) + 1e-3 * cut.norm


def test_norms_and_biases_are_left_out_and_counted(tmp_path):
    state = KINDS["full"] | {f"{NORM}.w_norm": torch.rand(WIDTH), f"{NORM}.b_norm": torch.rand(WIDTH)}
    path = save(tmp_path, state)
    rule = RankRule("fixed", most=4)
    converted = bake_lora(path, tmp_path / "lora.safetensors", rule, rule, family="sd1")
    assert (converted.lost_norms, converted.lost_biases, len(converted.cuts)) == (1, 1, 2)
    bake_diff(path, tmp_path / "diff.safetensors", family="sd1")
    assert f"{NORM}.w_norm" in read_adapter(tmp_path / "diff.safetensors").state_dict
    by_another_name = save(tmp_path, KINDS["full"] | {f"{NORM}.diff": torch.rand(WIDTH)})
    for base in (None, shared_tiny_model("sd1")):
        converted = bake_lora(by_another_name, tmp_path / "lora.safetensors", rule, rule, base=base, family="sd1")
        assert (converted.lost_norms, len(converted.cuts)) == (1, 2)
    only = save(tmp_path, {f"{NORM}.w_norm": torch.rand(WIDTH)})
    with pytest.raises(LoratoryError, match="norm layers alone"):
        bake_lora(only, tmp_path / "none.safetensors", rule, rule, family="sd1")


def test_what_does_not_fit_the_base_model_is_named(tmp_path):
    rule = RankRule("fixed", most=4)
    wide = save(tmp_path, module(LINEAR, lora_up__weight=(48, 4), lora_down__weight=(4, 32)))
    with pytest.raises(LoratoryError, match=r"attn1\.to_q"):
        bake_diff(wide, tmp_path / "out.safetensors", base=shared_tiny_model("sd1"))
    deep = save(tmp_path, module(LINEAR.replace("blocks_0_attn1", "blocks_3_attn1"), diff=(8, 8)))
    with pytest.raises(LoratoryError, match="SDXL"):
        bake_lora(deep, tmp_path / "out.safetensors", rule, rule, base=shared_tiny_model("sd1"))
    assert not (tmp_path / "out.safetensors").exists()


def test_an_incomplete_module_is_named_with_its_file(tmp_path):
    whole = module(LINEAR, a1__weight=(8, 2), a2__weight=(2, 8), b1__weight=(8, 2))
    for state in (whole, module(LINEAR, hada_w1_a=(8, 2), hada_w1_b=(2, 8))):
        with pytest.raises(LoratoryError, match=r"source\.safetensors: .*attn1\.to_q: A module of the kind .* has no"):
            bake_diff(save(tmp_path, state), tmp_path / "out.safetensors", family="sd1")


def test_values_that_fp16_cannot_hold_are_refused(tmp_path):
    path = save(
        tmp_path,
        {f"{LINEAR}.lora_up.weight": torch.full((8, 2), 1e3), f"{LINEAR}.lora_down.weight": torch.full((2, 8), 1e3)},
    )
    with pytest.raises(LoratoryError, match="cannot hold"):
        bake_diff(path, tmp_path / "out.safetensors", family="sd1", precision="fp16")
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize("name", [f"{NORM}.w_norm", f"{NORM}.b_norm", f"{CONV}.diff_b"])
def test_norms_and_biases_that_are_no_numbers_are_not_copied(tmp_path, name):
    state = KINDS["full"] | {f"{NORM}.w_norm": torch.rand(WIDTH), f"{NORM}.b_norm": torch.rand(WIDTH)}
    path = save(tmp_path, state | {name: torch.full((WIDTH,), float("nan"))})
    with pytest.raises(LoratoryError, match=f"{name} holds NaN"):
        bake_diff(path, tmp_path / "out.safetensors", family="sd1")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_bakes(capsys, monkeypatch, tmp_path):
    path = save(tmp_path, KINDS["loha"], "bf16")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["loratory", "lora", "convert", str(path), *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr()

    code, told = run("-o", tmp_path / "lora.safetensors", "--bake", "lora", "--rank", 2, "--family", "sd1")
    rows = dict(line.split("\t", 1) for line in told.out.splitlines())
    assert code == 0
    assert rows["rank"] == "2"
    assert rows["baked to"] == "LoRA"
    assert read_adapter(tmp_path / "lora.safetensors").state_dict[f"{CONV}.lora_down.weight"].dtype == torch.bfloat16
    code, told = run(
        "-o",
        tmp_path / "d.safetensors",
        "--bake",
        "lora",
        "--sv-fro",
        0.9,
        "--to",
        "diffusers",
        "--family",
        "sd1",
        "--json",
    )
    assert code == 0
    assert json.loads(told.out)["to"] == "diffusers"
    code, told = run("-o", tmp_path / "diff.safetensors", "--bake", "diff")
    assert code == 2
    assert "--family" in told.err
