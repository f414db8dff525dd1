import errno
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_models import fill, tiny_models
from loratory.adapters import files
from loratory.adapters.container import file_hashes
from loratory.adapters.files import read_adapter, save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.self_check import compare_with_live
from loratory.adapters.summary import inspect_file
from loratory.adapters.tools.convert import rename
from loratory.adapters.verify import verify_file
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

TRAINING = {
    "ss_network_dim": "4",
    "ss_tag_frequency": json.dumps({"2_fox": {"fox": 3, "tail": 1}, "1_cat": {"fox": 2}}),
}


def make_adapter(family="sd1", *, filled=True, size=0.3, **network):
    unet, encoders = tiny_models(family)
    settings = NetworkSettings(**{"network_type": "lora", "network_dim": 4, "network_alpha": 2, **network})
    adapter = inject(unet, encoders, family, settings, seed=5, train_unet=True, train_text_encoder=True)
    if filled:
        fill(adapter, size=size)
    return adapter


@pytest.fixture(scope="module")
def state():
    return make_adapter().kohya_state_dict()


def module_state(key="lora_unet_mid_block_attentions_0_proj_in", rank=4):
    return {
        f"{key}.alpha": torch.tensor(2.0),
        f"{key}.lora_down.weight": torch.ones(rank, 6),
        f"{key}.lora_up.weight": torch.ones(5, rank),
    }


def rules(path):
    return {finding.rule: finding for finding in verify_file(path)}


# -- saving


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_lies_about_one_stays_exact(tmp_path, precision):
    state = {f"lora_unet_a.{role}": torch.full((4,), 1.0001) for role in ("dora_scale", "rescale")}
    save_adapter(tmp_path / "a.safetensors", {"lora_unet_a.oft_blocks": torch.zeros(2, 2, 2)} | state, {}, precision)
    loaded = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("float", None)])
def test_files_are_read_back_by_the_safetensors_library(tmp_path, state, precision, dtype):
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, TRAINING, precision)
    loaded = load_file(path)
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        stored = torch.float32 if dtype is None or name.endswith(".alpha") else dtype
        assert loaded[name].dtype == stored
        assert torch.equal(loaded[name], tensor.to(stored))
    found = read_adapter(path)
    assert found.metadata.items() >= TRAINING.items()
    assert found.state_dict.keys() == state.keys()


def test_the_same_content_gives_the_same_bytes(tmp_path, state):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    metadata = {f"ss_{index}": str(index) for index in range(30)} | {"modelspec.title": "a"}
    save_adapter(first, state, metadata, "fp16")
    save_adapter(second, dict(reversed(state.items())), dict(reversed(metadata.items())), "fp16")
    assert first.read_bytes() == second.read_bytes()


def test_hashes_in_the_metadata(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, {**TRAINING, "modelspec.title": "fox"}, "fp16")
    metadata = read_adapter(path).metadata
    assert metadata["sshs_model_hash"] == file_hashes(path, {}).model
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]
    save_adapter(path, state, {}, "fp16")
    assert read_adapter(path).metadata.keys() == {"sshs_model_hash", "sshs_legacy_hash"}


def test_hashes_are_those_of_sd_scripts(tmp_path):
    # The expected values follow sd-scripts' definition: the bytes that the safetensors library writes with only the
    # ss_ metadata; SHA-256 of what follows the header, and of 64 KiB at 1 MiB. Needs more than 1 MiB of data.
    from hashlib import sha256

    from safetensors.torch import save

    tensors = {
        f"lora_unet_{name}.lora_down.weight": torch.randn(64, 3000, generator=torch.Generator().manual_seed(index))
        for index, name in enumerate(("b", "a"))
    }
    metadata = {"ss_a": "1", "ss_name": 'öäü "quoted" \n\t\\ \u2028', "modelspec.title": "not counted"}
    path = tmp_path / "a.safetensors"
    save_adapter(path, tensors, metadata, "float")
    expected = save(tensors, {name: value for name, value in metadata.items() if name.startswith("ss_")})
    header = 8 + int.from_bytes(expected[:8], "little")
    written = read_adapter(path).metadata
    assert written["sshs_model_hash"] == sha256(expected[header:]).hexdigest()
    assert written["sshs_legacy_hash"] == sha256(expected[0x100000:0x110000]).hexdigest()[:8]
    assert verify_file(path)[0].rule != "hash"


