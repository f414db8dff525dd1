import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_models import tiny_models
from loratory.adapters.deltas import delta
from loratory.adapters.files import read_adapter
from loratory.adapters.targets import find_targets
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.extract import Extraction, extract_full, extract_lora, is_selected
from loratory.adapters.tools.low_rank import RankRule
from loratory.cli.main import main
from loratory.config.schema import ModelSettings, NetworkSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.models.export import export_single_file
from loratory.models.load import load_base_model
from tiny_models import shared_tiny_model, tiny_model

RANK = 4


def fixed(rank=RANK, conv_rank=RANK):
    return Extraction(RankRule("fixed", most=rank), RankRule("fixed", most=conv_rank))


def selected(base):
    with Checkpoint(base) as checkpoint:
        return [
            layer
            for layer in checkpoint.layers
            if layer.kind != "norm" and is_selected(layer.component, layer.path, with_convolutions=True)
        ]


def random_adapter(layers):
    """A LoCon of rank 4 whose changes are about a third as large as the weights."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    for layer in layers:
        outputs, inputs, *kernel = layer.weight.shape
        state |= {
            f"{layer.key}.lora_up.weight": 0.1 * torch.randn(outputs, RANK, *[1] * len(kernel), generator=generator),
            f"{layer.key}.lora_down.weight": 0.1 * torch.randn(RANK, inputs, *kernel, generator=generator),
            f"{layer.key}.alpha": torch.tensor(2.0),
        }
    return state


def change(state, key, shape):
    own = {name.removeprefix(f"{key}."): state[name].float() for name in state if name.startswith(f"{key}.")}
    return delta(own, torch.empty(shape, device="meta")).weight


def merged(folder, base, state, layers, dtype=torch.float32):
    """The model at `base` with an adapter added, as a folder."""
    shutil.copytree(base, folder)
    by_file = {}
    for layer in layers:
        by_file.setdefault(layer.weight.file, []).append(layer)
    for file, own in by_file.items():
        tensors = load_file(file)
        for layer in own:
            name = layer.weight.name
            tensors[name] = tensors[name] + change(state, layer.key, tensors[name].shape)
        path = folder / file.relative_to(base)
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path, {"format": "pt"})
    return folder


def errors(found, state, layers):
    """The largest error of a layer's change, over that change, both as Frobenius norms."""
    worst = 0.0
    for layer in layers:
        expected = change(state, layer.key, layer.weight.shape)
        difference = change(found, layer.key, layer.weight.shape) - expected
        worst = max(worst, float(difference.norm() / expected.norm()))
    return worst


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def models(request, tmp_path_factory):
    base = shared_tiny_model(request.param)
    layers = selected(base)
    state = random_adapter(layers)
    return base, merged(tmp_path_factory.mktemp("merged") / "tuned", base, state, layers), state, layers


def test_the_adapter_comes_back_out_of_a_model_it_was_merged_into(tmp_path, models):
    base, tuned, state, layers = models
    output = tmp_path / "out.safetensors"
    found = extract_lora(base, tuned, output, fixed(), "float")
    assert {module.key for module in found.modules} == {layer.key for layer in layers}
    assert found.rest == 0
    written = read_adapter(output).state_dict
    assert written.keys() == state.keys()
    assert errors(written, state, layers) < 1e-5
    assert all(module.error < 1e-5 * module.norm for module in found.modules)
    shapes = {layer.key: layer.weight.shape for layer in layers}
    for module in found.modules:
        down = written[f"{module.key}.lora_down.weight"]
        assert down.shape[0] == float(written[f"{module.key}.alpha"]) == RANK
        assert down.shape[2:].numel() == torch.Size(shapes[module.key][2:]).numel()


def test_from_single_files_too(tmp_path):
    base = shared_tiny_model("sdxl")
    layers = selected(base)
    state = random_adapter(layers)
    paths = []
    for folder in (base, merged(tmp_path / "tuned", base, state, layers)):
        settings = ModelSettings(pretrained_model_name_or_path=str(folder))
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        export_single_file(load_base_model(detect_model(settings, NoiseSettings()), settings), paths[-1])
    output = tmp_path / "out.safetensors"
    extract_lora(*paths, output, fixed(), "float")
    written = read_adapter(output)
    # Queries, keys and values lie joined in one tensor of the second text encoder's file.
    assert errors(written.state_dict, state, layers) < 1e-5
    assert written.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert written.metadata["ss_sd_model_name"] == "0.safetensors"


