import json

import pytest
import torch

from loratory.adapters.deltas import delta
from loratory.adapters.files import read_adapter, save_adapter
from loratory.adapters.tools.low_rank import (
    RankRule,
    clamp,
    cut,
    factors_of_matrix,
    factors_of_product,
    product_norm,
    rank_kept,
)
from loratory.adapters.tools.resize import resize, resize_file
from loratory.atomic import temporary_beside
from loratory.cli.main import main
from loratory.errors import LoratoryError

LINEAR = "lora_unet_mid_block_attentions_0_proj_in"
CONV = "lora_unet_mid_block_resnets_0_conv1"
TUCKER = "lora_unet_mid_block_resnets_1_conv1"


def pair(key, rank, out=24, inputs=20, kernel=(), alpha=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{key}.lora_up.weight": torch.randn(out, rank, *[1] * len(kernel), generator=generator),
        f"{key}.lora_down.weight": torch.randn(rank, inputs, *kernel, generator=generator),
        f"{key}.alpha": torch.tensor(float(alpha if alpha is not None else rank)),
    }


def falling(key, rank, values, alpha):
    """A module whose up @ down has the given singular values."""
    generator = torch.Generator().manual_seed(5)
    left = torch.linalg.qr(torch.randn(24, rank, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(20, rank, generator=generator, dtype=torch.float64)).Q
    return {
        f"{key}.lora_up.weight": (left * torch.tensor(values, dtype=torch.float64)).float(),
        f"{key}.lora_down.weight": right.t().float().contiguous(),
        f"{key}.alpha": torch.tensor(float(alpha)),
    }


def change(state, key, shape):
    own = {name.removeprefix(f"{key}."): tensor for name, tensor in state.items() if name.startswith(f"{key}.")}
    return delta(own, torch.empty(shape, device="meta")).weight


def fixed(rank):
    return RankRule("fixed", most=rank)


def test_full_rank_keeps_the_very_tensors():
    state = pair(LINEAR, 8, alpha=3) | pair(CONV, 4, kernel=(3, 3), alpha=2)
    for rule in (fixed(8), fixed(100), RankRule("frobenius", 1.0), RankRule("ratio", 1e9)):
        resized = resize(state, rule, rule, "fp16")
        assert resized.state_dict.keys() == state.keys()
        assert all(torch.equal(resized.state_dict[name], state[name]) for name in state)
        assert all(module.error == 0 and module.share == 1 for module in resized.modules)


@pytest.mark.parametrize("rule", [fixed(8), RankRule("ratio", 1e4), RankRule("frobenius", 0.9999999)])
def test_a_rank_of_8_inside_32_comes_out_exactly(rule):
    small = pair(LINEAR, 8, alpha=4) | pair(CONV, 8, kernel=(3, 3), alpha=4)
    generator = torch.Generator().manual_seed(9)
    wide = {}
    for key in (LINEAR, CONV):
        # The same change in 32 ranks: up @ M, pinv(M) @ down.
        mix = torch.randn(8, 32, generator=generator, dtype=torch.float64)
        up, down = small[f"{key}.lora_up.weight"].double(), small[f"{key}.lora_down.weight"].double()
        wide |= {
            f"{key}.lora_up.weight": (up.flatten(1) @ mix).float().reshape(24, 32, *up.shape[2:]),
            f"{key}.lora_down.weight": (torch.linalg.pinv(mix) @ down.flatten(1)).float().reshape(32, *down.shape[1:]),
            f"{key}.alpha": torch.tensor(16.0),
        }
    resized = resize(wide, rule, rule, "float")
    assert [module.rank for module in resized.modules] == [8, 8]
    assert all(module.full_rank == 32 and module.error < 1e-5 * module.norm for module in resized.modules)
    for key, shape in ((LINEAR, (24, 20)), (CONV, (24, 20, 3, 3))):
        assert float(resized.state_dict[f"{key}.alpha"]) == 4.0  # the scale 16 / 32 stays
        before = change(small, key, shape)
        assert torch.allclose(change(resized.state_dict, key, shape), before, atol=1e-5 * float(before.abs().max()))


def test_a_cut_is_the_best_one_and_its_error_is_what_it_says():
    state = pair(LINEAR, 8, alpha=2)
    resized = resize(state, fixed(3), fixed(3), "float")
    before, after = change(state, LINEAR, (24, 20)), change(resized.state_dict, LINEAR, (24, 20))
    values = torch.linalg.svdvals(before.double())
    (module,) = resized.modules
    assert float((before - after).norm()) == pytest.approx(float(values[3:].square().sum()) ** 0.5, rel=1e-4)
    assert module.error == pytest.approx(float((before - after).norm()), rel=1e-4)
    assert module.norm == pytest.approx(float(before.norm()), rel=1e-6)
    assert module.share == pytest.approx(float(values[:3].norm() / values.norm()), rel=1e-4)


def test_the_error_counts_the_rounding_of_the_file():
    state = {name: tensor.half() for name, tensor in falling(LINEAR, 4, [4, 3, 2, 0], alpha=4).items()}
    resized = resize(state, fixed(3), fixed(3), "fp16")
    difference = change(state, LINEAR, (24, 20)) - change(resized.state_dict, LINEAR, (24, 20))
    assert 1e-4 < resized.modules[0].error == pytest.approx(float(difference.norm()), rel=1e-3)


# The definitions of sd-scripts' resize_lora, on singular values that make them differ.
@pytest.mark.parametrize(
    ("rule", "rank"),
    [
        (RankRule("ratio", 4), 3),  # above 8 / 4 = 2: 8, 4, 3
        (RankRule("ratio", 4.01), 4),
        (RankRule("ratio", 1), 1),
        (RankRule("cumulative", 0.83), 3),  # 15 of 18
        (RankRule("cumulative", 0.84), 4),
        (RankRule("frobenius", 0.9), 2),  # 80 of 94: 0.92 of the norm
        (RankRule("frobenius", 0.93), 3),
        (RankRule("frobenius", 0.93, most=2), 2),
        (fixed(4), 4),
        (fixed(9), 5),
    ],
)
def test_rules_choose_as_documented(rule, rank):
    values = torch.tensor([8.0, 4.0, 3.0, 2.0, 1.0])
    matrix = torch.diag(values)
    assert rank_kept(factors_of_matrix(matrix, rule), rule) == rank
    assert rank_kept(factors_of_product(matrix, torch.eye(5)), rule) == rank


def test_a_module_of_zeros_keeps_one_rank_where_the_rule_looks_at_values():
    state = pair(LINEAR, 8)
    state[f"{LINEAR}.lora_up.weight"].zero_()
    assert resize(state, RankRule("ratio", 20), RankRule("ratio", 20), "float").modules[0].rank == 1
    assert resize(state, fixed(4), fixed(4), "float").modules[0].rank == 4


def test_convolutions_have_a_rank_of_their_own():
    state = pair(LINEAR, 8) | pair(CONV, 8, kernel=(3, 3)) | pair(TUCKER, 8, kernel=(1, 1))
    resized = resize(state, fixed(6), fixed(2), "float")
    assert {module.key: module.rank for module in resized.modules} == {LINEAR: 6, CONV: 2, TUCKER: 6}
    assert resized.state_dict[f"{CONV}.lora_down.weight"].shape == (2, 20, 3, 3)
    assert resized.state_dict[f"{CONV}.lora_up.weight"].shape == (24, 2, 1, 1)
    assert resized.state_dict[f"{TUCKER}.lora_down.weight"].shape == (6, 20, 1, 1)


def test_a_tucker_decomposition_becomes_a_plain_pair_when_it_is_cut():
    state = pair(TUCKER, 6, alpha=3)
    state[f"{TUCKER}.lora_up.weight"] = state[f"{TUCKER}.lora_up.weight"].reshape(24, 6, 1, 1)
    state[f"{TUCKER}.lora_down.weight"] = state[f"{TUCKER}.lora_down.weight"].reshape(6, 20, 1, 1)
    state[f"{TUCKER}.lora_mid.weight"] = torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    resized = resize(state, fixed(9), fixed(4), "float")
    assert f"{TUCKER}.lora_mid.weight" not in resized.state_dict
    before, after = change(state, TUCKER, (24, 20, 3, 3)), change(resized.state_dict, TUCKER, (24, 20, 3, 3))
    best = torch.linalg.svdvals(before.flatten(1).double())[4:].norm()
    assert float((before - after).norm()) == pytest.approx(float(best), rel=1e-4)


def test_magnitudes_and_modules_without_a_rank_stay():
    dora = torch.rand(24, 1)
    norm = {"lora_unet_conv_norm_out.w_norm": torch.rand(24), "lora_unet_conv_norm_out.b_norm": torch.rand(24)}
    resized = resize(pair(LINEAR, 8) | {f"{LINEAR}.dora_scale": dora} | norm, fixed(2), fixed(2), "float")
    assert torch.equal(resized.state_dict[f"{LINEAR}.dora_scale"], dora)
    assert all(torch.equal(resized.state_dict[name], tensor) for name, tensor in norm.items())
    assert resized.others == 1


def test_other_kinds_are_refused_with_the_way_to_go():
    state = {f"{LINEAR}.{role}": torch.rand(4, 4) for role in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}
    with pytest.raises(LoratoryError, match="loha") as refused:
        resize(state, fixed(2), fixed(2), "float")
    assert "--bake lora" in refused.value.hint
    with pytest.raises(LoratoryError, match="no LoRA module") as refused:
        resize({f"{LINEAR}.diff": torch.rand(4, 4)}, fixed(2), fixed(2), "float")
    assert "--bake lora" in refused.value.hint


@pytest.mark.parametrize("role", ["lora_up.weight", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_values_are_named(value, role):
    state = pair(LINEAR, 8)
    state[f"{LINEAR}.{role}"].view(-1)[0] = value
    with pytest.raises(LoratoryError, match=f"{LINEAR} holds NaN"):
        resize(state, fixed(2), fixed(2), "float")


def test_files_in_8_bits_are_resized():
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in pair(LINEAR, 8).items()}
    resized = resize(state, fixed(2), fixed(2), "float")
    assert resized.state_dict[f"{LINEAR}.lora_up.weight"].shape[1] == 2


def test_metadata_of_strangers_does_no_harm(tmp_path):
    path = tmp_path / "in.safetensors"
    save_adapter(path, pair(LINEAR, 8), {"ss_network_args": "[" * 100_000}, "float")
    resize_file(path, tmp_path / "out.safetensors", fixed(2), fixed(2))
    assert read_adapter(tmp_path / "out.safetensors").metadata["ss_network_args"] == "{}"


def test_the_factors_of_a_product_are_those_of_the_matrix():
    up, down = torch.randn(30, 6, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
    factors = factors_of_product(up, down)
    assert torch.allclose(factors.values, torch.linalg.svdvals(up @ down)[:6])
    assert torch.allclose(factors.left * factors.values @ factors.right, up @ down)
    assert product_norm(up, down) == pytest.approx(float((up @ down).norm()))


def test_randomised_factors_are_as_good_as_exact_ones_and_leave_the_global_generator_alone():
    generator = torch.Generator().manual_seed(0)
    # A spectrum that falls slowly, as that of fine-tuning does: the hard case.
    values = 1 / torch.arange(1, 301, dtype=torch.float32).sqrt()
    left, right = (torch.linalg.qr(torch.randn(n, 300, generator=generator)).Q for n in (400, 300))
    matrix = left * values @ right.t()
    state = torch.get_rng_state()
    factors = factors_of_matrix(matrix, fixed(32))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(factors.values) < 300
    again = factors_of_matrix(matrix, fixed(32))
    assert torch.equal(again.left, factors.left)

    def error(found):
        up, down = cut(found, 32)
        return float((matrix - up @ down).norm())

    assert error(factors) / error(factors_of_matrix(matrix, fixed(32), exact=True)) < 1.001


@pytest.mark.parametrize("rule", [RankRule("ratio", 7.1), RankRule("ratio", 10.5), RankRule("frobenius", 0.8)])
def test_a_rule_without_a_limit_finds_the_rank_that_all_values_give(rule):
    generator = torch.Generator().manual_seed(0)
    values = 1 / torch.arange(1, 601, dtype=torch.float32).sqrt()
    left, right = (torch.linalg.qr(torch.randn(n, 600, generator=generator)).Q for n in (700, 600))
    matrix = left * values @ right.t()
    factors, exact = factors_of_matrix(matrix, rule), factors_of_matrix(matrix, rule, exact=True)
    assert len(exact.values) == 600 > 2 * len(factors.values)
    assert rank_kept(factors, rule) == rank_kept(exact, rule) > 40


def test_clamping_limits_both_halves():
    found = clamp(cut(factors_of_matrix(torch.randn(40, 40), fixed(8)), 8), 0.9)
    both = torch.cat([found.up.flatten(), found.down.flatten()])
    assert float(both.max()) == -float(both.min())
    assert (both == both.max()).float().mean() == pytest.approx(0.1, abs=0.01)


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["loratory", "lora", "resize", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fox.safetensors"
    metadata = {"ss_network_dim": "8", "ss_network_args": '{"algo": "locon", "conv_dim": "8"}'}
    metadata |= {"ss_training_comment": "a fox", "modelspec.title": "Fox"}
    save_adapter(path, falling(LINEAR, 4, [4, 3, 2, 1], 2) | pair(CONV, 8, kernel=(3, 3), alpha=8), metadata, "fp16")
    return path


def test_the_file_keeps_its_precision_and_tells_what_was_done(tmp_path, file):
    output = tmp_path / "small.safetensors"
    resize_file(file, output, RankRule("ratio", 1.5), fixed(2))
    found = read_adapter(output)
    assert found.state_dict[f"{LINEAR}.lora_up.weight"].dtype == torch.float16
    assert found.state_dict[f"{LINEAR}.lora_up.weight"].shape == (24, 2)
    assert found.metadata["ss_network_dim"] == "2"
    assert found.metadata["ss_network_alpha"] == "1"
    assert json.loads(found.metadata["ss_network_args"]) == {"algo": "locon", "conv_dim": "2", "conv_alpha": "2"}
    assert found.metadata["ss_training_comment"].startswith("resized from rank ")
    assert found.metadata["ss_training_comment"].endswith("; a fox")
    assert found.metadata["modelspec.hash_sha256"] == f"0x{found.metadata['sshs_model_hash']}"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_magnitudes_in_float32_do_not_widen_the_file(tmp_path, precision):
    path, output = tmp_path / "dora.safetensors", tmp_path / "small.safetensors"
    save_adapter(path, pair(LINEAR, 8) | {f"{LINEAR}.dora_scale": torch.rand(24, 1)}, {}, precision)
    resize_file(path, output, fixed(2), fixed(2))
    before, after = read_adapter(path).state_dict, read_adapter(output).state_dict
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }


def test_a_file_of_which_nothing_is_cut_is_the_same_file(tmp_path, file):
    output = tmp_path / "same.safetensors"
    resize_file(file, output, fixed(8), fixed(8))
    assert output.read_bytes() == file.read_bytes()


def test_the_command_reports(capsys, monkeypatch, tmp_path, file):
    code, out, _ = run(capsys, monkeypatch, file, "-o", tmp_path / "a.safetensors", "--rank", 2, "--conv-rank", 4)
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert code == 0
    assert rows["rank"] == "2 to 4, 3.0 on average"
    assert rows["kept"].endswith(")")
    code, out, _ = run(capsys, monkeypatch, file, "-o", tmp_path / "b.safetensors", "--sv-fro", 0.9, "--json")
    found = json.loads(out)
    assert code == 0
    assert {module["key"] for module in found["modules"]} == {LINEAR, CONV}
    assert all(0.9 <= module["share"] <= 1 for module in found["modules"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--rank"),
        (("--sv-ratio", 4, "--sv-fro", 0.9), 2, "one of them"),
        (("--rank", 0), 2, "0"),
        (("--sv-fro", 1.5), 2, "1.5"),
    ],
)
def test_rules_that_are_none_are_wrong_use(capsys, monkeypatch, tmp_path, file, arguments, code, said):
    found, _, err = run(capsys, monkeypatch, file, "-o", tmp_path / "a.safetensors", *arguments)
    assert found == code
    assert said in err
    assert not (tmp_path / "a.safetensors").exists()


def test_what_a_killed_command_left_goes_away_with_the_next(capsys, monkeypatch, tmp_path, file):
    output = tmp_path / "out.safetensors"
    left = temporary_beside(output)
    left.write_bytes(b"half")
    assert run(capsys, monkeypatch, file, "-o", output, "--rank", 2)[0] == 0
    assert output.exists()
    assert not left.exists()


def test_nothing_is_written_over(capsys, monkeypatch, tmp_path, file):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"mine")
    before = file.read_bytes()
    for target, said in ((file, "is what is read"), (other, "--force"), (tmp_path / "x.ckpt", "safetensors")):
        code, _, err = run(capsys, monkeypatch, file, "-o", target, "--rank", 2)
        assert code == 2
        assert said in err
    assert run(capsys, monkeypatch, file, "-o", file, "--rank", 2, "--force")[0] == 2
    assert file.read_bytes() == before
    assert other.read_bytes() == b"mine"
    assert run(capsys, monkeypatch, file, "-o", other, "--rank", 2, "--force")[0] == 0
    assert read_adapter(other).state_dict[f"{LINEAR}.lora_up.weight"].shape == (24, 2)