def test_metadata_that_is_not_unicode_does_not_stop_a_save(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, {"ss_output_name": "fox\udcff"}, "fp16")
    assert load_file(path).keys() == state.keys()
    assert read_adapter(path).metadata["ss_output_name"] == "fox?"


def test_a_name_that_is_not_utf_8_is_written_and_read(tmp_path):
    adapter = make_adapter()
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    save_adapter(path, adapter.kohya_state_dict(), {"modelspec.title": path.stem, **TRAINING}, "float")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    found = read_adapter(path)
    assert found.metadata.items() >= TRAINING.items()
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in adapter.kohya_state_dict().items())
    assert compare_with_live(path, adapter) == 0.0
    assert verify_file(path) == []
    assert inspect_file(path).hashes == "ok"
    renamed = path.with_name(os.fsdecode(b"\xff.safetensors"))
    assert rename(path, renamed, "diffusers", family="sd1").modules == len(adapter.layers)
    assert rename(renamed, path, "kohya", family="sd1").modules == len(adapter.layers)
    assert compare_with_live(path, adapter) == 0.0


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path, state, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "header_bytes", full)
    with pytest.raises(LoratoryError, match="disk full") as raised:
        save_adapter(path, state, {}, "fp16")
    assert str(path) in raised.value.message
    assert raised.value.exit_code == 1
    assert [child.name for child in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_an_error(tmp_path, state):
    with pytest.raises(LoratoryError, match="No such file or directory"):
        save_adapter(tmp_path / "no" / "a.safetensors", state, {}, "fp16")


# -- reading other files


def base_model(path):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, path)


def diffusers_adapter(path):
    save_file({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 2)}, path)


def other_adapter(path):
    save_file({"lycoris_blocks_0.lora_down.weight": torch.zeros(2, 2)}, path)


def not_an_adapter(path):
    save_file({"emb_params": torch.zeros(2, 2)}, path)


def pickled(path):
    path.write_bytes(pickle.dumps({}))


def torch_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


def text(path):
    path.write_text("not this")


def overlapping(path):
    save_file(module_state(), path)
    length, content = int.from_bytes(path.read_bytes()[:8], "little"), path.read_bytes()
    header = json.loads(content[8 : 8 + length])
    header["lora_unet_mid_block_attentions_0_proj_in.alpha"]["data_offsets"] = [4, 8]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def truncated(path):
    save_file(module_state(), path)
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (base_model, "is a base model"),
        (diffusers_adapter, "diffusers naming"),
        (other_adapter, "another kind of model"),
        (not_an_adapter, "not an adapter"),
        (pickled, "pickle"),
        (torch_archive, "pickle"),
        (text, "not a safetensors file"),
        (truncated, "cut short"),
        (overlapping, "cannot be read"),
    ],
)
def test_other_files_get_a_plain_answer(tmp_path, make, message):
    path = tmp_path / "a.safetensors"
    make(path)
    for read in (read_adapter, inspect_file, verify_file):
        with pytest.raises(LoratoryError, match=message) as raised:
            read(path)
        assert str(path) in raised.value.message
        assert raised.value.exit_code == 2


# -- against the live network


@pytest.mark.parametrize(("precision", "limit"), [("float", 0.0), ("fp16", 2e-3), ("bf16", 1.5e-2)])
@pytest.mark.parametrize("network", [{"network_type": "locon"}, {"network_type": "dora", "conv_dim": 2}])
def test_a_saved_file_is_the_live_network(tmp_path, precision, limit, network):
    adapter = make_adapter(**network)
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, precision)
    assert compare_with_live(path, adapter) <= limit
    assert precision == "float" or compare_with_live(path, adapter) > 0


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-6, 1e-4])
def test_the_file_of_a_barely_trained_network_counts_as_right(tmp_path, size):
    adapter = make_adapter(filled=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapter.layers:
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * size)
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "fp16")
    assert compare_with_live(path, adapter) < 2e-3