def test_out_of_a_model_in_fp16_it_comes_back_within_its_rounding(tmp_path):
    base = shared_tiny_model("sd1")
    layers = selected(base)
    state = random_adapter(layers)
    tuned = merged(tmp_path / "tuned", base, state, layers, torch.float16)
    output = tmp_path / "out.safetensors"
    found = extract_lora(base, tuned, output, fixed(), "fp16")
    written = read_adapter(output).state_dict
    weights = {file: load_file(file) for file in {layer.weight.file for layer in layers}}
    for layer in layers:
        expected = change(state, layer.key, layer.weight.shape)
        weight = weights[layer.weight.file][layer.weight.name].reshape(expected.shape) + expected
        # Half a unit in the last place of fp16 for the weight, and as much for each half of the adapter.
        rounding = float((weight.abs() * 2**-11 + 2**-25).norm()) + 2 * 2**-11 * float(expected.norm())
        assert float((change(written, layer.key, expected.shape) - expected).norm()) < rounding
    assert all(module.share > 0.999 for module in found.modules)


def test_exact_and_randomised_agree(tmp_path, models):
    base, tuned, state, layers = models
    output = tmp_path / "out.safetensors"
    extraction = fixed()
    extract_lora(base, tuned, output, Extraction(extraction.rule, extraction.conv_rule, exact=True), "float")
    assert errors(read_adapter(output).state_dict, state, layers) < 1e-5


@pytest.mark.parametrize(
    "rule", [RankRule("ratio", 1e3), RankRule("frobenius", 0.99999), RankRule("cumulative", 0.999)]
)
def test_dynamic_rules_find_the_rank_that_is_there(tmp_path, rule):
    base = shared_tiny_model("sd1")
    layers = selected(base)[-20:]
    tuned = merged(tmp_path / "tuned", base, random_adapter(layers), layers)
    found = extract_lora(base, tuned, tmp_path / "out.safetensors", Extraction(rule, rule), "float")
    assert [module.rank for module in found.modules] == [RANK] * 20
    assert found.unchanged == len(selected(base)) - 20


def test_two_models_of_noise_lose_what_the_report_says(tmp_path):
    base, tuned = shared_tiny_model("sd1"), tiny_model(tmp_path / "tuned", "sd1", seed=5)
    output = tmp_path / "out.safetensors"
    found = extract_lora(base, tuned, output, Extraction(RankRule("fixed", most=8), None), "bf16")
    written = read_adapter(output).state_dict
    with Checkpoint(base) as one, Checkpoint(tuned) as other:
        pairs = {layer.key: (layer, twin) for layer, twin in zip(one.layers, other.layers, strict=True)}
        for module in found.modules:
            layer, twin = pairs[module.key]
            difference = other.read(twin.weight) - one.read(layer.weight)
            left = difference - change(written, module.key, difference.shape)
            assert module.error == pytest.approx(float(left.norm()), rel=1e-3)
            assert module.norm == pytest.approx(float(difference.norm()), rel=1e-5)
            best = torch.linalg.svdvals(difference.flatten(1).double())[8:].norm()
            assert module.error < 1.01 * float(best) + 0.01 * module.norm
    assert not any("resnets" in module.key for module in found.modules)
    assert found.rest > 0


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("network_type", ["lora", "locon"])
def test_the_selection_is_that_of_training(family, network_type):
    unet, encoders = tiny_models(family)
    targets = find_targets(
        unet, encoders, family, NetworkSettings(network_type=network_type), train_unet=True, train_text_encoder=True
    )
    chosen = set()
    for component, model in zip(("unet", "te1", "te2"), (unet, *encoders), strict=False):
        for path, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                with_convolutions = network_type == "locon"
                if is_selected(component, path, with_convolutions=with_convolutions):
                    chosen.add((component, path))
    assert chosen == {(target.component, target.path) for target in targets}


def test_the_whole_difference_makes_the_tuned_model_of_the_base(tmp_path):
    base, tuned = shared_tiny_model("sd1"), tiny_model(tmp_path / "tuned", "sd1", seed=5)
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        # New models have norms of ones and biases of zeros; trained ones do not.
        tensors = load_file(tuned / name)
        for tensor in tensors.values():
            if tensor.dim() == 1:
                tensor += 0.01 * torch.randn(tensor.shape)
        save_file(tensors, tuned / name, {"format": "pt"})
    output = tmp_path / "out.safetensors"
    count = extract_full(base, tuned, output, "float")
    written = read_adapter(output).state_dict
    assert count == len(written) > 300
    with Checkpoint(base) as one, Checkpoint(tuned) as other:
        for layer, twin in zip(one.layers, other.layers, strict=True):
            own = {
                name.partition(".")[2]: tensor
                for name, tensor in written.items()
                if name.partition(".")[0] == layer.key
            }
            weight = one.read(layer.weight)
            found = delta(own, weight)
            assert torch.allclose(weight + found.weight, other.read(twin.weight), atol=1e-7)
            if layer.bias is not None:
                assert torch.allclose(one.read(layer.bias) + found.bias, other.read(twin.bias), atol=1e-7)