def test_the_strength_in_use_does_not_matter_for_the_comparison(tmp_path):
    adapter = make_adapter()
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")
    adapter.multiplier = 0.3
    assert compare_with_live(path, adapter) == 0.0


def test_differences_from_the_live_network_are_seen(tmp_path):
    adapter = make_adapter(network_type="dora")
    good = adapter.kohya_state_dict()
    path = tmp_path / "a.safetensors"
    key = adapter.targets[0].key

    def difference(**changed):
        save_adapter(path, {**good, **{f"{key}.{role}": value for role, value in changed.items()}}, {}, "float")
        return compare_with_live(path, adapter)

    assert difference() == 0.0
    assert difference(alpha=torch.tensor(2.2)) == pytest.approx(0.1, rel=1e-3)
    assert difference(**{"lora_up.weight": good[f"{key}.lora_up.weight"] * 1.01}) == pytest.approx(0.01, rel=1e-3)
    assert difference(dora_scale=good[f"{key}.dora_scale"] * 1.5) == pytest.approx(0.5, rel=1e-3)
    assert difference(dora_scale=good[f"{key}.dora_scale"] * float("nan")) == float("inf")
    assert difference(**{"lora_up.weight": good[f"{key}.lora_up.weight"] * float("nan")}) == float("inf")
    assert difference(**{"lora_up.weight": torch.zeros(2, 4)}) == float("inf")
    save_adapter(path, {name: value for name, value in good.items() if not name.startswith(key)}, {}, "float")
    assert compare_with_live(path, adapter) == float("inf")


# -- on its own


def test_a_good_file_has_no_findings(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, TRAINING, "fp16")
    assert verify_file(path) == []


def test_changed_data_is_found_by_its_hash(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, {"modelspec.title": "fox", **TRAINING}, "fp16")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    found = rules(path)
    assert found["hash"].severity == "error"
    assert "sshs_model_hash and modelspec.hash_sha256" in found["hash"].message
    assert inspect_file(path).hashes == "wrong"


def test_a_file_without_hashes_is_only_noted(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    assert rules(path)["hash"].severity == "note"
    assert inspect_file(path).hashes == "absent"


BROKEN = {
    "incomplete": ("error", lambda state, key: state.pop(f"{key}.lora_up.weight")),
    "shape": ("error", lambda state, key: state.update({f"{key}.lora_up.weight": torch.ones(5, 3)})),
    "not-finite": ("error", lambda state, key: state[f"{key}.lora_down.weight"].fill_(float("inf"))),
    "alpha": ("warning", lambda state, key: state.pop(f"{key}.alpha")),
    "unknown-tensor": ("warning", lambda state, key: state.update({f"{key}.lora_side.weight": torch.ones(1)})),
    "unknown-module": ("warning", lambda state, key: state.update(module_state("lora_unet_double_blocks_0_img_mlp_0"))),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_modules_are_found(tmp_path, rule):
    severity, damage = BROKEN[rule]
    key = "lora_unet_mid_block_attentions_0_proj_in"
    state = module_state(key)
    path = tmp_path / "a.safetensors"
    save_adapter(path, state, {}, "float")
    assert verify_file(path) == []
    damage(state, key)
    save_adapter(path, state, {}, "float")
    found = rules(path)
    assert found.keys() == {rule}
    assert found[rule].severity == severity
    assert ("double_blocks" if rule == "unknown-module" else key) in found[rule].message


def test_a_component_that_learned_nothing_is_found(tmp_path, state):
    path = tmp_path / "a.safetensors"
    untrained = {
        name: torch.zeros_like(value) if name.startswith("lora_te") and "lora_up" in name else value
        for name, value in state.items()
    }
    save_adapter(path, untrained, {}, "fp16")
    (finding,) = verify_file(path)
    assert (finding.rule, finding.severity) == ("untrained", "warning")
    assert "text encoder part" in finding.message
    one = next(name for name in state if "lora_up" in name)
    save_adapter(path, {**state, one: torch.zeros_like(state[one])}, {}, "fp16")
    (finding,) = verify_file(path)
    assert finding.severity == "note"
    assert "1 of 12 modules" in finding.message


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_name_and_shape_that_is_written_is_known(tmp_path, family):
    path = tmp_path / "a.safetensors"
    save_adapter(path, make_adapter(family, network_type="dora", conv_dim=2).kohya_state_dict(), {}, "fp16")
    (finding,) = verify_file(path)
    assert (finding.rule, finding.severity) == ("loaders", "note")
    assert "diffusers (partly: it drops the magnitudes" in finding.message


def test_files_of_other_networks_are_understood(tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    loha = {f"{key}.hada_w{half}_{side}": torch.ones(4, 4) for half in (1, 2) for side in "ab"}
    lokr = {
        f"{key}.lokr_w1": torch.ones(2, 2),
        f"{key}.lokr_w2_a": torch.ones(4, 3),
        f"{key}.lokr_w2_b": torch.ones(3, 4),
    }
    for state, kind, rank in ((loha, "loha", 4), (lokr, "lokr", 3)):
        path = tmp_path / f"{kind}.safetensors"
        save_adapter(path, {**state, f"{key}.alpha": torch.tensor(1.0)}, {}, "float")
        (finding,) = verify_file(path)
        assert (finding.rule, finding.severity) == ("loaders", "note")
        summary = inspect_file(path)
        assert summary.network_type == kind
        assert summary.components[0].ranks == {rank: 1}


# -- summary


def test_the_summary_of_a_file(tmp_path):
    adapter = make_adapter("sdxl", network_type="locon", conv_dim=2, conv_alpha=1)
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {**TRAINING, "ss_sd_model_name": "fox.safetensors"}, "bf16")
    summary = inspect_file(path)
    assert summary.network_type == "locon"
    assert summary.family == "sdxl"
    assert summary.base_model == "fox.safetensors"
    assert summary.hashes == "ok"
    by_component = {component.component: component for component in summary.components}
    unet = [target for target in adapter.targets if target.component == "unet"]
    convolutions = sum(target.is_conv for target in unet)
    assert by_component["unet"].modules == len(unet)
    assert by_component["unet"].convolutions == convolutions
    assert by_component["unet"].ranks == {4: len(unet) - convolutions, 2: convolutions}
    assert by_component["unet"].alphas == {2.0: len(unet) - convolutions, 1.0: convolutions}
    assert by_component["te2"].modules == 12
    assert summary.parameters == sum(
        parameter.numel() for component in by_component for parameter in adapter.parameters(component)
    )
    assert summary.tag_frequency() == [("fox", 5), ("tail", 1)]
    assert summary.size_bytes == path.stat().st_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alphas_are_read_in_every_precision(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    save_file(
        {**module_state(), "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.5, dtype=dtype)}, path
    )
    assert inspect_file(path).components[0].alphas == {1.5: 1}


@pytest.mark.parametrize(
    ("metadata", "width", "family"),
    [
        ({}, 768, "sd1"),
        ({}, 1024, "sd2"),
        ({}, 2048, "sdxl"),
        ({"ss_base_model_version": "sd_v2_v"}, 32, "sd2"),
        ({}, 32, None),
    ],
)
def test_the_family_is_told_by_widths_then_by_metadata(tmp_path, metadata, width, family):
    path = tmp_path / "a.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_adapter(path, {**module_state(key), f"{key}.lora_down.weight": torch.ones(4, width)}, metadata, "float")
    assert inspect_file(path).family == family


@pytest.mark.parametrize("frequency", ["", "no json", "[1]", '{"a": 3}', '{"a": {"b": "c"}}'])
def test_odd_tag_frequencies_do_no_harm(tmp_path, frequency):
    path = tmp_path / "a.safetensors"
    save_adapter(path, module_state(), {"ss_tag_frequency": frequency}, "float")
    assert inspect_file(path).tag_frequency() == []


def test_reading_a_summary_needs_no_torch():
    import subprocess
    import sys

    code = "import sys; import loratory.cli.lora; assert 'torch' not in sys.modules, 'torch was imported'"
    root = Path(files.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root)})