def test_models_that_do_not_go_together_are_refused(tmp_path):
    sd1, sdxl = shared_tiny_model("sd1"), shared_tiny_model("sdxl")
    output = tmp_path / "out.safetensors"
    with pytest.raises(LoratoryError, match="their difference means nothing"):
        extract_lora(sd1, sdxl, output, fixed())
    with pytest.raises(LoratoryError, match="do not differ"):
        extract_lora(sd1, sd1, output, fixed())
    with pytest.raises(LoratoryError, match="do not differ"):
        extract_full(sd1, sd1, output)
    with pytest.raises(LoratoryError, match="lacks layers"):
        extract_lora(sd1, "nano", output, fixed())
    narrow = shutil.copytree(sd1, tmp_path / "narrow")
    tensors = load_file(narrow / "text_encoder/model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.fc1.weight"))
    save_file(tensors | {name: tensors[name][:, :8].contiguous()}, narrow / "text_encoder/model.safetensors")
    with pytest.raises(LoratoryError, match="differ in size"):
        extract_lora(sd1, narrow, output, fixed())
    assert not output.exists()


def test_weights_that_are_no_numbers_are_named(tmp_path):
    base, tuned = shared_tiny_model("sd1"), shutil.copytree(shared_tiny_model("sd1"), tmp_path / "tuned")
    tensors = load_file(tuned / "text_encoder/model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.fc1.bias"))
    tensors[name][0] = float("nan")
    save_file(tensors, tuned / "text_encoder/model.safetensors", {"format": "pt"})
    output = tmp_path / "out.safetensors"
    for write in (lambda: extract_lora(base, tuned, output, fixed()), lambda: extract_full(base, tuned, output)):
        with pytest.raises(LoratoryError, match=r"tuned holds NaN or infinite weights in .*mlp\.fc1\.bias"):
            write()
    assert not output.exists()


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["loratory", "lora", "extract", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_command_extracts_and_reports(capsys, monkeypatch, tmp_path):
    base = shared_tiny_model("sd1")
    layers = selected(base)[:30]
    tuned = merged(tmp_path / "tuned", base, random_adapter(layers), layers)
    output = tmp_path / "out.safetensors"
    code, out, _ = run(capsys, monkeypatch, base, tuned, "-o", output, "--rank", 4, "--device", "cpu")
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert code == 0
    assert rows["modules"] == "30"
    assert rows["rank"] == "4"
    assert rows["kept"].startswith("100.00%")
    assert "layers, which have no module" in rows["the same"]
    metadata = read_adapter(output).metadata
    assert metadata["ss_network_dim"] == "4"
    assert "rank 4" in metadata["ss_training_comment"]
    code, out, _ = run(capsys, monkeypatch, base, tuned, "-o", output, "--sv-fro", 0.9, "--force", "--json")
    assert code == 0
    assert len(json.loads(out)["modules"]) == 30
    code, out, _ = run(capsys, monkeypatch, base, tuned, "-o", output, "--full", "--force")
    assert code == 0
    assert read_adapter(output).metadata["ss_network_args"] == '{"algo": "full"}'


def test_a_missing_model_is_told_without_a_setting_of_configs(capsys, monkeypatch, tmp_path):
    missing = tmp_path / "missing.safetensors"
    code, _, err = run(
        capsys, monkeypatch, shared_tiny_model("sd1"), missing, "-o", tmp_path / "a.safetensors", "--rank", 4
    )
    assert code == 2
    assert f"There is no model {missing.name}" in err
    assert "diffusers folder" in err
    assert "model.pretrained" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--rank"),
        (("--full", "--rank", 4), "ranks"),
        (("--full", "--exact"), "--exact"),
        (("--full", "--min-diff", 0), "--min-diff"),
        (("--full", "--clamp-quantile", 0.9), "--clamp-quantile"),
        (("--full", "--device", "auto"), "--device"),
        (("--rank", 4, "--sv-ratio", 0), "0"),
        (("--rank", 4, "--clamp-quantile", "nan"), "finite number"),
        (("--sv-fro", "nan"), "finite number"),
        (("--sv-ratio", "inf"), "finite number"),
        (("--rank", 4), "do not differ in"),
        (("--rank", 4, "--min-diff", 0.5), "do not differ by more than 0.5 in"),
    ],
)
def test_wrong_use(capsys, monkeypatch, tmp_path, arguments, said):
    base = shared_tiny_model("sd1")
    code, _, err = run(capsys, monkeypatch, base, base, "-o", tmp_path / "a.safetensors", *arguments)
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "a.safetensors").exists()
